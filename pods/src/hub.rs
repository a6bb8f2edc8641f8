//! The hub: a network namespace with the bridge that all pods hang on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fs, io, iter};

use crate::datagrams;
use crate::error::{Attempt as _, Error, Result};
use crate::intercept::{self, Cidr};
use crate::link::{Links, has_ipv6};
use crate::namespace::Namespace;
use crate::pod::Pod;

pub(crate) const BRIDGE: &str = "weft0";
/// The bridge's hardware address: one that is locally administered. No two hubs share a network.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, b'w', b'e', b'f', b't', 1];
const V4_PREFIX: u8 = 16;
const V6_PREFIX: u8 = 64;
/// The hub's own place in its networks, and so the pods' gateway.
const HUB_INDEX: u16 = 1;
const FIRST_POD: u16 = HUB_INDEX + 1;
/// The network's last address is its broadcast address.
const LAST_POD: u16 = u16::MAX - 1;

/// Whether netfilter sees what passes a bridge (br_netfilter).
const BRIDGE_FILTERS: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];
/// What is for many, or for one link: it is never carried anywhere.
const NOT_ROUTED: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// The ports of the hub that what pods send elsewhere comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exits {
    /// For connections of TCP: they are redirected there.
    pub calls: u16,
    /// For datagrams of UDP: sockets of [`Hub::listen_for_datagrams`] get them as they are.
    pub datagrams: Option<u16>,
}

/// A network namespace with a bridge: what pods are linked to, and where the control plane can listen for them.
///
/// It is gone, with everything in it, when the last `Hub` and [`Pod`] of it is dropped and the last process in it ended.
#[derive(Debug)]
pub struct Hub {
    namespace: Arc<Namespace>,
    v6: Option<Ipv6Addr>,
    next_pod: AtomicU16,
}

impl Hub {
    /// Makes a hub.
    ///
    /// # Errors
    /// When the kernel refuses: without the rights ([`userns::needed`](crate::userns::needed)), or without bridges.
    pub fn create() -> Result<Self> {
        let namespace = Arc::new(Namespace::create()?);
        let v6 = namespace.run(build)??;
        Ok(Self { namespace, v6, next_pod: AtomicU16::new(FIRST_POD) })
    }

    /// Joins a hub that another process made, by what that process's [`path`](Self::path) said, or by the
    /// `/proc/PID/ns/net` of a process that runs in it.
    ///
    /// # Errors
    /// When the namespace cannot be opened or entered, or is no hub.
    pub fn join(path: &Path) -> Result<Self> {
        let namespace = Arc::new(Namespace::open(path)?);
        let (v6, next_pod) = namespace.run(|| survey(path))??;
        Ok(Self { namespace, v6, next_pod: AtomicU16::new(next_pod) })
    }

    /// Where another process of the same user can [`join`](Self::join) it, while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.namespace.path()
    }

    /// Adds a pod, with the next free addresses.
    ///
    /// # Errors
    /// When the kernel refuses, or all addresses are taken.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Pod::create(self, name)
    }

    /// The bridge's IPv4 address: the pods' gateway, and where they reach what listens in the hub.
    #[must_use]
    pub fn address_v4(&self) -> Ipv4Addr {
        v4_of(HUB_INDEX)
    }

    /// The bridge's IPv6 address; none where the kernel has no IPv6.
    #[must_use]
    pub fn address_v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    /// Does something on a thread inside the hub's network namespace; sockets opened there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// From now on what pods send elsewhere than to the hub's networks comes to sockets in the hub.
    ///
    /// # Errors
    /// When the kernel refuses: with an exit for datagrams, those from before 4.19 and those without `nft_tproxy` do.
    pub fn send_out_by(&self, exits: Exits) -> Result<()> {
        let own =
            [v4_of(HUB_INDEX).into(), v6_of(HUB_INDEX).into()].map(|address| Cidr::of(with_prefix(address)));
        let staying: Vec<Cidr> = own.into_iter().chain(NOT_ROUTED.map(Cidr::of)).collect();
        self.run(|| {
            if exits.datagrams.is_some() && is_bridge_filtered() {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied))
                    .attempt("take a bridge out of netfilter");
            }
            intercept::exit(exits, &staying)
        })?
    }

    /// Opens sockets in the hub, of one port and of each family that there is, for [`Exits::datagrams`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn listen_for_datagrams(&self) -> Result<Vec<UdpSocket>> {
        let has_v6 = self.v6.is_some();
        self.run(|| {
            let v4 = datagrams::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            let port = v4.local_addr()?.port();
            let v6 = has_v6.then(|| datagrams::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
            io::Result::Ok(iter::once(v4).chain(v6.transpose()?).collect())
        })?
        .attempt("listen for datagrams")
    }

    /// A socket in the hub that speaks to a pod's socket at `to` as the one at `from`, which is not here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn speak_as(&self, from: SocketAddr, to: SocketAddr) -> Result<UdpSocket> {
        self.run(|| datagrams::speak(from, to))?.attempt("speak as a stranger")
    }

    /// The hub's network namespace.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// What keeps the hub, and with it the pods' links, alive.
    pub(crate) fn hold(&self) -> Arc<Namespace> {
        Arc::clone(&self.namespace)
    }

    /// Finds a number that no pod of any process has, by trying: `claim` makes the pod's link under a name with that
    /// number in it, and the kernel allows each name once. Numbers go round, so that a dead pod's addresses rest.
    pub(crate) fn claim(&self, mut claim: impl FnMut(u16) -> Result<bool>) -> Result<u16> {
        for _ in FIRST_POD..=LAST_POD {
            let index = self.next_pod.load(Ordering::Relaxed);
            self.next_pod.store(after(index), Ordering::Relaxed);
            if claim(index)? {
                return Ok(index);
            }
        }
        Err(Error::Full { limit: LAST_POD - HUB_INDEX })
    }

    /// Makes the hub's end of a pod's link a port of the bridge; the pod's end is on already.
    pub(crate) fn attach(&self, index: u16) -> Result<()> {
        self.run(|| {
            let links = Links::open()?;
            let (port, bridge) = (links.existing(&port_of(index))?, links.existing(BRIDGE)?);
            links.set_up(port, Some(bridge))?;
            links.wait_until_up(port)?;
            links.wait_until_up(bridge)
        })?
    }
}

