//! What goes to NATS for one event or status: subject, headers, id, payload.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a message tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of ansible's events.
    Event,
    /// A change of the run's state.
    Status,
}

impl Kind {
    /// The last token of the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Status => "status",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Event, Self::Status].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The header by which a stream drops repeats (NATS ADR-31).
pub const MSG_ID: &str = "Nats-Msg-Id";

/// Set on a message that was cut to the server's `max_payload`; its value is the original size in bytes.
pub const TRUNCATED: &str = "Ansible-Runner-Truncated";

/// A message, ready to be sent any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub subject: Arc<str>,
    /// The user's headers, shared by all messages of a run.
    pub headers: Arc<[(String, String)]>,
    /// Unique per message, and the same each time it is sent.
    pub id: String,
    /// JSON.
    pub payload: Bytes,
}

impl Message {
    /// What the message costs while it is held: its bytes and some for the bookkeeping.
    pub fn size(&self) -> usize {
        const BOOKKEEPING: usize = 256;
        self.payload.len() + self.id.len() + BOOKKEEPING
    }

    /// Every header in the order of sending.
    pub fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = std::iter::once((MSG_ID, self.id.as_str()));
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own)
    }
}

/// A line of a spill file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    subject: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The payload as text: JSON in JSON, so that it comes back byte by byte.
    payload: Cow<'a, str>,
}

impl Message {
    /// The message as one line of a spill file, with its line end.
    pub fn to_line(&self) -> Vec<u8> {
        let line = Line {
            subject: Cow::Borrowed(&self.subject),
            headers: self.all_headers().map(|(k, v)| (Cow::Borrowed(k), Cow::Borrowed(v))).collect(),
            payload: String::from_utf8_lossy(&self.payload),
        };
        // Strings and lists of strings: this cannot fail.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a line of a spill file; `None` if it is not one.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let mut id = None;
        let mut headers = Vec::new();
        for (name, value) in line.headers {
            if name == MSG_ID {
                id = Some(value.into_owned());
            } else {
                headers.push((name.into_owned(), value.into_owned()));
            }
        }
        Some(Self {
            subject: line.subject.into(),
            headers: headers.into(),
            id: id?,
            payload: Bytes::from(line.payload.into_owned()),
        })
    }
}

/// `pub.ansible.runner.{subject_id}.{runner_ident}.{kind}`.
pub fn subject(subject_id: &str, ident: &str, kind: Kind) -> Arc<str> {
    format!("pub.ansible.runner.{}.{}.{}", tokens(subject_id), tokens(ident), kind.as_str()).into()
}

/// A text as one or more tokens of a subject: its dots stay, what NATS forbids becomes `_`.
fn tokens(text: &str) -> String {
    // nats-server's default `max_control_line` is 4,096 bytes; a longer subject ends the connection.
    const LONGEST: usize = 1024;
    let mut safe = String::with_capacity(text.len().min(LONGEST));
    for token in text.split('.') {
        if !safe.is_empty() {
            safe.push('.');
        }
        if token.is_empty() {
            safe.push('_');
        }
        for c in token.chars() {
            if safe.len() + c.len_utf8() > LONGEST {
                return safe;
            }
            let forbidden = c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
            safe.push(if forbidden { '_' } else { c });
        }
    }
    safe
}

/// A message id from parts that may hold anything: fit for a header line.
pub fn message_id(parts: &[&str]) -> String {
    const LONGEST: usize = 256;
    let mut id = String::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            id.push('.');
        }
        // Each part by itself: what makes the id unique stands at its end.
        let end = id.len() + LONGEST;
        for c in part.chars() {
            if id.len() + c.len_utf8() > end {
                break;
            }
            id.push(if c.is_control() { '_' } else { c });
        }
    }
    id
}

/// A text that no other process and no other call has: 16 hexadecimal digits from the operating system.
pub fn nonce() -> String {
    let number = getrandom::u64().unwrap_or_else(|_| {
        // No randomness to be had: still unique on this host.
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        u64::from(std::process::id()) << 32 | u64::from(now)
    });
    format!("{number:016x}")
}

/// Shortens the longest strings of a JSON payload until it takes `limit` bytes at most; what is left is
/// valid JSON, and each cut says how much went. `None` if it cannot be made to fit.
pub fn cut(payload: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(payload).ok()?;
    let mut keep = longest_string(&value);
    // Halving converges in at most 64 rounds whatever the escapes do to the lengths.
    while keep > 0 {
        keep /= 2;
        shorten_strings(&mut value, keep);
        let bytes = serde_json::to_vec(&value).ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
    }
    None
}

/// The length in bytes of the longest string value.
fn longest_string(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(longest_string).max().unwrap_or(0),
        Value::Object(map) => map.values().map(longest_string).max().unwrap_or(0),
        _ => 0,
    }
}

