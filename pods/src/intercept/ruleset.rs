//! The kernel's rules as values: what is asked of it and what is read back have this one form.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::intervals::Interval;
use crate::pod::KEPT_SOURCE_MARK;

/// The name of our table; it is of the family `inet`, IPv4 and IPv6.
pub(super) const TABLE: &str = "weft";
/// `NF_IP_PRI_NAT_DST`.
const DESTINATION: i32 = -100;
/// `NF_IP_PRI_MANGLE`.
const MANGLE: i32 = -150;

/// The interception rules in force, or to be. It prints like `nft list ruleset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
    /// Whether what has the mark of kept sources stays in the pod, whomever it is for.
    pub(super) returns: Returns,
}

/// Where the app's answers to a source that is not the pod's own go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returns {
    /// Out, as everything does.
    Out,
    /// Back to the sidecar: a rule and a table of routes of ours say so.
    ToSidecar,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) kind: SetKind,
    pub(super) intervals: Vec<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetKind {
    Ports,
    Addresses(Family),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Output,
    /// Where what the pod sends may get another route.
    Reroute,
    /// Where what comes may be given to a socket that it is not for.
    Divert,
    /// One that we never ask for.
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// All of them have to hold, in this order.
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// The sending socket's owner.
    User(u32),
    /// The packet's mark, which starts out as the socket's.
    Mark(u32),
    /// The link it arrived by.
    Input(u32),
    /// The link it leaves by.
    Output(u32),
    Protocol(Transport),
    /// The destination port.
    Port(u16),
    /// The destination port is in the set of this name.
    PortIn(String),
    /// The destination address is in the set of this name.
    AddressIn(Family, String),
    /// It belongs to a connection of TCP that was opened before: it is not what opens one.
    Continues,
    /// Its connection's mark.
    ConnectionMark(u32),
    /// Of a process in this control group, or in one below it.
    Group(ControlGroup),
    /// One that we never ask for.
    Foreign(String),
}

/// A control group of the kernel's (cgroups(7), version 2), as packets are told to be of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlGroup {
    /// How many groups down from the root it is; the root is 0.
    pub level: u32,
    /// Its folder's inode.
    pub id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Return,
    /// To this port of the pod itself.
    Redirect(u16),
    /// The connection gets a mark.
    MarkConnection(u32),
    /// The packet does.
    MarkPacket(u32),
    /// The packet gets the mark of what stays here, and goes as it is to a socket that takes what is for others: one that is
    /// connected to its ends, else the one that listens at this port.
    Divert(u16),
    /// One that we never ask for.
    Foreign,
}

impl Hook {
    /// The type and the priority of a chain there.
    pub(super) fn kind(self) -> (&'static str, i32) {
        match self {
            Self::Prerouting | Self::Output | Self::Foreign => ("nat", DESTINATION),
            Self::Reroute => ("route", MANGLE),
            Self::Divert => ("filter", MANGLE),
        }
    }
}

impl SetKind {
    /// The largest number that can be in the set.
    pub(super) fn max(self) -> u128 {
        match self {
            Self::Ports => u16::MAX.into(),
            Self::Addresses(Family::V4) => u32::MAX.into(),
            Self::Addresses(Family::V6) => u128::MAX,
        }
    }

    /// A number of the set as people write it.
    fn display(self, number: u128) -> String {
        match self {
            Self::Ports => number.to_string(),
            Self::Addresses(Family::V4) => {
                Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).to_string()
            }
            Self::Addresses(Family::V6) => Ipv6Addr::from(number).to_string(),
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for set in &self.sets {
            let intervals: Vec<String> =
                set.intervals.iter().map(|interval| show(set.kind, *interval)).collect();
            writeln!(f, "  set {} {{ {} }}", set.name, intervals.join(", "))?;
        }
        for chain in &self.chains {
            let (kind, priority) = chain.hook.kind();
            writeln!(f, "  chain {} {{ type {kind} hook {} priority {priority}", chain.name, chain.hook)?;
            for rule in &chain.rules {
                writeln!(f, "    {rule}")?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")?;
        match self.returns {
            Returns::Out => Ok(()),
            Returns::ToSidecar => {
                let (mark, table) = (KEPT_SOURCE_MARK, super::returns::TABLE);
                writeln!(f, "ip rule fwmark {mark:#x} lookup {table}")?;
                writeln!(f, "ip route local default dev lo table {table}")
            }
        }
    }
}

fn show(kind: SetKind, (first, last): Interval) -> String {
    if first == last {
        kind.display(first)
    } else {
        format!("{}-{}", kind.display(first), kind.display(last))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting | Self::Divert => "prerouting",
            Self::Output | Self::Reroute => "output",
            Self::Foreign => "?",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut matches = self.matches.iter().peekable();
        while let Some(found) = matches.next() {
            // nft says `tcp dport 53` for a protocol and a port.
            match (found, matches.peek()) {
                (Match::Protocol(transport), Some(Match::Port(_) | Match::PortIn(_) | Match::Continues)) => {
                    write!(f, "{transport} ")?
                }
                _ => write!(f, "{found} ")?,
            }
        }
        match self.action {
            Action::Return => f.write_str("return"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
            Action::MarkConnection(mark) => write!(f, "ct mark set {mark:#x}"),
            Action::MarkPacket(mark) => write!(f, "meta mark set {mark:#x}"),
            Action::Divert(port) => write!(f, "meta mark set {KEPT_SOURCE_MARK:#x} tproxy to :{port}"),
            Action::Foreign => f.write_str("?"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "meta skuid {id}"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#x}"),
            Self::Input(index) => write!(f, "iif {index}"),
            Self::Output(index) => write!(f, "oif {index}"),
            Self::Protocol(transport) => write!(f, "meta l4proto {transport}"),
            Self::Port(port) => write!(f, "dport {port}"),
            Self::PortIn(set) => write!(f, "dport @{set}"),
            Self::AddressIn(Family::V4, set) => write!(f, "ip daddr @{set}"),
            Self::AddressIn(Family::V6, set) => write!(f, "ip6 daddr @{set}"),
            Self::Continues => f.write_str("flags & (fin | syn | rst | ack) != syn"),
            Self::ConnectionMark(mark) => write!(f, "ct mark {mark:#x}"),
            Self::Group(group) => write!(f, "socket cgroupv2 level {} {}", group.level, group.id),
            Self::Foreign(expression) => write!(f, "?{expression}"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
