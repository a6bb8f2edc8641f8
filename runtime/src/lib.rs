//! What every process of the mesh needs once: named tasks, draining, signals, logs, metrics, an admin port.

pub mod cpu;
pub mod drain;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod signal;
pub mod task;
