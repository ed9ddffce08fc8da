//! The record of a run, `nats-run.json` beside its spill files: what became of its messages.
//!
//! The background writes it at the run's first message, and the end of the run writes it anew. A monitor reads it,
//! `replay` goes by it, and `report()` in Python returns the same. As long as the run goes on the file is locked
//! (`flock`): a free lock and the state `running` mean a run that was killed.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::process;
use crate::{
    files::{self, Use},
    message::{self, RunId, Template, moment, to_millis},
    report::{Level, Notice},
};

/// What the file is called; `nats-run.1.json` and so on where an earlier run of that ident has left something.
const STEM: &str = "nats-run";

/// The version of the format.
const VERSION: u32 = 2;

/// What became of a run's messages. Every accepted one is confirmed, undelivered, unproven or lost in the end.
///
/// What an older version did not write has a default; what a newer one writes in addition is left aside.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Of this format (2).
    pub(crate) version: u32,
    /// Of this package.
    pub(crate) plugin: String,
    /// Whose run it is.
    pub(crate) subject_id: String,
    /// The run.
    pub(crate) runner_ident: String,
    /// What tells it from other runs of that ident: the header `Ansible-Runner-Run`.
    pub(crate) run_id: Option<RunId>,
    /// Does it go on?
    pub(crate) state: RunState,
    /// The process that publishes it.
    pub(crate) pid: u32,
    /// The host where that is.
    pub(crate) host: String,
    /// The namespace that `pid` is of, where there is such a thing.
    pub(crate) pid_namespace: Option<String>,
    /// When its first message came (RFC 3339).
    pub(crate) started: String,
    /// When it ended.
    pub(crate) ended: Option<String>,
    /// Where its messages were to go.
    pub(crate) destination: Destination,
    /// ansible-runner's artifact directory, which has all events.
    pub(crate) artifact_dir: Option<PathBuf>,
    /// Name and address of the last server.
    pub(crate) server: Option<String>,
    /// What confirmed its messages: `jetstream`, `core` or `none`.
    pub(crate) delivery: Delivery,
    /// Who runs what where: the header `Ansible-Runner-Card` of its first status.
    pub(crate) card: Option<Map<String, Value>>,
    /// Messages taken from ansible-runner.
    pub(crate) accepted: u64,
    /// Confirmed by a stream or by the server's echo.
    pub(crate) confirmed: u64,
    /// Of these, by a stream: they are stored.
    pub(crate) stored: u64,
    /// Of these, by the server's echo: they were routed to whoever subscribed.
    pub(crate) routed: u64,
    /// Sent once more (not a fate of its own).
    pub(crate) resent: u64,
    /// Kept in `files`.
    pub(crate) undelivered: u64,
    /// Of these, what nobody had heard when it was tried last: neither a stream nor a subscriber. (While the run goes
    /// on: what waits because of that.)
    pub(crate) unheard: u64,
    /// Sent to a server that forbids us to ask for a confirmation.
    pub(crate) unproven: u64,
    /// Lost, and said.
    pub(crate) lost: u64,
    /// Sent later, by another run or by `replay`; they count as confirmed, too.
    pub(crate) recovered: u64,
    /// Counters of events that are neither confirmed nor in a file: ranges, both ends included.
    pub(crate) unconfirmed_counters: Vec<(u64, u64)>,
    /// The files that hold what is undelivered.
    pub(crate) files: Vec<PathBuf>,
    /// The streams that have stored its messages, and how far.
    pub(crate) streams: Vec<Acknowledged>,
    /// What went wrong last.
    pub(crate) problem: Option<String>,
    /// Seconds that the end of the run waited.
    pub(crate) waited: f64,
}

/// A stream that has stored messages of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Acknowledged {
    /// The stream's name.
    pub(crate) name: String,
    /// When it was made, as the server writes it; `None`: nobody was allowed to ask, or had the time.
    pub(crate) created: Option<String>,
    /// The highest number that it has acknowledged.
    pub(crate) last_sequence: u64,
    /// Its numbers went back while the run went on: it has lost what it had acknowledged.
    pub(crate) went_back: bool,
}

