//! What goes to NATS for one event or status: subject, headers, id, payload.

use std::{borrow::Cow, io, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cut::cut;

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

/// Names the stream that must take the message (nats-server refuses it otherwise).
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// A message, ready to be sent any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub subject: Arc<str>,
    /// The user's headers, shared by all messages of a run.
    pub headers: Arc<[(String, String)]>,
    /// Unique per message, and the same each time it is sent.
    pub id: Arc<str>,
    /// JSON.
    pub payload: Bytes,
}

impl Message {
    /// What the message costs while it is held: its bytes and some for the bookkeeping.
    pub fn size(&self) -> usize {
        const BOOKKEEPING: usize = 256;
        // Those of a run are shared; those of CloudEvents are the message's own.
        let own = self.headers.iter().any(|(name, _)| name == "ce-specversion");
        let headers = self.headers.iter().filter(|_| own).map(|(name, value)| name.len() + value.len() + 64);
        self.payload.len() + self.id.len() + self.subject.len() + headers.sum::<usize>() + BOOKKEEPING
    }

    /// Headers and payload on the wire: what counts towards a server's `max_payload` (NATS ADR-4).
    pub fn wire_size(&self) -> usize {
        const FRAME: usize = "NATS/1.0\r\n\r\n".len();
        self.payload.len() + FRAME + self.all_headers().map(|(k, v)| header_size(k, v)).sum::<usize>()
    }

    /// The message, cut if it takes more than `limit` bytes on the wire. If it cannot be made to fit, an error
    /// says how much it takes.
    pub fn fit(self, limit: usize) -> Result<Self, usize> {
        let size = self.wire_size();
        if size <= limit {
            return Ok(self);
        }
        let mut payload = Vec::new();
        payload.try_reserve_exact(self.payload.len()).map_err(|_| size)?;
        payload.extend_from_slice(&self.payload);
        self.with_cut_payload(payload, limit).map_err(|_| size)
    }

    /// Takes `payload`, cut such that the whole message takes `limit` bytes at most; a header says so. If it
    /// cannot be cut, it comes back as an error, whole.
    pub fn with_cut_payload(mut self, mut payload: Vec<u8>, limit: usize) -> Result<Self, Self> {
        self.payload = Bytes::new();
        let mut fits = true;
        if self.wire_size() + payload.len() > limit {
            let plain = Arc::clone(&self.headers);
            let cut_before = plain.iter().any(|(name, _)| name == TRUNCATED);
            if !cut_before {
                let truncated = (TRUNCATED.to_owned(), payload.len().to_string());
                self.headers = plain.iter().cloned().chain([truncated]).collect();
            }
            let room = limit.checked_sub(self.wire_size());
            fits = room.is_some_and(|room| cut(&mut payload, room, cut_before));
            if !fits {
                self.headers = plain;
            }
        }
        self.payload = payload.into();
        if fits { Ok(self) } else { Err(self) }
    }

    /// Can it be sent at all? What comes from a file may be anything.
    pub fn is_sendable(&self) -> bool {
        const LONGEST: usize = 4000;
        let plain = |text: &str| !text.contains(['\r', '\n', '\0']);
        is_literal_subject(&self.subject)
            && self.subject.len() <= LONGEST
            && plain(&self.id)
            && self.headers.iter().all(|(name, value)| is_header_name(name) && plain(value))
    }

    /// Every header in the order of sending.
    pub fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = std::iter::once((MSG_ID, &*self.id));
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own)
    }
}

/// What a header takes on the wire.
pub fn header_size(name: &str, value: &str) -> usize {
    const LINE: usize = ": \r\n".len();
    name.len() + value.len() + LINE
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
    /// Writes the message as one line of a spill file, with its line end. Piece by piece: a large message is
    /// not copied.
    pub fn write_line(&self, out: &mut impl io::Write) -> io::Result<()> {
        let line = Line {
            subject: Cow::Borrowed(&self.subject),
            headers: self.all_headers().map(|(k, v)| (Cow::Borrowed(k), Cow::Borrowed(v))).collect(),
            payload: String::from_utf8_lossy(&self.payload),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
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
            id: id?.into(),
            payload: Bytes::from(line.payload.into_owned()),
        })
    }
}

/// Where messages go by default.
pub const SUBJECT: &str = "pub.ansible.runner.{subject_id}.{runner_ident}.{kind}";

/// Where messages go (option `subject`): a subject with places for what tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    SubjectId,
    Ident,
    Kind,
    Name,
}

impl Default for Template {
    fn default() -> Self {
        let dot = || Part::Literal(".".to_owned());
        let start = Part::Literal("pub.ansible.runner.".to_owned());
        Self(vec![start, Part::SubjectId, dot(), Part::Ident, dot(), Part::Kind])
    }
}

