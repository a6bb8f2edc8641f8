//! What the processes of the mesh stand on, used as they use it.

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod http;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod metrics;
