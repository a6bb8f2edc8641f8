//! A door between the host's network and a hub's: a listener on one side, connections made on the other.
//!
//! A control plane in a hub is reached by pods only; through a door the `weft` command on the host reaches it too. The
//! other way round, pods reach through a door a control plane that listens on the host. The TLS is between the two ends:
//! the door only carries bytes.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weft_runtime::task;

/// An open door. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Door {
    /// Opens a door from a listener to wherever `dial` connects to.
    pub(super) fn open(
        listener: StdListener,
        dial: impl Fn() -> anyhow::Result<StdStream> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self { address, serving: task::spawn("door", serve(listener, Arc::new(dial))) })
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

async fn serve<D>(listener: TcpListener, dial: Arc<D>)
where
    D: Fn() -> anyhow::Result<StdStream> + Send + Sync + 'static,
{
    while let Ok((mut near, _)) = listener.accept().await {
        let dial = dial.clone();
        task::spawn("door-connection", async move {
            match connect(dial).await {
                Ok(mut far) => {
                    // Either end may close as it likes; the other end learns of it.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
                Err(error) => tracing::warn!("cannot reach the control plane: {error:#}"),
            }
        });
    }
}

async fn connect<D>(dial: Arc<D>) -> anyhow::Result<TcpStream>
where
    D: Fn() -> anyhow::Result<StdStream> + Send + Sync + 'static,
{
    let stream = tokio::task::spawn_blocking(move || dial()).await??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(TcpStream::from_std(stream)?)
}
