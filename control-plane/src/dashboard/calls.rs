//! Who calls whom, how often and how well: what the sidecars counted, each end by the name that its page has; and which kinds
//! of policy stand before a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft_core::manifest::{Kind, Spec};
use weft_core::model::{PolicyTarget, QualifiedName};
use weft_core::world::World;
use weft_proto::v1::Circuit;

use crate::api::AdminService;
use crate::telemetry::{By, Counted, Of, Tally};
use crate::together::Asking;

/// From whom to whom, each `NAMESPACE/NAME`; the mesh does not know everybody.
pub(super) type Edge = (String, String);

/// The calls of a stretch of time.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) edges: BTreeMap<Edge, Tally>,
    /// How long it was.
    pub(super) over: Duration,
    /// The circuits that are not closed, and whose each is.
    pub(super) circuits: Vec<(Arc<str>, Circuit)>,
    /// What was asked of each, also by those that are not among the edges here.
    pub(super) asked: BTreeMap<String, Tally>,
    /// What stands before each service: `authz`, `limit` ...
    pub(super) badges: BTreeMap<String, BTreeSet<&'static str>>,
}

/// How far back a page looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) name: &'static str,
    pub(super) words: &'static str,
    pub(super) lasts: Duration,
    /// A point of a chart.
    pub(super) step: Duration,
}

impl Window {
    const ALL: [Self; 4] = [
        Self::new("1m", "minute", 60, 10),
        Self::new("10m", "10 minutes", 600, 10),
        Self::new("1h", "hour", 3_600, 60),
        Self::new("6h", "6 hours", 21_600, 300),
    ];

    const fn new(name: &'static str, words: &'static str, lasts: u64, step: u64) -> Self {
        Self { name, words, lasts: Duration::from_secs(lasts), step: Duration::from_secs(step) }
    }

    /// As a page was asked for it; else this one.
    pub(super) fn of(text: &str, otherwise: &'static str) -> Self {
        let named = |name: &str| Self::ALL.into_iter().find(|window| window.name == name);
        let [shortest, ..] = Self::ALL;
        named(text).or_else(|| named(otherwise)).unwrap_or(shortest)
    }

    /// Links to a page, which may have a query, with each of them.
    pub(super) fn choice(self, path: &str) -> String {
        let more = if path.contains('?') { '&' } else { '?' };
        let links =
            Self::ALL.into_iter().map(|it| (format!("{path}{more}window={}", it.name), it.name, it == self));
        super::html::choice("Over", links)
    }
}

/// What was counted in this time.
pub(super) async fn counted(admin: &AdminService, asking: &mut Asking<'_>, window: Window) -> Calls {
    let Counted { sums, over, circuits } = admin.counted(asking, window.lasts, By::Caller).await;
    let (services, badges) = admin.world.read(|known| (services_of_accounts(known), badges(known)));
    let edges = named(sums, &services);
    let mut asked: BTreeMap<String, Tally> = BTreeMap::new();
    for ((_, to), tally) in &edges {
        asked.entry(to.clone()).or_default().add(tally);
    }
    Calls { edges, over, circuits, asked, badges }
}

impl Calls {
    /// All of them together.
    pub(super) fn all(&self) -> Tally {
        sum(self.edges.values())
    }

    /// What was asked of a service.
    pub(super) fn of(&self, service: &str) -> Tally {
        self.asked.get(service).cloned().unwrap_or_default()
    }

    pub(super) fn rps(&self, tally: &Tally) -> f64 {
        tally.rps(self.over)
    }

    /// Those alone that begin or end at somebody whose name has this in it, whatever the case of its letters.
    pub(super) fn about(&self, part: &str) -> Self {
        let named = |name: &str| name.to_ascii_lowercase().contains(part);
        let edges = self.edges.iter().filter(|((from, to), _)| named(from) || named(to));
        let edges = edges.map(|(edge, tally)| (edge.clone(), tally.clone())).collect();
        Self { edges, circuits: Vec::new(), ..self.without_edges() }
    }

    /// Those alone that begin or end at a service.
    pub(super) fn around(&self, service: &str) -> Self {
        let near = |((from, to), _): &(&Edge, &Tally)| from == service || to == service;
        let edges =
            self.edges.iter().filter(near).map(|(edge, tally)| (edge.clone(), tally.clone())).collect();
        let towards = self.circuits.iter().filter(|(_, circuit)| circuit.service == service);
        Self { edges, circuits: towards.cloned().collect(), ..self.without_edges() }
    }

    fn without_edges(&self) -> Self {
        let (asked, badges) = (self.asked.clone(), self.badges.clone());
        Self { over: self.over, asked, badges, ..Self::default() }
    }
}

fn sum<'t>(all: impl Iterator<Item = &'t Tally>) -> Tally {
    all.fold(Tally::default(), |mut sum, tally| {
        sum.add(tally);
        sum
    })
}

