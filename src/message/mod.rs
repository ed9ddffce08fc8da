//! One message: subject, headers, id, payload. No I/O, no options.

pub(crate) mod buffer;
mod cloudevent;
mod command;
mod composer;
mod cut;
mod filter;
mod flow;
mod forms;
mod id;
mod identity;
pub(crate) mod json;
mod loose;
mod moment;
mod received;
mod redact;
mod select;
mod shell;
mod sieve;
mod subject;
mod telling;
#[cfg(test)]
mod tests;
mod values;

use std::{borrow::Cow, sync::Arc};

use arrayvec::ArrayString;
use bytes::Bytes;

#[cfg(feature = "python")]
pub(crate) use self::{command::CommandLine, redact::Fate, sieve::Spot};
pub(crate) use self::{
    composer::{About, Composer},
    cut::cut,
    filter::{common_beginning, covers, merged, overlap},
    id::{Own, REPLAYED, counter_of, nonce, split_id},
    identity::RunId,
    loose::strict,
    moment::{in_utc, moment, to_millis},
    received::Received,
    redact::{Redaction, StatusEnv},
    select::{Events, KINDS, Omit, unknown_kind},
    shell::quoted,
    sieve::Sieve,
    subject::{LONGEST_TOKENS, Owner, SUBJECT, Template, has_tokens, is_literal_subject, with_safe_ident},
    values::Values,
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

/// The state of a run whose process was killed: no status of ansible-runner, but what is said on its behalf.
pub(crate) const KILLED: &str = "killed";

/// The first status of a run.
pub(crate) const STARTING: &str = "starting";

/// The states of a run that goes on.
pub(crate) const OPEN_STATES: [&str; 2] = [STARTING, "running"];

/// The header by which a stream drops repeats (NATS ADR-31).
pub(crate) const MSG_ID: &str = "Nats-Msg-Id";

/// Set on a message that was cut to the server's `max_payload`; its value is the original size in bytes.
pub(crate) const TRUNCATED: &str = "Ansible-Runner-Truncated";

/// Set on all messages of a run that publishes only some of its events; its value is the option `events`.
pub(crate) const SELECTED: &str = "Ansible-Runner-Events";

/// What a stream puts in the place of the last message of a subject whose time was over; its value says why (NATS ADR-43).
pub(crate) const MARKER: &str = "Nats-Marker-Reason";

/// How long a stream keeps the message (NATS ADR-43).
pub(crate) const TTL: &str = "Nats-TTL";

/// The run's identity ([`RunId`]), on all of its messages.
pub(crate) const RUN: &str = "Ansible-Runner-Run";

/// When ansible-runner said it (RFC 3339), on statuses and signs of life: events have `created`.
pub(crate) const TIME: &str = "Ansible-Runner-Time";

/// Who runs what where (a JSON object), on the status `starting`.
pub(crate) const CARD: &str = "Ansible-Runner-Card";

/// Names the stream that must take the message (nats-server refuses it otherwise).
pub(crate) const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// What messages of one kind and one run have in common (but with `CloudEvents` headers): one counted reference for all of it,
/// as the job's thread and the background both touch it with each message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Where to.
    pub subject: Arc<str>,
    /// The user's headers.
    pub headers: Arc<[(String, String)]>,
    /// What their ids begin with.
    pub(super) id: Arc<str>,
}

/// The end of an id: a counter and a uuid, or what a status has, and some more.
type OwnId = ArrayString<52>;

/// A message, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// What it shares with others.
    pub head: Arc<Head>,
    /// The rest of its id, behind what the head has.
    own_id: OwnId,
    /// JSON.
    pub payload: Bytes,
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        // Where an id is parted makes no difference.
        let parts = |message: &Self| (message.id(), message.payload.clone());
        self.head.subject == other.head.subject
            && self.head.headers == other.head.headers
            && parts(self) == parts(other)
    }
}

impl Eq for Message {}

impl Message {
    /// A message of a run: its id is what the head has, and `own_id`.
    fn new(head: &Arc<Head>, own_id: &str, payload: Bytes) -> Self {
        match OwnId::from(own_id) {
            Ok(own_id) => Self { head: Arc::clone(head), own_id, payload },
            Err(_) => {
                let id = format!("{}{own_id}", head.id).into();
                Self { head: Head { id, ..Head::clone(head) }.into(), own_id: OwnId::new(), payload }
            }
        }
    }

