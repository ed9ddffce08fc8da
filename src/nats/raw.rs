//! A stream's messages one by one, as JSON: what a client library cannot read as it comes over the wire can be read so.
//!
//! async-nats parts a message's first line at any white space of Unicode's: a subject with a no-break space in it, which
//! servers take and 0.4.0 publishes, ends the connection of everybody who reads it; so does a subject or a header that is no
//! UTF-8. The API gives subject and headers as texts of their own.

use std::{str::FromStr, time::SystemTime};

use async_nats::HeaderName;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::json;

use super::{
    api::{Stream, Trouble, about, ask},
    jetstream,
    link::Link,
};
use crate::message::{Received, moment};

/// A message of a stream (`StoredMsg` of `io.nats.jetstream.api.v1.stream_msg_get_response`).
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    pub(super) seq: u64,
    pub(super) subject: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

#[derive(Deserialize)]
struct Answer {
    message: Option<Raw>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u16,
    #[serde(default)]
    description: String,
}

impl Raw {
    /// The first message from a number on that matches a filter.
    pub(super) async fn next(
        link: &mut Link,
        api: &str,
        stream: &str,
        filters: &[String],
        from: u64,
    ) -> Result<Option<Self>, Trouble> {
        let mut first: Option<Self> = None;
        for filter in filters {
            let question = json!({ "seq": from.max(1), "next_by_subj": filter });
            let found = Self::get(link, api, stream, &question).await?;
            first = first.into_iter().chain(found).min_by_key(|raw| raw.seq);
        }
        Ok(first)
    }

    /// The number of the first message that was stored at this time or later.
    pub(super) async fn first_since(
        link: &mut Link,
        api: &str,
        stream: &Stream,
        since: SystemTime,
    ) -> Result<u64, Trouble> {
        // Those before `low` are older; the one at `high`, if there is one, is not.
        let (mut low, mut high) = (stream.state.first_seq, stream.state.last_seq + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let question = json!({ "seq": middle, "next_by_subj": ">" });
            match Self::get(link, api, &stream.config.name, &question).await? {
                Some(raw) if raw.stored().is_some_and(|stored| stored < since) => low = raw.seq + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The last message of each subject that matches a filter, in the stream's order.
    pub(super) async fn last_of_each(
        link: &mut Link,
        api: &str,
        stream: &str,
        filters: &[String],
    ) -> Result<Vec<Self>, Trouble> {
        let mut all = Vec::new();
        for filter in filters {
            let info = about(link, api, stream, Some(filter)).await?;
            for subject in info.state.into_subjects() {
                all.extend(Self::get(link, api, stream, &json!({ "last_by_subj": subject })).await?);
            }
        }
        all.sort_by_key(|raw| raw.seq);
        Ok(all)
    }

    /// The message of this number; `None` if it is not there any more.
    pub(super) async fn at(
        link: &mut Link,
        api: &str,
        stream: &str,
        number: u64,
    ) -> Result<Option<Self>, Trouble> {
        Self::get(link, api, stream, &json!({ "seq": number })).await
    }

    async fn get(
        link: &mut Link,
        api: &str,
        stream: &str,
        question: &serde_json::Value,
    ) -> Result<Option<Self>, Trouble> {
        const NOT_FOUND: u16 = 404;
        let answer = ask(link, jetstream::stored_message(api, stream, question)).await?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Answer { error: Some(error), .. }) if error.code == NOT_FOUND => Ok(None),
            Ok(Answer { error: Some(error), .. }) => {
                Err(Trouble::NotNow(format!("stream {stream}: {}", error.description)))
            }
            Ok(Answer { message, error: None }) => Ok(message),
            Err(_) => Err(Trouble::NotNow("an answer that we do not understand".to_owned())),
        }
    }

    /// Could it be read as it comes over the wire?
    pub(super) fn is_readable(&self) -> bool {
        let odd = |c: char| c == char::REPLACEMENT_CHARACTER || c.is_whitespace();
        let is_header = |line: &str| {
            line.starts_with([' ', '\t'])
                || line.split_once(':').is_some_and(|(name, _)| HeaderName::from_str(name).is_ok())
        };
        !self.subject.contains(odd)
            && String::from_utf8(decoded(&self.hdrs))
                .is_ok_and(|block| block.lines().skip(1).all(|line| line.is_empty() || is_header(line)))
    }

    fn stored(&self) -> Option<SystemTime> {
        moment(&self.time).map(|(_, when)| when)
    }

    /// As any other message.
    pub(super) fn received(self) -> Received {
        let block = decoded(&self.hdrs);
        let block = String::from_utf8_lossy(&block);
        let header = |name: &str| {
            let mut lines = block.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines
                .find(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let stored = self.stored();
        Received::new(self.subject, decoded(&self.data).into(), stored, header)
    }
}

fn decoded(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(subject: &str, headers: &[u8]) -> Raw {
        let (data, hdrs) = (BASE64_STANDARD.encode("{}"), BASE64_STANDARD.encode(headers));
        Raw { seq: 1, subject: subject.into(), data, hdrs, time: "2026-11-29T12:00:00.5Z".into() }
    }

    #[test]
    fn what_comes_over_the_wire_and_what_does_not() {
        assert!(raw("a.b", b"").is_readable());
        assert!(raw("a.b", b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n").is_readable());
        for (subject, headers) in [
            ("a.b\u{a0}c", &b"NATS/1.0\r\nA: b\r\n\r\n"[..]),
            ("a.\u{2028}", b""),
            ("a.\u{fffd}", b""),
            ("a", b"NATS/1.0\r\nA: \xff\r\n\r\n"),
            ("a", b"NATS/1.0\r\nno colon\r\n\r\n"),
        ] {
            assert!(!raw(subject, headers).is_readable(), "{subject}");
        }
    }

    #[test]
    fn it_is_a_message_like_any_other() {
        let headers = b"NATS/1.0\r\nnats-msg-id: a.b.1\r\nAnsible-Runner-Truncated: 7\r\n\r\n";
        let received = raw("a\u{a0}", headers).received();
        assert_eq!((received.id.as_deref(), received.cut, received.selected), (Some("a.b.1"), true, false));
        assert_eq!((received.subject.as_str(), &received.payload[..]), ("a\u{a0}", &b"{}"[..]));
        assert!(received.stored.is_some());
    }
}
