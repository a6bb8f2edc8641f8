//! The dashboard's pages in a mesh of two hundred services.

use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use weft_proto::v1;
use weft_proto::v1::sidecar_message::Message;

use crate::join::page;
use crate::mesh::{Mesh, eventually};
use crate::sidecar::{Sidecar, hello};

const SERVICES: usize = 200;
/// What a page of so many may weigh.
const MOST: usize = 512 << 10;

/// Each service with a workload behind it, one in four with a policy of its own.
fn documents() -> String {
    (0..SERVICES).fold(String::new(), |mut text, number| {
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: service-{number}}}
spec: {{selector: {{app: a{number}}}, ports: [{{port: 80}}]}}
---
apiVersion: weft.mesh/v1alpha1
kind: Workload
metadata: {{name: service-{number}-1, labels: {{app: a{number}}}}}
spec: {{address: 10.1.0.{number}, ports: [{{port: 80}}]}}
"
        )
        .unwrap();
        if number % 4 == 0 {
            write!(
                text,
                "---
apiVersion: weft.mesh/v1alpha1
kind: RateLimit
metadata: {{name: limit-{number}}}
spec: {{targetRef: {{kind: Service, name: service-{number}}}, limits: [{{requests: 100, per: 1s}}]}}
"
            )
            .unwrap();
        }
        text
    })
}

/// A caller of all of them.
async fn caller(mesh: &Mesh, name: &str) -> Sidecar {
    let sidecar = Sidecar::ready(mesh, name, hello(name)).await;
    let row = |number: usize| v1::GoldenRow {
        caller: format!("default/{name}"),
        service: format!("default/service-{number}"),
        route: "/orders/{id}".into(),
        requests: 1_000,
        failures: 3,
        mutual: 1_000,
        buckets: vec![900, 90, 10],
        ..Default::default()
    };
    let rows = (0..SERVICES).map(row).collect();
    let golden = v1::Golden { bounds_us: vec![1_000, 5_000], rows, circuits: Vec::new() };
    sidecar.send(Message::Golden(golden)).await;
    sidecar
}

/// Who calls whom, each those that come after it: some six hundred calls.
fn calls() -> impl Iterator<Item = (usize, usize)> {
    let called = |from: usize| [from + 1 + from % 3, from + 9 + from % 7, from + 23 + from % 5, from * 2 + 2];
    let all = (0..SERVICES).flat_map(move |from| called(from).map(move |to| (from, to)));
    all.filter(|(_, to)| *to < SERVICES)
}

/// What is asked of each, as one sidecar of the namespace has it: of callers that have none of their own.
async fn heard(mesh: &Mesh) -> Sidecar {
    let sidecar = Sidecar::ready(mesh, "ears", hello("ears")).await;
    let row = |(from, to): (usize, usize)| v1::GoldenRow {
        inbound: true,
        caller: format!("default/service-{from}"),
        service: format!("default/service-{to}"),
        requests: 1_000,
        failures: if (from + to) % 41 == 0 { 90 } else { 0 },
        mutual: 1_000,
        buckets: vec![900, 90, 10],
        ..Default::default()
    };
    let golden =
        v1::Golden { bounds_us: vec![1_000, 5_000], rows: calls().map(row).collect(), circuits: Vec::new() };
    sidecar.send(Message::Golden(golden)).await;
    sidecar
}

/// A real browser that looks at the map; none, loudly, where there is none.
fn browser(mesh: &Mesh, boxes: usize, edges: usize) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (python, chromium) = (root.join("target/python/bin/python3"), Path::new("/usr/bin/chromium"));
    if !python.is_file() || !chromium.is_file() {
        let skipped = "skipped: there is no chromium, or no target/python with playwright";
        assert!(env::var_os("WEFT_REFUSE_SKIPS").is_none(), "skipping is refused: {skipped}");
        eprintln!("{skipped}");
        return None;
    }
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("tests/programs/map.py")).arg(chromium);
    command.arg(format!("http://{}", mesh.handle.http)).args([boxes, edges].map(|number| number.to_string()));
    command.args(env::var_os("WEFT_PICTURES"));
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_of_two_hundred_services_is_drawn_by_a_browser_in_no_time() {
    let mesh = Mesh::start().await;
    let applied = mesh.admin().await.apply_text(&documents()).await;
    assert!(applied.problems.is_empty(), "{:?}", applied.problems.first());
    let _ears = heard(&mesh).await;
    let drawn: std::collections::BTreeSet<_> = calls().collect();
    let edges = async || page(&mesh, "/?window=1h").await.matches("<path class=\"head").count();
    eventually("every call is drawn", async || edges().await == drawn.len()).await;
    let Some(mut browser) = browser(&mesh, SERVICES, drawn.len()) else { return };
    let looked = tokio::task::spawn_blocking(move || browser.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&looked.stdout), String::from_utf8_lossy(&looked.stderr));
    eprintln!("{out}{err}");
    assert!(looked.status.success(), "{out}{err}");
    // Around one of them, by its name.
    let found = page(&mesh, "/?window=1h&find=SERVICE-199").await;
    assert!(
        found.contains("/services/default/service-199") && !found.contains(">service-90</text>"),
        "{found}"
    );
}

#[tokio::test]
async fn a_mesh_of_two_hundred_services_has_pages_of_half_a_mebibyte_at_most() {
    let mesh = Mesh::start().await;
    let applied = mesh.admin().await.apply_text(&documents()).await;
    assert!(applied.problems.is_empty(), "{:?}", applied.problems.first());
    let _callers = (caller(&mesh, "web").await, caller(&mesh, "batch").await);
    let edges = async || page(&mesh, "/").await.matches("<path class=\"head").count();
    eventually("every call is drawn", async || edges().await == 2 * SERVICES).await;
    for (path, says) in [
        ("/", "/services/default/service-199"),
        ("/services/default/service-4", "RateLimit default/limit-4"),
        ("/services/default/web", "service-199"),
        ("/sidecars", "batch"),
        ("/identities", "spiffe://mesh.local/ns/default/sa/batch"),
        ("/traces", "Search"),
    ] {
        let begun = Instant::now();
        let page = page(&mesh, path).await;
        eprintln!("{path}: {} KiB in {:?}", page.len() >> 10, begun.elapsed());
        assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains(says), "{path}: {says}");
        assert!(page.len() < MOST, "{path}: {} bytes", page.len());
    }
}
