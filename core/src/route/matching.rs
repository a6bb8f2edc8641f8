//! Whether a request fits, and how exactly a match says what it is for.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use crate::model::{ClaimName, HttpMatch, PathMatch, TextMatch};

/// What rules see of a request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, in the form that decisions are made on.
    pub path: &'a [u8],
    /// What follows on `?`.
    pub query: Option<&'a [u8]>,
    /// Whether any value of a header field, named in lower case, is found good.
    pub any_value: &'a AnyValue<'a>,
    /// Whether any value of a claim is found good, of what its token proves.
    pub any_claim: &'a AnyClaim<'a>,
}

/// Asks each value of a header field until one is found good.
pub type AnyValue<'a> = dyn Fn(&str, &dyn Fn(&[u8]) -> bool) -> bool + 'a;

/// Asks each value of a claim until one is found good. It is asked of requests that fit otherwise: proving takes time.
pub type AnyClaim<'a> = dyn Fn(&ClaimName, &dyn Fn(&[u8]) -> bool) -> bool + 'a;

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(self.path);
        f.debug_struct("Request").field("method", &self.method).field("path", &path).finish_non_exhaustive()
    }
}

/// Whether the request fits all that is given.
pub fn fits(wanted: &HttpMatch, request: &Request<'_>) -> bool {
    wanted.method.is_none_or(|method| method.as_str() == request.method)
        && wanted.path.as_ref().is_none_or(|path| fits_path(path, request.path))
        && wanted.headers.iter().all(|header| {
            // Each value by itself: put together they could spell what nobody sent.
            (request.any_value)(header.name.as_str(), &|value| header.value.fits(value))
        })
        && wanted.query.iter().all(|parameter| {
            first_parameter(request.query, &parameter.name)
                .is_some_and(|value| fits_encoded(&parameter.value, value))
        })
        && wanted
            .claims
            .iter()
            .all(|claim| (request.any_claim)(&claim.name, &|value| claim.value.fits(value)))
}

fn fits_path(wanted: &PathMatch, path: &[u8]) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact.normal().as_bytes() == path,
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.as_prefix().as_bytes());
            rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        }
        PathMatch::Regex(pattern) => pattern.fits(path),
        PathMatch::Rpc { service, method } => {
            let Some((called, name)) = call(path) else { return false };
            service.as_ref().is_none_or(|service| service.fits(called))
                && method.as_ref().is_none_or(|method| method.fits(name))
        }
    }
}

/// `/SERVICE/METHOD`, as gRPC has it.
fn call(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = path.strip_prefix(b"/")?;
    let slash = path.iter().position(|byte| *byte == b'/')?;
    let (service, method) = path.split_at_checked(slash)?;
    let method = method.strip_prefix(b"/")?;
    (!service.is_empty() && !method.is_empty() && !method.contains(&b'/')).then_some((service, method))
}

/// The first value of a parameter: of those that follow no one may depend on.
fn first_parameter<'q>(query: Option<&'q [u8]>, name: &str) -> Option<&'q [u8]> {
    query?.split(|byte| *byte == b'&').find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (key, value) = pair.split_at_checked(equals)?;
        (*decoded(key) == *name.as_bytes()).then(|| value.strip_prefix(b"=").unwrap_or_default())
    })
}

fn fits_encoded(wanted: &TextMatch, value: &[u8]) -> bool {
    wanted.fits(&decoded(value))
}

/// A part of a query as what it stands for (`application/x-www-form-urlencoded`). Hardly any needs a copy.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.iter().copied();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut ahead = bytes.clone();
                match (ahead.next().and_then(digit), ahead.next().and_then(digit)) {
                    (Some(high), Some(low)) => {
                        bytes = ahead;
                        high << 4 | low
                    }
                    _ => byte,
                }
            }
            byte => byte,
        });
    }
    Cow::Owned(plain)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// How exactly a match says what it is for; the highest goes first.
///
/// `HTTPRoute`: exact path, then (ours to choose) expression, then the longest prefix; a method; the most header fields;
/// the most parameters. `GRPCRoute`: the longest service, the longest method, the most header fields, where exact names
/// go before expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank([usize; 6]);

impl Rank {
    pub(super) fn of(wanted: &HttpMatch) -> Reverse<Self> {
        // A claim is written as a header, and counts as one.
        let (headers, query) = (wanted.headers.len().saturating_add(wanted.claims.len()), wanted.query.len());
        let method = usize::from(wanted.method.is_some());
        Reverse(Self(match &wanted.path {
            Some(PathMatch::Exact(path)) => [3, path.normal().len(), method, headers, query, 0],
            Some(PathMatch::Regex(pattern)) => [2, pattern.as_str().len(), method, headers, query, 0],
            Some(PathMatch::Prefix(path)) => [1, path.as_prefix().len(), method, headers, query, 0],
            // Without a path it is as the prefix `/`.
            None => [1, 0, method, headers, query, 0],
            Some(PathMatch::Rpc { service, method }) => {
                let exact = |text: &Option<TextMatch>| match text {
                    Some(TextMatch::Exact(text)) => text.len(),
                    Some(TextMatch::Regex(_)) | None => 0,
                };
                let pattern = |text: &Option<TextMatch>| match text {
                    Some(TextMatch::Regex(pattern)) => pattern.as_str().len(),
                    Some(TextMatch::Exact(_)) | None => 0,
                };
                [1, exact(service), pattern(service), exact(method), pattern(method), headers]
            }
        }))
    }
}
