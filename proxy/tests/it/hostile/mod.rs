//! Hostile input through both sidecars: what the app gets of it, and what its sender gets.

mod addresses;
mod disguise;
mod slow;
mod smuggling;

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_core::model::Protocol;

use crate::pair::{PATIENCE, Pair, app, read_head};

/// Both sidecars before an app that answers every request with 200 and remembers every head that it got.
struct Target {
    pair: Pair,
    heads: Rc<RefCell<Vec<String>>>,
    listener: TcpListener,
}

impl Target {
    async fn new() -> Self {
        let (listener, address) = app().await;
        let pair = Pair::of_protocol(address, Protocol::Http);
        Self { pair, heads: Rc::default(), listener }
    }

    /// Runs `attack` while the app serves. Requests without bodies only.
    async fn under(&self, attack: impl Future<Output = ()>) {
        tokio::select! {
            () = self.serve() => unreachable!("an app serves for ever"),
            () = attack => {}
        }
    }

    async fn serve(&self) {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                loop {
                    let (stream, _) = self.listener.accept().await.unwrap();
                    tokio::task::spawn_local(answer_all(stream, Rc::clone(&self.heads)));
                }
            })
            .await
    }

    /// The heads that the app has got since it was last asked.
    fn seen(&self) -> Vec<String> {
        self.heads.take()
    }

    /// What comes back for these bytes until the connection ends.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.pair.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream).await
    }
}

async fn answer_all(mut stream: TcpStream, heads: Rc<RefCell<Vec<String>>>) {
    loop {
        let head = read_head(&mut stream).await;
        if head.is_empty() {
            return;
        }
        heads.borrow_mut().push(head);
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// All that comes until the other side ends, in whichever way it does.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|length| length > 0) {} };
    timeout(PATIENCE, reading).await.expect("the connection was left open");
    String::from_utf8_lossy(&received).into_owned()
}
