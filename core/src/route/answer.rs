//! What a rule's filters make of a request: where it is sent instead, what its path becomes, whose pages may call.

use std::borrow::Cow;

use crate::model::{AllowedOrigin, Cors, HeaderName, Listed, PathEdit, Redirect, RoutePath, Scheme};

/// What was called.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    /// The host that the caller named, without a port.
    pub host: &'a str,
    /// The port that it called.
    pub port: u16,
    /// The path as it goes upstream.
    pub path: &'a [u8],
    /// The path that decisions are made on.
    pub matched: &'a [u8],
    /// What follows on `?`.
    pub query: Option<&'a [u8]>,
}

/// Where a redirect sends the caller: the value of `Location`.
pub fn location(redirect: &Redirect, called: &Called<'_>, prefix: Option<&RoutePath>) -> Vec<u8> {
    let scheme = redirect.scheme.unwrap_or(Scheme::Http);
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(scheme)) => scheme.port(),
        (None, None) => called.port,
    };
    let host = redirect.host.as_ref().map_or(called.host, |host| host.as_str());
    let mut location = format!("{}://{host}", scheme.as_str()).into_bytes();
    if port != scheme.port() {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    match &redirect.path {
        Some(edit) => location.extend_from_slice(&edit_path(edit, called, prefix)),
        None => location.extend_from_slice(called.path),
    }
    if let Some(query) = called.query {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    location
}

/// What a path becomes. A prefix is taken off the path as it goes upstream where it stands there as well; a path that is
/// spelt so that only its normal form has the prefix goes on in that form.
pub fn edit_path<'a>(edit: &'a PathEdit, called: &Called<'_>, prefix: Option<&RoutePath>) -> Cow<'a, [u8]> {
    let replacement = match edit {
        PathEdit::Full(path) => return Cow::Borrowed(path.as_str().as_bytes()),
        PathEdit::Prefix(replacement) => {
            let text = replacement.as_ref().map_or("", |path| path.as_str());
            text.strip_suffix('/').unwrap_or(text)
        }
    };
    let prefix = prefix.map_or("", RoutePath::as_prefix).as_bytes();
    let behind = |path| {
        let rest: Option<&[u8]> = <[u8]>::strip_prefix(path, prefix);
        rest.filter(|rest| matches!(rest, [] | [b'/', ..]))
    };
    let rest = behind(called.path).or_else(|| behind(called.matched)).unwrap_or_default();
    let edited = [replacement.as_bytes(), rest].concat();
    Cow::Owned(if edited.is_empty() { vec![b'/'] } else { edited })
}

/// What a page of another origin asks before it calls (Fetch, section 3.3).
#[derive(Debug, Clone, Copy)]
pub struct Preflight<'a> {
    /// Whose page.
    pub origin: &'a [u8],
    /// The method it wants to use.
    pub method: &'a [u8],
    /// The header fields it wants to send.
    pub headers: Option<&'a [u8]>,
}

/// A field of a response's header.
type Said = (&'static str, Vec<u8>);

impl Cors {
    /// Whether pages of this origin may call.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|allowed| allowed.allows(origin))
    }

    /// What the answer to a preflight says; nothing where the origin is not allowed, so that the browser refuses.
    pub fn answer(&self, asked: &Preflight<'_>) -> Vec<Said> {
        if !self.allows(asked.origin) {
            return Vec::new();
        }
        let mut said = self.origin(asked.origin);
        // With credentials a star means itself only (Fetch, section 3.3.5): what was asked for is repeated instead.
        let star = |asked: &[u8]| if self.credentials { asked.to_vec() } else { b"*".to_vec() };
        match &self.methods {
            Listed::All => said.push(("access-control-allow-methods", star(asked.method))),
            Listed::These(these) if !these.is_empty() => {
                let names: Vec<&str> = these.iter().map(|method| method.as_str()).collect();
                said.push(("access-control-allow-methods", names.join(", ").into_bytes()));
            }
            Listed::These(_) => {}
        }
        match (&self.headers, asked.headers) {
            (Listed::All, Some(headers)) => said.push(("access-control-allow-headers", star(headers))),
            (Listed::These(these), _) if !these.is_empty() => {
                said.push(("access-control-allow-headers", names(these)));
            }
            (Listed::All, None) | (Listed::These(_), _) => {}
        }
        said.push(("access-control-max-age", self.max_age.to_string().into_bytes()));
        said
    }

    /// What the response to a call from this origin says besides its own.
    pub fn response(&self, origin: &[u8]) -> Vec<Said> {
        if !self.allows(origin) {
            return Vec::new();
        }
        let mut said = self.origin(origin);
        match &self.expose {
            Listed::All => said.push(("access-control-expose-headers", b"*".to_vec())),
            Listed::These(these) if !these.is_empty() => {
                said.push(("access-control-expose-headers", names(these)));
            }
            Listed::These(_) => {}
        }
        said
    }

    fn origin(&self, origin: &[u8]) -> Vec<Said> {
        let any = self.origins.contains(&AllowedOrigin::Any) && !self.credentials;
        let mut said = Vec::with_capacity(4);
        if any {
            said.push(("access-control-allow-origin", b"*".to_vec()));
        } else {
            said.push(("access-control-allow-origin", origin.to_vec()));
            // Caches must not hand it to another origin (Fetch, section 3.3.3).
            said.push(("vary", b"origin".to_vec()));
        }
        if self.credentials {
            said.push(("access-control-allow-credentials", b"true".to_vec()));
        }
        said
    }
}

fn names(names: &[HeaderName]) -> Vec<u8> {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    names.join(", ").into_bytes()
}
