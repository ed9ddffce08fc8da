//! What the JetStream API says, and its error codes: once, for sessions, `check` and the commands.
//!
//! Requests and answers are those of nats-server (its `jetstream_api.go`; schemas `io.nats.jetstream.api.v1`). They are
//! read leniently: a later server may say more than we know.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_nats::{Message, StatusCode, jetstream::ErrorCode};
use serde::Deserialize;

use crate::{
    delivery::{Ack, Says},
    message::moment,
};

/// An error of the API.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: ErrorCode,
    #[serde(default)]
    pub(super) description: String,
}

impl ApiError {
    /// Errors that pass: no leader of the cluster, a leader that steps down, Raft, a repeat whose first copy is still
    /// being stored, too much at once.
    const PASSING: [ErrorCode; 5] = [
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::RAFT_GENERAL,
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT,
        ErrorCode::STREAM_TOO_MANY_REQUESTS,
    ];

    /// JetStream is not there: for this server, or for this account.
    const NO_JETSTREAM: [ErrorCode; 2] =
        [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];

    /// Is it worth trying again?
    fn passes(&self) -> bool {
        const UNAVAILABLE: u64 = 503;
        // Without a number: a leader that lost its office between check and proposal.
        (self.code == UNAVAILABLE && self.err_code == ErrorCode::default())
            || Self::PASSING.contains(&self.err_code)
    }

    fn says_no_jetstream(&self) -> bool {
        Self::NO_JETSTREAM.contains(&self.err_code)
    }
}

/// Did the server say that nobody listens there?
pub(super) fn is_unanswered(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(default, borrow)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

/// Where a stream says that it has stored a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Receipt<'a> {
    pub(super) stream: Cow<'a, str>,
    /// The message's number there.
    pub(super) number: u64,
    /// It is that of an earlier copy.
    pub(super) is_repeat: bool,
}

/// The answer to a message that was published with a reply subject (`pub_ack_response`). `None`: it is no stream's, but of
/// somebody else who answers what he gets, and says nothing of what became of the message.
pub(super) fn read_ack(message: &Message) -> Option<Ack> {
    read_receipt(message).map(|(ack, _)| ack)
}

/// The same, and where the message is stored, if it is.
pub(super) fn read_receipt(message: &Message) -> Option<(Ack, Option<Receipt<'_>>)> {
    if is_unanswered(message) {
        return Some((Ack::Nobody, None));
    }
    let answer: PubAck<'_> = serde_json::from_slice(&message.payload).ok()?;
    match answer.error {
        None => (answer.seq > 0).then(|| {
            let PubAck { stream, seq, duplicate, .. } = answer;
            (Ack::Stored, Some(Receipt { stream, number: seq, is_repeat: duplicate }))
        }),
        Some(error) if error.passes() => {
            Some((Ack::NotNow(format!("{} ({})", error.description, error.err_code.0)), None))
        }
        Some(error) => Some((Ack::Refused { code: error.err_code.0, reason: error.description }, None)),
    }
}

/// What a stream says to a message that is meant for another one: nothing is stored, and the stream is well.
pub(super) const NOT_THIS_STREAM: u64 = ErrorCode::STREAM_NOT_MATCH.0;

/// Which stream is it that answers a message? Refusals say so, too.
pub(super) fn answering_stream(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        stream: String,
    }
    serde_json::from_slice::<Named>(&message.payload).ok().map(|named| named.stream)
}

/// The subject and the payload of a question.
pub(super) type Question = (String, String);

/// Which streams take messages on `subject`?
pub(super) fn which_streams(api: &str, subject: &str) -> Question {
    (format!("{api}.STREAM.NAMES"), serde_json::json!({ "subject": subject }).to_string())
}

