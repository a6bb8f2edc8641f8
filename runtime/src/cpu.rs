//! How many workers the machine can feed.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// The CPUs that this process may use: the cgroup's quota rounded down (v1 and v2, with those above it), the
/// affinity mask or the machine's cores, whichever is least.
pub fn limit() -> NonZeroUsize {
    available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
