//! Lines of a spill file, damaged or made up: a message, which then survives another turn, or nothing.
#![no_main]

use ansible_runner_nats_native::fuzzing::spill_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let Some(again) = spill_line(line) else { return };
    assert_eq!(again.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(spill_line(&again).as_ref(), Some(&again));
});
