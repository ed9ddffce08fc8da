//! Filters from names that somebody has published.
#![no_main]

use ansible_runner_nats_native::fuzzing::filters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|names: (&str, &str)| {
    if !names.0.is_empty() && !names.1.is_empty() {
        assert!(filters(names.0, names.1), "{names:?}");
    }
});
