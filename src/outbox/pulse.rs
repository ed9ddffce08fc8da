//! Signs of life of a run (option `heartbeat`): made by the background, sent if there is a connection, and never kept.

use std::{
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::message::{About, Composer, Kind, Message, OPEN_STATES, nonce, to_millis};

/// After so many signs that did not come a run is missed.
const MISSED: u32 = 3;

/// The signs of life of one run.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// From one to the next.
    every: Duration,
    /// The highest counter of an event so far.
    counter: AtomicU64,
    beats: Mutex<Option<Beats>>,
    /// The thread that the run is in.
    thread: AtomicU32,
}

/// A sign of life that is to be sent.
#[derive(Debug)]
pub(crate) struct Sign {
    /// Itself.
    pub(crate) message: Message,
    /// How long a stream need keep it: no longer than until it would have been missed. `None`: it is the run's last one,
    /// which stays, so that nobody takes the run for one that was killed.
    pub(crate) keep: Option<Duration>,
}

#[derive(Debug)]
struct Beats {
    composer: Composer,
    nonce: String,
    number: u64,
    due: Instant,
    /// How the run has ended: one sign is left.
    ended: Option<String>,
}

/// What a sign of life says.
#[derive(Serialize)]
struct Beat<'a> {
    heartbeat: u64,
    runner_ident: &'a str,
    created: String,
    status: &'a str,
    events: u64,
}

impl Pulse {
    /// One message each `every`, made by `composer`.
    pub(crate) fn new(every: Duration, composer: Composer) -> Self {
        let beats = Beats { composer, nonce: nonce(), number: 0, due: Instant::now() + every, ended: None };
        Self { every, counter: AtomicU64::new(0), beats: Mutex::new(Some(beats)), thread: AtomicU32::new(0) }
    }

    /// The run has this event.
    pub(crate) fn counts(&self, counter: u64) {
        self.counter.fetch_max(counter, Relaxed);
    }

    /// The run says something, in this thread.
    pub(crate) fn lives(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(thread.unsigned_abs(), Relaxed);
    }

    /// The run is over: one last sign says how it ended.
    pub(crate) fn end(&self, status: &str) {
        let mut beats = self.beats();
        if let Some(beats) = beats.as_mut() {
            beats.ended = Some(status.to_owned());
            beats.due = Instant::now();
        }
    }

    fn beats(&self) -> MutexGuard<'_, Option<Beats>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is the thread gone that the run was in? Its runner is over then, though no status said so: an event handler of the
    /// job's own has raised an exception. Where it cannot be seen, no.
    fn is_deserted(&self) -> bool {
        let thread = self.thread.load(Relaxed);
        let tasks = Path::new("/proc/self/task");
        thread != 0 && tasks.exists() && !tasks.join(thread.to_string()).exists()
    }

    /// The sign that is due, if one is, and when the next one will be.
    pub(super) fn beat(&self, now: Instant) -> (Option<Sign>, Option<Instant>) {
        let mut beats = self.beats();
        let Some(Beats { composer, nonce, number, due, ended }) = beats.as_mut() else { return (None, None) };
        if *due > now {
            return (None, Some(*due));
        }
        if ended.is_none() && self.is_deserted() {
            beats.take();
            return (None, None);
        }
        *number += 1;
        // Those that there was no connection for are not made up for.
        *due = now + self.every;
        let [_, running] = OPEN_STATES;
        let beat = Beat {
            heartbeat: *number,
            runner_ident: composer.ident(),
            created: to_millis(SystemTime::now()),
            status: ended.as_deref().unwrap_or(running),
            events: self.counter.load(Relaxed),
        };
        let payload = serde_json::to_vec(&beat).unwrap_or_default();
        let kind = Kind::Heartbeat;
        let number = number.to_string();
        let own_id = [kind.as_str(), nonce.as_str(), &number];
        let about =
            About { kind, name: kind.as_str(), own_id: &own_id, created: Some(&beat.created), card: None };
        let message = composer.message(&about, payload.into());
        let next = *due;
        if ended.is_some() {
            beats.take();
            return (Some(Sign { message, keep: None }), None);
        }
        (Some(Sign { message, keep: Some(self.every * MISSED) }), Some(next))
    }
}
