//! The queue itself: what is unconfirmed, in order, and how far it was sent.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Proof, Sending, run::Run, service::Service};
use crate::message::Message;

/// What was routed, but not said to be stored, is sent once more if the connection breaks within this time:
/// it may have died in the server's memory, on its way to a stream or a subscriber.
pub(super) const REMEMBERED: Duration = Duration::from_secs(1);

/// At most so many bytes of it are remembered, beyond the outbox's limit.
pub(super) const REMEMBERED_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct State {
    /// `None`: confirmed out of order.
    pub(super) queue: VecDeque<Option<Slot>>,
    /// Memory for the next arrivals.
    pub(super) arrived: Vec<Slot>,
    /// The number of the first slot.
    pub(super) base: u64,
    /// The number of the next message to send.
    pub(super) cursor: u64,
    /// Of the unconfirmed messages, arrivals included. Changed under either lock.
    pub(super) bytes: Arc<AtomicUsize>,
    /// How many messages are unconfirmed.
    pub(super) unconfirmed: usize,
    /// The messages that were routed lately and are remembered, in the order of their echoes.
    pub(super) routed: VecDeque<u64>,
    /// Their bytes.
    pub(super) remembered: usize,
    /// Runs that may still publish, and those that left something behind.
    pub(super) runs: Vec<Arc<Run>>,
    /// Runs that are over, to be dropped outside the lock.
    pub(super) over: Vec<Arc<Run>>,
    pub(super) service: Service,
    /// Ends of runs that wait right now.
    pub(super) waiting: usize,
}

/// What the job's thread has brought, and the queue has not taken yet. It has a lock of its own, which nobody holds for
/// longer than one message takes: the job's thread must not wait for the courier's work on the queue.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) slots: Vec<Slot>,
    /// The courier waits for `wake`.
    pub(super) sleeping: bool,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) message: Message,
    pub(super) run: Arc<Run>,
    pub(super) sent: bool,
    /// Nobody heard it when it was tried last. Change it with [`Slot::set_unheard`].
    unheard: bool,
    /// Confirmed by an echo at this time, and remembered.
    pub(super) routed: Option<Instant>,
    /// Its payload keeps alive what belongs to others.
    pub(super) shares: bool,
}

impl Slot {
    /// From now on the message counts as held.
    pub(super) fn new(message: Message, run: &Arc<Run>, bytes: &AtomicUsize) -> Self {
        bytes.fetch_add(message.size(), Relaxed);
        run.queued.fetch_add(1, Relaxed);
        Self { message, run: Arc::clone(run), sent: false, unheard: false, routed: None, shares: true }
    }

    pub(super) fn is_unheard(&self) -> bool {
        self.unheard
    }

    /// It leaves the queue.
    fn leave(&self) {
        if self.unheard {
            self.run.unheard.fetch_sub(1, Relaxed);
        }
    }

