//! Whether there is room for what a run starts: found out first, for later there would be nobody to say so.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;

/// Threads and processes of a mesh, a sidecar and a program that are there at once, roughly.
const NEEDED: usize = 32;

const STACK: usize = 64 << 10;

/// Has so many threads at once for a moment. A process that has had some can enter no user namespace for as long as the kernel
/// remembers them: that comes first.
pub(super) fn check() -> anyhow::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..NEEDED {
            let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
            let started = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, wait);
            // The lock goes with an error too: who waits for it ends.
            started.with_context(|| {
                format!("no room for {NEEDED} more threads: the machine's process table is full, or yours is (ulimit -u)")
            })?;
        }
        drop(closed);
        Ok(())
    })
}
