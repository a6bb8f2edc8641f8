//! `filters`: what becomes of requests and responses.

use std::collections::HashSet;

use super::super::decode::{Field, Object};
use super::backend::read_target;
use super::{RouteKind, items};
use crate::model::{
    Cors, FieldEdits, Filters, HeaderName, HeaderValue, HostName, HttpMatch, Listed, Method, Mirror, Name,
    PathEdit, PathMatch, Redirect, RedirectStatus, Rewrite, RoutePath, Scheme, Share,
};

const FILTERS: usize = 16;
const EDITS: usize = 16;

/// Where filters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where<'m> {
    /// On a rule.
    Rule,
    /// On a backend of a rule with these matches.
    Backend(RouteKind, &'m [HttpMatch]),
    /// Nowhere: connections have none.
    Connections,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Type {
    Request,
    Response,
    Mirror,
    Redirect,
    Rewrite,
    Cors,
    External,
    Extension,
}

/// Each type's name, and the field that it needs.
const TYPES: [(&str, &str, Type); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier", Type::Request),
    ("ResponseHeaderModifier", "responseHeaderModifier", Type::Response),
    ("RequestMirror", "requestMirror", Type::Mirror),
    ("RequestRedirect", "requestRedirect", Type::Redirect),
    ("URLRewrite", "urlRewrite", Type::Rewrite),
    ("CORS", "cors", Type::Cors),
    ("ExternalAuth", "externalAuth", Type::External),
    ("ExtensionRef", "extensionRef", Type::Extension),
];

/// Reads the filters of a rule or backend whose rule has these matches.
pub(super) fn read(
    kind: RouteKind,
    object: &Object<'_>,
    matches: &[HttpMatch],
    place: Where<'_>,
    namespace: &Name,
) -> Filters {
    let mut filters = Filters::default();
    let mut seen = HashSet::new();
    for field in items(object, "filters", FILTERS) {
        let Some((read, body)) = read_type(kind, &field) else { continue };
        if !seen.insert(read) && read != Type::Mirror {
            field.mistake("a filter of this type is there already", "write what it does into one");
        }
        match read {
            Type::Request => filters.request = read_edits(&body).unwrap_or_default(),
            Type::Response => filters.response = read_edits(&body).unwrap_or_default(),
            Type::Mirror => {
                let Some(mirror) = read_mirror(&body, namespace) else { continue };
                if filters.mirrors.iter().any(|other| other.target == mirror.target) {
                    field.mistake(format!("{} is a mirror twice", mirror.target), "keep one of them");
                }
                filters.mirrors.push(mirror);
            }
            Type::Redirect => {
                if place != Where::Rule {
                    field.mistake(
                        "a backend does not redirect",
                        "write the filter on the rule, without backendRefs",
                    );
                }
                filters.redirect = read_redirect(&body, matches);
            }
            Type::Rewrite => filters.rewrite = read_rewrite(&body, matches),
            Type::Cors => {
                if place != Where::Rule {
                    field.mistake("a preflight goes to no backend", "write the filter on the rule");
                }
                filters.cors = read_cors(&body);
            }
            Type::External | Type::Extension => {
                field.mistake("there is no such filter in this mesh", "take it out");
            }
        }
    }
    if let (Some(field), true) =
        (object.field("filters"), filters.redirect.is_some() && filters.rewrite.is_some())
    {
        field.mistake("RequestRedirect and URLRewrite exclude each other", "keep one of them");
    }
    filters
}

/// A filter's type and the field that goes with it.
fn read_type<'a>(kind: RouteKind, field: &Field<'a>) -> Option<(Type, Field<'a>)> {
    let is_known = |read: Type| match kind {
        RouteKind::Http => true,
        RouteKind::Grpc | RouteKind::Tls | RouteKind::Tcp => {
            matches!(read, Type::Request | Type::Response | Type::Mirror | Type::Extension)
        }
    };
    let known = || TYPES.iter().filter(|(_, _, read)| is_known(*read));
    let fields: Vec<&str> = std::iter::once("type").chain(known().map(|(_, field, _)| *field)).collect();
    let object = field.object(&fields)?;
    let choices: Vec<(&str, Type)> = known().map(|(name, _, read)| (*name, *read)).collect();
    let read = object.required("type", "write the filter's type").and_then(|field| field.choice(&choices))?;
    let mut found = None;
    for (name, key, other) in known() {
        if *other == read {
            found = object.required(key, &format!("a filter of type {name} needs it"));
        } else if let Some(field) = object.field(key) {
            field.mistake(format!("this is for filters of type {name}"), "take it out");
        }
    }
    found.map(|body| (read, body))
}

