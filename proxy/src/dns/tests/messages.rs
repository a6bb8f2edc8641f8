//! Messages as bytes.

use super::*;
use crate::dns::wire::{Answer, fit};

#[test]
fn names_have_255_bytes_at_most_and_labels_63() {
    let longest = "a".repeat(63);
    let last = |length: usize| "a".repeat(length);
    assert!(wire::Name::of([&longest, &longest, &longest, &*last(61)]).is_some());
    assert!(wire::Name::of([&longest, &longest, &longest, &*last(62)]).is_none());
    assert!(wire::Name::of([&*"a".repeat(64)]).is_none());
    assert!(wire::Name::of([""]).is_none());
    let whole = wire::Name::of([&longest, &longest, &longest, &*last(61)]).unwrap();
    assert_eq!(whole.as_bytes().len(), 255);
    let packet = [b"\0\x01\0\0\0\x01\0\0\0\0\0\0", whole.as_bytes(), b"\0\x01\0\x01"].concat();
    assert_eq!(Query::parse(&packet).unwrap().name, whole);
    assert_eq!(whole.labels().unwrap()[1], (64, longest));
}

#[test]
fn lifetimes_are_the_shortest_time_to_live_and_never_more_than_the_zone_says() {
    let asked = question("www.example.com.", RecordType::A);
    let query = Query::parse(&asked.to_bytes().unwrap()).unwrap();
    let check = |answer: &Message, expected: Option<u32>| {
        let answer = Answer::parse(&answer.to_bytes().unwrap(), &query).unwrap();
        assert_eq!(answer.lifetime, expected, "{answer:?}");
    };
    check(&addressed(&asked, [1; 4], 300), Some(300));
    check(&addressed(&asked, [1; 4], 0), None);
    check(&addressed(&asked, [1; 4], 1 << 31), None); // RFC 2181 section 8
    let mut two = addressed(&asked, [1; 4], 300);
    two.add_answers(addressed(&asked, [2; 4], 20).answers);
    // What EDNS has in the place of a time to live is none.
    two.set_edns(Edns::new());
    check(&two, Some(20));
    two.metadata.truncation = true;
    check(&two, None);
    let soa = |ttl, minimum| {
        let soa = hickory_proto::rr::rdata::SOA::new(HostName::root(), HostName::root(), 1, 2, 3, 4, minimum);
        Record::from_rdata(HostName::root(), ttl, RData::SOA(soa))
    };
    for (ttl, minimum, expected) in [(300, 20, Some(20)), (20, 300, Some(20)), (300, 0, None)] {
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let mut denied = coded(&asked, code);
            denied.add_authority(soa(ttl, minimum));
            check(&denied, expected);
        }
    }
    check(&coded(&asked, ResponseCode::NXDomain), None);
    check(&coded(&asked, ResponseCode::Refused), None);
    // An address with the zone's start beside it is no denial.
    let mut found = addressed(&asked, [1; 4], 300);
    found.add_authority(soa(400, 20));
    check(&found, Some(300));
}

#[test]
fn what_is_cut_ends_with_a_whole_record_and_keeps_edns() {
    let asked = question("www.example.com.", RecordType::A);
    let end = Query::parse(&asked.to_bytes().unwrap()).unwrap().end();
    let mut answer = coded(&asked, ResponseCode::NoError);
    for number in 0..50 {
        answer.add_answers(addressed(&asked, [10, 0, 0, number], 60).answers);
    }
    answer.set_edns(Edns::new());
    let bytes = answer.to_bytes().unwrap();
    assert_eq!(fit(bytes.clone(), bytes.len(), end), bytes);
    for limit in end + 11..bytes.len() {
        let cut = fit(bytes.clone(), limit, end);
        assert!(cut.len() <= limit);
        let cut = Message::from_bytes(&cut).unwrap();
        assert!(cut.metadata.truncation && cut.edns.is_some());
        assert_eq!(cut.answers[..], answer.answers[..cut.answers.len()]);
        assert_eq!(cut.answers.len(), (limit - end - 11) / 16);
    }
}
