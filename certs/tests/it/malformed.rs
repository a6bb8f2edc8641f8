//! Certificates that our own anchors' keys have signed and that must be refused all the same, by clients and by servers.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, ServerConfig};
use weft_certs::{ClientAuth, Credentials, anchored_client_config, peer_identity};

use crate::support::{domain, handshake, id};

type Edit = fn(&mut CertificateParams);

/// A certificate that signs.
struct Signer {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    fn root() -> Self {
        let key = key();
        let params = signing("root", BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str, edit: Edit) -> Self {
        let key = key();
        let mut params = signing(name, BasicConstraints::Constrained(0));
        edit(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    /// A workload's certificate in good order, but for an edit.
    fn leaf(&self, edit: Edit) -> (CertificateDer<'static>, KeyPair) {
        let key = key();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id("web").as_str())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn signing(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn names(params: &mut CertificateParams, names: &[&str]) {
    params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
}

fn custom(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const NAMES: [u64; 4] = [2, 5, 29, 17];
const CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
const PURPOSES: [u64; 4] = [2, 5, 29, 37];

/// Both directions: the peer as a server that we dial, and as a client that dials us.
fn refusals(root: &Signer, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> [Option<Error>; 2] {
    let private =
        aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let theirs = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, private)));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let anchors = [root.der.to_vec()];

    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(theirs.clone());
    let ours = anchored_client_config(&anchors, &id("web"), &[]).unwrap();
    let dialled = handshake(&ours, &server).err().and_then(|failure| failure.client);

    let (own, own_key) = root.leaf(|params| names(params, &[id("orders").as_str()]));
    let own_key = weft_certs::KeyPair::from_pem(&own_key.serialize_pem()).unwrap();
    let ours = Credentials::new(vec![own.to_vec()], &own_key, &anchors, &domain()).unwrap();
    let ours = ours.server_config(&[], ClientAuth::Required).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(theirs);
    let served = handshake(&client, &ours).err().and_then(|failure| failure.server);
    [dialled, served]
}

fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        other => other.to_string(),
    }
}

#[track_caller]
fn check_chain(root: &Signer, chain: Vec<CertificateDer<'static>>, key: &KeyPair, expected: &str) {
    for error in refusals(root, chain, key) {
        let reason = reason(&error.expect("accepted"));
        assert!(reason.contains(expected), "expected {expected:?}, was refused for: {reason}");
    }
}

/// A workload's certificate with one fault, signed as it should be.
#[track_caller]
fn check(expected: &str, edit: Edit) {
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let (leaf, key) = issuing.leaf(edit);
    check_chain(&root, vec![leaf, issuing.der], &key, expected);
}

#[test]
fn a_certificate_in_good_order_is_accepted() {
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let edits: [Edit; 4] = [
        |_| {},
        |params| params.extended_key_usages.clear(),
        |params| params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from("web").unwrap())),
        |params| params.key_usages.push(KeyUsagePurpose::KeyAgreement),
    ];
    for edit in edits {
        let (leaf, key) = issuing.leaf(edit);
        assert_eq!(peer_identity(&leaf).unwrap(), id("web"));
        assert_eq!(refusals(&root, vec![leaf, issuing.der.clone()], &key), [None, None]);
    }
}

#[test]
fn anything_but_one_uri_is_refused() {
    check("has 0 URI names", |params| params.subject_alt_names.clear());
    check("has 0 URI names", |params| {
        params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("web").unwrap())];
    });
    check("has 2 URI names", |params| names(params, &[id("web").as_str(), id("orders").as_str()]));
    check("has 2 URI names", |params| names(params, &[id("web").as_str(), "https://web.example"]));
    check("has 3 URI names", |params| names(params, &[id("web").as_str(); 3]));
}

