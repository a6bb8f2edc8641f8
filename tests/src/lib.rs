//! The harness of the end-to-end tests: a mesh of real processes in real network namespaces.
//!
//! [`Mesh::start`] makes a hub and a control plane in it; [`Mesh::pod`] a pod with a sidecar and interception. What runs
//! is the `weft` binary itself. Everything ends when the mesh is dropped.

mod app;
mod capture;
mod http;
mod mesh;
mod place;
mod process;

pub use app::App;
pub use capture::Capture;
pub use http::{HttpClient, Response};
pub use mesh::{KEEP_SOURCE, Mesh, Options, SidecarPod};
pub use place::{Company, beside_others, in_pods, program, python, skip};
pub use process::{Process, eventually};
