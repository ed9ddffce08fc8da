//! `show`: one run on one screen.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Serialize;

use super::{
    Exit,
    options::Options,
    reading::{Source, Which},
    runs::{Listed, seconds},
    stop::Stop,
    terminal::{Tone, json_text, printable, stdout, tone_of},
};
use crate::{
    message::{in_utc, to_millis},
    runs::{Card, Failure, Host, Recap, Run, Task, in_short, precisely},
};

/// Show one run: who started what, how it went, why it failed, and for whom it waits.
///
/// Exit status: 0 the run was shown, 1 there is no such run, or a problem.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run's ident, or the beginning of its identity
    run: String,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// A JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// A run, for scripts.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    run: Listed<'a>,
    card: &'a Card,
    command: &'a [String],
    recap: Recap,
    failures: Vec<ShownFailure<'a>>,
    waiting: Vec<ShownWaiting<'a>>,
    tasks: Vec<ShownTask<'a>>,
    hosts: Vec<ShownHost<'a>>,
    missing: u64,
}

/// Something that went wrong on a host, or why the run failed though no task did.
#[derive(Debug, Serialize)]
struct ShownFailure<'a> {
    host: Option<&'a str>,
    task: Option<&'a str>,
    fate: &'static str,
    reason: &'a str,
    details: &'a [String],
}

/// A host that has begun with a task and has not ended it.
#[derive(Debug, Serialize)]
struct ShownWaiting<'a> {
    host: &'a str,
    task: &'a str,
    seconds: Option<f64>,
}

/// A task of it.
#[derive(Debug, Serialize)]
struct ShownTask<'a> {
    task: &'a str,
    began: Option<String>,
    seconds: Option<f64>,
    recap: Recap,
}

/// A host of it.
#[derive(Debug, Serialize)]
struct ShownHost<'a> {
    host: &'a str,
    seconds: f64,
    recap: Recap,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let source = Source::open(&arguments.options)?;
    let which = Which::find(&source, arguments.subject_id.as_deref(), &arguments.run, false)?;
    which.name_others();
    let run = which.run().ok_or_else(|| no_such_run(&arguments.run))?;
    let run = source.whole(run)?;
    let now = source.now();
    if arguments.json {
        let json = json_text(&Shown::new(&run, now))?;
        stdout(|out| writeln!(out, "{json}"))?;
    } else {
        let lines = screen(&run, now);
        stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    }
    Ok(Exit::Success)
}

/// No stream knows a run that was named so.
pub(super) fn no_such_run(name: &str) -> Stop {
    Stop::Problem(format!("no stream knows a run {}", printable(name)))
}

impl<'a> Shown<'a> {
    fn new(run: &'a Run, now: SystemTime) -> Self {
        let failure = |failure: &'a Failure| {
            let is_of_task = !failure.is_of_run();
            ShownFailure {
                host: is_of_task.then_some(failure.host.as_str()),
                task: is_of_task.then_some(failure.task.as_str()),
                fate: failure.fate.as_str(),
                reason: &failure.why,
                details: &failure.details,
            }
        };
        let since = |when: SystemTime| run.end_or(now).duration_since(when).unwrap_or_default();
        Self {
            run: Listed::new(run, now, None),
            card: &run.card,
            command: &run.command,
            recap: run.recap,
            failures: run.failures.iter().map(failure).collect(),
            waiting: run
                .waiting()
                .into_iter()
                .map(|one| ShownWaiting {
                    host: one.host,
                    task: one.task,
                    seconds: one.since.map(since).map(seconds),
                })
                .collect(),
            tasks: run
                .tasks
                .iter()
                .map(|task| ShownTask {
                    task: &task.name,
                    began: task.began.map(to_millis),
                    seconds: run.duration_of(task, now).map(seconds),
                    recap: task.recap,
                })
                .collect(),
            hosts: run
                .hosts(now)
                .into_iter()
                .map(|host| ShownHost { host: host.name, seconds: seconds(host.busy), recap: host.recap })
                .collect(),
            missing: run.missing(),
        }
    }
}

