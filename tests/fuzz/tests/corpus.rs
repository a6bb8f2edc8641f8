//! Every target, on its seeds and on random changes of them: what `cargo fuzz` does with more time and an eye on coverage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use weft_fuzz::{Mutations, TARGETS, Target};

/// Changes that are tried of each target's seeds, if they do not take too long; `WEFT_FUZZ_SECONDS` tries for so long instead.
const CHANGES: usize = 20_000;
const AT_MOST: Duration = Duration::from_secs(4);

#[test]
fn no_target_panics_or_hangs() {
    let patience = std::env::var("WEFT_FUZZ_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs_f64);
    std::thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(move || try_for(target, patience));
        }
    });
}

fn try_for(target: &Target, patience: Option<Duration>) {
    let seeds = (target.seeds)();
    seeds.iter().for_each(|seed| try_on(target, seed));
    let begun = Instant::now();
    let mut tried = 0;
    for input in Mutations::new(seeds, 1) {
        let is_enough = match patience {
            Some(patience) => begun.elapsed() > patience,
            None => tried >= CHANGES || begun.elapsed() > AT_MOST,
        };
        if is_enough {
            break;
        }
        try_on(target, &input);
        tried += 1;
    }
    println!("{}: {tried} inputs", target.name);
    assert!(tried > 50, "{} is too slow: {tried} inputs", target.name);
}

fn try_on(target: &Target, input: &[u8]) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = begun.elapsed();
    assert!(outcome.is_ok(), "{} panicked on {:?}", target.name, String::from_utf8_lossy(input));
    assert!(
        took < Duration::from_secs(2),
        "{} took {took:?} for {:?}",
        target.name,
        String::from_utf8_lossy(input)
    );
}
