//! What it takes to be one of several control planes over one store.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use super::{ADMIN_TOKEN, Parts, StartError, until_drained, write_private};
use crate::config::Config;
use crate::etcd::{Access, Client};
use crate::leader::Leadership;
use crate::replicas::{Followers, Replica};
use crate::source::files::Folder;
use crate::store::{Custody, Passphrase, Store};
use crate::tokens::{hex, random};

/// The store, and our place among those who share it.
pub(super) async fn open_store(config: &Config) -> Result<(Store, Option<Arc<Replica>>), StartError> {
    let custody = custody(config)?;
    let Some(settings) = config.store.etcd()? else {
        return Ok((Store::open_in(&config.data_dir, &custody).await?, None));
    };
    if config.ca_cert.is_some() {
        return Err(StartError::FilesAndEtcd);
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.map_err(|error| StartError::File(config.data_dir.clone(), error))?;
    let client = Client::new(Access::new(&settings)?);
    let store = Store::open_at(client.clone(), &custody).await?;
    // Named, so that logs and `leader` tell where it is; and random, so that it is another one after a restart.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = format!("{}_{}", host.trim(), hex(&random::<6>()?));
    let replica = Replica::join(client, id).await?;
    Ok((store, Some(replica)))
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
    if store.shared().is_some() {
        let kept = store.keep_secret("admin-token", token.into_bytes()).await?;
        token = String::from_utf8_lossy(&kept).into_owned();
    }
    if there.as_ref() != Some(&token) {
        write_private(&path, &format!("{token}\n"))?;
    }
    Ok(token)
}

/// What makes us one of several.
pub(super) fn start_replica(parts: &Parts, replica: &Arc<Replica>, watch: &DrainWatch) {
    let followers = Arc::new(Followers {
        store: parts.store.clone(),
        ca: parts.ca.clone(),
        world: parts.world.clone(),
        registry: parts.registry.clone(),
        configuration: parts.configuration.clone(),
        keys: parts.keys.clone(),
        keeper: parts.keeper.clone(),
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
            until_drained(drain, here.clone().lead()).await;
            here.leave_office().await;
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
