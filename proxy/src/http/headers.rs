//! What the mesh changes in a message's head, and nothing else.
//!
//! Hop-by-hop fields go (RFC 9110 section 7.6.1); towards the app, what clients may not claim goes
//! and who they proved to be comes.

use std::net::SocketAddr;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, UPGRADE};
use weft_core::model::SpiffeId;
use weft_core::trace::hex;

use super::head::{Fields, Value};
use super::respond::WEFT_ERROR;
use super::trace::is_of_trace;
use crate::failure::ErrorCode;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static CLIENT_ID: HeaderName = HeaderName::from_static("weft-client-id");
/// What a server says of how long it leaves a connection idle.
pub static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Header names that begin so are the mesh's own.
const OURS: &[u8] = b"weft-";

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

/// Whether a message is gRPC, by its content type.
pub fn is_grpc(fields: &impl Fields) -> bool {
    fields.first(&CONTENT_TYPE).is_some_and(|kind| {
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
    })
}

/// Names the request, where nobody has yet.
pub fn name_request(fields: &mut impl Fields, rng: &mut fastrand::Rng) {
    if fields.first(&REQUEST_ID).is_none() {
        fields.append(&REQUEST_ID, Value::Once(&uuid(rng)));
    }
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
pub fn introduce(fields: &mut impl Fields, client: &ClientFields) {
    remove_ours(fields);
    if let Some(identity) = &client.identity {
        fields.append(&CLIENT_ID, Value::Shared(identity));
    }
    if let Some(address) = &client.address {
        // One field, for many readers look at the first alone.
        let mut chain = Vec::new();
        for before in fields.all(&FORWARDED_FOR) {
            chain.extend_from_slice(before);
            chain.extend_from_slice(b", ");
        }
        if chain.is_empty() {
            fields.append(&FORWARDED_FOR, Value::Shared(address));
        } else {
            chain.extend_from_slice(address.as_bytes());
            fields.set(&FORWARDED_FOR, Value::Once(&chain));
        }
    }
    if fields.first(&FORWARDED_PROTO).is_none() {
        fields.append(&FORWARDED_PROTO, Value::Shared(&HeaderValue::from_static("http")));
    }
}

/// Asks the caller not to use the connection again (RFC 9112 section 9.6).
pub fn say_goodbye(fields: &mut impl Fields) {
    fields.set(&CONNECTION, Value::Shared(&HeaderValue::from_static("close")));
}

/// Removes from an app's or a stranger's response what only the mesh says.
pub fn disown(fields: &mut impl Fields) {
    fields.remove(&WEFT_ERROR);
}

/// Whether a response is a sidecar's that protects its app from too much.
pub fn is_overloaded(fields: &impl Fields) -> bool {
    fields.first(&WEFT_ERROR) == Some(ErrorCode::Overloaded.as_str().as_bytes())
}

fn remove_ours(fields: &mut impl Fields) {
    while let Some(name) = ours(fields) {
        fields.remove(&name);
    }
}

fn ours(fields: &impl Fields) -> Option<HeaderName> {
    let name = fields.names().find(|name| is_ours(name))?;
    HeaderName::from_bytes(name).ok()
}

/// Whether a field is the mesh's own to say.
pub fn is_ours(name: &[u8]) -> bool {
    name.get(..OURS.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OURS))
}

/// Gives the request a `Host`, where HTTP/1.0 let it have none.
pub fn ensure_host(fields: &mut impl Fields, destination: SocketAddr) {
    if fields.first(&HOST).is_none() {
        fields.append(&HOST, Value::Once(destination.to_string().as_bytes()));
    }
}

/// Whether a message asks its connection to become something else (RFC 9110 section 7.8).
pub fn asks_upgrade(fields: &impl Fields) -> bool {
    fields.first(&UPGRADE).is_some()
        && fields.all(&CONNECTION).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// What becomes of a wish to upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// It concerns the next hop too.
    Kept,
    /// There is none, or it ends here.
    Dropped,
}

/// Removes what concerns one connection only, but how a body is framed: that is the codec's.
pub fn strip_hop_by_hop(fields: &mut impl Fields, upgrade: Upgrade) {
    // What is named there goes with it. Names that the message cannot do without are not for a client to remove.
    if fields.first(&CONNECTION).is_some() {
        let named: Vec<HeaderName> = fields
            .all(&CONNECTION)
            .flat_map(tokens)
            .filter(|token| !is_kept(token))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .collect();
        for name in named {
            fields.remove(&name);
        }
        fields.remove(&CONNECTION);
    }
    fields.remove(&KEEP_ALIVE);
    fields.remove(&PROXY_CONNECTION);
    strip_te(fields);
    match upgrade {
        Upgrade::Kept => fields.append(&CONNECTION, Value::Shared(&HeaderValue::from_static("upgrade"))),
        Upgrade::Dropped => fields.remove(&UPGRADE),
    }
}

/// Names that `Connection` may not remove, and its usual words, which are names of nothing.
fn is_kept(token: &[u8]) -> bool {
    const KEPT: [&[u8]; 8] = [
        b"close",
        b"keep-alive",
        b"upgrade",
        b"te",
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"x-request-id",
    ];
    is_ours(token) || is_of_trace(token) || KEPT.iter().any(|kept| token.eq_ignore_ascii_case(kept))
}

/// Of what a client can decode, `trailers` alone concerns the next hop.
fn strip_te(fields: &mut impl Fields) {
    const TRAILERS: &[u8] = b"trailers";
    let Some(first) = fields.first(&TE) else { return };
    if first.eq_ignore_ascii_case(TRAILERS) && fields.all(&TE).nth(1).is_none() {
        return;
    }
    let welcome = fields.all(&TE).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(TRAILERS));
    fields.remove(&TE);
    if welcome {
        fields.append(&TE, Value::Shared(&HeaderValue::from_static("trailers")));
    }
}

/// The members of a list (RFC 9110 section 5.6.1).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::header::HeaderMap;

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
        let upgrade = if asks_upgrade(&headers) { Upgrade::Kept } else { Upgrade::Dropped };
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
        stripped(
            &[("connection", "host, Traceparent, b3"), ("host", "a"), ("b3", "0")],
            &[("host", "a"), ("b3", "0")],
        );
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
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_request_is_named_once() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut headers = HeaderMap::new();
        name_request(&mut headers, &mut rng);
        let name = headers[&REQUEST_ID].clone();
        let text = name.to_str().unwrap();
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(text.as_bytes()[14] == b'4' && b"89ab".contains(&text.as_bytes()[19]), "{text}");
        name_request(&mut headers, &mut rng);
        assert_eq!(headers[&REQUEST_ID], name);
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
