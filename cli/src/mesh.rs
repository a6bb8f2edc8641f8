//! A mesh of this machine: what `weft demo` and `weft run` are made of.

mod control_plane;
mod door;
mod folder;
mod member;
pub(crate) mod rendezvous;
mod resident;
mod way_out;

pub(crate) use control_plane::{Access, LocalControlPlane, Outpost, Own, listen_for_dashboard};
pub(crate) use folder::Folder;
pub(crate) use member::{Member, Membership, SIDECAR_ADMIN};
pub(crate) use resident::{Resident, Role, end, sidecar_owner, signal};
pub(crate) use way_out::WayOut;
