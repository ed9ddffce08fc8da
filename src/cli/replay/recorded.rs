//! A run as ansible-runner left it on disk: its artifact directory becomes messages again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::Config,
    message::{About, Composer, Kind, Message, REPLAYED},
};

/// An artifact directory (`ansible_runner.config._base.BaseConfig.artifact_dir`).
#[derive(Debug)]
pub(super) struct Recorded {
    folder: PathBuf,
    pub(super) ident: String,
    /// The files of its events, by counter.
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

    /// The event in this file; `None`: it is not wanted (option `events`).
    pub(super) fn event(
        &self,
        config: &Config,
        composer: &mut Composer,
        path: &Path,
    ) -> Result<Option<Message>, String> {
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

    /// What ansible-runner kept of the statuses: the command, and the last one.
    pub(super) fn statuses(&self) -> Vec<(StatusKind, String, Map<String, Value>)> {
        let mut statuses = Vec::new();
        let command = fs::read(self.folder.join("command")).ok();
        if let Some(Value::Object(command)) = command.and_then(|text| serde_json::from_slice(&text).ok()) {
            statuses.push((StatusKind::Starting, "starting".to_owned(), command));
            statuses.push((StatusKind::Running, "running".to_owned(), Map::new()));
        }
        // Empty if the disk was full.
        let last = fs::read_to_string(self.folder.join("status")).unwrap_or_default();
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
        let about = About { kind: Kind::Status, name, own_id: &own_id, created: None };
        composer.message(&about, data.to_string().into())
    }
}
