//! Datagrams of UDP on their way out, flow by flow: what one socket of a pod sends one address outside, and what comes back.
//!
//! Of each flow there are two sockets: one in the hub, which speaks to the pod as who is outside, and one of the host's.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;
use weft_pods::{Hub, datagrams};
use weft_runtime::task;

use super::DATAGRAM;

/// Flows that are carried at once, where a quarter of the files that we may open is enough for them; one more takes the place of
/// the one that has been silent the longest.
const FLOWS: u64 = 1024;
/// How long a flow may be silent. RFC 4787, section 4.3, wants two minutes of a NAT at least, where there is room for so many.
const IDLE: Duration = Duration::from_secs(120);
/// Datagrams that are carried one way before the other is looked at.
const IN_A_ROW: usize = 32;

/// The pod's end and the one outside.
type Ends = (SocketAddr, SocketAddr);

/// The two sockets of a flow.
#[derive(Debug)]
struct Flow {
    near: UdpSocket,
    far: UdpSocket,
    /// When something was carried last, by the count of all that was carried.
    last: AtomicU64,
    carried: Arc<AtomicU64>,
}

/// Those that are carried: each is kept by its task, and gone with it.
#[derive(Debug)]
struct Flows {
    open: HashMap<Ends, (Weak<Flow>, AbortHandle)>,
    most: usize,
    carried: Arc<AtomicU64>,
}

/// Carries what these sockets take, each flow by a task of its own that ends when it is silent.
pub(super) async fn carry(sockets: Vec<UdpSocket>, hub: Arc<Hub>) {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let mut flows = Flows::new(usize::try_from(FLOWS.min(files / 4)).unwrap_or_default().max(1));
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok(taken) = take(&sockets, &mut datagram).await else { continue };
        let ends = (taken.from, taken.to);
        let flow = match flows.find(ends) {
            Some(flow) => flow,
            None => match open(&hub, ends).await {
                Ok((near, far)) => flows.add(ends, near, far),
                Err(error) => {
                    tracing::debug!(from = %ends.0, to = %ends.1, %error, "a datagram cannot be carried");
                    continue;
                }
            },
        };
        if let Some(datagram) = datagram.get(..taken.length) {
            flow.send(&flow.far, datagram).await;
        }
    }
}

/// The next datagram of any of them.
async fn take(sockets: &[UdpSocket], into: &mut [u8]) -> io::Result<datagrams::Taken> {
    let waiting = sockets.iter().map(|socket| Box::pin(socket.readable()));
    let (ready, at, _) = futures_util::future::select_all(waiting).await;
    ready?;
    let socket = sockets.get(at).ok_or(io::ErrorKind::NotFound)?;
    socket.try_io(Interest::READABLE, || datagrams::take(socket, into))
}

async fn open(hub: &Arc<Hub>, (from, to): Ends) -> anyhow::Result<(UdpSocket, UdpSocket)> {
    let hub = Arc::clone(hub);
    let near = spawn_blocking(move || hub.speak_as(to, from)).await??;
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let far = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    far.connect(to).await?;
    Ok((UdpSocket::from_std(near)?, far))
}

impl Flows {
    fn new(most: usize) -> Self {
        Self { open: HashMap::new(), most, carried: Arc::default() }
    }

    fn find(&self, ends: Ends) -> Option<Arc<Flow>> {
        self.open.get(&ends).and_then(|(flow, _)| flow.upgrade())
    }

    fn add(&mut self, ends: Ends, near: UdpSocket, far: UdpSocket) -> Arc<Flow> {
        self.make_room();
        let (last, carried) = (AtomicU64::default(), Arc::clone(&self.carried));
        let flow = Arc::new(Flow { near, far, last, carried });
        let keeping = Arc::clone(&flow);
        let carrying = task::spawn("way-out-flow", async move { keeping.carry().await });
        self.open.insert(ends, (Arc::downgrade(&flow), carrying.abort_handle()));
        flow
    }

