//! Routes that ask for what a request's token says: how they are written, what callers are told for them, what is explained.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_core::compile::service;
use weft_core::explain::{Decision, Explanation, Question, RequestAsked, TokenAsked, explain};
use weft_core::manifest::Spec;
use weft_core::model::{
    HttpMatch, KeyMaterial, KeySource, ResourceName, RouteRules, TextMatch, TokenKey, TokenPolicy,
};
use weft_core::world::{Change, World};

use crate::documents::{good, read_text};
use crate::world::{documents, labelled, name, registration, world};

fn route(kind: &str, namespace: &str, matches: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: by-claim, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, namespace: default}}]\n  rules:\n  \
         - {{name: gold, matches: [{matches}], backendRefs: [{{name: next, namespace: default, port: 80}}]}}\n  \
         - {{name: rest, backendRefs: [{{name: web, namespace: default, port: 80}}]}}\n---\n"
    )
}

const GOLD: &str = "{headers: [{name: weft-claim.tier, value: gold}]}";

fn users(name: &str, target: &str, more: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: JwtAuthentication\nmetadata: {{name: {name}}}\nspec: {{targetRef: {target}, {more}\
         providers: [{{issuer: https://id, audiences: [web], jwks: {{uri: https://id/keys}}}}]}}\n---\n"
    )
}

fn wanted(text: &str) -> Vec<HttpMatch> {
    let Spec::Route(spec) = &good(text)[0].spec else { panic!("no route") };
    let (RouteRules::Http(rules) | RouteRules::Grpc(rules)) = &spec.rules else { panic!("no rules") };
    rules[0].matches.clone()
}

#[test]
fn a_header_of_the_claims_names_is_a_claim_and_no_header() {
    let headers = "headers: [{name: Weft-Claim.tenantId, value: '7'}, {name: x-env, value: prod}, \
                   {name: weft-claim.https%3A%2F%2Fid%2Froles, type: RegularExpression, value: a|b}]";
    let grpc = "method: {service: a.B}, ";
    for text in [
        route("HTTPRoute", "default", &format!("{{{headers}}}")),
        route("GRPCRoute", "default", &format!("{{{grpc}{headers}}}")),
    ] {
        let [wanted] = &wanted(&text)[..] else { panic!("{text}") };
        assert_eq!(wanted.headers.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["x-env"]);
        let claims: Vec<_> = wanted.claims.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(claims, ["tenantId", "https://id/roles"]);
        assert_eq!(wanted.claims[0].value, TextMatch::Exact("7".to_owned()));
        assert!(wanted.claims[1].value.fits(b"b") && !wanted.claims[1].value.fits(b"ab"));
    }
    for (name, expected) in [
        ("weft-claim.", "7 spec.rules[0].matches[0].headers[0].name: \"weft-claim.\" names no claim"),
        ("weft-claim.a%", "7 spec.rules[0].matches[0].headers[0].name: \"weft-claim.a%\" names no claim"),
    ] {
        let text = route("HTTPRoute", "default", &format!("{{headers: [{{name: \"{name}\", value: v}}]}}"));
        let problems: Vec<_> = read_text(&text).problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.len() == 1 && problems[0].contains(expected.split_once(' ').unwrap().1),
            "{problems:?}"
        );
        assert!(problems[0].contains("f.yaml:7"), "{problems:?}");
    }
    let twice = "{headers: [{name: weft-claim.a, value: v}, {name: WEFT-CLAIM.a, value: w}]}";
    assert_eq!(read_text(&route("HTTPRoute", "default", twice)).problems.len(), 1);
}

#[test]
fn where_headers_are_meant_the_name_of_a_claim_is_refused_with_what_to_write() {
    let target = "targetRef: {kind: Service, name: web}";
    for (kind, spec, hint) in [
        (
            "AuthorizationPolicy",
            "rules: [{when: [{header: weft-claim.tier, values: [gold]}]}]",
            "write claim: tier",
        ),
        (
            "FaultInjection",
            "match: {headers: [{name: weft-claim.tier, value: gold}]}, delay: {fixed: 1s}",
            "as targetRef",
        ),
    ] {
        let text = format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{{target}, {spec}}}\n"
        );
        let problems = read_text(&text).problems;
        let [problem] = problems.as_slice() else { panic!("{kind}: {problems:?}") };
        assert!(
            problem.message.contains("how a route asks for a claim") && problem.hint.contains(hint),
            "{problem}"
        );
    }
}

fn key(byte: u8) -> TokenKey {
    TokenKey { id: None, algorithm: None, material: KeyMaterial::Ed25519(vec![byte; 32]) }
}

fn fetched(keys: Vec<TokenKey>) -> Change {
    let source = KeySource::At { uri: "https://id/keys".to_owned(), authorities: String::new() };
    Change::Keys { source, keys }
}

fn of_callers(world: &World) -> Option<TokenPolicy> {
    service(world, &name("default/web")).unwrap().tokens.as_deref().cloned()
}

#[test]
fn callers_are_told_whose_tokens_are_taken_where_a_route_asks_for_claims_and_only_there() {
    let mut world = world();
    world.apply(Change::Registered(registration("default/a", "10.0.0.1", &["web:80", "other:81"])));
    let told = |world: &mut World, texts: &[&str]| {
        let affected = world.apply(documents("files", &texts.concat())).affected;
        let is_told = affected.contains(&ResourceName::Service(name("default/web")));
        (of_callers(world).map(|policy| policy.name.name.to_string()), is_told)
    };
    let plain = route("HTTPRoute", "default", "{headers: [{name: x, value: v}]}");
    let asking = route("HTTPRoute", "default", GOLD);
    let consumer = route("HTTPRoute", "shop", GOLD);
    let (service, namespace) =
        (users("own", "{kind: Service, name: web}", ""), users("wide", "{kind: Namespace}", ""));
    let workload = users("pod", "{kind: Workload, name: a}", "");
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(told(&mut world, &[&plain, &service]), (None, true));
    assert_eq!(told(&mut world, &[&asking, &service]), (some("own"), true));
    assert_eq!(told(&mut world, &[&asking, &service, &namespace]), (some("own"), true));
    assert_eq!(told(&mut world, &[&asking, &namespace]), (some("wide"), true));
    assert_eq!(told(&mut world, &[&asking, &workload]), (None, true));
    assert_eq!(told(&mut world, &[&consumer, &service]), (some("own"), true));

    // New keys are told at once, and not to those who call others.
    let affected = world.apply(fetched(vec![key(1)])).affected;
    let (web, pod) = (ResourceName::Service(name("default/web")), ResourceName::Workload(name("default/a")));
    assert_eq!(affected, [web, pod.clone()].into());
    assert_eq!(of_callers(&world).unwrap().providers[0].keys, [key(1)]);
    assert_eq!(told(&mut world, &[&plain, &service]), (None, true));
    assert_eq!(world.apply(fetched(vec![key(2)])).affected, [pod].into());
}

#[test]
fn a_route_that_asks_for_what_nobody_proves_is_told_of_with_its_line() {
    let check = |texts: &[&str], expected: &[&str]| {
        let resources = good(&texts.concat());
        let keys: Vec<_> = resources.iter().map(weft_core::manifest::Resource::key).collect();
        let notes: Vec<_> =
            world().unproved("apply", &resources, &keys).iter().map(ToString::to_string).collect();
        let fits = notes.len() == expected.len()
            && notes.iter().zip(expected).all(|(note, words)| note.contains(words));
        assert!(fits, "{notes:#?}");
    };
    let asking = route("HTTPRoute", "default", &format!("{{}}, {GOLD}"));
    let words = "f.yaml:7: no request fits this: no JwtAuthentication is for the Service default/web, its namespace or the mesh, by which the claim tier could be proved";
    check(&[&asking], &[words]);
    check(&[&asking, &users("other", "{kind: Service, name: other}", "")], &[words]);
    check(&[&asking, &users("pod", "{kind: Workload, name: a}", "")], &[words]);
    for target in ["{kind: Service, name: web}", "{kind: Namespace}", "{kind: Mesh}"] {
        check(&[&asking, &users("users", target, "")], &[]);
    }
    check(&[&route("HTTPRoute", "default", "{headers: [{name: x, value: v}]}")], &[]);
}

/// A token with these claims. Good are those whose signature says so.
fn token(claims: &str, signature: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let payload = format!("{{\"iss\":\"https://id\",\"aud\":\"web\",\"exp\":100,{claims}}}");
    format!("Bearer {}.{}.{}", encode("{\"alg\":\"EdDSA\"}"), encode(&payload), encode(signature))
}

fn told(world: &World, token: Option<String>, asked: TokenAsked<'_>) -> Explanation {
    let (namespace, account) = ("default".parse().unwrap(), "caller".parse().unwrap());
    let headers = token.into_iter().map(|token| ("authorization".to_owned(), token)).collect();
    let request = Some(RequestAsked { method: "GET".into(), path: "/".into(), headers });
    let now = Duration::from_secs(1);
    explain(
        world,
        &Question { namespace: &namespace, account: &account, to: "web", request, now, token: asked },
    )
    .unwrap()
}

#[test]
fn what_a_token_does_is_explained_at_both_ends() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n---\n";
    let policy = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: known}\nspec: {targetRef: {kind: Service, name: web}, rules: [{when: [{claim: sub, values: ['*']}]}]}\n";
    let texts = [
        text,
        &route("HTTPRoute", "default", GOLD),
        &users("users", "{kind: Service, name: web}", ""),
        policy,
    ];
    let mut world = world();
    world.apply(documents("files", &texts.concat()));
    let pods = [("default/a", "10.0.0.1", "one"), ("default/b", "10.0.0.2", "next")];
    for (pod, address, offered) in pods {
        let offer = format!("{offered}:80");
        world.apply(Change::Registered(labelled(registration(pod, address, &[&offer]), &[("app", "web")])));
    }
    world.apply(fetched(vec![key(1)]));
    let check = |_: &TokenKey, _, _: &[u8], signature: &[u8]| signature == b"good";
    let shown = || TokenAsked::Shown(&check);
    let case = |token: Option<String>, rule: &str, decision: Decision, status: Option<u16>, word: &str| {
        let told = told(&world, token, shown());
        assert_eq!((told.rule.as_str(), told.decision, told.status), (rule, decision, status), "{told:#?}");
        assert!(told.steps.iter().any(|step| step.text.contains(word)), "{word}: {told:#?}");
        assert!(!format!("{told:?}").contains("eyJ"), "the token itself is told");
    };
    let gold = "\"sub\":\"ann\",\"tier\":[\"new\",\"gold\"]";
    case(Some(token(gold, "good")), "gold", Decision::Forward, None, "the token is proved");
    case(
        Some(token("\"sub\":\"ann\",\"tier\":\"tin\"", "good")),
        "rest",
        Decision::Forward,
        None,
        "it is let in",
    );
    let anyone = Some(token("\"tier\":\"gold\"", "good"));
    case(anyone, "gold", Decision::Deny, Some(403), "none allows this one");
    case(
        Some(token(gold, "forged")),
        "rest",
        Decision::Deny,
        Some(401),
        "JwtAuthentication default/users: the token's signature is wrong",
    );
    case(None, "rest", Decision::Deny, Some(401), "JwtAuthentication default/users requires a token");

    // Of calls that were made nothing is known of their tokens: they are not taken for calls without one.
    let unknown = told(&world, None, TokenAsked::Unknown);
    assert_eq!((unknown.rule.as_str(), unknown.status), ("rest", Some(403)), "{unknown:#?}");
}
