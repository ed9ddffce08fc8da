//! The messages that are ours until the server confirmed them: one FIFO per connection, bounded in bytes.
//!
//! A message stays in the queue while it is in flight. The session takes messages from the cursor on; a
//! confirmation removes one; [`Outbox::rewind`] puts the cursor back to the oldest unconfirmed message, so
//! that the next session sends all of them again, in order. What does not fit goes to the run's spill file
//! and comes back through [`Outbox::refill`].
//!
//! Locks: a run's spill before the queue, the queue before the arrivals, never the other way round. No lock is held while
//! anything is sent. Whoever locks the queue takes the arrivals into it first: only [`Outbox::push`] knows of two.

mod allowance;
mod places;
mod pulse;
mod queue;
mod run;
mod service;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use self::{
    allowance::Allowance,
    queue::{Arrivals, Slot, State, Tally},
};
pub(crate) use self::{
    places::{Place, Places, Streams},
    pulse::{Pulse, Sign},
    run::Run,
};
use crate::{
    error::Error,
    fault,
    journal::{Leftovers, Spill, keep_spare},
    message::{
        Message,
        buffer::{self, Buffer},
    },
};

/// What says that a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A stream's acknowledgement: it is stored.
    Stored,
    /// The echo of a marker behind it: the server has routed it to whoever subscribes.
    Routed,
    /// Nothing: the server forbids us to ask.
    None,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Its place in the queue; rises without end.
    pub seq: u64,
    /// The number of its run: order matters within one alone.
    pub run: u64,
    /// A stream has taken messages of this run before (says the record of an earlier process).
    pub was_stored: bool,
    /// The message; cheap to clone.
    pub message: Message,
}

/// Bounded FIFO of unconfirmed messages.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    arrivals: Mutex<Arrivals>,
    /// Of all that is held: see [`State::bytes`].
    bytes: Arc<AtomicUsize>,
    /// A run got settled, or the courier gave up.
    settled: Condvar,
    /// There is something for the courier to do.
    wake: Notify,
    allowance: Allowance,
    /// There are runs whose record is not written yet.
    has_new_runs: AtomicBool,
    /// A run that gives signs of life has begun since we looked last.
    has_new_pulses: AtomicBool,
    /// Where messages are written: the memory that those of one outbox share, and no others.
    spare: Mutex<Option<Buffer>>,
    /// Somebody empties the queue, or has given up: nobody need start a courier.
    is_served: AtomicBool,
}