fn shorten_strings(value: &mut Value, keep: usize) {
    match value {
        Value::String(text) => shorten_string(text, keep),
        Value::Array(items) => items.iter_mut().for_each(|item| shorten_strings(item, keep)),
        Value::Object(map) => map.values_mut().for_each(|item| shorten_strings(item, keep)),
        _ => {}
    }
}

/// `text` to `keep` bytes and a marker; an earlier marker's count is carried on.
fn shorten_string(text: &mut String, keep: usize) {
    let (body, gone_before) = split_marker(text);
    if body.len() <= keep {
        return;
    }
    let kept = (0..=keep).rev().find(|end| body.is_char_boundary(*end)).unwrap_or(0);
    let gone = gone_before + body.len() - kept;
    let marked = format!("{}{MARKER_START}{gone}{MARKER_END}", body.get(..kept).unwrap_or_default());
    // Not worth it if the marker is longer than what it stands for.
    if marked.len() < text.len() {
        *text = marked;
    }
}

const MARKER_START: &str = "... [";
const MARKER_END: &str = " bytes cut by ansible-runner-nats]";

fn split_marker(text: &str) -> (&str, usize) {
    let parts = text
        .strip_suffix(MARKER_END)
        .and_then(|rest| rest.rsplit_once(MARKER_START))
        .and_then(|(body, count)| Some((body, count.parse().ok()?)));
    parts.unwrap_or((text, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subjects_keep_dots_and_lose_what_nats_forbids() {
        for (id, ident, expected) in [
            ("a", "b", "pub.ansible.runner.a.b.event"),
            ("a.b", "c.d", "pub.ansible.runner.a.b.c.d.event"),
            ("a b\t", "x\r\ny", "pub.ansible.runner.a_b_.x__y.event"),
            ("*", ">", "pub.ansible.runner._._.event"),
            (".a..b.", "", "pub.ansible.runner._.a._.b._._.event"),
            ("grün", "\u{202f}", "pub.ansible.runner.grün._.event"),
        ] {
            assert_eq!(&*subject(id, ident, Kind::Event), expected);
        }
        assert!(subject(&"x".repeat(10_000_000), &"y".repeat(10_000_000), Kind::Status).len() < 2100);
    }

    #[test]
    fn ids_fit_into_a_header_line() {
        assert_eq!(message_id(&["a", "b\r\nc", "1"]), "a.b__c.1");
        let long = message_id(&[&"ü".repeat(100_000), "7", "uuid"]);
        assert!(long.len() < 300 && long.ends_with(".7.uuid"));
    }

    fn message() -> Message {
        Message {
            subject: "a.b".into(),
            headers: vec![("k".to_owned(), "v \"w\"".to_owned())].into(),
            id: "id.1".to_owned(),
            payload: Bytes::from_static("{\"a\":\"\\n ü\"}".as_bytes()),
        }
    }

    #[test]
    fn a_spilled_message_comes_back_as_it_was() {
        let line = message().to_line();
        assert_eq!(line.split_inclusive(|b| *b == b'\n').count(), 1);
        assert_eq!(Message::from_line(&line).unwrap(), message());
    }

    #[test]
    fn garbage_is_no_message() {
        for line in [&b""[..], b"{}", b"[1]", b"{\"subject\":\"a\",\"headers\":[],\"payload\":\"\"}", b"\xff"]
        {
            assert_eq!(Message::from_line(line), None);
        }
        let whole = message().to_line();
        for end in 0..whole.len() - 1 {
            assert_eq!(Message::from_line(&whole[..end]), None);
        }
    }

    #[test]
    fn a_cut_payload_is_valid_fits_and_says_what_went() {
        let event =
            json!({"stdout": "ü\"".repeat(50_000), "counter": 7, "event_data": {"res": {"msg": "short"}}});
        let bytes = serde_json::to_vec(&event).unwrap();
        for limit in [100_000, 10_000, 300] {
            let small = cut(&bytes, limit).unwrap();
            assert!(small.len() <= limit && small.len() > limit / 8, "{} of {limit}", small.len());
            let value: Value = serde_json::from_slice(&small).unwrap();
            assert_eq!(value["counter"], 7);
            assert_eq!(value["event_data"]["res"]["msg"], "short");
            let (body, gone) = split_marker(value["stdout"].as_str().unwrap());
            assert_eq!(body.len() + gone, 150_000);
        }
    }

    #[test]
    fn what_is_not_strings_cannot_be_cut() {
        let numbers = serde_json::to_vec(&vec![1234; 10_000]).unwrap();
        assert_eq!(cut(&numbers, 100), None);
    }
}
