//! Pods and interception against the real kernel.
//!
//! As root, or as an ordinary user in a user namespace; a machine that allows neither skips them loudly, or fails them
//! where `WEFT_REFUSE_SKIPS=1`. What needs another process starts this very program again (see `children`).

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod children;
#[cfg(test)]
mod intercept;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod wire;
