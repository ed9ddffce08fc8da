//! What is to be sent of a run, and why: by its record, its spill files and its artifacts.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Map, Value};

use super::{
    artifacts::{self, Filed, Given, Kept, Recorded, StatusKind, composer_of},
    records::{Sent, leave},
    spill_file::{Span, SpillFile},
};
use crate::{
    config::Config,
    files::Guarded,
    journal::{Acknowledged, Destination, Found, Record, RunState, spill_files_in},
    message::{self, Composer, Message, Own, RunId, counter_of, moment, split_id},
    outbox::{Place, Streams},
};

/// What becomes of a folder.
pub(crate) enum Decision {
    /// There is something to send.
    Send(Box<Plan>),
    /// All of it was confirmed, says its record; whether the streams still have it is to be asked. In words: why there is
    /// nothing to send then.
    Verify(Box<Plan>, String),
    /// Nothing is missing.
    Nothing(String),
    /// It is not for us to say what is missing.
    LeftAlone(String),
}

/// What somebody wants of a run.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// The user himself has named its folder.
    pub(crate) named: bool,
    /// Everything is to be in the stream, whatever the records say.
    pub(crate) all: bool,
    /// Of a folder in which another run goes on only what was killed before is wanted.
    pub(crate) beside_live: bool,
    /// How it is known what the run was given.
    pub(crate) given: Given,
}

/// A message that a stream holds.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) place: Place,
    /// Whose it is, as its header says.
    pub(crate) run: Option<RunId>,
}

/// A run of which something may be missing.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the user calls it.
    pub(crate) path: PathBuf,
    pub(crate) why: String,
    records: Vec<Found>,
    pub(crate) files: Vec<SpillFile>,
    artifacts: Option<(Recorded, Wanted)>,
    /// The messages in the order of sending.
    pub(crate) items: Vec<Item>,
    /// What could not be read.
    pub(crate) bad: Vec<String>,
    /// Events in its folder that other runs of its ident have left there.
    pub(crate) others: usize,
    /// What was known of the run, and is not missing: in the stream, or gone from it by its own rules.
    accounted: u64,
    /// The highest counter that a stream holds of it.
    last_stored: u64,
    /// Where that is.
    places: Streams,
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
pub(crate) struct Item {
    pub(crate) subject: Arc<str>,
    pub(crate) id: String,
    place: Source,
    created: Option<SystemTime>,
}

/// Where a message is.
#[derive(Debug)]
enum Source {
    /// In the spill file of this number.
    Line(usize, Span),
    /// In this event file.
    Event(PathBuf),
    Status(StatusKind, String, Map<String, Value>),
}

/// Where in a run a message belongs: what is said before its first event, its events, what is said after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Before(u64),
    Event(u64),
    After(u64),
}

impl Order {
    fn of_id(id: &str) -> Self {
        match split_id(id) {
            Some((_, Own::Event { counter, .. })) => Self::Event(counter),
            Some((_, Own::Other { number, .. })) => Self::of_status(number),
            None => Self::After(u64::MAX),
        }
    }

    fn of_status(number: u64) -> Self {
        if number < StatusKind::Final as u64 { Self::Before(number) } else { Self::After(number) }
    }
}

impl Plan {
    fn new(path: &Path, why: String, records: Vec<Found>, files: Vec<SpillFile>) -> Self {
        Self {
            path: path.to_owned(),
            why,
            records,
            files,
            artifacts: None,
            items: Vec::new(),
            bad: Vec::new(),
            others: 0,
            accounted: 0,
            last_stored: 0,
            places: Streams::default(),
        }
    }

