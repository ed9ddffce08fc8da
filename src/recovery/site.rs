//! Where earlier runs have left something, and what of it is for us to take up.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::records::leave;
use crate::{
    files,
    journal::{Destination, Found, Identity, host},
    message::Template,
};

/// A folder of runs' folders.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// When it was looked through the last time, or was to be.
    looked_at: Option<Instant>,
    /// It is to be looked through.
    pub(super) is_due: bool,
    /// How often that was asked for: who has looked meanwhile has not seen all.
    pub(super) asked: u64,
    /// Subject ids and templates of our runs: what these could not have made is not for us to send.
    ours: Vec<(String, Template)>,
}

/// What a [`Site`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A spool (option `spill_dir`): nothing else is in it.
    Spool,
    /// The artifact directories of a private data directory.
    Artifacts,
}

impl Site {
    pub(super) fn new(path: &Path, kind: Kind) -> Self {
        Self { path: path.to_owned(), kind, looked_at: None, is_due: false, asked: 0, ours: Vec::new() }
    }

    /// A run begins: is there to be looked? A spool is there for that; artifact directories may be many, and what others
    /// leave there can wait for a while.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);
        let is_late = self.looked_at.is_none_or(|then| now.duration_since(then) > PAUSE);
        if self.kind == Kind::Spool || is_late {
            self.looked_at = Some(now);
            self.is_due = true;
            self.asked += 1;
        }
        self.is_due
    }

    /// A run of ours uses it.
    pub(super) fn learn(&mut self, run: &Identity) {
        /// A service may have a subject id a tenant; the last ones must do.
        const MOST: usize = 1_000;
        let one = (run.subject_id.clone(), run.template.clone());
        if !self.ours.contains(&one) {
            self.ours.truncate(MOST - 1);
            self.ours.insert(0, one);
        }
    }

    /// Is this the subject id of a run of ours?
    fn knows(&self, subject_id: &str) -> bool {
        self.ours.iter().any(|(known, _)| known == subject_id)
    }

    /// Could a run of ours have published to this subject?
    pub(super) fn makes(&self, subject: &str) -> bool {
        self.ours.iter().any(|(subject_id, template)| template.makes(subject_id, subject))
    }

    /// The runs' folders. In a spool all of them; of artifact directories, which may be thousands, the newest.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        /// So many are looked into.
        const MOST: usize = 100;
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        if self.kind == Kind::Spool {
            let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            folders.sort();
            return folders;
        }
        let mut folders: Vec<(SystemTime, PathBuf)> = entries
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        folders.sort();
        let older = folders.len().saturating_sub(MOST);
        folders.into_iter().skip(older).map(|(_, folder)| folder).collect()
    }

    /// Whoever is killed while he makes his folder in a spool, or removes it, leaves it without a record. Nobody is at that
    /// for an hour.
    pub(super) fn remove_remains(&self) {
        const LONG: Duration = Duration::from_secs(3600);
        if self.kind != Kind::Spool {
            return;
        }
        let is_old = |about: &fs::Metadata| {
            about.modified().is_ok_and(|then| then.elapsed().is_ok_and(|since| since > LONG))
        };
        for folder in self.folders() {
            let about = fs::symlink_metadata(&folder);
            let is_ours = about.is_ok_and(|about| about.is_dir() && files::is_ours(&about) && is_old(&about));
            if is_ours && Found::all_in(&folder).is_empty() {
                leave(&folder);
            }
        }
    }

    /// The records of a folder whose runs were killed, by the same rules; others may go on there.
    pub(crate) fn killed(&self, folder: &Path, destination: &Destination) -> Vec<Found> {
        let mut found = all_of_ours(folder);
        found.retain(|found| found.is_killed() && self.is_ours(found, destination));
        found
    }

    fn is_ours(&self, found: &Found, destination: &Destination) -> bool {
        found.record.host == host()
            && found.record.destination == *destination
            && self.knows(&found.record.subject_id)
    }

    /// The records of a folder, if nothing of these runs goes on, they are this host's, and went where we go. In a folder
    /// that others can write to, one of somebody else is his: we do not speak for him.
    pub(super) fn records(&self, folder: &Path, destination: &Destination) -> Option<Vec<Found>> {
        let found = all_of_ours(folder);
        let ours = |found: &Found| !found.is_running() && self.is_ours(found, destination);
        (!found.is_empty() && found.iter().all(ours)).then_some(found)
    }
}

/// The records of a folder that is nobody else's.
fn all_of_ours(folder: &Path) -> Vec<Found> {
    let is_ours = fs::symlink_metadata(folder).is_ok_and(|about| about.is_dir() && files::is_ours(&about));
    if is_ours { Found::all_in(folder) } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_folders_without_a_record_go() {
        let spool = tempfile::tempdir().unwrap();
        let site = Site::new(spool.path(), Kind::Spool);
        let hour = Duration::from_secs(3600);
        let make = |name: &str, file: Option<&str>, age: Duration| {
            let folder = spool.path().join(name);
            fs::create_dir(&folder).unwrap();
            if let Some(file) = file {
                fs::write(folder.join(file), "x").unwrap();
            }
            fs::File::open(&folder).unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        make("old-empty", None, 2 * hour);
        make("old-scrap", Some(".nats-0123"), 2 * hour);
        make("old-damaged-record", Some("nats-run.json"), 2 * hour);
        make("old-messages", Some("nats-undelivered.jsonl"), 2 * hour);
        make("old-others", Some("precious"), 2 * hour);
        make("new-empty", None, hour / 2);
        site.remove_remains();
        let left: Vec<String> = site
            .folders()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(left, ["new-empty", "old-damaged-record", "old-messages", "old-others"]);
        Site::new(spool.path(), Kind::Artifacts).remove_remains();
        assert_eq!(site.folders().len(), 4);
    }
}
