//! The tasks of a run: when each began and ended, on each host, and for whom the run waits.
//!
//! ansible tells when a task begins on a host (`runner_on_start`) and how it ended there; a host does one task at a time,
//! whatever the strategy. A task may be there several times under one uuid: for each batch of `serial`, and a handler that
//! is notified again. Each time it is on a host is a [`Step`] of its own.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::recap::Recap;

/// How many tasks of a run are kept, and what is kept of them on hosts: two marks a step.
const TASKS: usize = 5_000;
const MARKS: usize = 500_000;

/// How a task ended on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Changed,
    Skipped,
    /// It failed, and the play went on (`ignore_errors`).
    Ignored,
    Failed,
    Unreachable,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Changed => "changed",
            Self::Skipped => "skipped",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
        }
    }

    /// What it adds to ansible's counts. What changed something and was ignored has changed something all the same.
    pub(super) fn counts(self, is_changed: bool) -> Recap {
        let mut one = Recap::default();
        match self {
            Self::Ok | Self::Changed => one.ok = 1,
            Self::Ignored => (one.ok, one.ignored) = (1, 1),
            Self::Skipped => one.skipped = 1,
            Self::Failed => one.failed = 1,
            Self::Unreachable => one.unreachable = 1,
        }
        one.changed = u64::from(is_changed && one.ok == 1);
        one
    }
}

/// A task of a run.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Of its first event.
    pub(crate) counter: u64,
    uuid: String,
    /// Its name.
    pub(crate) name: String,
    /// When its first and its last event were.
    pub(crate) began: Option<SystemTime>,
    pub(crate) last: Option<SystemTime>,
    /// How it went on the hosts so far.
    pub(crate) recap: Recap,
    /// When it was begun: once for each batch of hosts.
    starts: Vec<SystemTime>,
    /// By counter.
    marks: Vec<Mark>,
}

/// A host has begun with a task, or has ended it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    counter: u64,
    host: u32,
    when: Option<SystemTime>,
    /// `None`: it has begun.
    outcome: Option<Outcome>,
}

/// One time that a task is on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step<'a> {
    pub(crate) host: &'a str,
    /// When it began there, as far as that was told.
    pub(crate) began: Option<SystemTime>,
    /// When and how it ended there; `None`: that was not told.
    pub(crate) ended: Option<SystemTime>,
    pub(crate) outcome: Option<Outcome>,
    /// The last event that says so.
    pub(crate) counter: u64,
}

impl Step<'_> {
    /// How long it took.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.ended?.duration_since(self.began?).ok()
    }
}

/// A host that has begun with a task and has not ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting<'a> {
    pub(crate) host: &'a str,
    pub(crate) task: &'a str,
    pub(crate) since: Option<SystemTime>,
}

/// What an event says of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) counter: u64,
    pub(super) uuid: &'a str,
    pub(super) name: &'a str,
    pub(super) when: Option<SystemTime>,
    pub(super) what: What<'a>,
    /// What it adds to the counts.
    pub(super) counts: &'a Recap,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    /// The task begins.
    Start,
    /// On this host.
    Begins(&'a str),
    Ends(&'a str, Outcome),
    /// It goes on.
    Other,
}

/// The tasks of a run, in order, and what was on each host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    all: Vec<Task>,
    hosts: Vec<String>,
    numbers: HashMap<String, u32>,
    marks: usize,
    /// Some of them, or marks, are not kept.
    are_cut: bool,
    /// The last mark of each host: its counter, and whether it says that a task has begun there.
    last: HashMap<u32, Last>,
}

#[derive(Clone, Debug)]
struct Last {
    counter: u64,
    uuid: String,
    is_begin: bool,
    when: Option<SystemTime>,
}

