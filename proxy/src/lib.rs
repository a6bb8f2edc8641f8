//! The sidecar. Modules are the stages of a request, and what feeds them.

pub mod config;
pub mod credentials;
pub mod failure;
pub mod observe;
pub mod state;
