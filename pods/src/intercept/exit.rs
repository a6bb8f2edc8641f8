//! In a hub: what its pods call elsewhere is redirected to one port, behind which it is carried out.

use super::intervals::merge;
use super::rules::{Cidr, SKIP_OUTBOUND_V4, SKIP_OUTBOUND_V6};
use super::ruleset::{Action, Chain, Family, Hook, Match, Returns, Rule, Ruleset, Set, SetKind, Transport};

/// TCP to anywhere but these networks of the hub's own goes to `port`. What one pod sends another passes the bridge, and comes by
/// here only where the machine has bridges filtered as well.
pub(super) fn ruleset(port: u16, own: &[Cidr]) -> Ruleset {
    let networks = |name: &str, family| Set {
        name: name.to_owned(),
        kind: SetKind::Addresses(family),
        intervals: merge(own.iter().filter(|cidr| cidr.is_of(family)).map(Cidr::interval)),
    };
    let stays = |family, set: &str| rule([Match::AddressIn(family, set.to_owned())], Action::Return);
    let rules = vec![
        rule([Match::Protocol(Transport::Tcp), Match::Continues], Action::Return),
        rule([Match::Input(crate::link::LOOPBACK_INDEX)], Action::Return),
        stays(Family::V4, SKIP_OUTBOUND_V4),
        stays(Family::V6, SKIP_OUTBOUND_V6),
        rule([Match::Protocol(Transport::Tcp)], Action::Redirect(port)),
    ];
    Ruleset {
        sets: vec![networks(SKIP_OUTBOUND_V4, Family::V4), networks(SKIP_OUTBOUND_V6, Family::V6)],
        chains: vec![Chain { name: "prerouting".to_owned(), hook: Hook::Prerouting, rules }],
        returns: Returns::Out,
    }
}

fn rule<const N: usize>(matches: [Match; N], action: Action) -> Rule {
    Rule { matches: matches.into(), action }
}
