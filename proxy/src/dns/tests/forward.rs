//! Everybody else's names.

use std::time::Instant;

use hickory_proto::rr::rdata::{CNAME, SOA};
use tokio::sync::Notify;

use super::*;

const A: RecordType = RecordType::A;

fn host(name: &str) -> HostName {
    HostName::from_ascii(name).unwrap()
}

/// The answer that there is nothing, which the zone lets stand for `minimum` seconds.
fn denied(question: &Message, code: ResponseCode, minimum: u32) -> Message {
    let mut answer = coded(question, code);
    let soa = SOA::new(host("ns.example.com."), host("root.example.com."), 1, 2, 3, 4, minimum);
    answer.add_authority(Record::from_rdata(host("example.com."), 3600, RData::SOA(soa)));
    answer
}

#[tokio::test]
async fn questions_and_answers_pass_unchanged_but_for_their_ids() {
    // Of a type, of flags and with an option that we have never heard of, and with a record after all that.
    let mut asked = vec![0x12, 0x34, 0x01, 0x30, 0, 1, 0, 0, 0, 0, 0, 1];
    asked.extend(b"\x03wWw\x07eXample\x03coM\0\xfe\xdc\0\x01");
    asked.extend(b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08cookiess");
    let mut reply = asked.clone();
    reply[2] |= 0x84;
    reply[3] |= 0x83;
    reply[7] = 1;
    reply.truncate(33);
    reply.extend(b"\xc0\x0c\xfe\xdc\0\x01\0\0\0\x3c\0\x05\xff\xc0\x0c\x3f\0");
    reply.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x06\0\x0f\0\x02\0\x12");
    let sent = reply.clone();
    let fake = Fake::start(move |question, _, _| {
        let mut reply = sent.clone();
        reply[..2].copy_from_slice(&question[..2]);
        async move { vec![reply] }
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    for _ in 0..16 {
        assert_eq!(sidecar.ask_bytes(&asked).await, reply);
        assert_eq!(sidecar.ask_tcp(&asked).await, reply);
    }
    let questions = fake.questions.lock().unwrap();
    assert!(questions.iter().all(|(question, _)| question[2..] == asked[2..]));
    let ids: std::collections::BTreeSet<_> =
        questions.iter().map(|(question, _)| question[..2].to_vec()).collect();
    let ports: std::collections::BTreeSet<_> = questions.iter().map(|(_, client)| client.port()).collect();
    assert!(ids.len() > 8 && ports.len() > 8, "{ids:?} {ports:?}");
    drop(questions);
    assert_eq!(fake.asked(), 32, "who says more than what is asked is answered alone");
}

#[tokio::test]
async fn answers_to_other_questions_ids_and_from_other_places_are_not_heard() {
    let stranger = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let clients = Arc::new(Mutex::new(None::<Questions>));
    let known = clients.clone();
    let fake = Fake::start(move |question, _, _| {
        let (stranger, known) = (stranger.clone(), known.clone());
        async move {
            let asked = Message::from_bytes(&question).unwrap();
            let forged = addressed(&asked, [6, 6, 6, 6], 60);
            let client = known.lock().unwrap().as_ref().unwrap().lock().unwrap()[0].1;
            stranger.send_to(&forged.to_bytes().unwrap(), client).await.unwrap();
            let mut other_id = forged.clone();
            other_id.metadata.id = asked.metadata.id.wrapping_add(1);
            let mut other_name = asked.clone();
            other_name.queries[0].set_name(host("evil.example.com."));
            let mut other_type = asked.clone();
            other_type.queries[0].set_query_type(RecordType::AAAA);
            let mut no_question = forged.clone();
            no_question.queries.clear();
            let mut packets = vec![question.clone(), Vec::new(), question[..2].to_vec()];
            for forged in [
                other_id,
                addressed(&other_name, [6; 4], 60),
                coded(&other_type, ResponseCode::NoError),
                no_question,
            ] {
                packets.push(forged.to_bytes().unwrap());
            }
            packets.push(addressed(&asked, [192, 0, 2, 1], 60).to_bytes().unwrap());
            packets
        }
    })
    .await;
    *clients.lock().unwrap() = Some(fake.questions.clone());
    let sidecar = Sidecar::start(&fake.line()).await;
    assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_refuses_fails_or_is_silent() {
    let good = Fake::answering(|question| addressed(question, [192, 0, 2, 1], 0)).await;
    for code in [ResponseCode::Refused, ResponseCode::ServFail, ResponseCode::NotImp] {
        let bad = Fake::answering(move |question| coded(question, code)).await;
        let sidecar = Sidecar::start(&(bad.line() + &good.line())).await;
        assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"], "{code}");
        assert_eq!(bad.asked(), 1);
    }
    // Nobody listens there.
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let sidecar = Sidecar::start(&format!("nameserver [127.0.0.1]:{}\n{}", gone.port(), good.line())).await;
    assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "no one waits for it");

    let silent = Fake::silent().await;
    let sidecar = Sidecar::start(&(silent.line() + &good.line() + "options timeout:2\n")).await;
    let begun = Instant::now();
    assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"]);
    let first = begun.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(2)).contains(&first), "{first:?}");
    let begun = Instant::now();
    assert_eq!(data(&sidecar.ask("two.example.com.", A).await), ["192.0.2.1"]);
    assert!(begun.elapsed() < Duration::from_millis(900), "it is known to be silent");
    assert_eq!(silent.asked(), 2, "but still asked first");
}

#[tokio::test]
async fn where_all_refuse_the_last_refusal_is_passed_on() {
    let fake = Fake::answering(|question| {
        let mut answer = coded(question, ResponseCode::Refused);
        answer.metadata.authentic_data = true;
        answer
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let answer = sidecar.ask("www.example.com.", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert!(answer.metadata.authentic_data);
    // That it cannot be told is not to be asked again at once; that we are not welcome is.
    sidecar.ask("www.example.com.", A).await;
    assert_eq!(fake.asked(), 2);
}

#[tokio::test]
async fn a_lost_packet_is_sent_again_and_silence_ends_in_a_failure() {
    let deaf_once = Fake::start(|question, _, before| async move {
        let asked = Message::from_bytes(&question).unwrap();
        if before == 0 { Vec::new() } else { vec![addressed(&asked, [192, 0, 2, 1], 60).to_bytes().unwrap()] }
    })
    .await;
    let sidecar = Sidecar::start(&(deaf_once.line() + "options timeout:1 attempts:2\n")).await;
    assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"]);
    assert_eq!(deaf_once.asked(), 2);

    let silent = Fake::silent().await;
    sidecar.change_resolv_conf(&(silent.line() + "options timeout:1 attempts:1\n"));
    let begun = Instant::now();
    let answer = sidecar.ask("www.example.com.", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&begun.elapsed()));
    assert_eq!(sidecar.counted("upstream", "servfail"), 1);
}

#[tokio::test]
async fn rotating_spreads_the_questions() {
    let fakes = [
        Fake::answering(|question| addressed(question, [192, 0, 2, 1], 0)).await,
        Fake::answering(|question| addressed(question, [192, 0, 2, 2], 0)).await,
    ];
    let lines = fakes[0].line() + &fakes[1].line();
    let sidecar = Sidecar::start(&lines).await;
    for _ in 0..4 {
        assert_eq!(data(&sidecar.ask("www.example.com.", A).await), ["192.0.2.1"]);
    }
    sidecar.change_resolv_conf(&(lines + "options rotate\n"));
    for _ in 0..4 {
        sidecar.ask("www.example.com.", A).await;
    }
    assert_eq!((fakes[0].asked(), fakes[1].asked()), (6, 2));
}

#[tokio::test]
async fn answers_are_remembered_as_long_as_they_hold_and_not_past_a_changed_resolv_conf() {
    let fake = Fake::answering(|question| {
        let query = &question.queries[0];
        match query.name().to_ascii().to_lowercase().as_str() {
            "denied.example.com." => denied(question, ResponseCode::NXDomain, 60),
            "empty.example.com." => denied(question, ResponseCode::NoError, 60),
            "unsure.example.com." => denied(question, ResponseCode::NXDomain, 0),
            "bare.example.com." => coded(question, ResponseCode::NXDomain),
            "brief.example.com." => addressed(question, [192, 0, 2, 1], 0),
            "chain.example.com." => {
                let mut answer = denied(question, ResponseCode::NoError, 60);
                let data = RData::CNAME(CNAME(host("target.example.com.")));
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                answer
            }
            _ => {
                let mut answer = addressed(question, [192, 0, 2, 1], 60);
                answer.metadata.authoritative = true;
                answer
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    for (name, remembered) in [
        ("www.example.com.", true),
        ("denied.example.com.", true),
        ("empty.example.com.", true),
        ("chain.example.com.", true),
        ("unsure.example.com.", false),
        ("bare.example.com.", false),
        ("brief.example.com.", false),
    ] {
        let before = fake.asked();
        let first = sidecar.ask(name, A).await;
        let second = sidecar.ask(&name.to_uppercase(), A).await;
        assert_eq!(fake.asked() - before, if remembered { 1 } else { 2 }, "{name}");
        assert_eq!(first.metadata.response_code, second.metadata.response_code, "{name}");
        let lower = |answer: &Message| data(answer).concat().to_lowercase();
        assert_eq!(lower(&first), lower(&second), "{name}");
        assert_eq!(first.authorities.len(), second.authorities.len(), "{name}");
        if remembered {
            assert!(!second.metadata.authoritative, "it is nobody's own word any more");
        }
    }
    assert_eq!((sidecar.counted("cache", "noerror"), sidecar.counted("cache", "nxdomain")), (3, 1));
    // Other types, flags and what DNSSEC adds are other questions.
    let before = fake.asked();
    sidecar.ask("www.example.com.", RecordType::AAAA).await;
    let mut secure = extended("www.example.com.", A, 1232);
    sidecar.ask_bytes(&secure.to_bytes().unwrap()).await;
    secure.edns.as_mut().unwrap().set_dnssec_ok(true);
    sidecar.ask_bytes(&secure.to_bytes().unwrap()).await;
    secure.metadata.checking_disabled = true;
    sidecar.ask_bytes(&secure.to_bytes().unwrap()).await;
    assert_eq!(fake.asked() - before, 4);

    let before = fake.asked();
    sidecar.ask("www.example.com.", A).await;
    sidecar.change_resolv_conf(&(fake.line() + "# changed\n"));
    sidecar.ask("www.example.com.", A).await;
    assert_eq!(fake.asked() - before, 1);
}

#[tokio::test]
async fn times_to_live_run_down_and_then_the_resolver_is_asked_again() {
    let fake = Fake::answering(|question| addressed(question, [192, 0, 2, 1], 2)).await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let mut seen = Vec::new();
    while fake.asked() < 2 {
        let answer = sidecar.ask("www.example.com.", A).await;
        let ttl = answer.answers[0].ttl;
        if seen.last() != Some(&ttl) {
            seen.push(ttl);
        }
    }
    assert_eq!(seen, [2, 1, 2]);
}

#[tokio::test]
async fn the_same_question_is_asked_once_however_many_wait_for_it() {
    let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (opened, told) = (gate.clone(), arrived.clone());
    let fake = Fake::start(move |question, _, _| {
        let (opened, told) = (opened.clone(), told.clone());
        async move {
            told.notify_one();
            opened.notified().await;
            let asked = Message::from_bytes(&question).unwrap();
            vec![addressed(&asked, [192, 0, 2, 1], 0).to_bytes().unwrap()]
        }
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let mut clients = Vec::new();
    for number in 0..40_u16 {
        let mut asked = question(if number % 2 == 0 { "www.example.com." } else { "WWW.example.com." }, A);
        asked.metadata.id = number;
        let client = sidecar.client().await;
        client.send(&asked.to_bytes().unwrap()).await.unwrap();
        clients.push((client, asked));
    }
    // A question about the mesh that comes after all of them is answered after all of them were read.
    sidecar.ask("orders.", A).await;
    arrived.notified().await;
    gate.notify_one();
    for (client, asked) in clients {
        let answer = Message::from_bytes(&receive(&client).await).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (asked.metadata.id, &asked.queries));
        assert_eq!(answer.queries[0].name().to_ascii(), asked.queries[0].name().to_ascii());
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn a_truncated_answer_is_passed_on_and_the_program_comes_again_over_tcp() {
    let fake = Fake::start(|question, transport, _| async move {
        let asked = Message::from_bytes(&question).unwrap();
        let mut answer = addressed(&asked, [192, 0, 2, 1], 60);
        match transport {
            Transport::Udp => answer.metadata.truncation = true,
            Transport::Tcp => {
                for number in 0..100 {
                    let name = asked.queries[0].name().clone();
                    answer.add_answer(Record::from_rdata(
                        name,
                        60,
                        RData::A(std::net::Ipv4Addr::new(192, 0, 2, number).into()),
                    ));
                }
            }
        }
        vec![answer.to_bytes().unwrap()]
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let asked = question("www.example.com.", A).to_bytes().unwrap();
    for _ in 0..2 {
        let answer = Message::from_bytes(&sidecar.ask_bytes(&asked).await).unwrap();
        assert!(answer.metadata.truncation);
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    let whole = Message::from_bytes(&sidecar.ask_tcp(&asked).await).unwrap();
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 101));
    assert_eq!(fake.asked(), 3, "half an answer is not remembered");
    // The whole one is, and cut to what a packet takes.
    let cut = sidecar.ask_bytes(&asked).await;
    assert!(cut.len() <= 512);
    let cut = Message::from_bytes(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() > 20, "{}", cut.answers.len());
    assert_eq!(fake.asked(), 3);
}

#[tokio::test]
async fn other_operations_pass() {
    let fake = Fake::start(|mut question, _, _| async move {
        question[2] |= 0x80;
        vec![question]
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let mut notify = question("example.com.", RecordType::SOA).to_bytes().unwrap();
    notify[2] |= 4 << 3;
    let answer = sidecar.ask_bytes(&notify).await;
    notify[2] |= 0x80;
    assert_eq!(answer, notify);
}

#[tokio::test]
async fn without_resolvers_only_the_mesh_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::with(folder.path().join("missing"), folder).await;
    let begun = Instant::now();
    let answer = sidecar.ask("www.example.com.", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(data(&sidecar.ask("orders.", A).await), ["240.64.0.7"]);
}
