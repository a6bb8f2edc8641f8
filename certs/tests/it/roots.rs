//! The move from one root to the next, step by step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use weft_certs::{
    Authority, CertError, ClientAuth, Credentials, IssueParams, KeyPair, Phase, Progress, Proof, Role, Roots,
    RotateError, Schedule, anchored_client_config, request,
};
use weft_core::model::Revoked;

use crate::support::{domain, handshake, handshake_at, id, now, wanted};

const DAY: Duration = Duration::from_hours(24);
const DONE: Progress = Progress { unaware: 0, former_in_use: 0 };

fn signed(roots: &Roots, account: &str, anchors: &[Vec<u8>]) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let issued = roots.sign(&request(&key).unwrap(), &wanted(account, DAY)).unwrap();
    Credentials::new(issued.chain, &key, anchors, &domain()).unwrap()
}

fn own(roots: &Roots) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let issued = roots.sign_for_latecomers(&request(&key).unwrap(), &wanted("own", DAY)).unwrap();
    let own = Credentials::new(issued.chain, &key, &roots.anchors(), &domain()).unwrap();
    own.server_config(&[], ClientAuth::Optional).unwrap()
}

fn whole_move(roots: &Roots) -> Roots {
    let announced = roots.rotate(now()).unwrap();
    let moved = announced.advance(DONE, now()).unwrap().unwrap();
    moved.advance(DONE, now()).unwrap().unwrap()
}

#[test]
fn a_move_announces_then_signs_then_forgets_and_waits_in_between() {
    let steady = Roots::create(&domain(), now()).unwrap();
    assert!(steady.advance(DONE, now()).unwrap().is_none());
    let announced = steady.rotate(now()).unwrap();
    assert!(matches!(announced.rotate(now()), Err(RotateError::UnderWay)));
    assert_eq!((announced.phase(), announced.issuer()), (Phase::Announced, steady.issuer()));
    assert_eq!(announced.anchors()[..1], steady.anchors());
    assert!(announced.advance(Progress { unaware: 1, ..DONE }, now()).unwrap().is_none());

    let moved = announced.advance(Progress { former_in_use: 9, ..DONE }, now()).unwrap().unwrap();
    assert_eq!(moved.phase(), Phase::Moved);
    assert_ne!(moved.issuer(), steady.issuer());
    assert_eq!(moved.anchors(), [announced.anchors()[1].clone(), steady.anchors()[0].clone()]);
    assert!(!moved.to_pem().contains(&key_of(&steady)), "the former root's key is forgotten");
    for waits in [Progress { former_in_use: 1, ..DONE }, Progress { unaware: 1, ..DONE }] {
        assert!(moved.advance(waits, now()).unwrap().is_none());
    }

    let done = moved.advance(DONE, now()).unwrap().unwrap();
    assert_eq!((done.phase(), done.anchors()), (Phase::Steady, moved.anchors()[..1].to_vec()));
    let sequences = [&steady, &announced, &moved, &done].map(Roots::sequence);
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    let roles: Vec<_> = moved.roots().unwrap().into_iter().map(|root| root.role).collect();
    assert_eq!(roles, [Role::Signing, Role::Former]);
    assert_eq!(announced.roots().unwrap()[1].role, Role::Next);
}

/// The root's private key, as it stands in what is written.
fn key_of(roots: &Roots) -> String {
    let pem = roots.to_pem();
    let (_, key) = pem.split_once("-----BEGIN PRIVATE KEY-----\n").unwrap();
    key.lines().next().unwrap().to_owned()
}

#[test]
fn every_step_is_read_back_and_what_never_moved_too() {
    let steady = Roots::create(&domain(), now()).unwrap();
    let announced = steady.rotate(now()).unwrap();
    let moved = announced.advance(DONE, now()).unwrap().unwrap();
    let done = moved.advance(DONE, now()).unwrap().unwrap();
    for roots in [steady, announced, moved, done] {
        let again = Roots::from_pem(&roots.to_pem(), now()).unwrap();
        assert_eq!(again.to_pem(), roots.to_pem());
        assert_eq!((again.phase(), again.sequence()), (roots.phase(), roots.sequence()));
        assert_eq!(again.anchors(), roots.anchors());
    }
    let authority = Authority::create(&domain(), now()).unwrap();
    let roots = Roots::from_pem(&authority.to_pem(), now()).unwrap();
    assert_eq!((roots.phase(), roots.anchors()), (Phase::Steady, authority.anchors()));
    assert!(Roots::from_pem("", now()).is_err());
}

#[test]
fn all_believe_all_through_every_step_also_who_hears_of_none() {
    let steady = Roots::create(&domain(), now()).unwrap();
    let announced = steady.rotate(now()).unwrap();
    let moved = announced.advance(DONE, now()).unwrap().unwrap();
    // Before; heard of the new root; has a certificate of the new root; and one that has heard of nothing.
    let members = [
        signed(&steady, "web", &steady.anchors()),
        signed(&steady, "web", &announced.anchors()),
        signed(&moved, "web", &moved.anchors()),
    ];
    for client in &members {
        for server in &members {
            let client = client.client_config(&id("web"), &[]).unwrap();
            handshake(&client, &server.server_config(&[], ClientAuth::Required).unwrap()).unwrap();
        }
    }
    assert!(members[0].is_of_first_anchor() && members[1].is_of_first_anchor());
    let told = signed(&steady, "web", &moved.anchors());
    assert!(!told.is_of_first_anchor() && members[2].is_of_first_anchor());
}

