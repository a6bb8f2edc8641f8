//! What it takes to be one of several control planes over one store.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UdpSocket;
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use super::{ADMIN_TOKEN, Parts, StartError, until_drained, write_private};
use crate::config::{Config, StoreAddress};
use crate::etcd::{Access, Client};
use crate::kubernetes::{self, AccessError, LASTS, Lease};
use crate::leader::Leadership;
use crate::replicas::{Followers, InCluster, InEtcd, Replica};
use crate::source::files::Folder;
use crate::store::{Custody, Passphrase, Store};
use crate::tokens::{hex, random};

/// The way into a cluster, and what we are called there.
pub(super) struct Way {
    pub(super) client: Arc<kubernetes::Client>,
    pub(super) lease: Arc<Lease>,
    id: String,
}

/// The way into the cluster, where there is one to be read.
pub(super) fn way(config: &Config) -> Result<Option<Way>, StartError> {
    if !config.reads_kubernetes() {
        return Ok(None);
    }
    let client = Arc::new(kubernetes::Client::new(kubernetes::Access::find(config.kubeconfig.as_deref())?));
    let id = replica_id()?;
    let lease = Arc::new(Lease::new(client.clone(), "weft-leader", id.clone(), LASTS));
    Ok(Some(Way { client, lease, id }))
}

/// The store, and our place among those who share it.
pub(super) async fn open_store(
    config: &Config,
    way: Option<&Way>,
) -> Result<(Store, Option<Replica>), StartError> {
    let custody = custody(config)?;
    if config.store.store == StoreAddress::Embedded {
        return Ok((Store::open_in(&config.data_dir, &custody).await?, None));
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.map_err(|error| StartError::File(config.data_dir.clone(), error))?;
    let (store, replica) = match (config.store.etcd()?, way) {
        (Some(settings), _) => {
            let client = Client::new(Access::new(&settings)?);
            let store = Store::open_at(client.clone(), &custody).await?;
            (store, Replica::Etcd(InEtcd::join(client, replica_id()?).await?))
        }
        (None, Some(Way { client, lease, id })) => {
            let store = Store::open_in_cluster(client.clone(), &custody).await?;
            (store, Replica::Kubernetes(InCluster::join(client.clone(), lease.clone(), id.clone())))
        }
        (None, None) => return Err(AccessError::Nowhere.into()),
    };
    if config.ca_cert.is_some() {
        return Err(StartError::FilesAndShared(store.place()));
    }
    Ok((store, Some(replica)))
}

/// Where the other control planes reach the port that we listen at: as we are told, or, where we listen at all addresses, at the one
/// from which we reach the store.
pub(super) async fn reached_at(config: &Config, parts: &Parts, listens: SocketAddr) -> SocketAddr {
    if let Some(address) = config.advertise_addr {
        return address;
    }
    if !listens.ip().is_unspecified() {
        return listens;
    }
    let store = match (&config.store.store, &parts.kubernetes) {
        (StoreAddress::Etcd(etcd), _) => etcd.member(),
        (_, Some(kubernetes)) => Some(kubernetes.client.server()),
        (_, None) => None,
    };
    let own = match store {
        Some(store) => own_address(&store).await.ok(),
        None => None,
    };
    // Of ourselves alone, if nobody can be reached.
    SocketAddr::new(own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), listens.port())
}

/// The address of ours from which another is reached; nothing is sent.
async fn own_address(other: &str) -> io::Result<IpAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for to in tokio::net::lookup_host(other).await? {
        let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(to).await.and_then(|()| socket.local_addr()) {
            Ok(address) => return Ok(address.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Named, so that logs and who leads tell where it is; and random, so that it is another one after a restart. A name of an object may have
/// small letters, digits and hyphens.
fn replica_id() -> Result<String, StartError> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let host: String = host.trim().chars().map(plain).collect();
    Ok(format!("weft-{}-{}", host.trim_matches('-'), hex(&random::<6>()?)))
}

/// How keys are kept in the store.
fn custody(config: &Config) -> Result<Custody, StartError> {
    let Some(path) = &config.ca_passphrase_file else { return Ok(Custody::Clear) };
    let text = fs::read(path).map_err(|error| StartError::File(path.clone(), error))?;
    let passphrase = Passphrase::new(&text).ok_or_else(|| StartError::NoPassphrase(path.clone()))?;
    Ok(if config.ca_unseal { Custody::Unsealed(passphrase) } else { Custody::Sealed(passphrase) })
}

/// The token in the data directory; made at the first start. Several control planes have the same one, which the first brings along.
pub(super) async fn admin_token(directory: &Path, store: &Store) -> Result<String, StartError> {
    let path = directory.join("admin.token");
    let there = match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= ADMIN_TOKEN => Some(text.trim().to_owned()),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StartError::File(path, error)),
    };
    let mut token = match &there {
        Some(there) => there.clone(),
        None => hex(&random::<ADMIN_TOKEN>()?),
    };
    if store.is_shared() {
        let kept = store.keep_secret("admin-token", token.into_bytes()).await?;
        token = String::from_utf8_lossy(&kept).into_owned();
    }
    if there.as_ref() != Some(&token) {
        write_private(&path, &format!("{token}\n"))?;
    }
    Ok(token)
}

/// What makes us one of several.
pub(super) fn start_replica(parts: &Parts, replica: &Replica, address: SocketAddr, watch: &DrainWatch) {
    let followers = Arc::new(Followers {
        store: parts.store.clone(),
        ca: parts.ca.clone(),
        world: parts.world.clone(),
        registry: parts.registry.clone(),
        configuration: parts.configuration.clone(),
        keys: parts.keys.clone(),
        keeper: parts.keeper.clone(),
        address,
    });
    let (here, there, drain) = (replica.clone(), followers.clone(), watch.clone());
    task::supervise("replica-follow", move || {
        until_drained(drain.clone(), here.clone().follow(there.clone()))
    });
    let (here, drain) = (replica.clone(), watch.clone());
    task::supervise("replica-presence", move || {
        until_drained(drain.clone(), here.clone().attend(followers.clone()))
    });
    let (here, drain) = (replica.clone(), watch.clone());
    task::supervise("replica-lead", move || {
        let here = here.clone();
        let drain = drain.clone();
        async move {
            Box::pin(until_drained(drain, here.clone().lead())).await;
            here.leave().await;
        }
    });
}

/// Follows the watched folder while we lead: what several control planes were given may differ for a while.
pub(super) async fn follow_folder(folder: Arc<Folder>, mut leads: Leadership) {
    loop {
        leads.begins().await;
        let mut led = leads.clone();
        tokio::select! {
            () = folder.clone().run() => {}
            () = led.ends() => {}
        }
    }
}
