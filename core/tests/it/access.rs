//! AuthorizationPolicy, from its YAML to the decision.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use weft_core::authorize::{Asked, Call, Decision, Denial, OutsideProbe, OutsideProbes, Peer, authorize};
use weft_core::host::Host;
use weft_core::jwt::{Claims, prove};
use weft_core::manifest::{AuthorizationPolicySpec, Spec};
use weft_core::model::{
    AccessPolicy, AuthorizationDefault, ConcurrencyMode, Forwarding, KeyMaterial, Mesh, MtlsMode, TokenKey,
    TokenProvider, Workload,
};
use weft_core::path::Path;

use crate::documents::read_text;

/// A request, by what policies see of it.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: Path<'a>,
    pub(crate) host: Host<'a>,
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
    pub(crate) claims: Option<Claims>,
}

impl Asked for Request<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> Option<&Path<'_>> {
        Some(&self.path)
    }

    fn host(&self) -> Option<&Host<'_>> {
        Some(&self.host)
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(header, _)| *header == name).for_each(|(_, value)| see(value));
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }
}

/// A request as the sidecar sees it: its target's path and query apart.
struct Raw<'a>(Request<'a>, Option<&'a str>);

impl Asked for Raw<'_> {
    fn method(&self) -> &str {
        self.0.method
    }

    fn path(&self) -> Option<&Path<'_>> {
        Some(&self.0.path)
    }

    fn host(&self) -> Option<&Host<'_>> {
        Some(&self.0.host)
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.0.each_value(name, see);
    }

    fn query(&self) -> Option<&str> {
        self.1
    }
}

/// Whether a request without an identity is let in as one of these probes.
fn is_probe(probes: &[&str], port: u16, request: Request<'_>, query: Option<&str>, peer: &Peer) -> bool {
    let probes: OutsideProbes = probes.iter().map(|text| text.parse::<OutsideProbe>().unwrap()).collect();
    let request = Raw(request, query);
    let call = Call { peer, address: [10, 0, 0, 9].into(), port, request: Some(&request) };
    probes.permit(&call).is_some_and(|(permit, _)| permit.port() == port)
}

#[test]
fn a_probe_is_let_in_as_it_was_declared_and_in_no_other_way() {
    let probes = ["http:8080:/a/../healthz", "http:8081:/ready?full=1", "grpc:9001:shop", "tcp:9000"];
    let check = |port, request, query, expected| {
        assert_eq!(is_probe(&probes, port, request, query, &Peer::Anonymous), expected);
    };
    let with = |path, method, headers: &[(&'static str, &'static [u8])]| Request {
        method,
        headers: headers.to_vec(),
        ..get(path)
    };
    check(8080, get("/healthz"), None, true);
    check(8080, with("/healthz", "HEAD", &[("content-length", b"0")]), None, true);
    check(8080, get("/a/../healthz"), None, true);
    check(8081, get("/ready"), Some("full=1"), true);
    let grpc: &[(&str, &[u8])] = &[("content-type", b"application/grpc+proto")];
    check(9001, with("/grpc.health.v1.Health/Check", "POST", grpc), None, true);
    for (port, request, query) in [
        (8080, with("/healthz", "POST", &[]), None),
        (8080, with("/healthz", "get", &[]), None),
        (8080, with("/healthz", "GET", &[("upgrade", b"websocket")]), None),
        (8080, with("/healthz", "GET", &[("transfer-encoding", b"chunked")]), None),
        (8080, with("/healthz", "GET", &[("content-length", b"0"), ("content-length", b"5")]), None),
        (8080, get("/healthz"), Some("a=b")),
        (8080, get("/healthz"), Some("")),
        (8080, get("/healthz/"), None),
        (8080, get("//healthz"), None),
        (8080, get("/healthz/x"), None),
        (8080, get("/"), None),
        (8081, get("/healthz"), None),
        (8081, get("/ready"), None),
        (8082, get("/healthz"), None),
        (9000, get("/healthz"), None),
        (9001, with("/grpc.health.v1.Health/Watch", "POST", grpc), None),
        (9001, with("/grpc.health.v1.Health/Check", "POST", &[]), None),
        (9001, with("/grpc.health.v1.Health/Check", "GET", grpc), None),
    ] {
        check(port, request, query, false);
    }
    // Who has an identity is judged by it.
    assert!(!is_probe(&probes, 8080, get("/healthz"), None, &web()));
}

