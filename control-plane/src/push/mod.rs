//! Who is told what, when, and what they made of it.
//!
//! `snapshot` holds every resource encoded once, `history` what endpoints were before; `session` is one sidecar's side of
//! the protocol without any I/O; `hub` tells each session which of its subscriptions changed. A change touches only the
//! sessions that subscribe to it, and each holds at most its own subscriptions as dirty names: the latest wins.

mod history;
mod hub;
mod session;
mod snapshot;

use weft_core::model::ResourceName;

pub(crate) use hub::{Hub, Mailbox, Subscribers, SyncState};
pub(crate) use session::{ProtocolError, Session};
pub(crate) use snapshot::{Encoded, Snapshot};

/// A resource's kind, as it is shown and counted.
pub(crate) fn kind(name: &ResourceName) -> &'static str {
    match name {
        ResourceName::Mesh => "Mesh",
        ResourceName::Trust(_) => "Trust",
        ResourceName::Service(_) => "Service",
        ResourceName::Endpoints(_) => "Endpoints",
        ResourceName::Address(_) => "Address",
        ResourceName::Workload(_) => "Workload",
    }
}

/// A resource's kind and name: `Service default/orders`.
pub(crate) fn title(name: &ResourceName) -> String {
    format!("{} {name}", kind(name))
}
