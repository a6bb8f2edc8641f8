//! Whether a rule is about a call. What cannot be known of a call is neither yes nor no, so that an Allow does not let it
//! in and a Deny does not let it pass.

use std::net::{IpAddr, Ipv4Addr};

use super::{Asked, Call, Peer};
use crate::jwt::Claims;
use crate::model::{
    AccessRule, AccessRules, Attribute, Callers, ClaimName, Condition, Operations, PathPattern,
    QualifiedName, Selection, SpiffeId, TextPattern,
};
use crate::path::Path;

/// Whether something holds of a call. The order is that of certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    No,
    /// It cannot be known, as a method cannot of a connection that carries bytes.
    Unknown,
    Yes,
}

impl Holds {
    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Whether one of a policy's rules is about the call.
pub(super) fn policy(rules: &AccessRules, call: &Call<'_>) -> Holds {
    let request = if rules.are_many() { call.request } else { None };
    // Of what has no path it is not known which rules are about it.
    let Some(path) = request.and_then(Asked::path) else { return any_rule(rules, call) };
    let caller = match call.peer {
        Peer::Known(id) => id.service_account_text(),
        Peer::Anonymous => None,
    };
    any(rules.candidates(caller, [path.matched(), path.literal()]), |rule| self::rule(rule, call))
}

/// Whether one of these rules is about the call.
pub(super) fn any_rule(rules: &[AccessRule], call: &Call<'_>) -> Holds {
    any(rules, |rule| self::rule(rule, call))
}

pub(super) fn is_among(identity: &SpiffeId, wanted: &[Callers]) -> bool {
    let peer = Peer::Known(identity.clone());
    let call = Call { peer: &peer, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0, request: None };
    any_or_yes(wanted, |callers| self::callers(callers, &call)) == Holds::Yes
}

fn rule(rule: &AccessRule, call: &Call<'_>) -> Holds {
    let from = || any_or_yes(&rule.from, |callers| self::callers(callers, call));
    let to = || any_or_yes(&rule.to, |operations| self::operations(operations, call));
    let when = || all(&rule.when, |condition| self::condition(condition, call.request));
    and(from(), || and(to(), when))
}

fn callers(callers: &Callers, call: &Call<'_>) -> Holds {
    let known = match call.peer {
        Peer::Known(id) => Some(id),
        Peer::Anonymous => None,
    };
    let principals = selection(&callers.principals, known, |pattern, id| pattern.matches_identity(id));
    let accounts = || {
        if callers.service_accounts.is_empty() && callers.namespaces.is_empty() {
            return Holds::Yes;
        }
        let account = known.and_then(SpiffeId::service_account_text);
        let of_account = |wanted: &QualifiedName, (namespace, name): &(&str, &str)| {
            wanted.namespace.as_str() == *namespace && wanted.name.as_str() == *name
        };
        let named = selection(&callers.service_accounts, account.as_ref(), of_account);
        let within = selection(&callers.namespaces, account.as_ref(), |pattern, (namespace, _)| {
            pattern.matches(namespace)
        });
        and(named, || within)
    };
    let address = || selection(&callers.cidrs, Some(&call.address), |range, ip| range.contains(*ip));
    and(principals, || and(accounts(), address))
}

fn operations(operations: &Operations, call: &Call<'_>) -> Holds {
    let request = call.request;
    let port = selection(&operations.ports, Some(&call.port), |wanted, port| wanted == port);
    let method = || {
        asked(&operations.methods, request.map(Asked::method), |method| {
            selection(&operations.methods, Some(method), |wanted, method| wanted == method)
        })
    };
    let path = || {
        asked(&operations.paths, request.and_then(Asked::path), |path| self::path(&operations.paths, path))
    };
    let host = || {
        asked(&operations.hosts, request.and_then(Asked::host), |host| {
            selection(&operations.hosts, Some(host.name()), |pattern, host| pattern.matches(host))
        })
    };
    and(port, || and(method(), || and(path(), host)))
}

/// Servers read some paths in two ways. Where the answer depends on the way, it is not known.
fn path(paths: &Selection<PathPattern>, path: &Path<'_>) -> Holds {
    let read_as = |path: &str| selection(paths, Some(path), |pattern, path| pattern.matches(path));
    let (matched, literal) = (read_as(path.matched()), read_as(path.literal()));
    if matched == literal { matched } else { Holds::Unknown }
}

fn condition(condition: &Condition, request: Option<&dyn Asked>) -> Holds {
    let Some(request) = request else { return Holds::Unknown };
    match &condition.of {
        Attribute::Header(name) => header(name, &condition.values, request),
        Attribute::Claim(name) => claim(name, &condition.values, request.claims()),
    }
}

/// A claim's values are all true at once, so that one of them is enough. Without the claim it has none of the wanted, and whether its
/// bearer is one of the unwanted cannot be known.
fn claim(name: &ClaimName, values: &Selection<TextPattern>, claims: Option<&Claims>) -> Holds {
    let (mut selected, mut excluded) = (values.one_of.is_empty(), false);
    let is_there = claims.is_some_and(|claims| {
        claims.each_value(name, &mut |value| {
            selected |= values.one_of.iter().any(|pattern| pattern.matches(value));
            excluded |= values.none_of.iter().any(|pattern| pattern.matches(value));
        })
    });
    match is_there {
        true => Holds::from(selected && !excluded),
        false if values.one_of.is_empty() => Holds::Unknown,
        false => Holds::No,
    }
}

/// A header that is sent several times is seen differently by different readers: all of its values must be selected.
fn header(name: &str, values: &Selection<TextPattern>, request: &dyn Asked) -> Holds {
    let Selection { one_of, none_of } = values;
    let (mut seen, mut selected, mut excluded, mut unreadable) = (0_u32, 0_u32, 0_u32, false);
    request.each_value(name, &mut |value| {
        seen += 1;
        match std::str::from_utf8(value) {
            Ok(text) => {
                selected += u32::from(one_of.iter().any(|pattern| pattern.matches(text)));
                excluded += u32::from(none_of.iter().any(|pattern| pattern.matches(text)));
            }
            Err(_) => unreadable = true,
        }
    });
    let share = |count: u32| match count {
        0 if unreadable => Holds::Unknown,
        0 => Holds::No,
        _ if count == seen => Holds::Yes,
        _ => Holds::Unknown,
    };
    let wanted = if one_of.is_empty() { Holds::Yes } else { share(selected) };
    and(wanted, || if none_of.is_empty() { Holds::Yes } else { share(excluded).not() })
}

/// What is selected of a thing; where the thing is not there at all, it is none of the wanted, and whether it is one of the
/// unwanted cannot be known.
fn selection<T, V: ?Sized>(
    selection: &Selection<T>,
    value: Option<&V>,
    matches: impl Fn(&T, &V) -> bool,
) -> Holds {
    let Selection { one_of, none_of } = selection;
    match value {
        _ if selection.is_empty() => Holds::Yes,
        None if one_of.is_empty() => Holds::Unknown,
        None => Holds::No,
        Some(value) => {
            let wanted = one_of.is_empty() || one_of.iter().any(|one| matches(one, value));
            Holds::from(wanted && !none_of.iter().any(|one| matches(one, value)))
        }
    }
}

/// What `holds` says of a part of the request, where anything is asked of it; it may not be there.
fn asked<T, V>(selection: &Selection<T>, part: Option<V>, holds: impl FnOnce(V) -> Holds) -> Holds {
    if selection.is_empty() { Holds::Yes } else { part.map_or(Holds::Unknown, holds) }
}

fn and(first: Holds, second: impl FnOnce() -> Holds) -> Holds {
    if first == Holds::No { first } else { first.min(second()) }
}

fn all<T>(list: &[T], holds: impl Fn(&T) -> Holds) -> Holds {
    let mut least = Holds::Yes;
    for one in list {
        least = least.min(holds(one));
        if least == Holds::No {
            break;
        }
    }
    least
}

fn any<'t, T: 't>(list: impl IntoIterator<Item = &'t T>, holds: impl Fn(&T) -> Holds) -> Holds {
    let mut most = Holds::No;
    for one in list {
        most = most.max(holds(one));
        if most == Holds::Yes {
            break;
        }
    }
    most
}

fn any_or_yes<T>(list: &[T], holds: impl Fn(&T) -> Holds) -> Holds {
    if list.is_empty() { Holds::Yes } else { any(list, holds) }
}
