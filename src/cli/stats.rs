//! `stats`: what hosts, tasks and playbooks came to, over all runs.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;
use wildmatch::WildMatch;

use super::{
    Exit,
    options::Options,
    progress::Progress,
    reading::Source,
    runs::{is_playbook, known_runs, seconds},
    stop::Stop,
    terminal::{Tone, json_text, remark, stdout},
    when::{self, When},
};
use crate::{
    message::in_utc,
    runs::{Gathering, HostStats, HostTotal, PlaybookTotal, Run, TaskStats, TaskTotal, playbooks, precisely},
};

/// Over all runs: which hosts, tasks and playbooks are the worst.
///
/// Exit status: 0 it was told, 1 there is a problem.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    about: About,
}

#[derive(Debug, Subcommand)]
enum About {
    /// Hosts: in how many runs they failed or were lost, and how long tasks were on them
    Hosts(Window),
    /// Tasks: how long they took, and how often they failed
    Tasks(Window),
    /// Playbooks: how often their runs failed, and how long they took
    Playbooks(Window),
}

/// Which runs.
#[derive(Debug, Args)]
struct Window {
    /// Runs that began since then: an age, a day, a time in UTC, today or yesterday
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = when::parse)]
    since: When,
    /// Only runs of this playbook; * and ? match anything
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    /// Only runs of this subject id
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// At most so many
    #[arg(short = 'n', long = "limit", value_name = "N")]
    limit: Option<usize>,
    /// An array of JSON objects
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// A host, for scripts. Durations in seconds.
#[derive(Debug, Serialize)]
struct HostRow {
    host: String,
    runs: u64,
    failed: u64,
    unreachable: u64,
    flaky: u64,
    seconds: f64,
}

/// A task of a playbook, for scripts.
#[derive(Debug, Serialize)]
struct TaskRow {
    playbook: String,
    task: String,
    runs: u64,
    failures: u64,
    seconds: f64,
    p95: Option<f64>,
}

/// A playbook, for scripts.
#[derive(Debug, Serialize)]
struct PlaybookRow {
    playbook: String,
    runs: u64,
    failed: u64,
    seconds: f64,
    median: Option<f64>,
    p95: Option<f64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    match &arguments.about {
        About::Hosts(window) => hosts(window)?,
        About::Tasks(window) => tasks(window)?,
        About::Playbooks(window) => of_playbooks(window)?,
    }
    Ok(Exit::Success)
}

fn hosts(window: &Window) -> Result<(), Stop> {
    const HEAD: [&str; 6] = ["HOST", "RUNS", "FAILED", "UNREACHABLE", "FLAKY", "BUSY"];
    let mut stats = HostStats::default();
    each_run(window, |run, now| stats.add(run, now))?;
    let json = |(host, total): (String, HostTotal)| {
        let HostTotal { runs, failed, unreachable, flaky, busy } = total;
        HostRow { host, runs, failed, unreachable, flaky, seconds: seconds(busy) }
    };
    let cells = |(host, total): (String, HostTotal)| {
        let HostTotal { runs, failed, unreachable, flaky, busy } = total;
        let counts = [runs, failed, unreachable, flaky].map(|count| count.to_string());
        [vec![host], counts.to_vec(), vec![precisely(busy)]].concat()
    };
    tell(window, &HEAD, stats.rows(), json, cells)
}

fn tasks(window: &Window) -> Result<(), Stop> {
    const HEAD: [&str; 6] = ["TASK", "PLAYBOOK", "RUNS", "FAILURES", "TOTAL", "P95"];
    let mut stats = TaskStats::default();
    each_run(window, |run, now| stats.add(run, now))?;
    let json = |(playbook, task, total): (String, String, TaskTotal)| TaskRow {
        playbook,
        task,
        runs: total.runs,
        failures: total.failures,
        seconds: seconds(total.total),
        p95: total.p95.map(seconds),
    };
    let cells = |(playbook, task, total): (String, String, TaskTotal)| {
        let counts = [total.runs, total.failures].map(|count| count.to_string());
        [vec![task, playbook], counts.to_vec(), vec![precisely(total.total), known(total.p95)]].concat()
    };
    tell(window, &HEAD, stats.rows(), json, cells)
}

