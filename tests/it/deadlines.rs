//! How long a gRPC call may take, whatever its client and its server know of deadlines.

use std::time::{Duration, Instant};

use crate::in_pods;
use crate::peers::Peers;

#[test]
fn a_call_that_has_run_out_of_time_is_ended_by_the_sidecar_whatever_its_client_does() {
    in_pods!(a_call_that_has_run_out_of_time_is_ended_by_the_sidecar_whatever_its_client_does, || {
        // An app that knows nothing of deadlines, and a client that does not either.
        let Some((peers, _app)) = Peers::with_hypercorn(&[]) else { return };
        let fields = ["content-type: application/grpc", "te: trailers", "grpc-timeout: 300m"];
        let fields = fields.iter().flat_map(|field| ["-H", field]);
        let arguments: Vec<&str> = ["--http2-prior-knowledge", "-v", "-d", "x", "http://HOST:8080/never"]
            .into_iter()
            .chain(fields)
            .collect();
        for caller in peers.callers() {
            let begun = Instant::now();
            let printed = caller.curl(&arguments);
            assert!(
                printed.contains("grpc-status: 4") && printed.contains("weft-error: timeout"),
                "{printed}"
            );
            assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
        }
    });
}
