//! The messages that are ours until the server confirmed them: one FIFO per connection, bounded in bytes.
//!
//! A message stays in the queue while it is in flight. The session takes messages from the cursor on; a
//! confirmation removes one; [`Outbox::rewind`] puts the cursor back to the oldest unconfirmed message, so
//! that the next session sends all of them again, in order. What does not fit goes to the run's spill file
//! and comes back through [`Outbox::refill`].
//!
//! Locks: a run's spill before the queue, never the other way round. No lock is held while anything is sent.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    error::Error,
    fault,
    message::Message,
    report::Counters,
    spill::{Leftovers, Spill},
};

/// One run of ansible-runner, as the outbox sees it.
#[derive(Debug)]
pub struct Run {
    /// What the user knows the run by.
    pub ident: String,
    /// What became of its messages.
    pub counters: Counters,
    /// The most that its end waits.
    pub flush_timeout: Duration,
    spill: Mutex<Spill>,
    /// Messages in the queue. Changed under the queue's lock only.
    queued: AtomicU64,
    /// There are messages on disk that are to be sent. Changed under both locks.
    overflows: AtomicBool,
    /// Nobody holds the run any more.
    closed: AtomicBool,
}

impl Run {
    /// A run whose undelivered messages go to `spill` when its end has waited for `flush_timeout`.
    pub fn new(ident: String, spill: Spill, flush_timeout: Duration) -> Arc<Self> {
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
    fn is_settled(&self) -> bool {
        self.queued.load(Relaxed) == 0 && !self.overflows.load(Relaxed)
    }

    fn spill(&self) -> MutexGuard<'_, Spill> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What says that a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A stream's acknowledgement: it is stored.
    Stored,
    /// The echo of a marker behind it: the server has routed it to whoever subscribes.
    Routed,
    /// Nothing: the server forbids us to ask.
    None,
}

/// What was routed, but not said to be stored, is sent once more if the connection breaks within this time:
/// it may have died in the server's memory, on its way to a stream or a subscriber.
const REMEMBERED: Duration = Duration::from_secs(1);
/// At most so many bytes of it are remembered, beyond the outbox's limit.
const REMEMBERED_BYTES: usize = 4 << 20;

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Its place in the queue; rises without end.
    pub seq: u64,
    /// The message; cheap to clone.
    pub message: Message,
}

/// Bounded FIFO of unconfirmed messages.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    /// A run got settled, or the courier gave up.
    settled: Condvar,
    /// There is something for the courier to do.
    wake: Notify,
    limit: usize,
    /// See [`Outbox::at_work_on`].
    at_work_on: AtomicU64,
}

const NOTHING: u64 = u64::MAX;

#[derive(Debug, Default)]
struct State {
    /// `None`: confirmed out of order.
    queue: VecDeque<Option<Slot>>,
    /// The number of the first slot.
    base: u64,
    /// The number of the next message to send.
    cursor: u64,
    /// Of the unconfirmed messages.
    bytes: usize,
    /// How many messages are unconfirmed.
    unconfirmed: usize,
    /// Of the messages that were routed lately and are remembered.
    remembered: usize,
    /// Runs that may still publish, and those that left something behind.
    runs: Vec<Arc<Run>>,
    service: Service,
    /// How many runs were opened so far.
    opened: u64,
    /// The courier waits for `wake`.
    sleeping: bool,
    /// Ends of runs that wait right now.
    waiting: usize,
}

#[derive(Debug)]
struct Slot {
    message: Message,
    run: Arc<Run>,
    sent: bool,
    /// Confirmed by an echo at this time, and remembered.
    routed: Option<Instant>,
}

