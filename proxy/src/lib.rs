//! The sidecar. Modules are the stages of a request, and what feeds them.

pub mod config;
pub mod credentials;
pub mod failure;
pub mod forward;
pub mod http;
pub mod inbound;
pub mod listen;
pub mod observe;
pub mod outbound;
pub mod sniff;
pub mod state;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod upstream;
pub mod worker;