    /// A message that shares nothing.
    pub(crate) fn alone(
        subject: &str,
        headers: Vec<(String, String)>,
        id: &str,
        payload: impl Into<Bytes>,
    ) -> Self {
        let head = Head { subject: subject.into(), headers: headers.into(), id: id.into() };
        Self { head: head.into(), own_id: OwnId::new(), payload: payload.into() }
    }

    /// The same with one header more.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let more = (name.to_owned(), value.to_owned());
        let head = Arc::make_mut(&mut self.head);
        head.headers = head.headers.iter().cloned().chain([more]).collect();
        self
    }

    /// The same with this header, in the place of one of that name.
    pub(crate) fn with_replaced_header(mut self, name: &str, value: &str) -> Self {
        let head = Arc::make_mut(&mut self.head);
        let others = head.headers.iter().filter(|(known, _)| !known.eq_ignore_ascii_case(name)).cloned();
        head.headers = others.chain([(name.to_owned(), value.to_owned())]).collect();
        self
    }

    /// Unique per message, and the same each time it is sent. Made anew by each call.
    pub(crate) fn id(&self) -> String {
        let mut id = String::with_capacity(self.id_len());
        id.push_str(&self.head.id);
        id.push_str(&self.own_id);
        id
    }

    fn id_len(&self) -> usize {
        self.head.id.len() + self.own_id.len()
    }

    /// What the message costs while it is held: its bytes and some for the bookkeeping.
    pub(crate) fn size(&self) -> usize {
        const BOOKKEEPING: usize = 256;
        // The headers of a run are shared; those of CloudEvents, and of what has its own time, are the message's own.
        let own = self.head.headers.iter().any(|(name, _)| name == "ce-specversion" || name == TIME);
        let headers =
            self.head.headers.iter().filter(|_| own).map(|(name, value)| name.len() + value.len() + 64);
        self.payload.len() + self.id_len() + self.head.subject.len() + headers.sum::<usize>() + BOOKKEEPING
    }

    /// Headers and payload on the wire: what counts towards a server's `max_payload` (NATS ADR-4).
    pub(crate) fn wire_size(&self) -> usize {
        const FRAME: usize = "NATS/1.0\r\n\r\n".len();
        let headers = self.head.headers.iter().map(|(name, value)| header_size(name.len(), value.len()));
        self.payload.len() + FRAME + headers.sum::<usize>() + header_size(MSG_ID.len(), self.id_len())
    }

    /// The message, cut if it takes more than `limit` bytes on the wire. If it cannot be made to fit, it comes back as an
    /// error, whole.
    pub(crate) fn fit(self, limit: usize) -> Result<Self, Box<Self>> {
        if self.wire_size() <= limit {
            return Ok(self);
        }
        let mut payload = Vec::new();
        if payload.try_reserve_exact(self.payload.len()).is_err() {
            return Err(Box::new(self));
        }
        payload.extend_from_slice(&self.payload);
        self.with_cut_payload(payload, limit)
    }

    /// Takes `payload`, cut such that the whole message takes `limit` bytes at most; a header says so. If it
    /// cannot be cut, it comes back as an error, whole.
    pub(crate) fn with_cut_payload(mut self, mut payload: Vec<u8>, limit: usize) -> Result<Self, Box<Self>> {
        self.payload = Bytes::new();
        let mut fits = true;
        if self.wire_size() + payload.len() > limit {
            let plain = Arc::clone(&self.head);
            let cut_before = plain.headers.iter().any(|(name, _)| name == TRUNCATED);
            if !cut_before {
                self = self.with_header(TRUNCATED, &payload.len().to_string());
            }
            let room = limit.checked_sub(self.wire_size());
            fits = room.is_some_and(|room| cut(&mut payload, room, cut_before));
            if !fits {
                self.head = plain;
            }
        }
        self.payload = payload.into();
        if fits { Ok(self) } else { Err(Box::new(self)) }
    }

    /// Can it be sent at all? What comes from a file may be anything.
    pub(crate) fn is_sendable(&self) -> bool {
        const LONGEST: usize = 4000;
        let plain = |text: &str| !text.contains(['\r', '\n', '\0']);
        is_literal_subject(&self.head.subject)
            // The server's own, and its clients' inboxes: no run publishes there.
            && !self.head.subject.starts_with(['$', '_'])
            && self.head.subject.len() <= LONGEST
            && plain(&self.id())
            && self.head.headers.iter().all(|(name, value)| is_header_name(name) && plain(value))
    }

    /// Every header in the order of sending.
    pub(crate) fn all_headers(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let own = std::iter::once((MSG_ID, Cow::Owned(self.id())));
        self.head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str())))
            .chain(own)
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
