//! What the mesh decides: pure functions over the model.
//!
//! No I/O, no clock, no randomness of its own, no panic: `now` and the random source are arguments,
//! so that every decision can be tried on a virtual clock.

pub mod attachment;
pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod classify;
pub mod compile;
pub mod concurrency;
pub mod deadline;
pub mod detect;
pub mod explain;
pub mod fault;
pub mod health;
pub mod hedge;
pub mod host;
pub mod inject;
pub mod install;
pub mod jwt;
pub mod limits;
pub mod manifest;
pub mod model;
pub mod path;
pub mod plan;
pub mod rate;
pub mod rehearse;
pub mod retry;
pub mod route;
pub mod session;
pub mod target;
pub mod trace;
pub mod virtual_address;
pub mod why;
pub mod window;
pub mod world;