impl Tasks {
    /// The tasks, in the order in which they began.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Task> + DoubleEndedIterator {
        self.all.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All hosts that were heard of, in the order in which that was.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str)
    }

    /// The counter of the last event that says that a task began or ended on this host.
    pub(super) fn last_on(&self, host: &str) -> Option<u64> {
        Some(self.last.get(self.numbers.get(host)?)?.counter)
    }

    /// Were there more than are kept?
    pub(crate) fn are_cut(&self) -> bool {
        self.are_cut
    }

    pub(super) fn hear(&mut self, told: Told<'_>) {
        let Told { counter, uuid, when, what, .. } = told;
        let place = self.place_of(told);
        let mark = match what {
            What::Begins(host) => Some((host, None)),
            What::Ends(host, outcome) => Some((host, Some(outcome))),
            What::Start | What::Other => None,
        };
        if let Some((host, outcome)) = mark {
            let host = self.number_of(host);
            let last = self.last.entry(host).or_insert_with(|| Last {
                counter: 0,
                uuid: String::new(),
                is_begin: false,
                when: None,
            });
            if counter >= last.counter {
                *last = Last { counter, uuid: uuid.to_owned(), is_begin: outcome.is_none(), when };
            }
            self.are_cut |= self.marks >= MARKS;
            if self.marks < MARKS
                && let Some(task) = self.all.get_mut(place)
            {
                let at = task.marks.partition_point(|mark| mark.counter <= counter);
                task.marks.insert(at, Mark { counter, host, when, outcome });
                self.marks += 1;
            }
        }
        if let Some(task) = self.all.get_mut(place) {
            let is_earlier = counter < task.counter;
            task.counter = task.counter.min(counter);
            task.began = [task.began, when].into_iter().flatten().min();
            task.last = task.last.max(when);
            task.recap.add(told.counts);
            if let (What::Start, Some(when)) = (what, when) {
                let at = task.starts.partition_point(|start| *start <= when);
                task.starts.insert(at, when);
            }
            if is_earlier {
                self.all.sort_by_key(|task| task.counter);
            }
        }
        if self.all.len() > TASKS {
            self.are_cut = true;
            let gone = self.all.remove(0);
            self.marks -= gone.marks.len();
        }
    }

    /// Where the task is that is told of; it may be new.
    fn place_of(&mut self, Told { counter, uuid, name, when, .. }: Told<'_>) -> usize {
        let known = self.all.iter().rposition(|task| task.uuid == uuid && !uuid.is_empty());
        known.unwrap_or_else(|| {
            let place = self.all.partition_point(|task| task.counter <= counter);
            let task = Task {
                counter,
                uuid: uuid.to_owned(),
                name: name.to_owned(),
                began: when,
                last: when,
                recap: Recap::default(),
                starts: Vec::new(),
                marks: Vec::new(),
            };
            self.all.insert(place, task);
            place
        })
    }

    fn number_of(&mut self, host: &str) -> u32 {
        if let Some(number) = self.numbers.get(host) {
            return *number;
        }
        let number = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.hosts.push(host.to_owned());
        self.numbers.insert(host.to_owned(), number);
        number
    }

    /// The hosts that have begun with a task and have told nothing since, who has waited the longest first. Of those whose
    /// next word may be among the events that are missing (`unknown`: the last of these) nobody can say.
    pub(super) fn waiting(&self, unknown: Option<u64>) -> Vec<Waiting<'_>> {
        let mut waiting: Vec<Waiting<'_>> = self
            .last
            .iter()
            .filter(|(_, last)| last.is_begin && unknown.is_none_or(|unknown| unknown < last.counter))
            .filter_map(|(host, last)| {
                let task = self.all.iter().rfind(|task| task.uuid == last.uuid)?;
                let host = self.hosts.get(usize::try_from(*host).ok()?)?;
                Some(Waiting { host, task: &task.name, since: last.when })
            })
            .collect();
        waiting.sort_by(|a, b| (a.since, a.host).cmp(&(b.since, b.host)));
        waiting
    }

    /// The counter of the first event after which a host may be waited for; `None`: none is.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.last.values().filter(|last| last.is_begin).map(|last| last.counter).min()
    }

    /// What was on each host of a task, in the order in which it ended or began there.
    pub(crate) fn steps<'a>(&'a self, task: &Task) -> Vec<Step<'a>> {
        let mut steps: Vec<(u32, Step<'a>)> = Vec::new();
        let mut open: HashMap<u32, usize> = HashMap::new();
        for mark in &task.marks {
            let Some(host) = usize::try_from(mark.host).ok().and_then(|host| self.hosts.get(host)) else {
                continue;
            };
            let Some(outcome) = mark.outcome else {
                open.insert(mark.host, steps.len());
                let (began, counter) = (mark.when, mark.counter);
                steps.push((mark.host, Step { host, began, ended: None, outcome: None, counter }));
                continue;
            };
            let begun = open.remove(&mark.host).and_then(|at| steps.get_mut(at));
            let (ended, outcome, counter) = (mark.when, Some(outcome), mark.counter);
            match begun {
                Some((_, step)) => (step.ended, step.outcome, step.counter) = (ended, outcome, counter),
                // Only its end was told: it began with its batch.
                None => {
                    let batch = task.starts.iter().rfind(|start| ended.is_some_and(|end| **start <= end));
                    steps.push((mark.host, Step { host, began: batch.copied(), ended, outcome, counter }));
                }
            }
        }
        steps.into_iter().map(|(_, step)| step).collect()
    }

    /// How long a task took, or takes so far: the time in which it was on any host. `now`: until then goes on what has not
    /// ended.
    pub(crate) fn duration(&self, task: &Task, now: SystemTime) -> Option<Duration> {
        let is_last = self.all.last().is_some_and(|last| last.counter == task.counter);
        let is_open = |host: &str| {
            let number = self.numbers.get(host);
            number
                .and_then(|number| self.last.get(number))
                .is_some_and(|last| last.is_begin && last.uuid == task.uuid)
        };
        let mut spans: Vec<(SystemTime, SystemTime)> = Vec::new();
        for step in self.steps(task) {
            let Some(began) = step.began else { continue };
            match step.ended {
                Some(ended) => spans.push((began, ended)),
                None if is_open(step.host) => spans.push((began, now)),
                None => {}
            }
        }
        if spans.is_empty() {
            // No host has told when it was at it.
            let end = if is_last { Some(now) } else { task.last };
            return end?.duration_since(task.began?).ok();
        }
        spans.sort_unstable();
        let mut total = Duration::ZERO;
        let mut until: Option<SystemTime> = None;
        for (began, ended) in spans {
            let from = until.map_or(began, |until| until.max(began));
            total += ended.duration_since(from).unwrap_or_default();
            until = until.max(Some(ended));
        }
        Some(total)
    }
}
