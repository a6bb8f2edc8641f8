//! What an authority writes, keeps and refuses.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use weft_certs::{Authority, CertError, Credentials, KeyPair, pem, request, serial_of, trust_domain_of};
use weft_core::model::TrustDomain;
use x509_parser::prelude::*;

use crate::support::{authority, credentials, domain, handshake, id, now, wanted};

const DAY: Duration = Duration::from_hours(24);

fn parse(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[test]
fn a_certificate_obeys_the_standard_to_the_letter() {
    let authority = authority();
    let issued =
        authority.sign(&request(&KeyPair::generate().unwrap()).unwrap(), &wanted("web", DAY)).unwrap();
    let certificate = parse(&issued.chain[0]);
    assert_eq!(certificate.version(), X509Version::V3);
    assert_eq!(certificate.subject().iter().count(), 0);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI(id("web").as_str())]);
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.value.path_len_constraint.is_none());
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any && purposes.other.is_empty());
    assert_eq!(
        certificate.public_key().algorithm.parameters.as_ref().unwrap().as_oid().unwrap().to_id_string(),
        "1.2.840.10045.3.1.7",
        "P-256"
    );
}

#[test]
fn a_certificate_names_its_signer_s_key_and_its_own() {
    let authority = authority();
    let issued =
        authority.sign(&request(&KeyPair::generate().unwrap()).unwrap(), &wanted("web", DAY)).unwrap();
    let [leaf, issuing] = [0, 1].map(|at| parse(&issued.chain[at]));
    fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> &'a [u8] {
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            })
            .unwrap()
    }
    let authority_key = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    assert_eq!(authority_key, Some(subject_key(&issuing)));
    assert_ne!(subject_key(&leaf), subject_key(&issuing));
    assert_eq!(issued.issuer, authority.issuer());
    assert!(leaf.issuer().to_string().contains(&issued.issuer));
}

#[test]
fn serial_numbers_are_sixteen_random_positive_bytes() {
    let authority = authority();
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let issued = authority.sign(&request, &wanted("web", DAY)).unwrap();
        let raw = parse(&issued.chain[0]).raw_serial().to_vec();
        assert!(raw.len() == 16 && raw[0] < 0x80, "{raw:02x?}");
        assert_eq!(serial_of(&issued.chain[0]).unwrap(), issued.serial);
        assert!(seen.insert(issued.serial));
    }
}

#[test]
fn the_signing_certificates_are_svids_without_a_path() {
    let authority = authority();
    let root = authority.anchors().remove(0);
    let issued =
        authority.sign(&request(&KeyPair::generate().unwrap()).unwrap(), &wanted("web", DAY)).unwrap();
    for (der, path_len, days) in [(&root, None, 3650), (&issued.chain[1], Some(0), 365)] {
        let certificate = parse(der);
        assert_eq!(trust_domain_of(der).unwrap(), domain());
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, path_len);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        let validity = certificate.validity();
        let life = validity.not_after.timestamp() - seconds(now());
        assert!((life - days * 86_400).abs() <= 1, "{life}");
        assert!(validity.not_before.timestamp() <= seconds(now()) - 30);
    }
}

#[test]
fn lives_are_counted_from_now_in_whole_seconds() {
    let authority = authority();
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    for (ttl, back) in [(1, 1), (3, 3), (30, 30), (86_400, 30)] {
        let ttl = Duration::from_secs(ttl);
        let issued = authority.sign(&request, &wanted("web", ttl)).unwrap();
        let left = issued.not_after.duration_since(now()).unwrap();
        assert!(left >= ttl && left < ttl + Duration::from_secs(1), "{left:?}");
        let back_dated = now().duration_since(issued.not_before).unwrap();
        assert!(back_dated >= Duration::from_secs(back) && back_dated < Duration::from_secs(back + 1));
        let validity = parse(&issued.chain[0]).validity().clone();
        assert_eq!(validity.not_after.timestamp(), seconds(issued.not_after));
        assert_eq!(validity.not_before.timestamp(), seconds(issued.not_before));
    }
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let authority = authority();
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    let issued = authority.sign(&request, &wanted("web", 1000 * DAY)).unwrap();
    assert_eq!(issued.not_after, authority.issuing_not_after());
    let mut late = wanted("web", DAY);
    late.now = authority.issuing_not_after();
    assert!(matches!(authority.sign(&request, &late), Err(CertError::IssuerExpired)));
}

