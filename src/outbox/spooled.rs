//! Which files of the spools are taken up, and when: behind everything that is live, one file at a time.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        MutexGuard, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
};

use super::{
    Outbox,
    backlog::{Backlog, Next},
    spool::Spool,
};
use crate::error::Error;

/// What is taken up from spools.
#[derive(Debug, Default)]
pub(super) struct Spooled {
    /// The file that is being sent.
    current: Option<Backlog>,
    /// What no server takes: left to people.
    refused: HashSet<PathBuf>,
    /// What nobody heard: left until the next run begins, or to the next process.
    unheard: HashSet<PathBuf>,
}

impl Outbox {
    fn spooled(&self) -> MutexGuard<'_, Spooled> {
        self.spooled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a connection: takes up what earlier runs have left in the spools, a little at a time and behind
    /// everything that is live. An error is about what is not sent by itself.
    pub(crate) fn feed(&self) -> Result<(), Error> {
        if !self.may_be_spooled.load(Relaxed) || self.has_live_work() {
            return Ok(());
        }
        let mut guard = self.spooled();
        let spooled = &mut *guard;
        // Before the look, so that a run that begins during it is not missed.
        self.may_be_spooled.store(false, SeqCst);
        if self.has_unheard.swap(false, SeqCst) {
            spooled.unheard.clear();
            // What is just being tried is tried for this run, too.
            if let Some(backlog) = &mut spooled.current {
                backlog.renew_patience();
            }
        }
        loop {
            if let Some(backlog) = spooled.current.take_if(|backlog| backlog.is_unheard()) {
                // It must hold up neither the other files nor the end of the thread.
                self.take_out(backlog.run(), |_| {});
                spooled.unheard.insert(backlog.path().to_owned());
            }
            let claim =
                |spool: &Spool| Backlog::claim(spool, &self.destination, &spooled.refused, &spooled.unheard);
            if spooled.current.is_none() {
                let spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner).clone();
                spooled.current = spools.iter().find_map(claim);
            }
            let Some(backlog) = &mut spooled.current else { return Ok(()) };
            match backlog.next() {
                Next::Messages(messages, error) => {
                    self.may_be_spooled.store(true, SeqCst);
                    let mut state = self.lock();
                    for message in messages {
                        backlog.run().counters.accepted.fetch_add(1, Relaxed);
                        state.append(message, backlog.run());
                    }
                    return error.map_or(Ok(()), Err);
                }
                Next::Stuck(error) => {
                    spooled.refused.insert(backlog.path().to_owned());
                    spooled.current = None;
                    self.may_be_spooled.store(true, SeqCst);
                    return Err(error);
                }
                Next::End(error) => {
                    let refused = spooled.current.take().map(Backlog::finish);
                    spooled.refused.extend(refused.into_iter().flatten());
                    if let Some(error) = error {
                        self.may_be_spooled.store(true, SeqCst);
                        return Err(error);
                    }
                }
            }
        }
    }

    fn has_live_work(&self) -> bool {
        let state = self.lock();
        state.cursor < state.end() || state.runs.iter().any(|run| run.overflows.load(Relaxed))
    }

    /// The connection is gone: what was taken up and is not confirmed is still in its file.
    pub(crate) fn put_back(&self) {
        let current = self.spooled().current.take();
        if let Some(backlog) = current {
            self.take_out(backlog.run(), |_| {});
            self.may_be_spooled.store(true, Relaxed);
        }
    }
}
