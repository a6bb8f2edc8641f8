//! What both versions of HTTP share: heads as the mesh sees them, what it changes in them, and a request's record.

mod cork;
mod exchange;
pub mod head;
pub mod headers;
pub mod patience;
mod respond;
pub mod target;
pub mod trace;
mod tries;
mod vain;

pub use cork::Cork;
pub use exchange::{Exchange, Facts, Planned};
pub use patience::Patience;
pub use respond::refusal;
pub use vain::{Vain, answered_in_vain};

/// A version of HTTP on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}
