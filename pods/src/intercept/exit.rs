//! In a hub: what its pods call elsewhere comes to us, who carry it out: connections redirected to one port, datagrams as they are.

use super::intervals::merge;
use super::rules::{Cidr, SKIP_OUTBOUND_V4, SKIP_OUTBOUND_V6};
use super::ruleset::{Action, Chain, Family, Hook, Match, Returns, Rule, Ruleset, Set, SetKind, Transport};
use crate::hub::Exits;

/// TCP to anywhere but these networks goes to one port, and UDP to another where there is one. What one pod sends another passes the
/// bridge, and comes by here only where the machine has bridges filtered as well.
pub(super) fn ruleset(exits: Exits, own: &[Cidr]) -> Ruleset {
    let networks = |name: &str, family| Set {
        name: name.to_owned(),
        kind: SetKind::Addresses(family),
        intervals: merge(own.iter().filter(|cidr| cidr.is_of(family)).map(Cidr::interval)),
    };
    let stays = |family, set: &str| rule([Match::AddressIn(family, set.to_owned())], Action::Return);
    let staying = [
        rule([Match::Input(crate::link::LOOPBACK_INDEX)], Action::Return),
        stays(Family::V4, SKIP_OUTBOUND_V4),
        stays(Family::V6, SKIP_OUTBOUND_V6),
    ];
    let chain = |name: &str, hook, rules: Vec<Rule>| Chain { name: name.to_owned(), hook, rules };
    let mut calls = vec![rule([Match::Protocol(Transport::Tcp), Match::Continues], Action::Return)];
    calls.extend(staying.clone());
    calls.push(rule([Match::Protocol(Transport::Tcp)], Action::Redirect(exits.calls)));
    let mut chains = vec![chain("prerouting", Hook::Prerouting, calls)];
    if let Some(port) = exits.datagrams {
        let mut datagrams = staying.to_vec();
        datagrams.push(rule([Match::Protocol(Transport::Udp)], Action::Divert(port)));
        chains.push(chain("datagrams", Hook::Divert, datagrams));
    }
    Ruleset {
        sets: vec![networks(SKIP_OUTBOUND_V4, Family::V4), networks(SKIP_OUTBOUND_V6, Family::V6)],
        chains,
        returns: if exits.datagrams.is_some() { Returns::ToSidecar } else { Returns::Out },
    }
}

fn rule<const N: usize>(matches: [Match; N], action: Action) -> Rule {
    Rule { matches: matches.into(), action }
}