impl Template {
    /// Reads `runs.{subject_id}.{runner_ident}.{kind}.{name}`. An error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const LONGEST: usize = 512;
        if text.len() > LONGEST {
            return Err("it is longer than 512 bytes");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, more)) = rest.split_once('{') {
            let (place, more) = more.split_once('}').ok_or("a { without its }")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match place {
                "subject_id" => Part::SubjectId,
                "runner_ident" => Part::Ident,
                "kind" => Part::Kind,
                "name" => Part::Name,
                _ => return Err("{} takes subject_id, runner_ident, kind or name"),
            });
            rest = more;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let template = Self(parts);
        let example = template.subject("x", "x", Kind::Event, "x");
        if !is_literal_subject(&example) || example.contains(['{', '}']) {
            return Err("an empty token, a blank or a wildcard is in it");
        }
        // What comes from the job must not choose the first token: there are subjects that do things.
        if matches!(template.0.first(), Some(Part::Ident | Part::Name)) {
            return Err("it begins with {runner_ident} or {name}; begin with something of your own");
        }
        if example.starts_with(['$', '_']) {
            return Err("subjects that begin with $ or _ are the server's and its clients' own");
        }
        Ok(template)
    }

    /// Does the subject depend on the name of the event or the status?
    pub fn has_name(&self) -> bool {
        self.0.contains(&Part::Name)
    }

    /// The subject of a message; `name` is that of the event, or the status.
    pub fn subject(&self, subject_id: &str, ident: &str, kind: Kind, name: &str) -> Arc<str> {
        /// A part may be there several times.
        const LONGEST: usize = 3 * LONGEST_TOKENS;
        let mut subject = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => subject.push_str(text),
                Part::SubjectId => subject.push_str(&tokens(subject_id)),
                Part::Ident => subject.push_str(&tokens(ident)),
                Part::Kind => subject.push_str(kind.as_str()),
                Part::Name => subject.push_str(&tokens(name)),
            }
        }
        if subject.len() > LONGEST {
            subject.truncate(start_of(&subject, LONGEST).len());
            if subject.ends_with('.') {
                subject.push('_');
            }
        }
        subject.into()
    }
}

