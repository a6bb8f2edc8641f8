//! The whole mesh, tried from outside: one file per promise.

mod configuration;
mod control_plane_away;
mod demo;
mod encryption;
mod hostile_input;
mod http;
mod join;
mod registration;
mod rotation;
mod run;
mod server_first;
mod tidy;

use std::path::Path;

/// The `weft` binary, as built for these tests.
fn weft() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_weft-under-test"))
}

/// Wraps a test that makes pods: `in_pods!(test_name, || { .. })`.
macro_rules! in_pods {
    ($test:ident, $body:expr) => {{
        let name = concat!(module_path!(), "::", stringify!($test));
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        weft_tests::in_pods(crate::weft(), name, $body)
    }};
}
pub(crate) use in_pods;
