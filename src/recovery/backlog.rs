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
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    records::{Sent, leave, settle},
    site::Site,
};
use crate::{
    error::Error,
    files::{self, Use},
    journal::{
        DAMAGED, Destination, Folder, Found, forget_progress, is_still, note_progress, progress,
        spill_files_in,
    },
    message::Message,
    outbox::Run,
};

/// Bytes of lines that are sent at once: what a live message may have to wait for.
const BATCH: u64 = 128 << 10;

/// So long somebody may take to hear what is sent, before another file has its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// A longer line is not read: no message that a server takes is written as one.
const LONGEST: u64 = 128 << 20;

/// What comes next of a file.
#[derive(Debug)]
pub(super) enum Next {
    /// These, if any: the last ones may not be confirmed yet. An error is about what was among them and is none.
    Messages(Vec<Message>, Option<Error>),
    /// There are no more.
    End(Option<Error>),
    /// Nothing, though there is more: it is not for us to send, or nobody knows how.
    Stuck(Error),
}

/// A file of the spool that is being sent.
#[derive(Debug)]
pub(super) struct Backlog {
    /// What counts the messages; not one that ansible-runner knows.
    run: Arc<Run>,
    path: PathBuf,
    site: Site,
    reader: BufReader<File>,
    /// Up to here all is confirmed, or kept elsewhere.
    done: u64,
    /// Up to here it was read.
    read: u64,
    /// When the last messages were handed over.
    handed_over: Instant,
}

impl Backlog {
    /// The next file of the spool that nobody else has, but for those that are known to hold what no server takes, or what
    /// nobody hears.
    pub(super) fn claim(
        site: &Site,
        destination: &Destination,
        refused: &HashSet<PathBuf>,
        unheard: &HashSet<PathBuf>,
    ) -> Option<Self> {
        site.folders().iter().filter(|folder| is_for_files(folder, destination, site)).find_map(|folder| {
            let files = spill_files_in(folder);
            if files.is_empty() {
                // Somebody was killed before he had removed it.
                leave(folder);
            }
            files
                .into_iter()
                .filter(|path| !refused.contains(path) && !unheard.contains(path))
                .find_map(|path| Self::open(path, site))
        })
    }

    fn open(path: PathBuf, site: &Site) -> Option<Self> {
        let file = files::open(&path, Use::Take).ok()?;
        // Without a lock (some file systems have none) two could send it.
        file.try_lock().ok()?;
        if !is_still(&path, &file) {
            return None;
        }
        let done = progress(&path, &file);
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(done)).ok()?;
        let name = path.display().to_string();
        let run = Run::unrecorded(&name, Folder::of(path.parent().map(Path::to_owned)), Duration::ZERO);
        let site = site.clone();
        Some(Self { run, path, site, reader, done, read: done, handed_over: Instant::now() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The next messages, if all before them are confirmed (or were refused for good, and are kept in a file of their
    /// own).
    pub(super) fn next(&mut self) -> Next {
        if self.run.queued() > 0 {
            return Next::Messages(Vec::new(), None);
        }
        if self.read > self.done {
            self.done = self.read;
            self.note_progress();
        }
        let mut messages = Vec::new();
        let mut damaged = 0;
        while messages.is_empty() || self.read - self.done < BATCH {
            let mut line = Vec::new();
            match (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(length) if length as u64 == LONGEST && !line.ends_with(b"\n") => {
                    return self.stuck(messages, "a line of more than 128 MiB is in it: no message");
                }
                Ok(length) => {
                    match Message::from_line(&line).filter(Message::is_sendable) {
                        Some(message) if self.site.makes(&message.head.subject) => messages.push(message),
                        Some(_) => return self.stuck(messages, NOT_OURS),
                        None if line.trim_ascii().is_empty() => {}
                        None if self.keep_damaged(&line).is_ok() => damaged += 1,
                        None => {
                            return self
                                .stuck(messages, "a line in it is no message, and cannot be kept elsewhere");
                        }
                    }
                    self.read += length as u64;
                }
                Err(error) => return self.stuck(messages, &format!("cannot be read: {error}")),
            }
        }
        let reason = || format!("{damaged} lines are no messages; they are kept in {DAMAGED} beside it");
        let error = (damaged > 0).then(|| Error::LeftBehind { path: self.path.clone(), reason: reason() });
        if messages.is_empty() {
            return Next::End(error);
        }
        self.handed_over = Instant::now();
        Next::Messages(messages, error)
    }

    /// There is something that we do not send: what is before it goes first.
    fn stuck(&mut self, messages: Vec<Message>, reason: &str) -> Next {
        if messages.is_empty() {
            return Next::Stuck(Error::LeftBehind { path: self.path.clone(), reason: reason.to_owned() });
        }
        // Where the next look begins.
        let _ = self.reader.seek(SeekFrom::Start(self.read));
        self.handed_over = Instant::now();
        Next::Messages(messages, None)
    }

    /// A line that is no message stays: somebody may know what it was.
    fn keep_damaged(&self, line: &[u8]) -> io::Result<()> {
        let mut file = files::open(&self.path.with_file_name(DAMAGED), Use::Append)?;
        file.write_all(line)?;
        if line.ends_with(b"\n") { Ok(()) } else { file.write_all(b"\n") }
    }

    /// If it cannot be written some will be repeated, no more.
    fn note_progress(&self) {
        if self.done > 0 {
            let _ = note_progress(&self.path, self.reader.get_ref(), self.done);
        }
    }

    /// Somebody may hear the last messages from now on: they get their time once more.
    pub(super) fn renew_patience(&mut self) {
        self.handed_over = Instant::now();
    }

    /// Has nobody heard the last messages, for as long as it takes to try some times?
    pub(super) fn is_unheard(&self) -> bool {
        self.run.is_unheard() && self.handed_over.elapsed() > PATIENCE
    }

    /// All of it was sent: the file goes, and with it the run's folder in a spool if nothing else is left of the run.
    /// Returns what stays (what no server takes, or a file that cannot be removed), and why.
    pub(super) fn finish(self) -> (Vec<PathBuf>, Option<Error>) {
        let Self { run, path, reader, read, .. } = self;
        let mut left = run.spill().close().1.files;
        let folder = path.parent().unwrap_or(Path::new("."));
        // Whoever is killed in the midst of this leaves something that the next one brings to its end: first it is known
        // that all of it was sent, then the record says so, then the file goes, and what is left of the run last.
        let _ = note_progress(&path, reader.get_ref(), read);
        settle(folder, &path, &left, &Sent::of(&run));
        let error = fs::remove_file(&path).err().map(|error| {
            let reason = format!("all of it was sent, and it cannot be removed: {error}");
            left.push(path.clone());
            Error::LeftBehind { path: path.clone(), reason }
        });
        if error.is_none() {
            forget_progress(&path);
            leave(folder);
        }
        (left, error)
    }
}

/// A folder whose files are to be sent as they are: of a run that was killed more may be missing than what is in files.
fn is_for_files(folder: &Path, destination: &Destination, site: &Site) -> bool {
    let found = site.records(folder, destination);
    found.is_some_and(|found| !found.iter().any(Found::is_killed))
}

/// What a folder's messages are to which none of our runs publishes.
const NOT_OURS: &str = "a message in it is for a subject that no run here could have made; it stays (the option `subject`, or the \
                        subject id, was another one then: `ansible-runner-nats replay` sends it)";
