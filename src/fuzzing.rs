//! What the fuzz targets call: the parsers that read what others wrote.

use serde_json::{Map, Value};

use crate::{
    config, harmless,
    journal::Record,
    message::{
        self, About, Composer, Kind, Message, Omit, Received, Redaction, Sieve, Template, Values, covers,
        overlap,
    },
    nats,
    runs::{self, Runs},
};

/// Shortens a JSON text to `limit` bytes: see `message::cut`.
pub fn cut(json: &mut Vec<u8>, limit: usize, cut_before: bool) -> bool {
    message::cut(json, limit, cut_before)
}

/// A line of a spill file, read and written again; `None` if it is none.
pub fn spill_line(line: &[u8]) -> Option<Vec<u8>> {
    let mut again = Vec::new();
    Message::from_line(line)?.write_line(&mut again).ok()?;
    Some(again)
}

/// Subject and id of an event and of a status.
pub fn addresses(subject_id: &str, ident: &str, uuid: &str) -> [(String, String); 2] {
    let mut composer = Composer::new(subject_id, Template::default(), [].into(), false);
    composer.address(ident);
    [Kind::Event, Kind::Status].map(|kind| {
        let about = About { kind, name: "name", own_id: &["7", uuid], created: None, card: None };
        let message = composer.message(&about, bytes::Bytes::new());
        (message.head.subject.to_string(), message.id())
    })
}

/// What comes of settings and environment.
#[derive(Debug)]
pub struct Resolved {
    /// Lines for the user.
    pub problems: Vec<String>,
    /// Is anything published?
    pub enabled: bool,
    /// What `Debug` shows of the configuration.
    pub shown: String,
    /// Headers of each message.
    pub headers: Vec<(String, String)>,
    /// Addresses of the servers.
    pub servers: Vec<String>,
}

/// Settings and environment as the plugin reads them.
pub fn resolve(
    settings: &Map<String, Value>,
    get: &dyn Fn(&str) -> Option<String>,
    names: &[String],
) -> Resolved {
    let resolution = config::resolve(settings, config::Env { get, names }, &|| "host.example".to_owned());
    let config = resolution.config.as_ref();
    Resolved {
        problems: resolution.problems.clone(),
        enabled: config.is_some(),
        shown: format!("{config:?}"),
        headers: config.map(|config| config.headers.to_vec()).unwrap_or_default(),
        servers: config
            .map(|config| config.connection.servers.iter().map(|server| server.address.clone()).collect())
            .unwrap_or_default(),
    }
}

/// The command line of a status, as it is published.
pub fn command_line(words: &[String]) -> Vec<String> {
    let mut status = serde_json::json!({ "command": words });
    let (omit, redaction) = (Omit::default(), Redaction::default());
    Sieve::new(Kind::Status, &omit, &redaction).sift(&mut status);
    let command = status.get("command").and_then(Value::as_array).cloned().unwrap_or_default();
    command.iter().map(|word| word.as_str().unwrap_or_default().to_owned()).collect()
}

/// JSON without the values of `secrets`, which a run was given under a secret name; `None` if there are none in it.
pub fn without_values(json: &str, secrets: &[String]) -> Option<String> {
    let mut values = Values::default();
    for secret in secrets {
        values.learn(Some("db_password"), &Value::from(secret.as_str()));
    }
    values.prepare("");
    values.hide_in(json)
}

/// The record of a run, read and written again; `None` if it is none.
pub fn record(json: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&serde_json::from_slice::<Record>(json).ok()?).ok()
}

/// Messages as a reader gets them, subject and payload: how many runs that makes.
pub fn hear(messages: &[(String, Vec<u8>)]) -> usize {
    let mut runs = Runs::of(&Template::default());
    let now = std::time::SystemTime::now();
    for (subject, payload) in messages {
        let payload = bytes::Bytes::from(payload.clone());
        let received = Received { subject: subject.clone(), payload, ..Received::default() };
        if let Some(news) = runs.hear(&received, now) {
            let _ = runs.get(news.run).map(|run| format!("{run:?}"));
        }
    }
    runs.all().count()
}

/// Filters made from names that somebody received: do they cover the subjects made of the same?
pub fn filters(subject_id: &str, ident: &str) -> bool {
    let template = Template::default();
    let filters = template.filters(Some(subject_id), Some(ident), None);
    let subject = template.subject(subject_id, ident, Kind::Event, "");
    let is_apart =
        |(at, one): (usize, &String)| filters.iter().skip(at + 1).all(|other| !overlap(one, other));
    filters.iter().any(|filter| covers(filter, &subject))
        && filters.iter().enumerate().all(is_apart)
        && template.makes(subject_id, &subject)
}

/// What JetStream's API may answer.
pub fn answers(payload: &[u8]) {
    nats::read_answers(payload);
}

/// A text for a terminal: what is left of it with its colours, in one line, and as JSON.
pub fn shown(text: &str) -> [String; 3] {
    [runs::harmless(text), harmless::one_line(text), harmless::json(&Value::from(text).to_string())]
}

/// Is it a character that nothing shown may have?
pub fn is_odd(c: char) -> bool {
    harmless::is_odd(c)
}
