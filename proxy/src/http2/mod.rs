//! Stages 4 and 8 for HTTP/2: serve the caller's connection, and carry each of its streams on one of an upstream's.
//!
//! The h2 crate speaks the protocol on both sides; what is here decides. It is used without hyper, which hides what a
//! proxy must pass on: informational responses, reset codes, and how much of a window is used (docs/decisions).

pub mod guard;
mod journey;
pub mod limits;
mod passage;
mod pump;
mod race;
mod refuse;
mod relay;
mod replica;
mod saved;
mod serve;
pub mod watch;

pub use replica::Replica;
pub use serve::serve;