/// As much of a text as `limit` bytes hold.
pub fn start_of(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Can a header have this name (NATS ADR-4)?
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Can messages be published to this subject, as NATS sees it?
pub fn is_literal_subject(text: &str) -> bool {
    text.split('.').all(|token| {
        !token.is_empty()
            && !token.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
    })
}

/// The most that a subject id or an ident takes of a subject, in bytes: nats-server's default
/// `max_control_line` is 4,096, and a longer subject ends the connection.
pub const LONGEST_TOKENS: usize = 1024;

/// A text as one or more tokens of a subject: its dots stay, what NATS forbids becomes `_`.
fn tokens(text: &str) -> String {
    const LONGEST: usize = LONGEST_TOKENS;
    let mut safe = String::with_capacity(text.len().min(LONGEST));
    for token in text.split('.') {
        if !safe.is_empty() {
            if safe.len() + "._".len() > LONGEST {
                return safe;
            }
            safe.push('.');
        }
        if token.is_empty() {
            safe.push('_');
        }
        for c in token.chars() {
            if safe.len() + c.len_utf8() > LONGEST {
                // Not on a dot: the next token would be empty.
                return if safe.ends_with('.') { safe + "_" } else { safe };
            }
            let forbidden = c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
            safe.push(if forbidden { '_' } else { c });
        }
    }
    safe
}

/// A message id from parts that may hold anything: fit for a header line.
pub fn message_id(parts: &[&str]) -> String {
    let (first, rest) = parts.split_first().unwrap_or((&"", &[]));
    let mut id = String::new();
    push_part(&mut id, first);
    longer_id(&id, rest)
}

/// A message id with more parts behind it.
pub fn longer_id(id: &str, parts: &[&str]) -> String {
    let more = parts.iter().map(|part| part.len().min(LONGEST_PART) + 1).sum::<usize>();
    let mut longer = String::with_capacity(id.len() + more);
    longer.push_str(id);
    for part in parts {
        longer.push('.');
        push_part(&mut longer, part);
    }
    longer
}

/// The most that a part takes, in bytes. Each by itself: what makes the id unique stands at its end.
const LONGEST_PART: usize = 256;

fn push_part(id: &mut String, part: &str) {
    if part.len() <= LONGEST_PART && part.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id.push_str(part);
    }
    let end = id.len() + LONGEST_PART;
    for c in part.chars() {
        if id.len() + c.len_utf8() > end {
            break;
        }
        id.push(if c.is_control() { '_' } else { c });
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_keep_dots_and_lose_what_nats_forbids() {
        let subject = |id: &str, ident: &str, kind| Template::default().subject(id, ident, kind, "name");
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
        for length in LONGEST_TOKENS - 3..LONGEST_TOKENS + 3 {
            let cut = subject(&format!("{}.b.c", "x".repeat(length)), &".".repeat(2 * length), Kind::Event);
            assert!(cut.split('.').all(|token| !token.is_empty()), "{cut}");
            assert!(cut.len() < 2 * LONGEST_TOKENS + 50, "{}", cut.len());
        }
        assert!(subject(&"x".repeat(10_000_000), &"y".repeat(10_000_000), Kind::Status).len() < 2100);
    }

    #[test]
    fn subjects_of_templates() {
        let subject = |template: &str, name: &str| {
            Template::parse(template).unwrap().subject("site.a", "run 1", Kind::Event, name).to_string()
        };
        assert_eq!(Template::parse(SUBJECT).unwrap(), Template::default());
        assert_eq!(subject("{subject_id}.{kind}.{name}", "runner_on_ok"), "site.a.event.runner_on_ok");
        assert_eq!(subject("x-{runner_ident}-y.{name}", ""), "x-run_1-y._");
        assert_eq!(subject("just.one", "n"), "just.one");
        assert_eq!(subject("x.{name}", "a*b>"), "x.a_b_");
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            "a b",
            "a.*",
            "a.>",
            "{",
            "a}",
            "{ident}",
            "{}",
            "{{name}}",
            "$SYS.{name}",
            "{name}.x",
            "{runner_ident}.x",
            "_INBOX.{name}",
            "{kind",
            &"x".repeat(513),
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        let long = Template::parse("x.{name}.{name}.{name}.{name}.{name}").unwrap();
        for length in 1..2000 {
            let subject = long.subject("", "", Kind::Event, &"ü".repeat(length));
            assert!(subject.len() < 3500 && is_literal_subject(&subject), "{length}");
        }
    }

    #[test]
    fn ids_fit_into_a_header_line() {
        assert_eq!(message_id(&["a", "b\r\nc", "1"]), "a.b__c.1");
        let long = message_id(&[&"ü".repeat(100_000), "7", "uuid"]);
        assert!(long.len() < 300 && long.ends_with(".7.uuid"));
        let long = "x".repeat(1000);
        assert_eq!(
            longer_id(&message_id(&[&long, "ident"]), &["7", "uuid"]),
            message_id(&[&long, "ident", "7", "uuid"])
        );
    }

    fn message() -> Message {
        Message {
            subject: "a.b".into(),
            headers: vec![("k".to_owned(), "v \"w\"".to_owned())].into(),
            id: "id.1".into(),
            payload: Bytes::from_static("{\"a\":\"\\n ü\"}".as_bytes()),
        }
    }

    fn line() -> Vec<u8> {
        let mut line = Vec::new();
        message().write_line(&mut line).unwrap();
        line
    }

    #[test]
    fn a_spilled_message_comes_back_as_it_was() {
        let line = line();
        assert_eq!(line.split_inclusive(|b| *b == b'\n').count(), 1);
        assert_eq!(Message::from_line(&line).unwrap(), message());
    }

    #[test]
    fn garbage_is_no_message() {
        for line in [&b""[..], b"{}", b"[1]", b"{\"subject\":\"a\",\"headers\":[],\"payload\":\"\"}", b"\xff"]
        {
            assert_eq!(Message::from_line(line), None);
        }
        let whole = line();
        for end in 0..whole.len() - 1 {
            assert_eq!(Message::from_line(&whole[..end]), None);
        }
    }

    #[test]
    fn a_message_is_cut_with_its_headers_in_mind() {
        let payload = serde_json::to_vec(&serde_json::json!({"stdout": "x".repeat(5000), "n": 1})).unwrap();
        let message = Message { payload: payload.into(), ..message() };
        assert_eq!(message.clone().fit(message.wire_size()).as_ref(), Ok(&message));
        for limit in [message.wire_size() - 1, 2000, 500] {
            let small = message.clone().fit(limit).unwrap();
            assert!(small.wire_size() <= limit && small.wire_size() > limit - 64);
            let truncated = (TRUNCATED.to_owned(), message.payload.len().to_string());
            assert!(small.headers.contains(&truncated));
            // Cut once more, it still says how large it was at first.
            let smaller = small.clone().fit(400).unwrap();
            assert_eq!(smaller.headers, small.headers);
        }
        assert_eq!(message.clone().fit(100), Err(message.wire_size()));
    }

    #[test]
    fn the_size_on_the_wire_is_that_of_the_protocol() {
        let block = "NATS/1.0\r\nk: v \"w\"\r\nNats-Msg-Id: id.1\r\n\r\n";
        assert_eq!(message().wire_size(), block.len() + message().payload.len());
    }
}
