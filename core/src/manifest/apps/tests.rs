//! A `weft.yaml` is read as it is meant, or every mistake in it is told.

use super::*;
use crate::model::Protocol;

fn read_text(text: &str) -> Result<AppsFile, Vec<String>> {
    let variable = |name: &str| (name == "PORT").then(|| "8080".to_owned());
    read(SourceFile { name: "weft.yaml", text }, &"default".parse().unwrap(), &variable)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_written_is_what_runs() {
    let file = read_text(
        r#"
namespace: shop
mesh:
- policies/
- apiVersion: weft.mesh/v1alpha1
  kind: MeshConfig
  metadata: {name: default}
  spec: {mtls: {mode: Strict}}
services:
  db:
    command: [postgres, -D, data]
    ports: ["5432:tcp"]
    stop_signal: SIGINT
    stop_grace_period: 1m
    healthcheck: {test: [CMD, pg_isready], interval: 2s, retries: 5, start_period: 0s}
  web:
    command: sh -c 'exec ./web --port $PORT'
    service: front
    service_account: web
    ports: [80->8080:http, 9090, {port: 443, target: 8443, protocol: tls}]
    environment: {DEBUG: true, LEVEL: 3, PATH:}
    env_file: [web.env, {path: local.env, required: false}]
    working_dir: web
    labels: [version=2]
    replicas: 2
    restart: on-failure:5
    depends_on: {db: {condition: service_healthy}}
"#,
    )
    .unwrap();
    assert_eq!(file.namespace.as_str(), "shop");
    assert_eq!(file.mesh.len(), 2);
    assert!(matches!(&file.mesh[1], MeshSource::Document { line: 5, .. }), "{:?}", file.mesh);
    let [db, web] = file.apps.as_slice() else { panic!("{:?}", file.apps) };
    assert_eq!(db.command, ["postgres", "-D", "data"]);
    assert_eq!(db.stop_signal, StopSignal::Interrupt);
    assert_eq!(db.stop_grace_period, Duration::from_mins(1));
    let check = db.health_check.as_ref().unwrap();
    assert_eq!(check.probe, Probe::Command(vec!["pg_isready".into()]));
    assert_eq!(
        (check.interval, check.retries, check.start_period),
        (Duration::from_secs(2), 5, Duration::ZERO)
    );
    assert_eq!(db.service_account.as_str(), "db");
    assert_eq!((db.replicas, db.restart), (1, Restart::No));

    assert_eq!(web.command, ["sh", "-c", "exec ./web --port 8080"]);
    assert_eq!((web.service.as_str(), web.service_account.as_str()), ("front", "web"));
    let ports: Vec<String> = web.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["80->8080:http", "9090", "443->8443:tls"]);
    assert_eq!(web.ports[0].protocol, Some(Protocol::Http));
    let value = |text: &str| Some(text.to_owned());
    let environment = [("DEBUG", value("true")), ("LEVEL", value("3")), ("PATH", None)];
    assert_eq!(web.environment, environment.map(|(key, value)| (key.to_owned(), value)));
    assert_eq!(web.env_files.iter().map(|file| file.required).collect::<Vec<_>>(), [true, false]);
    assert_eq!(web.labels["version"], "2");
    assert_eq!((web.replicas, web.restart), (2, Restart::OnFailure(Some(5))));
    assert_eq!(web.depends_on, [Dependency { app: 0, condition: Condition::Healthy }]);
    assert_eq!(web.health_check.as_ref().unwrap().probe, Probe::Connect { port: 8080 });
}

fn check_problems(text: &str, expected: &[&str]) {
    let problems = read_text(text).unwrap_err();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{expected:?} is not in {problem:?}");
    }
}

#[test]
fn every_mistake_has_its_line_and_says_what_to_do() {
    check_problems("", &["weft.yaml:1:1: nothing is named"]);
    check_problems("services: {}\n", &["weft.yaml:1:11: services: no services are named"]);
    check_problems(
        "services: {a: {command: x}}\napps: {b: {command: x}}\n",
        &["weft.yaml:2:7: apps: services are there too"],
    );
    check_problems("services: {a: {command: x}}\n---\nservices: {}\n", &["weft.yaml:3:1: a second document"]);
    check_problems(
        "services:\n  web:\n    comand: x\n  db:\n    image: postgres\n  Bad_Name: {command: x}\n",
        &[
            "weft.yaml:3:5: unknown field \"services[\\\"web\\\"].comand\"; did you mean \"command\"?",
            "weft.yaml:3:5: \"services[\\\"web\\\"].command\" is missing",
            "weft.yaml:5:5: services[\"db\"]: \"image\" is for containers",
            "weft.yaml:6:13:",
        ],
    );
}

