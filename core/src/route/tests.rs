//! Tables and properties of matching.

use proptest::prelude::*;

use super::*;
use crate::model::{
    Backend, BackendTarget, FieldMatch, Filters, HostPattern, HttpMatch, HttpRule, PathEdit, PathMatch,
    QualifiedName, Redirect, Route, RouteRules, Scheme, TextMatch,
};

fn name(text: &str) -> QualifiedName {
    text.parse().unwrap()
}

fn backend(to: &str, weight: u32) -> Backend {
    Backend { target: BackendTarget::Service(name(to), 80), weight, filters: Filters::default() }
}

fn wanted(path: Option<PathMatch>, headers: &[&str], query: &[&str]) -> HttpMatch {
    let exact = || TextMatch::Exact("v".into());
    HttpMatch {
        path,
        method: None,
        headers: headers
            .iter()
            .map(|name| FieldMatch { name: name.parse().unwrap(), value: exact() })
            .collect(),
        claims: Vec::new(),
        query: query.iter().map(|name| FieldMatch { name: (*name).into(), value: exact() }).collect(),
    }
}

fn exact(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Exact(path.parse().unwrap()))
}

fn prefix(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Prefix(path.parse().unwrap()))
}

fn regex(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Regex(path.parse().unwrap()))
}

fn rpc(service: Option<&str>, method: Option<&str>) -> Option<PathMatch> {
    let text = |text: Option<&str>| text.map(|text| TextMatch::Exact(text.into()));
    Some(PathMatch::Rpc { service: text(service), method: text(method) })
}

/// A route with a rule for each match, named by its number.
fn route(route: &str, matches: Vec<HttpMatch>) -> Route {
    let rule = |(number, wanted): (usize, HttpMatch)| HttpRule {
        name: format!("r{number}"),
        matches: vec![wanted],
        backends: vec![backend("default/a", 1)],
        ..HttpRule::default()
    };
    let rules = RouteRules::Http(matches.into_iter().enumerate().map(rule).collect());
    Route { name: name(route), ports: Vec::new(), rules, traffic: None }
}

fn requests(routes: &[Route], caller: &str) -> Requests {
    let routes = Routes::compile(&name("default/s"), routes, &caller.parse().unwrap());
    match routes.on(80) {
        Table::Requests(requests) => requests.clone(),
        other => panic!("{other:?}"),
    }
}

/// The label of the rule that a request falls under. `headers` are `name=value`.
fn found(requests: &Requests, path: &str, query: Option<&str>, headers: &[&str]) -> Option<String> {
    let any_value = |name: &str, good: &dyn Fn(&[u8]) -> bool| {
        let pairs = headers.iter().filter_map(|pair| pair.split_once('='));
        pairs.filter(|(field, _)| *field == name).any(|(_, value)| good(value.as_bytes()))
    };
    let request = Request {
        method: "GET",
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        any_value: &any_value,
        any_claim: &|claim, good| any_value(&format!("claim {claim}"), good),
    };
    requests.find(&request).map(|hit| hit.rule.label.to_string())
}

#[test]
fn the_most_exact_match_goes_first() {
    let table = requests(
        &[route(
            "default/r",
            vec![
                wanted(None, &[], &[]),
                wanted(prefix("/a"), &[], &[]),
                wanted(prefix("/a/b"), &[], &[]),
                wanted(regex("/a/[x-z]"), &[], &[]),
                wanted(exact("/a/b"), &[], &[]),
                wanted(prefix("/a"), &["one"], &[]),
                wanted(prefix("/a"), &[], &["q"]),
                wanted(prefix("/a"), &["one", "two"], &[]),
            ],
        )],
        "default",
    );
    let check = |path: &str, query: Option<&str>, headers: &[&str], rule: u8| {
        let label = format!("default/r/r{rule}");
        assert_eq!(found(&table, path, query, headers), Some(label), "{path} {query:?} {headers:?}");
    };
    check("/", None, &[], 0);
    check("/ab", None, &[], 0);
    check("/a", None, &[], 1);
    check("/a/", None, &[], 1);
    check("/a/b/c", None, &[], 2);
    check("/a/x", None, &[], 3);
    check("/a/xy", None, &[], 1);
    check("/a/b", None, &["one=v"], 4);
    check("/a", None, &["one=v"], 5);
    check("/a", Some("q=v"), &[], 6);
    check("/a", Some("q=v"), &["one=v"], 5);
    check("/a", Some("q=v"), &["one=v", "two=v"], 7);
    check("/a", Some("Q=v&x"), &["one=w", "two=v"], 1);
}