/// Does anybody empty the queue?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Service {
    #[default]
    Down,
    Up,
    /// The courier gave up (attempts used up, or reconnecting is not allowed).
    GivenUp,
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.queue.len() as u64
    }

    fn append(&mut self, message: Message, run: &Arc<Run>) {
        self.bytes += message.size();
        self.unconfirmed += 1;
        run.queued.fetch_add(1, Relaxed);
        self.queue.push_back(Some(Slot { message, run: Arc::clone(run), sent: false, routed: None }));
    }

    /// Is there something to send, or to bring back from disk?
    fn has_work(&self, limit: usize) -> bool {
        let overflows = || self.runs.iter().any(|run| run.overflows.load(Relaxed));
        self.cursor < self.end() || (self.bytes <= limit / 2 && overflows())
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Option<Slot>> {
        let index = seq.checked_sub(self.base)?;
        self.queue.get_mut(usize::try_from(index).ok()?)
    }

    /// Takes an unconfirmed message out; the slots that nothing is left of go too.
    fn remove(&mut self, seq: u64) -> Option<Slot> {
        let slot = self.slot(seq)?.take_if(|slot| slot.routed.is_none())?;
        self.settle_one(slot.message.size(), &slot.run);
        self.trim();
        Some(slot)
    }

    fn settle_one(&mut self, size: usize, run: &Run) {
        self.bytes -= size;
        self.unconfirmed -= 1;
        run.queued.fetch_sub(1, Relaxed);
    }

    /// The message counts as confirmed, and stays for a while. Returns its run.
    fn remember(&mut self, seq: u64, now: Instant) -> Option<Arc<Run>> {
        let slot = self.slot(seq)?.as_mut().filter(|slot| slot.routed.is_none())?;
        slot.routed = Some(now);
        let (size, run) = (slot.message.size(), Arc::clone(&slot.run));
        self.settle_one(size, &run);
        self.remembered += size;
        Some(run)
    }

    /// Forgets what was routed long ago, or too much of it; returned, to be freed outside the lock.
    fn forget_routed(&mut self, now: Instant) -> Vec<Slot> {
        let mut forgotten = Vec::new();
        while let Some(Some(slot)) = self.queue.front() {
            let Some(routed) = slot.routed else { break };
            if now.duration_since(routed) < REMEMBERED && self.remembered <= REMEMBERED_BYTES {
                break;
            }
            self.remembered -= slot.message.size();
            forgotten.extend(self.queue.pop_front().flatten());
            self.base += 1;
            self.trim();
        }
        forgotten
    }

    fn trim(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.base += 1;
        }
        self.cursor = self.cursor.max(self.base);
    }

    /// Is there nothing to do and nobody who could bring something?
    fn is_idle(&mut self) -> bool {
        self.forget_closed();
        self.runs.is_empty() && self.unconfirmed == 0
    }

    fn forget_closed(&mut self) {
        self.runs.retain(|run| !run.closed.load(Relaxed) || !run.is_settled());
    }
}

impl Outbox {
    /// An outbox that holds up to `limit` bytes in memory.
    pub fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            settled: Condvar::new(),
            wake: Notify::new(),
            limit,
            at_work_on: AtomicU64::new(NOTHING),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins. It also ends an earlier giving up: a new run is a new attempt.
    pub fn open(&self, run: &Arc<Run>) {
        let mut state = self.lock();
        state.forget_closed();
        state.runs.push(Arc::clone(run));
        state.opened += 1;
        if state.service == Service::GivenUp {
            state.service = Service::Down;
        }
    }

    /// Nobody will publish for this run any more.
    pub fn close(&self, run: &Run) {
        run.closed.store(true, Relaxed);
        self.lock().forget_closed();
        // The courier may go to rest now.
        self.wake.notify_one();
    }

    /// Accepts a message; `essential` ones are held even beyond the limit rather than dropped. An error says
    /// why the disk did not take what memory could not; then the message is lost unless it is essential.
    pub fn push(&self, run: &Arc<Run>, message: Message, essential: bool) -> Result<(), Error> {
        run.counters.accepted.fetch_add(1, Relaxed);
        let mut spill = run.spill();
        if !run.overflows.load(Relaxed) {
            let mut state = self.lock();
            let _ = fault::at("outbox.push");
            if state.bytes + message.size() <= self.limit {
                state.append(message, run);
                self.wake_courier(state);
                return Ok(());
            }
        }
        let spilled = spill.push(&message);
        let mut state = self.lock();
        match &spilled {
            Ok(()) => run.overflows.store(true, Relaxed),
            Err(_) if essential => state.append(message, run),
            Err(_) => drop(run.counters.dropped.fetch_add(1, Relaxed)),
        }
        self.wake_courier(state);
        spilled
    }