/// The answer to [`which_streams`] (`stream_names_response`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Captured {
    /// Streams of these names do.
    By(Vec<String>),
    /// No stream does; there is a JetStream that says so, for this account or in general.
    No,
    /// Nobody answers for JetStream: there is none, or none yet.
    Nobody,
    /// Whether a stream does cannot be told at present.
    NotNow(String),
}

#[derive(Deserialize)]
struct StreamNames {
    #[serde(default)]
    streams: Option<Vec<String>>,
    error: Option<ApiError>,
}

impl Captured {
    /// What that means for a machine that delivers.
    pub(super) fn says(&self) -> Says {
        match self {
            Self::By(_) => Says::Yes,
            Self::No => Says::No,
            Self::Nobody => Says::Nobody,
            Self::NotNow(_) => Says::NotNow,
        }
    }

    pub(super) fn read(message: &Message) -> Self {
        if is_unanswered(message) {
            return Self::Nobody;
        }
        match serde_json::from_slice(&message.payload) {
            Ok(StreamNames { error: None, streams }) => match streams.unwrap_or_default() {
                names if names.is_empty() => Self::No,
                names => Self::By(names),
            },
            Ok(StreamNames { error: Some(error), .. }) if error.says_no_jetstream() => Self::No,
            Ok(StreamNames { error: Some(error), .. }) => Self::NotNow(error.description),
            Err(_) => Self::NotNow("an answer that we do not understand".to_owned()),
        }
    }
}

/// Reads a payload as every answer that there is; for the fuzz targets.
pub(crate) fn read_answers(payload: &[u8]) {
    let message = Message {
        subject: "a".into(),
        reply: None,
        payload: payload.to_vec().into(),
        headers: None,
        status: None,
        description: None,
        length: payload.len(),
    };
    let _ = (read_ack(&message), answering_stream(&message), Captured::read(&message));
    let _ = serde_json::from_slice::<StreamInfo>(payload).map(|info| info.state.counted());
    let _ = serde_json::from_slice::<AccountInfo>(payload);
}

/// How is this stream made, and what is in it? `counted`: a subject whose messages are to be counted.
pub(super) fn about_stream(api: &str, name: &str, counted: Option<&str>) -> Question {
    let request = counted.map(|subject| serde_json::json!({ "subjects_filter": subject }).to_string());
    (format!("{api}.STREAM.INFO.{name}"), request.unwrap_or_default())
}

/// The message of this number in a stream, if it has one.
pub(super) fn message_at(api: &str, name: &str, number: u64) -> Question {
    stored_message(api, name, &serde_json::json!({ "seq": number }))
}

/// A message of a stream, by what is asked for (`stream_msg_get_request`).
pub(super) fn stored_message(api: &str, name: &str, request: &serde_json::Value) -> Question {
    (format!("{api}.STREAM.MSG.GET.{name}"), request.to_string())
}

/// Is this where somebody asks [`about_stream`]?
pub(super) fn is_about_stream(api: &str, subject: &str) -> bool {
    subject.strip_prefix(api).is_some_and(|rest| rest.starts_with(".STREAM.INFO."))
}

/// Make a stream; the answer is a `StreamInfo`, too.
pub(super) fn make_stream(api: &str, name: &str, config: &serde_json::Value) -> Question {
    (format!("{api}.STREAM.CREATE.{name}"), config.to_string())
}

/// What may this account store, and what does it?
pub(super) fn about_account(api: &str) -> Question {
    (format!("{api}.INFO"), String::new())
}

/// The answer to [`about_account`] (`account_info_response`), as far as it concerns us.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccountInfo {
    #[serde(flatten)]
    pub(super) all: Usage,
    /// By number of replicas (`R1`, `R3`), if that is how the account is limited.
    pub(super) tiers: HashMap<String, Usage>,
}

/// What is stored, and how much may be.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) memory: u64,
    pub(super) storage: u64,
    pub(super) limits: Limits,
}

/// In bytes; negative means no limit.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) max_memory: i64,
    pub(super) max_storage: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_memory: -1, max_storage: -1 }
    }
}

