//! What programs are told: the same as the pages say. Times in RFC 3339, durations in seconds.

use std::time::SystemTime;

use serde::Serialize;

use super::{
    book::Shared,
    name::{address_of, run_id},
    view::{self, TaskView},
    why::{self, Group},
};
use crate::{
    cli::runs::Listed,
    message::in_utc,
    runs::{self, Failure, Recap, Run},
};

/// A run in a list: what `runs --json` has, where it is, and what is the matter.
#[derive(Serialize)]
pub(super) struct Told<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    task: &'a str,
    recap: Recap,
    /// What the list says of it in a line.
    matter: String,
}

impl<'a> Told<'a> {
    pub(super) fn new(run: &'a Run, shared: &Shared, now: SystemTime) -> Self {
        let state = shared.state(run, now);
        let matter = why::in_a_line(run, state, now).title;
        Self {
            listed: Listed::new(run, shared.as_of(now), shared.silent_after),
            task: &run.task,
            recap: run.recap,
            matter,
        }
    }
}

/// A run alone.
#[derive(Serialize)]
pub(super) struct Whole<'a> {
    #[serde(flatten)]
    told: Told<'a>,
    play: &'a str,
    task_count: u64,
    expected_tasks: Option<u64>,
    events_missing: u64,
    messages_cut: u64,
    hosts: Vec<&'a str>,
    waiting: Vec<Waiting<'a>>,
    failures: Vec<ToldGroup<'a>>,
    tasks: Vec<ToldTask<'a>>,
    /// The other runs of that ident, the last one first.
    others: Vec<Other>,
}

#[derive(Serialize)]
struct Other {
    run_id: Option<String>,
    state: &'static str,
    started: Option<String>,
    path: String,
}

#[derive(Serialize)]
struct Waiting<'a> {
    host: &'a str,
    task: &'a str,
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct ToldGroup<'a> {
    task: &'a str,
    fate: &'static str,
    why: &'a str,
    details: &'a [String],
    hosts: Vec<At<'a>>,
}

/// Where something was.
#[derive(Serialize)]
struct At<'a> {
    host: &'a str,
    /// The event that says so.
    counter: u64,
}

#[derive(Serialize)]
struct ToldTask<'a> {
    name: &'a str,
    counter: u64,
    began: Option<String>,
    ended: Option<String>,
    duration: Option<f64>,
    recap: &'a Recap,
    hosts: Vec<ToldStep<'a>>,
}

#[derive(Serialize)]
struct ToldStep<'a> {
    host: &'a str,
    result: &'static str,
    began: Option<String>,
    duration: Option<f64>,
    counter: u64,
}

impl<'a> ToldGroup<'a> {
    fn new(group: &Group<'a>) -> Self {
        let Failure { task, fate, why, details, .. } = group.first;
        let hosts = group.hosts.iter().map(|(host, counter)| At { host, counter: *counter }).collect();
        Self { task, fate: fate.as_str(), why, details, hosts }
    }
}

impl<'a> ToldTask<'a> {
    fn new(task: &TaskView<'a>) -> Self {
        let TaskView { name, from, began, took, recap, ref steps, .. } = *task;
        let step = |step: &view::Step<'a>| ToldStep {
            host: step.host,
            result: step.sign.as_str(),
            began: step.began.map(in_utc),
            duration: step.took.map(|took| took.as_secs_f64()),
            counter: step.counter,
        };
        Self {
            name,
            counter: from,
            began: began.map(in_utc),
            ended: began.zip(took).and_then(|(began, took)| began.checked_add(took)).map(in_utc),
            duration: took.map(|took| took.as_secs_f64()),
            recap,
            hosts: steps.iter().map(step).collect(),
        }
    }
}

impl<'a> Waiting<'a> {
    fn new(one: &runs::Waiting<'a>, now: SystemTime) -> Self {
        let seconds = one.since.and_then(|since| now.duration_since(since).ok());
        Self { host: one.host, task: one.task, seconds: seconds.map(|time| time.as_secs_f64()) }
    }
}

/// `named`: all runs of this name.
pub(super) fn told<'a>(run: &'a Run, named: &[&'a Run], shared: &Shared, now: SystemTime) -> Whole<'a> {
    let other = |other: &&'a Run| Other {
        run_id: run_id(other),
        state: shared.state(other, now).as_str(),
        started: other.started.map(in_utc),
        path: format!("/api{}", address_of(other)),
    };
    Whole {
        told: Told::new(run, shared, now),
        play: &run.play,
        task_count: run.task_count,
        expected_tasks: run.known_tasks,
        events_missing: run.missing(),
        messages_cut: run.cut,
        hosts: run.tasks.hosts().collect(),
        waiting: run.waiting().iter().map(|one| Waiting::new(one, run.end_or(now))).collect(),
        failures: why::groups(run).iter().map(ToldGroup::new).collect(),
        tasks: view::tasks(run, now).iter().map(ToldTask::new).collect(),
        others: named.iter().filter(|other| run_id(other) != run_id(run)).map(other).collect(),
    }
}
