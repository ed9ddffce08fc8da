//! Subjects and ids from any text: nothing that NATS forbids, nothing too long.
#![no_main]

use ansible_runner_nats_native::message::{Kind, message_id, subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str, &str)| {
    let (id, ident, uuid) = texts;
    for kind in [Kind::Event, Kind::Status] {
        let subject = subject(id, ident, kind);
        assert!(subject.len() < 2100);
        assert!(subject.starts_with("pub.ansible.runner.") && subject.ends_with(kind.as_str()));
        for token in subject.split('.') {
            let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
            assert!(!token.is_empty() && !token.contains(forbidden), "{subject:?}");
        }
    }
    let id = message_id(&[id, ident, "7", uuid]);
    assert!(id.len() <= 4 * 256 + 3 && !id.contains(|c: char| c.is_control()));
});