/// The answer to [`about_stream`] (`stream_info_response`), as far as it concerns us.
#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Option<StreamConfig>,
    #[serde(default)]
    pub(super) state: StreamState,
    /// When it was made (RFC 3339).
    #[serde(default)]
    pub(super) created: Option<String>,
    pub(super) cluster: Option<StreamCluster>,
    /// What time it is for the server that answers (RFC 3339; since nats-server 2.10).
    #[serde(default)]
    ts: String,
    error: Option<ApiError>,
}

impl StreamInfo {
    /// What the API says instead, if it does.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.error.as_ref().map(|error| error.description.as_str())
    }

    /// What time it was for the server when it answered.
    pub(super) fn now(&self) -> Option<SystemTime> {
        moment(&self.ts).map(|(_, now)| now)
    }

    /// What was published before this time it may have let go, by its own limits; `None`: nothing.
    pub(super) fn horizon(&self, now: SystemTime) -> Option<SystemTime> {
        let age = self.config.as_ref().map(StreamConfig::max_age).filter(|age| !age.is_zero());
        let by_age = age.and_then(|age| now.checked_sub(age));
        let state = &self.state;
        let has_let_go = state.first_seq > 1 && state.messages > 0;
        let first = moment(&state.first_ts).map(|(_, first)| first).filter(|_| has_let_go);
        by_age.max(first)
    }

    /// Is there no stream of that name?
    pub(super) fn is_not_there(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.err_code == ErrorCode::STREAM_NOT_FOUND)
    }
}

/// How a stream is made; what is not positive is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "as the API has it")]
pub(super) struct StreamConfig {
    pub(super) name: String,
    pub(super) subjects: Vec<String>,
    pub(super) max_msgs: i64,
    pub(super) max_bytes: i64,
    pub(super) max_msgs_per_subject: i64,
    pub(super) max_msg_size: i64,
    /// Nanoseconds.
    max_age: i64,
    /// Nanoseconds.
    duplicate_window: u64,
    pub(super) num_replicas: u64,
    pub(super) retention: String,
    pub(super) storage: String,
    pub(super) discard: String,
    pub(super) discard_new_per_subject: bool,
    pub(super) no_ack: bool,
    pub(super) sealed: bool,
    /// A message may say how long it is to be kept (NATS ADR-43).
    pub(super) allow_msg_ttl: bool,
    /// Where that time is over, a marker says so for this long, in nanoseconds.
    pub(super) subject_delete_marker_ttl: i64,
    pub(super) subject_transform: Option<Transform>,
    pub(super) consumer_limits: ConsumerLimits,
}

/// What consumers of a stream may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConsumerLimits {
    /// Nanoseconds; zero is no limit.
    inactive_threshold: u64,
}

impl ConsumerLimits {
    /// So long a consumer may stay at most that nobody asks for messages.
    pub(super) fn inactive_threshold(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.inactive_threshold)).filter(|limit| !limit.is_zero())
    }
}

/// Stored under another subject.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transform {
    pub(super) src: String,
    pub(super) dest: String,
}

