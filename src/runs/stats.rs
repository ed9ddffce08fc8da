//! Many runs together: what each host, task and playbook came to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, SystemTime},
};

use super::{Run, RunKey, Runs, Status};
use crate::message::{Received, RunId};

/// A host in many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostTotal {
    /// Runs that it was in.
    pub(crate) runs: u64,
    /// Of these, runs in which a task failed on it, and runs in which it could not be reached.
    pub(crate) failed: u64,
    pub(crate) unreachable: u64,
    /// How often it failed or was lost and was well again in the next run of the same playbook at the same revision.
    pub(crate) flaky: u64,
    /// For how long tasks were on it.
    pub(crate) busy: Duration,
}

/// A host, whose runs, of which playbook, at which revision of it.
type Course = (String, String, String, String);
/// When a run of that began, and whether it went badly on the host.
type Turn = (Option<SystemTime>, bool);

/// What many runs say of hosts.
#[derive(Debug, Default)]
pub(crate) struct HostStats {
    totals: HashMap<String, HostTotal>,
    courses: HashMap<Course, Vec<Turn>>,
}

impl HostStats {
    pub(crate) fn add(&mut self, run: &Run, now: SystemTime) {
        for host in run.hosts(now) {
            let total = self.totals.entry(host.name.to_owned()).or_default();
            total.runs += 1;
            total.failed += u64::from(host.recap.failed > 0);
            total.unreachable += u64::from(host.recap.unreachable > 0);
            total.busy += host.busy;
            if let Some(revision) = run.card.revision.as_ref().filter(|_| run.is_over()) {
                let (subject_id, playbook) = run.course();
                let course = [host.name, subject_id, playbook, revision].map(str::to_owned);
                self.courses.entry(course.into()).or_default().push((run.started, host.is_bad()));
            }
        }
    }

    /// The hosts, the worst first.
    pub(crate) fn rows(mut self) -> Vec<(String, HostTotal)> {
        for ((host, ..), mut turns) in self.courses {
            turns.sort_unstable();
            let recoveries = turns.windows(2).filter(|pair| matches!(pair, [(_, true), (_, false)])).count();
            if let Some(total) = self.totals.get_mut(&host) {
                total.flaky += u64::try_from(recoveries).unwrap_or(u64::MAX);
            }
        }
        let mut rows: Vec<_> = self.totals.into_iter().collect();
        let badness = |total: &HostTotal| (total.failed + total.unreachable, total.flaky, total.busy);
        rows.sort_by(|(a, x), (b, y)| badness(y).cmp(&badness(x)).then_with(|| a.cmp(b)));
        rows
    }
}

/// A task of a playbook in many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskTotal {
    /// Runs that had it.
    pub(crate) runs: u64,
    /// Results on hosts that failed, or were lost. Those that were rescued are among them.
    pub(crate) failures: u64,
    /// How long it took in all of them.
    pub(crate) total: Duration,
    /// How long at most in 95 of 100 (the nearest rank); `None` where no duration is known.
    pub(crate) p95: Option<Duration>,
}

/// What many runs say of tasks, by playbook and name.
#[derive(Debug, Default)]
pub(crate) struct TaskStats {
    all: HashMap<String, HashMap<String, (TaskTotal, Vec<Duration>)>>,
}

impl TaskStats {
    pub(crate) fn add(&mut self, run: &Run, now: SystemTime) {
        let tasks = self.all.entry(run.playbook.clone()).or_default();
        // A name may be there several times in a run.
        let mut of_run: BTreeMap<&str, (u64, Option<Duration>)> = BTreeMap::new();
        for task in run.tasks.iter() {
            let (failures, took) = of_run.entry(&task.name).or_default();
            *failures += task.recap.failed + task.recap.unreachable;
            if let Some(one) = run.duration_of(task, now) {
                *took = Some(took.unwrap_or_default() + one);
            }
        }
        for (name, (failures, took)) in of_run {
            let (total, durations) = match tasks.get_mut(name) {
                Some(known) => known,
                None => tasks.entry(name.to_owned()).or_default(),
            };
            total.runs += 1;
            total.failures += failures;
            total.total += took.unwrap_or_default();
            durations.extend(took);
        }
    }

    /// Playbook, task and what it came to, those that took the longest first.
    pub(crate) fn rows(self) -> Vec<(String, String, TaskTotal)> {
        let mut rows = Vec::new();
        for (playbook, tasks) in self.all {
            for (task, (total, mut durations)) in tasks {
                durations.sort_unstable();
                let p95 = rank(&durations, 95);
                rows.push((playbook.clone(), task, TaskTotal { p95, ..total }));
            }
        }
        rows.sort_by(|(p, a, x), (q, b, y)| y.total.cmp(&x.total).then_with(|| (p, a).cmp(&(q, b))));
        rows
    }
}