#[test]
fn what_is_no_probe_is_refused() {
    for text in [
        "",
        "http",
        "http:8080",
        "http:0:/a",
        "http:8080:a",
        "http:8080:/a/../..",
        "tcp:80:x",
        "udp:80",
        "tcp:x",
        "grpc:",
    ] {
        assert!(text.parse::<OutsideProbe>().is_err(), "{text}");
    }
    for text in ["http:8080:/healthz?a=b", "tcp:9000", "grpc:9001"] {
        assert_eq!(text.parse::<OutsideProbe>().unwrap().to_string(), text);
    }
}

proptest! {
    /// Whatever is asked, it is let in only where the app is asked exactly what was declared.
    #[test]
    fn no_spelling_of_another_path_passes_for_a_probe(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "/", "//", "/./", "/../", "healthz", "HEALTHZ", "health", "z", "%7A", "%7a", "%2F", "%2e%2e", ";a=b", "\\",
                "%00", "%0a", "admin", "?", "#", ".", "..", "%2568", " ", "*",
            ]),
            1..8,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        if let Ok(parsed) = Path::parse(path.as_bytes()) {
            let query = path.split_once('?').map(|(_, query)| query);
            let before = path.split_once('?').map_or(path.as_str(), |(before, _)| before);
            let forwarded = String::from_utf8_lossy(parsed.forwarded()).into_owned();
            if let Ok(before) = Path::parse(before.as_bytes()) {
                let request = Request { path: before, ..get("/") };
                let passes = is_probe(&["http:8080:/healthz"], 8080, request, query, &Peer::Anonymous);
                prop_assert_eq!(passes, forwarded == "/healthz", "{} is forwarded as {}", path, forwarded);
            }
        }
    }
}

pub(crate) fn get(path: &str) -> Request<'_> {
    let host = Host::parse(b"orders:8080").unwrap();
    Request {
        method: "GET",
        path: Path::parse(path.as_bytes()).unwrap(),
        host,
        headers: Vec::new(),
        claims: None,
    }
}

/// What a token says that proves these claims.
pub(crate) fn claims(said: &str) -> Claims {
    let said = said.trim_start_matches('{');
    let payload = format!("{{\"iss\":\"i\",\"aud\":\"a\",\"exp\":1,{said}");
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.{}", encode("{\"alg\":\"EdDSA\"}"), encode(&payload), encode("x"));
    let key = TokenKey { id: None, algorithm: None, material: KeyMaterial::Ed25519(vec![1; 32]) };
    let provider = TokenProvider {
        issuer: "i".to_owned(),
        audiences: vec!["a".to_owned()],
        keys: vec![key],
        places: Vec::new(),
        forwarding: Forwarding::Keep,
        claim_headers: Vec::new(),
        skew: Duration::ZERO,
    };
    prove(&token, [&provider].into_iter(), Duration::ZERO, &|_, _, _, _| true).unwrap().claims
}

fn policy(spec: &str) -> AccessPolicy {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{targetRef: {{kind: Mesh}}, {}\n",
        spec.trim_start_matches('{')
    );
    let reading = read_text(&text);
    assert!(reading.problems.is_empty(), "{text}: {:?}", reading.problems);
    let Spec::AuthorizationPolicy(AuthorizationPolicySpec { action, mode, rules, .. }) =
        reading.resources[0].spec.clone()
    else {
        panic!("{text} is another kind")
    };
    AccessPolicy { name: "default/p".parse().unwrap(), action, mode, ports: Vec::new(), rules: rules.into() }
}

fn mesh() -> Mesh {
    let mesh = Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new());
    Mesh { mtls: MtlsMode::Permissive, authorization: AuthorizationDefault::Any, ..mesh }
}

