//! What must hold, whatever happens.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    bus::{place_of, run_of},
    script::{Api, FAULTS_END, Inbox, Step, Wanted},
    world::{Checked, World},
};
use crate::{message::Message, outbox::Proof};

impl World<'_> {
    /// Will some messages of this run never be proved, however well all is? Only the end of the run ends the waiting.
    pub(super) fn is_hopeless(&self, run: u64) -> bool {
        let setup = &self.script.setup;
        let is_ended = self.jobs.get(&run).is_none_or(|job| job.ended || job.ending.is_none());
        let has_said_not_now =
            self.script.steps.iter().any(|(_, step)| matches!(step, Step::Api(Api::NotNow)));
        let waits_in_vain = |kind: &str| {
            let subject = format!("pub.s.r{run}.{kind}");
            if self.bus.has_leader(&subject) {
                return setup.inbox == Inbox::Closed;
            }
            // A stream that acknowledges nothing; or JetStream does not say that there is none.
            self.bus.has_stream(&subject)
                || (setup.jetstream && setup.api != Api::Answers)
                // Or its last word was that there is one, and it says nothing since.
                || (setup.api == Api::Silent && has_said_not_now)
                || (setup.delivery == Wanted::Jetstream && self.bus.has_subscriber)
        };
        is_ended || (setup.delivery != Wanted::Core && ["event", "status"].into_iter().any(waits_in_vain))
    }

    /// What is said to have arrived has arrived.
    pub(super) fn check_proof(&mut self, seq: u64, proof: Proof) -> Checked {
        let Some(id) = self.ids.get(&seq).cloned() else { return Err(format!("{seq} was never taken")) };
        self.confirmed.insert(id.clone());
        if proof == Proof::Routed {
            self.routed.insert(id.clone());
        }
        let subject = self.subject_of(&id);
        let delivery = self.script.setup.delivery;
        match proof {
            Proof::Stored if !self.bus.ever_stored.contains(&id) || delivery == Wanted::Core => {
                Err(format!("{id} counts as stored, and no stream has it"))
            }
            Proof::Routed if delivery == Wanted::Jetstream => {
                Err(format!("{id} counts as routed, and a stream was asked for"))
            }
            Proof::Routed if delivery == Wanted::Auto && !self.bus.is_wanted(&id) => {
                Err(format!("{id} counts as routed, and nobody has heard it"))
            }
            Proof::Routed
                if delivery == Wanted::Auto
                    && !self.bus.ever_stored.contains(&id)
                    && (self.bus.known.contains(&subject)
                        || (self.is_well && self.bus.has_leader(&subject)))
                    && self.script.setup.inbox == Inbox::Open
                    && self.now < FAULTS_END =>
            {
                Err(format!("{id} counts as routed, and a stream that takes it has not got it"))
            }
            Proof::None if self.script.setup.inbox == Inbox::Open => {
                Err(format!("{id} counts as sent, and a proof was to be had"))
            }
            Proof::Stored | Proof::Routed | Proof::None => Ok(()),
        }
    }

    /// Has there been somebody for all messages of this run, for so long that each must have been tried again?
    pub(super) fn could_be_heard(&self, run: u64) -> bool {
        const TRIED: u64 = 10_000;
        let setup = &self.script.setup;
        let since_heal = self.now.saturating_sub(FAULTS_END);
        let is_heard = |kind: &str| {
            let subject = format!("pub.s.r{run}.{kind}");
            self.bus.has_leader(&subject) || (setup.delivery == Wanted::Auto && self.bus.has_subscriber)
        };
        // Where memory is short, what nobody heard went to disk.
        setup.pending >= 1 << 26 && since_heal > TRIED && ["event", "status"].into_iter().all(is_heard)
    }

    /// No more is under way than may be.
    pub(super) fn check_window(&self) -> Checked {
        let (span, window) = (self.machine.flights.span(), self.script.setup.window);
        if span > window { Err(format!("{span} are under way where {window} may be")) } else { Ok(()) }
    }

    pub(super) fn subject_of(&self, id: &str) -> String {
        let kind = if self.is_status(id) { "status" } else { "event" };
        format!("pub.s.{}.{kind}", run_of(id))
    }

    fn is_status(&self, id: &str) -> bool {
        self.statuses.contains(id)
    }

    /// Every accepted message has exactly one fate, and order is as documented.
    pub(super) fn check_fates(&mut self) -> Checked {
        for (number, job) in &self.jobs {
            let record = job.run.so_far();
            let kept = kept_in(job.folder.path());
            let fates = record.confirmed + record.undelivered + record.unproven + record.lost;
            self.report.accepted += record.accepted;
            self.report.stored += record.stored;
            self.report.routed += record.routed;
            self.report.kept += record.undelivered;
            self.report.unheard += record.unheard;
            self.report.resent += record.resent;
            if !job.ended {
                continue;
            }
            if record.accepted != fates || record.accepted != job.pushed as u64 {
                return Err(format!(
                    "run {number}: {} were accepted, {fates} have a fate: {record:?}",
                    job.pushed
                ));
            }
            if kept.len() as u64 != record.undelivered {
                return Err(format!(
                    "run {number}: {} are kept, {} are said to be",
                    kept.len(),
                    record.undelivered
                ));
            }
            if record.unheard > record.undelivered {
                return Err(format!(
                    "run {number}: {} of {} were unheard",
                    record.unheard, record.undelivered
                ));
            }
            let ids = (0..job.pushed).map(|place| format!("r{number}.{place}"));
            let gone = ids.filter(|id| !self.bus.is_wanted(id));
            let gone = gone.filter(|id| !kept.contains(id)).count() as u64;
            let is_core = self.script.setup.delivery == Wanted::Core;
            if gone > record.lost + record.unproven + if is_core { record.routed } else { 0 } {
                return Err(format!("run {number}: {gone} are nowhere: {record:?}"));
            }
            if self.script.steps.iter().all(|(_, step)| step.is_of_the_job())
                && record.resent > 0
                && record.unheard == 0
            {
                let is_quiet = self.script.setup.bandwidth > 0
                    || self.script.setup.api != Api::Answers
                    || self.script.setup.streams.iter().any(|stream| stream.no_ack);
                let retried = !self.bus.has_subscriber && record.stored < record.accepted;
                if !is_quiet && !retried {
                    return Err(format!(
                        "run {number}: {} were sent again, and nothing was wrong",
                        record.resent
                    ));
                }
            }
        }
        self.check_order()
    }

    fn check_order(&self) -> Checked {
        let mut last: HashMap<(usize, &str), usize> = HashMap::new();
        for (stream, id) in &self.bus.stored {
            let run = run_of(id);
            let place = place_of(id);
            if self.routed.contains(id) {
                // It is sent once more after a cut, in case it died in the server's memory.
                continue;
            }
            let before = last.insert((*stream, run), place);
            let is_excused =
                self.bus.excused.contains(run) || self.may_be_stored_twice() || self.may_be_out_of_order();
            if before.is_some_and(|before| before >= place) && !is_excused {
                return Err(format!("{id} was stored after {before:?}"));
            }
        }
        let mut first: HashSet<&str> = HashSet::new();
        let mut last: HashMap<(&str, bool), usize> = HashMap::new();
        for id in &self.bus.heard {
            let run = run_of(id);
            if !first.insert(id) || self.bus.excused.contains(run) || self.may_be_out_of_order() {
                continue;
            }
            let place = place_of(id);
            let before = last.insert((run, self.is_status(id)), place);
            if before.is_some_and(|before| before > place) {
                return Err(format!("{id} was heard after {before:?}"));
            }
        }
        Ok(())
    }

    /// A status that found no room on disk overtakes what is there; and `core` asks nobody whether a message was stored.
    fn may_be_out_of_order(&self) -> bool {
        self.script.setup.delivery == Wanted::Core
            || self.script.steps.iter().any(|(_, step)| *step == Step::DiskFull(true))
    }

    /// A stream that was made anew, or that forgets ids soon, may get what it had before.
    fn may_be_stored_twice(&self) -> bool {
        let steps = &self.script.steps;
        steps.iter().any(|(_, step)| matches!(step, Step::Delete(_) | Step::Make(_)))
            || self
                .script
                .setup
                .streams
                .iter()
                .any(|stream| stream.duplicate_window < 100_000 || stream.no_ack)
    }
}

/// The ids in all spill files of a folder.
fn kept_in(folder: &Path) -> Vec<String> {
    let files = crate::journal::spill_files_in(folder);
    let lines = files.iter().flat_map(|path| {
        let text = std::fs::read(path).unwrap_or_default();
        text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
    });
    lines.filter_map(|line| Message::from_line(&line)).map(|message| message.id()).collect()
}
