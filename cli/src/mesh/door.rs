//! The door into a hub: a port of the host's loopback behind which the hub's control plane is.
//!
//! The control plane listens in the hub, where only pods reach it. Through the door the `weft` command reaches it too,
//! with the same TLS and the same token: the door only carries bytes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weft_pods::Hub;
use weft_runtime::task;

/// An open door. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Door {
    /// Opens a door on a free port of the host's loopback to an address in the hub.
    pub(super) async fn open(hub: Arc<Hub>, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, serving: task::spawn("door", serve(listener, hub, to)) })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, hub: Arc<Hub>, to: SocketAddr) {
    while let Ok((mut outside, _)) = listener.accept().await {
        let hub = hub.clone();
        task::spawn("door-connection", async move {
            match connect(hub, to).await {
                Ok(mut inside) => {
                    // Either end may close as it likes; its other end learns of it.
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
                Err(error) => tracing::warn!("cannot reach the control plane: {error:#}"),
            }
        });
    }
}

async fn connect(hub: Arc<Hub>, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let connecting = move || -> anyhow::Result<StdStream> {
        let stream = hub.run(|| StdStream::connect(to))??;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    Ok(TcpStream::from_std(tokio::task::spawn_blocking(connecting).await??)?)
}
