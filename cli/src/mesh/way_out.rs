//! The way out of a hub: what programs in pods call elsewhere is carried to the host's network by this process.
//!
//! Pods have no link to the host. In the hub TCP to anywhere else is redirected to a listener, and for each connection another is
//! opened from the host's network, with no more rights than the user has there; so it is with datagrams of UDP, flow by flow.
//! Questions of DNS go to the host's own resolvers. Nothing else gets out: no pings.

mod flows;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_pods::{Exits, Hub};
use weft_proxy::dns::ResolvConf;
use weft_proxy::listen::{Listener, OriginalDst};
use weft_runtime::task;

/// Connections that are carried at once; more wait in the kernel.
const CONNECTIONS: usize = 4096;
/// Questions that are asked at once; more are dropped, and asked again by whoever did.
const QUESTIONS: usize = 128;
/// How long a connection may take to be made, and a resolver to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest datagram of DNS.
const DATAGRAM: usize = 65_535;
const DNS: u16 = 53;

/// An open way out. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct WayOut {
    serving: Vec<JoinHandle<()>>,
    /// Why datagrams do not get out; nothing where they do.
    no_datagrams: Option<String>,
}

/// How pods' sidecars find the resolver of their hub; what the host's file says besides goes on to hold.
pub(crate) fn resolv_conf(hub: Ipv4Addr) -> String {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let is_kept = |line: &&str| !line.trim_start().starts_with("nameserver");
    let kept: String = host.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    format!("nameserver {hub}\n{kept}")
}

impl WayOut {
    /// Opens it.
    pub(crate) fn open(hub: &Arc<Hub>) -> anyhow::Result<Self> {
        let resolver = SocketAddr::from((hub.address_v4(), DNS));
        let open = || -> std::io::Result<_> {
            let calls = weft_proxy::listen::bind(SocketAddr::from(([0; 16], 0)))?;
            Ok((calls, StdListener::bind(resolver)?, StdUdpSocket::bind(resolver)?))
        };
        let (calls, long_questions, questions) = hub.run(open)?.context("cannot listen in the hub")?;
        let only_calls = Exits { calls: calls.local_addr()?.port(), datagrams: None };
        // A kernel without that part still lets connections out.
        let (datagrams, no_datagrams) = match listen_for_datagrams(hub, only_calls) {
            Ok(sockets) => (sockets, None),
            Err(error) => {
                hub.send_out_by(only_calls)?;
                (Vec::new(), Some(format!("{error:#}")))
            }
        };
        for listener in [&calls, &long_questions] {
            listener.set_nonblocking(true)?;
        }
        questions.set_nonblocking(true)?;
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let (calls, long_questions) = (Listener::new(calls)?, Listener::new(long_questions)?);
        let mut serving = vec![
            task::spawn("way-out", carry(calls, Arc::clone(&room))),
            task::spawn("way-out-dns-tcp", carry(long_questions, room)),
            task::spawn("way-out-dns", relay(UdpSocket::from_std(questions)?)),
        ];
        if !datagrams.is_empty() {
            serving.push(task::spawn("way-out-datagrams", flows::carry(datagrams, Arc::clone(hub))));
        }
        Ok(Self { serving, no_datagrams })
    }

    /// Why datagrams of UDP do not get out; nothing where they do.
    pub(crate) fn no_datagrams(&self) -> Option<String> {
        self.no_datagrams.clone()
    }
}

impl Drop for WayOut {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

fn listen_for_datagrams(hub: &Hub, exits: Exits) -> anyhow::Result<Vec<UdpSocket>> {
    let sockets = hub.listen_for_datagrams()?;
    let first = sockets.first().context("no socket was opened")?;
    hub.send_out_by(Exits { datagrams: Some(first.local_addr()?.port()), ..exits })?;
    Ok(sockets.into_iter().map(UdpSocket::from_std).collect::<std::io::Result<_>>()?)
}

/// Carries connections to where they were going; those to the hub's resolver to the host's.
async fn carry(listener: Listener, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(accepted) = listener.accept().await else { continue };
        let to = match accepted.destination {
            OriginalDst::Redirected(to) => vec![to],
            OriginalDst::Direct(to) if to.port() == DNS => resolvers(),
            // To the listener itself, which is nobody's business.
            OriginalDst::Direct(_) => continue,
        };
        task::spawn("way-out-connection", async move {
            let (mut near, _place) = (accepted.io, place);
            match timeout(PATIENCE, TcpStream::connect(&*to)).await {
                Ok(Ok(mut far)) => {
                    // Either end may close as it likes; the other end learns of it.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
                Ok(Err(error)) => tracing::debug!(?to, %error, "cannot be called from the host"),
                Err(_) => tracing::debug!(?to, "does not answer the host"),
            }
        });
    }
}

/// Asks the host's resolvers what pods ask the hub's.
async fn relay(questions: UdpSocket) {
    let (questions, room) = (Arc::new(questions), Arc::new(Semaphore::new(QUESTIONS)));
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = questions.recv_from(&mut datagram).await else { continue };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let Some(question) = datagram.get(..length).map(<[u8]>::to_vec) else { continue };
        let questions = Arc::clone(&questions);
        task::spawn("way-out-question", async move {
            let _place = place;
            if let Some(answer) = ask(&question).await {
                // Who asked may have gone.
                let _ = questions.send_to(&answer, from).await;
            }
        });
    }
}

/// The first answer of a resolver, asked one after the other.
async fn ask(question: &[u8]) -> Option<Vec<u8>> {
    for resolver in resolvers() {
        let asking = async {
            let unspecified = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(unspecified).await?;
            socket.connect(resolver).await?;
            socket.send(question).await?;
            let mut answer = vec![0; DATAGRAM];
            let length = socket.recv(&mut answer).await?;
            answer.truncate(length);
            std::io::Result::Ok(answer)
        };
        match timeout(PATIENCE / 2, asking).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "cannot be asked"),
            Err(_) => tracing::debug!(%resolver, "does not answer"),
        }
    }
    None
}

/// The host's, as they are now.
fn resolvers() -> Vec<SocketAddr> {
    ResolvConf::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()).nameservers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_ask_their_hub_and_keep_what_else_the_host_says() {
        let text = resolv_conf(Ipv4Addr::new(10, 238, 0, 1));
        assert!(text.starts_with("nameserver 10.238.0.1\n"), "{text}");
        assert_eq!(text.matches("nameserver").count(), 1, "{text}");
        assert_eq!(ResolvConf::parse(&text).nameservers, ["10.238.0.1:53".parse().unwrap()]);
    }
}