    /// Its run knows how many of its messages that are.
    pub(super) fn set_unheard(&mut self, unheard: bool) {
        if std::mem::replace(&mut self.unheard, unheard) != unheard {
            if unheard {
                self.run.unheard.fetch_add(1, Relaxed);
            } else {
                self.run.unheard.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// Confirmed messages of one run. What the job's thread looks at with each message is changed once for many: the two
/// threads would otherwise wait for each other's caches.
#[derive(Debug)]
pub(super) struct Tally {
    run: Arc<Run>,
    bytes: usize,
    messages: u64,
}

impl Tally {
    /// Adds a message of a run to the tally; that of another run is done with, and comes back.
    pub(super) fn add(tally: &mut Option<Self>, slot: &Slot) -> Option<Self> {
        let size = slot.message.size();
        match tally {
            Some(tally) if Arc::ptr_eq(&tally.run, &slot.run) => {
                tally.bytes += size;
                tally.messages += 1;
                None
            }
            _ => tally.replace(Self { run: Arc::clone(&slot.run), bytes: size, messages: 1 }),
        }
    }

    /// These messages are confirmed, and no longer held. Is their run settled now?
    pub(super) fn settle(self, proof: Proof, bytes: &AtomicUsize) -> bool {
        let counters = &self.run.counters;
        let counter = match proof {
            Proof::Stored => &counters.stored,
            Proof::Routed => &counters.routed,
            Proof::None => &counters.unproven,
        };
        counter.fetch_add(self.messages, Relaxed);
        bytes.fetch_sub(self.bytes, Relaxed);
        self.run.queued.fetch_sub(self.messages, Relaxed);
        self.run.is_settled()
    }
}

impl State {
    pub(super) fn end(&self) -> u64 {
        self.base + self.queue.len() as u64
    }

    pub(super) fn append(&mut self, message: Message, run: &Arc<Run>) {
        let slot = Slot::new(message, run, &self.bytes);
        self.absorb([slot]);
    }

    pub(super) fn absorb(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let before = self.queue.len();
        self.queue.extend(slots.into_iter().map(Some));
        self.unconfirmed += self.queue.len() - before;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Is there something to send, or to bring back from disk?
    pub(super) fn has_work(&self, limit: usize) -> bool {
        let overflows = || self.runs.iter().any(|run| run.overflows.load(Relaxed));
        self.cursor < self.end() || (self.bytes() <= limit / 2 && overflows())
    }

    pub(super) fn slot(&mut self, seq: u64) -> Option<&mut Option<Slot>> {
        let index = seq.checked_sub(self.base)?;
        self.queue.get_mut(usize::try_from(index).ok()?)
    }

    /// The next message of a run that is unconfirmed, from this number on.
    pub(super) fn next_of(&self, run: &Run, from: u64) -> Option<u64> {
        let skip = usize::try_from(from.saturating_sub(self.base)).ok()?;
        let is_it = |slot: &Slot| std::ptr::eq(Arc::as_ptr(&slot.run), run) && slot.routed.is_none();
        let slots = (self.base + skip as u64..).zip(self.queue.iter().skip(skip));
        slots.filter(|(_, slot)| slot.as_ref().is_some_and(is_it)).map(|(seq, _)| seq).next()
    }

    /// A message that is unconfirmed, or remembered, as the courier gets it.
    pub(super) fn sending(&mut self, seq: u64) -> Option<Sending> {
        let slot = self.slot(seq)?.as_ref()?;
        let run = &slot.run;
        Some(Sending { seq, run: run.number(), was_stored: run.was_stored(), message: slot.message.clone() })
    }

    /// Takes an unconfirmed message out; the slots that nothing is left of go too.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Slot> {
        let slot = self.take_out(seq)?;
        self.bytes.fetch_sub(slot.message.size(), Relaxed);
        slot.run.queued.fetch_sub(1, Relaxed);
        Some(slot)
    }

    /// The same, but that others are to be told: see [`Tally`].
    pub(super) fn take_out(&mut self, seq: u64) -> Option<Slot> {
        let slot = self.slot(seq)?.take_if(|slot| slot.routed.is_none())?;
        slot.leave();
        self.unconfirmed -= 1;
        self.trim();
        Some(slot)
    }

    /// The message counts as confirmed, and stays for a while. Others are to be told: see [`Tally`].
    pub(super) fn remember(&mut self, seq: u64, now: Instant) -> Option<&Slot> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        let slot = self.queue.get_mut(index)?.as_mut().filter(|slot| slot.routed.is_none())?;
        slot.set_unheard(false);
        slot.routed = Some(now);
        self.unconfirmed -= 1;
        self.routed.push_back(seq);
        self.remembered += slot.message.size();
        Some(slot)
    }

    /// Forgets what was routed long ago, or too much of it; returned, to be freed outside the lock.
    pub(super) fn forget_routed(&mut self, now: Instant) -> Vec<Slot> {
        let mut forgotten = Vec::new();
        while let Some(seq) = self.routed.front().copied() {
            let Some(routed) = self.slot(seq).and_then(|slot| slot.as_ref()?.routed) else {
                self.routed.pop_front();
                continue;
            };
            if now.duration_since(routed) < REMEMBERED && self.remembered <= REMEMBERED_BYTES {
                break;
            }
            self.routed.pop_front();
            if let Some(slot) = self.slot(seq).and_then(Option::take) {
                self.remembered -= slot.message.size();
                forgotten.push(slot);
            }
        }
        if !forgotten.is_empty() {
            self.trim();
        }
        forgotten
    }

    pub(super) fn trim(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.base += 1;
        }
        self.cursor = self.cursor.max(self.base);
    }

    /// Is there nothing to do and nobody who could bring something?
    pub(super) fn is_idle(&mut self) -> bool {
        self.forget_closed();
        self.runs.is_empty() && self.unconfirmed == 0
    }

    /// Runs that are over go; what they leave to be written is not for this lock.
    pub(super) fn forget_closed(&mut self) {
        let is_over = |run: &mut Arc<Run>| run.closed.load(Relaxed) && run.is_settled();
        self.over.extend(self.runs.extract_if(.., is_over));
    }
}
