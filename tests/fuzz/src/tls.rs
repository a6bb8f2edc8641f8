//! What peers prove, and ask to have proved.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};
use weft_certs::{Authority, Credentials, IssueParams, Issued, KeyPair, pem as pem_text, sni};
use weft_core::model::{SpiffeId, TrustDomain};

use weft_proxy::tls::message::{Message, Messages};
use weft_proxy::tls::record::{self, Content, Key, MAX_PLAIN, OVERHEAD};

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

/// A key that both ends have.
fn key() -> Key {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
    Key::new(0, &ConnectionTrafficSecrets::Aes256Gcm { key, iv }).expect("a key of a suite that there is")
}

/// Opens a record either way, which must agree.
fn open(bytes: &[u8]) -> Result<(Content, Vec<u8>), record::Fault> {
    let mut out = vec![0; bytes.len()];
    let opened = key().open(bytes, &mut out);
    let mut in_place = bytes.to_vec();
    assert_eq!(key().open_in_place(&mut in_place).ok(), opened.ok());
    opened.map(|(content, length)| {
        let carried = out.get(..length).expect("what was opened").to_vec();
        assert_eq!(in_place.get(5..5 + length), Some(carried.as_slice()));
        (content, carried)
    })
}

/// Nobody without the key makes a record; with it what was sealed is opened, unless it was cut or changed.
pub fn record(bytes: &[u8]) {
    if let Ok(Some(length)) = record::length(bytes) {
        assert!((22..=5 + MAX_PLAIN + 256).contains(&length));
        if let Some(whole) = bytes.get(..length) {
            assert!(record::opened_length(length) <= whole.len());
        }
    }
    assert!(
        open(bytes).is_err() || bytes == sealed(Content::Data, b"a record"),
        "a record that nobody sealed"
    );
    if let Ok((_, length)) = record::unpad(bytes) {
        assert!(length < bytes.len() && bytes.len() <= MAX_PLAIN + 1);
    }
    let (at, plain) = (bytes.first().copied().unwrap_or_default(), bytes.get(1..).unwrap_or_default());
    let plain = plain.get(..MAX_PLAIN).unwrap_or(plain);
    let content = [Content::Alert, Content::Handshake, Content::Data][usize::from(at % 3)];
    let whole = sealed(content, plain);
    assert_eq!(record::length(&whole), Ok(Some(whole.len())));
    match open(&whole) {
        Ok(opened) => assert_eq!(opened, (content, plain.to_vec())),
        Err(fault) => assert!(plain.is_empty() && content != Content::Data, "{fault}"),
    }
    let mut changed = whole.clone();
    let place = usize::from(at) * 7 % changed.len();
    changed[place] ^= 1 << (at % 8);
    assert!(open(&changed).is_err());
    assert!(open(&whole[..whole.len() - 1]).is_err());
}

fn sealed(content: Content, plain: &[u8]) -> Vec<u8> {
    let mut record = vec![0; plain.len() + OVERHEAD];
    let length = key().seal(content, plain, &mut record).expect("there is room");
    assert_eq!(length, record.len());
    record
}

pub fn records() -> Vec<Vec<u8>> {
    vec![sealed(Content::Data, b"a record"), vec![23, 3, 3, 0x41, 0], b"x\x17\0\0".to_vec(), vec![1; 300]]
}

/// Messages are the same however they are cut up, unless where a record ends matters; what waits for its rest is bounded.
pub fn message(bytes: &[u8]) {
    let (size, bytes) = (bytes.first().copied().unwrap_or_default(), bytes.get(1..).unwrap_or_default());
    let (whole, at_once) = messages_of(&[bytes]);
    let pieces: Vec<&[u8]> = bytes.chunks(usize::from(size).max(1)).collect();
    let (cut, in_pieces) = messages_of(&pieces);
    if whole.is_ok() {
        assert_eq!((cut, in_pieces), (whole, at_once));
    }
}

fn messages_of(parts: &[&[u8]]) -> (Result<(), record::Fault>, Vec<Message>) {
    let (mut messages, mut taken) = (Messages::default(), Vec::new());
    let result = parts.iter().try_for_each(|part| {
        messages.add(part, |message| {
            taken.push(message);
            Ok(())
        })
    });
    (result, taken)
}

pub fn messages() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 4] =
        [&[1, 24, 0, 0, 1, 1], &[3, 4, 0, 0, 2, 7, 7, 24, 0, 0, 1, 0], &[2, 4, 0, 0x40, 1], &[9, 1, 0, 0, 0]];
    seeds.map(<[u8]>::to_vec).into()
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a short seed").to_be_bytes()
}
