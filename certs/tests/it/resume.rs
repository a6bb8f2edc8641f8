//! Who comes back to its control plane goes on where it was, as long as both would be believed anew.

use std::time::{Duration, SystemTime};

use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection};
use weft_certs::{
    Authority, CertError, ClientAuth, Credentials, KeyPair, ResumingClient, ResumingServer, Sessions,
    peer_identity, request, sni,
};
use weft_core::model::Revoked;

use crate::support::{authority, credentials, credentials_for, domain, handshake_at, id, now, wanted};

const MINUTE: Duration = Duration::from_secs(60);

/// Two connections that are made, and what each side makes of the other.
struct Made {
    client: ClientConnection,
    server: ServerConnection,
    client_says: Result<(), CertError>,
    server_says: Result<(), CertError>,
}

impl Made {
    fn is_resumed(&self) -> bool {
        let kinds = (self.client.handshake_kind(), self.server.handshake_kind());
        assert_eq!(kinds.0, kinds.1);
        kinds.0 == Some(HandshakeKind::Resumed)
    }

    fn group(&self) -> NamedGroup {
        self.client.negotiated_key_exchange_group().unwrap().name()
    }
}

fn serve(own: &Credentials) -> ResumingServer {
    own.resuming_server(&[b"h2"], ClientAuth::Optional, &Sessions::new(100)).unwrap()
}

fn call(own: &Credentials) -> ResumingClient {
    own.resuming_client(&id("plane"), &[b"h2"]).unwrap()
}

fn meet(time: SystemTime, client: &ResumingClient, server: &ResumingServer) -> Made {
    let attempt = client.attempt();
    let (client, server_end) = handshake_at(time, &attempt.config(), &server.config()).unwrap();
    let (client_says, server_says) = (attempt.check(&client, time), server.check(&server_end, time));
    Made { client, server: server_end, client_says, server_says }
}

fn plane_and_web(authority: &Authority) -> (Credentials, Credentials) {
    (credentials(authority, "plane"), credentials(authority, "web"))
}

