//! Where the world's facts come from: a watched folder, DNS, the cluster that we run in, and the sidecars themselves.
//!
//! Each source says what changed, as a [`weft_core::world::Change`]; `world` folds it in.

pub(crate) mod dns;
pub(crate) mod files;
mod folder_events;
pub(crate) mod kubernetes;
pub(crate) mod registry;
