//! Who gets through to whom.

use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, NamedGroup, ProtocolVersion};
use weft_certs::{ClientAuth, alpn, anchored_client_config, peer_identity};

use crate::support::{authority, credentials, credentials_for, handshake, handshake_at, id, now};

/// The text of the reason for which our side refused the peer.
fn reason(error: Option<Error>) -> String {
    match error {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[test]
fn both_sides_learn_whom_they_speak_with() {
    let authority = authority();
    let (web, orders) = (credentials(&authority, "web"), credentials(&authority, "orders"));
    let (client, server) = handshake(
        &web.client_config(&id("orders"), &[alpn::H2]).unwrap(),
        &orders.server_config(&[alpn::TCP, alpn::H2, alpn::HTTP1], ClientAuth::Required).unwrap(),
    )
    .unwrap();
    assert_eq!(peer_identity(&client.peer_certificates().unwrap()[0]).unwrap(), id("orders"));
    assert_eq!(peer_identity(&server.peer_certificates().unwrap()[0]).unwrap(), id("web"));
    assert_eq!(server.server_name(), Some("p8080.weft.internal"));
    assert_eq!(client.alpn_protocol(), Some(alpn::H2));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn the_server_chooses_by_its_own_preference() {
    let authority = authority();
    let (web, orders) = (credentials(&authority, "web"), credentials(&authority, "orders"));
    let client = web.client_config(&id("orders"), &[alpn::HTTP1, alpn::H2]).unwrap();
    let server = orders.server_config(&[alpn::H2, alpn::HTTP1], ClientAuth::Required).unwrap();
    assert_eq!(handshake(&client, &server).unwrap().0.alpn_protocol(), Some(alpn::H2));
    let server = orders.server_config(&[alpn::TCP], ClientAuth::Required).unwrap();
    let failure = handshake(&client, &server).unwrap_err();
    assert_eq!(failure.client, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let authority = authority();
    let (web, payments) = (credentials(&authority, "web"), credentials(&authority, "payments"));
    let client = web.client_config(&id("orders"), &[alpn::H2]).unwrap();
    let server = payments.server_config(&[alpn::H2], ClientAuth::Required).unwrap();
    let failure = handshake(&client, &server).unwrap_err();
    assert_eq!(reason(failure.client), format!("the peer is {}, expected {}", id("payments"), id("orders")));
}

#[test]
fn an_authority_of_the_same_name_is_another() {
    let (ours, theirs) = (authority(), authority());
    let (web, orders) = (credentials(&ours, "web"), credentials(&theirs, "orders"));
    let client = web.client_config(&id("orders"), &[]).unwrap();
    let server = orders.server_config(&[], ClientAuth::Required).unwrap();
    let failure = handshake(&client, &server).unwrap_err();
    assert_eq!(failure.client, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
    assert_eq!(failure.server, Some(Error::AlertReceived(AlertDescription::UnknownCA)));
}

#[test]
fn a_client_without_a_certificate_gets_in_only_where_that_is_optional() {
    let authority = authority();
    let orders = credentials(&authority, "orders");
    let client = anchored_client_config(&authority.anchors(), &id("orders"), &[alpn::H2]).unwrap();
    let required = orders.server_config(&[alpn::H2], ClientAuth::Required).unwrap();
    let failure = handshake(&client, &required).unwrap_err();
    assert_eq!(failure.server, Some(Error::NoCertificatesPresented));
    assert_eq!(failure.client, Some(Error::AlertReceived(AlertDescription::CertificateRequired)));

    let optional = orders.server_config(&[alpn::H2], ClientAuth::Optional).unwrap();
    let (_, server) = handshake(&client, &optional).unwrap();
    assert!(server.peer_certificates().is_none());
}

#[test]
fn a_certificate_that_is_shown_is_checked_even_where_it_is_optional() {
    let (ours, theirs) = (authority(), authority());
    let orders = credentials(&ours, "orders");
    let key = weft_certs::KeyPair::generate().unwrap();
    let wanted = crate::support::wanted("web", Duration::from_secs(60));
    let stranger = theirs.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
    let stranger =
        weft_certs::Credentials::new(stranger.chain, &key, &ours.anchors(), ours.trust_domain()).unwrap();
    let client = stranger.client_config(&id("orders"), &[]).unwrap();
    let server = orders.server_config(&[], ClientAuth::Optional).unwrap();
    let failure = handshake(&client, &server).unwrap_err();
    assert_eq!(failure.server, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
}

#[test]
fn certificates_count_from_their_first_second_to_their_last() {
    let authority = authority();
    let ttl = Duration::from_secs(3);
    let (web, orders) = (credentials_for(&authority, "web", ttl), credentials_for(&authority, "orders", ttl));
    let client = web.client_config(&id("orders"), &[]).unwrap();
    let server = orders.server_config(&[], ClientAuth::Required).unwrap();
    let second = Duration::from_secs(1);
    for good in [now(), orders.not_before(), now() + ttl, orders.not_after()] {
        handshake_at(good, &client, &server).unwrap();
    }
    let failure = handshake_at(orders.not_after() + second, &client, &server).unwrap_err();
    assert!(
        matches!(failure.client, Some(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))),
        "{failure:?}"
    );
    assert_eq!(failure.server, Some(Error::AlertReceived(AlertDescription::CertificateExpired)));
    let failure = handshake_at(orders.not_before() - second, &client, &server).unwrap_err();
    assert!(
        matches!(
            failure.client,
            Some(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }))
        ),
        "{failure:?}"
    );
}

#[test]
fn between_sidecars_no_connection_is_resumed() {
    let authority = authority();
    let (web, orders) = (credentials(&authority, "web"), credentials(&authority, "orders"));
    let client = web.client_config(&id("orders"), &[]).unwrap();
    let server = orders.server_config(&[], ClientAuth::Required).unwrap();
    for _ in 0..3 {
        let (client, _) = handshake(&client, &server).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn both_roots_are_trusted_while_one_follows_the_other() {
    let (old, new) = (authority(), authority());
    let both = [old.anchors(), new.anchors()].concat();
    let with_both = |authority: &weft_certs::Authority, account| {
        let key = weft_certs::KeyPair::generate().unwrap();
        let wanted = crate::support::wanted(account, Duration::from_secs(60));
        let issued = authority.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
        weft_certs::Credentials::new(issued.chain, &key, &both, authority.trust_domain()).unwrap()
    };
    let (web, orders) = (with_both(&old, "web"), with_both(&new, "orders"));
    let client = web.client_config(&id("orders"), &[]).unwrap();
    handshake(&client, &orders.server_config(&[], ClientAuth::Required).unwrap()).unwrap();
}