#[test]
fn impossible_lives_and_times_are_refused() {
    let authority = authority();
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        let refused = authority.sign(&request, &wanted("web", ttl));
        assert!(matches!(refused, Err(CertError::Lifetime(refused)) if refused == ttl), "{refused:?}");
    }
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for now in [SystemTime::UNIX_EPOCH, far] {
        assert!(matches!(Authority::create(&domain(), now), Err(CertError::Time)));
    }
}

#[test]
fn dns_names_and_addresses_stand_beside_the_identity() {
    let authority = authority();
    let mut params = wanted("control-plane", DAY);
    params.dns = vec!["localhost".into(), "weft.example".into()];
    params.ips = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    let issued = authority.sign(&request, &params).unwrap();
    let der = CertificateDer::from(issued.chain[0].as_slice());
    let certificate = webpki::EndEntityCert::try_from(&der).unwrap();
    let names = params.dns.iter().map(|name| ServerName::DnsName(DnsName::try_from(name.clone()).unwrap()));
    let ips = params.ips.iter().map(|ip: &IpAddr| ServerName::IpAddress((*ip).into()));
    for name in names.chain(ips) {
        certificate.verify_is_valid_for_subject_name(&name).unwrap();
    }
    assert_eq!(weft_certs::peer_identity(&der).unwrap(), params.identity);
    for bad in ["", "a b", "*.example", "ex ample", "a..b", "ünicode", &"a".repeat(300)] {
        params.dns = vec![bad.into()];
        assert!(matches!(authority.sign(&request, &params), Err(CertError::DnsName(_))), "{bad:?}");
    }
}

#[test]
fn identities_of_other_trust_domains_are_refused() {
    let mut params = wanted("web", DAY);
    params.identity = "spiffe://other/ns/shop/sa/web".parse().unwrap();
    let refused = authority().sign(&request(&KeyPair::generate().unwrap()).unwrap(), &params);
    assert!(matches!(refused, Err(CertError::ForeignIdentity { .. })));
}

#[test]
fn trust_domains_may_be_as_long_as_the_standard_says() {
    let longest: TrustDomain = "d".repeat(255).parse().unwrap();
    let authority = Authority::create(&longest, now()).unwrap();
    assert_eq!(trust_domain_of(&authority.anchors()[0]).unwrap(), longest);
}

#[test]
fn an_authority_is_read_back_and_its_certificates_stay_valid() {
    let before = authority();
    let after = Authority::from_pem(&before.to_pem()).unwrap();
    assert_eq!(after.trust_domain(), &domain());
    assert_eq!(after.anchors(), before.anchors());
    assert_eq!(after.issuer(), before.issuer());
    assert_eq!(after.issuing_not_after(), before.issuing_not_after());
    assert_eq!(pem::certificates(&after.anchors_pem()).unwrap(), before.anchors());
    assert_eq!(after.to_pem(), before.to_pem());
    speak(&before, &after);
}

