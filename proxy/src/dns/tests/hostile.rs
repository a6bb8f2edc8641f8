//! What no honest program sends, and more of it than one would.

use std::time::Instant;

use super::*;

const A: RecordType = RecordType::A;

/// The answer over UDP to a packet that may get none: a good question is sent behind it, over the same socket.
async fn answer_to(sidecar: &Sidecar, packet: &[u8]) -> Option<Vec<u8>> {
    let client = sidecar.client().await;
    let mut good = question("orders.", A);
    good.metadata.id = !u16::from_be_bytes([*packet.first().unwrap_or(&0), *packet.get(1).unwrap_or(&0)]);
    client.send(packet).await.unwrap();
    client.send(&good.to_bytes().unwrap()).await.unwrap();
    let first = receive(&client).await;
    if first[..2] == good.metadata.id.to_be_bytes() { None } else { Some(first) }
}

#[tokio::test]
async fn what_is_malformed_is_told_so_and_what_is_no_question_gets_no_answer() {
    let sidecar = Sidecar::start("").await;
    let good = question("orders.", A).to_bytes().unwrap();
    let changed = |at: usize, with: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + with.len()].copy_from_slice(with);
        packet
    };
    let named = |name: &[u8]| [&good[..12], name, b"\0\x01\0\x01"].concat();
    let long_name = [b"\x3f".repeat(256), b"\0".to_vec()].concat();
    let labels: Vec<u8> = b"\x01a".repeat(128).into_iter().chain([0]).collect();
    let with_opt = |extra: &[u8]| {
        let count = u8::try_from(extra.len() / 11).unwrap();
        [&changed(11, &[count]), extra].concat()
    };
    const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\0";
    let malformed: Vec<(&str, Vec<u8>)> = vec![
        ("no question", changed(4, &[0, 0])),
        ("two questions", changed(4, &[0, 2])),
        ("more records than there are", changed(10, &[0xff, 0xff])),
        ("ends in the name", good[..15].to_vec()),
        ("ends before the type", good[..good.len() - 4].to_vec()),
        ("points to itself", named(b"\xc0\x0c")),
        ("points ahead", named(b"\x01a\xc0\x20")),
        ("label of a kind that is none", named(b"\x80")),
        ("longer than 255 by labels", named(&labels)),
        ("longer than 255", named(&long_name)),
        ("EDNS twice", with_opt(&OPT.repeat(2))),
        ("EDNS of somebody", with_opt(b"\x01a\0\0\x29\x10\0\0\0\0\0\0\0")),
        ("EDNS with options that are not there", with_opt(b"\0\0\x29\x10\0\0\0\0\0\0\x09")),
    ];
    for (what, packet) in malformed {
        let answer = answer_to(&sidecar, &packet).await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.len(), 12, "{what}");
        assert_eq!(answer[..2], packet[..2], "{what}");
        assert_eq!((answer[2] & 0x80, answer[3] & 0xf), (0x80, 1), "{what}");
    }
    for (what, packet) in
        [("an answer", changed(2, &[0x81])), ("nothing", Vec::new()), ("half a header", good[..11].to_vec())]
    {
        assert_eq!(answer_to(&sidecar, &packet).await, None, "{what}");
    }
    assert_eq!(sidecar.counted("refused", "none"), 3);
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let answer = sidecar.ask("orders.", kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
}

#[tokio::test]
async fn no_packet_and_no_answer_brings_it_down() {
    let asked = extended("www.example.com.", A, 1232);
    let bytes = asked.to_bytes().unwrap();
    let query = Query::parse(&bytes).unwrap();
    let mut answer = addressed(&asked, [192, 0, 2, 1], 60);
    let soa = hickory_proto::rr::rdata::SOA::new(HostName::root(), HostName::root(), 1, 2, 3, 4, 5);
    answer.add_authority(Record::from_rdata(HostName::root(), 60, RData::SOA(soa)));
    answer.set_edns(asked.edns.clone().unwrap());
    let answer = answer.to_bytes().unwrap();
    assert!(wire::Answer::parse(&answer, &query).is_ok());
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..200_000 {
        let (mut packet, mut heard) = (bytes.clone(), answer.clone());
        for bytes in [&mut packet, &mut heard] {
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
        }
        let _ = Query::parse(&packet);
        let _ = wire::Answer::parse(&heard, &query);
        let limit = random.usize(12..200);
        let cut = wire::fit(heard.clone(), limit, query.end());
        let least = query.end() + 11;
        assert!(cut.len() <= limit.max(least) || cut.len() <= heard.len(), "round {round}");
    }
}