/// One of which these say something.
fn workload(policies: &[AccessPolicy]) -> Workload {
    Workload {
        name: "default/orders-1".parse().unwrap(),
        service_account: "orders".parse().unwrap(),
        ports: Vec::new(),
        policies: policies.to_vec(),
        limits: Vec::new(),
        concurrency: ConcurrencyMode::Off,
        checks: Vec::new(),
        tokens: Vec::new(),
        mtls: None,
    }
}

fn web() -> Peer {
    Peer::Known("spiffe://mesh.local/ns/default/sa/web".parse().unwrap())
}

fn decide(policies: &[AccessPolicy], peer: &Peer, request: Option<&Request<'_>>) -> Result<(), Denial> {
    let request = request.map(|request| request as &dyn Asked);
    let call = Call { peer, address: [10, 1, 2, 3].into(), port: 8080, request };
    authorize(Some(&mesh()), &workload(policies), &call, |_, _| {}).map(drop)
}

/// Whether a rule is surely, perhaps or not about the request of `web`: an Allow and a Deny tell the three apart.
fn check(rule: &str, request: Option<&Request<'_>>, expected: &str) {
    check_of(rule, &web(), request, expected);
}

fn check_of(rule: &str, peer: &Peer, request: Option<&Request<'_>>, expected: &str) {
    let allow = decide(&[policy(&format!("{{action: Allow, rules: [{rule}]}}"))], peer, request).is_ok();
    let deny = decide(&[policy(&format!("{{action: Deny, rules: [{rule}]}}"))], peer, request).is_err();
    let found = match (allow, deny) {
        (true, true) => "yes",
        (false, true) => "perhaps",
        (false, false) => "no",
        (true, false) => "an Allow matches what a Deny does not",
    };
    assert_eq!(found, expected, "{rule} of {peer:?}");
}

#[test]
fn callers_are_told_apart_by_every_field() {
    let request = get("/");
    for (from, expected) in [
        ("serviceAccounts: [web]", "yes"),
        ("serviceAccounts: [default/web]", "yes"),
        ("serviceAccounts: [shop/web]", "no"),
        ("serviceAccounts: [orders, web]", "yes"),
        ("notServiceAccounts: [web]", "no"),
        ("notServiceAccounts: [orders]", "yes"),
        ("namespaces: [default]", "yes"),
        ("namespaces: [def*]", "yes"),
        ("namespaces: [shop]", "no"),
        ("notNamespaces: [default]", "no"),
        ("principals: [spiffe://mesh.local/ns/default/sa/web]", "yes"),
        ("principals: ['spiffe://mesh.local/ns/default/*']", "yes"),
        ("principals: ['spiffe://mesh.local/ns/x/*']", "no"),
        ("notPrincipals: ['*']", "no"),
        ("cidrs: [10.0.0.0/8]", "yes"),
        ("cidrs: [10.1.2.3]", "yes"),
        ("cidrs: [10.2.0.0/16]", "no"),
        ("notCidrs: [10.0.0.0/8]", "no"),
        ("serviceAccounts: [web], cidrs: [10.2.0.0/16]", "no"),
    ] {
        check(&format!("{{from: [{{{from}}}]}}"), Some(&request), expected);
    }
    check("{from: [{serviceAccounts: [orders]}, {namespaces: [default]}]}", Some(&request), "yes");
}