fn read_edits(field: &Field<'_>) -> Option<FieldEdits> {
    let object = field.object(&["set", "add", "remove"])?;
    let mut named = HashSet::new();
    let mut pairs = |key: &str| {
        let fields = items(&object, key, EDITS);
        let pair = |field: &Field<'_>| read_pair(field, &mut named);
        fields.iter().filter_map(pair).collect::<Vec<_>>()
    };
    let (set, add) = (pairs("set"), pairs("add"));
    let removed = items(&object, "remove", EDITS);
    let remove = removed.iter().filter_map(|field| changeable(field, &mut named)).collect();
    Some(FieldEdits { set, add, remove })
}

fn read_pair(field: &Field<'_>, named: &mut HashSet<HeaderName>) -> Option<(HeaderName, HeaderValue)> {
    let object = field.object(&["name", "value"])?;
    let name = object.required("name", "write the name").and_then(|field| changeable(&field, named));
    let value = object.required("value", "write the value")?;
    let value = value.parse("write visible characters, with spaces only between them");
    Some((name?, value?))
}

fn changeable(field: &Field<'_>, named: &mut HashSet<HeaderName>) -> Option<HeaderName> {
    let name: HeaderName = field.parse("write a name such as x-version")?;
    if !name.may_change() {
        field.mistake(
            format!("{:?} is how messages are framed, which is the mesh's affair", name.as_str()),
            "take it out",
        );
        return None;
    }
    if !named.insert(name.clone()) {
        field.mistake(format!("{:?} is changed twice", name.as_str()), "keep one of them");
    }
    Some(name)
}

fn read_mirror(field: &Field<'_>, namespace: &Name) -> Option<Mirror> {
    let object = field.object(&["backendRef", "percent", "fraction"])?;
    let (percent, fraction) = (object.field("percent"), object.field("fraction"));
    if percent.is_some()
        && let Some(fraction) = &fraction
    {
        fraction.mistake("percent and fraction exclude each other", "keep one of them");
    }
    let share = match (percent, fraction) {
        (Some(percent), _) => Share::new(percent.integer(0..=100)?, 100)?,
        (None, Some(fraction)) => read_fraction(&fraction)?,
        (None, None) => Share::WHOLE,
    };
    let field = object.required("backendRef", "write {name: NAME, port: PORT}")?;
    let backend = field.object(&["group", "kind", "name", "namespace", "port"])?;
    Some(Mirror { target: read_target(&field, &backend, namespace)?, share })
}

fn read_fraction(field: &Field<'_>) -> Option<Share> {
    let object = field.object(&["numerator", "denominator"])?;
    let numerator = object.required("numerator", "write a number")?.integer(0..=i32::MAX.unsigned_abs())?;
    let denominator = match object.field("denominator") {
        Some(denominator) => denominator.integer(1..=i32::MAX.unsigned_abs())?,
        None => 100,
    };
    let share = Share::new(numerator, denominator);
    if share.is_none() {
        field.mistake(
            format!("{numerator} of {denominator} is more than all"),
            "write a share up to the whole",
        );
    }
    share
}

fn read_redirect(field: &Field<'_>, matches: &[HttpMatch]) -> Option<Redirect> {
    let object = field.object(&["scheme", "hostname", "path", "port", "statusCode"])?;
    let scheme = object
        .field("scheme")
        .and_then(|field| field.choice(&[("http", Scheme::Http), ("https", Scheme::Https)]));
    let status = object.field("statusCode").map(|field| {
        let code = field.integer(100..=599)?;
        let found = RedirectStatus::ALL.into_iter().find(|status| u32::from(status.code()) == code);
        if found.is_none() {
            field.mistake(format!("{code} is no redirect"), "write 301, 302, 303, 307 or 308");
        }
        found
    });
    Some(Redirect {
        scheme,
        host: host(&object),
        path: object.field("path").and_then(|field| read_path_edit(&field, matches)),
        port: object.field("port").and_then(|field| field.port()),
        status: status.flatten().unwrap_or_default(),
    })
}