#[test]
fn a_new_issuing_certificate_goes_on_under_the_same_root() {
    let before = authority();
    let after = Authority::from_pem(&before.to_pem()).unwrap().renew_issuing(now() + 300 * DAY).unwrap();
    assert_eq!(after.anchors(), before.anchors());
    assert_ne!(after.issuer(), before.issuer());
    assert_eq!(after.issuing_not_after(), before.issuing_not_after() + 300 * DAY);

    let web = credentials(&before, "web");
    let key = KeyPair::generate().unwrap();
    let mut params = wanted("orders", DAY);
    params.now = now() + 300 * DAY;
    let orders = after.sign(&request(&key).unwrap(), &params).unwrap();
    assert!(orders.not_after > web.not_after());
    Credentials::new(orders.chain, &key, &after.anchors(), &domain()).unwrap();

    let late = Authority::from_pem(&before.to_pem()).unwrap().renew_issuing(now() + 3651 * DAY);
    assert!(matches!(late, Err(CertError::IssuerExpired)));
}

#[test]
fn pieces_that_do_not_belong_together_are_no_authority() {
    let (ours, theirs) = (authority().to_pem(), authority().to_pem());
    let sections = |text: &str| -> Vec<String> {
        text.split_inclusive("-----\n").collect::<Vec<_>>().chunks(2).map(|pair| pair.concat()).collect()
    };
    let (ours, theirs) = (sections(&ours), sections(&theirs));
    assert_eq!(ours.len(), 4);
    let check = |sections: &[&String], expected: &str| {
        let text: String = sections.iter().map(|section| section.as_str()).collect();
        assert_eq!(Authority::from_pem(&text).unwrap_err().to_string(), expected);
    };
    check(&[], "the PEM text holds no root certificate");
    check(&[&ours[0]], "the PEM text holds no root key");
    check(&[&ours[0], &ours[1]], "the PEM text holds no issuing certificate");
    check(&[&ours[0], &ours[1], &ours[2]], "the PEM text holds no issuing key");
    check(&[&ours[0], &theirs[1]], "the authority's key is not that of its certificate");
    check(
        &[&ours[0], &ours[1], &theirs[2], &theirs[3]],
        "the authority's issuing certificate is not signed by its root",
    );
}

#[test]
fn nothing_secret_is_shown() {
    let authority = authority();
    let shown = format!("{authority:?} {:?}", credentials(&authority, "web"));
    assert!(shown.contains("spiffe://mesh.local/ns/shop/sa/web"), "{shown}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("key") && shown.len() < 400, "{shown}");
}

#[test]
fn credentials_want_a_chain_its_key_and_anchors_of_the_domain() {
    let authority = authority();
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let chain = authority.sign(&request(&key).unwrap(), &wanted("web", DAY)).unwrap().chain;
    let roots = authority.anchors();
    let new = |chain: &[Vec<u8>], key, roots: &[Vec<u8>], domain: &str| {
        Credentials::new(chain.to_vec(), key, roots, &domain.parse().unwrap())
            .map(drop)
            .map_err(|e| e.to_string())
    };
    assert_eq!(new(&chain, &key, &roots, "mesh.local"), Ok(()));
    assert_eq!(new(&[], &key, &roots, "mesh.local").unwrap_err(), "the certificate chain is empty");
    assert_eq!(new(&chain, &other, &roots, "mesh.local").unwrap_err(), "cannot make TLS settings");
    assert_eq!(new(&chain, &key, &[], "mesh.local").unwrap_err(), "there are no trust anchors");
    assert_eq!(
        new(&chain, &key, &[b"x".to_vec()], "mesh.local").unwrap_err(),
        "a trust anchor is not usable"
    );
    assert_eq!(
        new(&chain, &key, &roots, "other").unwrap_err(),
        "spiffe://mesh.local/ns/shop/sa/web is not of the trust domain other"
    );
    assert!(new(&roots, &key, &roots, "mesh.local").is_err(), "an authority is no workload");
}

fn speak(one: &Authority, other: &Authority) {
    let (web, orders) = (credentials(one, "web"), credentials(other, "orders"));
    let client = web.client_config(&id("orders"), &[]).unwrap();
    handshake(&client, &orders.server_config(&[], weft_certs::ClientAuth::Required).unwrap()).unwrap();
}
