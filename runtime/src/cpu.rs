//! How many workers the machine can feed.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use rustix::thread::sched_getaffinity;

/// The CPUs that a program may use which stands beside an app: those of its cgroup's quota, rounded down (v1 and v2, with
/// those above it); without one half of those that it may run on, for the app is to have the others.
pub fn beside_an_app() -> NonZeroUsize {
    let allowed = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let cores = sched_getaffinity(None).map_or(0, |set| set.count() as usize);
    share(allowed, cores)
}

/// A quota is our own, and all of it can be used; cores are not.
fn share(allowed: NonZeroUsize, cores: usize) -> NonZeroUsize {
    if allowed.get() < cores {
        return allowed;
    }
    NonZeroUsize::new(allowed.get() / 2).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_used_whole_and_of_cores_half() {
        for (allowed, cores, expected) in
            [(1, 1, 1), (2, 2, 1), (3, 3, 1), (64, 64, 32), (3, 4, 3), (1, 64, 1), (4, 0, 2)]
        {
            let allowed = NonZeroUsize::new(allowed).unwrap();
            assert_eq!(share(allowed, cores).get(), expected, "{allowed} of {cores}");
        }
    }
}
