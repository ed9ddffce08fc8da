//! Records say what is left of their runs.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    journal::{Acknowledged, DAMAGED, Found, Record, count_lines, spill_files_in},
    outbox::{Run, Streams},
};

/// What became of messages that were sent later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Stored by a stream.
    pub(crate) stored: u64,
    /// Routed to whoever subscribes.
    pub(crate) routed: u64,
    /// By these streams, and how far.
    pub(crate) streams: Vec<Acknowledged>,
}

impl Sent {
    /// What became of the messages of this run, which are another one's.
    pub(crate) fn of(run: &Run) -> Self {
        let Record { stored, routed, streams, .. } = run.so_far();
        Self { stored, routed, streams }
    }

    /// But for so many that are none of the run's own messages.
    pub(crate) fn without(self, others: u64) -> Self {
        let routed = self.routed.saturating_sub(others.saturating_sub(self.stored));
        Self { stored: self.stored.saturating_sub(others), routed, streams: self.streams }
    }

    /// A record that counts so many messages more as confirmed.
    pub(super) fn count(&self, record: &Record, recovered: u64) -> Record {
        let routed = self.routed.min(recovered);
        let mut streams = Streams::default();
        streams.join(&record.streams);
        streams.join(&self.streams);
        Record {
            confirmed: record.confirmed + recovered,
            recovered: record.recovered + recovered,
            routed: record.routed + routed,
            stored: record.stored + recovered - routed,
            streams: streams.to_vec(),
            ..record.clone()
        }
    }
}

/// Of the spill file `sent` all was sent but for what is in the files `rest`: its record says so. The file is there still.
pub(super) fn settle(folder: &Path, sent: &Path, rest: &[PathBuf], fates: &Sent) {
    let found = Found::all_in(folder);
    let is_alone = found.len() == 1;
    for Found { path, record, .. } in found {
        let mut files = if is_alone { spill_files_in(folder) } else { own_files(folder, &record) };
        let is_its = record.files.iter().any(|file| file.file_name() == sent.file_name());
        let damaged = folder.join(DAMAGED);
        if is_its && !is_alone {
            files.extend(rest.iter().cloned());
        }
        if (is_alone || is_its) && damaged.exists() {
            files.push(damaged);
        }
        files.retain(|file| file != sent);
        let undelivered = files.iter().map(|path| count_lines(path)).sum();
        let recovered = record.undelivered.saturating_sub(undelivered);
        let unheard = record.unheard.min(undelivered);
        let left = Record { undelivered, unheard, files, ..fates.count(&record, recovered) };
        let _ = left.write_to(&path);
    }
}

/// The files of a record, as far as they are there: the folder may have been moved.
fn own_files(folder: &Path, record: &Record) -> Vec<PathBuf> {
    let names: HashSet<&OsStr> = record.files.iter().filter_map(|file| file.file_name()).collect();
    spill_files_in(folder)
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| names.contains(name)))
        .collect()
}

/// In a spool records of which nothing is left go, and a folder when it is empty.
pub(super) fn leave(folder: &Path) {
    if !is_in_spool(folder) {
        return;
    }
    if spill_files_in(folder).is_empty() && !folder.join(DAMAGED).exists() {
        for Found { path, record, .. } in Found::all_in(folder) {
            if record.is_clean() {
                if !shares_artifacts(folder, &record) {
                    record.keep_beside_artifacts();
                }
                let _ = fs::remove_file(path);
            }
        }
    }
    if fs::remove_dir(folder).is_err() {
        remove_scraps(folder);
    }
}

/// Has another run of this ident something in the spool, too? Then the artifacts have events of both, and what is said
/// beside them would be taken to be about all of them.
fn shares_artifacts(folder: &Path, record: &Record) -> bool {
    fn ident_of(folder: &Path) -> Option<&str> {
        Some(folder.file_name()?.to_str()?.rsplit_once('-')?.0)
    }
    let siblings = folder.parent().and_then(|spool| fs::read_dir(spool).ok()).into_iter().flatten();
    siblings.flatten().map(|entry| entry.path()).any(|other| {
        other != folder
            && ident_of(&other) == ident_of(folder)
            && Found::all_in(&other).iter().any(|found| found.record.artifact_dir == record.artifact_dir)
    })
}

/// Whoever was killed while he replaced a file of ours has left a hidden one: where nothing else is, it has had its use.
fn remove_scraps(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // A file that says how far another was sent is hidden itself.
    let is_scrap = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with('.') && name.trim_start_matches('.').starts_with("nats-")
    };
    if paths.iter().all(is_scrap) {
        for path in paths {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir(folder);
    }
}

/// Is it the folder of a run in a spool, and no artifact directory? Those have files of ansible-runner's own, also where
/// they were copied to another place.
pub(super) fn is_in_spool(folder: &Path) -> bool {
    const OF_ANSIBLE_RUNNER: [&str; 6] = ["job_events", "command", "stdout", "stderr", "rc", "status"];
    OF_ANSIBLE_RUNNER.iter().all(|name| fs::symlink_metadata(folder.join(name)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_has_left_keeps_no_folder_of_a_spool() {
        let spool = tempfile::tempdir().unwrap();
        let folder = spool.path().join("r-0123");
        let scraps = [".nats-run.json.0123456789abcdef", "..nats-undelivered.jsonl.sent.0123456789abcdef"];
        for (more, is_gone) in [(None, true), (Some("nats-undelivered.jsonl"), false), (Some(".else"), false)]
        {
            fs::create_dir(&folder).unwrap();
            scraps.iter().copied().chain(more).for_each(|name| fs::write(folder.join(name), "x\n").unwrap());
            leave(&folder);
            assert_eq!(!folder.exists(), is_gone, "{more:?}");
            assert!(is_gone || fs::read_dir(&folder).unwrap().count() == scraps.len() + 1);
            let _ = fs::remove_dir_all(&folder);
        }
    }
}
