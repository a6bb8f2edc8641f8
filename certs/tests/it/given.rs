//! An authority that others make and renew, and how it is followed.

use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};
use weft_certs::{
    Authority, CertError, ClientAuth, Credentials, Phase, Progress, Role, Roots, RotateError, request,
};

use crate::support::{credentials, domain, handshake, id, now, wanted};

const DONE: Progress = Progress { unaware: 0, former_in_use: 0 };
const YEAR: Duration = Duration::from_hours(365 * 24);

/// A certificate of somebody else's authority.
struct Other {
    pem: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, names_domain: bool, ends: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, name);
    if names_domain {
        params.subject_alt_names = vec![SanType::URI("spiffe://mesh.local".try_into().unwrap())];
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(now() - Duration::from_hours(1));
    params.not_after = epoch + since(ends);
    params
}

impl Other {
    fn root_of(params: CertificateParams, kind: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(kind).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    fn root(name: &str) -> Self {
        Self::root_of(params(name, true, now() + YEAR), &PKCS_ECDSA_P384_SHA384)
    }

    fn below_of(&self, params: CertificateParams, kind: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(kind).unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str) -> Self {
        self.below_of(params(name, false, now() + YEAR), &PKCS_ECDSA_P256_SHA256)
    }
}

fn given(chain: &[&Other], key: &str, roots: &[&Other]) -> Result<Authority, CertError> {
    let text = |of: &[&Other]| of.iter().map(|one| one.pem.as_str()).collect::<String>();
    Authority::given(&domain(), &text(chain), key, &text(roots), now())
}

fn of(issuing: &Other, roots: &[&Other]) -> Authority {
    given(&[issuing], &issuing.key, roots).unwrap()
}

fn meet(authority: &Authority) {
    let (client, server) = (credentials(authority, "web"), credentials(authority, "orders"));
    assert!(client.is_of_first_anchor());
    let client = client.client_config(&id("orders"), &[]).unwrap();
    handshake(&client, &server.server_config(&[], ClientAuth::Required).unwrap()).unwrap();
}

#[test]
fn whatever_kind_of_key_signs_and_however_long_the_chain_members_believe_one_another() {
    let (root, other) = (Other::root("root"), Other::root("another root"));
    let between = root.below("between");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let issuing = between.below_of(params("issuing", false, now() + YEAR), kind);
        // The root may stand in the chain too, and roots in any order.
        for chain in [&[&issuing, &between][..], &[&issuing, &root, &between]] {
            let authority = given(chain, &issuing.key, &[&other, &root]).unwrap();
            assert_eq!((authority.anchors().len(), authority.issuer()), (2, "issuing"));
            let key = weft_certs::KeyPair::generate().unwrap();
            let signed = authority.sign(&request(&key).unwrap(), &wanted("web", YEAR)).unwrap();
            assert_eq!(signed.chain.len(), 3, "its own, the issuing one and the one between");
            meet(&authority);
        }
    }
    // A root that signs by itself.
    meet(&of(&root, &[&root]));
}

#[test]
fn keys_in_the_form_of_sec1_are_read_with_what_stands_before_them() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
    let key = pem::encode(&pem::Pem::new("EC PRIVATE KEY", der.as_ref()));
    let parameters = pem::encode(&pem::Pem::new("EC PARAMETERS", [6, 8, 42]));
    let root = Other::root("root");
    let made = KeyPair::try_from(der.as_ref()).unwrap();
    let issuing = params("issuing", false, now() + YEAR).signed_by(&made, &root.issuer).unwrap().pem();
    let authority = Authority::given(&domain(), &issuing, &format!("{parameters}{key}"), &root.pem, now());
    meet(&authority.unwrap());
}

#[test]
fn what_is_half_written_or_signs_nothing_is_refused_for_its_reason() {
    let (root, other) = (Other::root("root"), Other::root("other"));
    let (issuing, next) = (root.below("issuing"), root.below("next"));
    let unnamed = Other::root_of(params("unnamed", false, now() + YEAR), &PKCS_ECDSA_P256_SHA256);
    let over = root.below_of(params("over", false, now() - Duration::from_mins(1)), &PKCS_ECDSA_P256_SHA256);
    let mut no_ca = params("leaf", false, now() + YEAR);
    no_ca.is_ca = IsCa::NoCa;
    let leaf = root.below_of(no_ca, &PKCS_ECDSA_P256_SHA256);
    let check = |chain: &[&Other], key: &str, roots: &[&Other], expected: &str| {
        let error = given(chain, key, roots).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, not {expected}");
    };
    check(&[&issuing], &next.key, &[&root], "key is not that of its certificate");
    check(&[&issuing], &issuing.key, &[&other], "leads to none of its roots");
    check(&[&issuing], &issuing.key, &[&root, &unnamed], "\"unnamed\" does not name the trust domain");
    check(&[&over], &over.key, &[&root], "has expired");
    check(&[&leaf], &leaf.key, &[&root], "may not sign certificates");
    check(&[], &issuing.key, &[&root], "no certificate");
    check(&[&issuing], "", &[&root], "no private key");
    check(&[&issuing], &issuing.key.replace("-----END", ""), &[&root], "PEM");
    check(&[&issuing], &issuing.key, &[], "no certificate");
    let elsewhere =
        Authority::given(&"other.example".parse().unwrap(), &issuing.pem, &issuing.key, &root.pem, now());
    assert!(matches!(elsewhere, Err(CertError::RootDomain { .. })));
    let early = Authority::given(&domain(), &issuing.pem, &issuing.key, &root.pem, now() - YEAR);
    assert!(early.unwrap_err().to_string().contains("not valid yet"));
}