/// Where messages are to go, without secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Destination {
    /// Addresses of the servers.
    pub(crate) servers: Vec<String>,
    /// Who publishes, if somebody in particular.
    pub(crate) login: Option<String>,
}

/// Does a run go on?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunState {
    /// It does, or it was killed.
    #[default]
    Running,
    /// It ended by itself.
    Ended,
    /// It was killed, and what it left has been taken up.
    Killed,
}

/// What confirmed a run's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Delivery {
    /// A stream's acknowledgement (some may have been confirmed by echo).
    Jetstream,
    /// The server's echo.
    Core,
    /// Nothing so far.
    #[default]
    None,
}

impl Record {
    /// Is there nothing left to do for this run?
    pub(crate) fn is_clean(&self) -> bool {
        self.state != RunState::Running
            && self.undelivered + self.lost + self.unproven == 0
            && self.unconfirmed_counters.is_empty()
    }

    /// Nothing of the run is left in a spool: its record goes to its artifacts, if they are there. By it `replay` finds what
    /// a stream loses later. (Without a spool it has been there all the time.)
    pub(crate) fn keep_beside_artifacts(&self) {
        let Some(folder) = self.artifact_dir.as_deref() else { return };
        let about = fs::symlink_metadata(folder);
        if about.is_ok_and(|about| about.is_dir() && files::is_ours(&about)) {
            let _ = self.write_to(&free_name(folder));
        }
    }

    /// Writes it in the place of another one.
    pub(crate) fn write_to(&self, path: &Path) -> io::Result<()> {
        write(path, self, false).map(drop)
    }

    /// The line at the end of a run: a warning if anything was not confirmed.
    pub(crate) fn notice(&self) -> Notice {
        let level =
            if self.undelivered + self.lost + self.unproven > 0 { Level::Warning } else { Level::Info };
        Notice::new(level, self.to_string())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}: {} messages confirmed", self.runner_ident, self.confirmed)?;
        match &self.server {
            Some(server) => write!(f, " by {server}")?,
            None => write!(f, ", never connected")?,
        }
        match (self.stored, self.confirmed.saturating_sub(self.stored)) {
            (0, 0) => {}
            (_, 0) => write!(f, " (jetstream)")?,
            (0, _) => write!(f, " (core)")?,
            (stored, routed) => write!(f, " ({stored} jetstream, {routed} core)")?,
        }
        if self.unproven > 0 {
            write!(f, ", {} sent without confirmation", self.unproven)?;
        }
        if self.resent > 0 {
            write!(f, ", {} sent again", self.resent)?;
        }
        if self.undelivered > 0 {
            write!(f, ", {} kept in", self.undelivered)?;
            for file in &self.files {
                write!(f, " {}", file.display())?;
            }
            if self.files.iter().any(|file| is_temporary(file)) {
                write!(
                    f,
                    " (a temporary folder: `ansible-runner worker` sends it to its processor with the artifacts; with \
                     spill_dir it stays here)"
                )?;
            }
            if self.unheard > 0 {
                write!(f, ", {} of them because nobody listens and no stream takes them", self.unheard)?;
            }
        }
        if self.lost > 0 {
            write!(f, ", {} LOST", self.lost)?;
        }
        write!(f, "; waited {:.1} ms", self.waited * 1e3)
    }
}

/// Is a file in a folder that Python's `tempfile` made? Such is the private data directory of `ansible-runner worker`.
fn is_temporary(file: &Path) -> bool {
    let inside = file.strip_prefix(std::env::temp_dir()).ok();
    let folder = inside.and_then(|inside| inside.iter().next());
    folder.and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("tmp"))
}

/// What a run is, from its first message on.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// What tells it from all others.
    pub(crate) run: Option<RunId>,
    /// Whose run it is.
    pub(crate) subject_id: String,
    /// What the user knows it by.
    pub(crate) ident: String,
    /// Where its messages are to go.
    pub(crate) destination: Destination,
    /// To which subjects.
    pub(crate) template: Template,
    started: SystemTime,
    /// Who runs what where.
    card: Option<Map<String, Value>>,
}

