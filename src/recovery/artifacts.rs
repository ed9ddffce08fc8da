//! A run as ansible-runner left it on disk: its artifact directory becomes messages again.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    config::Config,
    files::Guarded,
    journal::Record,
    message::{
        About, Composer, KILLED, Kind, Message, OPEN_STATES, REPLAYED, RunId, Values, moment, strict,
        to_millis,
    },
};

/// An artifact directory (`ansible_runner.config._base.BaseConfig.artifact_dir`).
#[derive(Debug)]
pub(crate) struct Recorded {
    folder: Guarded,
    pub(super) ident: String,
    /// What the run's record says, if there is one.
    record: Option<Record>,
    /// Without one: its identity, as a stream has it.
    found: Option<RunId>,
    /// When the next run of that ident began, whose files are in the same folder.
    until: Option<SystemTime>,
    /// When it began, where there are events of earlier ones, too.
    since: Option<SystemTime>,
    /// What the run was given, as far as it can still be found.
    values: OnceCell<Values>,
    given: Given,
    /// The private data directory around it, if there is one.
    around: Option<PathBuf>,
    /// The files of its events, by counter; from its folder on.
    pub(super) events: Vec<(u64, PathBuf)>,
}

/// How it is known what a run was given, and must not be told.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// From the files of its private data directory: `passwords`, `variables` and `key`.
    Files(fn(&Path) -> Map<String, Value>),
    /// A run of the same project has been given the same.
    Alike(Option<Arc<Values>>),
}

/// A message of a run that is on disk.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) message: Message,
    /// When the event was.
    pub(super) created: Option<SystemTime>,
}

/// What a file of an event is.
#[derive(Debug)]
pub(super) enum Filed {
    Ours(Kept),
    /// It is left out (option `events`).
    Unwanted,
    /// Another run of that ident has left it there.
    OfAnother,
}

/// What of an event is outside its payload.
#[derive(Deserialize)]
struct Event {
    counter: u64,
    uuid: String,
    #[serde(default)]
    runner_ident: Option<String>,
    #[serde(default, rename = "event")]
    name: String,
    #[serde(default)]
    created: Option<String>,
}

/// The statuses of a run, in the order in which they are published: the number in their live ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StatusKind {
    Starting = 1,
    Running = 2,
    Final = 3,
}

/// The most that a file of ansible-runner's may have: an event may bring a file's content.
const LARGEST: u64 = 1 << 30;