#[test]
fn claims_are_asked_for_by_themselves_and_count_as_headers() {
    let of = |headers: &[&str], claims: &[(&str, &str)]| {
        let claim = |(name, value): &(&str, &str)| FieldMatch {
            name: name.parse().unwrap(),
            value: TextMatch::Regex(value.parse().unwrap()),
        };
        HttpMatch { claims: claims.iter().map(claim).collect(), ..wanted(prefix("/"), headers, &[]) }
    };
    let table = requests(
        &[route(
            "default/r",
            vec![
                of(&[], &[]),
                of(&[], &[("tier", "gold|silver")]),
                of(&["x"], &[("tier", "gold")]),
                of(&[], &[("tier", "gold"), ("a.b", "[0-9]+")]),
            ],
        )],
        "default",
    );
    for (said, rule) in [
        (&[][..], 0),
        (&["tier=gold", "weft-claim.tier=gold"][..], 0),
        (&["claim tier=lead", "claim tier=silver"][..], 1),
        (&["claim tier=gold", "x=v"][..], 2),
        (&["claim tier=silver", "x=v"][..], 1),
        (&["claim tier=gold", "claim a.b=7"][..], 3),
        (&["claim tier=golden"][..], 0),
    ] {
        let label = format!("default/r/r{rule}");
        assert_eq!(found(&table, "/", None, said), Some(label), "{said:?}");
    }
}

#[test]
fn between_routes_the_older_and_within_one_the_first_holds() {
    let same = || wanted(prefix("/a"), &[], &[]);
    let routes = [route("default/z", vec![same(), same()]), route("default/a", vec![same()])];
    assert_eq!(found(&requests(&routes, "default"), "/a", None, &[]).unwrap(), "default/z/r0");
}

#[test]
fn a_rule_is_found_again_by_its_name_and_one_without_a_name_by_its_place() {
    let of = |names: &[&str]| {
        let mut made = route("default/r", names.iter().map(|_| wanted(None, &[], &[])).collect());
        if let RouteRules::Http(rules) = &mut made.rules {
            for (rule, name) in rules.iter_mut().zip(names) {
                rule.name = (*name).to_owned();
                rule.matches[0].path = prefix(&format!("/{name}"));
            }
        }
        made
    };
    let all = |requests: &Requests, path: &str| {
        let any_value = |_: &str, _: &dyn Fn(&[u8]) -> bool| false;
        let request = Request {
            method: "GET",
            path: path.as_bytes(),
            query: None,
            any_value: &any_value,
            any_claim: &|_, _| false,
        };
        std::sync::Arc::clone(requests.find(&request).unwrap().rule)
    };
    let (before, after) =
        (requests(&[of(&["a", "b", ""])], "default"), requests(&[of(&["b", "c", ""])], "default"));
    let again = |path: &str| after.same(&all(&before, path)).map(|rule| (rule.name.clone(), rule.index));
    assert_eq!(again("/a"), None, "it is gone");
    assert_eq!(again("/b"), Some(("b".to_owned(), 0)), "it has moved");
    assert_eq!(again("/"), Some((String::new(), 2)));
    let other = requests(&[Route { name: name("default/q"), ..of(&["b"]) }], "default");
    assert_eq!(other.same(&all(&before, "/b")), None, "another route's");
}

