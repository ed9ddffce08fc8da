//! One run of ansible-runner, as the outbox sees it.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{
    places::{Place, Streams},
    pulse::Pulse,
};
use crate::{
    error::Error,
    journal::{
        Delivery, Folder, Found, Identity, Leftovers, Ranges, Record, RecordFile, RunState, Spill,
        earlier_was_stored, in_seconds,
    },
    message::{self, Message, to_millis},
    report::Counters,
};

/// One run of ansible-runner, as the outbox sees it.
#[derive(Debug)]
pub(crate) struct Run {
    /// Tells it from the other runs of this process.
    number: u64,
    /// Whose run it is, and since when.
    pub(crate) identity: Identity,
    /// What became of its messages.
    pub(crate) counters: Counters,
    /// The most that its end waits.
    pub(crate) flush_timeout: Duration,
    folder: Arc<Folder>,
    spill: Mutex<Spill>,
    /// Counters of events that are neither confirmed nor on disk.
    unconfirmed: Mutex<Ranges>,
    /// The streams that have stored its messages.
    streams: Mutex<Streams>,
    has_repeats: AtomicBool,
    /// Name and address of the last server.
    server: Mutex<Option<String>>,
    record: Mutex<OnDisk>,
    /// Why a message of it was kept, the last time.
    problem: Mutex<Option<String>>,
    /// Its signs of life, if it gives any.
    pub(crate) pulse: Option<Pulse>,
    /// Messages in the queue. Changed under the queue's lock only.
    pub(super) queued: AtomicU64,
    /// Of these, the ones that nobody heard when they were tried last.
    pub(super) unheard: AtomicU64,
    /// See [`Sending::was_stored`](super::Sending::was_stored).
    was_stored: AtomicBool,
    /// There are messages on disk that are to be sent. Changed under both locks.
    pub(super) overflows: AtomicBool,
    /// Nobody holds the run any more.
    pub(super) closed: AtomicBool,
}

/// How far the record on disk is.
#[derive(Debug)]
enum OnDisk {
    /// This run has none.
    Never,
    NotYet,
    /// Written, and locked.
    Begun(RecordFile),
    /// Written for the last time, or it could not be written.
    Done,
}

impl Run {
    /// A run with a record. When its end has waited for `flush_timeout`, undelivered messages go to `folder`.
    pub(crate) fn new(
        identity: Identity,
        folder: Folder,
        flush_timeout: Duration,
        pulse: Option<Pulse>,
    ) -> Arc<Self> {
        Self::with(identity, folder, flush_timeout, OnDisk::NotYet, pulse)
    }

    /// Somebody else's messages, sent by us: there is no record of that.
    pub(crate) fn unrecorded(name: &str, folder: Folder, flush_timeout: Duration) -> Arc<Self> {
        Self::with(Identity::of_others(name), folder, flush_timeout, OnDisk::Never, None)
    }

    /// Are its messages somebody else's, which are kept elsewhere until they are confirmed?
    pub(crate) fn is_of_others(&self) -> bool {
        self.identity.run.is_none()
    }