#[test]
fn claims_are_told_apart_and_no_one_gains_by_having_none() {
    let with = |said: &str| Request { claims: Some(claims(said)), ..get("/") };
    for (condition, said, expected) in [
        ("{claim: scope, values: [read]}", r#"{"scope":"write read"}"#, "yes"),
        ("{claim: scope, values: [read]}", r#"{"scope":"reads"}"#, "no"),
        ("{claim: scope, values: [read]}", r#"{"sub":"read"}"#, "no"),
        ("{claim: scope, notValues: [admin]}", r#"{"scope":"write read"}"#, "yes"),
        ("{claim: scope, notValues: [admin]}", r#"{"scope":"read admin"}"#, "no"),
        ("{claim: scope, notValues: [admin]}", r#"{"sub":"x"}"#, "perhaps"),
        ("{claim: scope, values: ['re*'], notValues: [admin]}", r#"{"scope":"read admin"}"#, "no"),
        ("{claim: name, values: [Jane]}", r#"{"name":"Jane Doe"}"#, "no"),
        ("{claim: groups, values: [a]}", r#"{"groups":["b","a"]}"#, "yes"),
        ("{claim: realm.roles, values: ['ad*']}", r#"{"realm":{"roles":["admin"]}}"#, "yes"),
        ("{claim: level, values: ['3']}", r#"{"level":3}"#, "yes"),
        ("{claim: sub, values: ['*']}", r#"{"sub":{}}"#, "no"),
    ] {
        check(&format!("{{when: [{condition}]}}"), Some(&with(said)), expected);
    }
    check("{when: [{claim: sub, values: ['*']}]}", Some(&get("/")), "no");
    check("{when: [{claim: sub, notValues: [x]}]}", Some(&get("/")), "perhaps");
    check("{when: [{claim: sub, values: ['*']}]}", None, "perhaps");
}

#[test]
fn who_proved_nothing_is_nobodys_exception() {
    let request = get("/");
    for (from, expected) in [
        ("serviceAccounts: [web]", "no"),
        ("principals: ['*']", "no"),
        ("notServiceAccounts: [web]", "perhaps"),
        ("notPrincipals: ['spiffe://mesh.local/*']", "perhaps"),
        ("notNamespaces: [default]", "perhaps"),
        ("cidrs: [10.0.0.0/8]", "yes"),
    ] {
        check_of(&format!("{{from: [{{{from}}}]}}"), &Peer::Anonymous, Some(&request), expected);
    }
    check_of("{}", &Peer::Anonymous, Some(&request), "yes");
}

#[test]
fn operations_are_told_apart_by_every_field() {
    for (to, path, expected) in [
        ("ports: [8080]", "/", "yes"),
        ("ports: [80]", "/", "no"),
        ("notPorts: [8080]", "/", "no"),
        ("methods: [GET, HEAD]", "/", "yes"),
        ("methods: [POST]", "/", "no"),
        ("notMethods: [GET]", "/", "no"),
        ("hosts: [orders]", "/", "yes"),
        ("hosts: ['*.orders']", "/", "no"),
        ("notHosts: [orders]", "/", "no"),
        ("paths: [/orders]", "/orders", "yes"),
        ("paths: [/orders]", "/orders?x=/admin", "yes"),
        ("paths: ['/orders/*']", "/orders/7", "yes"),
        ("paths: ['*.png']", "/a/b.png", "yes"),
        ("paths: ['/a/{*}/c']", "/a/b/c", "yes"),
        ("notPaths: [/orders]", "/orders", "no"),
        ("paths: [/orders], methods: [POST]", "/orders", "no"),
        // However it is spelled:
        ("paths: ['/admin*']", "/x/../admin", "yes"),
        ("paths: ['/admin*']", "/%61dmin", "yes"),
        ("paths: [/a/b]", "/a//b", "perhaps"),
        ("paths: [/a/b]", "/a%2Fb", "perhaps"),
        ("notPaths: [/a/b]", "/a%2Fb", "perhaps"),
    ] {
        check(&format!("{{to: [{{{to}}}]}}"), Some(&get(path)), expected);
    }
}

#[test]
fn a_header_is_what_all_of_its_values_are() {
    for (when, values, expected) in [
        ("values: [prod]", &[&b"prod"[..]][..], "yes"),
        ("values: [prod]", &[b"dev"], "no"),
        ("values: [prod]", &[], "no"),
        ("values: [prod]", &[b"prod", b"dev"], "perhaps"),
        ("values: ['p*']", &[b"prod", b"pre"], "yes"),
        ("values: [prod]", &[b"\xff"], "perhaps"),
        ("notValues: [prod]", &[b"dev"], "yes"),
        ("notValues: [prod]", &[], "yes"),
        ("notValues: [prod]", &[b"prod"], "no"),
        ("notValues: [prod]", &[b"prod", b"dev"], "perhaps"),
    ] {
        let headers = values.iter().map(|value| ("x-env", *value)).collect();
        let request = Request { headers, ..get("/") };
        check(&format!("{{when: [{{header: X-Env, {when}}}]}}"), Some(&request), expected);
    }
}

#[test]
fn of_a_connection_without_requests_nothing_is_known_but_who_and_where() {
    for (rule, expected) in [
        ("{from: [{serviceAccounts: [web]}]}", "yes"),
        ("{to: [{ports: [8080]}]}", "yes"),
        ("{to: [{methods: [GET]}]}", "perhaps"),
        ("{to: [{paths: [/a]}]}", "perhaps"),
        ("{to: [{hosts: [a]}]}", "perhaps"),
        ("{when: [{header: a, values: [b]}]}", "perhaps"),
        ("{from: [{serviceAccounts: [orders]}], to: [{methods: [GET]}]}", "no"),
    ] {
        check(rule, None, expected);
    }
}

#[test]
fn deny_wins_allow_excludes_and_audit_only_tells() {
    let allow_web = || policy("{action: Allow, rules: [{from: [{serviceAccounts: [web]}]}]}");
    let allow_orders = || policy("{action: Allow, rules: [{from: [{serviceAccounts: [orders]}]}]}");
    let deny_all = || policy("{action: Deny, rules: [{}]}");
    let audit_deny = || policy("{action: Deny, mode: Audit, rules: [{}]}");
    let audit_allow = || policy("{mode: Audit, rules: [{from: [{serviceAccounts: [orders]}]}]}");
    let nothing = || policy("{action: Allow, rules: []}");
    let denied = Err(Denial::Policy("default/p".parse().unwrap()));
    for (policies, expected) in [
        (vec![], Ok(())),
        (vec![allow_web()], Ok(())),
        (vec![allow_orders()], Err(Denial::NotAllowed)),
        (vec![allow_orders(), allow_web()], Ok(())),
        (vec![allow_web(), deny_all()], denied),
        (vec![nothing()], Err(Denial::NotAllowed)),
        (vec![audit_deny()], Ok(())),
        (vec![audit_allow()], Ok(())),
        (vec![allow_web(), audit_deny()], Ok(())),
    ] {
        assert_eq!(decide(&policies, &web(), Some(&get("/"))), expected, "{policies:?}");
    }
    let mut told = HashMap::new();
    let policies = [allow_web(), audit_deny(), audit_allow(), allow_orders()];
    let call = Call { peer: &web(), address: [10, 0, 0, 1].into(), port: 1, request: None };
    let verdict = authorize(Some(&mesh()), &workload(&policies), &call, |_, decision| {
        *told.entry(decision).or_insert(0) += 1;
    });
    assert!(verdict.is_ok());
    assert_eq!(told, HashMap::from([(Decision::Allowed, 1), (Decision::WouldDeny, 2)]));
}

#[test]
fn a_policy_is_about_its_ports_alone() {
    let deny = AccessPolicy { ports: vec![9090], ..policy("{action: Deny, rules: [{}]}") };
    assert_eq!(decide(&[deny], &web(), None), Ok(()));
}

proptest! {
    /// Whatever is put before, between and into the segments of a denied path, it stays denied.
    #[test]
    fn no_spelling_of_a_denied_path_is_allowed(
        spellings in prop::collection::vec(
            prop::sample::select(vec!["/", "//", "/./", "/x/../", "/%2e/", "/;a=b/", "%2F", "%2f", "/x/%2E%2E/", "\\", "%5c"]),
            2,
        ),
        letters in prop::collection::vec(any::<bool>(), 10),
    ) {
        let spell = |text: &str, from: usize| -> String {
            let letter = |(at, letter): (usize, char)| match letters.get(from + at) {
                Some(true) => format!("%{:02x}", u32::from(letter)),
                _ => letter.to_string(),
            };
            text.chars().enumerate().map(letter).collect()
        };
        let path = format!("{}{}{}{}", spellings[0], spell("admin", 0), spellings[1], spell("users", 5));
        // What has no one meaning is refused before it is asked for.
        if let Ok(path) = Path::parse(path.as_bytes()) {
            let deny = policy("{action: Deny, rules: [{to: [{paths: [/admin/users]}]}]}");
            let request = Request { path, ..get("/") };
            prop_assert!(decide(&[deny], &web(), Some(&request)).is_err(), "{:?}", request.path);
        }
    }
}

proptest! {
    /// However a denied host is spelled, it stays denied.
    #[test]
    fn no_spelling_of_a_denied_host_is_allowed(
        upper in prop::collection::vec(any::<bool>(), 14),
        end in prop::sample::select(vec!["", ".", ":80", ".:80", ":8080", ":"]),
    ) {
        let letters = "orders.example".chars().zip(&upper);
        let name: String =
            letters.map(|(letter, upper)| if *upper { letter.to_ascii_uppercase() } else { letter }).collect();
        let text = format!("{name}{end}");
        // What names no host is refused before it is asked for.
        if let Ok(host) = Host::parse(text.as_bytes()) {
            for pattern in ["orders.example", "*.example", "orders*"] {
                let deny = policy(&format!("{{action: Deny, rules: [{{to: [{{hosts: ['{pattern}']}}]}}]}}"));
                let request = Request { host: Host::parse(text.as_bytes()).unwrap(), ..get("/") };
                prop_assert!(decide(&[deny], &web(), Some(&request)).is_err(), "{text} and {pattern}");
            }
            prop_assert_eq!(host.name(), "orders.example");
        }
    }

    /// Of many rules those are found that would have been found one by one.
    #[test]
    fn many_rules_decide_as_each_by_itself(
        rules in prop::collection::vec((0_usize..6, 0_usize..6, 0_usize..20, any::<bool>()), 8..24),
        caller in 0_usize..4,
        path in 0_usize..PATHS.len(),
    ) {
        let account = |number: usize| ["web", "orders", "shop/web"].get(number);
        let written = |(first, second, pattern, negated): &(usize, usize, usize, bool)| {
            let accounts: Vec<_> = [first, second].into_iter().filter_map(|number| account(*number)).copied().collect();
            let from = match accounts.as_slice() {
                [] => String::new(),
                accounts => format!("from: [{{serviceAccounts: [{}]}}], ", accounts.join(", ")),
            };
            let field = if *negated { "notPaths" } else { "paths" };
            let to = PATTERNS.get(*pattern).map(|pattern| format!("to: [{{{field}: ['{pattern}']}}]")).unwrap_or_default();
            format!("{{{from}{to}}}")
        };
        let rules: Vec<String> = rules.iter().map(written).collect();
        let peer = match account(caller) {
            Some(account) => {
                let (namespace, name) = account.split_once('/').unwrap_or(("default", account));
                Peer::Known(format!("spiffe://mesh.local/ns/{namespace}/sa/{name}").parse().unwrap())
            }
            None => Peer::Anonymous,
        };
        for action in ["Allow", "Deny"] {
            let of = |rules: &[String]| policy(&format!("{{action: {action}, rules: [{}]}}", rules.join(", ")));
            let request = get(PATHS[path]);
            let lets = |rules: &[String]| decide(&[of(rules)], &peer, Some(&request)).is_ok();
            let each = rules.iter().map(|rule| lets(std::slice::from_ref(rule)));
            let expected = match action {
                "Allow" => each.into_iter().any(|lets| lets),
                _ => each.into_iter().all(|lets| lets),
            };
            prop_assert_eq!(lets(&rules), expected, "{} of {:?} for {}: {:?}", action, peer, PATHS[path], rules);
        }
    }
}

const PATTERNS: [&str; 17] = [
    "/a",
    "/a/*",
    "/a*",
    "/a/b",
    "/a/b/*",
    "*b",
    "*",
    "/",
    "/a/{*}",
    "/a/{**}",
    "/{*}/b",
    "/a/b/c/a/b/c",
    "*/b",
    "*/b/c",
    "*/c/a/b/c",
    "/{*}/{*}/c",
    "/{*}/b/{**}",
];

const PATHS: [&str; 12] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a//b",
    "/a%2Fb",
    "/a/b/c",
    "/ab",
    "/b",
    "/a/b/c/a/b/c",
    "//a",
    "/a/b/c/a/b%2Fc",
];
