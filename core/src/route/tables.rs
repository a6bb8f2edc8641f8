//! A service's rules for one namespace's callers, by port, in the order in which they are asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::matching::{Rank, Request, fits};
use crate::balance::Weights;
use crate::model::{
    Backend, BackendTarget, Filters, HostPattern, HttpMatch, Name, PathMatch, QualifiedName, Route,
    RoutePath, RoutePolicy, RouteRules, RouteTraffic, Traffic,
};
use crate::plan::Plan;

/// A service's rules for one namespace's callers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// For the ports that some route names.
    named: Vec<(u16, Table)>,
    /// For all others.
    other: Table,
}

/// The rules on one port: all of one kind of route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Table {
    /// None: calls go to the service.
    #[default]
    None,
    /// For requests.
    Requests(Requests),
    /// For connections of TLS, by server name.
    Tls(Connections),
    /// For connections of any kind.
    Tcp(Arc<Rule>),
}

/// Rules for requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// What is spoken there, which is what no match is answered in.
    pub speaks: Speaks,
    entries: Vec<Entry>,
}

/// What a port's rules are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    wanted: HttpMatch,
    rule: Arc<Rule>,
}

/// Rules for connections of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connections {
    /// The most exact first; without a pattern: for any name, and for none.
    entries: Vec<(Option<HostPattern>, Arc<Rule>)>,
}

/// What becomes of what falls under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The route it is of.
    pub route: QualifiedName,
    /// Its name; empty: none.
    pub name: String,
    /// Which of the route's rules it is.
    pub index: usize,
    /// How it is told of: `NAMESPACE/ROUTE`, and its own name where it has one.
    pub label: Arc<str>,
    /// What becomes of requests.
    pub filters: Filters,
    /// Where they go.
    pub split: Split,
    /// How long and how often it is tried.
    pub policy: RoutePolicy,
    /// What policies say of its route besides; none: nothing.
    pub traffic: Option<Arc<RouteTraffic>>,
}

/// Backends, ready to draw from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    backends: Vec<Backend>,
    weights: Weights,
}

/// The rule that a request falls under.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'t> {
    /// The rule.
    pub rule: &'t Arc<Rule>,
    /// The prefix that fitted, where it was one.
    pub prefix: Option<&'t RoutePath>,
}

impl Routes {
    /// The rules of `service` for callers in the namespace `caller`. `routes` are in the order of age.
    pub fn compile(service: &QualifiedName, routes: &[Route], caller: &Name) -> Self {
        let ports: BTreeSet<u16> = routes.iter().flat_map(|route| route.ports.iter().copied()).collect();
        let table = |port: Option<u16>| Table::of(&in_force(service, routes, caller, port));
        Self { named: ports.into_iter().map(|port| (port, table(Some(port)))).collect(), other: table(None) }
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.other == Table::None
    }

    /// The rules for calls to a port.
    pub fn on(&self, port: u16) -> &Table {
        self.named.iter().find(|(named, _)| *named == port).map_or(&self.other, |(_, table)| table)
    }
}

/// The routes that count on a port (none: on one that no route names): the caller's own, else the service's own, and of
/// these the most specific kind.
fn in_force<'r>(
    service: &QualifiedName,
    routes: &'r [Route],
    caller: &Name,
    port: Option<u16>,
) -> Vec<&'r Route> {
    let here =
        |route: &&Route| route.ports.is_empty() || port.is_some_and(|port| route.ports.contains(&port));
    let of = |namespace: &Name| -> Vec<&Route> {
        routes.iter().filter(here).filter(|route| route.name.namespace == *namespace).collect()
    };
    let mut chosen = of(caller);
    if chosen.is_empty() {
        chosen = of(&service.namespace);
    }
    let first = chosen.iter().map(|route| route.rules.specificity()).min();
    chosen.retain(|route| Some(route.rules.specificity()) == first);
    chosen
}

impl RouteRules {
    /// Whether these count rather than the others, on a port where both are.
    pub(crate) fn goes_before(&self, others: &Self) -> bool {
        self.specificity() < others.specificity()
    }

    /// Where several kinds meet on one port, only that of the lowest counts (GEP-1294, "Route types").
    fn specificity(&self) -> u8 {
        match self {
            Self::Grpc(_) => 0,
            Self::Http(_) => 1,
            Self::Tls { .. } => 2,
            Self::Tcp(_) => 3,
        }
    }
}

impl Table {
    /// `routes` are all of one kind.
    fn of(routes: &[&Route]) -> Self {
        let Some(first) = routes.first() else { return Self::None };
        match &first.rules {
            RouteRules::Http(_) => Self::Requests(Requests::of(Speaks::Http, routes)),
            RouteRules::Grpc(_) => Self::Requests(Requests::of(Speaks::Grpc, routes)),
            RouteRules::Tls { .. } => Self::Tls(Connections::of(routes)),
            // Nothing tells one from the other: the oldest holds.
            RouteRules::Tcp(backends) => Self::Tcp(Arc::new(Rule::of_connections(first, backends))),
        }
    }
}