    fn with(
        identity: Identity,
        folder: Folder,
        flush_timeout: Duration,
        record: OnDisk,
        pulse: Option<Pulse>,
    ) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let folder = Arc::new(folder);
        Arc::new(Self {
            number: NUMBERS.fetch_add(1, Relaxed),
            identity,
            counters: Counters::default(),
            flush_timeout,
            spill: Mutex::new(Spill::new(Arc::clone(&folder))),
            folder,
            unconfirmed: Mutex::default(),
            streams: Mutex::default(),
            has_repeats: AtomicBool::new(false),
            server: Mutex::default(),
            record: Mutex::new(record),
            problem: Mutex::default(),
            pulse,
            queued: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            was_stored: AtomicBool::new(false),
            overflows: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Is every accepted message accounted for?
    pub(super) fn is_settled(&self) -> bool {
        self.queued.load(Relaxed) == 0 && !self.overflows.load(Relaxed)
    }

    /// Is all that is left of it in the queue what nobody has heard?
    pub(crate) fn is_unheard(&self) -> bool {
        let queued = self.queued.load(Relaxed);
        queued > 0 && queued == self.unheard.load(Relaxed) && !self.overflows.load(Relaxed)
    }

    /// Tells it from the other runs of this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn was_stored(&self) -> bool {
        self.was_stored.load(Relaxed)
    }

    /// A stream has acknowledged a message of it.
    pub(super) fn is_stored_at(&self, place: &Place) {
        self.streams().note(place);
        if place.is_repeat {
            self.has_repeats.store(true, Relaxed);
        }
    }

    /// Has a stream said of any message that it knew it already?
    pub(crate) fn has_repeats(&self) -> bool {
        self.has_repeats.load(Relaxed)
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Streams> {
        lock(&self.streams)
    }

    pub(crate) fn spill(&self) -> MutexGuard<'_, Spill> {
        lock(&self.spill)
    }

    /// Where runs of this kind leave what they could not deliver, if not with their artifacts.
    pub(crate) fn spool(&self) -> Option<&Path> {
        self.folder.spool()
    }

    /// ansible-runner's artifact directory.
    pub(crate) fn artifacts(&self) -> Option<&Path> {
        self.folder.artifacts()
    }

    /// Messages in the queue.
    pub(crate) fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// A server that the run's messages go to.
    pub(crate) fn meets(&self, server: &str) {
        *lock(&self.server) = Some(server.to_owned());
    }

    /// Counts a message that could not even be made.
    pub(crate) fn drop_one(&self, message: &Message) {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.lose(message);
    }

    /// Why a message of it is not delivered.
    pub(crate) fn note_problem(&self, reason: &str) {
        *lock(&self.problem) = Some(reason.to_owned());
    }

    /// Keeps a message that no server would take.
    pub(crate) fn keep_at_once(&self, message: &Message, reason: &str) -> Result<(), Error> {
        self.note_problem(reason);
        self.counters.accepted.fetch_add(1, Relaxed);
        self.keep(&mut self.spill(), message, false)
    }

    /// Keeps an accepted message on disk, or counts it as lost.
    pub(super) fn keep(&self, spill: &mut Spill, message: &Message, is_unheard: bool) -> Result<(), Error> {
        let kept = spill.keep(message);
        match kept {
            Ok(()) => {
                self.counters.spilled.fetch_add(1, Relaxed);
                self.counters.unheard.fetch_add(u64::from(is_unheard), Relaxed);
            }
            Err(_) => self.lose(message),
        }
        kept
    }

    /// An accepted message is lost.
    pub(super) fn lose(&self, message: &Message) {
        self.counters.dropped.fetch_add(1, Relaxed);
        self.leave_unconfirmed(message);
    }

    /// A message that is neither confirmed nor on disk.
    pub(super) fn leave_unconfirmed(&self, message: &Message) {
        if let Some(counter) = message::counter_of(&message.id()) {
            lock(&self.unconfirmed).add(counter);
        }
    }

    /// What became of the run's messages so far.
    pub(crate) fn so_far(&self) -> Record {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &self.counters;
        let (stored, routed) = (count(&counters.stored), count(&counters.routed));
        Record {
            server: lock(&self.server).clone(),
            delivery: match (stored, routed) {
                (0, 0) => Delivery::None,
                (0, _) => Delivery::Core,
                _ => Delivery::Jetstream,
            },
            accepted: count(&counters.accepted),
            confirmed: stored + routed,
            stored,
            routed,
            resent: count(&counters.resent),
            undelivered: count(&counters.spilled),
            unheard: count(&counters.unheard) + count(&self.unheard),
            unproven: count(&counters.unproven),
            lost: count(&counters.dropped),
            unconfirmed_counters: lock(&self.unconfirmed).to_vec(),
            artifact_dir: self.folder.artifacts().map(Path::to_owned),
            streams: lock(&self.streams).to_vec(),
            ..self.identity.record()
        }
    }

    /// The record of the run's end.
    pub(crate) fn ended(&self, leftovers: &Leftovers, problem: Option<String>, waited: Duration) -> Record {
        Record {
            state: RunState::Ended,
            ended: Some(to_millis(SystemTime::now())),
            files: leftovers.files.clone(),
            problem: problem.or_else(|| self.why_not_delivered()),
            waited: in_seconds(waited),
            ..self.so_far()
        }
    }

    /// Why something is not delivered, if something is not: never without a word.
    fn why_not_delivered(&self) -> Option<String> {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let Counters { spilled, dropped, unproven, unheard, .. } = &self.counters;
        if count(spilled) + count(dropped) + count(unproven) == 0 {
            return None;
        }
        lock(&self.problem).clone().or_else(|| {
            Some(if count(unheard) > 0 {
                "nobody listens, and no stream takes them".to_owned()
            } else if count(unproven) > 0 {
                "the server lets nothing be confirmed (see `ansible-runner-nats check`)".to_owned()
            } else {
                format!("not confirmed within {} s (flush_timeout)", self.flush_timeout.as_secs_f64())
            })
        })
    }

    /// Writes the record of a run that goes on, once. Where that cannot be done nothing else changes.
    pub(super) fn begin_record(&self) {
        let mut on_disk = lock(&self.record);
        if matches!(*on_disk, OnDisk::NotYet) {
            let artifacts = self.folder.artifacts();
            let was_stored = artifacts.is_some_and(|folder| earlier_was_stored(folder, &self.identity));
            self.was_stored.store(was_stored, Relaxed);
            let created = self.folder.get().and_then(|folder| RecordFile::create(&folder, &self.so_far()));
            if let Some(artifacts) = artifacts.filter(|_| self.folder.in_spool().is_some()) {
                Found::forget_clean(artifacts);
            }
            *on_disk = created.map_or(OnDisk::Done, OnDisk::Begun);
        }
    }

    /// Writes the last record. In a spool, where nobody looks for runs that are over, a clean one does not stay.
    pub(crate) fn end_record(&self, record: &Record) {
        let mut on_disk = lock(&self.record);
        let begun = match std::mem::replace(&mut *on_disk, OnDisk::Done) {
            OnDisk::Begun(file) => file,
            OnDisk::NotYet if self.folder.is_spool() && record.is_clean() => {
                return record.keep_beside_artifacts();
            }
            OnDisk::NotYet => {
                match self.folder.get().and_then(|folder| RecordFile::create(&folder, record)) {
                    Ok(file) => file,
                    Err(_) => return,
                }
            }
            OnDisk::Never | OnDisk::Done => return,
        };
        let _ = match self.folder.in_spool() {
            Some(folder) if record.is_clean() => {
                record.keep_beside_artifacts();
                begun.remove().and_then(|()| fs::remove_dir(folder))
            }
            _ => begun.finish(record),
        };
    }

    /// There was no such run.
    pub(super) fn withdraw_record(&self) {
        if let OnDisk::Begun(file) = std::mem::replace(&mut *lock(&self.record), OnDisk::Done) {
            let _ = file.remove();
            if let Some(folder) = self.folder.in_spool() {
                let _ = fs::remove_dir(folder);
            }
        }
    }

    /// Is there a message, and is it confirmed? `None`: that is not known yet.
    pub(crate) fn is_confirmed(&self) -> Option<bool> {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let Counters { stored, routed, unproven, spilled, dropped, .. } = &self.counters;
        match (count(stored) + count(routed), count(unproven) + count(spilled) + count(dropped)) {
            (0, 0) => None,
            (_, lost) => Some(lost == 0),
        }
    }

    /// What is to be said about the run's files, once.
    pub(crate) fn complaint(&self) -> Option<Error> {
        self.folder.complaint()
    }
}

impl Drop for Run {
    /// Nobody ended it (its configuration object is gone), and all of it is settled: it was not killed.
    fn drop(&mut self) {
        if matches!(self.record.get_mut(), Ok(OnDisk::Begun(_))) && self.is_settled() {
            let record = self.ended(&Leftovers::default(), None, Duration::ZERO);
            self.end_record(&record);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
