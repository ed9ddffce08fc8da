//! A run as ansible-runner left it on disk: its artifact directory becomes messages again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::Config,
    message::{About, Kind, Message},
};

/// An artifact directory (`ansible_runner.config._base.BaseConfig.artifact_dir`).
pub(super) struct Recorded {
    /// The directory.
    pub(super) folder: PathBuf,
    ident: String,
    /// The files of its events, by counter.
    events: Vec<(u64, PathBuf)>,
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

impl Recorded {
    /// The run in this directory, if it is one.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        let entries = fs::read_dir(folder.join("job_events")).ok()?;
        let mut events: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let whole = name.strip_suffix(".json").filter(|name| !name.ends_with("-partial"))?;
                Some((whole.split_once('-')?.0.parse().ok()?, entry.path()))
            })
            .collect();
        events.sort();
        let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let ident = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(Self { folder: folder.to_owned(), ident, events })
    }

    /// Did ansible-runner end it itself? It writes `status` last.
    pub(super) fn has_ended(&self) -> bool {
        self.folder.join("status").exists()
    }

    /// About how many messages there are.
    pub(super) fn count(&self) -> usize {
        self.events.len()
            + if self.folder.join("command").exists() { 2 } else { 0 }
            + usize::from(self.has_ended())
    }

    /// The messages: events by counter, then statuses. What cannot be read is named in `bad`.
    pub(super) fn messages<'a>(
        &'a self,
        config: &'a Config,
        bad: &'a mut Vec<String>,
    ) -> impl Iterator<Item = Message> + 'a {
        let statuses = self.statuses();
        let events = self.events.iter().filter_map(move |(_, path)| match self.event(config, path) {
            Ok(message) => message,
            Err(reason) => {
                bad.push(format!("{}: {reason}", path.display()));
                None
            }
        });
        events.chain(statuses.into_iter().map(move |(name, data)| self.status(config, &name, data)))
    }

    /// `None`: it is not wanted (option `events`).
    fn event(&self, config: &Config, path: &Path) -> Result<Option<Message>, String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
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
        let mut composer = config.composer();
        composer.address(event.runner_ident.as_deref().unwrap_or(&self.ident));
        let counter = event.counter.to_string();
        let about = About {
            kind: Kind::Event,
            name: &event.name,
            own_id: &[&counter, &event.uuid],
            created: event.created.as_deref(),
        };
        Ok(Some(composer.message(&about, payload)))
    }

    /// What ansible-runner kept of them: the command, and the last one.
    fn statuses(&self) -> Vec<(String, Map<String, Value>)> {
        let mut statuses = Vec::new();
        let command = fs::read(self.folder.join("command")).ok();
        if let Some(Value::Object(command)) = command.and_then(|text| serde_json::from_slice(&text).ok()) {
            statuses.push(("starting".to_owned(), command));
            statuses.push(("running".to_owned(), Map::new()));
        }
        if let Ok(status) = fs::read_to_string(self.folder.join("status")) {
            statuses.push((status.trim().to_owned(), Map::new()));
        }
        statuses
    }

    fn status(&self, config: &Config, name: &str, more: Map<String, Value>) -> Message {
        let mut data = Map::new();
        data.insert("status".to_owned(), Value::from(name));
        data.insert("runner_ident".to_owned(), Value::from(&*self.ident));
        data.extend(more);
        let mut data = Value::Object(data);
        config.sieve(Kind::Status).sift(&mut data);
        let mut composer = config.composer();
        composer.address(&self.ident);
        // The same each time it is replayed; the live run's nonce is not known any more.
        let about = About {
            kind: Kind::Status,
            name,
            own_id: &[Kind::Status.as_str(), "replay", name],
            created: None,
        };
        composer.message(&about, data.to_string().into())
    }
}
