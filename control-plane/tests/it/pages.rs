//! The dashboard's pages in a mesh of two hundred services.

use std::fmt::Write as _;
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