impl Recorded {
    /// The run in this directory, if it is one.
    pub(super) fn open(
        folder: &Path,
        record: Option<&Record>,
        until: Option<SystemTime>,
        given: &Given,
    ) -> Option<Self> {
        const EVENTS: &str = "job_events";
        let guarded = Guarded::open(folder).ok()?;
        let entries = fs::read_dir(folder.join(EVENTS)).ok()?;
        let mut events: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let whole = name.strip_suffix(".json").filter(|name| !name.ends_with("-partial"))?;
                Some((whole.split_once('-')?.0.parse().ok()?, Path::new(EVENTS).join(&name)))
            })
            .collect();
        events.sort();
        let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let ident = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let around = absolute.parent().and_then(Path::parent).filter(|folder| folder.join("env").is_dir());
        let around = around.map(Path::to_owned);
        let (record, given) = (record.cloned(), given.clone());
        // Each run counts its events from 1.
        let is_shared = events.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other));
        let began = || match &record {
            Some(record) => moment(&record.started).map(|(_, started)| started),
            // ansible-runner writes it before the job starts.
            None => guarded.written(Path::new("command")).ok(),
        };
        let since = is_shared.then(began).flatten();
        let ident = record.as_ref().map_or(ident, |record| record.runner_ident.clone());
        let values = OnceCell::new();
        Some(Self {
            folder: guarded,
            ident,
            record,
            found: None,
            until,
            since,
            values,
            given,
            around,
            events,
        })
    }

    /// Is it the run of this record?
    pub(super) fn is_of(&self, record: &Record) -> bool {
        self.record.as_ref().is_some_and(|own| own.run_id == record.run_id)
    }

    /// The run's identity, if its record has one, or it was found.
    pub(super) fn known_run(&self) -> Option<RunId> {
        self.record.as_ref().and_then(|record| record.run_id).or(self.found)
    }

    /// A stream has some of its messages, under this identity.
    pub(super) fn is_found_as(&mut self, run: RunId) {
        self.found = Some(run);
    }

    /// What makes the messages of this run.
    pub(super) fn composer(&self, config: &Config) -> Composer {
        let mut composer = config.composer();
        composer.address(&self.ident);
        composer.identify(self.run(config));
        composer
    }

    /// The run's identity: what its record says; else one that is the same each time.
    fn run(&self, config: &Config) -> RunId {
        self.known_run().unwrap_or_else(|| {
            let first = self.events.first().and_then(|(_, path)| path.file_stem()?.to_str()?.split_once('-'));
            let name = format!("{}.{}", config.subject_id, self.ident);
            RunId::of_artifacts(&name, first.map_or("", |(_, uuid)| uuid))
        })
    }

    /// The event in this file.
    pub(super) fn event(
        &self,
        config: &Config,
        composer: &mut Composer,
        path: &Path,
    ) -> Result<Filed, String> {
        let text = self.folder.read(path, LARGEST).map_err(|error| error.to_string())?;
        let text = strict(&text).into_owned();
        let event: Event =
            serde_json::from_slice(&text).map_err(|_| "no event (half written?)".to_owned())?;
        let created = event.created.as_deref().and_then(moment).map(|(_, created)| created);
        let is_of_next = created.zip(self.until).is_some_and(|(created, next)| created >= next);
        let is_earlier = created.zip(self.since).is_some_and(|(created, began)| created < began);
        if is_of_next || is_earlier {
            return Ok(Filed::OfAnother);
        }
        if !config.events.contains(&event.name) {
            return Ok(Filed::Unwanted);
        }
        let sieve = config.sieve(Kind::Event);
        let payload = if sieve.is_open() {
            // As it is: numbers of any size stay what they are.
            text.into()
        } else {
            let mut value: Value = serde_json::from_slice(&text).map_err(|_| "no event".to_owned())?;
            sieve.sift(&mut value);
            value.to_string().into()
        };
        let payload = self.hidden(config, payload);
        composer.address(event.runner_ident.as_deref().unwrap_or(&self.ident));
        let counter = event.counter.to_string();
        let about = About {
            kind: Kind::Event,
            name: &event.name,
            own_id: &[&counter, &event.uuid],
            created: event.created.as_deref(),
            card: None,
        };
        let message = composer.message(&about, payload);
        Ok(Filed::Ours(Kept { message, created }))
    }

    /// The payload without what the run was given under secret names, as the live run would have published it.
    fn hidden(&self, config: &Config, payload: Bytes) -> Bytes {
        if !config.mask_values {
            return payload;
        }
        let values = self.values.get_or_init(|| self.given(config));
        let text = std::str::from_utf8(&payload).ok();
        text.and_then(|text| values.hide_in(text)).map_or_else(|| payload.clone(), Bytes::from)
    }

    fn given(&self, config: &Config) -> Values {
        let mut values = match &self.given {
            Given::Alike(Some(values)) => Values::clone(values),
            Given::Alike(None) | Given::Files(_) => Values::new(&config.redaction.masks),
        };
        if let (Given::Files(read), Some(around)) = (&self.given, &self.around) {
            for (kind, value) in &read(around) {
                values.learn((kind == "variables").then_some(""), value);
            }
        }
        if let Some((_, _, starting)) = self.statuses().first() {
            let part = |name| starting.get(name).unwrap_or(&Value::Null);
            values.learn_starting(part("env"), part("command"));
        }
        values.prepare(&self.ident);
        values
    }

    /// What ansible-runner kept of the statuses: the command, and the last one.
    pub(super) fn statuses(&self) -> Vec<(StatusKind, String, Map<String, Value>)> {
        let mut statuses = Vec::new();
        if self.until.is_some() {
            // The next run has written them anew.
            return statuses;
        }
        let command = self.folder.read(Path::new("command"), LARGEST).ok();
        if let Some(Value::Object(command)) =
            command.and_then(|text| serde_json::from_slice(&strict(&text)).ok())
        {
            let [starting, running] = OPEN_STATES;
            statuses.push((StatusKind::Starting, starting.to_owned(), command));
            statuses.push((StatusKind::Running, running.to_owned(), Map::new()));
        }
        // Empty if the disk was full.
        let last = self.folder.read(Path::new("status"), 1_000).unwrap_or_default();
        let last = String::from_utf8_lossy(&last);
        if !last.trim().is_empty() {
            statuses.push((StatusKind::Final, last.trim().to_owned(), Map::new()));
        }
        statuses
    }

    /// A status as the live run would have published it. When it was said is known of the first ones by the record, else
    /// by the time of the files that ansible-runner has written then.
    pub(super) fn status(
        &self,
        config: &Config,
        composer: &mut Composer,
        kind: StatusKind,
        name: &str,
        more: Map<String, Value>,
    ) -> Message {
        let mut data = Map::new();
        data.insert("status".to_owned(), Value::from(name));
        data.insert("runner_ident".to_owned(), Value::from(&*self.ident));
        data.extend(more);
        let mut data = Value::Object(data);
        config.sieve(Kind::Status).sift(&mut data);
        composer.address(&self.ident);
        // As the live run has made it.
        let nonce = self.run(config).nonce();
        let own_id = [Kind::Status.as_str(), &nonce, &(kind as u64).to_string()];
        let is_first = kind == StatusKind::Starting;
        let card = self.record.as_ref().and_then(|record| record.card.as_ref()).filter(|_| is_first);
        let card = card.map(|card| Value::Object(card.clone()).to_string());
        let created = self.said_at(kind);
        let about = About {
            kind: Kind::Status,
            name,
            own_id: &own_id,
            created: created.as_deref(),
            card: card.as_deref(),
        };
        let payload: Bytes = data.to_string().into();
        let payload = if config.redaction.is_full() { payload } else { self.hidden(config, payload) };
        composer.message(&about, payload)
    }

    /// When a status was said, in RFC 3339.
    fn said_at(&self, kind: StatusKind) -> Option<String> {
        if let (StatusKind::Starting, Some(record)) = (kind, &self.record) {
            return Some(record.started.clone()).filter(|started| !started.is_empty());
        }
        // Written before the job starts, and when it has ended.
        let name = if kind == StatusKind::Final { "status" } else { "command" };
        self.folder.written(Path::new(name)).ok().map(to_millis)
    }

    /// The counter of its last event; 0 if it has none.
    pub(super) fn last_counter(&self) -> u64 {
        self.events.last().map_or(0, |(counter, _)| *counter)
    }
}

