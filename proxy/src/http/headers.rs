//! What the mesh changes in a message's head, and nothing else.
//!
//! Hop-by-hop fields go (RFC 9110 section 7.6.1); trace context comes; towards the app, what clients may not claim goes
//! and who they proved to be comes.

use std::net::SocketAddr;

use http::header::{
    CONNECTION, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use weft_core::model::SpiffeId;
use weft_core::trace::{SpanId, TraceContext, hex, w3c};

use super::respond::WEFT_ERROR;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_ID: HeaderName = HeaderName::from_static("weft-client-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Header names that begin so are the mesh's own.
const OURS: &str = "weft-";

/// Where a request stands in its trace: our own span, and the one it is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The trace, and our span in it.
    pub own: TraceContext,
    /// The span that ours is a child of; none: ours is the root.
    pub parent: Option<SpanId>,
}

/// What is said to the app of a connection's client, made once a connection.
#[derive(Debug, Clone)]
pub struct ClientFields {
    address: Option<HeaderValue>,
    identity: Option<HeaderValue>,
}

impl ClientFields {
    /// A client at `address`, who proved to be `identity`.
    pub fn new(address: SocketAddr, identity: Option<&SpiffeId>) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        Self {
            address: value(&address.ip().to_string()),
            identity: identity.and_then(|id| value(id.as_str())),
        }
    }
}

/// Continues the request's trace, or begins one, and says so to the next hop.
pub fn trace(headers: &mut HeaderMap, rng: &mut fastrand::Rng, sampling_per_million: u32) -> Span {
    let received = match headers.entry(TRACEPARENT) {
        // Two of them are none (W3C trace context, section 3.2.2).
        Entry::Occupied(entry) if entry.iter().nth(1).is_none() => w3c::parse(entry.get().as_bytes()),
        Entry::Occupied(_) | Entry::Vacant(_) => None,
    };
    let span = match received {
        Some(received) => {
            let own = received.child(rng);
            let states = headers.get_all(TRACESTATE);
            if !w3c::state_is_valid(states.iter().map(HeaderValue::as_bytes)) {
                headers.remove(TRACESTATE);
            }
            Span { own, parent: Some(received.span) }
        }
        None => {
            headers.remove(TRACESTATE);
            Span { own: TraceContext::begin(rng, sampling_per_million), parent: None }
        }
    };
    if let Ok(value) = HeaderValue::from_bytes(&w3c::write(&span.own)) {
        headers.insert(TRACEPARENT, once(value));
    }
    span
}

/// Names the request, where nobody has yet.
pub fn name_request(headers: &mut HeaderMap, rng: &mut fastrand::Rng) {
    if let Entry::Vacant(entry) = headers.entry(REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(&uuid(rng))
    {
        entry.insert(once(value));
    }
}

/// No other request will have this value: HTTP/2's tables of fields are spared it (RFC 7541 section 6.2.3).
fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// A random UUID (RFC 9562 section 5.4), which is what readers of this field expect.
fn uuid(rng: &mut fastrand::Rng) -> [u8; 36] {
    let bits = rng.u128(..) & !(0xf << 76 | 0x3 << 62) | (0x4 << 76 | 0x2 << 62);
    let mut digits = [0; 32];
    hex(&bits.to_be_bytes(), &mut digits);
    let mut text = [b'-'; 36];
    let (mut rest, mut unwritten) = (&digits[..], &mut text[..]);
    for length in [8, 4, 4, 4, 12] {
        let (group, digits) = rest.split_at(length);
        let (place, after) = unwritten.split_at_mut(length);
        place.copy_from_slice(group);
        rest = digits;
        unwritten = after.get_mut(1..).unwrap_or_default();
    }
    text
}

/// Says to the app who its client is, and removes what the client said of it.
pub fn introduce(headers: &mut HeaderMap, client: &ClientFields) {
    remove_ours(headers);
    if let Some(identity) = &client.identity {
        headers.insert(CLIENT_ID, identity.clone());
    }
    if let Some(address) = &client.address {
        let chain = match headers.entry(FORWARDED_FOR) {
            Entry::Vacant(_) => address.clone(),
            // One field, for many readers look at the first alone.
            Entry::Occupied(entry) => {
                let before: Vec<&[u8]> = entry.iter().chain([address]).map(HeaderValue::as_bytes).collect();
                HeaderValue::from_bytes(&before.join(&b", "[..])).unwrap_or_else(|_| address.clone())
            }
        };
        headers.insert(FORWARDED_FOR, chain);
    }
    if let Entry::Vacant(entry) = headers.entry(FORWARDED_PROTO) {
        entry.insert(HeaderValue::from_static("http"));
    }
}

/// Asks the caller not to use the connection again (RFC 9112 section 9.6).
pub fn say_goodbye(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Removes from an app's or a stranger's response what only the mesh says.
pub fn disown(headers: &mut HeaderMap) {
    headers.remove(WEFT_ERROR);
}

fn remove_ours(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with(OURS)).cloned() {
        headers.remove(name);
    }
}

/// Gives the request a `Host`, where HTTP/1.0 let it have none.
pub fn ensure_host(headers: &mut HeaderMap, destination: SocketAddr) {
    if let Entry::Vacant(entry) = headers.entry(HOST)
        && let Ok(host) = HeaderValue::from_str(&destination.to_string())
    {
        entry.insert(host);
    }
}

/// What a message asks its connection to become (RFC 9110 section 7.8).
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case("upgrade")));
    if asked { headers.get(UPGRADE).cloned() } else { None }
}

