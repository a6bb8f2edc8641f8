//! One function for each parser of peers' bytes: it takes any bytes, and panics where a promise is broken.
//!
//! libFuzzer runs them (`tests/fuzz/run`), and so does a test on seeds and random changes of them.

mod http;
mod http1;
mod mesh;
mod mutate;
mod pods;
mod tls;
mod tokens;

pub use mutate::Mutations;

/// A parser, as a function of any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Must return, whatever the bytes.
    pub run: fn(&[u8]),
    /// What to begin with: bytes that it takes, and some that it nearly takes.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "token", run: tokens::token, seeds: tokens::tokens },
    Target { name: "token-claims", run: tokens::said, seeds: tokens::sayings },
    Target { name: "claim-match", run: tokens::claim_match, seeds: tokens::claim_matches },
    Target { name: "key-set", run: tokens::key_set, seeds: tokens::key_sets },
    Target { name: "detect", run: http::detect, seeds: http::first_words },
    Target { name: "path", run: http::path, seeds: http::paths },
    Target { name: "target", run: http::target, seeds: http::targets },
    Target { name: "host", run: http::host, seeds: http::hosts },
    Target { name: "traceparent", run: http::traceparent, seeds: http::traceparents },
    Target { name: "tracestate", run: http::tracestate, seeds: http::tracestates },
    Target { name: "trace-headers", run: http::trace_headers, seeds: http::traced_heads },
    Target { name: "grpc-status", run: http::grpc_status, seeds: http::grpc_statuses },
    Target { name: "grpc-timeout", run: http::grpc_timeout, seeds: http::grpc_timeouts },
    Target { name: "session", run: http::session, seeds: http::sessions },
    Target { name: "http2-frames", run: http::frames, seeds: http::frame_seeds },
    Target { name: "http1-request", run: http1::request, seeds: http1::requests },
    Target { name: "http1-response", run: http1::response, seeds: http1::responses },
    Target { name: "http1-trailers", run: http1::trailers, seeds: http1::trailer_seeds },
    Target { name: "client-hello", run: http::detect, seeds: tls::client_hellos },
    Target { name: "server-name", run: tls::server_name, seeds: tls::server_names },
    Target { name: "tls-record", run: tls::record, seeds: tls::records },
    Target { name: "tls-message", run: tls::message, seeds: tls::messages },
    Target { name: "certificate", run: tls::certificate, seeds: tls::certificates },
    Target { name: "signing-request", run: tls::signing_request, seeds: tls::signing_requests },
    Target { name: "pem", run: tls::pem, seeds: tls::pems },
    Target { name: "spiffe-id", run: tls::spiffe_id, seeds: tls::spiffe_ids },
    Target { name: "manifest", run: mesh::manifest, seeds: mesh::manifests },
    Target { name: "admission-review", run: pods::review, seeds: pods::reviews },
    Target { name: "inject", run: pods::manifests_with_sidecars, seeds: pods::workloads },
    Target { name: "discovery", run: mesh::discovery, seeds: mesh::messages },
    Target { name: "resource", run: mesh::resource, seeds: mesh::resources },
    Target { name: "dns", run: mesh::dns, seeds: mesh::questions },
    Target { name: "resolv-conf", run: mesh::resolv_conf, seeds: mesh::resolv_confs },
];

/// Seeds that are text.
fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
