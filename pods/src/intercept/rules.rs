//! What to intercept, as users say it, and the rules that makes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::intervals::{Interval, merge};
use super::ruleset::{Action, Chain, Family, Hook, Match, Returns, Rule, Ruleset, Set, SetKind, Transport};
use crate::error::{Error, Result};
use crate::pod::{Exemption, KEPT_SOURCE_MARK, SIDECAR_UID};

const DNS: u16 = 53;
/// The most entries a list may have: a batch has to fit into one message.
const LIST_LIMIT: usize = 1024;

pub(super) const SKIP_INBOUND_PORTS: &str = "skip_inbound_ports";
pub(super) const SKIP_OUTBOUND_PORTS: &str = "skip_outbound_ports";
pub(super) const INBOUND_PORTS: &str = "inbound_ports";
pub(super) const SKIP_OUTBOUND_V4: &str = "skip_outbound_v4";
pub(super) const SKIP_OUTBOUND_V6: &str = "skip_outbound_v6";

/// What of a pod's traffic goes to its sidecar, and to which of its ports.
///
/// Outbound: TCP to anywhere but the pod itself, and DNS (UDP and TCP port 53) to anywhere, also to the pod itself.
/// Inbound: TCP from anywhere but the pod itself. Other UDP is left alone, and so are connections of TCP from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Where the sidecar takes what the application sends.
    pub outbound_port: u16,
    /// Where the sidecar takes what is sent to the pod.
    pub inbound_port: u16,
    /// Where the sidecar answers DNS questions, on loopback.
    pub dns_port: u16,
    /// The sidecar's admin port, which is reached as it is.
    pub admin_port: u16,
    /// The user whose traffic goes out as it is.
    pub proxy_uid: Option<u32>,
    /// The socket mark with which traffic goes out as it is.
    pub proxy_mark: Option<u32>,
    /// Ports of the pod that are reached as they are.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that are called as they are; port 53 here means DNS is not intercepted.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Networks that are called as they are, except for DNS.
    pub skip_outbound_cidrs: Vec<Cidr>,
    /// As whom the sidecar connects to the app.
    pub source: Source,
}

/// Which address the app sees its callers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The pod's own: the sidecar's.
    #[default]
    Sidecar,
    /// The caller's. What the app answers to it goes back to the sidecar.
    Caller,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            outbound_port: 4140,
            inbound_port: 4143,
            dns_port: 4153,
            admin_port: 4191,
            proxy_uid: Some(SIDECAR_UID),
            proxy_mark: None,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
            source: Source::Sidecar,
        }
    }
}

impl Rules {
    /// The same rules, for a sidecar that is told apart by this and nothing else.
    #[must_use]
    pub fn letting_through(self, sidecar: Exemption) -> Self {
        match sidecar {
            Exemption::User(id) => Self { proxy_uid: Some(id), proxy_mark: None, ..self },
            Exemption::Mark(mark) => Self { proxy_uid: None, proxy_mark: Some(mark), ..self },
        }
    }

    /// The kernel's rules for this.
    #[must_use]
    pub fn ruleset(&self) -> Ruleset {
        let ports = |name, ranges: &[PortRange]| Set {
            name: String::from(name),
            kind: SetKind::Ports,
            intervals: merge(ranges.iter().map(PortRange::interval)),
        };
        let networks = |name, kind, v4| Set {
            name: String::from(name),
            kind,
            intervals: merge(
                self.skip_outbound_cidrs
                    .iter()
                    .filter(|cidr| cidr.address.is_ipv4() == v4)
                    .map(Cidr::interval),
            ),
        };
        Ruleset {
            sets: vec![
                ports(SKIP_INBOUND_PORTS, &self.skip_inbound_ports),
                ports(SKIP_OUTBOUND_PORTS, &self.skip_outbound_ports),
                networks(SKIP_OUTBOUND_V4, SetKind::Addresses(Family::V4), true),
                networks(SKIP_OUTBOUND_V6, SetKind::Addresses(Family::V6), false),
            ],
            chains: match self.source {
                Source::Sidecar => vec![self.output(), self.prerouting()],
                Source::Caller => vec![self.output(), self.prerouting(), reroute()],
            },
            returns: match self.source {
                Source::Sidecar => Returns::Out,
                Source::Caller => Returns::ToSidecar,
            },
        }
    }