/// A pod's IPv4 address.
pub(crate) fn v4_of(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(10, 238, high, low)
}

/// A pod's IPv6 address.
pub(crate) fn v6_of(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd57, 0xeff7, 1, 0, 0, 0, 0, index)
}

/// An address with the length of its network's prefix.
pub(crate) fn with_prefix(address: IpAddr) -> (IpAddr, u8) {
    (address, if address.is_ipv4() { V4_PREFIX } else { V6_PREFIX })
}

/// The name of the hub's end of a pod's link.
pub(crate) fn port_of(index: u16) -> String {
    format!("pod{index}")
}

fn index_of(port: &str) -> Option<u16> {
    port.strip_prefix("pod")?.parse().ok()
}

fn after(index: u16) -> u16 {
    if index >= LAST_POD { FIRST_POD } else { index + 1 }
}

/// Makes the bridge, in the calling thread's namespace.
fn build() -> Result<Option<Ipv6Addr>> {
    let links = Links::open()?;
    links.set_loopback_up()?;
    links.add_bridge(BRIDGE, BRIDGE_ADDRESS)?;
    let bridge = links.existing(BRIDGE)?;
    links.set_up(bridge, None)?;
    links.add_address(bridge, with_prefix(v4_of(HUB_INDEX).into()))?;
    // A forwarding hub answers "unreachable" for what is nowhere, where it would otherwise let callers wait. Where /proc
    // is read-only they wait.
    let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    // Where the machine has bridges filtered as well, a packet would meet our rules on the bridge, and forget there which socket it
    // was given to.
    for filter in BRIDGE_FILTERS {
        let _ = fs::write(filter, "0");
    }
    if !has_ipv6() {
        return Ok(None);
    }
    let _ = fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    let address = v6_of(HUB_INDEX);
    links.add_address(bridge, with_prefix(address.into()))?;
    Ok(Some(address))
}

fn is_bridge_filtered() -> bool {
    BRIDGE_FILTERS.iter().any(|filter| fs::read_to_string(filter).is_ok_and(|is_on| is_on.trim() != "0"))
}

/// Looks at a hub that is there already: its IPv6 address, and the number to try for the next pod.
fn survey(path: &Path) -> Result<(Option<Ipv6Addr>, u16)> {
    let links = Links::open()?;
    let no_hub = || Error::NoHub { path: path.display().to_string() };
    let bridge = links.index_of(BRIDGE)?.ok_or_else(no_hub)?;
    let v6 = v6_of(HUB_INDEX);
    let v6 = links.has_address(bridge, v6.into())?.then_some(v6);
    let last = links.names()?.iter().filter_map(|name| index_of(name)).max();
    Ok((v6, last.map_or(FIRST_POD, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_addresses_of_one_network() {
        assert_eq!(v4_of(HUB_INDEX).to_string(), "10.238.0.1");
        assert_eq!(v4_of(258).to_string(), "10.238.1.2");
        assert_eq!(v6_of(HUB_INDEX).to_string(), "fd57:eff7:1::1");
        assert_eq!(v6_of(0xfffe).to_string(), "fd57:eff7:1::fffe");
    }

    #[test]
    fn numbers_go_round_and_leave_out_the_hub_and_the_broadcast_address() {
        assert_eq!(after(FIRST_POD), 3);
        assert_eq!(after(LAST_POD), FIRST_POD);
        assert_eq!(v4_of(LAST_POD).to_string(), "10.238.255.254");
    }

    #[test]
    fn a_port_is_named_by_its_pods_number() {
        assert_eq!(index_of(&port_of(77)), Some(77));
        assert_eq!(index_of("eth0"), None);
        assert_eq!(index_of("podcast"), None);
    }
}
