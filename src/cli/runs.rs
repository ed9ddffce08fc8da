//! `runs`: past and present runs, from what a stream has kept of their statuses.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, builder::PossibleValuesParser};
use serde::Serialize;
use wildmatch::WildMatch;

use super::{
    Exit,
    options::Options,
    reading::Source,
    stop::Stop,
    terminal::{Tone, complain, json_text, remark, stdout, tone_of},
    when::{self, When},
};
use crate::{
    message::{Kind, in_utc},
    nats::Start,
    runs::{Run, Runs, Status, in_short},
};

/// List past and present runs, the newest first.
///
/// Reads from a stream what runs said of their state, and nothing else: that is quick however many events there are. A run
/// that has not ended and says nothing any more is `silent`. Exit status: 0 the runs were listed, 1 there is a problem.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Runs that go on, or ended since: an age, a day, a time in UTC, today or yesterday
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = when::parse)]
    since: When,
    /// And that had begun by then
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    until: Option<When>,
    /// Only runs in these states, with commas between them
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    state: Vec<String>,
    /// Only runs of this playbook; * and ? match anything
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    /// Only runs on behalf of this actor; * and ? match anything
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only runs of this subject id
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// At most so many
    #[arg(short = 'n', long = "limit", value_name = "N")]
    limit: Option<usize>,
    /// A run that has said nothing for so long is silent [default: 60s, or two of its heartbeats]
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    /// An array of JSON objects
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// A run, for scripts. Times in RFC 3339, durations in seconds; `null` where nobody knows.
#[derive(Debug, Serialize)]
pub(super) struct Listed<'a> {
    subject_id: &'a str,
    runner_ident: &'a str,
    run_id: Option<String>,
    playbook: &'a str,
    state: &'a str,
    started: Option<String>,
    ended: Option<String>,
    duration: Option<f64>,
    last_heard: Option<String>,
    actor: Option<&'a str>,
    host: Option<&'a str>,
}

impl<'a> Listed<'a> {
    pub(super) fn new(run: &'a Run, now: SystemTime, silent_after: Option<Duration>) -> Self {
        Self {
            subject_id: &run.subject_id,
            runner_ident: &run.ident,
            run_id: run.identity.map(|identity| identity.to_string()),
            playbook: &run.playbook,
            state: run.state(now, silent_after).as_str(),
            started: run.started.filter(|_| run.has_beginning()).map(in_utc),
            ended: run.ended.map(in_utc),
            duration: run.duration(now).map(seconds),
            last_heard: run.last_event.map(in_utc),
            actor: run.actor.as_deref(),
            host: run.host.as_deref(),
        }
    }
}

/// A duration for scripts, in seconds.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let source = Source::open(&arguments.options)?;
    let began = Instant::now();
    let (runs, streams) = known_runs(&source, arguments.subject_id.as_deref(), arguments.since)?;
    let now = source.now();
    let since = arguments.since.at(now);
    let until = arguments.until.map(|until| until.at(now));
    if let Some(until) = until.filter(|until| *until < since) {
        let (since, until) = (in_utc(since), in_utc(until));
        complain(&format!("--until {until} is before --since {since}: no run went on then"));
        return Ok(Exit::Usage);
    }
    let playbook = arguments.playbook.as_deref().map(WildMatch::new);
    let actor = arguments.actor.as_deref().map(WildMatch::new);
    let is_wanted = |run: &&Run| {
        let state = run.state(now, arguments.silent_after);
        (arguments.state.is_empty() || arguments.state.iter().any(|wanted| wanted == state.as_str()))
            && (!run.is_over() || run.last_event.is_none_or(|last| last >= since))
            && until.is_none_or(|until| run.started.is_some_and(|started| started <= until))
            && actor.as_ref().is_none_or(|actor| run.actor.as_deref().is_some_and(|one| actor.matches(one)))
            && playbook.as_ref().is_none_or(|playbook| is_playbook(run, playbook))
            && arguments.subject_id.as_deref().is_none_or(|id| run.subject_id == id)
    };
    let mut wanted: Vec<&Run> = runs.all().map(|(_, run)| run).filter(is_wanted).collect();
    wanted.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.ident.cmp(&b.ident)));
    let count = wanted.len();
    wanted.truncate(arguments.limit.unwrap_or(usize::MAX));
    if arguments.json {
        let listed: Vec<Listed<'_>> =
            wanted.iter().map(|run| Listed::new(run, now, arguments.silent_after)).collect();
        let json = json_text(&listed)?;
        stdout(|out| writeln!(out, "{json}"))?;
    } else {
        table(&wanted, now, arguments.silent_after)?;
        let shown =
            if wanted.len() < count { format!("{} of {count}", wanted.len()) } else { count.to_string() };
        remark(&format!(
            "{shown} run{} since {}, from stream {}, in {:.2} s",
            if count == 1 { "" } else { "s" },
            in_utc(since),
            streams.join(", "),
            began.elapsed().as_secs_f64()
        ));
    }
    Ok(Exit::Success)
}

