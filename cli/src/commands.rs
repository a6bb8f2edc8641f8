//! What the command does, one file a command.

pub(crate) mod apply;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod dashboard;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod fetch;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod inject;
pub(crate) mod install;
mod live;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod rollback;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod systemd;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod traces;
pub(crate) mod why;
