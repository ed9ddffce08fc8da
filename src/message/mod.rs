//! One message: subject, headers, id, payload. No I/O, no options.

pub(crate) mod buffer;
mod cloudevent;
mod command;
mod composer;
mod cut;
mod filter;
mod flow;
mod id;
pub(crate) mod json;
mod line;
mod moment;
mod received;
mod redact;
mod select;
mod sieve;
mod subject;
mod telling;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

#[cfg(feature = "python")]
pub(crate) use self::{command::CommandLine, redact::Fate, sieve::Spot};
pub(crate) use self::{
    composer::{About, Composer},
    cut::cut,
    filter::{covers, overlap},
    id::{Id, Own, REPLAYED, counter_of, nonce, split_id},
    moment::{in_utc, moment, to_millis},
    received::Received,
    redact::{Redaction, StatusEnv},
    select::{Events, Omit, unknown_kind},
    sieve::Sieve,
    subject::{LONGEST_TOKENS, SUBJECT, Template, is_literal_subject},
};

/// What a message tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of ansible's events.
    Event,
    /// A change of the run's state.
    Status,
    /// A sign of life: the run goes on.
    Heartbeat,
}

impl Kind {
    /// The last token of the subject.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Status => "status",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// The kind of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Event, Self::Status, Self::Heartbeat].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The states that end a run (`ansible_runner.runner.Runner`; `error` comes from `ansible-runner process` alone).
pub(crate) const END_STATES: [&str; 5] = ["successful", "failed", "canceled", "timeout", "error"];

/// The states of a run that goes on.
pub(crate) const OPEN_STATES: [&str; 2] = ["starting", "running"];

/// The header by which a stream drops repeats (NATS ADR-31).
pub(crate) const MSG_ID: &str = "Nats-Msg-Id";

/// Set on a message that was cut to the server's `max_payload`; its value is the original size in bytes.
pub(crate) const TRUNCATED: &str = "Ansible-Runner-Truncated";

/// Set on all messages of a run that publishes only some of its events; its value is the option `events`.
pub(crate) const SELECTED: &str = "Ansible-Runner-Events";

/// Names the stream that must take the message (nats-server refuses it otherwise).
pub(crate) const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// A message, ready to be sent any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where to.
    pub subject: Arc<str>,
    /// The user's headers, shared by all messages of a run.
    pub headers: Arc<[(String, String)]>,
    /// Unique per message, and the same each time it is sent.
    pub id: Id,
    /// JSON.
    pub payload: Bytes,
}

impl Message {
    /// What the message costs while it is held: its bytes and some for the bookkeeping.
    pub(crate) fn size(&self) -> usize {
        const BOOKKEEPING: usize = 256;
        // The headers of a run are shared; those of CloudEvents are the message's own.
        let own = self.headers.iter().any(|(name, _)| name == "ce-specversion");
        let headers = self.headers.iter().filter(|_| own).map(|(name, value)| name.len() + value.len() + 64);
        self.payload.len() + self.id.len() + self.subject.len() + headers.sum::<usize>() + BOOKKEEPING
    }

    /// Headers and payload on the wire: what counts towards a server's `max_payload` (NATS ADR-4).
    pub(crate) fn wire_size(&self) -> usize {
        const FRAME: usize = "NATS/1.0\r\n\r\n".len();
        let headers = self.headers.iter().map(|(name, value)| header_size(name.len(), value.len()));
        self.payload.len() + FRAME + headers.sum::<usize>() + header_size(MSG_ID.len(), self.id.len())
    }

    /// The message, cut if it takes more than `limit` bytes on the wire. If it cannot be made to fit, an error
    /// says how much it takes.
    pub(crate) fn fit(self, limit: usize) -> Result<Self, usize> {
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
    pub(crate) fn with_cut_payload(mut self, mut payload: Vec<u8>, limit: usize) -> Result<Self, Box<Self>> {
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
        if fits { Ok(self) } else { Err(Box::new(self)) }
    }

    /// Can it be sent at all? What comes from a file may be anything.
    pub(crate) fn is_sendable(&self) -> bool {
        const LONGEST: usize = 4000;
        let plain = |text: &str| !text.contains(['\r', '\n', '\0']);
        is_literal_subject(&self.subject)
            && self.subject.len() <= LONGEST
            && plain(&self.id.to_text())
            && self.headers.iter().all(|(name, value)| is_header_name(name) && plain(value))
    }

    /// Every header in the order of sending.
    pub(crate) fn all_headers(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let own = std::iter::once((MSG_ID, Cow::Owned(self.id.to_text())));
        self.headers.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str()))).chain(own)
    }
}

/// What a header with a name and a value of these lengths takes on the wire.
pub(crate) fn header_size(name: usize, value: usize) -> usize {
    const LINE: usize = ": \r\n".len();
    name + value + LINE
}

/// As much of a text as `limit` bytes hold.
pub(crate) fn start_of(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Can a header have this name (NATS ADR-4)?
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}
