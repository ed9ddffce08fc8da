//! The courier's life, as the outbox sees it: whether anybody empties the queue.

use std::{
    collections::VecDeque,
    sync::{PoisonError, atomic::Ordering::Relaxed},
};

use super::Outbox;

/// Does anybody empty the queue?
#[derive(Debug, Default)]
pub(super) struct Service {
    phase: Phase,
    /// How many runs were opened so far.
    opened: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nobody: the next message starts a courier.
    #[default]
    Down,
    /// A courier is at work.
    Up,
    /// The courier gave up with work left (attempts used up, or reconnecting is not allowed).
    GivenUp,
}

impl Service {
    /// A run is opened. It also ends an earlier giving up: a new run is a new attempt.
    pub(super) fn open(&mut self) {
        self.opened += 1;
        if self.phase == Phase::GivenUp {
            self.phase = Phase::Down;
        }
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// A courier starts, unless one is at work or gave up: then `false`.
    pub(super) fn begin(&mut self) -> bool {
        let begins = self.phase == Phase::Down;
        if begins {
            self.phase = Phase::Up;
        }
        begins
    }

    /// The courier is gone, and the next message may start another one.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Down;
    }

    /// The courier ends though there is something to do. `false` if a run was opened after `opened` was asked: it
    /// deserves an attempt of its own.
    pub(super) fn give_up(&mut self, opened: u64) -> bool {
        let gives_up = self.opened == opened;
        if gives_up {
            self.phase = Phase::GivenUp;
        }
        gives_up
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.phase == Phase::GivenUp
    }
}

impl Outbox {
    /// The courier starts, unless one is at work or gave up: then `false`.
    pub(crate) fn begin_service(&self) -> bool {
        if self.is_served.load(Relaxed) {
            return false;
        }
        let mut state = self.lock();
        self.is_served.store(true, Relaxed);
        state.service.begin()
    }

    /// The courier ends if there is nothing left to do: then `true`.
    pub(crate) fn end_service(&self) -> bool {
        let mut state = self.lock();
        // Nobody brings a message between this look and the end.
        let arrivals = self.arrivals();
        let ends = arrivals.slots.is_empty() && state.is_idle();
        let mut forgotten = VecDeque::new();
        if ends {
            state.service.end();
            self.is_served.store(false, Relaxed);
            state.base = state.end();
            state.cursor = state.base;
            state.remembered = 0;
            state.routed.clear();
            forgotten = std::mem::take(&mut state.queue);
        }
        let over = std::mem::take(&mut state.over);
        drop(arrivals);
        drop(state);
        drop((forgotten, over));
        if ends {
            self.allowance.restore();
            // Nothing is held while nothing goes on.
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        ends
    }

    /// The courier could not be started: the next message may try again.
    pub(crate) fn fail_service(&self) {
        let mut state = self.lock();
        state.service.end();
        self.is_served.store(false, Relaxed);
    }

    /// How many runs were opened so far: what [`Self::give_up`] is told, to see whether a new one came.
    pub(crate) fn opened(&self) -> u64 {
        self.lock().service.opened()
    }

    /// The courier ends though there is something to do; whoever waits need not. `false` if a run was opened
    /// after `opened` was asked: it deserves an attempt of its own.
    pub(crate) fn give_up(&self, opened: u64) -> bool {
        let gives_up = self.lock().service.give_up(opened);
        if gives_up {
            self.settled.notify_all();
        }
        gives_up
    }

    /// Did the courier end with work left?
    pub(crate) fn is_given_up(&self) -> bool {
        self.lock().service.is_given_up()
    }
}
