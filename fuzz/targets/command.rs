//! Command lines, as one word and as several: read in any case, and no longer than before but for masks.
#![no_main]

use ansible_runner_nats_native::fuzzing::command_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    assert_eq!(command_line(&words).len(), words.len());
    let secret =
        format!("db_password=qz1zq{}", words.first().map_or("", String::as_str).replace([' ', '\n'], ""));
    let told = command_line(&["-e".to_owned(), secret]);
    assert!(!told.iter().any(|word| word.contains("qz1zq")), "{told:?}");
});
