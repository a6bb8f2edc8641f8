//! A request's head as it was sent, kept in one piece for the case that it has to be sent again. Most never are; so this
//! costs one allocation, where a copy of the fields would cost one or two each.

use h2::ext::Protocol;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, request};

/// What a request began with.
#[derive(Debug)]
pub(super) struct Saved {
    method: Method,
    uri: Uri,
    version: Version,
    protocol: Option<Protocol>,
    fields: Vec<u8>,
}

/// Before each field: the length of its name, and that of its value with whether it is kept out of tables.
const NAME_LENGTH: usize = 4;
const VALUE_LENGTH: usize = 4;
const SENSITIVE: u32 = 1 << 31;

impl Saved {
    /// Keeps what `head` says.
    pub(super) fn of(head: &request::Parts) -> Self {
        let mut fields = Vec::with_capacity(1024);
        for (name, value) in &head.headers {
            // Far below what does not fit: heads are bounded before.
            let name_length = u32::try_from(name.as_str().len()).unwrap_or(u32::MAX);
            let value_length = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let sensitive = if value.is_sensitive() { SENSITIVE } else { 0 };
            fields.extend_from_slice(&name_length.to_be_bytes());
            fields.extend_from_slice(&(value_length | sensitive).to_be_bytes());
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.extend_from_slice(value.as_bytes());
        }
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            protocol: head.extensions.get().cloned(),
            fields,
        }
    }

    /// The method.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// The head again.
    pub(super) fn restore(&self) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.version = self.version;
        if let Some(protocol) = &self.protocol {
            head.extensions.insert(protocol.clone());
        }
        let mut rest = &self.fields[..];
        while let Some((name, value)) = take_field(&mut rest) {
            head.headers.append(name, value);
        }
        head
    }
}

fn take_field(rest: &mut &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name_length = u32::from_be_bytes(take(rest, NAME_LENGTH)?.try_into().ok()?);
    let value_length = u32::from_be_bytes(take(rest, VALUE_LENGTH)?.try_into().ok()?);
    let name = HeaderName::from_bytes(take(rest, usize::try_from(name_length).ok()?)?).ok()?;
    let length = usize::try_from(value_length & !SENSITIVE).ok()?;
    let mut value = HeaderValue::from_bytes(take(rest, length)?).ok()?;
    value.set_sensitive(value_length & SENSITIVE != 0);
    Some((name, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn what_is_restored_is_what_was_saved() {
        let mut request = Request::post("http://orders/a?b=c").version(Version::HTTP_2).body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        for (name, value) in
            [("zeta", &b"1"[..]), ("cookie", b"a"), ("alpha", b"\xfc"), ("cookie", b"b"), ("empty", b"")]
        {
            let mut value = HeaderValue::from_bytes(value).unwrap();
            value.set_sensitive(name == "alpha");
            request.headers_mut().append(name, value);
        }
        let (head, ()) = request.into_parts();
        let restored = Saved::of(&head).restore();
        assert_eq!(
            (&restored.method, &restored.uri, restored.version),
            (&head.method, &head.uri, head.version)
        );
        assert_eq!(restored.extensions.get::<Protocol>(), head.extensions.get::<Protocol>());
        let fields = |map: &HeaderMap| {
            let copy = |(name, value): (&HeaderName, &HeaderValue)| {
                (name.clone(), value.clone(), value.is_sensitive())
            };
            map.iter().map(copy).collect::<Vec<_>>()
        };
        assert_eq!(fields(&restored.headers), fields(&head.headers));
    }
}