/// The run for people, in lines.
fn screen(run: &Run, now: SystemTime) -> Vec<String> {
    let state = run.state(now, None).as_str();
    let name = Tone::Strong.paint(&run.ident);
    let of = if run.subject_id.is_empty() { String::new() } else { format!(" of {}", run.subject_id) };
    let mut lines = vec![format!("{name}{of}: {}", tone_of(state).paint(state))];
    lines.extend(facts(run, now).into_iter().map(|(name, text)| format!("  {name:10} {text}")));
    section(&mut lines, "What went wrong:", failed(run));
    let since = |when: SystemTime| in_short(run.end_or(now).duration_since(when).unwrap_or_default());
    let waiting = run.waiting().into_iter().map(|one| {
        let time = one.since.map(|when| format!(" · for {}", since(when))).unwrap_or_default();
        format!("{} · {}{time}", one.host, one.task)
    });
    section(&mut lines, if run.is_over() { "It waited for:" } else { "It waits for:" }, waiting.collect());
    section(&mut lines, "Slowest tasks:", slowest_tasks(run, now));
    section(&mut lines, "Slowest hosts:", slowest_hosts(run, now));
    let missing = run.missing();
    if missing > 0 {
        lines.push(format!("{missing} events of this run are not in the stream"));
    }
    lines
}

fn section(lines: &mut Vec<String>, title: &str, content: Vec<String>) {
    if !content.is_empty() {
        lines.push(Tone::Strong.paint(title));
        lines.extend(content.into_iter().map(|line| format!("  {line}")));
    }
}

/// What is known of a run as a whole; what is not known is left out.
fn facts(run: &Run, now: SystemTime) -> Vec<(&'static str, String)> {
    let Card { pid, user, revision, ansible_runner, plugin, .. } = &run.card;
    let took = run.duration(now).map(in_short);
    let word = if run.is_over() { "took" } else { "so far" };
    let started = run.started.filter(|_| run.has_beginning()).map(in_utc).map(|at| match took {
        Some(took) => format!("{at}, {word} {took}"),
        None => at,
    });
    let process = [user.as_ref().map(|user| format!("user {user}")), pid.map(|pid| format!("process {pid}"))];
    let process: Vec<String> = process.into_iter().flatten().collect();
    let host = run.host.as_ref().map(|host| match process.as_slice() {
        [] => host.clone(),
        process => format!("{host} ({})", process.join(", ")),
    });
    let versions = [("ansible-runner", ansible_runner), ("plugin", plugin)];
    let versions: Vec<String> =
        versions.iter().filter_map(|(name, version)| Some(format!("{name} {}", version.as_ref()?))).collect();
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let facts = [
        ("identity", run.identity.map(|identity| identity.to_string())),
        ("playbook", text(run.playbook.clone())),
        ("started", started),
        ("ended", run.ended.map(in_utc)),
        ("heard", run.last_event.filter(|_| !run.is_over()).map(in_utc)),
        ("for", run.actor.clone()),
        ("on", host),
        ("revision", revision.clone()),
        ("command", text(run.command.join(" "))),
        ("with", text(versions.join(", "))),
        ("recap", (run.recap != Recap::default()).then(|| run.recap.to_string())),
    ];
    facts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

fn failed(run: &Run) -> Vec<String> {
    /// More of them nobody reads here; `logs --failed` has all.
    const MOST: usize = 20;
    let mut lines = Vec::new();
    // What ended the run comes before what was dealt with.
    let mut failures: Vec<&Failure> = run.failures.iter().collect();
    failures.sort_by_key(|failure| (!failure.is_of_run(), !failure.counts()));
    for failure in failures.into_iter().take(MOST) {
        if failure.is_of_run() {
            lines.push(format!("{}: {}", run.who_failed(), failure.why));
            lines.extend(failure.details.iter().map(|line| format!("    {line}")));
        } else {
            let fate = failure.fate.as_str();
            lines.push(format!(
                "{}: {} · {} · {}",
                tone_of(fate).paint(fate),
                failure.host,
                failure.task,
                failure.why
            ));
        }
    }
    let more = run.failures.len().saturating_sub(MOST);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// So many of the slowest are named.
const SLOWEST: usize = 5;

fn slowest_tasks(run: &Run, now: SystemTime) -> Vec<String> {
    let mut tasks: Vec<(Duration, &Task)> =
        run.tasks.iter().filter_map(|task| Some((run.duration_of(task, now)?, task))).collect();
    tasks.sort_by_key(|(took, task)| (Reverse(*took), task.counter));
    tasks
        .into_iter()
        .take(SLOWEST)
        .map(|(took, task)| format!("{:>8}  {}", precisely(took), task.name))
        .collect()
}

fn slowest_hosts(run: &Run, now: SystemTime) -> Vec<String> {
    let mut hosts: Vec<Host<'_>> = run.hosts(now);
    hosts.sort_by_key(|host| (Reverse(host.busy), host.name));
    let line = |host: Host<'_>| format!("{:>8}  {}  {}", precisely(host.busy), host.name, host.recap);
    hosts.into_iter().take(SLOWEST).map(line).collect()
}
