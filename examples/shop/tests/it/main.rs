//! The four services together, on loopback and without a mesh.
#![cfg(test)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_runtime::drain::{self, Drain, DrainWatch};
use weft_runtime::task;
use weft_shop::{Inventory, Ledger, LedgerClient, MARKER, Orders, Payments, Upstream, Web};

/// The shop, until it is dropped.
struct Shop {
    web: SocketAddr,
    payments: SocketAddr,
    inventory_health: SocketAddr,
    _drain: Drain,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start(serving: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    task::spawn("service", async { serving.await.unwrap() });
}

fn upstream(name: &'static str, address: SocketAddr) -> std::sync::Arc<Upstream> {
    Upstream::new(name, &format!("http://{address}").parse().unwrap()).unwrap()
}

async fn start_payments(ledger: SocketAddr, drained: DrainWatch) -> SocketAddr {
    let (listener, address) = listener().await;
    start(Payments::new(LedgerClient::new(ledger.to_string())).serve(listener, drained));
    address
}

async fn shop() -> Shop {
    let (drain, drained) = drain::channel();
    let (grpc, inventory) = listener().await;
    let (health, inventory_health) = listener().await;
    let (book, ledger) = listener().await;
    start(Inventory::default().serve(grpc, health, drained.clone()));
    start(Ledger::default().serve(book, drained.clone()));
    let payments = start_payments(ledger, drained.clone()).await;

    let (front, orders) = listener().await;
    let inventory = format!("http://{inventory}").parse().unwrap();
    start(Orders::new(inventory, upstream("payments", payments)).serve(front, drained.clone()));
    let (front, web) = listener().await;
    start(Web::new(upstream("orders", orders)).serve(front, drained));
    Shop { web, payments, inventory_health, _drain: drain }
}

async fn ask(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn check(to: SocketAddr, request: &str, status: u16, holds: &str) {
    let answer = ask(to, request).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    assert!(answer.contains(holds), "{request}: {answer}");
    assert!(answer.contains(MARKER), "{request}: {answer}");
}

#[tokio::test]
async fn a_purchase_goes_through_all_four_services() {
    let shop = shop().await;
    check(shop.web, "POST /buy?item=book&quantity=2", 201, r#""amount_cents":2580"#).await;
    check(shop.web, "POST /buy?item=lamp", 201, r#""amount_cents":2450"#).await;
    check(shop.web, "GET /", 200, "2 orders, 50.30 earned").await;
}

#[tokio::test]
async fn what_the_caller_got_wrong_is_told_on() {
    let shop = shop().await;
    check(shop.web, "POST /buy?item=moon", 404, "does not sell").await;
    check(shop.web, "POST /buy?item=book&quantity=0", 400, "not between").await;
    check(shop.web, "POST /buy", 400, "missing").await;
    check(shop.web, "GET /nothing", 404, "no such page").await;
    check(shop.web, "GET /", 200, "0 orders").await;
}

#[tokio::test]
async fn every_service_answers_health_checks() {
    let shop = shop().await;
    for service in [shop.web, shop.payments, shop.inventory_health] {
        check(service, "GET /health/live", 200, "ok").await;
        check(service, "GET /health/ready", 200, "ok").await;
    }
}

#[tokio::test]
async fn payments_is_ready_while_its_ledger_answers_and_reconnects_to_it() {
    let (book, ledger) = listener().await;
    let (_drain, drained) = drain::channel();
    let payments = start_payments(ledger, drained).await;
    check(payments, "GET /health/live", 200, "ok").await;

    let refuse = async { drop(book.accept().await.unwrap()) };
    tokio::join!(refuse, check(payments, "GET /health/ready", 503, "not ready"));
    for _connection in 0..2 {
        let answer_once = async {
            let (mut stream, _) = book.accept().await.unwrap();
            stream.write_all(b"ledger 1 ready\r\n").await.unwrap();
            let mut asked = [0; 7];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"TOTAL\r\n");
            stream.write_all(b"OK 3 50\r\n").await.unwrap();
        };
        tokio::join!(answer_once, check(payments, "GET /charges", 200, r#""entries":3,"total_cents":50"#));
    }
}

#[tokio::test]
async fn trace_headers_reach_the_next_hop() {
    let (fake, orders) = listener().await;
    let (_drain, drained) = drain::channel();
    let (front, web) = listener().await;
    start(Web::new(upstream("orders", orders)).serve(front, drained));

    let asking = ask(web, "GET / HTTP/1.1\r\ntraceparent: 00-aa-bb-01\r\nx-request-id: r-1\r\nx-ignored:");
    let seeing = async {
        let (mut stream, _) = fake.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    };
    let (answer, head) = tokio::join!(asking, seeing);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(head.contains("traceparent: 00-aa-bb-01\r\n"), "{head}");
    assert!(head.contains("x-request-id: r-1\r\n"), "{head}");
    assert!(!head.contains("x-ignored"), "{head}");
    assert!(head.contains(MARKER), "{head}");
}
