//! What is to be sent of a run, and why: by its record, its spill files and its artifacts.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    lines::{Span, SpillFile},
    recorded::{Recorded, StatusKind},
};
use crate::{
    config::Config,
    files::Guarded,
    message::{self, Composer, Message},
    outbox::{Found, Record, RunState, spill_files_in},
};

/// What becomes of a folder.
pub(super) enum Decision {
    /// There is something to send.
    Send(Box<Plan>),
    /// Nothing is missing.
    Nothing(String),
    /// It is not for us to say what is missing.
    LeftAlone(String),
}

/// A run of which something may be missing.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the user calls it.
    pub(super) path: PathBuf,
    pub(super) why: String,
    records: Vec<Found>,
    pub(super) files: Vec<SpillFile>,
    artifacts: Option<(Recorded, Wanted)>,
    /// The messages in the order of sending.
    pub(super) items: Vec<Item>,
    /// What could not be read.
    pub(super) bad: Vec<String>,
}

/// What of the artifacts is missing.
#[derive(Debug)]
enum Wanted {
    All,
    /// Events in these ranges, and statuses.
    Some(Vec<(u64, u64)>, bool),
}

/// A message that may have to be sent.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) subject: Arc<str>,
    pub(super) id: String,
    place: Place,
}

/// Where a message is.
#[derive(Debug)]
enum Place {
    /// In the spill file of this number.
    Line(usize, Span),
    /// In this event file.
    Event(PathBuf),
    Status(StatusKind, String, Map<String, Value>),
}

