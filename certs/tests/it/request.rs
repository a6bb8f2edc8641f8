//! What a certificate request may and may not ask for.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, SanType};
use rcgen::{KeyPair as AnyKey, KeyUsagePurpose, RsaKeySize};
use weft_certs::{CertError, KeyPair, request};

use crate::support::{authority, id, wanted};

fn sign(request: &[u8]) -> Result<(), CertError> {
    authority().sign(request, &wanted("web", Duration::from_secs(60))).map(drop)
}

/// A request of a P-256 key with something more in it.
fn asking(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    edit(&mut params);
    params.serialize_request(&AnyKey::generate().unwrap()).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn refused(request: &[u8]) -> String {
    sign(request).unwrap_err().to_string()
}

#[test]
fn a_request_that_names_nobody_or_its_owner_is_answered() {
    sign(&request(&KeyPair::generate().unwrap()).unwrap()).unwrap();
    sign(&asking(|_| {})).unwrap();
    sign(&asking(|params| params.subject_alt_names = vec![uri(id("web").as_str())])).unwrap();
}

#[test]
fn the_subject_of_a_request_is_not_copied() {
    let request = asking(|params| params.distinguished_name.push(DnType::CommonName, "root"));
    let issued = authority().sign(&request, &wanted("web", Duration::from_secs(60))).unwrap();
    assert!(!issued.chain[0].windows(4).any(|bytes| bytes == b"root"));
}

#[test]
fn other_names_are_refused() {
    let dns = SanType::DnsName(Ia5String::try_from("web").unwrap());
    for names in [
        vec![uri("spiffe://mesh.local/ns/shop/sa/orders")],
        vec![uri("spiffe://mesh.local/ns/shop/sa/Web")],
        vec![uri(id("web").as_str()), uri(id("orders").as_str())],
        vec![uri(id("web").as_str()), uri(id("web").as_str())],
        vec![uri(id("web").as_str()), dns.clone()],
        vec![dns],
        vec![SanType::IpAddress([127, 0, 0, 1].into())],
    ] {
        let error = refused(&asking(|params| params.subject_alt_names = names.clone()));
        assert!(error.ends_with(&format!("it may name {} or nothing", id("web"))), "{names:?}: {error}");
    }
}

#[test]
fn other_extensions_are_refused() {
    let edits: [fn(&mut CertificateParams); 3] = [
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
        |params| params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])],
    ];
    for (edit, oid) in edits.into_iter().zip(["2.5.29.19", "2.5.29.15", "1.2.3"]) {
        let error = refused(&asking(edit));
        assert!(error.contains(&format!("the extension {oid}")), "{error}");
    }
}

#[test]
fn keys_that_are_not_p_256_are_refused_by_name() {
    let check = |key: AnyKey, expected: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let error = refused(params.serialize_request(&key).unwrap().der());
        assert_eq!(
            error,
            format!("the certificate request carries {expected}; only ECDSA P-256 keys are certified")
        );
    };
    check(
        AnyKey::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        "an RSA key of 2048 bits",
    );
    check(AnyKey::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), "an elliptic curve key of 384 bits");
    check(AnyKey::generate_for(&rcgen::PKCS_ED25519).unwrap(), "a key of the algorithm 1.3.101.112");
}

#[test]
fn a_request_must_be_signed_by_its_own_key() {
    let (one, other) =
        (request(&KeyPair::generate().unwrap()).unwrap(), request(&KeyPair::generate().unwrap()).unwrap());
    // The key is the 65 bytes before the empty attributes; both requests have it at the same place.
    let at = one.windows(4).position(|bytes| bytes == [0x03, 0x42, 0x00, 0x04]).unwrap() + 4;
    let mut forged = one.clone();
    forged[at..at + 64].copy_from_slice(&other[at..at + 64]);
    assert!(matches!(sign(&forged), Err(CertError::RequestSignature)));
    sign(&one).unwrap();
}

#[test]
fn a_request_that_is_cut_or_continued_is_refused() {
    let whole = request(&KeyPair::generate().unwrap()).unwrap();
    for end in 0..whole.len() {
        assert!(matches!(sign_fast(&whole[..end]), Err(CertError::Malformed(_))), "{end} bytes");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(sign(&longer), Err(CertError::Malformed(_))));
}

/// With one authority for many tries.
fn sign_fast(request: &[u8]) -> Result<(), CertError> {
    static AUTHORITY: std::sync::LazyLock<weft_certs::Authority> = std::sync::LazyLock::new(authority);
    AUTHORITY.sign(request, &wanted("web", Duration::from_secs(60))).map(drop)
}