    /// Counts a message that could not even be made.
    pub fn drop_one(&self, run: &Run) {
        run.counters.accepted.fetch_add(1, Relaxed);
        run.counters.dropped.fetch_add(1, Relaxed);
    }

    /// There is something new: wakes the courier if it sleeps, outside the lock.
    fn wake_courier(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.sleeping);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Brings back what overflowed, as far as there is room. An error is a damaged or unreadable file.
    pub fn refill(&self) -> Result<(), Error> {
        const AT_ONCE: usize = 256 << 10;
        let run = {
            let state = self.lock();
            // In batches, not line by line: wait until there is room for one.
            if state.bytes > self.limit / 2 {
                return Ok(());
            }
            state.runs.iter().find(|run| run.overflows.load(Relaxed)).map(Arc::clone)
        };
        let Some(run) = run else { return Ok(()) };
        let mut spill = run.spill();
        let before = spill.unread();
        let (messages, error) = spill.pull(AT_ONCE);
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
    pub fn take(&self, most: usize, bytes: usize) -> Vec<Sending> {
        let mut batch = Vec::new();
        let mut taken = 0;
        let mut state = self.lock();
        let end = state.end();
        while batch.len() < most && taken < bytes && state.cursor < end {
            let seq = state.cursor;
            state.cursor += 1;
            let Some(Some(slot)) = state.slot(seq) else { continue };
            taken += slot.message.payload.len();
            batch.push(Sending { seq, message: slot.message.clone() });
        }
        batch
    }

    /// All that is left of these, from `first` up to `below`, was sent (once more, perhaps).
    pub fn mark_sent(&self, first: u64, below: u64) {
        let mut state = self.lock();
        for seq in first.max(state.base)..below {
            if let Some(Some(slot)) = state.slot(seq)
                && std::mem::replace(&mut slot.sent, true)
            {
                slot.run.counters.resent.fetch_add(1, Relaxed);
            }
        }
    }

    /// The session handles this message now: should that panic, it is to blame.
    pub fn at_work_on(&self, seq: Option<u64>) {
        self.at_work_on.store(seq.unwrap_or(NOTHING), Relaxed);
    }

    /// What the session was at when it ended.
    pub fn was_at_work_on(&self) -> Option<u64> {
        Some(self.at_work_on.swap(NOTHING, Relaxed)).filter(|seq| *seq != NOTHING)
    }

    /// These have arrived, as far as the proof goes.
    pub fn confirm(&self, proofs: &[(u64, Proof)]) {
        let mut state = self.lock();
        let mut done = Vec::with_capacity(proofs.len());
        let mut someone_settled = false;
        let now = Instant::now();
        for (seq, proof) in proofs {
            if *proof == Proof::Routed {
                let Some(run) = state.remember(*seq, now) else { continue };
                run.counters.routed.fetch_add(1, Relaxed);
                someone_settled |= run.is_settled();
                continue;
            }
            let Some(slot) = state.remove(*seq) else { continue };
            let counters = &slot.run.counters;
            let counter = if *proof == Proof::Stored { &counters.stored } else { &counters.unproven };
            counter.fetch_add(1, Relaxed);
            someone_settled |= slot.run.is_settled();
            done.push(slot);
        }
        done.extend(state.forget_routed(now));
        let notify = someone_settled && state.waiting > 0;
        drop(state);
        if notify {
            self.settled.notify_all();
        }
        // `done` is freed here, outside the lock.
    }

    /// The server refused this message for good: it goes to disk. An error says that it could not.
    pub fn reject(&self, seq: u64) -> Result<(), Error> {
        // The spill first: a run that ends meanwhile must find the message either here or there.
        let run = self.lock().slot(seq).and_then(|slot| slot.as_ref().map(|slot| Arc::clone(&slot.run)));
        let Some(run) = run else { return Ok(()) };
        let mut spill = run.spill();
        let Some(slot) = self.lock().remove(seq) else { return Ok(()) };
        let kept = Self::keep(&run, &mut spill, &slot.message);
        self.settled.notify_all();
        kept
    }

    fn keep(run: &Run, spill: &mut Spill, message: &Message) -> Result<(), Error> {
        let kept = spill.keep(message);
        let counter = if kept.is_ok() { &run.counters.spilled } else { &run.counters.dropped };
        counter.fetch_add(1, Relaxed);
        kept
    }

    /// All that is unconfirmed is to be sent again, and what was routed just now.
    pub fn rewind(&self) {
        let mut state = self.lock();
        let forgotten = state.forget_routed(Instant::now());
        state.cursor = state.base;
        drop(state);
        drop(forgotten);
    }

    /// Returns when there is something to send, or when something else changed. The first message after
    /// that wakes the courier.
    pub async fn work(&self) {
        {
            let mut state = self.lock();
            if state.has_work(self.limit) {
                return;
            }
            state.sleeping = true;
        }
        self.wake.notified().await;
    }

    /// Does the end of a run wait?
    pub fn is_hurried(&self) -> bool {
        self.lock().waiting > 0
    }

    /// Waits `pause`, or until something changed; `true` if there may be something to do then.
    pub async fn linger(&self, pause: Duration) -> bool {
        let woken = tokio::time::timeout(pause, self.wake.notified()).await.is_ok();
        woken || self.lock().has_work(self.limit)
    }

    /// Waits until something may have changed: a new message, a run that ends.
    pub async fn stir(&self) {
        {
            self.lock().sleeping = true;
        }
        self.wake.notified().await;
    }

    /// How much is held in memory, unconfirmed.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Is there nothing to do and nobody who could bring something?
    pub fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Keeps a message that no server would take.
    pub fn push_to_disk(&self, run: &Run, message: &Message) -> Result<(), Error> {
        run.counters.accepted.fetch_add(1, Relaxed);
        Self::keep(run, &mut run.spill(), message)
    }

    /// The courier starts, unless one is at work or gave up: then `false`.
    pub fn begin_service(&self) -> bool {
        let mut state = self.lock();
        let begins = state.service == Service::Down;
        if begins {
            state.service = Service::Up;
        }
        begins
    }

    /// The courier ends if there is nothing left to do: then `true`.
    pub fn end_service(&self) -> bool {
        let mut state = self.lock();
        let ends = state.is_idle();
        let mut forgotten = VecDeque::new();
        if ends {
            state.service = Service::Down;
            state.base = state.end();
            state.cursor = state.base;
            state.remembered = 0;
            forgotten = std::mem::take(&mut state.queue);
        }
        drop(state);
        drop(forgotten);
        ends
    }

    /// The courier could not be started: the next message may try again.
    pub fn fail_service(&self) {
        self.lock().service = Service::Down;
    }

    /// How many runs were opened so far: what [`Self::give_up`] is told, to see whether a new one came.
    pub fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// The courier ends though there is something to do; whoever waits need not. `false` if a run was opened
    /// after `opened` was asked: it deserves an attempt of its own.
    pub fn give_up(&self, opened: u64) -> bool {
        let mut state = self.lock();
        if state.opened != opened {
            return false;
        }
        state.service = Service::GivenUp;
        drop(state);
        self.settled.notify_all();
        true
    }

    /// Did the courier end with work left?
    pub fn is_given_up(&self) -> bool {
        self.lock().service == Service::GivenUp
    }

    /// Waits until all of the run is settled (then `true`), at most until `deadline`, and not at all if
    /// nobody delivers any more.
    pub fn wait_settled(&self, run: &Run, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        self.wake.notify_one();
        while !run.is_settled() && state.service != Service::GivenUp {
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
    pub fn settle(&self, run: &Run) -> Leftovers {
        let mut spill = run.spill();
        let mut slots = Vec::new();
        {
            let mut state = self.lock();
            let of_run = |slot: &Option<Slot>| {
                slot.as_ref().is_some_and(|slot| std::ptr::eq(Arc::as_ptr(&slot.run), run))
            };
            let seqs: Vec<u64> = (state.base..)
                .zip(&state.queue)
                .filter(|(_, slot)| of_run(slot))
                .map(|(seq, _)| seq)
                .collect();
            slots.extend(seqs.into_iter().filter_map(|seq| state.remove(seq)));
        }
        let mut error = None;
        for slot in &slots {
            if let Err(failure) = Self::keep(run, &mut spill, &slot.message) {
                error = Some(failure);
            }
        }
        let (moved, mut leftovers) = spill.close();
        run.counters.spilled.fetch_add(moved, Relaxed);
        run.overflows.store(false, Relaxed);
        leftovers.error = leftovers.error.or(error);
        leftovers
    }

    /// The runs that have something to be settled, or may still publish.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.lock().runs.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u64) -> Message {
        Message {
            subject: "s".into(),
            headers: Vec::new().into(),
            id: n.to_string().into(),
            payload: format!("{{\"n\":{n}}}").into(),
        }
    }

    fn run(dir: Option<&std::path::Path>) -> Arc<Run> {
        Run::new("run".to_owned(), Spill::new(dir.map(ToOwned::to_owned)), Duration::from_secs(5))
    }

    fn ids(batch: &[Sending]) -> Vec<u64> {
        batch.iter().map(|sending| sending.message.id.parse().unwrap()).collect()
    }

    fn proofs(batch: &[Sending]) -> Vec<(u64, Proof)> {
        batch.iter().map(|sending| (sending.seq, Proof::Stored)).collect()
    }

    #[test]
    fn what_is_unconfirmed_is_sent_again_in_order() {
        let (outbox, run) = (Outbox::new(1 << 20), run(None));
        outbox.open(&run);
        for n in 0..6 {
            outbox.push(&run, message(n), false).unwrap();
        }
        let batch = outbox.take(4, usize::MAX);
        assert_eq!(ids(&batch), [0, 1, 2, 3]);
        outbox.mark_sent(0, 4);
        outbox.confirm(&[proofs(&batch)[0], proofs(&batch)[2]]);
        outbox.rewind();
        assert_eq!(ids(&outbox.take(9, usize::MAX)), [1, 3, 4, 5]);
        assert_eq!(run.counters.resent.load(Relaxed), 0);
        outbox.mark_sent(1, 6);
        assert_eq!(run.counters.resent.load(Relaxed), 2);
        outbox.confirm(&(0..6).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>());
        outbox.confirm(&(0..6).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>());
        assert!(run.is_settled());
        assert_eq!(run.counters.stored.load(Relaxed), 2);
        assert_eq!(run.counters.routed.load(Relaxed), 4);
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn confirmations_of_what_is_gone_change_nothing() {
        let (outbox, run) = (Outbox::new(1 << 20), run(None));
        outbox.push(&run, message(0), false).unwrap();
        outbox.confirm(&[7, 0, 0].map(|seq| (seq, Proof::Stored)));
        outbox.confirm(&[(0, Proof::Stored)]);
        assert_eq!(run.counters.stored.load(Relaxed), 1);
    }

    #[test]
    fn what_was_routed_just_now_is_sent_again_but_counted_once() {
        let (outbox, run) = (Outbox::new(1 << 20), run(None));
        outbox.open(&run);
        for n in 0..4 {
            outbox.push(&run, message(n), false).unwrap();
        }
        outbox.take(9, usize::MAX);
        outbox.confirm(&[0, 1, 2].map(|seq| (seq, Proof::Routed)));
        outbox.rewind();
        let again = outbox.take(9, usize::MAX);
        assert_eq!(ids(&again), [0, 1, 2, 3]);
        outbox.confirm(&proofs(&again));
        assert_eq!((run.counters.routed.load(Relaxed), run.counters.stored.load(Relaxed)), (3, 1));
        assert!(run.is_settled());
        assert!(outbox.settle(&run).files.is_empty());
        outbox.close(&run);
        assert!(outbox.is_idle() && outbox.end_service());
        assert!(outbox.take(9, usize::MAX).is_empty());
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn only_so_much_is_remembered_and_only_so_long() {
        let (outbox, run) = (Outbox::new(1 << 30), run(None));
        let big = |n: u64| Message { payload: vec![b' '; 1 << 20].into(), ..message(n) };
        for n in 0..9 {
            outbox.push(&run, big(n), false).unwrap();
        }
        outbox.take(9, usize::MAX);
        outbox.confirm(&(0..9).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>());
        outbox.rewind();
        assert_eq!(ids(&outbox.take(9, usize::MAX)), [6, 7, 8]);
        let later = Instant::now() + REMEMBERED * 2;
        assert_eq!(outbox.lock().forget_routed(later).len(), 3);
        assert_eq!(outbox.lock().remembered, 0);
    }

    #[test]
    fn beyond_the_limit_order_holds_through_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, run) = (Outbox::new(message(0).size() * 3), run(Some(dir.path())));
        outbox.open(&run);
        let mut seen = Vec::new();
        for n in 0..50 {
            outbox.push(&run, message(n), false).unwrap();
            if n % 7 == 0 {
                let batch = outbox.take(1, usize::MAX);
                seen.extend(ids(&batch));
                outbox.confirm(&proofs(&batch));
                outbox.refill().unwrap();
            }
        }
        while !run.is_settled() {
            outbox.refill().unwrap();
            let batch = outbox.take(2, usize::MAX);
            seen.extend(ids(&batch));
            outbox.confirm(&proofs(&batch));
        }
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_end_of_a_run_keeps_all_of_it_in_order_and_nothing_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, mine, other) = (Outbox::new(message(0).size() * 4), run(Some(dir.path())), run(None));
        outbox.push(&other, message(100), false).unwrap();
        for n in 0..9 {
            outbox.push(&mine, message(n), false).unwrap();
        }
        outbox.take(2, usize::MAX);
        let leftovers = outbox.settle(&mine);
        let text = std::fs::read(&leftovers.files[0]).unwrap();
        let kept: Vec<u64> = text
            .split_inclusive(|b| *b == b'\n')
            .map(|line| Message::from_line(line).unwrap().id.parse().unwrap())
            .collect();
        assert_eq!(kept, (0..9).collect::<Vec<_>>());
        assert_eq!(mine.counters.spilled.load(Relaxed), 9);
        outbox.rewind();
        assert_eq!(ids(&outbox.take(9, usize::MAX)), [100]);
    }

    #[test]
    fn with_no_directory_events_are_counted_and_statuses_kept() {
        let (outbox, run) = (Outbox::new(0), run(None));
        assert!(outbox.push(&run, message(0), false).is_err());
        assert!(outbox.push(&run, message(1), true).is_err());
        assert_eq!(run.counters.dropped.load(Relaxed), 1);
        assert_eq!(ids(&outbox.take(9, usize::MAX)), [1]);
    }

    #[test]
    fn nobody_waits_for_a_courier_that_gave_up() {
        let (outbox, run) = (Outbox::new(1 << 20), run(None));
        outbox.open(&run);
        outbox.push(&run, message(0), false).unwrap();
        assert!(outbox.begin_service() && !outbox.begin_service());
        assert!(!outbox.give_up(outbox.opened() - 1));
        assert!(outbox.give_up(outbox.opened()));
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(!outbox.wait_settled(&run, far));
        assert!(!outbox.begin_service());
        outbox.open(&self::run(None));
        assert!(outbox.begin_service());
    }

    #[test]
    fn the_courier_rests_only_when_no_run_is_left() {
        let (outbox, run) = (Outbox::new(1 << 20), run(None));
        outbox.open(&run);
        outbox.push(&run, message(0), false).unwrap();
        assert!(outbox.begin_service());
        outbox.close(&run);
        assert!(!outbox.end_service());
        let batch = outbox.take(1, usize::MAX);
        outbox.confirm(&proofs(&batch));
        assert!(outbox.end_service());
    }
}