impl Identity {
    /// A run that begins now.
    pub(crate) fn new(
        run: RunId,
        started: SystemTime,
        subject_id: &str,
        ident: &str,
        destination: Destination,
        template: Template,
    ) -> Self {
        Self {
            run: Some(run),
            template,
            subject_id: subject_id.to_owned(),
            ident: ident.to_owned(),
            destination,
            started,
            card: None,
        }
    }

    /// The same, and who runs what where.
    pub(crate) fn with_card(self, card: Option<Map<String, Value>>) -> Self {
        Self { card, ..self }
    }

    /// Somebody else's messages, sent by us.
    pub(crate) fn of_others(name: &str) -> Self {
        Self {
            run: None,
            template: Template::default(),
            subject_id: String::new(),
            ident: name.to_owned(),
            destination: Destination::default(),
            started: SystemTime::now(),
            card: None,
        }
    }

    /// The record of this run before anything has happened to it.
    pub(crate) fn record(&self) -> Record {
        Record {
            version: VERSION,
            plugin: env!("PACKAGE_VERSION").to_owned(),
            subject_id: self.subject_id.clone(),
            runner_ident: self.ident.clone(),
            run_id: self.run,
            state: RunState::Running,
            pid: std::process::id(),
            host: host(),
            pid_namespace: process::namespace(),
            card: self.card.clone(),
            started: to_millis(self.started),
            destination: self.destination.clone(),
            ..Record::default()
        }
    }
}

/// Did a stream store all messages of an earlier run of this project's jobs that went where these go? Then it does not
/// matter that nothing answers just now: there is a stream. Looked for beside a run's artifacts, in a few folders.
pub(crate) fn earlier_was_stored(artifacts: &Path, identity: &Identity) -> bool {
    const MOST: usize = 16;
    let siblings = artifacts.parent().and_then(|parent| fs::read_dir(parent).ok());
    let siblings = siblings.into_iter().flatten().flatten().map(|entry| entry.path()).take(MOST);
    std::iter::once(artifacts.to_owned()).chain(siblings).any(|folder| {
        Found::read(&folder.join(format!("{STEM}.json"))).is_some_and(|found| {
            let record = &found.record;
            record.destination == identity.destination
                && record.subject_id == identity.subject_id
                && record.stored > 0
                && record.stored == record.confirmed
        })
    })
}

/// This host's name.
pub(crate) fn host() -> String {
    hostname::get().unwrap_or_default().to_string_lossy().into_owned()
}

/// Numbers as few ranges, both ends included.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Numbers mostly come in their order. Beyond a thousand ranges the last one grows instead: better one too many
    /// than one too few.
    pub(crate) fn add(&mut self, number: u64) {
        const MOST: usize = 1_000;
        let at = self.0.partition_point(|(from, _)| *from <= number);
        let before = at.checked_sub(1).and_then(|before| self.0.get_mut(before));
        if let Some((_, to)) = before {
            if number <= to.saturating_add(1) {
                *to = number.max(*to);
                let to = *to;
                self.join(at, to);
                return;
            }
            if self.0.len() >= MOST {
                if let Some((_, to)) = self.0.get_mut(at - 1) {
                    *to = number;
                }
                return;
            }
        }
        self.0.insert(at, (number, number));
        self.join(at + 1, number);
    }

    /// The range that begins at index `at` joins the one before it, if that reaches it.
    fn join(&mut self, at: usize, reach: u64) {
        if let Some((from, to)) = self.0.get(at).copied()
            && from <= reach.saturating_add(1)
            && let Some((_, end)) = at.checked_sub(1).and_then(|before| self.0.get_mut(before))
        {
            *end = to.max(*end);
            self.0.remove(at);
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<(u64, u64)> {
        self.0.clone()
    }
}

/// A record on disk, locked as long as its run goes on.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    /// Holds the lock.
    _locked: Option<File>,
}

impl RecordFile {
    /// Makes the file of a run that begins.
    pub(crate) fn create(folder: &Path, record: &Record) -> io::Result<Self> {
        let path = free_name(folder);
        let locked = write(&path, record, true)?;
        Ok(Self { path, _locked: Some(locked) })
    }

