//! What the JetStream API says, and its error codes: once, for sessions, `check` and the commands.
//!
//! Requests and answers are those of nats-server (its `jetstream_api.go`; schemas `io.nats.jetstream.api.v1`). They are
//! read leniently: a later server may say more than we know.

use std::time::Duration;

use async_nats::{Message, StatusCode, jetstream::ErrorCode};
use serde::Deserialize;

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

/// A stream's answer to a message (`pub_ack_response`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// The message is stored, now or by an earlier copy.
    Stored,
    /// For good: this message will not be stored.
    Refused {
        /// The API's `err_code`.
        code: u64,
        /// The server's words.
        reason: String,
    },
    /// Try again.
    NotNow(String),
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

impl Ack {
    pub(super) fn read(message: &Message) -> Self {
        if is_unanswered(message) {
            return Self::NotNow("no stream answers".to_owned());
        }
        match serde_json::from_slice(&message.payload) {
            Ok(PubAck { error: None, seq }) if seq > 0 => Self::Stored,
            Ok(PubAck { error: Some(error), .. }) if error.passes() => {
                Self::NotNow(format!("{} ({})", error.description, error.err_code.0))
            }
            Ok(PubAck { error: Some(error), .. }) => {
                Self::Refused { code: error.err_code.0, reason: error.description }
            }
            Ok(_) | Err(_) => Self::NotNow("an answer that is no acknowledgement".to_owned()),
        }
    }
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

/// How is this stream made, and what is in it?
pub(super) fn about_stream(api: &str, name: &str) -> Question {
    (format!("{api}.STREAM.INFO.{name}"), String::new())
}

/// The answer to [`about_stream`] (`stream_info_response`), as far as it concerns us.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Option<StreamConfig>,
    #[serde(default)]
    pub(super) state: StreamState,
}

/// How a stream is made; -1 means no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamConfig {
    pub(super) max_msgs: i64,
    pub(super) max_bytes: i64,
    /// Nanoseconds.
    max_age: i64,
    /// Nanoseconds.
    duplicate_window: u64,
    pub(super) num_replicas: u64,
    pub(super) discard: String,
    pub(super) no_ack: bool,
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
        let read = |payload: &str, status: Option<u16>| Ack::read(&message(payload, status));
        assert_eq!(read(r#"{"stream":"S","seq":7}"#, None), Ack::Stored);
        assert_eq!(read(r#"{"stream":"S","seq":7,"duplicate":true}"#, None), Ack::Stored);
        for passing in [
            r#"{"error":{"code":503,"err_code":10008,"description":"x"},"seq":0}"#,
            r#"{"error":{"code":503,"description":"not leader"}}"#,
            r#"{"error":{"code":409,"err_code":10158,"description":"x"}}"#,
        ] {
            assert!(matches!(read(passing, None), Ack::NotNow(_)), "{passing}");
        }
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        let reason = "maximum messages exceeded".to_owned();
        assert_eq!(read(full, None), Ack::Refused { code: 10_077, reason });
        assert!(matches!(read("", Some(503)), Ack::NotNow(_)));
        for garbage in ["", "{}", "[]", "null", r#"{"seq":0}"#, "\u{0}"] {
            assert!(!matches!(read(garbage, None), Ack::Stored), "{garbage}");
        }
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
