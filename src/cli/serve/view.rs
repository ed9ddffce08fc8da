//! A run as pages and programs are shown it: its tasks with what they did on each host.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use crate::runs::{self, Fate, Outcome, Recap, Run};

/// How a task went on a host, or altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has not ended.
    Open,
    Ended(Outcome),
    /// It failed, and a `rescue` has dealt with it.
    Rescued,
}

impl Sign {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ended(outcome) => outcome.as_str(),
            Self::Rescued => Fate::Rescued.as_str(),
        }
    }

    pub(super) fn glyph(self) -> &'static str {
        match self {
            Self::Open => "…",
            Self::Ended(Outcome::Ok) => "✓",
            Self::Ended(Outcome::Changed) => "~",
            Self::Ended(Outcome::Skipped) => "–",
            Self::Ended(Outcome::Ignored) => "i",
            Self::Ended(Outcome::Failed) => "✗",
            Self::Ended(Outcome::Unreachable) => "⊘",
            Self::Rescued => "r",
        }
    }

    /// What is worth a look comes first.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Ended(Outcome::Failed | Outcome::Unreachable) => 0,
            Self::Open => 1,
            Self::Ended(Outcome::Ignored) | Self::Rescued => 2,
            Self::Ended(Outcome::Changed) => 3,
            Self::Ended(Outcome::Ok) => 4,
            Self::Ended(Outcome::Skipped) => 5,
        }
    }
}

/// What a task did on a host.
pub(super) struct Step<'a> {
    pub(super) host: &'a str,
    pub(super) sign: Sign,
    pub(super) began: Option<SystemTime>,
    pub(super) took: Option<Duration>,
    /// The event that says so.
    pub(super) counter: u64,
}

/// A task, and the events from its beginning to that of the next one.
pub(super) struct TaskView<'a> {
    pub(super) name: &'a str,
    pub(super) from: u64,
    /// The first event that is the next one's.
    pub(super) to: u64,
    pub(super) began: Option<SystemTime>,
    /// The time that it was on any host.
    pub(super) took: Option<Duration>,
    pub(super) recap: &'a Recap,
    pub(super) steps: Vec<Step<'a>>,
}

/// Where a run stands in a list: when it began, or else, where nobody knows, when something of it was made last.
pub(super) fn place_in_time(run: &Run) -> Option<SystemTime> {
    run.started.or(run.last_event)
}

pub(super) fn tasks(run: &Run, now: SystemTime) -> Vec<TaskView<'_>> {
    let rescued = run.failures.iter().filter(|failure| failure.fate == Fate::Rescued);
    let rescued: HashSet<u64> = rescued.map(|failure| failure.counter).collect();
    let next = run.tasks.iter().skip(1).map(|task| task.counter).chain([u64::MAX]);
    run.tasks
        .iter()
        .zip(next)
        .map(|(task, to)| TaskView {
            name: &task.name,
            from: task.counter,
            to,
            began: task.began,
            took: run.duration_of(task, now),
            recap: &task.recap,
            steps: run.tasks.steps(task).into_iter().map(|step| Step::new(&step, &rescued)).collect(),
        })
        .collect()
}

impl<'a> Step<'a> {
    fn new(step: &runs::Step<'a>, rescued: &HashSet<u64>) -> Self {
        let runs::Step { host, began, outcome, counter, .. } = *step;
        let sign = match outcome {
            None => Sign::Open,
            Some(_) if rescued.contains(&counter) => Sign::Rescued,
            Some(outcome) => Sign::Ended(outcome),
        };
        Self { host, sign, began, took: step.duration(), counter }
    }
}

impl TaskView<'_> {
    /// How it went altogether: the worst of its hosts tells. `goes_on`: it is what the run is at, or was when it was cut short.
    pub(super) fn sign(&self, goes_on: bool) -> Sign {
        let signs = self.steps.iter().map(|step| step.sign).filter(|sign| goes_on || *sign != Sign::Open);
        let worst = signs.min_by_key(|sign| sign.rank());
        match worst {
            Some(worst) if worst.rank() == 0 => worst,
            _ if goes_on => Sign::Open,
            worst => worst.unwrap_or(Sign::Ended(Outcome::Ok)),
        }
    }
}
