//! Records of runs, damaged or made up: read as one that survives another turn, or as none.
#![no_main]

use ansible_runner_nats_native::fuzzing::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Some(again) = record(json) else { return };
    assert_eq!(record(&again).as_ref(), Some(&again));
});