#[test]
fn what_leads_to_a_root_that_is_trusted_signs_at_once_and_what_does_not_is_announced_first() {
    let (one, two) = (Other::root("one"), Other::root("two"));
    let (first, second) = (of(&one.below("a"), &[&one]), of(&one.below("b"), &[&one]));
    let roots = Roots::given(first.clone(), None, now()).unwrap();
    assert!(roots.follow(&first, now()).is_none());
    let renewed = roots.follow(&second, now()).unwrap();
    assert_eq!((renewed.phase(), renewed.issuer(), renewed.anchors()), (Phase::Steady, "b", roots.anchors()));

    // Another root beside it, as trust-manager does it.
    let beside = renewed.follow(&of(&one.below("c"), &[&one, &two]), now()).unwrap();
    assert_eq!((beside.phase(), beside.anchors().len()), (Phase::Steady, 2));
    let roles = |roots: &Roots| roots.roots().unwrap().into_iter().map(|root| root.role).collect::<Vec<_>>();
    assert_eq!(roles(&beside), [Role::Signing, Role::Trusted]);

    // Another root in its place, all at once.
    let after = of(&two.below("d"), &[&two]);
    let announced = renewed.follow(&after, now()).unwrap();
    assert_eq!((announced.phase(), announced.issuer()), (Phase::Announced, "b"));
    assert!(announced.follow(&after, now()).is_none());
    assert_eq!(announced.follow(&second, now()).unwrap().phase(), Phase::Steady, "it was taken back");
    assert!(announced.advance(Progress { unaware: 1, ..DONE }, now()).unwrap().is_none());
    let moved = announced.advance(Progress { former_in_use: 1, ..DONE }, now()).unwrap().unwrap();
    assert_eq!((moved.phase(), moved.issuer()), (Phase::Moved, "d"));
    assert_eq!(roles(&moved), [Role::Signing, Role::Former]);
    assert!(moved.advance(Progress { former_in_use: 1, ..DONE }, now()).unwrap().is_none());
    let again = moved.follow(&of(&two.below("e"), &[&two]), now()).unwrap();
    assert_eq!((again.phase(), again.issuer(), again.anchors()), (Phase::Moved, "e", moved.anchors()));
    let back = moved.follow(&of(&two.below("f"), &[&two, &one]), now()).unwrap();
    assert_eq!(
        (back.phase(), back.anchors().len()),
        (Phase::Steady, 2),
        "the former root is to last after all"
    );
    let done = again.advance(DONE, now()).unwrap().unwrap();
    assert_eq!((done.phase(), done.anchors()), (Phase::Steady, after.anchors()));
    let sequences = [&renewed, &announced, &moved, &again, &done].map(Roots::sequence);
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
}

#[test]
fn what_was_trusted_before_a_restart_stays_so_until_nobody_needs_it_and_no_key_is_written() {
    let (one, two) = (Other::root("one"), Other::root("two"));
    let issuing = one.below("a");
    let before = Roots::given(of(&issuing, &[&one]), None, now()).unwrap();
    let remembered = before.to_pem();
    assert!(!remembered.contains("PRIVATE"), "{remembered}");
    let same = Roots::given(of(&issuing, &[&one]), Some(&remembered), now()).unwrap();
    assert_eq!((same.sequence(), same.phase()), (before.sequence(), Phase::Steady));
    let after = Roots::given(of(&two.below("b"), &[&two]), Some(&remembered), now()).unwrap();
    assert_eq!((after.phase(), after.anchors().len()), (Phase::Moved, 2));
    assert!(after.sequence() > before.sequence());
    assert!(Roots::given(of(&issuing, &[&one]), Some("x"), now()).is_err());
}

#[test]
fn our_own_root_is_left_for_others_by_the_same_steps_and_neither_rotates_then() {
    let own = Roots::create(&domain(), now()).unwrap();
    let two = Other::root("two");
    let given = of(&two.below("issuing"), &[&two]);
    let announced = own.follow(&given, now()).unwrap();
    assert_eq!(announced.phase(), Phase::Announced);
    assert!(matches!(announced.rotate(now()), Err(RotateError::Given)));
    assert!(matches!(announced.abort(now()), Err(RotateError::Given)));
    // What is written of it begins anew.
    assert_eq!(Roots::from_pem(&announced.to_pem(), now()).unwrap().phase(), Phase::Steady);
    let moved = announced.advance(DONE, now()).unwrap().unwrap();
    assert!(moved.is_given() && moved.phase() == Phase::Moved);
    assert!(!moved.to_pem().contains("PRIVATE"));
    assert!(matches!(moved.rotate(now()), Err(RotateError::Given)));
    let key = weft_certs::KeyPair::generate().unwrap();
    let issued = moved.sign(&request(&key).unwrap(), &wanted("web", YEAR)).unwrap();
    Credentials::new(issued.chain, &key, &moved.anchors(), &domain()).unwrap();
    assert!(moved.renew_issuing(now() + YEAR).unwrap().is_none(), "others renew it");
}

#[test]
fn a_move_is_given_up_as_long_as_it_is_only_announced() {
    let steady = Roots::create(&domain(), now()).unwrap();
    assert!(matches!(steady.abort(now()), Err(RotateError::NoMove)));
    let announced = steady.rotate(now()).unwrap();
    let stayed = announced.abort(now()).unwrap();
    assert_eq!((stayed.phase(), stayed.anchors()), (Phase::Steady, steady.anchors()));
    assert!(stayed.sequence() > announced.sequence());
    let moved = announced.advance(DONE, now()).unwrap().unwrap();
    assert!(matches!(moved.abort(now()), Err(RotateError::TooLate)));
    stayed.rotate(now()).unwrap();
}