impl Transform {
    /// Where a message is stored that is published to `subject`, as a filter: the parts that are computed in another way
    /// than by their place are not known (NATS ADR-36).
    pub(super) fn stored(&self, subject: &str) -> String {
        let mut captured = Vec::new();
        let mut tokens = subject.split('.');
        for pattern in self.src.split('.') {
            match pattern {
                ">" => break,
                "*" => captured.extend(tokens.next()),
                literal if tokens.next() == Some(literal) => {}
                // It is not for this subject.
                _ => return subject.to_owned(),
            }
        }
        let rest: Vec<&str> = tokens.collect();
        let is_open = self.src.split('.').next_back() == Some(">");
        if is_open == rest.is_empty() && !(self.src.is_empty() || self.src == ">") {
            return subject.to_owned();
        }
        let mut stored: Vec<&str> = Vec::new();
        for token in self.dest.split('.') {
            let number = token
                .strip_prefix('$')
                .or_else(|| token.strip_prefix("{{wildcard(")?.strip_suffix(")}}"))
                .or_else(|| token.strip_prefix("{{Wildcard(")?.strip_suffix(")}}"))
                .map(|number| number.trim().parse::<usize>());
            match number {
                Some(Ok(number)) => {
                    let found = number.checked_sub(1).and_then(|index| captured.get(index));
                    stored.push(found.copied().unwrap_or("*"));
                }
                None if token == ">" => stored.extend(&rest),
                None if !token.contains("{{") => stored.push(token),
                // It may be several.
                Some(Err(_)) | None => {
                    stored.push(">");
                    break;
                }
            }
        }
        stored.join(".")
    }
}

impl StreamConfig {
    pub(super) fn duplicate_window(&self) -> Duration {
        Duration::from_nanos(self.duplicate_window)
    }

    /// How long a message stays; zero means for ever.
    pub(super) fn max_age(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.max_age).unwrap_or(0))
    }
}

/// What is in a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    /// When that came (RFC 3339).
    first_ts: String,
    pub(super) last_seq: u64,
    pub(super) consumer_count: u64,
    /// Messages by subject, of those that were asked for.
    subjects: Option<HashMap<String, u64>>,
}

impl StreamState {
    /// How many messages of the subject that was asked for.
    pub(super) fn counted(&self) -> u64 {
        self.subjects.iter().flatten().map(|(_, count)| *count).sum()
    }

    /// Those of the subjects that were asked for which have messages.
    pub(super) fn into_subjects(self) -> impl Iterator<Item = String> {
        self.subjects.into_iter().flatten().map(|(subject, _)| subject)
    }
}

/// Where a stream lives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamCluster {
    pub(super) leader: String,
    replicas: Option<Vec<Replica>>,
}

impl StreamCluster {
    /// The replicas that the leader does not hear.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().flatten().filter(|replica| replica.is_missing())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Replica {
    pub(super) name: String,
    offline: bool,
    /// How long ago the leader heard of it, in nanoseconds.
    active: u64,
}

impl Replica {
    /// A leader's heartbeat is answered each second.
    const SILENT: Duration = Duration::from_secs(10);

    fn is_missing(&self) -> bool {
        self.offline || Duration::from_nanos(self.active) > Self::SILENT
    }
}

/// What a server tells of a message's way (NATS ADR-41).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Trace {
    pub(super) events: Vec<TraceEvent>,
    /// So many other servers have got the message from this one, and tell of it, too.
    pub(super) hops: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TraceEvent {
    r#type: String,
    pub(super) stream: String,
    pub(super) nointerest: bool,
    pub(super) error: Option<String>,
    /// From or to what kind of connection it went.
    kind: u64,
}

impl TraceEvent {
    const CLIENT: u64 = 0;
}

impl Trace {
    /// Where the answers go that make up a trace, and that nobody is to get the message.
    pub(super) const DESTINATION: &'static str = "Nats-Trace-Dest";
    pub(super) const ONLY: &'static str = "Nats-Trace-Only";
    /// The first nats-server that traces; earlier ones would deliver the message.
    pub(super) const SINCE: (u64, u64) = (2, 11);