    /// The run has ended: the file says so, and is not locked any more.
    pub(crate) fn finish(self, record: &Record) -> io::Result<()> {
        record.write_to(&self.path)
    }

    /// The file has had its use.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// The first name that nobody needs any more: what another run has left undelivered stays known.
fn free_name(folder: &Path) -> PathBuf {
    const NUMBERED: u32 = 100;
    // A run's own folder may be a link: somebody has made it for this.
    let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    for number in 0..NUMBERED {
        let name = if number == 0 { format!("{STEM}.json") } else { format!("{STEM}.{number}.json") };
        let path = folder.join(name);
        match Found::read(&path) {
            Some(found) if found.record.is_clean() => return path,
            // Nobody knows what a damaged one meant, or what one of a newer version means.
            None if fs::symlink_metadata(&path).is_err() => return path,
            _ => {}
        }
    }
    folder.join(format!("{STEM}.{}.json", message::nonce()))
}

/// Writes it whole beside its place, and puts it there.
fn write(path: &Path, record: &Record, locked: bool) -> io::Result<File> {
    let mut json = serde_json::to_vec_pretty(record)?;
    json.push(b'\n');
    files::replace(path, &json, |file| {
        if locked {
            // Not all file systems can.
            let _ = file.try_lock();
        }
    })
}

/// A record that was found on disk.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) record: Record,
    /// Somebody holds the lock.
    is_locked: bool,
}

impl Found {
    /// The record in this file; `None` if it is none.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        /// A record has about a kilobyte.
        const MOST: u64 = 1 << 20;
        let file = files::open(path, Use::Read).ok()?;
        // Shared: whoever else looks at the same time must not take us for the run.
        let is_locked = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        let record: Record = serde_json::from_slice(&files::read_open(&file, MOST).ok()?).ok()?;
        // What a newer version means by it is not known.
        (record.version <= VERSION).then_some(())?;
        Some(Self { path: path.to_owned(), record, is_locked })
    }

    /// A run begins whose record is elsewhere: what a folder's records say of earlier runs, of which nothing is left, would
    /// be taken for what this one says there.
    pub(crate) fn forget_clean(folder: &Path) {
        for found in Self::all_in(folder).into_iter().filter(|found| found.record.is_clean()) {
            let _ = fs::remove_file(found.path);
        }
    }

    /// All records of a folder, in the order of their names.
    pub(crate) fn all_in(folder: &Path) -> Vec<Self> {
        Self::paths_in(folder).iter().filter_map(|path| Self::read(path)).collect()
    }

    /// A record of a folder that cannot be read: damaged, somebody else's, or of a newer version.
    pub(crate) fn unread_in(folder: &Path) -> Option<PathBuf> {
        Self::paths_in(folder).into_iter().find(|path| Self::read(path).is_none())
    }

    fn paths_in(folder: &Path) -> Vec<PathBuf> {
        let is_record = |name: &str| {
            name.strip_prefix(STEM)
                .and_then(|rest| rest.strip_suffix(".json"))
                .is_some_and(|number| number.is_empty() || number.starts_with('.'))
        };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_record))
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    }

    /// Does the run go on? Its lock may outlive it in a process that was forked meanwhile; and not every file system has
    /// locks.
    pub(crate) fn is_running(&self) -> bool {
        let Record { state, pid, host: theirs, pid_namespace, started, .. } = &self.record;
        if *state != RunState::Running {
            return false;
        }
        let is_here = *theirs == host() && *pid_namespace == process::namespace() && process::are_seen();
        if self.is_locked {
            return !is_here || process::exists(*pid);
        }
        let started = moment(started).map(|(_, started)| started);
        is_here && started.is_some_and(|started| process::was_there(*pid, started))
    }

    /// Was it killed?
    pub(crate) fn is_killed(&self) -> bool {
        self.record.state == RunState::Running && !self.is_running()
    }
}