#[test]
fn names_that_are_no_identity_of_a_workload_are_refused() {
    const EXPECTED: &str = "not a workload's SPIFFE identity";
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/web/"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/%77eb"]));
    check(EXPECTED, |params| names(params, &["spiffe://MESH.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local:443/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://root@mesh.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/../sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/web?a=b"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/web\n"]));
    check(EXPECTED, |params| names(params, &["https://mesh.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe:///ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &[&format!("spiffe://mesh.local/{}", "a".repeat(2048))]));
    check(EXPECTED, |params| names(params, &[""]));
}

#[test]
fn identities_that_only_look_like_ours_are_refused() {
    const EXPECTED: &str = "not a workload's SPIFFE identity";
    check(EXPECTED, |params| names(params, &["SPIFFE://mesh.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe:/mesh.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local//ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/./sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/web#x"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/web\0.evil"]));
    check(EXPECTED, |params| names(params, &[" spiffe://mesh.local/ns/shop/sa/web"]));
    check(EXPECTED, |params| names(params, &["spiffe://mesh.local/ns/shop/sa/w b"]));
    check(EXPECTED, |params| names(params, &[&format!("spiffe://{}/ns/shop/sa/web", "m".repeat(256))]));
}

#[test]
fn the_right_identity_under_another_name_is_somebody_else() {
    // Where a name of a host or a subject says web, nobody is believed to be web.
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let (leaf, key) = issuing.leaf(|params| {
        names(params, &[id("payments").as_str()]);
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from("web").unwrap()));
        params.distinguished_name.push(DnType::CommonName, "web");
    });
    let [dialled, _] = refusals(&root, vec![leaf, issuing.der], &key);
    let reason = reason(&dialled.expect("accepted"));
    assert_eq!(reason, format!("the peer is {}, expected {}", id("payments"), id("web")));
}

#[test]
fn chains_that_were_tampered_with_or_put_together_from_parts_are_refused() {
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let (leaf, key) = issuing.leaf(|_| {});
    let (other, other_key) = issuing.leaf(|_| {});
    // Somebody's certificate with another's key.
    let failure = refusals(&root, vec![leaf.clone(), issuing.der.clone()], &other_key);
    assert!(failure.iter().all(Option::is_some), "{failure:?}");
    // One bit of the signature, of the issuer, of the identity.
    for place in [leaf.len() - 1, leaf.len() / 2] {
        let mut bent = leaf.to_vec();
        bent[place] ^= 1;
        let chain = vec![CertificateDer::from(bent), issuing.der.clone()];
        assert!(refusals(&root, chain, &key).iter().all(Option::is_some), "byte {place}");
    }
    // The leaf of another issuer of the same name.
    let twin = root.below("issuing", |_| {});
    check_chain(&root, vec![leaf.clone(), twin.der], &key, "BadSignature");
    // The leaf behind another leaf, and no leaf at all.
    check_chain(&root, vec![issuing.der.clone(), leaf], &key, "has 0 URI names");
    drop((other, other_key));
}

#[test]
fn identities_of_other_trust_domains_are_refused_whoever_signed_them() {
    check("is of a trust domain without anchors here", |params| {
        names(params, &["spiffe://other/ns/shop/sa/web"])
    });
}

#[test]
fn names_that_are_not_critical_without_a_subject_are_refused() {
    let content = [&[0x30, 0x24, 0x86, 0x22], id("web").as_str().as_bytes()].concat();
    assert_eq!(id("web").as_str().len(), 0x22);
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let key = key();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.custom_extensions = vec![custom(&NAMES, &content, false)];
    let leaf = params.signed_by(&key, &issuing.issuer).unwrap().der().clone();
    check_chain(&root, vec![leaf, issuing.der], &key, "names are not critical");
}

#[test]
fn certificates_of_authorities_are_refused() {
    check("it is an authority's", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    check("it is an authority's", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
}

#[test]
fn keys_for_other_uses_are_refused() {
    check("it has no key usage", |params| params.key_usages.clear());
    check("its key usage is not critical", |params| {
        params.key_usages.clear();
        params.custom_extensions = vec![custom(&KEY_USAGE, &[0x03, 0x02, 0x07, 0x80], false)];
    });
    check("its key may not sign", |params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    const EXPECTED: &str = "may sign certificates or revocation lists";
    check(EXPECTED, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    check(EXPECTED, |params| params.key_usages.push(KeyUsagePurpose::CrlSign));
}

#[test]
fn certificates_for_one_side_only_are_refused() {
    const EXPECTED: &str = "not both server and client authentication";
    check(EXPECTED, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    check(EXPECTED, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    check(EXPECTED, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    check(EXPECTED, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
}

#[test]
fn extensions_that_are_twice_there_or_unreadable_are_refused() {
    check("its key usage is malformed", |params| {
        params.custom_extensions = vec![custom(&KEY_USAGE, &[0x03, 0x02, 0x07, 0x80], true)];
    });
    check("its names are malformed", |params| {
        params.custom_extensions = vec![custom(&NAMES, &[0x30, 0x00], true)];
    });
    check("its basic constraints are malformed", |params| {
        params.custom_extensions = vec![custom(&CONSTRAINTS, &[0x30, 0x00], true)];
    });
    check("its purposes are malformed", |params| {
        params.custom_extensions = vec![custom(&PURPOSES, &[0x30, 0x00], false)];
    });
    check("its purposes are malformed", |params| {
        params.extended_key_usages.clear();
        params.custom_extensions = vec![custom(&PURPOSES, &[0x04, 0x00], false)];
    });
    check("its key usage is malformed", |params| {
        params.key_usages.clear();
        params.custom_extensions = vec![custom(&KEY_USAGE, &[0x04, 0x00], true)];
    });
    check("BadEncoding", |params| {
        params.is_ca = IsCa::NoCa;
        params.custom_extensions = vec![custom(&CONSTRAINTS, &[0x04, 0x00], true)];
    });
}

#[test]
fn critical_extensions_that_nobody_knows_are_refused() {
    check("certificate is not valid here", |params| {
        params.custom_extensions = vec![custom(&[1, 3, 6, 1, 4, 1, 99999, 1], &[0x05, 0x00], true)];
    });
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    check("certificate expired", |params| params.not_after = rcgen::date_time_ymd(2026, 1, 1));
    check("certificate not valid yet", |params| params.not_before = rcgen::date_time_ymd(2027, 1, 1));
}

#[test]
fn paths_that_do_not_hold_are_refused() {
    let root = Signer::root();
    let issuing = root.below("issuing", |_| {});
    let (leaf, key) = issuing.leaf(|_| {});
    check_chain(&root, vec![leaf.clone()], &key, "UnknownIssuer");
    check_chain(&Signer::root(), vec![leaf, issuing.der.clone()], &key, "BadSignature");

    let below = issuing.below("below", |_| {});
    let (leaf, key) = below.leaf(|_| {});
    check_chain(&root, vec![leaf, below.der, issuing.der.clone()], &key, "not valid here");

    let workload = root.below("issuing", |params| params.is_ca = IsCa::ExplicitNoCa);
    let (leaf, key) = workload.leaf(|_| {});
    check_chain(&root, vec![leaf, workload.der], &key, "not valid here");

    let mute: [Edit; 2] = [
        |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        |params| params.key_usages.clear(),
    ];
    for edit in mute {
        let issuing = root.below("issuing", edit);
        let (leaf, key) = issuing.leaf(|_| {});
        check_chain(&root, vec![leaf, issuing.der], &key, "its issuer's key may not sign certificates");
    }

    let old = root.below("issuing", |params| params.not_after = rcgen::date_time_ymd(2026, 1, 1));
    let (leaf, key) = old.leaf(|_| {});
    check_chain(&root, vec![leaf, old.der], &key, "certificate expired");
}

#[test]
fn a_root_does_not_speak_for_itself() {
    let root = Signer::root();
    check_chain(&root, vec![root.der.clone()], root.issuer.key(), "has 0 URI names");
    let alone = key();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    names(&mut params, &[id("web").as_str()]);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let leaf = params.self_signed(&alone).unwrap().der().clone();
    check_chain(&root, vec![leaf], &alone, "UnknownIssuer");
}

#[test]
fn a_certificate_that_goes_on_after_its_end_is_refused() {
    let root = Signer::root();
    let (leaf, _) = root.leaf(|_| {});
    let longer = [leaf.as_ref(), &[0]].concat();
    assert!(peer_identity(&leaf).is_ok());
    assert!(peer_identity(&longer).is_err());
}

/// A client that believes any server, so that the handshake gets to the point where its own certificate is judged.
#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
