//! gRPC's own implementation, grpcio, as client and as server: what it says and hears through sidecars.

use std::process::Command;
use std::time::Duration;

use weft_tests::{Process, eventually, python};

use crate::in_pods;
use crate::peers::{Caller, Peers, RUN};

/// A gRPC server behind a sidecar, and its callers.
pub struct Service {
    pub peers: Peers,
    _app: Process,
}

impl Service {
    pub fn start(more: &[&str]) -> Option<Self> {
        let mut command = python("grpc_server.py")?;
        command.arg("50051").args(more);
        let peers = Peers::start("server:50051");
        let app = peers.serve(command, 50051);
        Some(Self { peers, _app: app })
    }
}

impl Caller<'_> {
    pub fn grpc(&self, what: &str, more: &[&str]) -> String {
        self.pod.succeed(self.grpc_command(what, more), RUN)
    }

    fn grpc_command(&self, what: &str, more: &[&str]) -> Command {
        let mut command = python("grpc_client.py").expect("it was there for the server");
        command.args([what, &format!("{}:50051", self.host)]).args(more);
        command
    }
}

/// The same work through both sidecars and in plaintext.
fn both_ways(what: &[&str]) {
    let Some(service) = Service::start(&[]) else { return };
    for caller in service.peers.callers() {
        for what in what {
            caller.grpc(what, &[]);
        }
    }
    let labels = ["direction=\"outbound\"", "protocol=\"grpc\"", "tls=\"mutual\""];
    assert!(
        service.peers.client.metric("weft_requests_total", &labels) >= 1.0,
        "seen as gRPC, over mutual TLS"
    );
}

#[test]
fn all_four_kinds_of_calls_with_their_metadata_and_errors_are_as_without_sidecars() {
    in_pods!(all_four_kinds_of_calls_with_their_metadata_and_errors_are_as_without_sidecars, || {
        both_ways(&["kinds", "metadata", "errors"]);
    });
}

#[test]
fn large_messages_and_the_services_of_grpc_itself_are_carried() {
    in_pods!(large_messages_and_the_services_of_grpc_itself_are_carried, || {
        both_ways(&["large", "services"]);
    });
}

#[test]
fn a_deadline_reaches_the_server_and_ends_the_call_there_too() {
    in_pods!(a_deadline_reaches_the_server_and_ends_the_call_there_too, || both_ways(&["deadlines"]));
}

#[test]
fn keepalive_pings_of_a_silent_stream_are_answered() {
    in_pods!(keepalive_pings_of_a_silent_stream_are_answered, || both_ways(&["pings"]));
}

#[test]
fn a_call_that_is_cancelled_or_whose_client_dies_ends_at_the_server_at_once() {
    in_pods!(a_call_that_is_cancelled_or_whose_client_dies_ends_at_the_server_at_once, || {
        let Some(service) = Service::start(&[]) else { return };
        for caller in service.peers.callers() {
            let took = caller.grpc("cancellation", &[]);
            let took: Vec<f64> = took.split_whitespace().filter_map(|part| part.parse().ok()).collect();
            let [_, median, worst] = took[..] else { panic!("{took:?}") };
            // Two Pythons and two debug builds on a busy machine are in it.
            assert!(median < 20.0 && worst < 1000.0, "milliseconds, best, median and worst: {took:?}");

            let mut client = caller.pod.app(caller.grpc_command("hang_up", &[&caller.host]));
            eventually("the call has begun", Duration::from_secs(20), || client.output().contains("begun"));
            client.kill();
            caller.grpc("ended", &[&caller.host]);
        }
    });
}

#[test]
fn a_server_that_ages_its_connections_out_loses_no_call() {
    in_pods!(a_server_that_ages_its_connections_out_loses_no_call, || {
        let Some(service) = Service::start(&["300"]) else { return };
        for caller in service.peers.callers() {
            let calls: u64 = caller.grpc("load", &["4"]).trim().parse().expect("a number");
            assert!(calls > 200, "there was load: {calls}");
        }
    });
}