#[test]
fn a_callers_own_routes_replace_the_services_own() {
    let any = || vec![HttpMatch::default()];
    let routes = [route("default/own", any()), route("shop/theirs", vec![wanted(exact("/x"), &[], &[])])];
    for (caller, path, expected) in [
        ("default", "/x", Some("default/own/r0")),
        ("other", "/x", Some("default/own/r0")),
        ("shop", "/x", Some("shop/theirs/r0")),
        ("shop", "/y", None),
    ] {
        assert_eq!(
            found(&requests(&routes, caller), path, None, &[]).as_deref(),
            expected,
            "{caller} {path}"
        );
    }
}

#[test]
fn on_a_port_one_kind_of_route_counts() {
    let tcp = Route { rules: RouteRules::Tcp(vec![backend("default/a", 1)]), ..route("default/t", vec![]) };
    let http = Route { ports: vec![80], ..route("default/h", vec![HttpMatch::default()]) };
    let routes = Routes::compile(&name("default/s"), &[tcp, http], &"default".parse().unwrap());
    assert!(matches!(routes.on(80), Table::Requests(_)));
    assert!(matches!(routes.on(81), Table::Tcp(_)));
    let none = Routes::compile(&name("default/s"), &[], &"default".parse().unwrap());
    assert!(none.is_empty() && !routes.is_empty());
}

#[test]
fn calls_of_grpc_are_matched_by_service_and_method() {
    let table = requests(
        &[Route {
            rules: RouteRules::Grpc(
                [(Some("a.B"), None), (Some("a.B"), Some("C")), (None, Some("C"))]
                    .into_iter()
                    .enumerate()
                    .map(|(number, (service, method))| HttpRule {
                        name: format!("r{number}"),
                        matches: vec![wanted(rpc(service, method), &[], &[])],
                        ..HttpRule::default()
                    })
                    .collect(),
            ),
            ..route("default/g", vec![])
        }],
        "default",
    );
    assert_eq!(table.speaks, Speaks::Grpc);
    for (path, expected) in [
        ("/a.B/C", Some("default/g/r1")),
        ("/a.B/D", Some("default/g/r0")),
        ("/x.Y/C", Some("default/g/r2")),
        ("/x.Y/D", None),
        ("/a.B", None),
        ("/a.B/C/D", None),
        ("//C", None),
    ] {
        assert_eq!(found(&table, path, None, &[]).as_deref(), expected, "{path}");
    }
}

#[test]
fn parameters_are_compared_as_what_they_stand_for() {
    let table = requests(&[route("default/r", vec![wanted(None, &[], &["a b"])])], "default");
    for (query, fits) in [
        ("a+b=v", true),
        ("a%20b=%76", true),
        ("x=y&a+b=v", true),
        ("a+b=w&a+b=v", false),
        ("a+b", false),
        ("a%2=v", false),
        ("", false),
    ] {
        assert_eq!(found(&table, "/", Some(query), &[]).is_some(), fits, "{query}");
    }
}

#[test]
fn server_names_go_to_the_most_exact_pattern() {
    let tls = |route_name: &str, hosts: &[&str]| Route {
        rules: RouteRules::Tls {
            hosts: hosts.iter().map(|host| host.parse::<HostPattern>().unwrap()).collect(),
            backends: vec![backend("default/a", 1)],
        },
        ..route(route_name, vec![])
    };
    let routes = [
        tls("default/all", &[]),
        tls("default/com", &["*.com"]),
        tls("default/a", &["*.a.com", "x.org"]),
        tls("default/b", &["b.a.com"]),
    ];
    let routes = Routes::compile(&name("default/s"), &routes, &"default".parse().unwrap());
    let Table::Tls(table) = routes.on(443) else { panic!("{routes:?}") };
    for (server, expected) in [
        (Some("b.a.com"), "default/b"),
        (Some("B.A.com."), "default/b"),
        (Some("c.a.com"), "default/a"),
        (Some("a.com"), "default/com"),
        (Some("x.org"), "default/a"),
        (Some("y.org"), "default/all"),
        (None, "default/all"),
    ] {
        assert_eq!(table.find(server).unwrap().route.to_string(), expected, "{server:?}");
    }
}

