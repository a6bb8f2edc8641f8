//! Names of the mesh.

use std::collections::BTreeSet;

use super::*;

const SEARCH: &str = "search default.svc.cluster.local svc.cluster.local\n";

/// The code and the data; where there are none, the zone's word on it must be there, of a name at or above the one asked.
async fn check(sidecar: &Sidecar, name: &str, kind: RecordType, code: ResponseCode, expected: &[&str]) {
    let answer = sidecar.ask(name, kind).await;
    assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
    assert_eq!(data(&answer), expected, "{name} {kind}");
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available, "{name} {kind}");
    for record in &answer.answers {
        assert_eq!(record.name, HostName::from_ascii(name).unwrap());
        assert_eq!(record.ttl, 5);
    }
    if expected.is_empty() {
        let [soa] = &answer.authorities[..] else { panic!("{name} {kind}: {answer:?}") };
        assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5), "{name} {kind}");
        assert!(soa.name.zone_of(&HostName::from_ascii(name).unwrap()), "{name}: {}", soa.name);
        let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
        assert_eq!(data.minimum, 5);
    } else {
        assert!(answer.authorities.is_empty(), "{name} {kind}");
    }
}

#[tokio::test]
async fn services_resolve_to_their_addresses_of_the_family_asked_for() {
    use RecordType::{A, AAAA, ANY, MX, SOA, TXT, Unknown};
    let sidecar = Sidecar::start(SEARCH).await;
    let ok = ResponseCode::NoError;
    for name in [
        "orders.",
        "orders.default.",
        "orders.default.mesh.",
        "ORDERS.Default.MESH.",
        "orders.default.svc.cluster.local.",
        "orders.svc.cluster.local.",
        "orders.default.default.svc.cluster.local.",
    ] {
        check(&sidecar, name, A, ok, &["240.64.0.7"]).await;
        check(&sidecar, name, AAAA, ok, &["fd57:eff7::7"]).await;
        check(&sidecar, name, ANY, ok, &["240.64.0.7", "fd57:eff7::7"]).await;
        for other in [MX, TXT, SOA, Unknown(65_280), RecordType::HTTPS, RecordType::PTR] {
            check(&sidecar, name, other, ok, &[]).await;
        }
    }
    check(&sidecar, "six.shop.", A, ok, &[]).await;
    check(&sidecar, "six.shop.svc.cluster.local.", AAAA, ok, &["fd57:eff7::9"]).await;
    check(&sidecar, "four.", AAAA, ok, &[]).await;
    check(&sidecar, "empty.", A, ok, &[]).await;
}

#[tokio::test]
async fn the_case_of_the_question_comes_back() {
    let sidecar = Sidecar::start("").await;
    let mut question = question("orders.", RecordType::A).to_bytes().unwrap();
    question[13..19].copy_from_slice(b"oRdErS");
    let answer = sidecar.ask_bytes(&question).await;
    assert_eq!(answer[12..question.len()], question[12..]);
    let answer = Message::from_bytes(&answer).unwrap();
    assert_eq!(answer.answers[0].name.to_ascii(), "oRdErS.");
}

#[tokio::test]
async fn a_headless_service_is_all_its_workloads_in_any_order() {
    let sidecar = Sidecar::start("").await;
    let mut orders = BTreeSet::new();
    while orders.len() < 2 {
        let mut found = data(&sidecar.ask("headless.", RecordType::A).await);
        orders.insert(found.clone());
        found.sort();
        assert_eq!(found, ["10.0.0.1", "10.0.0.2"]);
    }
    let ok = ResponseCode::NoError;
    check(&sidecar, "headless-1.headless.default.mesh.", RecordType::A, ok, &["10.0.0.1"]).await;
    check(&sidecar, "headless-2.headless.default.mesh.", RecordType::AAAA, ok, &[]).await;
    let missing = "headless-3.headless.default.mesh.";
    check(&sidecar, missing, RecordType::A, ResponseCode::NXDomain, &[]).await;
}