#[test]
fn values_that_cannot_be_are_refused() {
    let service = |line: &str| format!("services:\n  a:\n    command: x\n    {line}\n");
    for (line, expected) in [
        ("ports: [\"8080:80\"]", "goes first: 8080->80"),
        ("ports: [80:ftp]", "write PORT, PORT:PROTOCOL"),
        ("ports: [0]", "is no port"),
        ("ports: [80, 80:grpc]", "port 80 is there twice"),
        ("restart: sometimes", "write no, on-failure"),
        ("replicas: 0", "from 1 to 256"),
        ("replicas: 1000", "from 1 to 256"),
        ("stop_signal: TERM", "SIGTERM"),
        ("stop_grace_period: soon", "duration"),
        ("labels: {\"a b\": c}", "is no label"),
        ("environment: [=x]", "has no key"),
        ("healthcheck: {}", "nothing says what is tried"),
        ("healthcheck: {test: [curl, x]}", "[CMD, PROGRAM"),
        ("healthcheck: {test: x, port: 80}", "keep one of them"),
        ("depends_on: [b]", "there is no service \"b\""),
        ("depends_on: {a: {condition: service_health}}", "did you mean \"service_healthy\"?"),
        ("working_dir: $NOWHERE", "the variable NOWHERE is not set"),
    ] {
        let problems = read_text(&service(line)).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.starts_with("weft.yaml:4:") && problem.contains(expected)),
            "{line}: {problems:#?}"
        );
    }
}

#[test]
fn nobody_waits_for_what_never_comes() {
    check_problems(
        "services:\n  a: {command: x, depends_on: [c]}\n  b: {command: x, depends_on: [a]}\n  c: {command: x, depends_on: [b]}\n",
        &["each waits for the next: a -> c -> b -> a"],
    );
    check_problems("services:\n  a: {command: x, depends_on: [a]}\n", &["a -> a"]);
    check_problems(
        "services:\n  a: {command: x, restart: always}\n  b:\n    command: x\n    depends_on: {a: {condition: service_completed_successfully}}\n",
        &["weft.yaml:5:17: services[\"b\"].depends_on: a is always started again"],
    );
    check_problems(
        "services:\n  a: {command: x}\n  b: {command: x, depends_on: {a: {condition: service_healthy}}}\n",
        &["a has no health check"],
    );
    // Those before the circle are not in it.
    check_problems(
        "services:\n  a: {command: x, depends_on: [b]}\n  b: {command: x, depends_on: [c]}\n  c: {command: x, depends_on: [b]}\n",
        &["b -> c -> b"],
    );
}

#[test]
fn documents_of_the_mesh_are_checked_where_they_stand() {
    check_problems(
        "services: {a: {command: x}}\nmesh:\n- apiVersion: weft.mesh/v1alpha1\n  kind: TrafficPolicy\n  metadata: {name: a}\n  spec:\n    targetRef: {kind: Service, name: a}\n    timeouts: {request: soon}\n",
        &["weft.yaml:8:25: spec.timeouts.request:"],
    );
}

#[test]
fn restarts_wait_longer_each_time() {
    assert!(!Restart::No.again(false, 0));
    assert!(Restart::Always.again(true, 1000));
    assert!(Restart::OnFailure(None).again(false, 1000) && !Restart::OnFailure(None).again(true, 0));
    assert!(Restart::OnFailure(Some(2)).again(false, 1) && !Restart::OnFailure(Some(2)).again(false, 2));
    let pauses: Vec<u128> = (0..9).map(|in_vain| pause(in_vain).as_millis()).collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(pause(u32::MAX), Duration::from_secs(10));
}

#[test]
fn one_failure_makes_nobody_sick_and_the_first_ones_none_at_all() {
    let file =
        read_text("services: {a: {command: x, ports: [80], healthcheck: {retries: 2, start_period: 5s}}}")
            .unwrap();
    let check = file.apps[0].health_check.as_ref().unwrap();
    let mut health = Health::default();
    let mut hear = |seconds, good| health.hear(check, Duration::from_secs(seconds), good);
    assert_eq!(
        [hear(0, false), hear(1, false), hear(2, false), hear(3, true), hear(4, true)],
        [None, None, None, Some(true), None]
    );
    assert_eq!(
        [hear(4, false), hear(5, true), hear(6, false), hear(7, false), hear(8, false)],
        [None, None, None, Some(false), None]
    );
    assert_eq!(hear(9, true), Some(true));
    assert_eq!(health.pause(check), check.interval);
    let mut never = Health::default();
    assert_eq!(never.hear(check, Duration::from_secs(5), false), None);
    assert_eq!(never.pause(check), check.start_interval);
    assert_eq!(never.hear(check, Duration::from_secs(6), false), Some(false));
}
