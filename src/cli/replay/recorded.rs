//! A run as ansible-runner left it on disk: its artifact directory becomes messages again.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    cli::options::given_in,
    config::Config,
    files::Guarded,
    message::{About, Composer, Kind, Message, REPLAYED, Values, strict},
};

/// An artifact directory (`ansible_runner.config._base.BaseConfig.artifact_dir`).
#[derive(Debug)]
pub(super) struct Recorded {
    folder: Guarded,
    pub(super) ident: String,
    /// What the run was given, as far as it can still be found.
    values: OnceCell<Values>,
    /// The private data directory around it, if there is one.
    around: Option<PathBuf>,
    /// The files of its events, by counter; from its folder on.
    pub(super) events: Vec<(u64, PathBuf)>,
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
pub(super) enum StatusKind {
    Starting = 1,
    Running = 2,
    Final = 3,
}

/// The most that a file of ansible-runner's may have: an event may bring a file's content.
const LARGEST: u64 = 1 << 30;

impl Recorded {
    /// The run in this directory, if it is one.
    pub(super) fn open(folder: &Path) -> Option<Self> {
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
        Some(Self { folder: guarded, ident, values: OnceCell::new(), around, events })
    }

    /// The event in this file; `None`: it is not wanted (option `events`).
    pub(super) fn event(
        &self,
        config: &Config,
        composer: &mut Composer,
        path: &Path,
    ) -> Result<Option<Message>, String> {
        let text = self.folder.read(path, LARGEST).map_err(|error| error.to_string())?;
        let text = strict(&text).into_owned();
        let event: Event =
            serde_json::from_slice(&text).map_err(|_| "no event (half written?)".to_owned())?;
        if !config.events.contains(&event.name) {
            return Ok(None);
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
        Ok(Some(composer.message(&about, payload)))
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
        let mut values = Values::new(&config.redaction.masks);
        let given = self.around.as_deref().map(given_in).unwrap_or_default();
        for (kind, value) in &given {
            values.learn((kind == "variables").then_some(""), value);
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
        let command = self.folder.read(Path::new("command"), LARGEST).ok();
        if let Some(Value::Object(command)) =
            command.and_then(|text| serde_json::from_slice(&strict(&text)).ok())
        {
            statuses.push((StatusKind::Starting, "starting".to_owned(), command));
            statuses.push((StatusKind::Running, "running".to_owned(), Map::new()));
        }
        // Empty if the disk was full.
        let last = self.folder.read(Path::new("status"), 1_000).unwrap_or_default();
        let last = String::from_utf8_lossy(&last);
        if !last.trim().is_empty() {
            statuses.push((StatusKind::Final, last.trim().to_owned(), Map::new()));
        }
        statuses
    }

    /// A status as the live run would have published it, but for its id, which nobody knows any more.
    pub(super) fn status(
        &self,
        config: &Config,
        composer: &mut Composer,
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
        // Each time it is replayed it has this one.
        let own_id = [Kind::Status.as_str(), REPLAYED, name];
        let about = About { kind: Kind::Status, name, own_id: &own_id, created: None, card: None };
        let payload: Bytes = data.to_string().into();
        let payload = if config.redaction.is_full() { payload } else { self.hidden(config, payload) };
        composer.message(&about, payload)
    }
}
