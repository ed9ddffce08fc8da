//! What earlier runs have left in the spool (option `spill_dir`): sent behind live messages, confirmed like them, and
//! removed.
//!
//! A file is read in small batches, the next one when all of the last one is confirmed; how far it is stands in a file
//! beside it. Whoever is killed meanwhile leaves the file to the next courier, which repeats one batch at most. A file
//! belongs to whoever holds its lock. It is taken only by a process of the same host (a spool may be shared storage)
//! that publishes to the same servers as the run did.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    folder::Folder,
    record::{Destination, Found, Record, host},
    run::Run,
    spill,
};
use crate::message::Message;

/// Bytes of lines that are sent at once: what a live message may have to wait for.
const BATCH: u64 = 128 << 10;

/// A file of the spool that is being sent.
#[derive(Debug)]
pub(super) struct Backlog {
    /// What counts the messages; not one that ansible-runner knows.
    run: Arc<Run>,
    path: PathBuf,
    reader: BufReader<File>,
    /// Up to here all is confirmed, or kept elsewhere.
    done: u64,
    /// Up to here it was read.
    read: u64,
}

impl Backlog {
    /// The next file of the spool that nobody else has, but for those that are `known` to hold what no server takes.
    pub(super) fn claim(spool: &Path, destination: &Destination, known: &HashSet<PathBuf>) -> Option<Self> {
        let mut folders: Vec<PathBuf> =
            fs::read_dir(spool).ok()?.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        folders.iter().filter(|folder| is_ours(folder, destination)).find_map(|folder| {
            spill::files_in(folder).into_iter().filter(|path| !known.contains(path)).find_map(Self::open)
        })
    }

    fn open(path: PathBuf) -> Option<Self> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        // Without a lock (some file systems have none) two could send it.
        file.try_lock().ok()?;
        let done = fs::read_to_string(progress_of(&path)).ok().and_then(|text| text.trim().parse().ok());
        let done = done.unwrap_or(0).min(file.metadata().ok()?.len());
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(done)).ok()?;
        let name = path.display().to_string();
        let run = Run::unrecorded(&name, Folder::of(path.parent().map(Path::to_owned)), Duration::ZERO);
        Some(Self { run, path, reader, done, read: done })
    }

    pub(super) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The next messages, if all before them are confirmed (or were refused for good, and are kept in a file of their
    /// own). `None`: there are no more.
    pub(super) fn next(&mut self) -> Option<Vec<Message>> {
        if self.run.queued.load(Relaxed) > 0 {
            return Some(Vec::new());
        }
        if self.read > self.done {
            self.done = self.read;
            // If it cannot be written some will be repeated, no more.
            let _ = fs::write(progress_of(&self.path), self.done.to_string());
        }
        let mut messages = Vec::new();
        while messages.is_empty() || self.read - self.done < BATCH {
            let mut line = Vec::new();
            match (&mut self.reader).take(u64::MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(length) => self.read += length as u64,
            }
            // What is no message is nobody's loss; the record's count says that it was there.
            messages.extend(Message::from_line(&line).filter(Message::is_sendable));
        }
        (!messages.is_empty()).then_some(messages)
    }

    /// All of it was sent: the file goes, and with it the run's folder if nothing else is left of the run. Returns what
    /// no server takes, which stays.
    pub(super) fn finish(self) -> Vec<PathBuf> {
        let leftovers = self.run.spill().close().1.files;
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(progress_of(&self.path));
        if let Some(folder) = self.path.parent() {
            settle(folder);
        }
        leftovers
    }
}

/// Nothing of these runs goes on; they are this host's, and went where we go.
fn is_ours(folder: &Path, destination: &Destination) -> bool {
    let found = Found::all_in(folder);
    let ours = |found: &Found| {
        !found.is_running() && found.record.host == host() && found.record.destination == *destination
    };
    !found.is_empty() && found.iter().all(ours)
}

/// The record says what is left of its run; one of which nothing is left goes, and so does the folder.
fn settle(folder: &Path) {
    let files = spill::files_in(folder);
    let undelivered = files.iter().map(|path| spill::count_lines(path)).sum();
    for Found { path, record, .. } in Found::all_in(folder) {
        let left = Record { files: files.clone(), undelivered, ..record };
        let _ = if left.is_clean() { fs::remove_file(path) } else { left.write_to(&path) };
    }
    let _ = fs::remove_dir(folder);
}

/// Where it stands how far a file was sent.
fn progress_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.sent"))
}
