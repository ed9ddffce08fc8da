//! Lines of a spill file, damaged or made up: a message, which then survives another turn, or nothing.
#![no_main]

use ansible_runner_nats_native::message::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let Some(message) = Message::from_line(line) else { return };
    let mut again = Vec::new();
    message.write_line(&mut again).unwrap();
    assert_eq!(again.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(Message::from_line(&again), Some(message));
});
