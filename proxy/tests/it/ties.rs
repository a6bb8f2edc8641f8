//! Connections that are open and do not go on: their peer was revoked, or a changed policy lets them in no longer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use weft_core::model::{
    AccessAction, AccessMode, AccessPolicy, AccessRule, AuthorizationDefault, Mesh, MtlsMode, Operations,
    PathPattern, Revoked, Selection, TextPattern, Trust, Workload,
};
use weft_proxy::state::Snapshot;

use crate::pair::{PATIENCE, Pair, app, domain, identity, mesh, read_head, workload};
use crate::wire::{self, Asked};

/// What is promised.
const AT_MOST: Duration = Duration::from_secs(2);

fn revoking(revoked: Revoked) -> Option<Arc<Trust>> {
    let trust = Trust { sequence: 2, revoked: vec![revoked], ..Trust::new(domain(), Vec::new()) };
    Some(Arc::new(trust))
}

/// The callee's configuration.
fn told(
    trust: Option<Arc<Trust>>,
    policies: Vec<AccessPolicy>,
    authorization: AuthorizationDefault,
) -> Snapshot {
    Snapshot {
        mesh: Some(Arc::new(Mesh { mtls: MtlsMode::Strict, authorization, ..mesh() })),
        workload: Some(Arc::new(Workload { policies, ..workload() })),
        trust,
        ..Snapshot::default()
    }
}

async fn ends(stream: &mut TcpStream) {
    let begun = Instant::now();
    let ended = timeout(PATIENCE, async {
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    });
    ended.await.expect("the connection ends");
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
}

/// A connection of bytes through both sidecars, with bytes that have passed each way, and the app's end of it.
async fn open(pair: &Pair, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = pair.connect().await;
    client.write_all(b"\x00hello").await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    let mut heard = [0; 6];
    app.read_exact(&mut heard).await.unwrap();
    app.write_all(b"hi").await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    (client, app)
}

#[tokio::test]
async fn bytes_of_a_revoked_peer_end_on_both_sides_whoever_hears_of_it() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let (mut client, mut served) = open(&pair, &listener).await;
    let other = Revoked::Identity(identity("other"));
    pair.callee.publisher.publish(told(revoking(other), Vec::new(), AuthorizationDefault::Authenticated));
    client.write_all(b"on").await.unwrap();
    served.read_exact(&mut [0; 2]).await.unwrap();
    let web = Revoked::Identity(identity("web"));
    pair.callee.publisher.publish(told(revoking(web), Vec::new(), AuthorizationDefault::Authenticated));
    ends(&mut client).await;
    ends(&mut served).await;
}

#[tokio::test]
async fn bytes_to_a_revoked_peer_end_where_only_the_caller_has_heard() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let (mut client, mut served) = open(&pair, &listener).await;
    let snapshot = (*pair.caller.publisher.snapshot()).clone();
    let trust = revoking(Revoked::Identity(identity("orders")));
    pair.caller.publisher.publish(Snapshot { trust, ..snapshot });
    ends(&mut client).await;
    ends(&mut served).await;
}

#[tokio::test]
async fn a_kept_connection_of_http_ends_with_its_peers_revocation() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let mut client = pair.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let (mut served, _) = listener.accept().await.unwrap();
    read_head(&mut served).await;
    // Half of a response: the request is under way.
    served.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    read_head(&mut client).await;
    let web = Revoked::Identity(identity("web"));
    pair.callee.publisher.publish(told(revoking(web), Vec::new(), AuthorizationDefault::Authenticated));
    ends(&mut client).await;
    ends(&mut served).await;
}

#[tokio::test]
async fn bytes_end_that_a_changed_policy_would_not_let_in_and_others_go_on() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let (mut client, mut served) = open(&pair, &listener).await;
    let publish = |policies, default| pair.callee.publisher.publish(told(None, policies, default));
    publish(vec![policy(AccessAction::Allow, AccessRule::default())], AuthorizationDefault::Deny);
    client.write_all(b"on").await.unwrap();
    served.read_exact(&mut [0; 2]).await.unwrap();
    publish(Vec::new(), AuthorizationDefault::Deny);
    ends(&mut client).await;
    ends(&mut served).await;
}

fn policy(action: AccessAction, rule: AccessRule) -> AccessPolicy {
    AccessPolicy {
        name: "default/p".parse().unwrap(),
        action,
        mode: AccessMode::Enforce,
        ports: Vec::new(),
        rules: vec![rule].into(),
    }
}

fn to_path(path: &str) -> AccessRule {
    let path = PathPattern::Text(TextPattern::Exact(path.into()));
    let paths = Selection { one_of: vec![path], none_of: Vec::new() };
    AccessRule { to: vec![Operations { paths, ..Operations::default() }], ..AccessRule::default() }
}

#[tokio::test]
async fn a_websocket_is_judged_again_by_what_it_asked_and_a_request_under_way_is_not() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let allow = |path: &str| vec![policy(AccessAction::Allow, to_path(path))];
    let publish = |policies| pair.callee.publisher.publish(told(None, policies, AuthorizationDefault::Deny));
    publish(allow("/chat"));
    let mut client = pair.connect().await;
    let upgrade = b"GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(upgrade).await.unwrap();
    let (mut served, _) = listener.accept().await.unwrap();
    read_head(&mut served).await;
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    served.write_all(switch).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101"));

    let mut asking = pair.connect().await;
    asking.write_all(b"GET /chat HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let (mut answering, _) = listener.accept().await.unwrap();
    read_head(&mut answering).await;

    // Still allowed, by another policy.
    publish(vec![
        policy(AccessAction::Allow, to_path("/other")),
        policy(AccessAction::Allow, to_path("/chat")),
    ]);
    client.write_all(b"ping").await.unwrap();
    served.read_exact(&mut [0; 4]).await.unwrap();

    publish(allow("/other"));
    ends(&mut client).await;
    ends(&mut served).await;
    answering.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert!(read_head(&mut asking).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connect_of_http_2_is_judged_again_by_what_it_asked_and_its_connection_goes_on() {
    let (listener, address) = app().await;
    let mut settings = h2::server::Builder::new();
    settings.enable_connect_protocol();
    wire::serve_with(listener, settings, |(request, mut respond): Asked| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(bytes)) = body.data().await {
            body.flow_control().release_capacity(bytes.len()).unwrap();
            if stream.send_data(bytes, false).is_err() {
                return;
            }
        }
        let _ = stream.send_data(Bytes::new(), true); // it may have been reset
    });
    let pair = Pair::new(address);
    let allow = |path: &str| policy(AccessAction::Allow, to_path(path));
    let publish = |policies| pair.callee.publisher.publish(told(None, policies, AuthorizationDefault::Deny));
    publish(vec![allow("/chat"), allow("/other")]);
    let mut sender = wire::client(pair.connect().await).await;
    let enabled = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, enabled).await.expect("extended CONNECT is offered");
    let mut open = async |path: &str| {
        let mut request = wire::request("CONNECT", path);
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{path}");
        send.send_data(Bytes::from_static(b"ping"), false).unwrap();
        let mut body = response.into_body();
        assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "ping");
        (send, body)
    };
    let (_chat_send, mut chat) = open("/chat").await;
    let (mut other_send, mut other) = open("/other").await;
    publish(vec![allow("/other")]);
    let ended = timeout(AT_MOST, chat.data()).await.expect("it ends");
    assert!(ended.is_none_or(|bytes| bytes.is_err()));
    other_send.send_data(Bytes::from_static(b"more"), false).unwrap();
    assert_eq!(timeout(PATIENCE, other.data()).await.unwrap().unwrap().unwrap(), "more");
}
