//! Interception: the nftables rules that redirect a pod's traffic to its sidecar.
//!
//! They act on the calling thread's network namespace. [`up`] replaces whatever table of ours is there, in one transaction:
//! no packet ever meets half of the rules. [`show`] reads the rules back from the kernel.

mod exit;
mod expression;
mod group;
mod intervals;
mod message;
mod returns;
mod rules;
mod ruleset;

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::error::Result;
use crate::hub::Exits;
use crate::netlink::{Netlink, Request};

pub use rules::{Cidr, ParseError, PortRange, Rules, Source};
pub use ruleset::{ControlGroup, Ruleset};

use ruleset::Returns;

/// How often a reading is repeated when somebody changes the rules meanwhile.
const READINGS: usize = 16;

type Tables = Netlink<NetfilterMessage>;

/// Puts the rules in force, in place of any that were there.
///
/// # Errors
/// When the kernel refuses, with its reason; then the former rules stay.
pub fn up(rules: &Rules) -> Result<()> {
    rules.check()?;
    let mut batch = removal();
    batch.extend(message::additions(&rules.ruleset()));
    match rules.source {
        Source::Sidecar => {
            commit(batch)?;
            returns::remove()
        }
        // Nothing has the mark before the rules are there.
        Source::Caller => {
            returns::add()?;
            commit(batch)
        }
    }
}

/// Rules that are in force while this is held, however its holder ends.
#[derive(Debug)]
pub struct Held {
    _kernel: Tables,
}

/// In a machine's own network: puts in force that what one group of processes sends, and what others send to these ports of its,
/// goes to its sidecar. The sidecar is not of the group.
///
/// # Errors
/// When the kernel refuses, with its reason: one from before 5.13 does, and one where interception is in force already.
pub fn of_group(rules: &Rules, group: ControlGroup, ports: &[PortRange]) -> Result<Held> {
    let kernel = Tables::open(NETLINK_NETFILTER)?;
    let mut batch = vec![message::begin()];
    let own = Request { flags: NLM_F_EXCL, ..message::add_own_table() };
    let changes = std::iter::once(own).chain(message::contents(&group::ruleset(rules, group, ports)));
    batch.extend(changes.map(|change| Request { flags: change.flags | NLM_F_CREATE | NLM_F_ACK, ..change }));
    batch.push(message::end());
    kernel.batch(batch)?;
    Ok(Held { _kernel: kernel })
}

/// In a hub: puts in force that what goes anywhere but to these networks comes to our sockets.
pub(crate) fn exit(exits: Exits, own: &[Cidr]) -> Result<()> {
    let ruleset = exit::ruleset(exits, own);
    if ruleset.returns == Returns::ToSidecar {
        returns::add()?;
    }
    let mut batch = removal();
    batch.extend(message::additions(&ruleset));
    commit(batch)
}

/// Removes the rules without a trace. There may be none.
///
/// # Errors
/// When the kernel refuses.
pub fn down() -> Result<()> {
    commit(removal())?;
    returns::remove()
}

/// Whether the rules in force are such that the sidecar can connect to the app from its callers' own addresses.
///
/// # Errors
/// When the kernel refuses.
pub fn keeps_source() -> Result<bool> {
    returns::are_there()
}

/// The rules in force, read from the kernel; `None` where there are none.
///
/// They are as asked for where this equals [`Rules::ruleset`].
///
/// # Errors
/// When the kernel refuses or its answer cannot be read.
pub fn show() -> Result<Option<Ruleset>> {
    let kernel = Tables::open(NETLINK_NETFILTER)?;
    let mut reading = Ok(None);
    for _ in 0..READINGS {
        let before = message::generation(&kernel)?;
        reading = message::read(&kernel);
        if before == message::generation(&kernel)? {
            break;
        }
    }
    let Some(ruleset) = reading? else { return Ok(None) };
    let returns = if returns::are_there()? { Returns::ToSidecar } else { Returns::Out };
    Ok(Some(Ruleset { returns, ..ruleset }))
}

/// The names of all tables, whoever's; empty for a process that may not see them.
pub(crate) fn tables() -> Result<BTreeSet<String>> {
    let names = Tables::open(NETLINK_NETFILTER).and_then(|kernel| message::tables(&kernel));
    match names {
        Err(error) if error.kind() == Some(io::ErrorKind::PermissionDenied) => Ok(BTreeSet::new()),
        names => names,
    }
}

/// Removes the table whether or not it exists: adding one that exists changes nothing.
fn removal() -> Vec<Request<NetfilterMessage>> {
    vec![message::add_table(), message::delete_table()]
}

fn commit(changes: Vec<Request<NetfilterMessage>>) -> Result<()> {
    let mut batch = vec![message::begin()];
    batch.extend(changes.into_iter().map(|change| Request { flags: change.flags | NLM_F_ACK, ..change }));
    batch.push(message::end());
    Tables::open(NETLINK_NETFILTER)?.batch(batch)
}
