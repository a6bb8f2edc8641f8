//! The routes by which an app's answers to its callers' own addresses come back to the sidecar: whatever has the mark of
//! kept sources stays in the pod, whomever it is for.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::Result;
use crate::link::{LOOPBACK_INDEX, has_ipv6};
use crate::netlink::Netlink;
use crate::pod::KEPT_SOURCE_MARK;

/// Our table of routes, named like the mark.
pub(super) const TABLE: u32 = KEPT_SOURCE_MARK;

/// Before the tables that everything is looked up in, and after that of the pod's own addresses.
const PRIORITY: u32 = KEPT_SOURCE_MARK;

type Routes = Netlink<RouteNetlinkMessage>;

/// Adds them; they may be there.
pub(super) fn add() -> Result<()> {
    let kernel = Routes::open(NETLINK_ROUTE)?;
    for family in families() {
        let route = RouteNetlinkMessage::NewRoute(route(family));
        kernel.request("add the route back to the sidecar", NLM_F_CREATE | NLM_F_REPLACE, route)?;
        let rule = RouteNetlinkMessage::NewRule(rule(family));
        let added = kernel.request("add the rule for that route", NLM_F_CREATE | NLM_F_EXCL, rule);
        unless(added, &[EXISTS])?;
    }
    Ok(())
}

/// Removes them; there may be none.
pub(super) fn remove() -> Result<()> {
    let kernel = Routes::open(NETLINK_ROUTE)?;
    for family in families() {
        let rule =
            kernel.request("remove the rule for the way back", 0, RouteNetlinkMessage::DelRule(rule(family)));
        unless(rule, &ABSENT)?;
        let route = RouteNetlinkMessage::DelRoute(route(family));
        unless(kernel.request("remove the route back to the sidecar", 0, route), &ABSENT)?;
    }
    Ok(())
}

/// Whether they are there, of both families where there are both.
pub(super) fn are_there() -> Result<bool> {
    let kernel = Routes::open(NETLINK_ROUTE)?;
    for family in families() {
        let mut any = RuleMessage::default();
        any.header.family = family;
        let rules = kernel.dump("list the routing rules", RouteNetlinkMessage::GetRule(any))?;
        let is_ours = |message: &RouteNetlinkMessage| matches!(message, RouteNetlinkMessage::NewRule(found) if found.attributes.contains(&RuleAttribute::FwMark(KEPT_SOURCE_MARK)));
        let mut any = RouteMessage::default();
        any.header.address_family = family;
        let routes = kernel.dump("list the routes", RouteNetlinkMessage::GetRoute(any))?;
        let is_in_table = |message: &RouteNetlinkMessage| matches!(message, RouteNetlinkMessage::NewRoute(found) if found.attributes.contains(&RouteAttribute::Table(TABLE)));
        if !rules.iter().any(is_ours) || !routes.iter().any(is_in_table) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn families() -> impl Iterator<Item = AddressFamily> {
    [Some(AddressFamily::Inet), has_ipv6().then_some(AddressFamily::Inet6)].into_iter().flatten()
}

fn route(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes.push(RouteAttribute::Table(TABLE));
    message.attributes.push(RouteAttribute::Oif(LOOPBACK_INDEX));
    message
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::FwMark(KEPT_SOURCE_MARK));
    message.attributes.push(RuleAttribute::Priority(PRIORITY));
    message.attributes.push(RuleAttribute::Table(TABLE));
    message
}

/// What the kernel says of a rule that is there: `EEXIST`.
const EXISTS: i32 = 17;

/// What it says where there is nothing to remove: `ENOENT` of rules, `ESRCH` of routes.
const ABSENT: [i32; 2] = [2, 3];

fn unless(result: Result<()>, expected: &[i32]) -> Result<()> {
    match result {
        Err(error)
            if error.os().and_then(io::Error::raw_os_error).is_some_and(|code| expected.contains(&code)) =>
        {
            Ok(())
        }
        result => result,
    }
}
