//! Which rule a request or a connection falls under (stage 4 of a request's life), and what follows from it.
//!
//! [`Routes::compile`] sorts a service's rules once, when they arrive; a look-up goes through them in order and
//! allocates nothing. Only rules for requests to the service's own addresses are asked: where they lead, no further rule
//! applies.

mod answer;
mod matching;
mod tables;

pub use answer::{Called, Preflight, edit_path, location};
pub use matching::{AnyClaim, AnyValue, Request, fits};
pub use tables::{Connections, Hit, Requests, Routes, Rule, Speaks, Split, Table};

#[cfg(test)]
mod tests;
