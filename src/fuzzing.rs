//! What the fuzz targets call: the parsers that read what others wrote.

use serde_json::{Map, Value};

use crate::{
    config,
    message::{self, About, Composer, Kind, Message, Template},
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
        let about = About { kind, name: "name", own_id: &["7", uuid], created: None };
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
