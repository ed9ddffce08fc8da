//! Texts for a terminal: nothing that it would obey is left, and showing them again changes nothing.
#![no_main]

use ansible_runner_nats_native::fuzzing::{is_odd, shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let [colored, line, json] = shown(text);
    assert!(!line.contains(is_odd), "{line:?}");
    assert!(!json.contains(is_odd), "{json:?}");
    assert_eq!(serde_json::from_str::<String>(&json).ok().as_deref(), Some(text));
    let [again, _, _] = shown(&colored);
    assert_eq!(again, colored);
});
