//! One run of ansible-runner, as the outbox sees it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::spill::Spill;
use crate::{error::Error, message::Message, report::Counters};

/// One run of ansible-runner, as the outbox sees it.
#[derive(Debug)]
pub(crate) struct Run {
    /// What the user knows the run by.
    pub ident: String,
    /// What became of its messages.
    pub counters: Counters,
    /// The most that its end waits.
    pub flush_timeout: Duration,
    spill: Mutex<Spill>,
    /// Messages in the queue. Changed under the queue's lock only.
    pub(super) queued: AtomicU64,
    /// There are messages on disk that are to be sent. Changed under both locks.
    pub(super) overflows: AtomicBool,
    /// Nobody holds the run any more.
    pub(super) closed: AtomicBool,
}

impl Run {
    /// A run whose undelivered messages go to `spill` when its end has waited for `flush_timeout`.
    pub(crate) fn new(ident: String, spill: Spill, flush_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            ident,
            flush_timeout,
            counters: Counters::default(),
            spill: Mutex::new(spill),
            queued: AtomicU64::new(0),
            overflows: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Is every accepted message accounted for?
    pub(super) fn is_settled(&self) -> bool {
        self.queued.load(Relaxed) == 0 && !self.overflows.load(Relaxed)
    }

    pub(super) fn spill(&self) -> MutexGuard<'_, Spill> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that could not even be made.
    pub(crate) fn drop_one(&self) {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.counters.dropped.fetch_add(1, Relaxed);
    }

    /// Keeps a message that no server would take.
    pub(crate) fn keep_at_once(&self, message: &Message) -> Result<(), Error> {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.keep(&mut self.spill(), message)
    }

    /// Keeps an accepted message on disk, or counts it as lost.
    pub(super) fn keep(&self, spill: &mut Spill, message: &Message) -> Result<(), Error> {
        let kept = spill.keep(message);
        let counter = if kept.is_ok() { &self.counters.spilled } else { &self.counters.dropped };
        counter.fetch_add(1, Relaxed);
        kept
    }
}