#[tokio::test]
async fn ports_are_found_by_name_number_and_protocol() {
    let sidecar = Sidecar::start("search example.com\n").await;
    let (srv, ok) = (RecordType::SRV, ResponseCode::NoError);
    let orders = |port: u16| format!("0 1 {port} orders.default.mesh.");
    for (name, expected) in [
        ("_web._tcp.orders.", orders(80)),
        ("_WEB._TCP.orders.default.mesh.", orders(80)),
        ("_http._tcp.orders.default.", String::new()),
        ("_80._tcp.orders.", orders(80)),
        ("_grpc._tcp.orders.example.com.", orders(9000)),
        ("_http._tcp.four.", "0 1 8080 four.default.mesh.".to_owned()),
    ] {
        let code = if expected.is_empty() { ResponseCode::NXDomain } else { ok };
        let expected: Vec<&str> = if expected.is_empty() { Vec::new() } else { vec![&expected] };
        check(&sidecar, name, srv, code, &expected).await;
    }
    check(&sidecar, "orders.", srv, ok, &[&orders(80), &orders(9000)]).await;
    check(&sidecar, "_web._tcp.orders.", RecordType::A, ok, &[]).await;
    check(&sidecar, "_tcp.orders.", srv, ok, &[]).await;
    check(&sidecar, "_web._udp.orders.", srv, ResponseCode::NXDomain, &[]).await;
    check(&sidecar, "_pop3._tcp.orders.", srv, ResponseCode::NXDomain, &[]).await;

    let answer = sidecar.ask("_web._tcp.orders.", srv).await;
    let besides: Vec<_> =
        answer.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(besides, ["orders.default.mesh. 240.64.0.7", "orders.default.mesh. fd57:eff7::7"]);

    let answer = sidecar.ask("_web._tcp.headless.", srv).await;
    let hosts: BTreeSet<_> = data(&answer).into_iter().collect();
    let expected =
        ["0 1 8081 headless-1.headless.default.mesh.", "0 1 8082 headless-2.headless.default.mesh."];
    assert_eq!(hosts, expected.map(str::to_owned).into());
    assert_eq!(answer.additionals.len(), 3);
}

