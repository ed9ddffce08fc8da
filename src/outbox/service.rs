//! The courier's life, as the outbox sees it: whether anybody empties the queue.

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