impl Plan {
    /// One spill file, whatever is around it.
    pub(super) fn of_file(path: &Path) -> Result<Self, String> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self {
            path: path.to_owned(),
            why: "a spill file".to_owned(),
            records: Found::all_in(folder),
            files: vec![SpillFile::open(path)?],
            artifacts: None,
            items: Vec::new(),
            bad: Vec::new(),
        })
    }

    /// The folder of a run: ansible-runner's artifact directory, or one in a spool. `named`: by the user himself; `all`:
    /// he wants everything to be in the stream, whatever the records say.
    pub(super) fn of_folder(folder: &Path, named: bool, all: bool) -> Result<Decision, String> {
        let job_events = folder.join("job_events");
        if job_events.is_symlink() {
            return Err(format!("{}: a link is not followed", job_events.display()));
        }
        if let Err(error) = Guarded::open(folder) {
            return Ok(Decision::LeftAlone(format!("{error}; whoever it belongs to can replay it")));
        }
        if let Some(record) = Found::unread_in(folder).filter(|_| !all) {
            return Err(format!(
                "{} cannot be read: it is damaged, of a newer version, or somebody else's; it is left alone (--all \
                 goes by what else is there)",
                record.display()
            ));
        }
        let records = Found::all_in(folder);
        if let Some(Found { record, .. }) = records.iter().find(|found| found.is_running()) {
            let Record { pid, host, .. } = record;
            return Ok(Decision::LeftAlone(format!("the run goes on (process {pid} on {host})")));
        }
        let spills = spill_files_in(folder);
        let elsewhere =
            records.iter().find_map(|found| Recorded::open(found.record.artifact_dir.as_deref()?));
        let artifacts = Recorded::open(folder).or(elsewhere);
        let is_killed = records.iter().any(|found| found.record.state == RunState::Running);
        let (wanted, why) = if is_killed {
            (Wanted::All, "the run was killed".to_owned())
        } else if records.is_empty() && spills.is_empty() && !named && !all {
            return Ok(Decision::LeftAlone(
                "there is no record of it (not published, or by an older version); name it, or use --all"
                    .to_owned(),
            ));
        } else if records.is_empty() && !(spills.is_empty() || named || all) {
            (Wanted::Some(Vec::new(), false), "undelivered messages".to_owned())
        } else if records.is_empty() || all {
            (Wanted::All, if all { "--all" } else { "no record says what is missing" }.to_owned())
        } else if spills.is_empty() && records.iter().all(|found| found.record.is_clean()) {
            let confirmed: u64 = records.iter().map(|found| found.record.confirmed).sum();
            return Ok(Decision::Nothing(format!("all {confirmed} messages were confirmed")));
        } else {
            let counters = records.iter().flat_map(|found| found.record.unconfirmed_counters.clone());
            let lost: u64 = records.iter().map(|found| found.record.lost + found.record.unproven).sum();
            let undelivered: u64 = records.iter().map(|found| found.record.undelivered).sum();
            (Wanted::Some(counters.collect(), lost > 0), format!("{undelivered} undelivered, {lost} lost"))
        };
        let files = spills.iter().map(|path| SpillFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Decision::Send(Box::new(Self {
            path: folder.to_owned(),
            why,
            records,
            files,
            artifacts: artifacts.map(|recorded| (recorded, wanted)),
            items: Vec::new(),
            bad: Vec::new(),
        })))
    }

    /// Whose run it is, as far as its record says.
    pub(super) fn subject_id(&self) -> Option<&str> {
        self.records.first().map(|found| found.record.subject_id.as_str()).filter(|id| !id.is_empty())
    }

    /// Must the subject id be known? A spill file has its subjects.
    pub(super) fn needs_subject_id(&self) -> bool {
        match &self.artifacts {
            None => false,
            Some((_, Wanted::All)) => true,
            Some((_, Wanted::Some(counters, statuses))) => *statuses || !counters.is_empty(),
        }
    }

    /// Finds out which messages there are: by counter, then the statuses.
    pub(super) fn list(&mut self, config: &Config) -> Result<(), String> {
        let mut lines: Vec<(u64, Item)> = Vec::new();
        for (number, file) in self.files.iter_mut().enumerate() {
            for (message, span) in file.messages().map_err(|error| error.to_string())? {
                let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                let counter = message::counter_of(&id).unwrap_or(u64::MAX);
                lines.push((counter, Item { subject, id, place: Place::Line(number, span) }));
            }
        }
        let mut items = if self.needs_subject_id() { self.recorded_items(config) } else { Vec::new() };
        if items.is_empty() {
            // In the order of the file: it is the run's.
            self.items = lines.into_iter().map(|(_, item)| item).collect();
            return Ok(());
        }
        // What is in a spill file has its live id.
        let known: HashSet<String> = lines.iter().map(|(_, item)| item.id.clone()).collect();
        let statuses = status_numbers(known.iter().map(String::as_str));
        items.retain(|(_, item)| !known.contains(&item.id) && !item.is_one_of(&statuses));
        items.extend(lines);
        items.sort_by_key(|(counter, _)| *counter);
        self.items = items.into_iter().map(|(_, item)| item).collect();
        Ok(())
    }

    /// What of the artifacts may be missing.
    fn recorded_items(&mut self, config: &Config) -> Vec<(u64, Item)> {
        let Some((recorded, wanted)) = &self.artifacts else { return Vec::new() };
        let is_wanted = |counter: u64| match wanted {
            Wanted::All => true,
            Wanted::Some(ranges, _) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&counter)),
        };
        let mut composer = config.composer();
        let mut items = Vec::new();
        for (counter, path) in recorded.events.iter().filter(|(counter, _)| is_wanted(*counter)) {
            match recorded.event(config, &mut composer, path) {
                Ok(Some(message)) => {
                    let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                    items.push((*counter, Item { subject, id, place: Place::Event(path.clone()) }));
                }
                Ok(None) => {}
                Err(reason) => self.bad.push(format!("{}: {reason}", path.display())),
            }
        }
        if matches!(wanted, Wanted::All | Wanted::Some(_, true)) {
            for (kind, name, data) in recorded.statuses() {
                let message = recorded.status(config, &mut composer, &name, data.clone());
                let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                items.push((u64::MAX, Item { subject, id, place: Place::Status(kind, name, data) }));
            }
        }
        items
    }

    /// The subjects of all messages.
    pub(super) fn subjects(&self) -> Vec<String> {
        let subjects: HashSet<&str> = self.items.iter().map(|item| &*item.subject).collect();
        subjects.into_iter().map(str::to_owned).collect()
    }

    /// Leaves out what the stream holds; says how many that are.
    pub(super) fn leave_out(&mut self, held: &HashSet<String>) -> usize {
        let before = self.items.len();
        let prefix = self.artifacts.as_ref().map(|(recorded, _)| format!(".{}.status.", recorded.ident));
        let of_run = |id: &&String| prefix.as_ref().is_some_and(|prefix| id.contains(prefix.as_str()));
        let statuses = status_numbers(held.iter().filter(of_run).map(String::as_str));
        self.items.retain(|item| !held.contains(&item.id) && !item.is_one_of(&statuses));
        before - self.items.len()
    }

    /// A message, read from where it is.
    pub(super) fn read(&self, item: &Item, config: &Config, composer: &mut Composer) -> Option<Message> {
        match (&item.place, &self.artifacts) {
            (Place::Line(number, span), _) => self.files.get(*number)?.read(*span),
            (Place::Event(path), Some((recorded, _))) => {
                recorded.event(config, composer, path).ok().flatten()
            }
            (Place::Status(_, name, data), Some((recorded, _))) => {
                Some(recorded.status(config, composer, name, data.clone()))
            }
            (_, None) => None,
        }
    }

    /// Lines that are no messages.
    pub(super) fn bad_lines(&self) -> u64 {
        self.files.iter().map(|file| file.bad).sum()
    }

    /// All was confirmed up to `sent` items, but for what is in the files `rest`: the spill files keep what is left, and
    /// the record says so. Returns how many messages and bad lines are left.
    pub(super) fn settle(&self, sent: usize, rest: &[PathBuf], unconfirmed: u64) -> Result<u64, String> {
        let unsent = self.items.get(sent..).unwrap_or_default();
        for (number, file) in self.files.iter().enumerate() {
            let spans: Vec<Span> = unsent.iter().filter_map(|item| item.line_of(number)).collect();
            let rest = if number == 0 { rest } else { &[] };
            file.shrink(rest, &spans).map_err(|error| error.to_string())?;
        }
        for path in rest {
            std::fs::remove_file(path).map_err(|error| error.to_string())?;
        }
        let left = unsent.len() as u64 + unconfirmed + self.bad_lines();
        if left == 0 {
            self.close_records();
        }
        Ok(left)
    }

    /// What was to be sent is confirmed: the record says what is missing now. In a spool nobody needs to know of a run
    /// of which nothing is.
    fn close_records(&self) {
        for Found { path, record, .. } in &self.records {
            let Some(folder) = path.parent() else { continue };
            let files = spill_files_in(folder);
            let mut left = Record {
                undelivered: if files.is_empty() { 0 } else { record.undelivered },
                files,
                ..record.clone()
            };
            if self.artifacts.is_some() && self.bad.is_empty() {
                left = Record {
                    state: RunState::Ended,
                    unproven: 0,
                    lost: 0,
                    unconfirmed_counters: Vec::new(),
                    confirmed: record.accepted.max(record.confirmed),
                    ..left
                };
            }
            let in_spool =
                !record.artifact_dir.as_deref().is_some_and(|artifacts| are_one(artifacts, folder));
            let _ =
                if in_spool && left.is_clean() { std::fs::remove_file(path) } else { left.write_to(path) };
            if in_spool {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

/// Do two paths name one folder? What is given on the command line may be relative.
fn are_one(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

impl Item {
    fn line_of(&self, file: usize) -> Option<Span> {
        match self.place {
            Place::Line(number, span) if number == file => Some(span),
            _ => None,
        }
    }

    /// Is it a status that is there already, with the id that only the live run knew?
    fn is_one_of(&self, numbers: &HashSet<u64>) -> bool {
        matches!(&self.place, Place::Status(kind, ..) if numbers.contains(&(*kind as u64)))
    }
}

/// Which statuses of a run are among these ids: `….status.NONCE.NUMBER`.
fn status_numbers<'a>(ids: impl Iterator<Item = &'a str>) -> HashSet<u64> {
    ids.filter_map(|id| {
        let mut parts = id.rsplit('.');
        let (number, nonce, kind) = (parts.next()?, parts.next()?, parts.next()?);
        (kind == "status" && nonce.len() == 16).then(|| number.parse().ok()).flatten()
    })
    .collect()
}