/// What makes the messages of a run of which only the record is there.
pub(super) fn composer_of(record: &Record, config: &Config) -> Composer {
    let mut composer = config.composer();
    composer.address(&record.runner_ident);
    if let Some(run) = record.run_id {
        composer.identify(run);
    }
    composer
}

/// The word that a run was killed, for whoever follows its signs of life. `events`: the counter of its last event.
pub(super) fn killed(record: &Record, composer: &mut Composer, events: u64, now: SystemTime) -> Message {
    #[derive(Serialize)]
    struct Killed<'a> {
        state: &'static str,
        runner_ident: &'a str,
        host: &'a str,
        pid: u32,
        events: u64,
    }
    let killed = Killed {
        state: KILLED,
        runner_ident: &record.runner_ident,
        host: &record.host,
        pid: record.pid,
        events,
    };
    let kind = Kind::Heartbeat;
    let nonce = record.run_id.map_or_else(|| REPLAYED.to_owned(), RunId::nonce);
    // Signs of life are numbered from 1.
    let own_id = [kind.as_str(), &nonce, "0"];
    let said = to_millis(now);
    let about = About { kind, name: kind.as_str(), own_id: &own_id, created: Some(&said), card: None };
    composer.message(&about, serde_json::to_vec(&killed).unwrap_or_default().into())
}
