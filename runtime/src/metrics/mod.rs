//! Metrics: counted where things happen without disturbing others, added up when somebody asks.
//!
//! A [`Family`] is declared once as a constant. A worker thread keeps its own [`Shard`], whose series nobody else writes
//! to; a handle ([`Counter`], [`Gauge`], [`Histogram`]) is an `Arc` around relaxed atomics, so that counting is one
//! addition. A scrape visits all shards and adds up what has the same labels.

mod negotiate;
mod process;
mod registry;
mod sample;
mod series;
mod text;

pub use negotiate::Format;
pub use registry::{Registry, Shard};
pub use sample::Sample;
pub use series::{Counter, Exemplar, Family, Gauge, Histogram, Kind, Metric};
