//! What JetStream may answer, or whoever speaks in its place.
#![no_main]

use ansible_runner_nats_native::fuzzing::answers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| answers(payload));
