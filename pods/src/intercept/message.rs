//! The netfilter messages that make, remove and read our table.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, GenAttribute, GenMessage, Hook as HookAttribute, HookNumber,
    InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};

use super::Tables;
use super::expression::{decode, encode};
use super::intervals::{Bound, bounds, from_bounds};
use super::rules::{
    INBOUND_PORTS, SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS, SKIP_OUTBOUND_V4, SKIP_OUTBOUND_V6,
};
use super::ruleset::{Chain, Family, Hook, Returns, Ruleset, Set, SetKind, TABLE};
use crate::error::Result;
use crate::netlink::{Request, What};

/// How many elements one message adds: an attribute is at most 64 KiB long.
const ELEMENTS: usize = 512;

/// Opens a transaction on the tables.
pub(super) fn begin() -> Request<NetfilterMessage> {
    control("begin a change of nftables", ControlMessage::BatchBegin)
}

/// Commits it.
pub(super) fn end() -> Request<NetfilterMessage> {
    control("commit a change of nftables", ControlMessage::BatchEnd)
}

pub(super) fn add_table() -> Request<NetfilterMessage> {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    request("create the nftables table", NLM_F_CREATE, NfTablesMessage::NewTable(TableMessage { attributes }))
}

/// Adds the table as one that is gone with the connection that asks for it (Linux 5.12).
pub(super) fn add_own_table() -> Request<NetfilterMessage> {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned()), TableAttribute::Flags(TableFlags::Owner)];
    let message = NfTablesMessage::NewTable(TableMessage { attributes });
    request("create an nftables table that ends with us", NLM_F_CREATE, message)
}

pub(super) fn delete_table() -> Request<NetfilterMessage> {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    request("remove the nftables table", 0, NfTablesMessage::DeleteTable(TableMessage { attributes }))
}

/// Adds the table with everything in it.
pub(super) fn additions(ruleset: &Ruleset) -> Vec<Request<NetfilterMessage>> {
    let mut requests = vec![add_table()];
    requests.extend(contents(ruleset));
    requests
}

/// Adds what is in the table.
pub(super) fn contents(ruleset: &Ruleset) -> Vec<Request<NetfilterMessage>> {
    let mut requests = Vec::new();
    for (id, set) in (1..).zip(&ruleset.sets) {
        requests.push(add_set(set, id));
        for bounds in bounds(&set.intervals, set.kind.max()).chunks(ELEMENTS) {
            requests.push(add_elements(set, bounds));
        }
    }
    for chain in &ruleset.chains {
        requests.push(add_chain(chain));
        for rule in &chain.rules {
            let attributes = vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(chain.name.clone()),
                RuleAttribute::Expressions(encode(rule)),
            ];
            let message = NfTablesMessage::NewRule(RuleMessage { attributes });
            requests.push(request(
                format!("add the nftables rule `{rule}`"),
                NLM_F_CREATE | NLM_F_APPEND,
                message,
            ));
        }
    }
    requests
}

fn add_set(set: &Set, id: u32) -> Request<NetfilterMessage> {
    let (kind, len) = key(set.kind);
    let attributes = vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(set.name.clone()),
        SetAttribute::Flags(SetFlags::Interval),
        SetAttribute::KeyType(kind),
        SetAttribute::KeyLen(len),
        SetAttribute::Id(id),
    ];
    let message = NfTablesMessage::NewSet(SetMessage { attributes });
    request(format!("create the nftables set {}", set.name), NLM_F_CREATE, message)
}

fn add_elements(set: &Set, bounds: &[Bound]) -> Request<NetfilterMessage> {
    let (_, len) = key(set.kind);
    let element = |bound: &Bound| {
        let bytes = bound.number.to_be_bytes();
        let unused = bytes.len().saturating_sub(usize::try_from(len).unwrap_or(bytes.len()));
        let number = bytes.get(unused..).unwrap_or_default().to_vec();
        let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(number))];
        attributes.extend((!bound.start).then_some(SetElementAttribute::Flags(SetElementFlags::IntervalEnd)));
        ListAttribute::Element(attributes)
    };
    let attributes = vec![
        SetElementList::Table(TABLE.to_owned()),
        SetElementList::Set(set.name.clone()),
        SetElementList::Elements(bounds.iter().map(element).collect()),
    ];
    let message = NfTablesMessage::NewSetElement(SetElementMessage { attributes });
    request(format!("fill the nftables set {}", set.name), NLM_F_CREATE, message)
}