impl Outbox {
    /// An outbox that holds up to `limit` bytes in memory.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State::default();
        Self {
            bytes: Arc::clone(&state.bytes),
            state: Mutex::new(state),
            arrivals: Mutex::default(),
            settled: Condvar::new(),
            wake: Notify::new(),
            allowance: Allowance::new(limit),
            has_new_runs: AtomicBool::new(false),
            has_new_pulses: AtomicBool::new(false),
            spare: Mutex::default(),
            is_served: AtomicBool::new(false),
        }
    }

    /// The queue, with all that has arrived.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut arrived = {
            let mut arrivals = self.arrivals();
            if arrivals.slots.is_empty() {
                return state;
            }
            if state.queue.try_reserve(arrivals.slots.len()).is_err() {
                // The reserve will do. If not even that, they stay where they are for now.
                self.save_memory();
                if state.queue.try_reserve(arrivals.slots.len()).is_err() {
                    return state;
                }
            }
            std::mem::swap(&mut arrivals.slots, &mut state.arrived);
            std::mem::take(&mut state.arrived)
        };
        state.absorb(arrived.drain(..));
        state.arrived = arrived;
        state
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins. It also ends an earlier giving up: a new run is a new attempt.
    pub(crate) fn open(&self, run: &Arc<Run>) {
        keep_spare();
        let mut state = self.lock();
        state.forget_closed();
        state.runs.push(Arc::clone(run));
        self.has_new_runs.store(true, Relaxed);
        self.has_new_pulses.fetch_or(run.pulse.is_some(), Relaxed);
        state.service.open();
        // It may be down again.
        self.is_served.store(false, Relaxed);
    }

    /// Has a run that gives signs of life begun since the last call?
    pub(crate) fn has_new_pulses(&self) -> bool {
        self.has_new_pulses.load(Relaxed) && self.has_new_pulses.swap(false, Relaxed)
    }

    /// A run gives its last sign of life.
    pub(crate) fn last_sign(&self) {
        self.has_new_pulses.store(true, Relaxed);
    }

    /// The signs of life that are due, and when the next one will be.
    pub(crate) fn beats(&self, now: Instant) -> (Vec<Sign>, Option<Instant>) {
        let runs = self.runs();
        let pulses = runs.iter().filter_map(|run| run.pulse.as_ref());
        let (due, next): (Vec<_>, Vec<_>) = pulses.map(|pulse| pulse.beat(now)).unzip();
        let next = next.into_iter().flatten().min();
        (due.into_iter().flatten().collect(), next)
    }

    /// The run shall leave nothing behind: its messages are neither sent nor kept.
    pub(crate) fn withdraw(&self, run: &Run) {
        let mut spill = run.spill();
        self.take_out(run, |_| {});
        for file in spill.close().1.files {
            let _ = std::fs::remove_file(file);
        }
        drop(spill);
        run.overflows.store(false, Relaxed);
        run.withdraw_record();
        self.close(run);
    }

    /// Is there anything to send that comes from a run which goes on?
    pub(crate) fn has_live_work(&self) -> bool {
        let state = self.lock();
        state.cursor < state.end() || state.runs.iter().any(|run| run.overflows.load(Relaxed))
    }

    /// Takes on messages that are kept elsewhere until they are confirmed.
    pub(crate) fn offer(&self, run: &Arc<Run>, messages: Vec<Message>) {
        // Whoever delivers would wake himself without end.
        if messages.is_empty() {
            return;
        }
        run.counters.accepted.fetch_add(messages.len() as u64, Relaxed);
        let mut state = self.lock();
        for message in messages {
            state.append(message, run);
        }
        drop(state);
        let asleep = std::mem::take(&mut self.arrivals().sleeping);
        self.wake_courier(asleep);
    }

    /// What is left of them is not to be sent any more.
    pub(crate) fn forget(&self, run: &Run) {
        self.take_out(run, |_| {});
    }

    /// Takes all of a run out of the queue, one by one, in order.
    fn take_out(&self, run: &Run, mut then: impl FnMut(&Slot)) {
        let mut from = 0;
        let mut any = false;
        loop {
            let mut state = self.lock();
            let next = state.next_of(run, from);
            let slot = next.and_then(|seq| state.remove(seq));
            drop(state);
            let (Some(seq), Some(slot)) = (next, slot) else { break };
            from = seq + 1;
            any = true;
            then(&slot);
        }
        if any {
            self.part();
        }
    }

    /// Messages share their memory with their neighbours, which have gone out of turn: what stays gets its own.
    fn part(&self) {
        const AT_ONCE: usize = 64;
        let mut next = 0;
        loop {
            let mut state = self.lock();
            next = next.max(state.base);
            let end = state.end().min(next + AT_ONCE as u64);
            if next >= end {
                return;
            }
            for seq in next..end {
                if let Some(Some(slot)) = state.slot(seq)
                    && std::mem::take(&mut slot.shares)
                {
                    buffer::own(&mut slot.message.payload);
                }
            }
            next = end;
        }
    }

    /// Memory for the next message's JSON; whoever finds it taken (Python code ran meanwhile, in another thread) begins
    /// with none.
    pub(crate) fn buffer(&self) -> Buffer {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// To be used for the next message.
    pub(crate) fn give_back(&self, mut buffer: Buffer) {
        buffer.clear();
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
    }

    /// Writes the records of runs that have begun; returns what is to be said about their files.
    pub(crate) fn begin_records(&self) -> Vec<Error> {
        let over = std::mem::take(&mut self.lock().over);
        drop(over);
        if !self.has_new_runs.swap(false, Relaxed) {
            return Vec::new();
        }
        let runs = self.runs();
        for run in &runs {
            run.begin_record();
        }
        runs.iter().filter_map(|run| run.complaint()).collect()
    }

    /// Nobody will publish for this run any more.
    pub(crate) fn close(&self, run: &Run) {
        run.closed.store(true, Relaxed);
        self.lock().forget_closed();
        // The courier may go to rest now.
        self.wake.notify_one();
    }

    /// Accepts a message; `essential` ones are held even beyond the limit rather than dropped. An error says
    /// why the disk did not take what memory could not; then the message is lost unless it is essential.
    pub(crate) fn push(&self, run: &Arc<Run>, message: Message, essential: bool) -> Result<(), Error> {
        run.counters.accepted.fetch_add(1, Relaxed);
        let size = message.size();
        let fits =
            || !run.overflows.load(Relaxed) && self.bytes.load(Relaxed) + size <= self.allowance.limit();
        if self.allowance.runs_out(size) {
            self.save_memory();
        }
        let mut arrivals = self.arrivals();
        fault::panic_at("outbox.push");
        let has_place = arrivals.slots.try_reserve(1).is_ok();
        if !has_place {
            self.save_memory();
        }
        if !has_place || !fits() {
            // The spill comes before the queue, where there may be room by then.
            drop(arrivals);
            let mut spill = run.spill();
            arrivals = self.arrivals();
            if !fits() || arrivals.slots.try_reserve(1).is_err() {
                drop(arrivals);
                return self.push_to_disk(run, &mut spill, message, essential);
            }
        }
        arrivals.slots.push(Slot::new(message, run, &self.bytes));
        let asleep = std::mem::take(&mut arrivals.sleeping);
        drop(arrivals);
        self.wake_courier(asleep);
        Ok(())
    }

    /// Memory is running out: what is held now is all that may be held; what comes goes to disk.
    pub(crate) fn save_memory(&self) {
        self.allowance.cut(self.bytes());
    }

    /// Is there memory for a connection, and what it takes to end a run? What is kept for that is given up if need be.
    pub(crate) fn has_memory(&self) -> bool {
        Allowance::is_enough() || {
            self.save_memory();
            Allowance::is_enough()
        }
    }

    fn push_to_disk(
        &self,
        run: &Arc<Run>,
        spill: &mut Spill,
        message: Message,
        essential: bool,
    ) -> Result<(), Error> {
        let spilled = spill.push(&message);
        let mut state = self.lock();
        match &spilled {
            Ok(()) => run.overflows.store(true, Relaxed),
            Err(_) if essential => state.append(message, run),
            Err(_) => {
                drop(state);
                // There may be room elsewhere, though not to send it in its turn.
                let kept = run.keep(spill, &message, false);
                let asleep = std::mem::take(&mut self.arrivals().sleeping);
                self.wake_courier(asleep);
                return kept;
            }
        }
        drop(state);
        let asleep = std::mem::take(&mut self.arrivals().sleeping);
        self.wake_courier(asleep);
        spilled
    }

    /// There is something new: wakes the courier if it sleeps, outside all locks.
    fn wake_courier(&self, asleep: bool) {
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Brings back what overflowed, as far as there is room. An error is a damaged or unreadable file.
    pub(crate) fn refill(&self) -> Result<(), Error> {
        const AT_ONCE: usize = 256 << 10;
        let at_once = AT_ONCE.min(self.allowance.limit() / 2);
        let run = {
            let state = self.lock();
            // In batches, not line by line: wait until there is room for one.
            if state.bytes() > self.allowance.limit() / 2 {
                return Ok(());
            }
            state.runs.iter().find(|run| run.overflows.load(Relaxed)).map(Arc::clone)
        };
        let Some(run) = run else { return Ok(()) };
        let mut spill = run.spill();
        let before = spill.unread();
        let (messages, error) = spill.pull(at_once);
        let lost = before - spill.unread() - messages.len() as u64;
        run.counters.dropped.fetch_add(lost, Relaxed);
        let mut state = self.lock();
        for message in messages {
            state.append(message, &run);
        }
        run.overflows.store(spill.unread() > 0, Relaxed);
        drop(state);
        self.settled.notify_all();
        error.map_or(Ok(()), Err)
    }

    /// The next messages to send, at most `most` and about `bytes` (but one at least).
    pub(crate) fn take(&self, most: usize, bytes: usize) -> Vec<Sending> {
        let mut batch = Vec::new();
        let mut taken = 0;
        let mut state = self.lock();
        let end = state.end();
        while batch.len() < most && taken < bytes && state.cursor < end {
            let seq = state.cursor;
            state.cursor += 1;
            let Some(sending) = state.sending(seq) else { continue };
            taken += sending.message.payload.len();
            batch.push(sending);
        }
        batch
    }

    /// These once more, as far as they are still unconfirmed.
    pub(crate) fn take_again(&self, seqs: &[u64]) -> Vec<Sending> {
        let mut state = self.lock();
        seqs.iter().filter_map(|seq| state.sending(*seq)).collect()
    }

    /// These were sent (once more, perhaps).
    pub(crate) fn mark_sent(&self, seqs: &[u64]) {
        let mut state = self.lock();
        for seq in seqs {
            if let Some(Some(slot)) = state.slot(*seq)
                && std::mem::replace(&mut slot.sent, true)
            {
                slot.run.counters.resent.fetch_add(1, Relaxed);
            }
        }
    }

    /// Nobody has heard these when they were tried last; or (`false`) they are to be tried again.
    pub(crate) fn mark_unheard(&self, seqs: &[u64], unheard: bool) {
        let mut state = self.lock();
        for seq in seqs {
            // What was routed once has been heard.
            if let Some(Some(slot)) = state.slot(*seq)
                && slot.routed.is_none()
            {
                slot.set_unheard(unheard);
            }
        }
        drop(state);
        self.settled.notify_all();
    }

    /// A stream that stores our messages was made at this time.
    pub(crate) fn made(&self, stream: &str, created: &str) {
        for run in self.runs() {
            run.streams().made(stream, created);
        }
    }

    /// These have arrived, as far as the proof goes; `places`: where, if a stream has said so.
    pub(crate) fn confirm(&self, proofs: &[(u64, Proof)], places: &Places, now: Instant) {
        let mut state = self.lock();
        let mut done = Vec::with_capacity(proofs.len());
        let mut someone_settled = false;
        for proofs in proofs.chunk_by(|(_, one), (_, other)| one == other) {
            let Some((_, proof)) = proofs.first() else { continue };
            let mut tally = None;
            let mut settle = |tally: Option<Tally>| {
                someone_settled |= tally.is_some_and(|tally| tally.settle(*proof, &self.bytes));
            };
            for (seq, _) in proofs {
                if *proof == Proof::Routed {
                    settle(state.remember(*seq, now).and_then(|slot| Tally::add(&mut tally, slot)));
                } else if let Some(slot) = state.take_out(*seq) {
                    if let Some(place) = places.get(seq) {
                        slot.run.is_stored_at(place);
                    }
                    settle(Tally::add(&mut tally, &slot));
                    if *proof == Proof::None {
                        slot.run.leave_unconfirmed(&slot.message);
                    }
                    done.push(slot);
                }
            }
            settle(tally);
        }
        done.extend(state.forget_routed(now));
        let notify = someone_settled && state.waiting > 0;
        drop(state);
        if notify {
            self.settled.notify_all();
        }
        // `done` is freed here, outside the lock.
    }

    /// This message will not be sent any more (the server refused it for good, or nobody hears it and memory is short): it
    /// goes to disk. An error says that it could not.
    pub(crate) fn reject(&self, seq: u64, reason: &str) -> Result<(), Error> {
        // The spill first: a run that ends meanwhile must find the message either here or there.
        let run = self.lock().slot(seq).and_then(|slot| slot.as_ref().map(|slot| Arc::clone(&slot.run)));
        let Some(run) = run else { return Ok(()) };
        let mut spill = run.spill();
        let Some(slot) = self.lock().remove(seq) else { return Ok(()) };
        run.note_problem(reason);
        let kept = run.keep(&mut spill, &slot.message, slot.is_unheard());
        self.settled.notify_all();
        kept
    }

    /// All that is unconfirmed is to be sent again, and what was routed just now.
    pub(crate) fn rewind(&self, now: Instant) {
        let mut state = self.lock();
        let forgotten = state.forget_routed(now);
        state.cursor = state.base;
        // Whether anybody hears them is found out anew.
        state.queue.iter_mut().flatten().for_each(|slot| slot.set_unheard(false));
        drop(state);
        drop(forgotten);
    }

    /// Returns when there is something to send, or when something else changed: then `true`. With a `pause`, after
    /// that at the latest; whoever brings a message need not wake us then, which would cost the job's thread more than
    /// all else that it does for one.
    pub(crate) async fn work(&self, pause: Option<Duration>) -> bool {
        {
            let state = self.lock();
            let mut arrivals = self.arrivals();
            if !arrivals.slots.is_empty() || state.has_work(self.allowance.limit()) {
                return true;
            }
            arrivals.sleeping = pause.is_none();
        }
        let woken = self.wake.notified();
        match pause {
            None => {
                woken.await;
                true
            }
            Some(pause) => {
                tokio::time::timeout(pause, woken).await.is_ok()
                    || self.lock().has_work(self.allowance.limit())
            }
        }
    }

    /// Does the end of a run wait?
    pub(crate) fn is_hurried(&self) -> bool {
        self.lock().waiting > 0
    }

    /// How much is held in memory, unconfirmed.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Is there nothing to do and nobody who could bring something?
    pub(crate) fn is_idle(&self) -> bool {
        let (is_idle, over) = {
            let mut state = self.lock();
            (state.is_idle(), std::mem::take(&mut state.over))
        };
        // Their records are written here, outside the lock.
        drop(over);
        is_idle
    }

    /// Waits until all of the run is settled (then `true`), at most until `deadline`, and not at all if
    /// nobody delivers any more.
    pub(crate) fn wait_settled(&self, run: &Run, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        self.wake.notify_one();
        while !run.is_settled() && !state.service.is_given_up() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting -= 1;
        run.is_settled()
    }

    /// The end of a run: what is not confirmed goes to disk, in order. Says what is left there.
    pub(crate) fn settle(&self, run: &Run) -> Leftovers {
        let mut spill = run.spill();
        let mut error = None;
        self.take_out(run, |slot| {
            if let Err(failure) = run.keep(&mut spill, &slot.message, slot.is_unheard()) {
                error = Some(failure);
            }
        });
        let (moved, mut leftovers) = spill.close();
        run.counters.spilled.fetch_add(moved, Relaxed);
        run.overflows.store(false, Relaxed);
        leftovers.error = leftovers.error.or(error);
        leftovers
    }

    /// The runs that have something to be settled, or may still publish.
    pub(crate) fn runs(&self) -> Vec<Arc<Run>> {
        self.lock().runs.clone()
    }
}
