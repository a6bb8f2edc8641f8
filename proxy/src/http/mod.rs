//! Stages 4 and 8 for HTTP: serve the caller's connection, put heads right, stream bodies.

mod body;
mod cork;
mod exchange;
pub mod head;
pub mod headers;
pub mod limits;
mod relay;
mod respond;
mod serve;
pub mod target;
mod upgrade;

pub use body::Body;
pub use cork::Cork;
pub use exchange::{Exchange, Facts};
pub use relay::relay;
pub use respond::refusal;
pub use serve::{Version, serve};
pub use upgrade::{Wish, fulfil};