impl Requests {
    fn of(speaks: Speaks, routes: &[&Route]) -> Self {
        let mut entries = Vec::new();
        for route in routes {
            let (RouteRules::Http(rules) | RouteRules::Grpc(rules)) = &route.rules else { continue };
            for (index, rule) in rules.iter().enumerate() {
                let compiled = Arc::new(Rule {
                    route: route.name.clone(),
                    name: rule.name.clone(),
                    index,
                    label: label(&route.name, &rule.name),
                    filters: rule.filters.clone(),
                    split: Split::new(rule.backends.clone()),
                    policy: rule.policy.clone(),
                    traffic: route.traffic.clone(),
                });
                let any = [HttpMatch::default()];
                let matches = if rule.matches.is_empty() { any.as_slice() } else { &rule.matches };
                entries.extend(
                    matches
                        .iter()
                        .map(|wanted| Entry { wanted: wanted.clone(), rule: Arc::clone(&compiled) }),
                );
            }
        }
        // Stable: what ranks alike stays in the order of age, then of the document.
        entries.sort_by_cached_key(|entry| Rank::of(&entry.wanted));
        Self { speaks, entries }
    }

    /// The rule that a request falls under.
    pub fn find(&self, request: &Request<'_>) -> Option<Hit<'_>> {
        let entry = self.entries.iter().find(|entry| fits(&entry.wanted, request))?;
        let prefix = match &entry.wanted.path {
            Some(PathMatch::Prefix(prefix)) => Some(prefix),
            Some(PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Rpc { .. }) | None => None,
        };
        Some(Hit { rule: &entry.rule, prefix })
    }
}

impl Requests {
    /// The rule that goes by the same name as another: of the same route, and in the same place where it has no name.
    pub fn same(&self, other: &Rule) -> Option<&Arc<Rule>> {
        let is_same = |rule: &Rule| {
            rule.route == other.route
                && rule.name == other.name
                && (!rule.name.is_empty() || rule.index == other.index)
        };
        self.entries.iter().map(|entry| &entry.rule).find(|rule| is_same(rule))
    }
}

impl Connections {
    fn of(routes: &[&Route]) -> Self {
        let mut entries = Vec::new();
        for route in routes {
            let RouteRules::Tls { hosts, backends } = &route.rules else { continue };
            let rule = Arc::new(Rule::of_connections(route, backends));
            if hosts.is_empty() {
                entries.push((None, rule));
            } else {
                entries.extend(hosts.iter().map(|host| (Some(host.clone()), Arc::clone(&rule))));
            }
        }
        entries.sort_by_key(|(host, _)| std::cmp::Reverse(host.as_ref().map(HostPattern::rank)));
        Self { entries }
    }

    /// The rule for a connection that names this server, or none.
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<Rule>> {
        let lower = server_name.map(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            name.to_ascii_lowercase()
        });
        let fits = |host: &Option<HostPattern>| match (host, &lower) {
            (None, _) => true,
            (Some(host), Some(name)) => host.fits(name),
            (Some(_), None) => false,
        };
        self.entries.iter().find(|(host, _)| fits(host)).map(|(_, rule)| rule)
    }
}

impl Rule {
    /// What holds for its requests to a service of which `traffic` is said; none: nothing is said of them.
    pub fn plan(&self, traffic: &Traffic) -> Option<Plan> {
        match &self.traffic {
            Some(said) => Plan::of(&said.over(traffic), Some(&self.policy)),
            None => Plan::of(traffic, Some(&self.policy)),
        }
    }

    /// Whether something else may hold for its requests than for others to the same service.
    pub fn says_how(&self) -> bool {
        self.traffic.is_some() || self.policy != RoutePolicy::default()
    }

    /// Who gets a copy of the next request that goes to this backend.
    pub fn mirrors(&self, backend: usize, rng: &mut fastrand::Rng) -> Vec<&BackendTarget> {
        let of_backend = self.split.backends.get(backend).map(|backend| &backend.filters);
        let all = [Some(&self.filters), of_backend].into_iter().flatten();
        let drawn = all.flat_map(|filters| &filters.mirrors).filter(|mirror| mirror.share.draw(rng));
        drawn.map(|mirror| &mirror.target).collect()
    }

    fn of_connections(route: &Route, backends: &[Backend]) -> Self {
        Self {
            route: route.name.clone(),
            name: String::new(),
            index: 0,
            label: label(&route.name, ""),
            filters: Filters::default(),
            split: Split::new(backends.to_vec()),
            policy: RoutePolicy::default(),
            traffic: None,
        }
    }
}

fn label(route: &QualifiedName, rule: &str) -> Arc<str> {
    if rule.is_empty() { route.to_string().into() } else { format!("{route}/{rule}").into() }
}

impl Split {
    fn new(backends: Vec<Backend>) -> Self {
        let weights = Weights::new(backends.iter().map(|backend| backend.weight));
        Self { backends, weights }
    }

    /// Which of the backends the next request goes to; none where no one has a share.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match self.backends.as_slice() {
            [only] => (only.weight > 0).then_some(0),
            _ => self.weights.draw(rng),
        }
    }

    /// All of them.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }
}