    /// What became of it in a stream.
    pub(super) fn stream(self) -> Option<TraceEvent> {
        self.events.into_iter().find(|event| event.r#type == "js")
    }

    /// Why another server did not get it: one that is too old to trace would deliver it.
    pub(super) fn not_passed_on(&self) -> Option<String> {
        let onward = |event: &&TraceEvent| event.r#type == "eg" && event.kind != TraceEvent::CLIENT;
        self.events.iter().filter(onward).find_map(|event| event.error.clone())
    }

    /// Is it told by the server that has got the message from us?
    pub(super) fn is_first(&self) -> bool {
        self.events.iter().any(|event| event.r#type == "in" && event.kind == TraceEvent::CLIENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str, status: Option<u16>) -> Message {
        Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: status.map(|code| StatusCode::from_u16(code).unwrap()),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn the_answers_of_a_stream() {
        let read = |payload: &str, status: Option<u16>| read_ack(&message(payload, status));
        assert_eq!(read(r#"{"stream":"S","seq":7}"#, None), Some(Ack::Stored));
        assert_eq!(read(r#"{"stream":"S","seq":7,"duplicate":true}"#, None), Some(Ack::Stored));
        for passing in [
            r#"{"error":{"code":503,"err_code":10008,"description":"x"},"seq":0}"#,
            r#"{"error":{"code":503,"description":"not leader"}}"#,
            r#"{"error":{"code":409,"err_code":10158,"description":"x"}}"#,
        ] {
            assert!(matches!(read(passing, None), Some(Ack::NotNow(_))), "{passing}");
        }
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        let reason = "maximum messages exceeded".to_owned();
        assert_eq!(read(full, None), Some(Ack::Refused { code: 10_077, reason }));
        assert_eq!(read("", Some(503)), Some(Ack::Nobody));
        for garbage in ["", "{}", "[]", "null", r#"{"seq":0}"#, "\u{0}", "ok"] {
            assert_eq!(read(garbage, None), None, "{garbage}");
        }
    }

    #[test]
    fn the_servers_clock() {
        let info = |answer: &str| serde_json::from_str::<StreamInfo>(answer).unwrap().now();
        let noon = info(r#"{"ts":"2026-11-29T12:00:00.25Z"}"#).unwrap();
        let later = info(r#"{"ts":"2026-11-29T15:00:00.250000001+01:00"}"#).unwrap();
        assert_eq!(noon, SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_953_600_250));
        assert_eq!(later.duration_since(noon).unwrap(), Duration::from_nanos(7_200_000_000_001));
        assert_eq!((info("{}"), info(r#"{"ts":"noon"}"#)), (None, None));
    }

    #[test]
    fn what_a_trace_tells() {
        let trace = |events: &str| -> Trace {
            serde_json::from_str(&format!(r#"{{"server":{{}},"events":{events}}}"#)).unwrap()
        };
        let here = trace(r#"[{"type":"in","kind":0},{"type":"js","stream":"S","nointerest":true}]"#);
        assert!(here.is_first() && here.hops == 0);
        assert!(here.stream().is_some_and(|event| event.stream == "S" && event.nointerest));
        let elsewhere = trace(r#"[{"type":"in","kind":1},{"type":"eg","kind":0}]"#);
        assert!(!elsewhere.is_first() && elsewhere.not_passed_on().is_none() && elsewhere.stream().is_none());
        let nowhere = trace(r#"[{"type":"in"},{"type":"eg","kind":1,"error":"too old"}]"#);
        assert_eq!(nowhere.not_passed_on().as_deref(), Some("too old"));
    }

    #[test]
    fn whether_a_stream_takes_a_subject() {
        let read = |payload: &str, status: Option<u16>| Captured::read(&message(payload, status));
        assert_eq!(read(r#"{"streams":["A","B"]}"#, None), Captured::By(vec!["A".into(), "B".into()]));
        assert_eq!(read(r#"{"streams":null}"#, None), Captured::No);
        assert_eq!(read("", Some(503)), Captured::Nobody);
        for none in [10_039, 10_076] {
            let error = format!(r#"{{"error":{{"code":503,"err_code":{none},"description":"x"}}}}"#);
            assert_eq!(read(&error, None), Captured::No, "{none}");
        }
        for passing in [r#"{"error":{"code":503,"err_code":10008,"description":"x"}}"#, "", "[]"] {
            assert!(matches!(read(passing, None), Captured::NotNow(_)), "{passing}");
        }
    }
}