    /// One spill file, whatever is around it.
    pub(crate) fn of_file(path: &Path) -> Result<Self, String> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let records = Found::all_in(folder);
        let has = |name: Option<&OsStr>, found: &Found| {
            found.record.files.iter().any(|file| file.file_name() == name)
        };
        let (own, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|found| has(path.file_name(), found));
        let records = if own.is_empty() { others } else { own };
        Ok(Self::new(path, "a spill file".to_owned(), records, vec![SpillFile::open(path)?]))
    }

    /// The folder of a run: ansible-runner's artifact directory, or one in a spool.
    pub(crate) fn of_folder(folder: &Path, wish: &Wish) -> Result<Decision, String> {
        let Wish { named, all, given, .. } = wish;
        let (named, all) = (*named, *all);
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
        let mut records = Found::all_in(folder);
        records.sort_by(|one, other| one.record.started.cmp(&other.record.started));
        let is_live = records.iter().any(Found::is_running);
        if let Some(Found { record, .. }) =
            records.iter().find(|found| found.is_running()).filter(|_| !wish.beside_live)
        {
            let Record { pid, host, .. } = record;
            return Ok(Decision::LeftAlone(format!("the run goes on (process {pid} on {host})")));
        }
        // An ident that is used again has all its runs' events in one folder. One that was killed is what we are after;
        // else the last one.
        let at = records.iter().position(Found::is_killed).or(records.len().checked_sub(1));
        let next = at.and_then(|at| records.get(at + 1)).and_then(|next| moment(&next.record.started));
        let until = next.map(|(_, started)| started);
        let run = at.and_then(|at| records.get(at)).map(|found| &found.record);
        let elsewhere = run.and_then(|run| run.artifact_dir.as_deref());
        let artifacts = Recorded::open(folder, run, until, given)
            .or_else(|| Recorded::open(elsewhere?, run, until, given));
        if wish.beside_live {
            records.retain(Found::is_killed);
        }
        let spills = spill_files_in(folder);
        let is_killed = records.iter().any(Found::is_killed);
        let mut is_in_doubt = false;
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
            let why = format!("all {confirmed} messages were confirmed");
            if artifacts.is_none() || records.iter().all(|found| found.record.streams.is_empty()) {
                return Ok(Decision::Nothing(why));
            }
            is_in_doubt = true;
            (Wanted::All, why)
        } else {
            let counters = records.iter().flat_map(|found| found.record.unconfirmed_counters.clone());
            let lost: u64 = records.iter().map(|found| found.record.lost + found.record.unproven).sum();
            let undelivered: u64 = records.iter().map(|found| found.record.undelivered).sum();
            (Wanted::Some(counters.collect(), lost > 0), format!("{undelivered} undelivered, {lost} lost"))
        };
        let open =
            |path: &PathBuf| SpillFile::open(path).map_err(|reason| format!("{} {reason}", path.display()));
        let files = spills.iter().map(open);
        // What the run that goes on has locked is its own.
        let files = if is_live {
            files.filter_map(Result::ok).collect()
        } else {
            files.collect::<Result<Vec<_>, _>>()?
        };
        let plan = Box::new(Self {
            artifacts: artifacts.map(|recorded| (recorded, wanted)),
            ..Self::new(folder, why.clone(), records, files)
        });
        Ok(if is_in_doubt { Decision::Verify(plan, why) } else { Decision::Send(plan) })
    }

    /// Whose run it is, as far as its record says.
    pub(crate) fn subject_id(&self) -> Option<&str> {
        self.records.first().map(|found| found.record.subject_id.as_str()).filter(|id| !id.is_empty())
    }

    /// Where its messages were to go, as far as its record says.
    pub(crate) fn destination(&self) -> Option<&Destination> {
        let mut destinations = self.records.iter().map(|found| &found.record.destination);
        destinations.find(|destination| !destination.servers.is_empty())
    }

    /// Its runs' identities, and the streams that have stored their messages, and how far, as their records say.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (Option<RunId>, &[Acknowledged])> {
        self.records.iter().map(|found| (found.record.run_id, found.record.streams.as_slice()))
    }

    /// Must the subject id be known? A spill file has its subjects.
    pub(crate) fn needs_subject_id(&self) -> bool {
        match &self.artifacts {
            None => false,
            Some((_, Wanted::All)) => true,
            Some((_, Wanted::Some(counters, statuses))) => *statuses || !counters.is_empty(),
        }
    }

    /// What makes the messages of this run.
    pub(crate) fn composer(&self, config: &Config) -> Composer {
        match &self.artifacts {
            Some((recorded, _)) => recorded.composer(config),
            None => config.composer(),
        }
    }

    /// Finds out which messages there are: what was said before the events, these by counter, and what was said last.
    pub(crate) fn list(&mut self, config: &Config) -> Result<(), String> {
        self.bad.clear();
        let mut lines: Vec<(Order, Item)> = Vec::new();
        for (number, file) in self.files.iter_mut().enumerate() {
            for (message, span) in file.messages().map_err(|error| error.to_string())? {
                let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                let place = Source::Line(number, span);
                lines.push((Order::of_id(&id), Item { subject, id, place, created: None }));
            }
        }
        let mut items = if self.needs_subject_id() { self.recorded_items(config)? } else { Vec::new() };
        let has_events = self.artifacts.as_ref().is_some_and(|(recorded, _)| !recorded.events.is_empty());
        if self.records.iter().any(Found::is_killed) && !has_events {
            self.bad.push(format!(
                "{}: there are no events in job_events (the artifacts are gone, or the job's own event handler has kept \
                 ansible-runner from writing them): what the killed run had published last cannot be told",
                self.path.display()
            ));
        }
        if items.is_empty() {
            // In the order of the file: it is the run's.
            self.items = lines.into_iter().map(|(_, item)| item).collect();
            return Ok(());
        }
        // What is in a spill file has its live id.
        let known: HashSet<String> = lines.iter().map(|(_, item)| item.id.clone()).collect();
        let statuses = self.statuses_among(known.iter().map(String::as_str));
        items.retain(|(_, item)| !known.contains(&item.id) && !item.is_one_of(&statuses));
        items.extend(lines);
        items.sort_by_key(|(order, _)| *order);
        self.items = items.into_iter().map(|(_, item)| item).collect();
        Ok(())
    }

    /// What of the artifacts may be missing.
    fn recorded_items(&mut self, config: &Config) -> Result<Vec<(Order, Item)>, String> {
        let Some((recorded, wanted)) = &self.artifacts else { return Ok(Vec::new()) };
        let is_wanted = |counter: u64| match wanted {
            Wanted::All => true,
            Wanted::Some(ranges, _) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&counter)),
        };
        let mut composer = recorded.composer(config);
        let mut items = Vec::new();
        if matches!(wanted, Wanted::All | Wanted::Some(_, true)) {
            for (kind, name, data) in recorded.statuses() {
                let message = recorded.status(config, &mut composer, kind, &name, data.clone());
                let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                let place = Source::Status(kind, name, data);
                items.push((Order::of_status(kind as u64), Item { subject, id, place, created: None }));
            }
        }
        let first_event = items.len();
        self.others = 0;
        for (counter, path) in recorded.events.iter().filter(|(counter, _)| is_wanted(*counter)) {
            match recorded.event(config, &mut composer, path) {
                Ok(Filed::Ours(Kept { message, created })) => {
                    let (subject, id) = (Arc::clone(&message.head.subject), message.id());
                    let place = Source::Event(path.clone());
                    items.push((Order::Event(*counter), Item { subject, id, place, created }));
                }
                Ok(Filed::OfAnother) => self.others += 1,
                Ok(Filed::Unwanted) => {}
                Err(reason) => self.bad.push(format!("{}: {reason}", path.display())),
            }
        }
        if self.others > 0 && items.len() == first_event && self.records.is_empty() {
            return Err(format!(
                "{} has events of several runs of this ident, and no time tells which are the last one's",
                self.path.display()
            ));
        }
        Ok(items)
    }

    /// The subjects of all messages.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let subjects: HashSet<&str> = self.items.iter().map(|item| &*item.subject).collect();
        subjects.into_iter().map(str::to_owned).collect()
    }

    /// Of a run without a record: what of it a stream holds (by the messages' ids) has its identity. Then the messages are
    /// to be listed once more: those of its statuses have other ids.
    pub(crate) fn learn_identity(&mut self, held: &HashMap<String, Stored>) -> bool {
        let Some((recorded, _)) = &mut self.artifacts else { return false };
        let mut events = self.items.iter().filter(|item| matches!(item.place, Source::Event(_)));
        let found = events.find_map(|item| held.get(&item.id)?.run);
        let Some(run) = found.filter(|_| recorded.known_run().is_none()) else { return false };
        recorded.is_found_as(run);
        true
    }

    /// Leaves out what the stream holds, and events from before `horizon`, which it has let go; says how many that are.
    pub(crate) fn leave_out(
        &mut self,
        held: &HashMap<String, Stored>,
        horizon: Option<SystemTime>,
    ) -> (u64, u64) {
        let unfiled = self.unfiled(held);
        let prefix = self.artifacts.as_ref().map(|(recorded, _)| format!(".{}.status.", recorded.ident));
        let of_run = |id: &&String| prefix.as_ref().is_some_and(|prefix| id.contains(prefix.as_str()));
        let statuses = self.statuses_among(held.keys().filter(of_run).map(String::as_str));
        let before = self.items.len() as u64;
        for stored in self.items.iter().filter_map(|item| held.get(&item.id)) {
            self.places.note(&stored.place);
        }
        self.items.retain(|item| !held.contains_key(&item.id) && !item.is_one_of(&statuses));
        let missing = self.items.len() as u64;
        let is_gone = |item: &Item| item.created.zip(horizon).is_some_and(|(created, begin)| created < begin);
        self.items.retain(|item| !is_gone(item));
        self.accounted = before - self.items.len() as u64 + unfiled.len() as u64;
        self.last_stored = unfiled.into_iter().max().unwrap_or(0);
        (before - missing, missing - self.items.len() as u64)
    }

    /// The counters of events that a stream holds of the run, and no file: the plugin is told of an event before
    /// ansible-runner writes it down, and a process may be killed between the two.
    fn unfiled(&self, held: &HashMap<String, Stored>) -> Vec<u64> {
        let run = self.artifacts.as_ref().and_then(|(recorded, _)| recorded.known_run());
        let known: HashSet<&str> = self.items.iter().map(|item| item.id.as_str()).collect();
        let is_ours = |(id, stored): &(&String, &Stored)| {
            run.is_some() && stored.run == run && !known.contains(id.as_str())
        };
        held.iter().filter(is_ours).filter_map(|(id, _)| counter_of(id)).collect()
    }

    /// Which statuses of the run are among these ids, `….status.NONCE.NUMBER`, though nobody knows its nonce: the live run
    /// was of a version that had none.
    fn statuses_among<'a>(&self, ids: impl Iterator<Item = &'a str>) -> HashSet<u64> {
        if self.artifacts.as_ref().is_some_and(|(recorded, _)| recorded.known_run().is_some()) {
            return HashSet::new();
        }
        ids.filter_map(|id| match split_id(id)?.1 {
            Own::Other { kind: message::Kind::Status, number, .. } => Some(number),
            _ => None,
        })
        .collect()
    }

    /// Nobody can tell what of the artifacts is missing: what is in files is.
    pub(crate) fn keep_lines(&mut self) {
        self.items.retain(|item| matches!(item.place, Source::Line(..)));
    }

    /// What is in the spill files was sent, but for what is in the files `rest`; of the run more may be missing.
    pub(crate) fn shrink(&self, rest: &[PathBuf]) -> Result<(), String> {
        for (number, file) in self.files.iter().enumerate() {
            file.shrink(if number == 0 { rest } else { &[] }, &[]).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// A message, read from where it is.
    pub(crate) fn read(&self, item: &Item, config: &Config, composer: &mut Composer) -> Option<Message> {
        match (&item.place, &self.artifacts) {
            (Source::Line(number, span), _) => self.files.get(*number)?.read(*span),
            (Source::Event(path), Some((recorded, _))) => match recorded.event(config, composer, path) {
                Ok(Filed::Ours(kept)) => Some(kept.message),
                Ok(Filed::Unwanted | Filed::OfAnother) | Err(_) => None,
            },
            (Source::Status(kind, name, data), Some((recorded, _))) => {
                Some(recorded.status(config, composer, *kind, name, data.clone()))
            }
            (_, None) => None,
        }
    }

    /// The words that runs of this folder were killed, for whoever follows their signs of life.
    pub(crate) fn last_words(&self, config: &Config, now: SystemTime) -> Vec<Message> {
        let killed = self.records.iter().filter(|found| found.is_killed()).map(|found| &found.record);
        let words = |record: &Record| {
            let (mut composer, events) = match &self.artifacts {
                Some((recorded, _)) if recorded.is_of(record) => {
                    (recorded.composer(config), recorded.last_counter().max(self.last_stored))
                }
                _ => (composer_of(record, config), 0),
            };
            artifacts::killed(record, &mut composer, events, now)
        };
        killed.map(words).collect()
    }

    /// Lines that are no messages.
    pub(crate) fn bad_lines(&self) -> u64 {
        self.files.iter().map(|file| file.bad).sum()
    }

    /// All was confirmed up to `sent` items, but for what is in the files `rest`: the spill files keep what is left, and
    /// the record says so. Returns how many messages and bad lines are left.
    pub(crate) fn settle(
        &self,
        sent: usize,
        rest: &[PathBuf],
        unconfirmed: u64,
        fates: &Sent,
    ) -> Result<u64, String> {
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
            self.close_records(fates);
        }
        Ok(left)
    }

    /// What was to be sent is confirmed: the record says what is missing now.
    fn close_records(&self, fates: &Sent) {
        let is_one = self.records.len() == 1;
        // Where the run is now: what a later look compares with.
        let mut places = self.places.clone();
        places.join(&fates.streams);
        let streams = places.to_vec();
        for found in &self.records {
            let Found { path, record, .. } = found;
            let Some(folder) = path.parent() else { continue };
            let files = spill_files_in(folder);
            let undelivered = if files.is_empty() { 0 } else { record.undelivered };
            let mut left =
                Record { undelivered, unheard: record.unheard.min(undelivered), files, ..record.clone() };
            let recovered = fates.stored + fates.routed;
            if is_one {
                left = fates.count(&left, recovered);
                if !streams.is_empty() && (self.artifacts.is_some() || left.streams.is_empty()) {
                    left.streams.clone_from(&streams);
                }
            }
            let is_killed = found.is_killed();
            if self.artifacts.is_some() || is_killed {
                // What a killed run had published by then is in no record: all that is known of it is accounted for now.
                let known = if is_one { self.accounted + recovered } else { left.accepted };
                let accepted = left.accepted.max(left.confirmed).max(if is_killed { known } else { 0 });
                let confirmed = accepted.saturating_sub(undelivered);
                let stored = if record.routed + fates.routed == 0 { confirmed } else { left.stored };
                let problem = if is_killed {
                    Some(self.bad.first().cloned().unwrap_or_else(|| "the run was killed".to_owned()))
                } else {
                    left.problem.clone()
                };
                left = Record {
                    state: if is_killed { RunState::Killed } else { left.state },
                    accepted,
                    confirmed,
                    stored,
                    unproven: 0,
                    lost: 0,
                    unconfirmed_counters: Vec::new(),
                    problem,
                    ..left
                };
            }
            let _ = left.write_to(path);
            leave(folder);
        }
    }
}

impl Item {
    fn line_of(&self, file: usize) -> Option<Span> {
        match self.place {
            Source::Line(number, span) if number == file => Some(span),
            _ => None,
        }
    }

    /// Is it a status that is there already, with the id that only the live run knew?
    fn is_one_of(&self, numbers: &HashSet<u64>) -> bool {
        matches!(&self.place, Source::Status(kind, ..) if numbers.contains(&(*kind as u64)))
    }
}