/// Counters know callers by their accounts; who offers one service, and nothing else, is known by that.
fn named(
    sums: BTreeMap<Of, Tally>,
    services: &BTreeMap<String, BTreeSet<QualifiedName>>,
) -> BTreeMap<Edge, Tally> {
    let mut edges: BTreeMap<Edge, Tally> = BTreeMap::new();
    for (of, tally) in sums {
        let offered = services.get(&*of.caller).filter(|offered| offered.len() == 1);
        let caller =
            offered.and_then(BTreeSet::first).map_or_else(|| of.caller.to_string(), ToString::to_string);
        edges.entry((caller, of.service.to_string())).or_default().add(&tally);
    }
    edges
}

/// What each service account's workloads offer.
fn services_of_accounts(known: &World) -> BTreeMap<String, BTreeSet<QualifiedName>> {
    let mut services: BTreeMap<String, BTreeSet<QualifiedName>> = BTreeMap::new();
    for service in known.service_names() {
        for workload in known.members(&service).keys() {
            if let Some(registration) = known.registration(workload) {
                let account = format!("{}/{}", registration.name.namespace, registration.service_account);
                services.entry(account).or_default().insert(service.clone());
            }
        }
    }
    services
}

/// A kind of document in a word, where it changes what becomes of a call.
fn badge(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::AuthorizationPolicy => Some("access"),
        Kind::JwtAuthentication => Some("token"),
        Kind::RateLimit => Some("limit"),
        Kind::TrafficPolicy => Some("traffic"),
        Kind::FaultInjection => Some("fault"),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => Some("route"),
        _ => None,
    }
}

/// Which kinds stand before each service of its own; what holds for a namespace or the mesh holds for all and tells none apart.
fn badges(known: &World) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut badges: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for service in known.service_names() {
        let kinds = known
            .policies(&service)
            .filter(|resource| is_its_own(&resource.spec))
            .map(|resource| resource.kind);
        let routes = known.routes_of(&service).map(|(resource, _)| resource.kind);
        let words: BTreeSet<_> = kinds.chain(routes).filter_map(badge).collect();
        if !words.is_empty() {
            badges.insert(service.to_string(), words);
        }
    }
    for resource in known.resources() {
        let words = badge(resource.kind);
        if let (Some(PolicyTarget::Service(service)), Some(word)) = (resource.target(), words) {
            badges.entry(service.to_string()).or_default().insert(word);
        }
    }
    badges
}

fn is_its_own(spec: &Spec) -> bool {
    let target = match spec {
        Spec::TrafficPolicy(spec) => &spec.target,
        Spec::FaultInjection(spec) => &spec.target,
        _ => return false,
    };
    matches!(target, PolicyTarget::Service(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(caller: &str, service: &str) -> (Of, Tally) {
        (Of { caller: caller.into(), service: service.into(), route: "".into() }, Tally::default())
    }

    #[test]
    fn a_caller_has_the_name_of_the_one_service_it_offers() {
        let names = |all: &[&str]| all.iter().map(|name| name.parse().expect("a name")).collect();
        let services = BTreeMap::from([
            ("default/shop".to_owned(), names(&["default/web"])),
            ("default/both".to_owned(), names(&["default/a", "default/b"])),
        ]);
        let sums = [
            of("default/shop", "default/orders"),
            of("default/both", "default/web"),
            of("unknown", "default/web"),
        ];
        let edges: Vec<_> = named(sums.into(), &services).into_keys().collect();
        let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(
            edges,
            [
                edge("default/both", "default/web"),
                edge("default/web", "default/orders"),
                edge("unknown", "default/web")
            ]
        );
    }

    #[test]
    fn calls_are_found_by_either_end() {
        let sums = [of("default/web", "default/orders"), of("default/orders", "shop/stock")];
        let calls = Calls { edges: named(sums.into(), &BTreeMap::new()), ..Calls::default() };
        let about = |part: &str| calls.about(part).edges.into_keys().map(|(_, to)| to).collect::<Vec<_>>();
        assert_eq!(about("web"), ["default/orders"]);
        assert_eq!(about("orders"), ["shop/stock", "default/orders"]);
        assert_eq!((about("").len(), about("shop/").len(), about("nobody").len()), (2, 1, 0));
    }

    #[test]
    fn a_page_looks_as_far_back_as_it_is_asked() {
        assert_eq!(Window::of("1h", "1m").lasts, Duration::from_secs(3_600));
        assert_eq!(Window::of("<b>", "10m").name, "10m");
        for window in Window::ALL {
            let points = window.lasts.as_secs() / window.step.as_secs();
            assert!((6..=72).contains(&points), "{window:?}");
        }
        let links = Window::of("1h", "1m").choice("/services/a/b");
        assert!(
            links.contains("<a href=\"/services/a/b?window=1h\" aria-current=\"true\">1h</a>"),
            "{links}"
        );
    }
}
