//! The rule about arrows: a room uses only the rooms below it, and none of them knows what is another's business.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, and what each may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("lib", &["plugin", "cli", "journal", "report"]),
    ("fuzzing", &["nats", "runs", "journal", "config", "message", "harmless"]),
    (
        "plugin",
        &[
            "cli", "nats", "outbox", "journal", "config", "message", "report", "files", "secret", "error",
            "fault",
        ],
    ),
    (
        "cli",
        &[
            "nats", "recovery", "runs", "outbox", "journal", "config", "message", "report", "files",
            "harmless", "secret", "error", "fault",
        ],
    ),
    (
        "nats",
        &[
            "recovery", "delivery", "outbox", "journal", "config", "message", "report", "files", "secret",
            "error", "fault",
        ],
    ),
    ("recovery", &["outbox", "journal", "config", "message", "files", "error"]),
    ("delivery", &["outbox", "journal", "config", "message", "fault"]),
    ("runs", &["message", "harmless"]),
    ("outbox", &["journal", "message", "report", "secret", "error", "fault"]),
    ("journal", &["message", "report", "files", "error", "fault"]),
    ("config", &["message", "report", "secret", "error", "fault"]),
    ("message", &["secret", "error", "fault"]),
    ("report", &["harmless", "secret", "error", "fault"]),
    ("files", &[]),
    ("harmless", &[]),
    ("secret", &[]),
    ("error", &["secret"]),
    ("fault", &[]),
];

/// Crates that one room alone knows.
const ALONE: &[(&str, &[&str])] = &[
    ("pyo3", &["plugin", "lib"]),
    ("pythonize", &["plugin"]),
    ("async_nats", &["nats"]),
    ("rustls", &["nats"]),
    ("clap", &["cli"]),
    ("ratatui", &["cli"]),
    ("indicatif", &["cli"]),
    ("axum", &["cli"]),
    ("prometheus_client", &["cli"]),
];

/// A file that is longer is two.
const LONGEST: usize = 620;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The room of a file of `src`: its folder there, or its name.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn files() -> Vec<(PathBuf, String, String)> {
    let mut files = Vec::new();
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        // Comments may name anything.
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let room = room(&path);
        files.push((path, room, lines.join("\n")));
    }
    assert!(files.len() > 30);
    files
}

/// Every `crate::NAME`, and `NAME` of every `use crate::{...}`.
fn used(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (_, rest) in text.match_indices("crate::").map(|(at, _)| text.split_at(at + "crate::".len())) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => used.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            used.push(name);
        } else {
            used.push(rest.to_owned());
        }
    }
    let first = |path: &String| -> String {
        path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    used.iter().map(first).filter(|name| !name.is_empty()).collect()
}

#[test]
fn arrows_only_go_down() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, room, text) in files() {
        let (_, below) = ROOMS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room}"));
        for name in used(&text) {
            seen += 1;
            if name != room && !below.contains(&name.as_str()) {
                wrong.push(format!("{}: {room} uses {name}", path.display()));
            }
        }
    }
    assert!(seen > 50);
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_room_knows_its_own_crates_and_no_other_does() {
    for (path, room, text) in files() {
        for (name, rooms) in ALONE {
            let knows = text.contains(&format!("{name}::"));
            assert!(!knows || rooms.contains(&room.as_str()), "{} knows {name}", path.display());
        }
    }
}

#[test]
fn unsafe_is_in_one_file_at_most() {
    let unsafe_files: Vec<PathBuf> = files()
        .into_iter()
        .filter(|(_, _, text)| text.contains("unsafe {") || text.contains("unsafe fn"))
        .map(|(path, ..)| path)
        .collect();
    assert!(unsafe_files.len() <= 1, "{unsafe_files:?}");
}

#[test]
fn no_file_is_too_long() {
    for (path, _, _) in files() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST, "{}: {lines} lines", path.display());
    }
}

#[test]
fn what_is_used_is_found() {
    let text = "use crate::{\n    a::{B, C},\n    d,\n};\nuse crate::e::f; fn g() { crate::h() }";
    assert_eq!(used(text), ["a", "d", "e", "h"]);
}
