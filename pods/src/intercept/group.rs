//! In a machine's own network: what one group of processes sends, and what others send to its ports, goes to its sidecar. All
//! else stays as it is.

use super::intervals::merge;
use super::rules::{INBOUND_PORTS, PortRange, Rules};
use super::ruleset::{
    Action, Chain, ControlGroup, Hook, Match, Returns, Rule, Ruleset, Set, SetKind, Transport,
};

const DNS: u16 = 53;

/// The rules for this group, which serves these ports.
pub(super) fn ruleset(rules: &Rules, group: ControlGroup, ports: &[PortRange]) -> Ruleset {
    use Match::{Continues, Group, Input, Output, Port, PortIn, Protocol};
    use Transport::{Tcp, Udp};

    let loopback = crate::link::LOOPBACK_INDEX;
    let to_dns = Action::Redirect(rules.dns_port);
    // A packet whose process is not known is nobody's, and left alone.
    let output = vec![
        rule([Protocol(Tcp), Continues], Action::Return),
        rule([Group(group), Protocol(Udp), Port(DNS)], to_dns),
        rule([Group(group), Protocol(Tcp), Port(DNS)], to_dns),
        rule([Output(loopback)], Action::Return),
        rule([Group(group), Protocol(Tcp)], Action::Redirect(rules.outbound_port)),
    ];
    let prerouting = vec![
        rule([Protocol(Tcp), Continues], Action::Return),
        rule([Input(loopback)], Action::Return),
        rule([Protocol(Tcp), PortIn(INBOUND_PORTS.to_owned())], Action::Redirect(rules.inbound_port)),
    ];
    let set = Set {
        name: INBOUND_PORTS.to_owned(),
        kind: SetKind::Ports,
        intervals: merge(ports.iter().map(PortRange::interval)),
    };
    Ruleset {
        sets: vec![set],
        chains: vec![
            Chain { name: "output".to_owned(), hook: Hook::Output, rules: output },
            Chain { name: "prerouting".to_owned(), hook: Hook::Prerouting, rules: prerouting },
        ],
        returns: Returns::Out,
    }
}

fn rule<const N: usize>(matches: [Match; N], action: Action) -> Rule {
    Rule { matches: matches.into(), action }
}
