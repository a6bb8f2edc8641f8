//! A hub with a control plane: one in this process, or, through a door, one that runs elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use serde::{Deserialize, Serialize};
use weft_control_plane::{App, Config, Handle, Listeners};
use weft_pods::Hub;

use super::door::Door;
use crate::target::Target;

const GRPC: u16 = 7443;
const OTLP: u16 = 4317;
/// Where the dashboard is unless that is taken.
const DASHBOARD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7080);
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How others reach the mesh of a hub that a process holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// The process that holds it.
    pub(crate) pid: u32,
    /// Its hub, as `weft_pods::Hub::join` takes it.
    pub(crate) hub: PathBuf,
    /// The control plane, as pods call it.
    pub(crate) from_pods: String,
    /// What only the one who runs the control plane knows.
    pub(crate) own: Option<Own>,
    /// Why datagrams of UDP do not get out of it; nothing where they do.
    #[serde(default)]
    pub(crate) no_datagrams: Option<String>,
}

/// What is known of a control plane that the holder of the hub runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Own {
    /// The control plane, as programs on the host call it.
    pub(crate) from_host: String,
    /// The dashboard, on the host.
    pub(crate) dashboard: String,
    /// Where `ca.pem` and `admin.token` are.
    pub(crate) data_dir: PathBuf,
}

impl Own {
    /// What the `weft` command needs.
    pub(crate) fn target(&self) -> Target {
        Target {
            urls: vec![self.from_host.clone()],
            ca: self.data_dir.join("ca.pem"),
            token: self.data_dir.join("admin.token"),
        }
    }
}

/// A hub with a control plane in it.
#[derive(Debug)]
pub(crate) struct LocalControlPlane {
    hub: Arc<Hub>,
    handle: Handle,
    door: Door,
    data_dir: PathBuf,
}

impl LocalControlPlane {
    /// Makes a hub and starts a control plane in it; its dashboard is on a listener of the host's.
    pub(crate) async fn start(data_dir: &Path, dashboard: TcpListener) -> anyhow::Result<Self> {
        let hub = Arc::new(Hub::create()?);
        let listeners = Listeners {
            grpc: Some(listen_in(&hub, GRPC)?),
            otlp: Some(listen_in(&hub, OTLP)?),
            http: Some(dashboard),
        };
        let config = Config {
            data_dir: data_dir.to_owned(),
            // Settings are ours alone, whatever the user's environment says.
            config_dir: None,
            ca_passphrase_file: None,
            ..Config::try_parse_from(["weft-control-plane"])?
        };
        let handle = App::start(config, listeners).await.context("cannot start the control plane")?;
        let (inside, to) = (hub.clone(), SocketAddr::from((hub.address_v4(), GRPC)));
        let listener = TcpListener::bind(FREE).context("cannot listen")?;
        let door = Door::open(listener, move || Ok(inside.run(|| TcpStream::connect(to))??))?;
        Ok(Self { hub, handle, door, data_dir: data_dir.to_owned() })
    }

    /// The hub.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// How others reach it.
    pub(crate) fn access(&self) -> Access {
        Access { own: Some(self.own()), ..access(&self.hub) }
    }

    /// What only we know of it.
    pub(crate) fn own(&self) -> Own {
        Own {
            from_host: format!("https://{}", self.door.address()),
            dashboard: format!("http://{}", self.handle.http),
            data_dir: self.data_dir.clone(),
        }
    }

    /// Ends in good order.
    pub(crate) async fn end(self) {
        drop(self.door);
        self.handle.shutdown().await;
    }
}

/// A hub with a door to a control plane that runs elsewhere.
#[derive(Debug)]
pub(crate) struct Outpost {
    hub: Arc<Hub>,
    _door: Door,
}

impl Outpost {
    /// Makes a hub with a door to the first of these control planes that answers.
    pub(crate) fn start(urls: Vec<String>) -> anyhow::Result<Self> {
        let hub = Arc::new(Hub::create()?);
        let door = Door::open(listen_in(&hub, GRPC)?, move || dial(&urls))?;
        Ok(Self { hub, _door: door })
    }

    /// The hub.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// How others reach it.
    pub(crate) fn access(&self) -> Access {
        access(&self.hub)
    }
}

/// Listens for the dashboard, on the host: at an address that was asked for, else at the usual one or a free one.
pub(crate) fn listen_for_dashboard(asked: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    match asked {
        Some(address) => {
            TcpListener::bind(address).with_context(|| format!("cannot show the dashboard on {address}"))
        }
        None => TcpListener::bind(DASHBOARD).or_else(|_| TcpListener::bind(FREE)).context("cannot listen"),
    }
}

fn access(hub: &Hub) -> Access {
    Access {
        pid: std::process::id(),
        hub: hub.path(),
        from_pods: format!("https://{}", SocketAddr::from((hub.address_v4(), GRPC))),
        own: None,
        no_datagrams: None,
    }
}

/// Listens on every address of a hub, IPv6 too where there is any.
fn listen_in(hub: &Hub, port: u16) -> anyhow::Result<TcpListener> {
    let listen = || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
    };
    hub.run(listen)?.with_context(|| format!("cannot listen on port {port} of the hub"))
}

fn dial(urls: &[String]) -> anyhow::Result<TcpStream> {
    let mut failed = anyhow!("no control plane is named");
    for url in urls {
        let authority = url.strip_prefix("https://").unwrap_or(url);
        match TcpStream::connect(authority) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = anyhow!(error).context(authority.to_owned()),
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashboard_address_that_was_asked_for_is_not_replaced() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listen_for_dashboard(Some(taken.local_addr().unwrap())).is_err());
        assert!(listen_for_dashboard(None).is_ok());
    }

    #[test]
    fn control_planes_are_tried_in_turn() {
        let answers = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", answers.local_addr().unwrap());
        // Port 0 takes no connections.
        assert!(dial(&["https://127.0.0.1:0".to_owned(), url]).is_ok());
        assert!(dial(&["https://127.0.0.1:0".to_owned()]).unwrap_err().to_string().contains("127.0.0.1:0"));
    }
}