fn add_chain(chain: &Chain) -> Request<NetfilterMessage> {
    let hook = match chain.hook {
        Hook::Prerouting | Hook::Divert => InetHookNumber::PreRouting,
        Hook::Output | Hook::Reroute | Hook::Foreign => InetHookNumber::LocalOut,
    };
    let (kind, priority) = chain.hook.kind();
    let attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(chain.name.clone()),
        ChainAttribute::Hook(vec![
            HookAttribute::Number(HookNumber::Inet(hook)),
            HookAttribute::Priority(priority.cast_unsigned()),
        ]),
        ChainAttribute::Type(kind.to_owned()),
    ];
    let message = NfTablesMessage::NewChain(ChainMessage { attributes });
    request(format!("create the nftables chain {}", chain.name), NLM_F_CREATE, message)
}

/// The kernel's count of changes to its tables.
pub(super) fn generation(kernel: &Tables) -> Result<Option<u32>> {
    let message = ours(NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() }));
    Ok(kernel.get("read the state of nftables", message)?.and_then(|answer| match answer.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(generation)) => {
            generation.attributes.into_iter().find_map(|attribute| match attribute {
                GenAttribute::Id(id) => Some(id),
                _ => None,
            })
        }
        _ => None,
    }))
}

/// Reads our table from the kernel.
pub(super) fn read(kernel: &Tables) -> Result<Option<Ruleset>> {
    let chains = read_chains(kernel)?;
    let sets = read_sets(kernel)?;
    if chains.is_empty() && sets.is_empty() && !has_table(kernel)? {
        return Ok(None);
    }
    Ok(Some(Ruleset { sets, chains, returns: Returns::Out }))
}

fn read_chains(kernel: &Tables) -> Result<Vec<Chain>> {
    let all = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let mut chains = Vec::new();
    for answer in kernel.dump("read the nftables chains", ours(all))? {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = answer.inner else {
            continue;
        };
        let mut found = Chain { name: String::new(), hook: Hook::Foreign, rules: Vec::new() };
        let mut table = String::new();
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(name) => table = name,
                ChainAttribute::Name(name) => found.name = name,
                ChainAttribute::Hook(hook) => found.hook = read_hook(&hook),
                _ => {}
            }
        }
        if table == TABLE {
            chains.push(found);
        }
    }
    read_rules(kernel, &mut chains)?;
    Ok(chains)
}

fn read_hook(hook: &[HookAttribute]) -> Hook {
    let is = |kind: Hook, number| {
        let (_, priority) = kind.kind();
        hook.contains(&HookAttribute::Priority(priority.cast_unsigned()))
            && hook.contains(&HookAttribute::Number(HookNumber::Inet(number)))
    };
    if is(Hook::Prerouting, InetHookNumber::PreRouting) {
        Hook::Prerouting
    } else if is(Hook::Divert, InetHookNumber::PreRouting) {
        Hook::Divert
    } else if is(Hook::Output, InetHookNumber::LocalOut) {
        Hook::Output
    } else if is(Hook::Reroute, InetHookNumber::LocalOut) {
        Hook::Reroute
    } else {
        Hook::Foreign
    }
}

fn read_rules(kernel: &Tables, chains: &mut [Chain]) -> Result<()> {
    let all = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
    for answer in kernel.dump("read the nftables rules", ours(all))? {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = answer.inner else { continue };
        let (mut table, mut chain, mut expressions) = (String::new(), String::new(), Vec::new());
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Table(name) => table = name,
                RuleAttribute::Chain(name) => chain = name,
                RuleAttribute::Expressions(list) => expressions = list,
                _ => {}
            }
        }
        if let Some(chain) = chains.iter_mut().find(|found| table == TABLE && found.name == chain) {
            chain.rules.push(decode(&expressions));
        }
    }
    Ok(())
}

