//! Ninety days of a mesh on a clock of our own: certificates are renewed, the issuing one too, the root once, and nobody
//! is ever refused. The authority, the schedule of renewals and the handshakes are the real ones.

use std::time::{Duration, SystemTime};

use fastrand::Rng;
use weft_certs::{
    ClientAuth, Credentials, IssueParams, KeyPair, Phase, Progress, Proof, Roots, SETTLING, Schedule, request,
};

use crate::support::{domain, handshake_at, id, now};

const DAY: Duration = Duration::from_hours(24);
const MEMBERS: usize = 12;
const CONTROL_PLANE: &str = "control-plane";

/// A workload and its sidecar.
struct Member {
    account: String,
    held: Held,
    /// Until when it hears nothing from the control plane and cannot reach it.
    away_until: SystemTime,
    /// What it trusts, and when it was told.
    heard: (u64, SystemTime),
}

struct Held {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    credentials: Credentials,
    schedule: Schedule,
}

/// A certificate as the authority remembers it.
struct Given {
    root: String,
    holder: usize,
    not_after: SystemTime,
    replaced: Option<SystemTime>,
}

struct Mesh {
    roots: Roots,
    now: SystemTime,
    rng: Rng,
    members: Vec<Member>,
    given: Vec<Given>,
    own: (Credentials, Schedule),
    handshakes: usize,
    renewals: usize,
}

impl Mesh {
    fn new(now: SystemTime) -> Self {
        // The issuing certificate has lived most of its life.
        let roots = Roots::create(&domain(), now - 290 * DAY).unwrap();
        let mut rng = Rng::with_seed(90);
        let own = own(&roots, now, &mut rng);
        let mut mesh =
            Self { roots, now, rng, members: Vec::new(), given: Vec::new(), own, handshakes: 0, renewals: 0 };
        for number in 0..MEMBERS {
            let account = format!("m{number}");
            let (held, given) = mesh.issue(number, &account);
            mesh.given.push(given);
            let heard = (mesh.roots.sequence(), now);
            mesh.members.push(Member { account, held, away_until: now, heard });
        }
        mesh
    }

    fn issue(&mut self, holder: usize, account: &str) -> (Held, Given) {
        let key = KeyPair::generate().unwrap();
        let wanted =
            IssueParams { identity: id(account), dns: Vec::new(), ips: Vec::new(), ttl: DAY, now: self.now };
        let issued = self.roots.sign(&request(&key).unwrap(), &wanted).unwrap();
        let given = Given { root: issued.root, holder, not_after: issued.not_after, replaced: None };
        let anchors = self.roots.anchors();
        let credentials = Credentials::new(issued.chain.clone(), &key, &anchors, &domain()).unwrap();
        let schedule = Schedule::new(&credentials, self.now, &mut self.rng);
        (Held { key, chain: issued.chain, credentials, schedule }, given)
    }

    /// What the authority does at any time.
    fn upkeep(&mut self) {
        if let Some(renewed) = self.roots.renew_issuing(self.now).unwrap() {
            self.roots = renewed;
        }
        let signing = self.roots.roots().unwrap()[0].fingerprint.clone();
        let unaware = self
            .members
            .iter()
            .filter(|member| member.away_until <= self.now && member.heard.0 < self.roots.sequence())
            .count();
        let in_use = |given: &&Given| {
            given.root != signing
                && given.not_after >= self.now
                && given.replaced.is_none_or(|at| at + SETTLING > self.now)
        };
        let former_in_use = self.given.iter().filter(in_use).count();
        if let Some(next) = self.roots.advance(Progress { unaware, former_in_use }, self.now).unwrap() {
            self.roots = next;
            self.own = own(&self.roots, self.now, &mut self.rng);
        }
        if self.own.1.due(self.now) <= self.now {
            self.own = own(&self.roots, self.now, &mut self.rng);
        }
        self.given.retain(|given| given.not_after >= self.now);
    }

    /// Tells a member what is trusted, as the stream does a moment after a change.
    fn tell(&mut self, number: usize) {
        let (sequence, anchors) = (self.roots.sequence(), self.roots.anchors());
        let member = &mut self.members[number];
        if member.away_until > self.now || member.heard.0 == sequence {
            return;
        }
        member.heard = (sequence, self.now);
        let held = &mut member.held;
        held.credentials = Credentials::new(held.chain.clone(), &held.key, &anchors, &domain()).unwrap();
        if !held.credentials.is_of_first_anchor() {
            held.schedule.hasten(self.now, Duration::from_secs(30), &mut self.rng);
        }
    }

