//! What goes over the wire says all that was meant.

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod fields;
