//! What earlier runs have left, and what of it is missing: for the courier, which takes it up by itself, and for `replay`,
//! for a person who wants it at once.
//!
//! - `plan`: what is missing of a run, by its record, its spill files, its artifacts, and what the stream holds;
//! - `artifacts`: events and statuses as ansible-runner keeps them become messages again;
//! - `spill_file`: the lines of a spill file, and what is left of them;
//! - `site`: where earlier runs have left something, and what of that is ours;
//! - `backlog`: a spill file that is sent behind live messages.

mod artifacts;
mod backlog;
mod plan;
mod records;
mod site;
mod spill_file;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant,
};

use self::backlog::{Backlog, Next};
pub(crate) use self::{
    artifacts::Given,
    plan::{Decision, Plan, Stored, Wish},
    records::Sent,
    site::{Kind as SiteKind, Site},
};
use crate::{
    error::Error,
    journal::Destination,
    outbox::{Outbox, Run},
};

/// What a courier takes up of what earlier runs have left in files: behind everything that is live, one file at a time.
#[derive(Debug)]
pub(crate) struct Recovery {
    destination: Destination,
    sites: Mutex<Vec<Site>>,
    /// The courier's business alone, as it takes its time.
    taking: Mutex<Taking>,
    may_be_left: AtomicBool,
    /// A run has begun: what nobody heard is to be tried once more.
    has_unheard: AtomicBool,
}

/// How far it is.
#[derive(Debug, Default)]
struct Taking {
    /// The file that is being sent.
    current: Option<Backlog>,
    /// What no server takes, or what cannot be removed: left to people.
    refused: HashSet<PathBuf>,
    /// What nobody heard: left until the next run begins, or to the next process.
    unheard: HashSet<PathBuf>,
}

impl Recovery {
    /// For runs whose messages go to this destination.
    pub(crate) fn new(destination: Destination) -> Self {
        Self {
            destination,
            sites: Mutex::default(),
            taking: Mutex::default(),
            may_be_left: AtomicBool::new(false),
            has_unheard: AtomicBool::new(false),
        }
    }

    /// A run begins: what others like it have left is in its spool, and beside its artifacts. Is there to be looked?
    pub(crate) fn learn(&self, run: &Run) -> bool {
        let artifacts = run.artifacts().and_then(Path::parent);
        let places = [(run.spool(), SiteKind::Spool), (artifacts, SiteKind::Artifacts)];
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_due = false;
        for (path, kind) in places.into_iter().filter_map(|(path, kind)| Some((path?, kind))) {
            let at = sites.iter().position(|known| known.path == path).unwrap_or_else(|| {
                sites.push(Site::new(path, kind));
                sites.len() - 1
            });
            if let Some(site) = sites.get_mut(at) {
                site.learn(&run.identity);
                is_due |= site.ask(Instant::now());
            }
        }
        // Before the lock is given back: whoever sees that a site is due must see this, too.
        if is_due {
            self.has_unheard.store(true, SeqCst);
            self.may_be_left.store(true, SeqCst);
        }
        drop(sites);
        is_due
    }

    /// Is anything still to be sent, or being looked for? Reading may take a while, and what is found is not known before.
    pub(crate) fn is_at_work(&self) -> bool {
        self.may_be_left.load(SeqCst) || matches!(self.taking.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Where messages of these runs go.
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Where to look.
    pub(crate) fn sites(&self) -> Vec<Site> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where to look next.
    fn due(&self) -> Option<Site> {
        self.sites().into_iter().find(|site| site.is_due)
    }

    /// There is nothing there any more.
    fn is_looked_through(&self, site: &Site) {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        for known in sites.iter_mut().filter(|known| known.path == site.path && known.asked == site.asked) {
            known.is_due = false;
        }
    }

    fn taking(&self) -> MutexGuard<'_, Taking> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If a run has begun, what nobody heard is tried once more.
    fn forgive(&self, taking: &mut Taking) {
        if self.has_unheard.swap(false, SeqCst) {
            taking.unheard.clear();
            // What is just being tried is tried for this run, too.
            if let Some(backlog) = &mut taking.current {
                backlog.renew_patience();
            }
        }
    }

    /// There is a connection: takes up what earlier runs have left in files, a little at a time and behind everything that
    /// is live. An error is about what is not sent by itself.
    pub(crate) fn feed(&self, outbox: &Outbox) -> Result<(), Error> {
        if !self.may_be_left.load(SeqCst) || outbox.has_live_work() {
            return Ok(());
        }
        let mut guard = self.taking();
        let taking = &mut *guard;
        // Before the look, so that a run that begins during it is not missed.
        self.may_be_left.store(false, SeqCst);
        self.forgive(taking);
        loop {
            if let Some(backlog) = taking.current.take_if(|backlog| backlog.is_unheard()) {
                // It must hold up neither the other files nor the end of the thread.
                outbox.forget(backlog.run());
                taking.unheard.insert(backlog.path().to_owned());
            }
            while taking.current.is_none()
                && let Some(site) = self.due()
            {
                // A run may have begun since: it is for that one that the site is due.
                self.forgive(taking);
                taking.current = Backlog::claim(&site, &self.destination, &taking.refused, &taking.unheard);
                if taking.current.is_none() {
                    site.remove_remains();
                    self.is_looked_through(&site);
                }
            }
            let Some(backlog) = &mut taking.current else { return Ok(()) };
            match backlog.next() {
                Next::Messages(messages, error) => {
                    self.may_be_left.store(true, SeqCst);
                    outbox.offer(backlog.run(), messages);
                    return error.map_or(Ok(()), Err);
                }
                Next::Stuck(error) => {
                    taking.refused.insert(backlog.path().to_owned());
                    taking.current = None;
                    self.may_be_left.store(true, SeqCst);
                    return Err(error);
                }
                Next::End(error) => {
                    let (left, failed) = taking.current.take().map(Backlog::finish).unwrap_or_default();
                    taking.refused.extend(left);
                    if let Some(error) = failed.or(error) {
                        self.may_be_left.store(true, SeqCst);
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The connection is gone: what was taken up and is not confirmed is still in its file.
    pub(crate) fn put_back(&self, outbox: &Outbox) {
        let current = self.taking().current.take();
        if let Some(backlog) = current {
            outbox.forget(backlog.run());
            self.may_be_left.store(true, SeqCst);
        }
    }
}
