//! What the mesh says of requests is read by others' programs: trace headers by their propagators, spans by their collectors,
//! metrics by their parsers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use weft_tests::{App, HttpClient, Mesh, Options, Process, SidecarPod, eventually, program, python};

use crate::peers::{RUN, read_head};
use crate::{in_pods, weft};

/// The trace that the propagators send.
const TRACE: &str = "5759e988bd862e3fe1be46a994272793";

#[test]
fn real_propagators_collectors_and_parsers_read_what_the_mesh_says() {
    in_pods!(real_propagators_collectors_and_parsers_read_what_the_mesh_says, || {
        let (Some(mut propagators), Some(mut collector)) = (python("propagators.py"), python("collector.py"))
        else {
            return;
        };
        let mesh = Mesh::start(weft(), Options::default());
        let (server, client) = (mesh.pod("server", "server:8080,flaky:8081"), mesh.pod("client", ""));
        let _apps = (App::echo(&server, 8080), flaky(&server, 8081));
        let stranger = mesh.pod_without_sidecar("stranger");
        let address = stranger.address().to_string();
        collector.arg(&address);
        let mut collector = stranger.app_called("collector", collector);
        eventually("the collectors listen", RUN, || {
            assert!(collector.is_running(), "{}", collector.output());
            collector.output().contains("listening")
        });
        configure(&mesh, &address, &[&server, &client]);

        propagators.args(["server:8080", "w3c", "b3", "b3multi", "jaeger", "datadog", "xray"]);
        let said = client.succeed(propagators, RUN);
        assert_eq!(said.matches(" ok").count(), 14, "{said}");

        collectors_have_them(&collector);
        each_try_has_a_span(&client, &collector);
        let counted = |metric: &str, labels: &[&str]| {
            [&server, &client].map(|pod| pod.metric(metric, labels)).iter().sum::<f64>()
        };
        for port in [4317, 4318, 9411] {
            let exporter = format!("exporter=\"{address}:{port}\"");
            assert!(counted("weft_spans_exported_total", &[&exporter]) >= 2.0, "{port}");
        }
        let unwanted = format!("exporter=\"{address}:4318\"");
        assert_eq!(counted("weft_spans_dropped_total", &[&unwanted, "reason=\"refused\""]), 1.0);

        // From a pod that has no identity, while all else must have one.
        let Some(mut scrape) = python("openmetrics.py") else { return };
        scrape.arg(format!("{}:4191", server.address()));
        let metrics = stranger.succeed(scrape, RUN);
        lint(&metrics);
        is_told_of_by(&metrics);
    });
}

