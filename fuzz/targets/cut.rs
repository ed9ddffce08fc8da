//! Cutting: what was JSON is JSON and fits, what was not does no harm.
#![no_main]

use ansible_runner_nats_native::fuzzing::cut;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (limit, cut_before, json) = (usize::from(input.0), input.1, input.2);
    let mut short = json.to_vec();
    let fits = cut(&mut short, limit, cut_before);
    assert!(if fits { short.len() <= limit.max(json.len().min(limit)) } else { short == json });
    if serde_json::from_slice::<Value>(json).is_ok() {
        assert!(serde_json::from_slice::<Value>(&short).is_ok(), "{}", String::from_utf8_lossy(&short));
    }
});
