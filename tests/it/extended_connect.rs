//! WebSockets over HTTP/2 (RFC 8441), by the packages h2 and wsproto to Hypercorn.

use weft_tests::python;

use crate::in_pods;
use crate::peers::{Peers, RUN};

#[test]
fn a_websocket_over_http_2_carries_frames_both_ways_at_once_beside_other_requests() {
    in_pods!(a_websocket_over_http_2_carries_frames_both_ways_at_once_beside_other_requests, || {
        let Some((peers, _app)) = Peers::with_hypercorn(&[]) else { return };
        for caller in peers.callers() {
            let mut client = python("websocket_over_http2.py").expect("it was there for the server");
            client.arg(format!("{}:8080", caller.host));
            caller.pod.succeed(client, RUN);
        }
    });
}
