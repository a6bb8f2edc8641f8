//! Links, addresses and routes of the calling thread's network namespace, by route netlink.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgePortState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData,
    InfoKind, InfoPortData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::{Attempt as _, Error, Result};
use crate::netlink::Netlink;

/// The loopback link: first in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;
/// How long a link may take to come up, and how often it is looked at meanwhile.
const UP_DEADLINE: Duration = Duration::from_secs(10);
const UP_INTERVAL: Duration = Duration::from_millis(1);
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A route netlink connection to the namespace of the thread that made it.
pub(crate) struct Links {
    netlink: Netlink<RouteNetlinkMessage>,
}

impl Links {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_ROUTE)? })
    }

    /// Makes a bridge that forwards from the first packet: no spanning tree, no guessing about multicast. Its hardware
    /// address is given, since the kernel would else take the lowest of the ports' and change it as they come and go:
    /// what the neighbours send to the old one is lost until they ask anew.
    pub(crate) fn add_bridge(&self, name: &str, address: [u8; 6]) -> Result<()> {
        let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        let mut bridge = named(name);
        bridge.attributes.push(LinkAttribute::Address(address.into()));
        bridge
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]));
        self.netlink.request(format!("create the bridge {name}"), NEW, RouteNetlinkMessage::NewLink(bridge))
    }

    /// Makes a pair of links, `name` here and `peer` in the other namespace. False: that namespace has such a link.
    pub(crate) fn add_pair(&self, name: &str, peer: &str, peer_namespace: BorrowedFd<'_>) -> Result<bool> {
        let mut far = named(peer);
        far.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_raw_fd()));
        let data = InfoData::Veth(InfoVeth::Peer(far));
        let mut near = named(name);
        near.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]));
        let what = format!("create the link {name}");
        match self.netlink.request(what, NEW, RouteNetlinkMessage::NewLink(near)) {
            Err(error) if error.kind() == Some(io::ErrorKind::AlreadyExists) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Switches a link on, as a port of a bridge where one is named.
    pub(crate) fn set_up(&self, index: u32, bridge: Option<u32>) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(bridge.map(LinkAttribute::Controller));
        if index != LOOPBACK_INDEX && has_ipv6() {
            // No automatic link-local addresses, and so no router solicitations and no duplicate detection.
            let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
            link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]));
        }
        self.netlink.request("switch a link on", 0, RouteNetlinkMessage::SetLink(link))
    }

    /// Waits until a link carries packets, and passes them on where it is a bridge's port. Until then they are lost, and
    /// the kernel does this some time after the other end was switched on too: up to a second when left alone, at once
    /// when asked for the link's state.
    pub(crate) fn wait_until_up(&self, index: u32) -> Result<()> {
        let asked = Instant::now();
        loop {
            let mut link = LinkMessage::default();
            link.header.index = index;
            let state = self.netlink.get("read the state of a link", RouteNetlinkMessage::GetLink(link))?;
            if matches!(&state, Some(RouteNetlinkMessage::NewLink(link)) if carries(link)) {
                return Ok(());
            }
            if asked.elapsed() > UP_DEADLINE {
                return Err(io::Error::from(io::ErrorKind::TimedOut)).attempt("see a link come up");
            }
            thread::park_timeout(UP_INTERVAL);
        }
    }

    /// Switches the loopback link on.
    pub(crate) fn set_loopback_up(&self) -> Result<()> {
        self.set_up(LOOPBACK_INDEX, None)
    }

    /// Gives a link an address, usable at once (no duplicate address detection: the hub hands out each address once).
    pub(crate) fn add_address(&self, index: u32, (address, prefix): (IpAddr, u8)) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Address(address));
        message.attributes.push(AddressAttribute::Local(address));
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let what = format!("give a link the address {address}/{prefix}");
        self.netlink.request(what, NEW, RouteNetlinkMessage::NewAddress(message))
    }

    /// Sends everything that is not local through a gateway.
    pub(crate) fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.push(RouteAttribute::Gateway(match gateway {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        }));
        self.netlink.request(format!("route by {gateway}"), NEW, RouteNetlinkMessage::NewRoute(message))
    }

    /// The index of a link, if there is one of that name.
    pub(crate) fn index_of(&self, name: &str) -> Result<Option<u32>> {
        let found =
            self.netlink.get(format!("look for the link {name}"), RouteNetlinkMessage::GetLink(named(name)));
        match found {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link.header.index)),
            Ok(_) => Ok(None),
            Err(error) if no_such_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of a link that is known to be there.
    pub(crate) fn existing(&self, name: &str) -> Result<u32> {
        self.index_of(name)?.ok_or_else(|| Error::System {
            attempt: format!("find the link {name}").into(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// The names of all links.
    pub(crate) fn names(&self) -> Result<BTreeSet<String>> {
        let links =
            self.netlink.dump("list the links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let attributes = links.into_iter().flat_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => link.attributes,
            _ => Vec::new(),
        });
        Ok(attributes
            .filter_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
            .collect())
    }

    /// Whether a link has an address.
    pub(crate) fn has_address(&self, index: u32, address: IpAddr) -> Result<bool> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.netlink.dump("list the addresses", all)?;
        Ok(found.iter().any(|message| match message {
            RouteNetlinkMessage::NewAddress(found) => {
                found.header.index == index && found.attributes.contains(&AddressAttribute::Address(address))
            }
            _ => false,
        }))
    }
}

/// Whether this kernel and this namespace speak IPv6.
pub(crate) fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn carries(link: &LinkMessage) -> bool {
    let blocked = |port: &InfoBridgePort| matches!(port, InfoBridgePort::State(state) if *state != BridgePortState::Forwarding);
    let mut up = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::OperState(state) => up = *state == State::Up,
            LinkAttribute::LinkInfo(infos) => {
                let ports = infos.iter().filter_map(|info| match info {
                    LinkInfo::PortData(InfoPortData::BridgePort(port)) => Some(port),
                    _ => None,
                });
                if ports.flatten().any(blocked) {
                    return false;
                }
            }
            _ => {}
        }
    }
    up
}

fn no_such_device(error: &Error) -> bool {
    const ENODEV: i32 = 19;
    error.os().and_then(io::Error::raw_os_error) == Some(ENODEV)
}
