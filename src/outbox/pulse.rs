//! Signs of life of a run (option `heartbeat`): made by the background, sent if there is a connection, and never kept.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::message::{About, Composer, Kind, Message, OPEN_STATES, nonce, to_millis};

/// The signs of life of one run.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// From one to the next.
    every: Duration,
    /// The highest counter of an event so far.
    counter: AtomicU64,
    beats: Mutex<Option<Beats>>,
}

#[derive(Debug)]
struct Beats {
    composer: Composer,
    nonce: String,
    number: u64,
    due: Instant,
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
        let beats = Beats { composer, nonce: nonce(), number: 0, due: Instant::now() + every };
        Self { every, counter: AtomicU64::new(0), beats: Mutex::new(Some(beats)) }
    }

    /// The run has this event.
    pub(crate) fn counts(&self, counter: u64) {
        self.counter.fetch_max(counter, Relaxed);
    }

    /// The run is over: no further sign, none under way. Returns when nobody makes one any more.
    pub(crate) fn stop(&self) {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The sign that is due, if one is, and when the next one will be.
    pub(super) fn beat(&self, now: Instant) -> (Option<Message>, Option<Instant>) {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Beats { composer, nonce, number, due }) = beats.as_mut() else { return (None, None) };
        if *due > now {
            return (None, Some(*due));
        }
        *number += 1;
        // Those that there was no connection for are not made up for.
        *due = now + self.every;
        let [_, running] = OPEN_STATES;
        let beat = Beat {
            heartbeat: *number,
            runner_ident: composer.ident(),
            created: to_millis(SystemTime::now()),
            status: running,
            events: self.counter.load(Relaxed),
        };
        let payload = serde_json::to_vec(&beat).unwrap_or_default();
        let kind = Kind::Heartbeat;
        let number = number.to_string();
        let own_id = [kind.as_str(), nonce.as_str(), &number];
        let about =
            About { kind, name: kind.as_str(), own_id: &own_id, created: Some(&beat.created), card: None };
        (Some(composer.message(&about, payload.into())), Some(*due))
    }
}