fn read_rewrite(field: &Field<'_>, matches: &[HttpMatch]) -> Option<Rewrite> {
    let object = field.object(&["hostname", "path"])?;
    let path = object.field("path").and_then(|field| read_path_edit(&field, matches));
    Some(Rewrite { host: host(&object), path })
}

fn host(object: &Object<'_>) -> Option<HostName> {
    object.field("hostname").and_then(|field| field.parse("write a host name such as www.example.com"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EditType {
    Full,
    Prefix,
}

fn read_path_edit(field: &Field<'_>, matches: &[HttpMatch]) -> Option<PathEdit> {
    let object = field.object(&["type", "replaceFullPath", "replacePrefixMatch"])?;
    let types = [("ReplaceFullPath", EditType::Full), ("ReplacePrefixMatch", EditType::Prefix)];
    let kind = object.required("type", "write ReplaceFullPath or ReplacePrefixMatch")?.choice(&types)?;
    let (needed, other) = match kind {
        EditType::Full => ("replaceFullPath", "replacePrefixMatch"),
        EditType::Prefix => ("replacePrefixMatch", "replaceFullPath"),
    };
    if let Some(other) = object.field(other) {
        other.mistake("this is for the other type", "take it out");
    }
    let value = object.required(needed, "this type needs it")?;
    let hint = "write a path such as /orders";
    match kind {
        EditType::Full => value.parse(hint).map(PathEdit::Full),
        EditType::Prefix => {
            // No matches are one: the prefix `/`.
            let one_prefix = match matches {
                [] => true,
                [only] => matches!(only.path, Some(PathMatch::Prefix(_)) | None),
                _ => false,
            };
            if !one_prefix {
                value.mistake(
                    "which prefix is meant is clear only where the rule has exactly one match, of type PathPrefix",
                    "write a rule for each prefix, or use ReplaceFullPath",
                );
                return None;
            }
            match value.text()? {
                "" => Some(PathEdit::Prefix(None)),
                _ => value.parse::<RoutePath>(hint).map(|path| PathEdit::Prefix(Some(path))),
            }
        }
    }
}

fn read_cors(field: &Field<'_>) -> Option<Cors> {
    let fields =
        ["allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"];
    let object = field.object(&fields)?;
    let origins = items(&object, "allowOrigins", 64);
    if origins.len() > 1
        && let Some(star) = origins.iter().find(|origin| origin.spelling().as_deref() == Some("*"))
    {
        star.mistake(
            "\"*\" is every origin, others beside it mean nothing",
            "keep \"*\" alone, or take it out",
        );
    }
    let origins = origins
        .iter()
        .filter_map(|origin| origin.parse("write SCHEME://HOST[:PORT], SCHEME://*.DOMAIN, or \"*\""))
        .collect();
    let header = |field: &Field<'_>| field.parse::<HeaderName>("write a name such as x-version");
    Some(Cors {
        origins,
        credentials: object.field("allowCredentials").and_then(|field| field.bool()).unwrap_or(false),
        methods: listed(&object, "allowMethods", 9, |field| field.choice(&Method::ALL)),
        headers: listed(&object, "allowHeaders", 64, header),
        expose: listed(&object, "exposeHeaders", 64, header),
        max_age: object
            .field("maxAge")
            .and_then(|field| field.integer(1..=i32::MAX.unsigned_abs()))
            .unwrap_or(5),
    })
}

fn listed<T>(
    object: &Object<'_>,
    key: &str,
    most: usize,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> Listed<T> {
    let fields = items(object, key, most);
    let star = fields.iter().find(|field| field.spelling().as_deref() == Some("*"));
    if let Some(star) = star {
        if fields.len() > 1 {
            star.mistake("\"*\" is all, others beside it mean nothing", "keep \"*\" alone, or take it out");
        }
        return Listed::All;
    }
    Listed::These(fields.iter().filter_map(read).collect())
}
