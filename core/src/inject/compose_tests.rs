//! A Compose file gets its sidecars, and is given back as it was.

use super::*;
use crate::inject;

const SHOP: &str = include_str!("golden/shop.yaml");
/// Written anew by `UPDATE=1`.
const GOLDEN: &str = include_str!("golden/shop.injected.yaml");

fn injected(text: &str) -> Result<Rewritten, Vec<String>> {
    let file = SourceFile { name: "compose.yaml", text };
    inject::inject(file, &Settings::default())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn back(text: &str) -> String {
    inject::uninject(SourceFile { name: "compose.yaml", text }).unwrap().text
}

fn object(text: &str) -> Json {
    crate::manifest::objects(SourceFile { name: "compose.yaml", text }).unwrap().remove(0)
}

#[test]
fn a_whole_file_is_injected_as_its_golden_file_has_it_and_given_back_to_the_byte() {
    let rewritten = injected(SHOP).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/inject/golden/shop.injected.yaml");
        return std::fs::write(golden, &rewritten.text).unwrap();
    }
    assert_eq!(rewritten.text, GOLDEN);
    assert_eq!(back(&rewritten.text), SHOP);
    assert_eq!(injected(&rewritten.text).unwrap().text, rewritten.text, "injecting twice is injecting once");
    let told: Vec<String> =
        rewritten.outcomes.iter().map(|outcome| format!("{} {:?}", outcome.workload, outcome.what)).collect();
    assert_eq!(
        told,
        [
            "service/web Injected",
            "service/orders Injected",
            "service/db Injected",
            "service/db_copy Injected",
            "service/metrics Not(Network(\"host\"))",
            "service/backup Not(Disabled)",
        ]
    );
    let removed = inject::uninject(SourceFile { name: "compose.yaml", text: GOLDEN }).unwrap().outcomes;
    let removed: Vec<&str> = removed.iter().map(|outcome| outcome.workload.as_str()).collect();
    assert_eq!(removed, ["service/web", "service/orders", "service/db", "service/db_copy"]);
}

#[test]
fn what_a_service_said_of_its_network_its_pod_says() {
    let after = object(&injected(SHOP).unwrap().text);
    let services = &after["services"];
    let web = &services["web"];
    assert_eq!(web["network_mode"], "service:web-weft-pod");
    assert_eq!(web["depends_on"]["orders"]["condition"], "service_started");
    assert_eq!(web["depends_on"]["web-weft-proxy"]["condition"], "service_healthy");
    assert!(web.get("ports").is_none());
    let pod = &services["web-weft-pod"];
    assert_eq!(pod["ports"][0], "8080:80");
    assert_eq!(pod["networks"]["default"]["aliases"], json!(["web"]));
    let init = &services["web-weft-init"];
    assert_eq!(init["cap_add"], json!(["NET_ADMIN"]));
    assert_eq!(init["command"], json!(["intercept", "up", "--skip-inbound-ports=80,8443"]));
    let orders = &services["orders-weft-pod"];
    assert_eq!(orders["hostname"], "orders");
    assert_eq!(orders["networks"]["back"]["aliases"], json!(["orders", "bestellungen"]));
    assert_eq!(
        services["orders-weft-init"]["command"],
        json!(["intercept", "up", "--skip-outbound-ports=25"])
    );
    assert_eq!(services["orders"]["depends_on"]["db"]["condition"], "service_healthy");
    assert_eq!(services["db_copy-weft-proxy"]["environment"]["WEFT_SERVICES"], "db-copy");
    assert_eq!(services["weft-control-plane"]["networks"], json!(["default", "back"]));
    assert!(after["volumes"].get("data").is_some() && after["volumes"].get("weft-identity-web").is_some());
}

fn check_round_trip(text: &str) {
    let there = injected(text).unwrap().text;
    assert_ne!(there, text);
    assert_eq!(back(&there), text, "{there}");
}

#[test]
fn however_it_is_written_it_is_given_back_to_the_byte() {
    check_round_trip("services:\n  a:\n    image: x\n");
    check_round_trip("services:\n  a:\n    image: x");
    check_round_trip("services:\n    a:\n        image: x\n        ports: [80]");
    check_round_trip("services:\r\n  a:\r\n    image: x\r\n    ports:\r\n    - 80:80\r\n");
    check_round_trip("services:\n  a: {image: x, ports: [80]}");
    check_round_trip("services: \n  a: {image: x,\n    ports: [80]}\n  b: {image: y}\n# the end\n");
    check_round_trip("volumes: {v: }\nservices:\n  a: {image: x}\n");
    check_round_trip("volumes:\nservices:\n  a: {image: x}\n");
    check_round_trip("services:\n  a: &a\n    image: x\n  b: *a\n");
    check_round_trip(
        "x: &x {restart: always, depends_on: [b]}\nservices:\n  a:\n    <<: *x\n    image: x\n  b: {image: y}\n",
    );
}

fn check_refused(text: &str, place: &str, message: &str) {
    let told = injected(text).unwrap_err();
    assert!(
        told.iter().any(|told| told.starts_with(&format!("compose.yaml:{place}")) && told.contains(message)),
        "{text}: {told:#?}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    check_refused("services:\n\ta: {}\n", "2:", "indent with spaces");
    check_refused("services:\n  a: {image: x}\n  a: {image: y}\n", "3:3", "there twice");
    check_refused("services:\n  a: {image: x}\n---\nservices: {}\n", "4:1", "a second document");
    check_refused(
        "services:\n  a: {image: x, labels: {weft.mesh/injekt: disabled}}\n",
        "2:3",
        "did you mean \"weft.mesh/inject\"?",
    );
    check_refused(
        "services:\n  a: {image: x, labels: [weft.mesh/inject=maybe]}\n",
        "2:3",
        "enabled or disabled",
    );
    check_refused(
        "x: &x {ports: [80]}\nservices:\n  a:\n    <<: *x\n    image: x\n",
        "3:3",
        "its ports comes by a merge",
    );
    check_refused("services:\n  a: {image: x, extends: {service: b}}\n", "2:3", "extends");
    check_refused(
        "services:\n  a: {image: x}\n  b: {image: y, network_mode: \"service:a\"}\n",
        "3:3",
        "shares the network of a",
    );
    check_refused("services:\n  a: {image: x}\n  a-weft-pod: {image: y}\n", "3:3", "a name that is ours");
    check_refused("services:\n  a.b: {image: x}\n", "2:3", "its name cannot be one of the mesh");
    check_refused("{\"services\": {\"a\": {\"image\": \"x\"}}}\n", "1:2", "block style");
}

#[test]
fn who_gets_no_sidecar_is_told_why() {
    let text = "services:\n  a: {image: x, scale: 2}\n  b: {image: x, user: \"2102\"}\n  c: {image: x, network_mode: none}\n  d: {image: x, deploy: {replicas: 3}}\n";
    let rewritten = injected(text).unwrap();
    assert_eq!(rewritten.text, text);
    let told: Vec<String> = rewritten
        .outcomes
        .iter()
        .map(|outcome| match &outcome.what {
            What::Not(reason) => reason.to_string(),
            what => format!("{what:?}"),
        })
        .collect();
    assert!(
        told[0].contains("copies")
            && told[1].contains("2102")
            && told[2].contains("none")
            && told[3].contains("copies"),
        "{told:#?}"
    );
}