    /// Refuses lists that do not fit into one transaction.
    pub(super) fn check(&self) -> Result<()> {
        let lists = [
            ("skip-inbound-ports", self.skip_inbound_ports.len()),
            ("skip-outbound-ports", self.skip_outbound_ports.len()),
            ("skip-outbound-cidrs", self.skip_outbound_cidrs.len()),
        ];
        match lists.into_iter().find(|(_, len)| *len > LIST_LIMIT) {
            Some((list, len)) => Err(Error::TooLong { list, len, limit: LIST_LIMIT }),
            None => Ok(()),
        }
    }

    fn output(&self) -> Chain {
        use Action::{Redirect, Return};
        use Match::{AddressIn, Continues, Mark, Output, Port, PortIn, Protocol, User};
        use Transport::{Tcp, Udp};

        let mut rules = vec![rule([Protocol(Tcp), Continues], Return)];
        rules.extend(self.proxy_uid.map(|id| rule([User(id)], Return)));
        rules.extend(self.proxy_mark.map(|mark| rule([Mark(mark)], Return)));
        if self.source == Source::Caller {
            rules.push(rule([Mark(KEPT_SOURCE_MARK)], Return));
        }
        // Ports come before DNS, networks after it: who lists port 53 means DNS, who lists the network that the resolver
        // happens to be in does not.
        for transport in [Udp, Tcp] {
            rules.push(rule([Protocol(transport), PortIn(SKIP_OUTBOUND_PORTS.to_owned())], Return));
        }
        for transport in [Udp, Tcp] {
            rules.push(rule([Protocol(transport), Port(DNS)], Redirect(self.dns_port)));
        }
        // Calls to the pod's own addresses, whichever, leave by loopback.
        rules.push(rule([Output(crate::link::LOOPBACK_INDEX)], Return));
        for (family, set) in [(Family::V4, SKIP_OUTBOUND_V4), (Family::V6, SKIP_OUTBOUND_V6)] {
            rules.push(rule([AddressIn(family, set.to_owned())], Return));
        }
        rules.push(rule([Protocol(Tcp)], Redirect(self.outbound_port)));
        Chain { name: "output".to_owned(), hook: Hook::Output, rules }
    }

    fn prerouting(&self) -> Chain {
        use Action::{Redirect, Return};
        use Match::{Continues, Input, Port, PortIn, Protocol};
        use Transport::Tcp;

        let rules = vec![
            rule([Protocol(Tcp), Continues], Return),
            rule([Input(crate::link::LOOPBACK_INDEX)], Return),
            rule([Protocol(Tcp), Port(self.inbound_port)], Return),
            rule([Protocol(Tcp), Port(self.admin_port)], Return),
            rule([Protocol(Tcp), PortIn(SKIP_INBOUND_PORTS.to_owned())], Return),
            rule([Protocol(Tcp)], Redirect(self.inbound_port)),
        ];
        Chain { name: "prerouting".to_owned(), hook: Hook::Prerouting, rules }
    }
}

/// What the app answers on a connection that the sidecar made from a caller's address has the mark of that connection, by
/// which it stays here.
fn reroute() -> Chain {
    let rules = vec![
        rule([Match::Mark(KEPT_SOURCE_MARK)], Action::MarkConnection(KEPT_SOURCE_MARK)),
        rule([Match::ConnectionMark(KEPT_SOURCE_MARK)], Action::MarkPacket(KEPT_SOURCE_MARK)),
    ];
    Chain { name: "reroute".to_owned(), hook: Hook::Reroute, rules }
}

fn rule(matches: impl IntoIterator<Item = Match>, action: Action) -> Rule {
    Rule { matches: matches.into_iter().collect(), action }
}