    /// Those that have ended are forgotten, and where that is not enough the one that has been silent the longest is ended.
    fn make_room(&mut self) {
        if self.open.len() < self.most {
            return;
        }
        self.open.retain(|_, (flow, _)| flow.strong_count() > 0);
        if self.open.len() < self.most {
            return;
        }
        let last = |flow: &Weak<Flow>| flow.upgrade().map(|flow| flow.last.load(Ordering::Relaxed));
        let silent = self.open.iter().min_by_key(|(_, (flow, _))| last(flow)).map(|(ends, _)| *ends);
        if let Some((_, carrying)) = silent.and_then(|ends| self.open.remove(&ends)) {
            carrying.abort();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.open.values().for_each(|(_, carrying)| carrying.abort());
    }
}

impl Flow {
    /// Carries both ways until it is silent, or an end of it cannot be reached.
    async fn carry(&self) {
        loop {
            let (from, to) = tokio::select! {
                Ok(()) = self.near.readable() => (&self.near, &self.far),
                Ok(()) = self.far.readable() => (&self.far, &self.near),
                () = sleep(IDLE) => return,
            };
            if self.pass(from, to).await.is_err() {
                return;
            }
        }
    }

    /// Carries what has come.
    async fn pass(&self, from: &UdpSocket, to: &UdpSocket) -> io::Result<()> {
        let mut datagram = vec![0; DATAGRAM];
        for _ in 0..IN_A_ROW {
            match from.try_recv(&mut datagram) {
                Ok(length) => self.send(to, datagram.get(..length).unwrap_or_default()).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a datagram on. One that does not get through is lost, as datagrams may be.
    async fn send(&self, to: &UdpSocket, datagram: &[u8]) {
        let _ = to.send(datagram).await;
        self.last.store(self.carried.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket, and the other end of a flow that is connected to it.
    async fn pair() -> (UdpSocket, UdpSocket) {
        let one = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        one.connect(other.local_addr().unwrap()).await.unwrap();
        other.connect(one.local_addr().unwrap()).await.unwrap();
        (one, other)
    }

    fn ends(number: u16) -> Ends {
        (SocketAddr::from(([10, 238, 0, 2], number)), SocketAddr::from(([192, 0, 2, 1], 123)))
    }

    async fn received(socket: &UdpSocket) -> Vec<u8> {
        let mut datagram = vec![0; DATAGRAM];
        let length = socket.recv(&mut datagram).await.unwrap();
        datagram.truncate(length);
        datagram
    }

    #[tokio::test]
    async fn datagrams_go_both_ways_however_long_they_are() {
        let ((pod, near), (far, outside)) = (pair().await, pair().await);
        let mut flows = Flows::new(1);
        drop(flows.add(ends(1), near, far));
        for sent in [vec![], vec![7; 1], vec![8; 60_000]] {
            pod.send(&sent).await.unwrap();
            assert_eq!(received(&outside).await, sent);
            outside.send(&sent).await.unwrap();
            assert_eq!(received(&pod).await, sent);
        }
    }

    #[tokio::test]
    async fn one_more_than_there_is_room_for_ends_the_one_that_is_silent_the_longest() {
        let mut flows = Flows::new(2);
        let mut others = Vec::new();
        for number in 1..=2 {
            let ((pod, near), (far, outside)) = (pair().await, pair().await);
            let flow = flows.add(ends(number), near, far);
            flow.send(&flow.far, b"first").await;
            assert_eq!(received(&outside).await, b"first");
            others.push((pod, outside));
        }
        let (pod, outside) = &others[0];
        pod.send(b"late").await.unwrap();
        assert_eq!(received(outside).await, b"late");
        let ((_pod, near), (far, _outside)) = (pair().await, pair().await);
        let second = flows.find(ends(2)).map(|flow| Arc::downgrade(&flow)).unwrap();
        drop(flows.add(ends(3), near, far));
        assert_eq!(flows.open.len(), 2);
        assert!(
            flows.find(ends(1)).is_some() && flows.find(ends(3)).is_some() && flows.find(ends(2)).is_none()
        );
        while second.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        pod.send(b"still").await.unwrap();
        assert_eq!(received(outside).await, b"still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_flow_ends_and_makes_room() {
        let ((_pod, near), (far, _outside)) = (pair().await, pair().await);
        let mut flows = Flows::new(1);
        let flow = Arc::downgrade(&flows.add(ends(1), near, far));
        sleep(IDLE - Duration::from_secs(1)).await;
        assert!(flows.find(ends(1)).is_some());
        sleep(Duration::from_secs(2)).await;
        assert!(flow.upgrade().is_none() && flows.find(ends(1)).is_none());
        let ((_pod, near), (far, _outside)) = (pair().await, pair().await);
        drop(flows.add(ends(2), near, far));
        assert_eq!(flows.open.len(), 1);
    }
}