#[test]
fn who_was_away_for_two_moves_still_reaches_the_control_plane_and_then_is_told_to_fetch_the_roots() {
    let first = Roots::create(&domain(), now()).unwrap();
    let old = anchored_client_config(&first.anchors(), &id("own"), &[]).unwrap();
    let mut roots = first;
    for away in 0..4 {
        assert_eq!(handshake(&old, &own(&roots)).is_ok(), away <= 2, "{away} moves");
        roots = whole_move(&roots);
    }
}

#[test]
fn after_a_move_the_former_root_is_not_believed_between_members() {
    let steady = Roots::create(&domain(), now()).unwrap();
    let done = whole_move(&steady);
    let (old, new) = (signed(&steady, "web", &steady.anchors()), signed(&done, "web", &done.anchors()));
    let (from_old, to_new) =
        (old.client_config(&id("web"), &[]).unwrap(), new.server_config(&[], ClientAuth::Required).unwrap());
    assert!(handshake(&from_old, &to_new).is_err());
    let (from_new, to_old) =
        (new.client_config(&id("web"), &[]).unwrap(), old.server_config(&[], ClientAuth::Required).unwrap());
    assert!(handshake(&from_new, &to_old).is_err());
}

#[test]
fn an_issuing_certificate_that_ends_has_ended_or_lies_ahead_is_renewed() {
    let roots = Roots::create(&domain(), now()).unwrap();
    assert!(roots.renew_issuing(now() + 300 * DAY).unwrap().is_none());
    for moment in [now() + 310 * DAY, now() + 400 * DAY, now() - DAY] {
        let wanted = IssueParams { now: moment, ..wanted("web", DAY) };
        let renewed = roots.renew_issuing(moment).unwrap().unwrap();
        assert_eq!(renewed.anchors(), roots.anchors());
        assert_ne!(renewed.issuer(), roots.issuer());
        let key = KeyPair::generate().unwrap();
        let issued = renewed.sign(&request(&key).unwrap(), &wanted).unwrap();
        let web = Credentials::new(issued.chain, &key, &renewed.anchors(), &domain()).unwrap();
        let client = web.client_config(&id("web"), &[]).unwrap();
        handshake_at(moment, &client, &web.server_config(&[], ClientAuth::Required).unwrap()).unwrap();
    }
    let request = request(&KeyPair::generate().unwrap()).unwrap();
    let late = IssueParams { now: now() + 400 * DAY, ..wanted("web", DAY) };
    assert!(matches!(roots.sign(&request, &late), Err(CertError::IssuerExpired)));
}

#[test]
fn a_certificate_is_asked_for_in_time_and_at_once_where_the_clock_has_jumped() {
    let roots = Roots::create(&domain(), now()).unwrap();
    let web = signed(&roots, "web", &roots.anchors());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut schedule = Schedule::new(&web, now(), &mut rng);
    let due = schedule.due(now()).duration_since(now()).unwrap();
    assert!(due > 15 * DAY / 24 && due < 17 * DAY / 24, "{due:?}");
    let hour = Duration::from_hours(1);
    for (moment, proof, late) in [
        (now(), Proof::Certificate, false),
        (now() + 20 * hour, Proof::Certificate, true),
        (now() + 7 * DAY, Proof::Token, true),
        (now() - 7 * DAY, Proof::Token, true),
    ] {
        assert_eq!((schedule.proof(moment), schedule.is_late(moment)), (proof, late), "{moment:?}");
        assert!(proof == Proof::Certificate || schedule.due(moment) == moment);
    }
    schedule.hasten(now(), Duration::from_mins(1), &mut rng);
    assert!(schedule.due(now()) <= now() + Duration::from_mins(1));
}

#[test]
fn the_revoked_are_refused_by_both_sides_and_others_are_not() {
    let roots = Roots::create(&domain(), now()).unwrap();
    let (web, orders) = (signed(&roots, "web", &roots.anchors()), signed(&roots, "orders", &roots.anchors()));
    let both = |web: &Credentials, orders: &Credentials| {
        let client = web.client_config(&id("orders"), &[]).unwrap();
        handshake(&client, &orders.server_config(&[], ClientAuth::Required).unwrap())
    };
    let revoked = [Revoked::Identity(id("other")), Revoked::Certificate("5f".parse().unwrap())];
    both(&web.refusing(&revoked), &orders.refusing(&revoked)).unwrap();
    let refused = |error: Option<rustls::Error>| {
        let revoked = rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked);
        assert_eq!(error, Some(revoked));
    };
    for revoked in [Revoked::Identity(id("web")), Revoked::Certificate(web.serial().clone())] {
        refused(both(&web, &orders.refusing(&[revoked])).unwrap_err().server);
    }
    for revoked in [Revoked::Identity(id("orders")), Revoked::Certificate(orders.serial().clone())] {
        refused(both(&web.refusing(&[revoked]), &orders).unwrap_err().client);
    }
}

#[test]
fn times_of_a_state_are_whole_seconds_and_sequences_go_on_when_the_clock_is_set_back() {
    let roots = Roots::create(&domain(), now()).unwrap();
    let later = roots.renumber(SystemTime::UNIX_EPOCH);
    assert_eq!(later.sequence(), roots.sequence() + 1);
    let again = Roots::from_pem(&roots.to_pem(), SystemTime::UNIX_EPOCH).unwrap();
    assert!(roots.since().duration_since(again.since()).unwrap() < Duration::from_secs(1));
}