/// Is it a run of this playbook, by its path or its name?
pub(super) fn is_playbook(run: &Run, wanted: &WildMatch) -> bool {
    wanted.matches(&run.playbook) || wanted.matches(run.playbook.rsplit('/').next().unwrap_or_default())
}

/// The filters of the statuses of runs that had begun before they were heard of.
pub(super) fn unknown_beginnings(source: &Source, runs: &Runs) -> Vec<String> {
    filters_of(source, runs, Some(Kind::Status), |run| !run.has_beginning())
}

/// The filters of some runs' messages, each once.
fn filters_of(
    source: &Source,
    runs: &Runs,
    kind: Option<Kind>,
    is_asked: impl Fn(&Run) -> bool,
) -> Vec<String> {
    let asked = runs.all().map(|(_, run)| run).filter(|run| is_asked(run));
    let filters: BTreeSet<String> = asked.flat_map(|run| source.filters_of(run, kind)).collect();
    filters.into_iter().collect()
}

/// The runs that a stream knows of since some time, by their statuses; of those that go on, what they said last. And the
/// streams' names.
pub(super) fn known_runs(
    source: &Source,
    subject_id: Option<&str>,
    since: When,
) -> Result<(Runs, Vec<String>), Stop> {
    let mut runs = source.runs();
    let statuses = source.filters(subject_id, None, Some(Kind::Status));
    let streams = source.take_in(&mut runs, statuses.clone(), since.start())?;
    let since = since.at(source.now());
    // What has gone on for longer has said its last status before.
    let mut older = source.latest_runs();
    source.history(statuses, Start::Last, |message| {
        if message.stored.is_none_or(|stored| stored < since) {
            older.hear(message, source.now());
        }
        Ok(())
    })?;
    runs.take_in(older, |run| !run.is_over());
    // What goes on says more than statuses; of what began earlier the beginning is not known yet.
    let open = filters_of(source, &runs, None, |run| !run.is_over());
    if !open.is_empty() {
        source.take_in(&mut runs, open, Start::Last)?;
    }
    let late = unknown_beginnings(source, &runs);
    if !late.is_empty() {
        source.take_in(&mut runs, late, Start::First)?;
    }
    Ok((runs, streams))
}

fn table(runs: &[&Run], now: SystemTime, silent_after: Option<Duration>) -> io::Result<()> {
    const HEAD: [&str; 7] = ["SUBJECT ID", "IDENT", "PLAYBOOK", "STATE", "STARTED", "DURATION", "LAST HEARD"];
    let none = || "-".to_owned();
    let rows: Vec<[String; 7]> = runs
        .iter()
        .map(|run| {
            let text = |text: &str| if text.is_empty() { none() } else { text.to_owned() };
            [
                text(&run.subject_id),
                text(&run.ident),
                text(&run.playbook),
                run.state(now, silent_after).as_str().to_owned(),
                run.started.filter(|_| run.has_beginning()).map_or_else(none, in_utc),
                run.duration(now).map_or_else(none, in_short),
                run.last_event.map_or_else(none, in_utc),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let head = HEAD.map(str::to_owned);
    let mut widths = [0; HEAD.len()];
    for row in std::iter::once(&head).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    stdout(|out| {
        for (number, row) in std::iter::once(&head).chain(&rows).enumerate() {
            let mut line = String::new();
            for (place, (cell, width)) in row.iter().zip(widths).enumerate() {
                let is_last = place + 1 == HEAD.len();
                let padded = if is_last { cell.clone() } else { format!("{cell:width$}") };
                let is_state = number > 0 && HEAD.get(place) == Some(&"STATE");
                let shown = match (number, is_state) {
                    (0, _) => Tone::Strong.paint(&padded),
                    (_, true) => tone_of(cell).paint(&padded),
                    _ => padded,
                };
                line.push_str(&shown);
                if !is_last {
                    line.push_str("  ");
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    })
}
