//! How much may be held in memory, and what is done when there is less than that.
//!
//! A failed allocation in the background, or in a library, would abort the whole job. So we look ahead: when a piece of
//! memory cannot be had any more, what is held counts as all that may be held, and whatever comes goes to disk. A reserve,
//! which is never touched until then, is given back for the many small things that go on.

use std::{
    hint::black_box,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::message::buffer::can_have;

/// Address space that is kept for the time when there is none, in bytes; none of it is touched.
const RESERVE: usize = 4 << 20;
/// What must be left for us to go on as before, in bytes: a connection has 4 MiB under way, and async-nats a copy of it.
const LEFT: usize = 6 << 20;
/// So often we look: each so many bytes.
const EVERY: usize = 256 << 10;
/// However little there is, a small message may pass.
const LEAST: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Allowance {
    /// As the user wants it.
    wanted: usize,
    limit: AtomicUsize,
    reserve: Mutex<Vec<u8>>,
    /// What has come since we looked last, in bytes.
    since: AtomicUsize,
}

impl Allowance {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            wanted,
            limit: AtomicUsize::new(wanted),
            reserve: Mutex::new(reserve()),
            // It may be short from the beginning.
            since: AtomicUsize::new(EVERY),
        }
    }

    /// How much may be held, in bytes.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Another message comes. Is memory running out? Looked at now and then.
    pub(super) fn runs_out(&self, size: usize) -> bool {
        if self.since.fetch_add(size, Relaxed) < EVERY {
            return false;
        }
        self.since.store(0, Relaxed);
        !Self::is_enough()
    }

    /// Is there memory to go on as before?
    pub(super) fn is_enough() -> bool {
        can_have(LEFT)
    }

    /// There is no more memory than this.
    pub(super) fn cut(&self, held: usize) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        *reserve = Vec::new();
        drop(reserve);
        self.limit.fetch_min(held.max(LEAST), Relaxed);
    }

    /// Nothing is held any more: begins anew.
    pub(super) fn restore(&self) {
        if self.limit.swap(self.wanted, Relaxed) != self.wanted {
            *self.reserve.lock().unwrap_or_else(PoisonError::into_inner) = reserve();
        }
    }
}

/// As much of it as there is.
fn reserve() -> Vec<u8> {
    let mut reserve = Vec::new();
    let mut size = RESERVE;
    while size >= LEAST && reserve.try_reserve_exact(size).is_err() {
        size /= 2;
    }
    black_box(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_all_that_may_be_until_nothing_is() {
        let allowance = Allowance::new(1 << 30);
        assert!(!allowance.runs_out(1) && allowance.limit() == 1 << 30);
        allowance.cut(5 << 20);
        allowance.cut(9 << 20);
        assert_eq!(allowance.limit(), 5 << 20);
        allowance.cut(0);
        assert_eq!((allowance.limit(), allowance.reserve.lock().unwrap().capacity()), (LEAST, 0));
        allowance.restore();
        assert_eq!(allowance.limit(), 1 << 30);
        assert!(allowance.reserve.lock().unwrap().capacity() >= RESERVE);
    }
}
