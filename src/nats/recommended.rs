//! The stream that we recommend for runs, how others differ from it, and making it.
//!
//! One table says what each setting should be and why; `stream` shows it, and `stream create` makes it so.

use std::time::Duration;

use async_nats::Client;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    api::{Trouble, about, ask, connect, taking},
    jetstream::{self, StreamConfig, StreamInfo},
    link::close,
    probe::{Finding, Load, SMALL_RUN, State, of_stream},
};
use crate::{config::Connection, message::covers};

/// What a stream for runs is to be.
#[derive(Clone, Debug)]
pub(crate) struct Recommended {
    /// Its name.
    pub(crate) name: String,
    /// What it takes.
    pub(crate) subjects: Vec<String>,
    /// How many servers have a copy.
    pub(crate) replicas: u64,
    /// How long messages stay.
    pub(crate) max_age: Duration,
    /// How many bytes stay at most.
    pub(crate) max_bytes: u64,
    /// How long repeats are known.
    pub(crate) duplicate_window: Duration,
    /// Does the server know of messages that say how long they are to be kept?
    pub(crate) has_ttl: bool,
}

/// The first nats-server that does (NATS ADR-43).
const TTL_SINCE: (i64, i64, i64) = (2, 11, 0);

/// How long a stream says by itself that a run was killed. A message's own time to live is never shorter than this
/// (measured: the server raises it), so that it is short.
const MARKS: Duration = Duration::from_secs(15);

/// What people get who do not say otherwise.
pub(crate) const NAME: &str = "RUNS";
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
pub(crate) const MAX_BYTES: u64 = 10_000_000_000;
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// A setting of a stream beside what it should be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Compared {
    /// The setting, as the JetStream API calls it.
    pub(crate) setting: &'static str,
    /// What it is; `None` if there is no such stream yet.
    pub(crate) is: String,
    /// What we recommend.
    pub(crate) recommended: String,
    /// Is that the same, or better?
    pub(crate) agrees: bool,
    /// Why we recommend it.
    pub(crate) why: &'static str,
}

/// A stream that takes our messages, and what is to be said about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Look {
    /// Its name.
    pub(crate) name: String,
    /// Setting by setting.
    pub(crate) settings: Vec<Compared>,
    /// What would lose messages, and what surprises later.
    pub(crate) findings: Vec<Finding>,
}

impl Look {
    /// Would it lose messages?
    pub(crate) fn would_lose(&self) -> bool {
        self.findings.iter().any(|finding| finding.state == State::Problem)
    }
}

/// What came of making a stream.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// It is there now.
    New,
    /// It was there already, and is just so.
    Equal,
    /// It was there already and is different; nothing was changed.
    Different(Vec<Compared>),
    /// It would be made like this (a request of the JetStream API).
    Would(String),
}

impl Recommended {
    /// The table: each setting, what is to be, what is, whether that will do, and why.
    fn rows(&self, is: &StreamConfig) -> Vec<Compared> {
        let row = |setting, is: String, recommended: String, agrees, why| Compared {
            setting,
            is,
            recommended,
            agrees,
            why,
        };
        let limit = |value: i64| if value < 0 { "no limit".to_owned() } else { value.to_string() };
        let time = |time: Duration| if time.is_zero() { "no limit".to_owned() } else { in_words(time) };
        let words = |setting, is: &str, wanted: &'static str, why| {
            row(setting, is.to_owned(), wanted.to_owned(), is == wanted, why)
        };
        let covered =
            self.subjects.iter().all(|subject| is.subjects.iter().any(|wide| covers(wide, subject)));
        let age = is.max_age();
        let marks = Duration::from_nanos(u64::try_from(is.subject_delete_marker_ttl).unwrap_or(0));
        let mut rows = vec![
            row(
                "subjects",
                is.subjects.join(", "),
                self.subjects.join(", "),
                covered,
                "what is not taken is not kept, and not proved to have arrived",
            ),
            words("storage", &is.storage, "file", "memory is gone with the server"),
            words(
                "retention",
                &is.retention,
                "limits",
                "others give a message to one reader, or keep none without",
            ),
            words("discard", &is.discard, "old", "with new, a full stream refuses what running jobs publish"),
            row(
                "duplicate_window",
                time(is.duplicate_window()),
                time(self.duplicate_window),
                is.duplicate_window() >= self.duplicate_window,
                "repeats after an outage that was longer than this are stored twice",
            ),
            row(
                "max_age",
                time(age),
                time(self.max_age),
                age.is_zero() || age >= self.max_age,
                "how far back runs and logs can look",
            ),
            row(
                "max_bytes",
                limit(is.max_bytes),
                self.max_bytes.to_string(),
                is.max_bytes > 0 && u64::try_from(is.max_bytes).is_ok_and(|is| is >= self.max_bytes),
                "without a limit it fills the disk; a small one forgets soon",
            ),
            row(
                "max_msgs",
                limit(is.max_msgs),
                "no limit".to_owned(),
                is.max_msgs <= 0,
                "bytes and age are limits enough",
            ),
            row(
                "max_msgs_per_subject",
                limit(is.max_msgs_per_subject),
                "no limit".to_owned(),
                is.max_msgs_per_subject <= 0,
                "all events of a run are on one subject",
            ),
            row(
                "max_msg_size",
                limit(is.max_msg_size),
                "no limit".to_owned(),
                is.max_msg_size <= 0,
                "the server's max_payload is known to us, and larger events are cut to it; this one is not",
            ),
            row(
                "num_replicas",
                is.num_replicas.to_string(),
                self.replicas.to_string(),
                is.num_replicas >= self.replicas,
                "with 3 in a cluster, one server may go",
            ),
            row("no_ack", is.no_ack.to_string(), false.to_string(), !is.no_ack, "nothing could be confirmed"),
        ];
        if self.has_ttl {
            rows.push(row(
                "allow_msg_ttl",
                is.allow_msg_ttl.to_string(),
                true.to_string(),
                is.allow_msg_ttl,
                "with the option heartbeat the stream itself tells of runs that were killed",
            ));
            rows.push(row(
                "subject_delete_marker_ttl",
                if marks.is_zero() { "none".to_owned() } else { in_words(marks) },
                in_words(MARKS),
                !marks.is_zero() && marks <= MARKS,
                "so long it does; the server keeps a sign of life for no less than this, so that it must be short",
            ));
        }
        rows
    }

    /// The configuration, as the API takes it.
    fn request(&self) -> Value {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut request = json!({
            "name": self.name,
            "subjects": self.subjects,
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "duplicate_window": nanoseconds(self.duplicate_window),
            "max_age": nanoseconds(self.max_age),
            "max_bytes": self.max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "num_replicas": self.replicas,
            "allow_direct": true,
        });
        if let Some(request) = request.as_object_mut().filter(|_| self.has_ttl) {
            request.insert("allow_msg_ttl".to_owned(), true.into());
            request.insert("subject_delete_marker_ttl".to_owned(), nanoseconds(MARKS).into());
        }
        request
    }

    /// The same for what this server can.
    fn on(&self, client: &Client) -> Self {
        let (major, minor, patch) = TTL_SINCE;
        Self { has_ttl: client.is_server_compatible(major, minor, patch), ..self.clone() }
    }
}

