//! What peers prove, and ask to have proved.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use weft_certs::{Authority, Credentials, IssueParams, Issued, KeyPair, pem as pem_text, sni};
use weft_core::model::{SpiffeId, TrustDomain};

use crate::texts;

/// One authority for all inputs: to make one takes longer than to try a thousand of them.
static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::create(&domain(), SystemTime::now()).expect("an authority"));

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().expect("a key"));

fn domain() -> TrustDomain {
    "mesh.local".parse().expect("a trust domain")
}

fn identity() -> SpiffeId {
    "spiffe://mesh.local/ns/default/sa/web".parse().expect("an identity")
}

fn sign(request: &[u8]) -> Option<Issued> {
    let wanted = IssueParams {
        identity: identity(),
        dns: Vec::new(),
        ips: Vec::new(),
        ttl: Duration::from_secs(3600),
        now: SystemTime::now(),
    };
    AUTHORITY.sign(request, &wanted).ok()
}

/// Whoever a certificate says its holder is, is a valid identity.
pub fn certificate(bytes: &[u8]) {
    if let Ok(id) = weft_certs::peer_identity(bytes) {
        assert_eq!(id.as_str().parse::<SpiffeId>().as_ref(), Ok(&id));
    }
    let _ = weft_certs::serial_of(bytes);
    let _ = weft_certs::trust_domain_of(bytes);
    let chain = vec![bytes.to_vec()];
    let _ = Credentials::new(chain, &KEY, &AUTHORITY.anchors(), &domain());
    let _ = Credentials::new(Vec::new(), &KEY, &[bytes.to_vec()], &domain());
}

pub fn certificates() -> Vec<Vec<u8>> {
    let request = weft_certs::request(&KEY).expect("a request");
    let mut seeds = sign(&request).expect("a certificate").chain;
    seeds.extend(AUTHORITY.anchors());
    seeds
}

/// Of a request only the key is used: whatever else it says, the certificate names whom it was to name.
pub fn signing_request(bytes: &[u8]) {
    if let Some(issued) = sign(bytes) {
        let leaf = issued.chain.first().expect("a certificate");
        assert_eq!(weft_certs::peer_identity(leaf).expect("an identity"), identity());
    }
}

pub fn signing_requests() -> Vec<Vec<u8>> {
    vec![weft_certs::request(&KEY).expect("a request")]
}

/// Texts of certificates, keys and authorities.
pub fn pem(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(certificates) = pem_text::certificates(text) {
        let written = pem_text::from_certificates(&certificates);
        assert_eq!(pem_text::certificates(&written).expect("what we write"), certificates);
    }
    let _ = KeyPair::from_pem(text);
    let _ = Authority::from_pem(text);
}

pub fn pems() -> Vec<Vec<u8>> {
    texts(&[&AUTHORITY.to_pem(), &AUTHORITY.anchors_pem(), &KEY.to_pem()])
}

/// An identity is written as it was read, and names nothing outside its charset.
pub fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert!(text.is_ascii() && !id.path().split('/').any(|segment| matches!(segment, "." | "..")), "{text}");
    assert!(!text.contains(['%', '?', '#', '@', '\0', '\\', ' ']), "{text}");
    if let Some((namespace, account)) = id.service_account() {
        let made = SpiffeId::of_service_account(id.trust_domain(), &namespace, &account);
        assert_eq!(made, id);
    }
}

pub fn spiffe_ids() -> Vec<Vec<u8>> {
    texts(&[
        "spiffe://mesh.local/ns/default/sa/web",
        "spiffe://a/b",
        "spiffe://A.b/ns/../sa/x",
        "spiffe://a:1/b",
        "spiffe://a/b?c#d",
    ])
}

/// A server name asks for the port that asks for that server name, or for none.
pub fn server_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(port) = sni::port_of(text) {
        assert_eq!(sni::for_port(port).to_str(), text.to_ascii_lowercase());
    }
}

pub fn server_names() -> Vec<Vec<u8>> {
    texts(&["p8080.weft.internal", "P1.WEFT.internal", "p0.weft.internal", "p65536.weft.internal", "orders"])
}

/// A ClientHello of TLS 1.3 with a server name and two protocols, and the same in fragments of records.
pub fn client_hellos() -> Vec<Vec<u8>> {
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &length16(body.len()), body].concat();
    let name = b"p8080.weft.internal";
    let entry = [&[0][..], &length16(name.len()), name].concat();
    let server_name = extension(0, &[&length16(entry.len())[..], &entry].concat());
    let protocols = b"\x02h2\x08http/1.1";
    let alpn = extension(16, &[&length16(protocols.len())[..], protocols].concat());
    let versions = extension(43, &[2, 3, 4]);
    let extensions = [server_name, alpn, versions].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &length16(extensions.len()), &extensions]
            .concat();
    let message = [&[1, 0][..], &length16(body.len()), &body].concat();
    let record = |piece: &[u8]| [&[22, 3, 1][..], &length16(piece.len()), piece].concat();
    let fragments = message.chunks(30).flat_map(record).collect();
    vec![record(&message), fragments]
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a short seed").to_be_bytes()
}
