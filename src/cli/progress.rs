//! How far a command is, where it takes longer than a second: on standard error, for a terminal alone.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar};

/// Shown after so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Looked at once in so many.
const EACH: u64 = 1024;

/// How much was read so far.
pub(super) struct Progress {
    began: Instant,
    bar: Option<ProgressBar>,
    count: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), bar: None, count: 0 }
    }

    /// Something was read.
    pub(super) fn tick(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(EACH) && self.began.elapsed() > PATIENCE {
            let bar = self.bar.get_or_insert_with(ProgressBar::new_spinner);
            bar.set_message(format!("{} events read", HumanCount(self.count)));
            bar.tick();
        }
    }

    /// How much that was.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Since it was begun, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Lets something else be written, which may be to the same terminal.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes it away from the screen.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