#[test]
fn who_comes_back_is_known_without_a_certificate_each_time_and_by_a_new_secret() {
    let (plane, web) = plane_and_web(&authority());
    let (server, client) = (serve(&plane), call(&web));
    let first = meet(now(), &client, &server);
    assert!(!first.is_resumed());
    assert_eq!(first.group(), NamedGroup::X25519MLKEM768);
    for _ in 0..3 {
        let again = meet(now(), &client, &server);
        assert!(again.is_resumed());
        assert_eq!(again.group(), NamedGroup::X25519);
        again.client_says.unwrap();
        again.server_says.unwrap();
        let shown = again.server.peer_certificates().unwrap();
        assert_eq!(peer_identity(&shown[0]).unwrap(), id("web"));
        assert_eq!(again.client.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[test]
fn a_secret_serves_once_on_either_side() {
    let (plane, web) = plane_and_web(&authority());
    let sessions = Sessions::new(100);
    let server = plane.resuming_server(&[b"h2"], ClientAuth::Optional, &sessions).unwrap();
    let client = call(&web);
    for _ in 0..3 {
        meet(now(), &client, &server);
        assert_eq!(format!("{sessions:?}"), "Sessions(1 of 100)");
    }
    // A handshake that was begun and never done has used it.
    let begun = ClientConnection::new(client.attempt().config(), sni::for_port(8080)).unwrap();
    let whole = meet(now(), &client, &server);
    assert!(!whole.is_resumed() && begun.is_handshaking());
    assert_eq!(whole.group(), NamedGroup::X25519MLKEM768);
}

#[test]
fn a_client_whose_certificate_ended_meanwhile_does_not_come_back_by_it() {
    let authority = authority();
    let (plane, web) = (credentials(&authority, "plane"), credentials_for(&authority, "web", MINUTE));
    let (server, client) = (serve(&plane), call(&web));
    meet(now(), &client, &server);
    let in_time = meet(now() + MINUTE / 2, &client, &server);
    assert!(in_time.is_resumed() && in_time.server_says.is_ok());
    let late = meet(now() + 2 * MINUTE, &client, &server);
    assert!(late.is_resumed());
    assert!(matches!(late.server_says, Err(CertError::Path(webpki::Error::CertExpired { .. }))));
}

#[test]
fn a_server_whose_certificate_ended_meanwhile_is_not_believed_by_it() {
    let authority = authority();
    let (plane, web) = (credentials_for(&authority, "plane", MINUTE), credentials(&authority, "web"));
    let sessions = Sessions::new(100);
    let serving = |own: &Credentials| own.resuming_server(&[b"h2"], ClientAuth::Optional, &sessions).unwrap();
    let client = call(&web);
    meet(now(), &client, &serving(&plane));
    // It has another certificate now, but has not shown it to this client.
    let renewed = serving(&credentials(&authority, "plane"));
    let late = meet(now() + 2 * MINUTE, &client, &renewed);
    assert!(late.is_resumed());
    assert!(matches!(late.client_says, Err(CertError::Path(webpki::Error::CertExpired { .. }))));
    let whole = meet(now() + 2 * MINUTE, &client, &renewed);
    assert!(!whole.is_resumed() && whole.client_says.is_ok() && whole.server_says.is_ok());
}

#[test]
fn who_was_revoked_meanwhile_is_refused() {
    let (plane, web) = plane_and_web(&authority());
    let sessions = Sessions::new(100);
    let serving = |own: &Credentials| own.resuming_server(&[b"h2"], ClientAuth::Optional, &sessions).unwrap();
    let client = call(&web);
    meet(now(), &client, &serving(&plane));
    // Everything is as it was, but for whom the server believes.
    let wary = serving(&plane.refusing(&[Revoked::Identity(id("web"))]));
    let again = meet(now(), &client, &wary);
    assert!(again.is_resumed());
    assert!(matches!(again.server_says, Err(CertError::Revoked(_))));
}

#[test]
fn whose_root_is_trusted_no_more_does_not_come_back() {
    let (old, new) = (authority(), authority());
    let both = [old.anchors(), new.anchors()].concat();
    let of = |authority: &Authority, account, anchors: &[Vec<u8>]| {
        let key = KeyPair::generate().unwrap();
        let issued = authority.sign(&request(&key).unwrap(), &wanted(account, 60 * MINUTE)).unwrap();
        Credentials::new(issued.chain, &key, anchors, &domain()).unwrap()
    };
    let sessions = Sessions::new(100);
    let serving = |own: &Credentials| own.resuming_server(&[b"h2"], ClientAuth::Optional, &sessions).unwrap();
    let client = call(&of(&old, "web", &both));
    meet(now(), &client, &serving(&of(&old, "plane", &both)));
    // Renewed, and the same is trusted: it goes on.
    let renewed = meet(now(), &client, &serving(&of(&new, "plane", &both)));
    assert!(renewed.is_resumed() && renewed.server_says.is_ok() && renewed.client_says.is_ok());
    // The root of the client's certificate is gone.
    let moved = meet(now(), &client, &serving(&of(&new, "plane", &new.anchors())));
    assert!(moved.is_resumed());
    assert!(matches!(moved.server_says, Err(CertError::Path(webpki::Error::UnknownIssuer))));
}

#[test]
fn a_renewed_client_shows_its_new_certificate() {
    let authority = authority();
    let (plane, web) = plane_and_web(&authority);
    let server = serve(&plane);
    meet(now(), &call(&web), &server);
    assert!(!meet(now(), &call(&credentials(&authority, "web")), &server).is_resumed());
    assert!(!meet(now(), &call(&web.refusing(&[])), &server).is_resumed());
}

#[test]
fn where_nothing_is_remembered_the_short_exchange_is_not_put_up_with_and_not_tried_again() {
    let (plane, web) = plane_and_web(&authority());
    let client = call(&web);
    meet(now(), &client, &serve(&plane));
    let restarted = serve(&plane);
    let refused = meet(now(), &client, &restarted);
    assert!(!refused.is_resumed());
    assert_eq!(refused.group(), NamedGroup::X25519);
    assert!(matches!(refused.client_says, Err(CertError::NotResumed)));
    let whole = meet(now(), &client, &restarted);
    assert!(!whole.is_resumed() && whole.client_says.is_ok());
    assert_eq!(whole.group(), NamedGroup::X25519MLKEM768);
    // Several may answer here: it is resumed where it can be, and costs nothing where it cannot.
    let lucky = meet(now(), &client, &restarted);
    assert!(lucky.is_resumed() && lucky.client_says.is_ok());
    assert_eq!(lucky.group(), NamedGroup::X25519MLKEM768);
    let unlucky = meet(now(), &client, &serve(&plane));
    assert!(!unlucky.is_resumed() && unlucky.client_says.is_ok());
    assert_eq!(unlucky.group(), NamedGroup::X25519MLKEM768);
}

#[test]
fn who_showed_no_certificate_is_as_unknown_as_before() {
    let authority = authority();
    let plane = credentials(&authority, "plane");
    let server = serve(&plane);
    let stranger = weft_certs::anchored_client_config(&authority.anchors(), &id("plane"), &[b"h2"]).unwrap();
    for _ in 0..2 {
        let (client, server_end) = handshake_at(now(), &stranger, &server.config()).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert!(server.check(&server_end, now()).is_ok() && server_end.peer_certificates().is_none());
    }
}

#[test]
fn only_so_many_are_remembered_and_the_oldest_are_forgotten() {
    let authority = authority();
    let plane = credentials(&authority, "plane");
    let sessions = Sessions::new(2);
    let server = plane.resuming_server(&[b"h2"], ClientAuth::Optional, &sessions).unwrap();
    let clients: Vec<_> = (0..3).map(|_| call(&credentials(&authority, "web"))).collect();
    for client in &clients {
        meet(now(), client, &server);
    }
    assert_eq!(format!("{sessions:?}"), "Sessions(2 of 2)");
    let resumed = clients.iter().rev().map(|client| meet(now(), client, &server).is_resumed());
    assert_eq!(resumed.collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(format!("{sessions:?}"), "Sessions(2 of 2)");
}