/// How long an end of a run waited, in seconds and to the microsecond.
pub(crate) fn in_seconds(waited: Duration) -> f64 {
    (waited.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let (run, now) = (RunId::of_artifacts("site.run 1", ""), SystemTime::UNIX_EPOCH);
        Identity::new(run, now, "site", "run 1", Destination::default(), Template::default()).record()
    }

    #[test]
    fn numbers_become_ranges() {
        let ranges = |numbers: &[u64]| {
            let mut ranges = Ranges::default();
            for number in numbers {
                ranges.add(*number);
            }
            ranges.to_vec()
        };
        assert_eq!(ranges(&[1, 2, 3, 7, 8, 5]), [(1, 3), (5, 5), (7, 8)]);
        assert_eq!(ranges(&[3, 1, 2, 2, 9, 4]), [(1, 4), (9, 9)]);
        assert_eq!(ranges(&[u64::MAX, 0, u64::MAX - 1]), [(0, 0), (u64::MAX - 1, u64::MAX)]);
        let sparse: Vec<u64> = (0..5_000).map(|number| number * 3).collect();
        let ranges = ranges(&sparse);
        assert!(ranges.len() <= 1_000 && ranges.last().unwrap().1 == 14_997);
    }

    #[test]
    fn a_record_comes_back_and_its_lock_says_whether_the_run_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::create(dir.path(), &record()).unwrap();
        let found = &Found::all_in(dir.path())[0];
        assert_eq!(found.record, record_like(&found.record));
        assert!(found.is_running());
        // Killed: the lock is free.
        drop(file);
        assert!(!Found::all_in(dir.path())[0].is_running());
        let next = RecordFile::create(dir.path(), &record()).unwrap();
        assert_eq!(Found::all_in(dir.path()).len(), 2, "what a killed run has left must stay known");
        let ended = Record { state: RunState::Ended, ..record() };
        next.finish(&ended).unwrap();
        assert!(Found::all_in(dir.path()).iter().all(|found| !found.is_running()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_process_of_another_container_is_not_gone_because_it_cannot_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::create(dir.path(), &record()).unwrap();
        let is_running = |pid: u32, namespace: Option<&str>| {
            let pid_namespace = namespace.map(ToOwned::to_owned);
            let said = Record { pid, pid_namespace, ..record() };
            // In its place: it stays locked.
            fs::write(&file.path, serde_json::to_vec(&said).unwrap()).unwrap();
            Found::all_in(dir.path())[0].is_running()
        };
        let here = process::namespace();
        assert!(is_running(u32::MAX, Some("pid:[1]")) && is_running(u32::MAX, None));
        // Its lock outlives it in a process that it has forked.
        assert!(!is_running(u32::MAX, here.as_deref()));
        assert!(is_running(std::process::id(), here.as_deref()));
    }

    fn record_like(found: &Record) -> Record {
        Record { started: found.started.clone(), ..record() }
    }

    #[test]
    fn a_clean_record_makes_room_and_another_does_not() {
        let dir = tempfile::tempdir().unwrap();
        for (lost, expected) in [(0, 1), (0, 1), (3, 1), (0, 2)] {
            let file = RecordFile::create(dir.path(), &record()).unwrap();
            file.finish(&Record { state: RunState::Ended, lost, ..record() }).unwrap();
            assert_eq!(Found::all_in(dir.path()).len(), expected);
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(to_millis(time), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn the_last_line_is_a_warning_if_anything_is_unproven() {
        let good = Record {
            confirmed: 3,
            server: Some("n1".to_owned()),
            waited: 0.0015,
            state: RunState::Ended,
            ..record()
        };
        assert_eq!(good.notice().level, Level::Info);
        assert_eq!(good.to_string(), "run run 1: 3 messages confirmed by n1 (core); waited 1.5 ms");
        assert!(good.is_clean());
        let bad = Record { undelivered: 2, lost: 1, files: vec!["/a/b".into()], ..good };
        assert_eq!(bad.notice().level, Level::Warning);
        assert!(bad.to_string().contains(", 2 kept in /a/b, 1 LOST;"));
        assert!(!bad.is_clean());
    }
}
