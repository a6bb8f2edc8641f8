//! Handshakes that must not succeed, at the real listener: each ends, is counted for its reason, and disturbs no other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_certs::{Authority, Credentials, IssueParams, KeyPair, alpn, anchored_client_config, sni};
use weft_core::model::Revoked;
use weft_runtime::metrics::Format;

use crate::pair::{PATIENCE, Pair, app, credentials, domain, identity};

/// A ClientHello of TLS 1.2, which asks for the app's port as our own do.
fn old_hello() -> Vec<u8> {
    let name = b"p80.weft.internal";
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut names = vec![0];
    names.extend(length(name));
    names.extend(name);
    let mut extension = length(&names).to_vec();
    extension.extend(names);
    let mut extensions = vec![0, 0];
    extensions.extend(length(&extension));
    extensions.extend(extension);
    // ecdsa_secp256r1_sha256.
    extensions.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend(length(&extensions));
    hello.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length(&hello));
    message.extend(hello);
    let mut record = vec![22, 3, 1];
    record.extend(length(&message));
    record.extend(message);
    record
}

/// Waits until the callee has counted a failed handshake for this reason.
async fn counted(pair: &Pair, reason: &str) {
    let line = format!("weft_tls_handshake_failures_total{{direction=\"inbound\",reason=\"{reason}\"}} 1");
    let counting = async {
        while !pair.callee.metrics.render(Format::Prometheus).contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let metrics = || pair.callee.metrics.render(Format::Prometheus);
    timeout(PATIENCE, counting).await.unwrap_or_else(|_| panic!("{line} not in\n{}", metrics()));
}

/// A handshake with these settings comes to nothing.
async fn fails(pair: &Pair, config: Arc<ClientConfig>, reason: &str) {
    let tcp = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    // A client of TLS 1.3 believes to be done before its certificate is judged.
    if let Ok(mut stream) = TlsConnector::from(config).connect(sni::for_port(80), tcp).await {
        let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("the connection ends");
        assert!(!matches!(read, Ok(1..)), "{reason}: {read:?}");
    }
    counted(pair, reason).await;
}

fn client(credentials: &Credentials) -> Arc<ClientConfig> {
    credentials.client_config(&identity("orders"), &[alpn::TCP]).unwrap()
}

/// A certificate of ours whose life is over, or has not begun.
fn at(pair: &Pair, now: SystemTime) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let wanted = IssueParams {
        identity: identity("web"),
        dns: Vec::new(),
        ips: Vec::new(),
        ttl: Duration::from_mins(1),
        now,
    };
    let issued = pair.authority.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
    Credentials::new(issued.chain, &key, &pair.authority.anchors(), &domain()).unwrap()
}

#[tokio::test]
async fn what_proves_nothing_is_refused_and_counted_for_its_reason_and_others_go_on() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let anonymous =
        anchored_client_config(&pair.authority.anchors(), &identity("orders"), &[alpn::TCP]).unwrap();
    fails(&pair, anonymous, "no-certificate").await;
    let hour = Duration::from_hours(1);
    fails(&pair, client(&at(&pair, SystemTime::now() - hour)), "expired").await;
    fails(&pair, client(&at(&pair, SystemTime::now() + hour)), "not-yet-valid").await;
    let strange = Authority::create(&domain(), SystemTime::now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let wanted = IssueParams {
        identity: identity("web"),
        dns: Vec::new(),
        ips: Vec::new(),
        ttl: hour,
        now: SystemTime::now(),
    };
    let issued = strange.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
    let foreign = Credentials::new(issued.chain, &key, &pair.authority.anchors(), &domain()).unwrap();
    fails(&pair, client(&foreign), "unknown-issuer").await;

    let mut old = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    old.write_all(&old_hello()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, old.read_to_end(&mut answer)).await.expect("the connection ends").unwrap();
    // A fatal alert (RFC 8446 section 6).
    assert!(answer.starts_with(&[21, 3, 3, 0, 2, 2]), "{answer:?}");
    counted(&pair, "incompatible").await;

    let good = client(&credentials(&pair.authority, "web"));
    let tcp = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    let name = sni::for_port(address.port());
    let mut stream = TlsConnector::from(good).connect(name, tcp).await.unwrap();
    stream.write_all(b"\x00hello").await.unwrap();
    stream.flush().await.unwrap();
    let (mut served, _) = listener.accept().await.unwrap();
    served.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn a_client_that_begins_and_says_no_more_is_given_up() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    let mut hanging = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    let config = client(&credentials(&pair.authority, "web"));
    let mut connection = rustls::ClientConnection::new(config, sni::for_port(80)).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hanging.write_all(&hello).await.unwrap();
    // The server's part comes, and then it waits for ours.
    let ended = timeout(PATIENCE, hanging.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the connection ends");
    counted(&pair, "timeout").await;
}

#[tokio::test]
async fn a_client_hello_in_many_small_records_is_read_as_one() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    let config = client(&credentials(&pair.authority, "web"));
    let mut connection = rustls::ClientConnection::new(config, sni::for_port(80)).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let mut pieces = Vec::new();
    // RFC 8446 section 5.1: a handshake message may be spread over records.
    for piece in hello[5..].chunks(11) {
        pieces.extend([22, 3, 1, 0, u8::try_from(piece.len()).unwrap()]);
        pieces.extend(piece);
    }
    let mut tcp = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    tcp.write_all(&pieces).await.unwrap();
    let mut head = [0; 6];
    timeout(PATIENCE, tcp.read_exact(&mut head)).await.expect("an answer").unwrap();
    // A handshake record that begins with ServerHello.
    assert_eq!((head[0], head[5]), (22, 2), "{head:?}");
}

#[tokio::test]
async fn a_revoked_client_is_told_so() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    pair.callee_refuses(&[Revoked::Identity(identity("web"))]);
    fails(&pair, client(&credentials(&pair.authority, "web")), "revoked").await;
}
