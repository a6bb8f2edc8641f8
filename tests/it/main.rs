//! The whole mesh, tried from outside: one file per promise.

mod accounts;
mod addresses;
mod answers;
mod asleep;
mod authorization;
mod balancing;
mod breaker;
mod bulk;
mod bulkhead;
mod client_first;
mod clocks;
mod cluster;
mod configuration;
mod control_plane_away;
mod curl;
mod dashboard;
mod deadlines;
mod decisions;
mod demo;
mod dns;
mod draining;
mod egress;
mod encryption;
mod envoy;
mod examples;
mod explain;
mod extended_connect;
mod faithful;
mod faults;
mod fidelity;
mod full_disk;
mod grpc;
mod grpc_crowd;
mod grpc_routes;
mod health;
mod hedging;
mod host;
mod hostile_input;
mod http;
mod http2;
mod inject;
#[cfg(test)]
mod install;
mod join;
mod keep_alive;
mod lifecycle;
mod mirrors;
mod nginx;
mod overload;
mod peers;
mod policy;
mod priorities;
mod rate_limits;
mod reference;
mod registration;
mod replicas;
mod retries;
mod revocation;
mod rolling;
mod roots;
mod rotation;
mod route_policies;
mod routes;
mod run;
mod secrets;
mod server_first;
mod servers;
mod sessions;
mod stores;
mod strictness;
mod telemetry;
mod tidy;
mod timeouts;
mod tls;
mod tokens;
mod upstreams;
mod websockets;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The `weft` binary, as built for these tests.
fn weft() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_weft-under-test"))
}

/// The same where every user may run it, wherever the workspace lies.
fn weft_for_everyone() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let named = |id: &str| std::env::temp_dir().join(format!("weft-for-everyone-{id}"));
        let folder = named(&std::process::id().to_string());
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a readable folder");
        let path = folder.join("weft");
        fs::copy(weft(), &path).expect("a copy");
        // Nothing runs at the end of a test binary, so the next one clears up after it.
        let ended = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        let ended = ended.filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("weft-for-everyone-").map(str::to_owned)
        });
        for id in ended.filter(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(named(&id));
        }
        path
    })
}

/// Wraps a test that makes pods: `in_pods!(test_name, || { .. })`; `in_pods!(test_name alone, || { .. })` where it asserts
/// of short times.
macro_rules! in_pods {
    ($test:ident, $body:expr) => {
        crate::in_pods!($test, Others, $body)
    };
    ($test:ident alone, $body:expr) => {
        crate::in_pods!($test, Nobody, $body)
    };
    ($test:ident, $company:ident, $body:expr) => {{
        let name = concat!(module_path!(), "::", stringify!($test));
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        weft_tests::in_pods(crate::weft(), name, weft_tests::Company::$company, $body)
    }};
}
pub(crate) use in_pods;