#[tokio::test]
async fn answers_that_are_malformed_or_never_end_are_not_passed_on() {
    // A name that points to itself is not followed, so it is nobody's trouble here; a record that is longer than the
    // message is a message that cannot be read.
    for reply in [&b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\xff\x01"[..], b"\xc0", b"\x80\0\x01\0\x01\0\0\0\0\0\0"]
    {
        let fake = Fake::start(move |question, _, _| async move {
            let mut answer = coded(&Message::from_bytes(&question).unwrap(), ResponseCode::NoError);
            answer.metadata.authoritative = true;
            let mut answer = answer.to_bytes().unwrap();
            answer[7] = 1;
            answer.extend(reply);
            vec![answer]
        })
        .await;
        let sidecar = Sidecar::start(&(fake.line() + "options timeout:1 attempts:1\n")).await;
        let answer = sidecar.ask("www.example.com.", A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    let babbler = Fake::start(|mut question, _, _| async move {
        question[0] ^= 1;
        question[2] |= 0x80;
        vec![question; 150]
    })
    .await;
    let sidecar = Sidecar::start(&babbler.line()).await;
    let begun = Instant::now();
    let answer = sidecar.ask("www.example.com.", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_flood_of_questions_that_nobody_answers_does_not_disturb_the_mesh() {
    let silent = Fake::silent().await;
    let sidecar = Sidecar::start(&silent.line()).await;
    let client = sidecar.client().await;
    for number in 0..2000 {
        let asked = question(&format!("n{number}.of.example.com."), A);
        client.send(&asked.to_bytes().unwrap()).await.unwrap();
        if number % 50 == 49 {
            let begun = Instant::now();
            assert_eq!(data(&sidecar.ask("orders.", A).await), ["240.64.0.7"]);
            assert!(begun.elapsed() < Duration::from_secs(2));
        }
    }
    // What has no room is dropped, or told so at once.
    let dropped = sidecar.counted("dropped", "none");
    assert!(dropped >= 512, "{dropped}");
    assert_eq!(dropped + sidecar.counted("upstream", "servfail"), 2000 - 512);
    assert!(silent.asked() <= 128, "{}", silent.asked());
}

#[tokio::test]
async fn questions_over_tcp_are_answered_as_answers_come_and_however_they_arrive() {
    let released = Arc::new(tokio::sync::Notify::new());
    let slow = released.clone();
    let fake = Fake::start(move |question, _, _| {
        let slow = slow.clone();
        async move {
            slow.notified().await;
            let asked = Message::from_bytes(&question).unwrap();
            vec![addressed(&asked, [192, 0, 2, 1], 60).to_bytes().unwrap()]
        }
    })
    .await;
    let sidecar = Sidecar::start(&fake.line()).await;
    let mut stream = sidecar.connect().await;
    let (slow, fast) = (question("www.example.com.", A), question("orders.", A));
    let both = [&slow, &fast, &fast].map(|asked| framed(&asked.to_bytes().unwrap()).unwrap()).concat();
    stream.set_nodelay(true).unwrap();
    for byte in both.chunks(1) {
        stream.write_all(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let answer = Message::from_bytes(&read_framed(&mut stream).await).unwrap();
        assert_eq!((answer.metadata.id, data(&answer)), (fast.metadata.id, vec!["240.64.0.7".to_owned()]));
    }
    // Who has said all may still listen.
    stream.shutdown().await.unwrap();
    released.notify_one();
    let answer = Message::from_bytes(&read_framed(&mut stream).await).unwrap();
    assert_eq!((answer.metadata.id, data(&answer)), (slow.metadata.id, vec!["192.0.2.1".to_owned()]));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);

    // Many more than are worked on at once.
    let mut stream = sidecar.connect().await;
    let (mut reader, mut writer) = stream.split();
    let one = framed(&fast.to_bytes().unwrap()).unwrap();
    let many = one.repeat(500);
    let writing = async { writer.write_all(&many).await.unwrap() };
    let reading = async {
        for _ in 0..500 {
            let length = reader.read_u16().await.unwrap();
            reader.read_exact(&mut vec![0; length.into()]).await.unwrap();
        }
    };
    timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.unwrap();
}

#[tokio::test]
async fn idle_tcp_connections_end_and_their_number_is_bounded() {
    let sidecar = Sidecar::start("").await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(sidecar.connect().await);
    }
    // All of them are known by the time that the last one is answered.
    let last = streams.last_mut().unwrap();
    last.write_all(&framed(&question("orders.", A).to_bytes().unwrap()).unwrap()).await.unwrap();
    read_framed(last).await;
    let begun = Instant::now();
    let mut turned_away = sidecar.connect().await;
    assert_eq!(timeout(PATIENCE, turned_away.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Half a question is none.
    streams[0].write_all(&[0, 30, 1]).await.unwrap();
    for stream in &mut streams {
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
    }
    let idle = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(15)).contains(&idle), "{idle:?}");
}
