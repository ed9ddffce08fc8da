//! The way from a run's emitter to the courier.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    error::Error,
    message::{END_STATES, Kind, Message, buffer::Buffer},
    nats::Courier,
    outbox::Run,
    report::{Level, Notice},
};

/// A larger message is cut at once: nats-server's default `max_pending`, which `max_payload` cannot exceed.
const LARGEST: usize = 64 << 20;

/// The way to the courier.
pub(super) struct Channel {
    pub(super) pid: u32,
    pub(super) courier: Arc<Courier>,
    pub(super) run: Arc<Run>,
    /// How far the courier's notices were read.
    pub(super) seen: AtomicU64,
}

impl Channel {
    /// Hands over the message with the JSON that is in `buffer`. Says what went wrong.
    pub(super) fn send(&self, mut message: Message, buffer: &mut Buffer, kind: Kind) -> Option<Notice> {
        let Self { courier, run, .. } = self;
        let message = match buffer.take() {
            Some(payload) => {
                message.payload = payload;
                Ok(message)
            }
            None => message.with_cut_payload(buffer.take_whole(), LARGEST),
        };
        let complaint = match message {
            Ok(message) => match courier.accept(run, message, kind == Kind::Status) {
                Ok(()) => return None,
                Err(error) => format!(
                    "not connected, memory (pending_size) is full, and there is no room on disk either: events \
                     are LOST: {error}"
                ),
            },
            Err(message) => {
                let size = message.payload.len();
                let reason = Error::TooLarge { size, limit: LARGEST };
                match run.keep_at_once(&message, &reason.to_string()) {
                    Ok(()) => format!("a message is kept on disk: {reason}"),
                    Err(error) => format!("a message is LOST: {reason}; {error}"),
                }
            }
        };
        Some(Notice::about(Level::Warning, "not sent", complaint))
    }

    /// What signs of life say: an event is in them, and after the end there is none.
    pub(super) fn beat(&self, kind: Kind, name: &str, counter: Option<&str>) {
        let Some(pulse) = &self.run.pulse else { return };
        if kind == Kind::Status && END_STATES.contains(&name) {
            pulse.end(name);
            self.courier.outbox.last_sign();
        } else {
            pulse.lives();
        }
        if let Some(counter) = counter.and_then(|counter| counter.parse().ok()) {
            pulse.counts(counter);
        }
    }

    /// Has the courier said anything since the last call of [`Self::news`]?
    pub(super) fn has_news(&self) -> bool {
        self.courier.notices.has_news(self.seen.load(Relaxed))
    }

    /// What the courier has said since the last call.
    pub(super) fn news(&self) -> Vec<Notice> {
        if !self.has_news() {
            return Vec::new();
        }
        let (news, latest) = self.courier.notices.since(self.seen.load(Relaxed));
        self.seen.store(latest, Relaxed);
        self.courier.notices.were_told(latest);
        news
    }
}