#[test]
fn expressions_fit_whole_texts_and_are_bounded() {
    use crate::model::Pattern;
    let fits = |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().fits(text.as_bytes());
    assert!(fits("a|bc", "bc") && !fits("a|bc", "abc") && !fits("a", "a\n") && fits("(?i)a", "A"));
    for bad in ["(", "a)(b", "(?P<", r"(a)\1", "(?=a)", "[z-a]", &"a".repeat(1025)] {
        assert!(bad.parse::<Pattern>().is_err(), "{bad}");
    }
    let big = "((a{100}){100}){100}".parse::<Pattern>().unwrap_err();
    assert!(big.to_string().contains("128 KiB"), "{big}");
}

#[test]
fn redirects_and_rewrites_keep_what_they_do_not_name() {
    let called = Called { host: "h", port: 8080, path: b"/a//b", matched: b"/a/b", query: Some(b"q") };
    let check = |redirect: Redirect, of: Option<&str>, expected: &str| {
        let of = of.map(|of| of.parse().unwrap());
        assert_eq!(String::from_utf8(location(&redirect, &called, of.as_ref())).unwrap(), expected);
    };
    check(Redirect::default(), None, "http://h:8080/a//b?q");
    check(Redirect { scheme: Some(Scheme::Https), ..Redirect::default() }, None, "https://h/a//b?q");
    check(Redirect { port: Some(80), ..Redirect::default() }, None, "http://h/a//b?q");
    let replace = |to: Option<&str>| Some(PathEdit::Prefix(to.map(|to| to.parse().unwrap())));
    check(Redirect { path: replace(Some("/x")), ..Redirect::default() }, Some("/a"), "http://h:8080/x//b?q");
    check(Redirect { path: replace(None), ..Redirect::default() }, Some("/a/b"), "http://h:8080/?q");
    check(Redirect { path: replace(Some("/")), ..Redirect::default() }, Some("/a"), "http://h:8080//b?q");
    check(Redirect { path: replace(Some("/x/")), ..Redirect::default() }, Some("/a/b"), "http://h:8080/x?q");
}

proptest! {
    /// Whatever order rules are written in, a request that only one of them fits best falls under that one.
    #[test]
    fn precedence_does_not_depend_on_the_order_of_rules(
        paths in prop::collection::btree_set("(/[ab]{1,2}){1,3}", 1..8),
        order in any::<u64>(),
        asked in "(/[ab]{1,2}){1,4}",
    ) {
        let rules: Vec<_> = paths.iter().map(|path| wanted(prefix(path), &[], &[])).collect();
        let mut shuffled: Vec<_> = rules.clone();
        fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
        let longest = paths
            .iter()
            .filter(|path| asked.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            .max_by_key(|path| path.len());
        let table = requests(&[route("default/r", shuffled.clone())], "default");
        let label = found(&table, &asked, None, &[]);
        let expected = longest.map(|longest| {
            let place = shuffled.iter().position(|wanted| wanted.path == prefix(longest)).unwrap();
            format!("default/r/r{place}")
        });
        prop_assert_eq!(label, expected);
    }

    /// Shares follow the weights.
    #[test]
    fn weights_converge(weights in prop::collection::vec(0_u32..10, 1..5), seed in any::<u64>()) {
        let backends = weights.iter().map(|weight| backend("default/a", *weight)).collect();
        let tcp = Route { rules: RouteRules::Tcp(backends), ..route("default/t", vec![]) };
        let routes = Routes::compile(&name("default/s"), &[tcp], &"default".parse().unwrap());
        let Table::Tcp(rule) = routes.on(80) else { panic!() };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut drawn = vec![0_u32; weights.len()];
        for _ in 0..5_000 {
            let Some(index) = rule.split.draw(&mut rng) else { continue };
            drawn[index] += 1;
        }
        let whole: u32 = weights.iter().sum();
        for (weight, drawn) in weights.iter().zip(&drawn) {
            let share = if whole == 0 { 0.0 } else { f64::from(*weight) / f64::from(whole) };
            prop_assert!((f64::from(*drawn) / 5_000.0 - share).abs() < 0.04, "{:?} {:?}", weights, drawn);
        }
    }
}
