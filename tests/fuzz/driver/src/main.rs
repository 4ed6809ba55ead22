//! libFuzzer's main program: one for all targets, chosen by the variable `TARGET`.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<edgemesh_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    edgemesh_fuzz::target(&name).unwrap_or_else(|| {
        let known: Vec<_> = edgemesh_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("TARGET={name:?} is no target; accepted: {}", known.join(", "));
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
