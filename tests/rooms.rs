//! The rule about arrows: a room uses only the rooms below it, and none of them knows what is another's business.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
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
    ("ureq", &["cli"]),
];

/// Modules of one room that still use each other.
const CIRCLES: &[&[&str]] = &[&["nats::courier", "nats::healer"]];

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

/// Every path that begins with `crate`, `self` or `super`: those of a list in braces one by one.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let is_inside = |c: char| c.is_alphanumeric() || "_:".contains(c);
            if !text[..at].ends_with(is_inside) {
                branch(&text[at..], &[], &mut found);
            }
        }
    }
    found
}

/// The paths that begin here, behind what stands before the braces; returns what follows.
fn branch<'a>(text: &'a str, before: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = before.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            rest = list;
            loop {
                rest = branch(rest, &path, found).trim_start();
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => return rest.strip_prefix('}').unwrap_or(rest),
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !name.is_empty() {
            path.push(name.to_owned());
        }
        match after.strip_prefix("::") {
            Some(more) => rest = more,
            None => {
                if path.len() > before.len() {
                    found.push(path);
                }
                // The new name behind `as` leads nowhere.
                return after.find([',', '}', ';', '(']).map_or("", |at| &after[at..]);
            }
        }
    }
}

/// The rooms that a text uses.
fn used(text: &str) -> Vec<String> {
    let paths = paths(text).into_iter().filter(|path| path[0] == "crate");
    paths.filter_map(|path| path.into_iter().nth(1)).collect()
}

/// The module of a file of `src`, from its room on.
fn module(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let inside = inside.with_extension("");
    let names = inside.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod").collect()
}

/// What each module of a room uses beside it. A folder's own file declares what is in the folder, and has what all of that
/// share: these may use each other. What tests use is their own business.
fn arrows() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let texts: BTreeMap<Vec<String>, String> = files()
        .into_iter()
        .map(|(path, _, text)| {
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            (module(&path), code.to_owned())
        })
        .filter(|(module, _)| module.last().unwrap() != "tests")
        .collect();
    let lead_to = |from: &Vec<String>, path: &Vec<String>| {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let mut whole =
            if path[0] == "crate" { Vec::new() } else { from[..from.len().checked_sub(ups)?].to_vec() };
        whole
            .extend(path.iter().filter(|name| !["crate", "self", "super"].contains(&name.as_str())).cloned());
        (1..=whole.len()).rev().map(|count| whole[..count].to_vec()).find(|module| texts.contains_key(module))
    };
    texts
        .iter()
        .map(|(from, text)| {
            let to = paths(text).into_iter().filter_map(|path| lead_to(from, &path));
            let is_beside =
                |to: &Vec<String>| !to.starts_with(from) && !from.starts_with(to) && to[0] == from[0];
            (from.clone(), to.filter(is_beside).collect())
        })
        .collect()
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
fn no_circle_is_inside_a_room() {
    let arrows = arrows();
    let reached_from = |start: &Vec<String>| {
        let mut reached = BTreeSet::new();
        let mut next = vec![start.clone()];
        while let Some(module) = next.pop() {
            next.extend(arrows[&module].iter().filter(|to| reached.insert((*to).clone())).cloned());
        }
        reached
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|module| (module, reached_from(module))).collect();
    let is_known = |module: &str| CIRCLES.iter().any(|circle| circle.contains(&module));
    let mut wrong = Vec::new();
    for (from, to) in arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        let (one, other) = (from.join("::"), to.join("::"));
        if reached[to].contains(from) && !(is_known(&one) && is_known(&other)) {
            wrong.push(format!("{one} -> {other}"));
        }
    }
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 100);
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
    assert_eq!(used(text), ["a", "a", "d", "e", "h"]);
    let text = "use super::{self as up, a::{B as C, d::{e}}, f};\nfn g() -> super::super::h::I { self::j() } mysuper::k";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    let expected =
        ["self::j", "super::self", "super::a::B", "super::a::d::e", "super::f", "super::super::h::I"];
    assert_eq!(found, expected);
}