/// A playbook in many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaybookTotal {
    /// Runs that have ended.
    pub(crate) runs: u64,
    /// Of these, runs that were not successful.
    pub(crate) failed: u64,
    /// How long they took: in all, half of them at most, and 95 of 100 at most (the nearest rank).
    pub(crate) total: Duration,
    pub(crate) median: Option<Duration>,
    pub(crate) p95: Option<Duration>,
}

/// What many runs say of their playbooks, those that failed most often first.
pub(crate) fn playbooks<'a>(
    runs: impl Iterator<Item = &'a Run>,
    now: SystemTime,
) -> Vec<(String, PlaybookTotal)> {
    let mut all: HashMap<&str, (PlaybookTotal, Vec<Duration>)> = HashMap::new();
    for run in runs.filter(|run| run.is_over()) {
        let (total, durations) = all.entry(&run.playbook).or_default();
        total.runs += 1;
        total.failed += u64::from(run.status() != Status::Successful);
        if let Some(took) = run.duration(now) {
            total.total += took;
            durations.push(took);
        }
    }
    let mut rows: Vec<(String, PlaybookTotal)> = all
        .into_iter()
        .map(|(name, (total, mut durations))| {
            durations.sort_unstable();
            let (median, p95) = (rank(&durations, 50), rank(&durations, 95));
            (name.to_owned(), PlaybookTotal { median, p95, ..total })
        })
        .collect();
    rows.sort_by_cached_key(|(name, total)| (Reverse(total.failed), Reverse(total.median), name.clone()));
    rows
}

/// The smallest of them that so many of a hundred do not exceed (the nearest rank). They are sorted.
fn rank(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied()
}

/// The runs in a history that is too long to be kept: each is handed over once, when all of it was heard.
#[derive(Debug)]
pub(crate) struct Gathering {
    runs: Runs,
    /// Events of the runs that are kept.
    events: u64,
    /// Runs that were handed over, and whose they are: a header is whatever its sender writes there.
    done: HashMap<RunId, HashSet<String>>,
}

/// So many runs, and so many events of them, wait for the rest of it: of one that was killed, or publishes only some of its
/// events, nobody can say that all was heard.
const WAITING_RUNS: usize = 500;
const WAITING_EVENTS: u64 = 250_000;

impl Gathering {
    /// With nothing heard so far.
    pub(crate) fn into(runs: Runs) -> Self {
        Self { runs, events: 0, done: HashMap::new() }
    }

    /// Takes a message in, heard at `now`. Returns a run that nothing more is expected of, or that waited for too long.
    pub(crate) fn hear(&mut self, message: &Received, now: SystemTime) -> Option<Run> {
        let done = message.run.and_then(|run| self.done.get(&run));
        if done.is_some_and(|of| self.runs.whose(message).is_none_or(|subject_id| of.contains(&subject_id))) {
            return None;
        }
        let news = self.runs.hear(message, now)?;
        // What was printed does not count.
        self.runs.forget_output(news.run);
        self.events += u64::from(news.counter.is_some());
        let key = if self.runs.get(news.run).is_some_and(is_complete) {
            news.run
        } else if self.runs.all().count() > WAITING_RUNS || self.events > WAITING_EVENTS {
            // The one that was heard the longest ago, if possible of those that have ended.
            let patience = |(key, run): &(RunKey, &Run)| (!run.is_over(), run.heard, *key);
            self.runs.all().filter(|(key, _)| *key != news.run).min_by_key(patience)?.0
        } else {
            return None;
        };
        let run = self.runs.take(key)?;
        self.events = self.events.saturating_sub(run.event_count());
        if let Some(identity) = run.identity {
            self.done.entry(identity).or_default().insert(run.subject_id.clone());
        }
        Some(run)
    }

    /// The runs of which more might have come.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &Run> {
        self.runs.all().map(|(_, run)| run)
    }
}

/// Has it ended, was all of it heard up to ansible's last word, and would it be known again?
fn is_complete(run: &Run) -> bool {
    run.is_over() && run.has_beginning() && run.missing() == 0 && run.has_stats && run.identity.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rank() {
        let of = |count: u64| (1..=count).map(Duration::from_secs).collect::<Vec<_>>();
        for (count, percent, expected) in [
            (0, 95, None),
            (1, 95, Some(1)),
            (1, 50, Some(1)),
            (2, 50, Some(1)),
            (20, 95, Some(19)),
            (100, 95, Some(95)),
        ] {
            assert_eq!(rank(&of(count), percent), expected.map(Duration::from_secs), "{count} {percent}");
        }
    }
}
