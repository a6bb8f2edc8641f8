//! `matches`: which requests a rule is for.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::str::FromStr;

use super::super::decode::{Field, Object};
use super::{RouteKind, items};
use crate::model::{ClaimName, FieldMatch, HeaderName, HttpMatch, Method, PathMatch, TextMatch};

const FIELDS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Exact,
    Prefix,
    Regex,
}

const TEXT_TYPES: [(&str, Type); 2] = [("Exact", Type::Exact), ("RegularExpression", Type::Regex)];
const PATH_TYPES: [(&str, Type); 3] =
    [("Exact", Type::Exact), ("PathPrefix", Type::Prefix), ("RegularExpression", Type::Regex)];

pub(super) fn read(kind: RouteKind, field: &Field<'_>) -> Option<HttpMatch> {
    if kind == RouteKind::Grpc {
        let object = field.object(&["method", "headers"])?;
        let path = object.field("method").map(|field| read_call(&field));
        let (headers, claims) = read_headers(&object);
        return Some(HttpMatch { path: path.flatten(), headers, claims, ..HttpMatch::default() });
    }
    let object = field.object(&["path", "headers", "queryParams", "method"])?;
    let (headers, claims) = read_headers(&object);
    Some(HttpMatch {
        path: object.field("path").and_then(|field| read_path(&field)),
        method: object.field("method").and_then(|field| field.choice(&Method::ALL)),
        headers,
        claims,
        query: read_fields::<Parameter>(&object, "queryParams", 1024)
            .into_iter()
            .map(|wanted| FieldMatch { name: wanted.name.0, value: wanted.value })
            .collect(),
    })
}

fn read_path(field: &Field<'_>) -> Option<PathMatch> {
    let object = field.object(&["type", "value"])?;
    let kind = object.field("type").map_or(Some(Type::Prefix), |field| field.choice(&PATH_TYPES))?;
    let hint = "write a path such as /orders";
    let value = object.field("value");
    let path = |value: Option<Field<'_>>| match value {
        Some(value) => value.parse(hint),
        None => "/".parse().ok(),
    };
    match kind {
        Type::Exact => path(value).map(PathMatch::Exact),
        Type::Prefix => path(value).map(PathMatch::Prefix),
        Type::Regex => match value {
            Some(value) => value.parse(PATTERN).map(PathMatch::Regex),
            None => "/".parse().ok().map(PathMatch::Prefix),
        },
    }
}

const PATTERN: &str = "write an expression in the syntax of RE2, without references and look-around";

/// `method: {service: .., method: ..}`.
fn read_call(field: &Field<'_>) -> Option<PathMatch> {
    let object = field.object(&["type", "service", "method"])?;
    let kind = object.field("type").map_or(Some(Type::Exact), |field| field.choice(&TEXT_TYPES))?;
    let (service, method) = (object.field("service"), object.field("method"));
    if service.is_none() && method.is_none() {
        field.mistake("one of service and method is expected", "write {service: NAME, method: NAME}");
        return None;
    }
    let text = |field: Option<Field<'_>>, check: fn(&str) -> bool| match field {
        Some(field) => Some(Some(read_name(&field, kind, check)?)),
        None => Some(None),
    };
    Some(PathMatch::Rpc { service: text(service, is_service)?, method: text(method, is_identifier)? })
}

fn read_name(field: &Field<'_>, kind: Type, check: fn(&str) -> bool) -> Option<TextMatch> {
    if kind == Type::Regex {
        return field.parse(PATTERN).map(TextMatch::Regex);
    }
    let text = field.text()?;
    if text.len() > 1024 || !check(text) {
        field.mistake(
            format!("{text:?} is no name of gRPC's"),
            "write letters, digits and '_', and dots between the parts of a service's name",
        );
        return None;
    }
    Some(TextMatch::Exact(text.to_owned()))
}

fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What a member of `headers` is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    Header(HeaderName),
    /// `weft-claim.NAME`: a header that no request has.
    Claim(ClaimName),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match ClaimName::of_match(text) {
            Some(claim) => claim.map(Self::Claim).map_err(|_| {
                format!(
                    "{text:?} names no claim: it is weft-claim.NAME, with %XX for what no header's name has"
                )
            }),
            None => text
                .parse()
                .map(Self::Header)
                .map_err(|error: <HeaderName as FromStr>::Err| error.to_string()),
        }
    }
}

fn read_headers(object: &Object<'_>) -> (Vec<FieldMatch<HeaderName>>, Vec<FieldMatch<ClaimName>>) {
    let (mut headers, mut claims) = (Vec::new(), Vec::new());
    for FieldMatch { name, value } in read_fields(object, "headers", 4096) {
        match name {
            Named::Header(name) => headers.push(FieldMatch { name, value }),
            Named::Claim(name) => claims.push(FieldMatch { name, value }),
        }
    }
    (headers, claims)
}

/// The name of a parameter: spelt as header names are, but its case counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Parameter(String);

impl FromStr for Parameter {
    type Err = <HeaderName as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<HeaderName>().map(|_| Self(text.to_owned()))
    }
}

fn read_fields<N: FromStr<Err: Display> + Eq + Hash + Clone>(
    object: &Object<'_>,
    key: &str,
    longest: usize,
) -> Vec<FieldMatch<N>> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for field in items(object, key, FIELDS) {
        let Some(read) = read_field::<N>(&field, longest) else { continue };
        if !seen.insert(read.name.clone()) {
            field.mistake("this name is there twice, and only the first would count", "keep one of them");
        }
        wanted.push(read);
    }
    wanted
}

fn read_field<N: FromStr<Err: Display>>(field: &Field<'_>, longest: usize) -> Option<FieldMatch<N>> {
    let object = field.object(&["type", "name", "value"])?;
    let kind = object.field("type").map_or(Some(Type::Exact), |field| field.choice(&TEXT_TYPES));
    let name = object.required("name", "write the name").and_then(|name| name.parse("write a name"));
    let value = object.required("value", "write the value")?;
    let value = match kind? {
        Type::Regex => TextMatch::Regex(value.parse(PATTERN)?),
        Type::Exact | Type::Prefix => {
            let text = value.text()?;
            if text.is_empty() || text.len() > longest {
                value.mistake(format!("a value has 1 to {longest} characters"), "write it out");
                return None;
            }
            TextMatch::Exact(text.to_owned())
        }
    };
    Some(FieldMatch { name: name?, value })
}
