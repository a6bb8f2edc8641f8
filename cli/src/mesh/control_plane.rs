//! A hub with a control plane in it, in this process.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use serde::{Deserialize, Serialize};
use weft_control_plane::{App, Config, Handle, Listeners};
use weft_pods::Hub;

use super::door::Door;
use crate::target::Target;

const GRPC: u16 = 7443;
const OTLP: u16 = 4317;

/// A hub with a control plane in it.
#[derive(Debug)]
pub(crate) struct LocalControlPlane {
    hub: Arc<Hub>,
    handle: Handle,
    door: Door,
    data_dir: PathBuf,
}

/// How others reach the mesh of a [`LocalControlPlane`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// The process that holds it.
    pub(crate) pid: u32,
    /// Its hub, as `weft_pods::Hub::join` takes it.
    pub(crate) hub: PathBuf,
    /// The control plane, as pods call it.
    pub(crate) from_pods: String,
    /// The control plane, as programs on the host call it.
    pub(crate) from_host: String,
    /// The dashboard, on the host.
    pub(crate) dashboard: String,
    /// Where `ca.pem` and `admin.token` are.
    pub(crate) data_dir: PathBuf,
}

impl LocalControlPlane {
    /// Makes a hub and starts a control plane in it; its dashboard is on a listener of the host's.
    pub(crate) async fn start(data_dir: &Path, dashboard: TcpListener) -> anyhow::Result<Self> {
        let hub = Arc::new(Hub::create()?);
        let listen =
            |port| hub.run(|| listen(port)).context("cannot enter the hub")?.context("cannot listen");
        let listeners =
            Listeners { grpc: Some(listen(GRPC)?), otlp: Some(listen(OTLP)?), http: Some(dashboard) };
        let config = Config {
            data_dir: data_dir.to_owned(),
            // Settings are ours alone, whatever the user's environment says.
            config_dir: None,
            ..Config::try_parse_from(["weft-control-plane"])?
        };
        let handle = App::start(config, listeners).await.context("cannot start the control plane")?;
        let door = Door::open(hub.clone(), (hub.address_v4(), GRPC).into()).await?;
        Ok(Self { hub, handle, door, data_dir: data_dir.to_owned() })
    }

    /// The hub.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// How others reach it.
    pub(crate) fn access(&self) -> Access {
        Access {
            pid: std::process::id(),
            hub: self.hub.path(),
            from_pods: format!("https://{}", SocketAddr::from((self.hub.address_v4(), GRPC))),
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

impl Access {
    /// What the `weft` command needs.
    pub(crate) fn target(&self) -> Target {
        Target {
            urls: vec![self.from_host.clone()],
            ca: self.data_dir.join("ca.pem"),
            token: self.data_dir.join("admin.token"),
        }
    }
}

/// Listens on every address of the calling thread's network namespace, IPv6 too where there is any.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any = SocketAddr::from((IpAddr::from(Ipv6Addr::UNSPECIFIED), port));
    TcpListener::bind(any).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}