/// Removes what concerns one connection only; an upgrade is put back, for it concerns the next hop too.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    // What is named there goes with it. Names that the message cannot do without are not for a client to remove.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| *name != HOST && !name.as_str().starts_with(OURS) && *name != TE)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    if let Entry::Occupied(mut entry) = headers.entry(TE) {
        let trailers =
            entry.iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers")));
        if trailers {
            entry.insert(HeaderValue::from_static("trailers"));
        } else {
            entry.remove();
        }
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    fn stripped(fields: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut headers = map(fields);
        let upgrade = upgrade(&headers);
        strip_hop_by_hop(&mut headers, upgrade);
        assert_eq!(headers, map(expected), "{fields:?}");
    }

    #[test]
    fn hop_by_hop_fields_go() {
        stripped(&[("connection", "close"), ("host", "a")], &[("host", "a")]);
        stripped(
            &[("connection", "x-one, X-Two ,"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")],
            &[("x-three", "3")],
        );
        stripped(
            &[("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("proxy-connection", "x")],
            &[],
        );
        stripped(&[("transfer-encoding", "chunked"), ("content-length", "5")], &[("content-length", "5")]);
        stripped(&[("connection", "host"), ("host", "a")], &[("host", "a")]);
    }

    #[test]
    fn trailers_are_still_welcome() {
        stripped(&[("te", "trailers")], &[("te", "trailers")]);
        stripped(&[("te", "deflate;q=0.5, Trailers"), ("connection", "te")], &[("te", "trailers")]);
        stripped(&[("te", "deflate")], &[]);
        stripped(&[("trailer", "x-sum")], &[("trailer", "x-sum")]);
    }

    #[test]
    fn upgrades_are_kept() {
        let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
        stripped(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], &websocket);
        stripped(&[("upgrade", "websocket")], &[]);
    }

    #[test]
    fn a_trace_is_continued_or_begun() {
        let mut rng = fastrand::Rng::with_seed(1);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = map(&[("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let span = trace(&mut headers, &mut rng, 0);
        assert_eq!(span.parent.unwrap().to_string(), "b7ad6b7169203331");
        assert!(span.own.sampled);
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
        assert_eq!(w3c::parse(headers[TRACEPARENT].as_bytes()), Some(span.own));
        assert!(headers[TRACEPARENT].to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));

        for fields in [
            &[("tracestate", "a=1")][..],
            &[("traceparent", "nonsense"), ("tracestate", "a=1")],
            &[("traceparent", parent), ("traceparent", parent), ("tracestate", "a=1")],
        ] {
            let mut headers = map(fields);
            let span = trace(&mut headers, &mut rng, 1_000_000);
            assert_eq!(span.parent, None);
            assert!(span.own.sampled && !headers.contains_key(TRACESTATE));
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
        }

        let mut headers = map(&[("traceparent", parent), ("tracestate", "Bad")]);
        assert!(trace(&mut headers, &mut rng, 0).parent.is_some());
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn a_request_is_named_once() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut headers = HeaderMap::new();
        name_request(&mut headers, &mut rng);
        let name = headers[REQUEST_ID].clone();
        let text = name.to_str().unwrap();
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(text.as_bytes()[14] == b'4' && b"89ab".contains(&text.as_bytes()[19]), "{text}");
        name_request(&mut headers, &mut rng);
        assert_eq!(headers[REQUEST_ID], name);
    }

    #[test]
    fn the_app_is_told_who_calls_and_by_the_mesh_alone() {
        let id: SpiffeId = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        let client = ClientFields::new("10.0.0.7:1234".parse().unwrap(), Some(&id));
        let mut headers = map(&[
            ("weft-client-id", "spiffe://mesh.local/ns/x/sa/liar"),
            ("weft-error", "x"),
            ("weft-other", "1"),
        ]);
        introduce(&mut headers, &client);
        let expected =
            [("weft-client-id", id.as_str()), ("x-forwarded-for", "10.0.0.7"), ("x-forwarded-proto", "http")];
        assert_eq!(headers, map(&expected));

        let mut headers = map(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")]);
        introduce(&mut headers, &ClientFields::new("[fd00::1]:9".parse().unwrap(), None));
        assert_eq!(headers, map(&[("x-forwarded-for", "1.2.3.4, fd00::1"), ("x-forwarded-proto", "https")]));
    }
}
