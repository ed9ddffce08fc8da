//! What is otherwise in one run than in another.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Outcome, Run};

impl Run {
    /// What a run shares with those before and after it: whose they are, and of which playbook.
    pub(crate) fn course(&self) -> (&str, &str) {
        (&self.subject_id, &self.playbook)
    }

    /// Why it is not known as a whole what it did on hosts; `None`: it is.
    pub(crate) fn why_partly_known(&self) -> Option<String> {
        let has_no_names = self.tasks.iter().any(|task| task.name.is_empty());
        let missing = self.missing();
        Some(match missing {
            1.. => format!("{missing} of its events are not in the stream"),
            0 if !self.is_over() => "it has not ended".to_owned(),
            0 if self.selects() => "it publishes only some of its events".to_owned(),
            0 if has_no_names => "its events are without details".to_owned(),
            0 if self.tasks.are_cut() => "it has too many tasks".to_owned(),
            0 => return None,
        })
    }
}

/// What a task on a host came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    /// `None`: its end was not told.
    pub(crate) outcome: Option<Outcome>,
    /// How long it took, where that is known.
    pub(crate) took: Option<Duration>,
}

/// How two runs differ in a task on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Only the first run has it.
    New,
    /// Only the second run has it.
    Gone,
    /// It ended otherwise, or changed something otherwise.
    Outcome,
    /// It took more than twice as long, and a second more at least.
    Slower,
}

impl Change {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Gone => "gone",
            Self::Outcome => "outcome",
            Self::Slower => "slower",
        }
    }
}

/// A task on a host that is otherwise in the first run than in the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference<'a> {
    pub(crate) host: &'a str,
    pub(crate) task: &'a str,
    pub(crate) change: Change,
    pub(crate) a: Option<Came>,
    pub(crate) b: Option<Came>,
}

/// A task may be on a host several times: in each run, the how manieth time of that name it is.
type Place<'a> = (&'a str, &'a str, usize);

/// Where `a` is otherwise than `b`: in the order of `a`'s tasks, and then what only `b` has. Of a run that is not known as a
/// whole nobody can say what it has not.
pub(crate) fn differences<'a>(a: &'a Run, b: &'a Run) -> Vec<Difference<'a>> {
    let (is_whole_a, is_whole_b) = (a.why_partly_known().is_none(), b.why_partly_known().is_none());
    let (of_a, mut of_b) = (steps(a), steps(b).into_iter().collect::<HashMap<_, _>>());
    let mut found = Vec::new();
    for ((host, task, number), one) in of_a {
        let other = of_b.remove(&(host, task, number));
        if let Some(change) = change(one, other).filter(|change| *change != Change::New || is_whole_b) {
            found.push(Difference { host, task, change, a: Some(one), b: other });
        }
    }
    let gone = if is_whole_a { steps(b) } else { Vec::new() };
    let gone: Vec<Place<'_>> = gone.into_iter().map(|(place, _)| place).collect();
    for place in gone {
        if let Some(other) = of_b.remove(&place) {
            let (host, task, _) = place;
            found.push(Difference { host, task, change: Change::Gone, a: None, b: Some(other) });
        }
    }
    found
}

fn change(one: Came, other: Option<Came>) -> Option<Change> {
    const LEAST: Duration = Duration::from_secs(1);
    let Some(other) = other else { return Some(Change::New) };
    if one.outcome != other.outcome {
        return Some(Change::Outcome);
    }
    let is_slower = one.took > other.took.map(|took| (took * 2).max(took + LEAST));
    (is_slower && other.took.is_some()).then_some(Change::Slower)
}

/// Everything that a run did, by host, task and how often.
fn steps(run: &Run) -> Vec<(Place<'_>, Came)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut all = Vec::new();
    for task in run.tasks.iter() {
        for step in run.tasks.steps(task) {
            let number = counts.entry((step.host, task.name.as_str())).or_default();
            let came = Came { outcome: step.outcome, took: step.duration() };
            all.push(((step.host, task.name.as_str(), *number), came));
            *number += 1;
        }
    }
    all
}
