//! WebSockets, by the Python package of that name at both ends: frames of every size, both ways at once, and how they end.

use weft_tests::python;

use crate::in_pods;
use crate::peers::{Peers, RUN};

#[test]
fn websockets_carry_frames_both_ways_at_once_and_end_as_they_were_ended() {
    in_pods!(websockets_carry_frames_both_ways_at_once_and_end_as_they_were_ended, || {
        let Some(mut server) = python("websocket_server.py") else { return };
        let peers = Peers::start("server:8080");
        server.arg("8080");
        let _app = peers.serve(server, 8080);
        for caller in peers.callers() {
            let mut client = python("websocket_client.py").expect("it was there for the server");
            client.args(["everything", &format!("{}:8080", caller.host)]);
            caller.pod.succeed(client, RUN);
        }
        assert!(peers.mutual_requests() >= 1.0, "they went through both sidecars");
    });
}
