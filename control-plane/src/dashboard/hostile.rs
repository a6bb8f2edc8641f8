//! Names come from the network: whatever they say, they are text on every page.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use weft_proto::v1;

use super::calls::{Calls, Window};
use super::html::{Frame, Page, Place, Query};
use super::{compare, explain, identities, login, overview, policies, service, sidecars, tap, trace, traces};
use crate::store::{DocumentKey, Revision, RevisionSource};
use crate::telemetry::{Span, SpanId, SpanKind, Summary, Tally, TraceId};

/// Breaks out of an element, of an attribute in either quotes, of a comment and of a link.
const HOSTILE: &str = "'\"></td></table>--><script>alert(1)</script><img src=x onerror=alert(2)><a href=\"javascript:alert(3)\">&lt;b&gt;";

fn hostile() -> String {
    HOSTILE.to_owned()
}

fn spans() -> Vec<Span> {
    let span = |id: u8, parent: Option<u8>| Span {
        trace: TraceId([1; 16]),
        id: SpanId([id; 8]),
        parent: parent.map(|parent| SpanId([parent; 8])),
        service: HOSTILE.into(),
        kind: SpanKind::Client,
        name: hostile(),
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(7),
        attributes: vec![(hostile(), hostile())],
        error: true,
    };
    vec![span(1, None), span(2, Some(1))]
}

fn summary() -> Summary {
    Summary {
        id: TraceId([1; 16]),
        root: hostile(),
        service: HOSTILE.into(),
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(7),
        spans: 2,
        services: BTreeSet::from([HOSTILE.into()]),
        errors: 1,
    }
}

fn calls() -> Calls {
    let row = v1::GoldenRow { requests: 3, failures: 1, buckets: vec![3], ..Default::default() };
    let tally = Tally::of(&row, &[4_000]);
    let edges = [(hostile(), format!("{HOSTILE}/{HOSTILE}")), (format!("{HOSTILE}/{HOSTILE}"), hostile())];
    Calls {
        circuits: Vec::new(),
        asked: BTreeMap::from([(hostile(), tally.clone())]),
        edges: edges.into_iter().map(|edge| (edge, tally.clone())).collect(),
        over: Duration::from_secs(60),
        badges: BTreeMap::new(),
    }
}

fn map(frame: &Frame) -> String {
    let service = v1::ServiceSummary {
        namespace: hostile(),
        name: hostile(),
        addresses: vec![hostile()],
        ports: vec![hostile()],
        ..Default::default()
    };
    let (calls, window) = (calls(), Window::of(HOSTILE, "1m"));
    let (services, errors) = (&[service][..], &[summary()][..]);
    let find = HOSTILE.to_ascii_lowercase();
    let seen = overview::Overview { services, calls: &calls, window, find: &find, sidecars: (1, 2), errors };
    overview::overview(&seen, frame)
}

fn service(frame: &Frame) -> String {
    let mut page = Page::new(HOSTILE, Place::Map, frame);
    let routes = BTreeMap::from([(hostile(), Tally::default())]);
    overview::by_name(&mut page, "Routes", "Route", &routes, &calls());
    let circuit =
        |endpoint: &str| v1::Circuit { service: hostile(), endpoint: endpoint.into(), half_open: true };
    service::circuits(&mut page, &[(HOSTILE.into(), circuit(HOSTILE)), (HOSTILE.into(), circuit(""))]);
    page.finish()
}

fn sidecar(frame: &Frame) -> String {
    let name = Some(v1::ResourceName { name: hostile(), ..Default::default() });
    let heard = v1::PlaintextHeard {
        caller: hostile(),
        address: hostile(),
        last_seen: hostile(),
        ..Default::default()
    };
    let status = v1::SidecarStatus {
        namespace: hostile(),
        workload: hostile(),
        service_account: hostile(),
        version: hostile(),
        certificate_expires: hostile(),
        services: vec![hostile()],
        unhealthy: vec![hostile()],
        rejected: vec![v1::Rejection { name, reason: hostile() }],
        plaintext: vec![heard],
        ..Default::default()
    };
    let all =
        v1::StatusResponse { sidecars: vec![status], revision: 1, version: hostile(), missing: hostile() };
    sidecars::page(&all, frame)
}

fn authority() -> v1::CaStatusResponse {
    let root = v1::CaRoot {
        name: hostile(),
        fingerprint: hostile(),
        role: hostile(),
        expires: hostile(),
        certificates: 1,
    };
    v1::CaStatusResponse {
        roots: vec![root],
        waits_for: vec![hostile()],
        issuing: hostile(),
        issuing_expires: hostile(),
        source: hostile(),
        trouble: hostile(),
        ..Default::default()
    }
}

fn revisions() -> Vec<Revision> {
    let key = DocumentKey { kind: hostile(), namespace: hostile(), name: hostile() };
    vec![Revision {
        number: 1,
        time: SystemTime::UNIX_EPOCH,
        author: hostile(),
        source: RevisionSource::Apply,
        summary: hostile(),
        touched: vec![key],
    }]
}

fn explained(query: &Query, frame: &Frame) -> String {
    let step = v1::Step { stage: hostile(), text: hostile(), source: hostile() };
    let told = v1::ExplainResponse {
        decision: hostile(),
        error: hostile(),
        backend: hostile(),
        steps: vec![step],
        timeouts: [(hostile(), hostile())].into(),
        ..Default::default()
    };
    explain::page(query, Some(Ok(told)), frame)
}

#[test]
fn hostile_names_stay_text_on_every_page() {
    let frame = Frame::default();
    let query: String =
        ["service", "route", "status", "since", "attribute", "from", "path", "name", "to", "header"]
            .map(|name| format!("{name}={}&", super::html::encoded(HOSTILE)))
            .concat();
    let query = Query::of(Some(&query));
    let (_, wrong) = traces::filter(&query, SystemTime::UNIX_EPOCH);
    let (id, spans, services) = (TraceId([1; 16]), spans(), [hostile()]);
    let found = (id, spans.clone());
    let pages = [
        ("map", map(&frame)),
        ("service", service(&frame)),
        ("traces", traces::list(&query, &[summary(), summary()], &wrong, &frame)),
        ("trace", trace::waterfall(id, &spans, 0, &frame)),
        ("no trace", trace::absent(HOSTILE, &frame)),
        ("compare", compare::page(&found, &found, &frame)),
        ("comparing nothing", compare::asks(2, &[HOSTILE], &frame)),
        ("tap", tap::form(&query, &services, Some(HOSTILE), &frame)),
        ("tapping", tap::begin(&query, &services, &frame)),
        ("sidecars", sidecar(&frame)),
        ("identities", identities::page(&[], &authority(), &query, SystemTime::UNIX_EPOCH, &frame)),
        ("policies", policies::history(&revisions(), &[], &frame)),
        ("refused", policies::refused(HOSTILE, &frame)),
        ("explain", explained(&query, &frame)),
        ("not explained", explain::page(&query, Some(Err(hostile())), &frame)),
        ("login", login::page(HOSTILE, Some(HOSTILE), &frame)),
    ];
    for (name, page) in pages {
        assert!(page.contains("&lt;script&gt;alert(1)"), "{name} shows it: {page}");
        let ours = page.replace("<script src=\"/live.js\" defer></script>", "");
        for breakout in ["<script", "<img", "<a href=\"javascript:", "'\">", "-->", "&lt;b&gt;"] {
            assert!(!ours.contains(breakout), "{name}: {breakout} in {page}");
        }
        assert!(page.contains("&amp;lt;b&amp;gt;"), "{name}: what was escaped already is escaped again");
    }
}
