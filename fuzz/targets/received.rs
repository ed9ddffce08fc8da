//! What readers get from the bus: any subject, any payload.
#![no_main]

use ansible_runner_nats_native::fuzzing::hear;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: Vec<(String, Vec<u8>)>| {
    assert!(hear(&messages) <= messages.len());
});
