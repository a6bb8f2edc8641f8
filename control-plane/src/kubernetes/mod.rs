//! Kubernetes' API server as we use it: lists and watches, patches, a lease.
//!
//! A client of our own, for little is needed of it: one connection for each call and each watch, JSON, and the few
//! verbs below. What the cluster says becomes changes of the world in `source::kubernetes`.

mod access;
mod client;
#[cfg(test)]
mod double;
mod lease;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use access::Access;
pub use access::AccessError;
pub use client::ApiError;
pub(crate) use client::Client;
pub(crate) use lease::{LASTS, Lease};
pub(crate) use watch::{Collection, Event, Watch, escaped};

#[cfg(test)]
pub(crate) use double::Double;
