//! The card of a run: who runs what where, on its first status (header `Ansible-Runner-Card`).

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{
    files::{self, Use},
    message::start_of,
};

/// What a card is made from, beside what the process itself knows.
#[derive(Debug, Default)]
pub(super) struct Making<'a> {
    /// On whose behalf (option `actor`).
    pub(super) actor: Option<&'a str>,
    /// Where the job's commands are run: in the project's folder.
    pub(super) cwd: Option<&'a str>,
    /// The versions of ansible-runner and of Python.
    pub(super) versions: &'a [(&'static str, String)],
}

impl Making<'_> {
    /// The card. What is not known is not in it.
    pub(super) fn card(&self) -> Map<String, Value> {
        /// A field of it: the whole is one header of one message.
        const LONGEST: usize = 256;
        let text = |text: &str| Value::from(start_of(text, LONGEST));
        let mut card = Map::new();
        card.insert("host".to_owned(), text(&hostname::get().unwrap_or_default().to_string_lossy()));
        card.insert("pid".to_owned(), std::process::id().into());
        card.insert("user".to_owned(), text(&user()));
        if let Some(actor) = self.actor {
            card.insert("actor".to_owned(), text(actor));
        }
        if let Some(revision) = self.cwd.and_then(|cwd| revision_of(Path::new(cwd))) {
            card.insert("revision".to_owned(), revision.into());
        }
        for (name, version) in self.versions {
            card.insert((*name).to_owned(), text(version));
        }
        card.insert("plugin".to_owned(), env!("PACKAGE_VERSION").into());
        card
    }
}

/// The user of this process: as Python's `getpass.getuser` looks for a name, or the number.
fn user() -> String {
    let named =
        ["LOGNAME", "USER", "LNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}

/// The commit that is checked out in the work tree which this folder is in, as the files of git say, without running it
/// (gitrepository-layout(5)); `None` if there is none, or it cannot be told.
pub(super) fn revision_of(folder: &Path) -> Option<String> {
    let git = folder.ancestors().map(|folder| folder.join(".git")).find(|git| git.exists())?;
    let git = if git.is_dir() { git } else { linked(&git, "gitdir:")? };
    // A worktree has its own HEAD, and branches in the repository that it belongs to.
    let common = linked(&git.join("commondir"), "").unwrap_or_else(|| git.clone());
    let mut name = line_of(&git.join("HEAD"))?;
    // Git follows no more symbolic refs than this.
    for _ in 0..5 {
        let Some(reference) = name.strip_prefix("ref:") else { break };
        let reference = PathBuf::from(reference.trim());
        if reference.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return None;
        }
        name = [&git, &common]
            .into_iter()
            .find_map(|git| line_of(&git.join(&reference)))
            .or_else(|| packed(&common, &reference))?;
    }
    let is_hash = matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(name)
}

/// The folder that a file names, from where the file is.
fn linked(file: &Path, key: &str) -> Option<PathBuf> {
    let line = line_of(file)?;
    Some(file.parent()?.join(line.strip_prefix(key)?.trim()))
}

/// The first line of a small file.
fn line_of(file: &Path) -> Option<String> {
    const MOST: u64 = 4096;
    let text = String::from_utf8(files::read(file, MOST).ok()?).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// What `packed-refs` has for a name: lines of a hash, a blank and the name.
fn packed(common: &Path, reference: &Path) -> Option<String> {
    /// A repository of thousands of branches has a few hundred kilobytes.
    const MOST: u64 = 1 << 20;
    let file = files::open(&common.join("packed-refs"), Use::Read).ok()?;
    let lines = BufReader::new(file.take(MOST)).lines().map_while(Result::ok);
    let mut found = lines.filter_map(|line| {
        let (hash, name) = line.split_once(' ')?;
        (Path::new(name) == reference).then(|| hash.to_owned())
    });
    found.next()
}
