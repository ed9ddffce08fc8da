//! What is known of the streams that acknowledge our messages: each is asked once how it was made. Never for a proof, and
//! whoever may not ask goes on without.

use std::{collections::HashMap, sync::Arc};

use async_nats::Message;

use super::jetstream::{self, Question, Receipt, StreamInfo};
use crate::outbox::Place;

/// The streams that have acknowledged something.
#[derive(Debug, Default)]
pub(super) struct Streams {
    known: HashMap<Arc<str>, Stream>,
    /// Those that are to be asked.
    new: Vec<Arc<str>>,
    /// The questions under way.
    asked: HashMap<u64, Arc<str>>,
    /// The next question's number.
    next: u64,
}

/// What is known of one.
#[derive(Debug, Default)]
struct Stream {
    /// When it was made.
    created: Option<Arc<str>>,
    /// The last number that it has acknowledged.
    last: u64,
    /// A message may say how long it is to be kept.
    allows_ttl: bool,
}

impl Streams {
    /// A stream has stored a message there.
    pub(super) fn place(&mut self, receipt: &Receipt<'_>) -> Place {
        /// A server could go on for ever with names that it makes up.
        const MOST: usize = 100;
        let Receipt { number, is_repeat, .. } = *receipt;
        let known = self.known.get_key_value(&*receipt.stream).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| {
            let name: Arc<str> = (&*receipt.stream).into();
            if self.known.len() < MOST {
                self.known.insert(Arc::clone(&name), Stream::default());
                self.new.push(Arc::clone(&name));
            }
            name
        });
        let stream = self.known.get_mut(&name);
        let created = stream.as_ref().and_then(|stream| stream.created.clone());
        if let Some(stream) = stream.filter(|_| !is_repeat) {
            if number < stream.last {
                // Is it still the same one?
                self.new.push(Arc::clone(&name));
            }
            stream.last = number;
        }
        Place { stream: name, created, number, is_repeat }
    }

    /// A new connection: questions that nobody has answered are asked once more.
    pub(super) fn begin(&mut self) {
        self.new.extend(self.asked.drain().map(|(_, name)| name));
    }

    /// The next question and its number, if there is one.
    pub(super) fn question(&mut self, api: &str) -> Option<(u64, Question)> {
        let name = self.new.pop()?;
        self.next += 1;
        let question = jetstream::about_stream(api, &name, None);
        self.asked.insert(self.next, name);
        Some((self.next, question))
    }

    /// The answer to a question: which stream was made when.
    pub(super) fn answer(&mut self, number: u64, message: &Message) -> Option<(Arc<str>, Arc<str>)> {
        let name = self.asked.remove(&number)?;
        let info: StreamInfo = serde_json::from_slice(&message.payload).ok()?;
        let known = self.known.get_mut(&name)?;
        known.allows_ttl = info.config.as_ref().is_some_and(|config| config.allow_msg_ttl);
        known.created = info.created.map(Into::into);
        Some((name, known.created.clone()?))
    }

    /// Do all of them let a message say how long it is to be kept? No if there is none.
    pub(super) fn allow_ttl(&self) -> bool {
        !self.known.is_empty() && self.known.values().all(|stream| stream.allows_ttl)
    }
}