#[tokio::test]
async fn virtual_addresses_have_names_and_others_are_the_resolvers_business() {
    let fake = Fake::answering(|question| coded(question, ResponseCode::NXDomain)).await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let (ptr, ok) = (RecordType::PTR, ResponseCode::NoError);
    let six = format!("9.{}7.f.f.e.7.5.d.f.ip6.arpa.", "0.".repeat(23));
    check(&sidecar, "7.0.64.240.in-addr.arpa.", ptr, ok, &["orders.default.mesh."]).await;
    check(&sidecar, &six, ptr, ok, &["six.shop.mesh."]).await;
    check(&sidecar, &six, RecordType::A, ok, &[]).await;
    check(&sidecar, "9.9.64.240.in-addr.arpa.", ptr, ResponseCode::NXDomain, &[]).await;
    assert_eq!(fake.asked(), 0);
    let other = sidecar.ask("1.0.0.10.in-addr.arpa.", ptr).await;
    assert_eq!(other.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn nobody_else_is_asked_about_the_meshs_own_domain() {
    let fake = Fake::answering(|question| addressed(question, [192, 0, 2, 1], 60)).await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let (a, none) = (RecordType::A, ResponseCode::NXDomain);
    for name in ["such.no.mesh.", "no.mesh.", "w.such.no.mesh.", "_x._tcp.such.no.mesh."] {
        check(&sidecar, name, a, none, &[]).await;
    }
    let mut odd = question("a-b.no.mesh.", a).to_bytes().unwrap();
    odd[14] = b'.';
    assert_eq!(sidecar.ask_bytes(&odd).await[3] & 0xf, 3, "a dot within a label");
    // Names lie below these, so they exist (RFC 8020).
    for name in ["mesh.", "default.mesh.", "shop.mesh."] {
        check(&sidecar, name, a, ResponseCode::NoError, &[]).await;
    }
    let soa = sidecar.ask("mesh.", RecordType::SOA).await;
    assert_eq!(soa.answers.len(), 1, "{soa:?}");
    assert_eq!(fake.asked(), 0);
    for name in ["www.example.com.", "missing.", "example.org.", "mesh.example.com."] {
        assert_eq!(data(&sidecar.ask(name, a).await), ["192.0.2.1"], "{name}");
    }
    assert_eq!(fake.asked(), 4);
}

#[tokio::test]
async fn who_cannot_know_does_not_deny() {
    let fake = Fake::answering(|question| addressed(question, [192, 0, 2, 1], 60)).await;
    let sidecar = Sidecar::start(&fake.line()).await;
    // The control plane is there, but does not say.
    for name in ["unsaid.", "unsaid.shop.mesh.", "8.8.64.240.in-addr.arpa."] {
        let answer = sidecar.ask(name, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    // It is away.
    sidecar.publisher.set_connected(false);
    let answer = sidecar.ask("unsaid.shop.mesh.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(fake.asked(), 0);
    assert_eq!(data(&sidecar.ask("unsaid.", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(data(&sidecar.ask("orders.", RecordType::A).await), ["240.64.0.7"]);
}

#[tokio::test]
async fn answers_are_as_long_as_the_client_takes_and_the_rest_comes_over_tcp() {
    let sidecar = Sidecar::start("").await;
    let plain = sidecar.ask_bytes(&question("crowd.", RecordType::A).to_bytes().unwrap()).await;
    assert!((450..=512).contains(&plain.len()), "{}", plain.len());
    let plain = Message::from_bytes(&plain).unwrap();
    assert!(plain.metadata.truncation);
    assert_eq!(plain.answers.len(), (512 - 12 - 11) / 16, "as many as fit, for those that make do");

    for (payload, most) in [(0, 512), (1232, 1232), (4096, 4096)] {
        let asked = extended("crowd.", RecordType::A, payload).to_bytes().unwrap();
        let bytes = sidecar.ask_bytes(&asked).await;
        assert!(bytes.len() <= most, "{} of {most}", bytes.len());
        let answer = Message::from_bytes(&bytes).unwrap();
        assert_eq!(answer.metadata.truncation, most < 3000);
        assert!(answer.edns.is_some());
        let whole = Message::from_bytes(&sidecar.ask_tcp(&asked).await).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
    // What comes besides may be left out without a word.
    let asked = extended("headless.", RecordType::SRV, 0).to_bytes().unwrap();
    assert!(!Message::from_bytes(&sidecar.ask_bytes(&asked).await).unwrap().metadata.truncation);
    // Two hundred workloads with their addresses fit into no packet, but into a message.
    let whole = sidecar.ask_tcp(&question("crowd.", RecordType::SRV).to_bytes().unwrap()).await;
    let whole = Message::from_bytes(&whole).unwrap();
    assert_eq!((whole.answers.len(), whole.additionals.len()), (200, 200));
    let crowd: BTreeSet<_> = whole.additionals.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(crowd.len(), 200);
}

#[tokio::test]
async fn edns_is_answered_in_kind() {
    let sidecar = Sidecar::start("").await;
    let without = sidecar.ask("orders.", RecordType::A).await;
    assert!(without.edns.is_none());
    let mut asked = extended("orders.", RecordType::A, 4096);
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer = Message::from_bytes(&sidecar.ask_bytes(&asked.to_bytes().unwrap()).await).unwrap();
    let edns = answer.edns.as_ref().unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
    assert_eq!(data(&answer), ["240.64.0.7"]);

    asked.edns.as_mut().unwrap().set_version(1);
    let answer = Message::from_bytes(&sidecar.ask_bytes(&asked.to_bytes().unwrap()).await).unwrap();
    assert_eq!(u16::from(answer.metadata.response_code), 16, "BADVERS");
    assert_eq!(answer.edns.as_ref().unwrap().version(), 0);
    assert_eq!(sidecar.counted("refused", "badvers"), 1);
    assert_eq!(sidecar.counted("mesh", "noerror"), 2);
}
