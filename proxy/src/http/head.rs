//! A message's head as the rest of the mesh sees it, whichever version of HTTP it came in.

use std::mem;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri, Version, request};

use crate::failure::ErrorCode;

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Said of many messages: shared rather than copied, where the version can.
    Shared(&'a HeaderValue),
    /// Of this message alone; HTTP/2's tables of fields are spared it (RFC 7541 section 6.2.3).
    Once(&'a [u8]),
}

/// The fields of a head, or trailers. Names are compared without their case.
pub trait Fields {
    /// Every value that `name` has, in order.
    fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// The names, each at least once.
    fn names(&self) -> impl Iterator<Item = &[u8]>;

    /// Adds a field after those there are. A value that no field can have is not added.
    fn append(&mut self, name: &HeaderName, value: Value<'_>);

    /// Removes every field of that name.
    fn remove(&mut self, name: &HeaderName);

    /// The first value that `name` has.
    fn first<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Makes `value` the only one that `name` has.
    fn set(&mut self, name: &HeaderName, value: Value<'_>) {
        self.remove(name);
        self.append(name, value);
    }
}

/// A request's head.
pub trait Head {
    /// What holds its fields.
    type Fields: Fields;

    /// The method.
    fn method(&self) -> &Method;

    /// Who is asked: `:authority`, that of a target in absolute form, or `Host`. Empty where nobody is named.
    fn authority(&self) -> &str;

    /// The authority that the target names, or `:authority`.
    fn target_authority(&self) -> Option<&str>;

    /// The target's path and query, or `*`; none where it has neither (`CONNECT`).
    fn target(&self) -> Option<&str>;

    /// Gives the target another path and query.
    ///
    /// # Errors
    /// The version has no way to say it.
    fn set_target(&mut self, target: &[u8]) -> Result<(), ErrorCode>;

    /// Whether a request of this version must say whom it is for: all but HTTP/1.0 must.
    fn must_name_host(&self) -> bool;

    /// The target's path, without its query; empty where the target has none (`CONNECT`).
    fn path(&self) -> &str;

    /// The target's query.
    fn query(&self) -> Option<&str>;

    /// Asks another host, by a name without a port.
    fn set_host(&mut self, host: &str);

    /// Its fields.
    fn fields(&self) -> &Self::Fields;

    /// Its fields, to be changed.
    fn fields_mut(&mut self) -> &mut Self::Fields;
}

impl Fields for HeaderMap {
    fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.keys().map(|name| name.as_str().as_bytes())
    }

    fn append(&mut self, name: &HeaderName, value: Value<'_>) {
        if let Some(value) = owned(value) {
            Self::append(self, name, value);
        }
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }

    fn set(&mut self, name: &HeaderName, value: Value<'_>) {
        match owned(value) {
            Some(value) => self.insert(name, value),
            None => Self::remove(self, name),
        };
    }
}

fn owned(value: Value<'_>) -> Option<HeaderValue> {
    match value {
        Value::Shared(value) => Some(value.clone()),
        Value::Once(bytes) => {
            let mut value = HeaderValue::from_bytes(bytes).ok()?;
            value.set_sensitive(true);
            Some(value)
        }
    }
}

impl Head for request::Parts {
    type Fields = HeaderMap;

    fn method(&self) -> &Method {
        &self.method
    }

    fn authority(&self) -> &str {
        match self.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        }
    }

    fn target_authority(&self) -> Option<&str> {
        self.uri.authority().map(Authority::as_str)
    }

    fn target(&self) -> Option<&str> {
        self.uri.path_and_query().map(PathAndQuery::as_str)
    }

    fn set_target(&mut self, target: &[u8]) -> Result<(), ErrorCode> {
        let mut uri = mem::take(&mut self.uri).into_parts();
        uri.path_and_query = Some(target.try_into().map_err(|_| ErrorCode::BadRequest)?);
        self.uri = Uri::from_parts(uri).map_err(|_| ErrorCode::BadRequest)?;
        Ok(())
    }

    fn must_name_host(&self) -> bool {
        self.version != Version::HTTP_10
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    fn set_host(&mut self, host: &str) {
        let (Ok(authority), Ok(value)) = (Authority::try_from(host), HeaderValue::from_str(host)) else {
            return;
        };
        // Of the two that may name it none may be left to disagree.
        let mut parts = mem::take(&mut self.uri).into_parts();
        match &mut parts.authority {
            Some(named) => {
                *named = authority;
                self.headers.remove(HOST);
            }
            None => drop(self.headers.insert(HOST, value)),
        }
        self.uri = Uri::from_parts(parts).unwrap_or_default();
    }

    fn fields(&self) -> &HeaderMap {
        &self.headers
    }

    fn fields_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}
