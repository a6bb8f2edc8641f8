//! gRPC where numbers matter: how many streams at once.

use crate::grpc::Service;
use crate::in_pods;

#[test]
fn a_thousand_streams_live_at_once_on_one_connection() {
    in_pods!(a_thousand_streams_live_at_once_on_one_connection, || {
        let Some(service) = Service::start(&[]) else { return };
        for caller in service.peers.callers() {
            caller.grpc("crowd", &["1000"]);
        }
    });
}
