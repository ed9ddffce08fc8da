//! A run as ansible-runner left it on disk: its artifact directory becomes messages again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    cloudevent::CloudEvent,
    config::Config,
    message::{self, Kind, Message},
    redact::{Fate, MASK, Redaction, Section},
    select::{Member, Omit},
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
        let payload = match config.omit.root() {
            // As it is: numbers of any size stay what they are.
            None => text.into(),
            Some(root) => {
                let mut value: Value = serde_json::from_slice(&text).map_err(|_| "no event".to_owned())?;
                without(&mut value, &config.omit, root);
                value.to_string().into()
            }
        };
        let ident = event.runner_ident.as_deref().unwrap_or(&self.ident);
        let counter = event.counter.to_string();
        let created = event.created.as_deref();
        Ok(Some(message(config, Kind::Event, &event.name, ident, &[&counter, &event.uuid], created, payload)))
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
        let redaction = Redaction { masks: &config.masks, env: config.status_env };
        let mut data = Map::new();
        data.insert("status".to_owned(), Value::from(name));
        data.insert("runner_ident".to_owned(), Value::from(&*self.ident));
        for (section, mut value) in more {
            let kind = Section::of(&section);
            if redaction.of_section(kind) == Fate::Keep {
                mask(&mut value, &redaction, kind == Section::Env);
                data.insert(section, value);
            }
        }
        let mut data = Value::Object(data);
        if let Some(root) = config.omit.root() {
            without(&mut data, &config.omit, root);
        }
        // The same each time it is replayed; the live run's nonce is not known any more.
        let id = ["status", "replay", name];
        message(config, Kind::Status, name, &self.ident, &id, None, data.to_string().into())
    }
}

/// The message that the live run would have made.
fn message(
    config: &Config,
    kind: Kind,
    name: &str,
    ident: &str,
    own_id: &[&str],
    created: Option<&str>,
    payload: Bytes,
) -> Message {
    let id = message::longer_id(&message::message_id(&[&config.subject_id, ident]), own_id);
    let given: Arc<[(String, String)]> = config.headers.clone().into();
    let headers = if config.cloudevents {
        CloudEvent { subject_id: &config.subject_id, ident, kind, name, id: &id }.headers(&given, created)
    } else {
        given
    };
    let subject = config.subject.subject(&config.subject_id, ident, kind, name);
    Message { subject, headers, id: id.into(), payload }
}

/// Leaves out what the option `omit` names.
fn without(value: &mut Value, omit: &Omit, place: usize) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| omit.member(place, name) != Some(Member::Gone));
            for (name, member) in members {
                if let Some(Member::Partly(below)) = omit.member(place, name) {
                    without(member, omit, below);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without(item, omit, place)),
        _ => {}
    }
}

/// Masks what a live status would not say either.
fn mask(value: &mut Value, redaction: &Redaction<'_>, is_env: bool) {
    match value {
        Value::String(text) => {
            if let Some(hidden) = redaction.masks.hide(text) {
                *text = hidden;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, redaction, false)),
        Value::Object(members) => {
            for (name, member) in members {
                if is_env && redaction.of_variable(name, member.as_str().unwrap_or_default()) == Fate::Mask {
                    *member = Value::from(MASK);
                }
                mask(member, redaction, false);
            }
        }
        _ => {}
    }
}
