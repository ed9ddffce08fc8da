//! Secrets by value: JSON stays JSON, and none of them is left.
#![no_main]

use ansible_runner_nats_native::fuzzing::without_values;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (json, secret) = input;
    let Ok(value) = serde_json::from_str::<serde_json::Value>(json) else { return };
    let json = value.to_string();
    if let Some(hidden) = without_values(&json, &[secret.to_owned()]) {
        assert!(serde_json::from_str::<serde_json::Value>(&hidden).is_ok(), "{hidden}");
    }
});