/// A duration without parts that are zero.
fn in_words(time: Duration) -> String {
    let whole = Duration::from_secs(time.as_secs());
    if whole == time { humantime::format_duration(time).to_string() } else { format!("{time:?}") }
}

/// The streams that take our messages, each beside what we recommend. Is the server one of a cluster?
pub(crate) async fn look(connection: &Connection, wanted: &Recommended) -> Result<(Vec<Look>, bool), String> {
    let mut link = connect(connection).await.map_err(|error| format!("cannot connect to {error}"))?;
    let api = &connection.jetstream_api;
    let wanted = &wanted.on(&link.client);
    let server = link.client.server_info();
    let mut looks = Vec::new();
    for stream in taking(&mut link, api, &wanted.subjects).await.map_err(|trouble| trouble.to_string())? {
        let info =
            about(&mut link, api, &stream.config.name, None).await.map_err(|trouble| trouble.to_string())?;
        let load = Load {
            max_payload: server.max_payload as u64,
            per_subject: SMALL_RUN,
            is_cluster: server.cluster.is_some(),
            wants_ttl: false,
        };
        let name = stream.config.name.clone();
        let remarks = of_stream(&name, &stream.config, &info, load);
        looks.push(Look {
            settings: wanted.rows(&stream.config),
            findings: remarks
                .into_iter()
                .map(|(state, text)| Finding { step: "stream", state, text })
                .collect(),
            name,
        });
    }
    close(&link.client, &link.gone).await;
    Ok((looks, server.cluster.is_some()))
}

/// Makes the stream, unless it is there. `dry_run`: says how, and does nothing.
pub(crate) async fn create(
    connection: &Connection,
    wanted: &Recommended,
    dry_run: bool,
) -> Result<Made, String> {
    let mut link = connect(connection).await.map_err(|error| format!("cannot connect to {error}"))?;
    let api = &connection.jetstream_api;
    let wanted = &wanted.on(&link.client);
    let there = match about(&mut link, api, &wanted.name, None).await {
        Ok(info) => info.config,
        Err(Trouble::NoStream(_)) => None,
        Err(trouble) => return Err(trouble.to_string()),
    };
    if let Some(config) = there {
        let different: Vec<Compared> =
            wanted.rows(&config).into_iter().filter(|row| row.is != row.recommended).collect();
        return Ok(if different.is_empty() { Made::Equal } else { Made::Different(different) });
    }
    let question = jetstream::make_stream(api, &wanted.name, &wanted.request());
    if dry_run {
        return Ok(Made::Would(serde_json::to_string_pretty(&wanted.request()).unwrap_or_default()));
    }
    let answer = ask(&mut link, question).await.map_err(|trouble| trouble.to_string())?;
    let info: StreamInfo = serde_json::from_slice(&answer.payload)
        .map_err(|_| "an answer that we do not understand".to_owned())?;
    close(&link.client, &link.gone).await;
    info.refusal().map_or(Ok(Made::New), |refusal| Err(format!("the server refused it: {refusal}")))
}