fn read_sets(kernel: &Tables) -> Result<Vec<Set>> {
    let ours_only = SetMessage { attributes: vec![SetAttribute::Table(TABLE.to_owned())] };
    let answers = match kernel.dump("read the nftables sets", ours(NfTablesMessage::GetSet(ours_only))) {
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => return Ok(Vec::new()),
        answers => answers?,
    };
    let mut sets = Vec::new();
    for answer in answers {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(set)) = answer.inner else { continue };
        let name = set.attributes.into_iter().find_map(|attribute| match attribute {
            SetAttribute::Name(name) => Some(name),
            _ => None,
        });
        let Some((name, kind)) = name.and_then(|name| kind_of(&name).map(|kind| (name, kind))) else {
            continue;
        };
        let intervals = from_bounds(read_bounds(kernel, &name)?, kind.max());
        sets.push(Set { name, kind, intervals });
    }
    Ok(sets)
}

fn read_bounds(kernel: &Tables, set: &str) -> Result<Vec<Bound>> {
    let attributes = vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(set.to_owned())];
    let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    let mut bounds = Vec::new();
    for answer in kernel.dump(format!("read the nftables set {set}"), ours(message))? {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(list)) = answer.inner else {
            continue;
        };
        let elements = list.attributes.into_iter().filter_map(|attribute| match attribute {
            SetElementList::Elements(elements) => Some(elements),
            _ => None,
        });
        bounds.extend(elements.flatten().filter_map(|element| match element {
            ListAttribute::Element(attributes) => bound(&attributes),
            _ => None,
        }));
    }
    Ok(bounds)
}

fn bound(element: &[SetElementAttribute]) -> Option<Bound> {
    let mut number = None;
    let mut start = true;
    for attribute in element {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => {
                number = Some(bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)));
            }
            SetElementAttribute::Flags(flags) => start = !flags.contains(SetElementFlags::IntervalEnd),
            _ => {}
        }
    }
    Some(Bound { number: number?, start })
}

fn has_table(kernel: &Tables) -> Result<bool> {
    Ok(tables(kernel)?.contains(&format!("inet {TABLE}")))
}

/// Every table's family and name, as `nft list tables` has them.
pub(super) fn tables(kernel: &Tables) -> Result<BTreeSet<String>> {
    let message = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    let message = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0), message);
    let mut names = BTreeSet::new();
    for answer in kernel.dump("list the nftables tables", message)? {
        let family = family_name(answer.header.family);
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = answer.inner else {
            continue;
        };
        names.extend(table.attributes.into_iter().filter_map(|attribute| match attribute {
            TableAttribute::Name(name) => Some(format!("{family} {name}")),
            _ => None,
        }));
    }
    Ok(names)
}

fn family_name(family: NetfilterProtoFamily) -> &'static str {
    match family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        NetfilterProtoFamily::ARP => "arp",
        NetfilterProtoFamily::Bridge => "bridge",
        NetfilterProtoFamily::NetDev => "netdev",
        _ => "other",
    }
}

/// What a set of ours holds, by its name.
fn kind_of(set: &str) -> Option<SetKind> {
    match set {
        SKIP_INBOUND_PORTS | SKIP_OUTBOUND_PORTS | INBOUND_PORTS => Some(SetKind::Ports),
        SKIP_OUTBOUND_V4 => Some(SetKind::Addresses(Family::V4)),
        SKIP_OUTBOUND_V6 => Some(SetKind::Addresses(Family::V6)),
        _ => None,
    }
}

/// A set's key: the type that `nft` knows it by (`inet_service`, `ipv4_addr`, `ipv6_addr`), and its length in bytes.
fn key(kind: SetKind) -> (u32, u32) {
    match kind {
        SetKind::Ports => (13, 2),
        SetKind::Addresses(Family::V4) => (7, 4),
        SetKind::Addresses(Family::V6) => (8, 16),
    }
}

fn control(what: &'static str, message: ControlMessage) -> Request<NetfilterMessage> {
    let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
    Request { what: what.into(), flags: 0, message: NetfilterMessage::new(header, message) }
}

fn request(what: impl Into<What>, flags: u16, message: NfTablesMessage) -> Request<NetfilterMessage> {
    Request { what: what.into(), flags, message: ours(message) }
}

fn ours(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}