    fn renew(&mut self, number: usize) {
        let now = self.now;
        let member = &self.members[number];
        if member.away_until > now || member.held.schedule.due(now) > now {
            return;
        }
        assert_eq!(member.held.schedule.proof(now), Proof::Certificate, "{} came too late", member.account);
        let (client, account) = (member.held.credentials.clone(), member.account.clone());
        let client = client.client_config(&id(CONTROL_PLANE), &[]).unwrap();
        let server = self.own.0.server_config(&[], ClientAuth::Optional).unwrap();
        handshake_at(now, &client, &server).expect("the control plane and a member believe one another");
        let (held, given) = self.issue(number, &account);
        for earlier in self.given.iter_mut().filter(|given| given.holder == number) {
            earlier.replaced.get_or_insert(now);
        }
        self.given.push(given);
        let member = &mut self.members[number];
        member.held = held;
        member.heard = (self.roots.sequence(), now);
        self.renewals += 1;
        self.handshakes += 1;
    }

    /// One member calls another, whoever they are.
    fn call(&mut self) {
        let (from, to) = (self.rng.usize(..MEMBERS), self.rng.usize(..MEMBERS));
        let [client, server] = [from, to].map(|number| &self.members[number]);
        let config = client.held.credentials.client_config(&id(&server.account), &[]).unwrap();
        let serving = server.held.credentials.server_config(&[], ClientAuth::Required).unwrap();
        handshake_at(self.now, &config, &serving).unwrap_or_else(|failure| {
            panic!("{} -> {} in phase {:?}: {failure:?}", client.account, server.account, self.roots.phase())
        });
        self.handshakes += 1;
    }
}

fn own(roots: &Roots, now: SystemTime, rng: &mut Rng) -> (Credentials, Schedule) {
    let key = KeyPair::generate().unwrap();
    let wanted = IssueParams { identity: id(CONTROL_PLANE), dns: Vec::new(), ips: Vec::new(), ttl: DAY, now };
    let issued = roots.sign_for_latecomers(&request(&key).unwrap(), &wanted).unwrap();
    let own = Credentials::new(issued.chain, &key, &roots.anchors(), &domain()).unwrap();
    let schedule = Schedule::new(&own, now, rng);
    (own, schedule)
}

#[test]
fn ninety_days_with_every_kind_of_renewal_and_one_move_of_the_root_fail_nobody() {
    let begin = now();
    let mut mesh = Mesh::new(begin);
    let (first_root, first_issuer) = (mesh.roots.anchors(), mesh.roots.issuer().to_owned());
    let mut issuer_before_the_move = String::new();
    let (mut phases, mut rotated) = (vec![mesh.roots.phase()], false);
    let mut step = 0_u64;
    while mesh.now < begin + 90 * DAY {
        if !rotated && mesh.now >= begin + 45 * DAY {
            issuer_before_the_move = mesh.roots.issuer().to_owned();
            mesh.roots = mesh.roots.rotate(mesh.now).unwrap();
            // Two of them hear nothing of it for hours.
            let renewed = mesh.now + Duration::from_hours(7);
            mesh.members.iter_mut().take(2).for_each(|member| member.away_until = renewed);
            rotated = true;
        }
        for number in 0..MEMBERS {
            mesh.renew(number);
        }
        mesh.upkeep();
        let fine =
            mesh.roots.phase() != Phase::Steady && mesh.now < mesh.roots.since() + Duration::from_mins(2);
        if fine || step.is_multiple_of(8) {
            mesh.call();
        }
        // Pushes arrive after the change, in any order.
        for number in 0..MEMBERS {
            if mesh.rng.bool() {
                mesh.tell(number);
            }
        }
        if phases.last() != Some(&mesh.roots.phase()) {
            phases.push(mesh.roots.phase());
        }
        mesh.now += if fine { Duration::from_secs(1) } else { Duration::from_mins(5) };
        step += 1;
    }
    assert_eq!(phases, [Phase::Steady, Phase::Announced, Phase::Moved, Phase::Steady]);
    assert_ne!(issuer_before_the_move, first_issuer, "the issuing certificate was renewed");
    let anchors = mesh.roots.anchors();
    assert!(anchors.len() == 1 && anchors != first_root, "the first root is gone");
    assert!(mesh.members.iter().all(|member| member.held.credentials.is_of_first_anchor()));
    assert!(mesh.renewals > 1500 && mesh.handshakes > 4500, "{} {}", mesh.renewals, mesh.handshakes);
    println!("{} renewals, {} handshakes, none refused", mesh.renewals, mesh.handshakes);
}
