//! A libFuzzer program for the target that `WEFT_FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("WEFT_FUZZ_TARGET").expect("WEFT_FUZZ_TARGET names the target");
    TARGETS.iter().find(|target| target.name == name).expect("a target of that name")
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
