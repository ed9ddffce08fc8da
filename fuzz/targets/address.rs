//! Subjects and ids from any text: nothing that NATS forbids, nothing too long.
#![no_main]

use ansible_runner_nats_native::fuzzing::addresses;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str, &str)| {
    let (subject_id, ident, uuid) = texts;
    for ((subject, id), kind) in addresses(subject_id, ident, uuid).iter().zip([".event", ".status"]) {
        assert!(subject.len() < 2100);
        assert!(subject.starts_with("pub.ansible.runner.") && subject.ends_with(kind));
        for token in subject.split('.') {
            let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
            assert!(!token.is_empty() && !token.contains(forbidden), "{subject:?}");
        }
        assert!(id.len() <= 4 * 256 + 3 && !id.contains(|c: char| c.is_control()));
    }
});
