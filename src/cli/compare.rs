//! `compare`: what is otherwise in one run than in another.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::{
    Exit,
    options::Options,
    reading::{Source, Which},
    runs::{Listed, known_runs, seconds},
    show::no_such_run,
    stop::Stop,
    terminal::{Tone, complain, first_of, json_text, printable, remark, stdout, tone_of},
    when::When,
};
use crate::{
    message::in_utc,
    runs::{Came, Change, Difference, Outcome, Run, Status, differences, precisely},
};

/// So many hosts are named.
const HOSTS: usize = 10;

/// Say what is otherwise in run A than in run B.
///
/// How the runs ended, and per task and host: what is new, gone, ended otherwise, or took more than twice as long (and a
/// second more). Without B it is compared with the last successful run of the same playbook before it. Exit status: 0 alike, 1
/// different, not known as a whole, or there is a problem.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run's ident, or the beginning of its identity
    a: String,
    /// The run that it is compared with
    b: Option<String>,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// A JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// What is otherwise, for scripts.
#[derive(Debug, Serialize)]
struct Compared<'a> {
    a: Listed<'a>,
    b: Listed<'a>,
    differences: Vec<Otherwise<'a>>,
}

#[derive(Debug, Serialize)]
struct Otherwise<'a> {
    host: &'a str,
    task: &'a str,
    change: &'static str,
    a: Option<ShownCame>,
    b: Option<ShownCame>,
}

/// What a task on a host came to.
#[derive(Debug, Serialize)]
struct ShownCame {
    outcome: Option<&'static str>,
    seconds: Option<f64>,
}

impl From<Came> for ShownCame {
    fn from(came: Came) -> Self {
        Self { outcome: came.outcome.map(Outcome::as_str), seconds: came.took.map(seconds) }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let source = Source::open(&arguments.options)?;
    let subject_id = arguments.subject_id.as_deref();
    let a = named(&source, subject_id, &arguments.a)?;
    let b = match &arguments.b {
        Some(b) => named(&source, subject_id, b)?,
        None => last_good_before(&source, &a)?,
    };
    let (a, b) = (source.whole(&a)?, source.whole(&b)?);
    let found = differences(&a, &b);
    let now = source.now();
    let states = (a.state(now, None).as_str(), b.state(now, None).as_str());
    let mut is_known = true;
    for run in [&a, &b] {
        if let Some(why) = run.why_partly_known() {
            is_known = false;
            let ident = &run.ident;
            complain(&format!("{ident} is not known as a whole: {why}; what it has not done cannot be told"));
        }
    }
    if arguments.json {
        let compared = Compared {
            a: Listed::new(&a, now, None),
            b: Listed::new(&b, now, None),
            differences: found
                .iter()
                .map(|one| Otherwise {
                    host: one.host,
                    task: one.task,
                    change: one.change.as_str(),
                    a: one.a.map(ShownCame::from),
                    b: one.b.map(ShownCame::from),
                })
                .collect(),
        };
        let json = json_text(&compared)?;
        stdout(|out| writeln!(out, "{json}"))?;
    } else {
        let of_run = (states.0 != states.1)
            .then(|| format!("the run: {}, it was {}", tone_of(states.0).paint(states.0), states.1));
        let lines: Vec<String> = of_run.into_iter().chain(in_lines(&found)).collect();
        stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
        let began = |run: &Run| run.started.map_or_else(String::new, |when| format!(" of {}", in_utc(when)));
        remark(&format!(
            "{} of {} task results are otherwise in {}{} than in {}{}",
            found.len(),
            results(&a) + found.iter().filter(|one| one.change == Change::Gone).count(),
            a.ident,
            began(&a),
            b.ident,
            began(&b)
        ));
    }
    let is_alike = found.is_empty() && states.0 == states.1 && is_known;
    Ok(if is_alike { Exit::Success } else { Exit::Problem })
}

/// How often a task of it was on a host.
fn results(run: &Run) -> usize {
    run.tasks.iter().map(|task| run.tasks.steps(task).len()).sum()
}

fn named(source: &Source, subject_id: Option<&str>, name: &str) -> Result<Run, Stop> {
    let which = Which::find(source, subject_id, name, false)?;
    which.run().cloned().ok_or_else(|| no_such_run(name))
}

/// The last run of the same playbook that was successful, and began before this one.
fn last_good_before(source: &Source, run: &Run) -> Result<Run, Stop> {
    let subject_id = Some(run.subject_id.as_str()).filter(|id| !id.is_empty());
    let (runs, _) = known_runs(source, subject_id, When::At(SystemTime::UNIX_EPOCH))?;
    let is_good = |other: &&Run| {
        other.status() == Status::Successful && other.course() == run.course() && other.started < run.started
    };
    let last = runs.all().map(|(_, run)| run).filter(is_good).max_by_key(|run| run.started);
    last.cloned().ok_or_else(|| {
        let playbook = printable(&run.playbook);
        Stop::Problem(format!(
            "no successful run of {playbook} is known before {}; name another run",
            run.ident
        ))
    })
}

/// Hosts that differ alike are one line.
fn in_lines(found: &[Difference<'_>]) -> Vec<String> {
    let mut groups: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for one in found {
        let how = how(one);
        match groups.iter_mut().find(|(task, known, _)| (*task, known.as_str()) == (one.task, how.as_str())) {
            Some((_, _, hosts)) => hosts.push(one.host),
            None => groups.push((one.task, how, vec![one.host])),
        }
    }
    let line =
        |(task, how, hosts): (&str, String, Vec<&str>)| format!("{task}: {how}: {}", first_of(&hosts, HOSTS));
    groups.into_iter().map(line).collect()
}

fn how(one: &Difference<'_>) -> String {
    let outcome = |came: Option<Came>| came.and_then(|came| came.outcome).map_or("no end", Outcome::as_str);
    let took = |came: Option<Came>| came.and_then(|came| came.took).map(precisely).unwrap_or_default();
    match one.change {
        Change::New => format!("{} ({})", Tone::Odd.paint("new"), outcome(one.a)),
        Change::Gone => format!("{} (it was {})", Tone::Odd.paint("gone"), outcome(one.b)),
        Change::Outcome => {
            let after = outcome(one.a);
            format!("{}, it was {}", tone_of(after).paint(after), outcome(one.b))
        }
        Change::Slower => format!("{} {}, it was {}", Tone::Odd.paint("slower"), took(one.a), took(one.b)),
    }
}
