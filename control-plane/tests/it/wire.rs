//! A wire that can be cut, or go dead without either end being told.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Whole,
    Silent,
    Cut,
}

pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
}

impl Wire {
    /// Carries connections to `target`.
    pub(crate) async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::Whole);
        weft_runtime::task::spawn("test-wire", async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                weft_runtime::task::spawn("test-wire-out", carry(near.0, far.1, seen.clone()));
                weft_runtime::task::spawn("test-wire-back", carry(far.0, near.1, seen.clone()));
            }
        });
        Self { address, state }
    }

    pub(crate) fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Ends what it carries now; what comes later is carried again.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read.unwrap_or(0)),
            _ = state.changed() => None,
        };
        let Some(read) = read else {
            let cut = *state.borrow() == State::Cut;
            if !cut {
                std::future::pending::<()>().await;
            }
            return;
        };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