/// Answers 503 at first, and then 200.
fn flaky(pod: &SidecarPod, port: u16) -> App {
    let asked = Arc::new(AtomicBool::new(false));
    App::serve(pod, port, move |stream| {
        while !read_head(&stream).0.is_empty() {
            let status =
                if asked.swap(true, Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if (&stream).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// The server's sidecar names as its parent the try that it got.
fn each_try_has_a_span(client: &SidecarPod, collector: &Process) {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = client.run(|| {
        // The service's address: the policy is the service's.
        let mut found = "flaky:8081".to_socket_addrs().expect("a name");
        let flaky = found.find(SocketAddr::is_ipv4).expect("an IPv4 address");
        let mut connection = HttpClient::connect(flaky).expect("a connection");
        let parent = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
        connection.get("flaky:8081", "/", &parent).expect("an answer")
    });
    assert_eq!(answer.status, 200);
    eventually("all four spans are there", Duration::from_secs(60), || {
        spans(collector, "grpc", trace).len() >= 4
    });
    let spans = spans(collector, "grpc", trace);
    let of = |kind: u64, status: &str| -> Value {
        let found = spans
            .iter()
            .filter(|it| it["kind"] == kind && it["attributes"]["http.response.status_code"] == status);
        let [found] = found.collect::<Vec<_>>()[..] else { panic!("{spans:?}") };
        found.clone()
    };
    for (status, resent) in [("503", Value::Null), ("200", "1".into())] {
        let (client, server) = (of(3, status), of(2, status));
        assert_eq!((&client["parent"], &server["parent"]), (&"00f067aa0ba902b7".into(), &client["span"]));
        assert_eq!(client["attributes"]["http.request.resend_count"], resent, "{client}");
    }
}

/// What a collector has got of a trace; a batch that was sent twice counts once.
fn spans(collector: &Process, via: &str, trace: &str) -> Vec<Value> {
    let output = collector.output();
    let all = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_trace = all.filter(|span| span["via"] == via && span["trace"] == trace);
    let by_id = of_trace.map(|span| (span["span"].as_str().unwrap_or_default().to_owned(), span));
    by_id.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Every format, and every way out.
fn configure(mesh: &Mesh, collector: &str, pods: &[&SidecarPod]) {
    let document = format!(
        "apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {{name: default}}
spec:
  tracing:
    sampling: 100%
    propagation: [w3c, b3, jaeger, datadog, xray]
    export: [{{otlp: http://{collector}:4317}}, {{otlp: http://{collector}:4318}}, {{zipkin: http://{collector}:9411}}]
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {{name: flaky}}
spec: {{targetRef: {{kind: Service, name: flaky}}, retries: {{attempts: 2, on: [5xx]}}}}
"
    );
    let file = mesh.scratch().join("tracing.yaml");
    fs::write(&file, document).expect("a document");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
    eventually("the sidecars have it", Duration::from_secs(30), || {
        let has = |pod: &&SidecarPod| {
            pod.admin("/config")
                .is_some_and(|(_, config)| config.contains(&format!("http://{collector}:9411")))
        };
        pods.iter().all(has)
    });
}

/// Both spans of a request by each way, and none of a request that was not to be recorded: half of what was sent.
fn collectors_have_them(collector: &Process) {
    let spans = |via: &str| spans(collector, via, TRACE);
    for (via, server, client) in [
        ("grpc", Value::from(2), 3.into()),
        ("http", 2.into(), 3.into()),
        ("zipkin", "SERVER".into(), "CLIENT".into()),
    ] {
        // Six formats of seven carry the whole identifier, and one in two of their requests is to be recorded.
        eventually("the collector has every span", Duration::from_secs(60), || spans(via).len() >= 12);
        let spans = spans(via);
        assert_eq!(spans.len(), 12, "{via}: {spans:?}");
        for (kind, service) in [(server, "server"), (client, "client")] {
            let of: Vec<_> = spans.iter().filter(|span| span["kind"] == kind).collect();
            assert_eq!(of.len(), 6, "{via}");
            for span in of {
                assert!(span["service"].as_str().is_some_and(|name| name.starts_with(service)), "{span}");
                let attributes = &span["attributes"];
                assert_eq!(
                    (&span["name"], &attributes["http.response.status_code"]),
                    (&"GET".into(), &"200".into())
                );
                assert_eq!(
                    (&attributes["url.path"], &attributes["weft.tls"]),
                    (&"/".into(), &"mutual".into())
                );
            }
        }
    }
}

/// Prometheus' own tool finds nothing to say.
fn lint(metrics: &str) {
    let Some(promtool) = program(&["promtool"]) else { return };
    let mut lint = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    lint.stdin.take().expect("a pipe").write_all(metrics.as_bytes()).expect("promtool reads");
    let output = lint.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let rules = deployed("prometheus/weft.rules.yaml");
    let output = Command::new(promtool).args(["check", "rules"]).arg(rules).output().expect("promtool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The dashboard and the rules ask for nothing that is not there.
fn is_told_of_by(metrics: &str) {
    let known: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let dashboard = fs::read_to_string(deployed("grafana/weft.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut queries: Vec<String> =
        targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect();
    assert!(queries.len() > 20, "{}", queries.len());
    queries.push(fs::read_to_string(deployed("prometheus/weft.rules.yaml")).expect("the rules"));
    for query in &queries {
        let words =
            query.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
        let names = words.filter(|word| {
            !word.contains(':') && (word.starts_with("weft_") || word.starts_with("process_"))
        });
        for name in names {
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(known.contains(family), "{name} in {query}");
        }
    }
}

fn deployed(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy").join(file)
}