fn of_playbooks(window: &Window) -> Result<(), Stop> {
    const HEAD: [&str; 6] = ["PLAYBOOK", "RUNS", "FAILED", "TOTAL", "MEDIAN", "P95"];
    let source = Source::open(&window.options)?;
    let (runs, _) = known_runs(&source, window.subject_id.as_deref(), window.since)?;
    let now = source.now();
    let since = window.since.at(now);
    let is_meant = |run: &&Run| window.means(run) && run.started.is_some_and(|began| began >= since);
    let rows = playbooks(runs.all().map(|(_, run)| run).filter(is_meant), now);
    let json = |(playbook, total): (String, PlaybookTotal)| PlaybookRow {
        playbook,
        runs: total.runs,
        failed: total.failed,
        seconds: seconds(total.total),
        median: total.median.map(seconds),
        p95: total.p95.map(seconds),
    };
    let cells = |(playbook, total): (String, PlaybookTotal)| {
        let counts = [total.runs, total.failed].map(|count| count.to_string());
        let times = [precisely(total.total), known(total.median), known(total.p95)];
        [vec![playbook], counts.to_vec(), times.to_vec()].concat()
    };
    tell(window, &HEAD, rows, json, cells)
}

fn known(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), precisely)
}

impl Window {
    fn means(&self, run: &Run) -> bool {
        let fits = |name: &String| is_playbook(run, &WildMatch::new(name));
        self.playbook.as_ref().is_none_or(fits)
            && self.subject_id.as_ref().is_none_or(|id| *id == run.subject_id)
    }
}

/// Hands each run that began in the window over, once: when all of it was heard, or else in the end.
fn each_run(window: &Window, mut add: impl FnMut(&Run, SystemTime)) -> Result<(), Stop> {
    let source = Source::open(&window.options)?;
    let mut progress = Progress::new();
    let mut gathering = Gathering::into(source.runs());
    let mut count = 0_u64;
    let since = window.since.at(source.now());
    let mut add = |run: &Run| {
        // A run that was published late is read, too, and did not begin then.
        if run.has_beginning() && run.started.is_some_and(|began| began >= since) && window.means(run) {
            count += 1;
            add(run, source.now());
        }
    };
    let subjects = source.filters(window.subject_id.as_deref(), None, None);
    let read = source.sweep(subjects, window.since.start(), |message| {
        progress.tick();
        if let Some(run) = gathering.hear(message, source.now()) {
            add(&run);
        }
        Ok(())
    });
    progress.clear();
    read?;
    gathering.rest().for_each(add);
    if !window.json {
        remark(&format!(
            "{count} run{} that began since {}, {} messages, in {:.2} s",
            if count == 1 { "" } else { "s" },
            in_utc(window.since.at(source.now())),
            progress.count(),
            progress.seconds()
        ));
    }
    Ok(())
}

/// Prints rows, as JSON or as a table.
fn tell<T, R: Serialize>(
    window: &Window,
    head: &[&str],
    mut rows: Vec<T>,
    json: impl Fn(T) -> R,
    cells: impl Fn(T) -> Vec<String>,
) -> Result<(), Stop> {
    rows.truncate(window.limit.unwrap_or(usize::MAX));
    if window.json {
        let rows: Vec<R> = rows.into_iter().map(json).collect();
        let text = json_text(&rows)?;
        return Ok(stdout(|out| writeln!(out, "{text}"))?);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows.into_iter().map(cells)).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(row.len(), 0);
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    stdout(|out| {
        for (number, row) in rows.iter().enumerate() {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let line = padded.join("  ");
            let line = line.trim_end();
            let shown = if number == 0 { Tone::Strong.paint(line) } else { line.to_owned() };
            writeln!(out, "{shown}")?;
        }
        Ok(())
    })?;
    Ok(())
}