/// A port, or ports from one to another, as in `8080` and `8000-8080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    pub(super) fn interval(&self) -> Interval {
        (self.first.into(), self.last.into())
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(ParseError::Port(text.to_owned())),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A network, as in `10.0.0.0/8`, `fd00::/8` and, for a single address, `10.0.0.9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// A network by one of its addresses and the length of its prefix.
    pub(crate) fn of((address, prefix): (IpAddr, u8)) -> Self {
        Self { address, prefix }
    }

    pub(super) fn is_of(&self, family: Family) -> bool {
        self.address.is_ipv4() == (family == Family::V4)
    }

    pub(super) fn interval(&self) -> Interval {
        let (number, width) = match self.address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let free = width - u32::from(self.prefix);
        let ones = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        (number & !ones, number | ones)
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Cidr(text.to_owned());
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let whole = Self::from(address.trim().parse::<IpAddr>().map_err(|_| wrong())?);
        let prefix = prefix.map_or(Ok(whole.prefix), |prefix| prefix.trim().parse().map_err(|_| wrong()))?;
        if prefix > whole.prefix { Err(wrong()) } else { Ok(Self { prefix, ..whole }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why a list's entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a port or range of ports.
    #[error("`{0}` is not a port or a range of ports (as 8080 or 8000-8080)")]
    Port(String),
    /// Not a network.
    #[error("`{0}` is not a network (as 10.0.0.0/8 or fd00::/8)")]
    Cidr(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str, expected: Option<Interval>) {
        assert_eq!(text.parse::<PortRange>().ok().map(|range| range.interval()), expected, "{text}");
    }

    fn cidr(text: &str, expected: Option<Interval>) {
        assert_eq!(text.parse::<Cidr>().ok().map(|cidr| cidr.interval()), expected, "{text}");
    }

    #[test]
    fn a_port_range_is_a_port_or_two_in_order() {
        port("25", Some((25, 25)));
        port("8000-8080", Some((8000, 8080)));
        port("65535", Some((65_535, 65_535)));
        for wrong in ["", "0", "0-5", "9-8", "65536", "http", "1-2-3", "-5"] {
            port(wrong, None);
        }
    }

    #[test]
    fn a_network_is_an_address_with_a_prefix_that_fits() {
        cidr("10.0.0.0/8", Some((0x0a00_0000, 0x0aff_ffff)));
        cidr("10.1.2.3/8", Some((0x0a00_0000, 0x0aff_ffff)));
        cidr("10.0.0.9", Some((0x0a00_0009, 0x0a00_0009)));
        cidr("0.0.0.0/0", Some((0, 0xffff_ffff)));
        cidr("::/0", Some((0, u128::MAX)));
        cidr("::1", Some((1, 1)));
        cidr("fd00::/8", Some((0xfd << 120, (0xfe << 120) - 1)));
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "example.com"] {
            cidr(wrong, None);
        }
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused_by_name() {
        let rules =
            Rules { skip_outbound_ports: vec![PortRange::from(1); LIST_LIMIT + 1], ..Rules::default() };
        assert_eq!(
            rules.check().map_err(|error| error.to_string()),
            Err("cannot intercept: skip-outbound-ports has 1025 entries, at most 1024 are possible"
                .to_owned())
        );
    }

    #[test]
    fn rules_read_as_nft_prints_them() {
        let rules = Rules {
            skip_outbound_ports: vec![PortRange::from(25), PortRange { first: 8000, last: 8080 }],
            skip_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..Rules::default()
        };
        let text = rules.ruleset().to_string();
        for line in [
            "  set skip_outbound_ports { 25, 8000-8080 }",
            "  set skip_outbound_v4 { 10.0.0.0-10.255.255.255 }",
            "  chain output { type nat hook output priority -100",
            "    tcp flags & (fin | syn | rst | ack) != syn return",
            "    meta skuid 2102 return",
            "    udp dport 53 redirect to :4153",
            "    oif 1 return",
            "    ip daddr @skip_outbound_v4 return",
            "    meta l4proto tcp redirect to :4140",
            "    tcp dport 4191 return",
            "    meta l4proto tcp redirect to :4143",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("reroute"), "{text}");
        let text = Rules { source: Source::Caller, ..rules }.ruleset().to_string();
        for line in [
            "  chain reroute { type route hook output priority -150",
            "    meta mark 0x574b ct mark set 0x574b",
            "    ct mark 0x574b meta mark set 0x574b",
            "ip rule fwmark 0x574b lookup 22347",
            "ip route local default dev lo table 22347",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }
}
