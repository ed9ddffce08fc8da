//! `logs`: what a job printed, as it printed it. `wait`: only how it ends.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc::Receiver,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;

use super::{
    Exit,
    options::Options,
    runs::known_runs,
    source::{Found, Source, Stopped},
    terminal::{complain, json_line, printable, stdout},
};
use crate::{
    harmless::one_line,
    message::{Kind, Received, RunId, in_utc},
    nats::{Heard, Start, Wish},
    runs::{Failure, Line, News, Printer, Run, Runs},
};

/// Print what a job printed, as it printed it.
///
/// From a stream, in order, each line once; with -f on as it comes, also of a run that has not begun, until the run ends.
/// --host, --failed and --changed print the results of those tasks instead, with all that is said of what went wrong.
/// Exit status with -f: 0 the run was successful, 3 it failed, 4 it was canceled, 5 it ran out of time; otherwise 0, and 1
/// if there is no such run.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct LogsArguments {
    /// The run's ident
    #[arg(required_unless_present = "latest")]
    ident: Option<String>,
    /// Go on as it comes, and end with the run
    #[arg(short, long)]
    follow: bool,
    /// The run that began last
    #[arg(long, conflicts_with = "ident")]
    latest: bool,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only results on this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only results that went wrong
    #[arg(long)]
    failed: bool,
    /// Only results that changed something
    #[arg(long)]
    changed: bool,
    /// With the time of the event before each line
    #[arg(long)]
    timestamps: bool,
    /// The events as they are, one per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// Wait until a run has ended.
///
/// Says nothing. Also for a run that has not begun. Exit status: 0 it was successful, 3 it failed, 4 it was canceled, 5 it
/// ran out of time, 6 it has not ended within --timeout.
#[derive(Debug, Args)]
pub(super) struct WaitArguments {
    /// The run's ident
    ident: String,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// Not one that is there already: the run of that ident that begins from now on
    #[arg(long)]
    next: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    options: Options,
}

/// How long a counter that does not come is waited for.
const GAP: Duration = Duration::from_secs(2);

pub(super) fn logs(arguments: &LogsArguments) -> io::Result<Exit> {
    let Some(source) = Source::open(&arguments.options)? else { return Ok(Exit::Problem) };
    let subject_id = arguments.subject_id.as_deref();
    let found = match &arguments.ident {
        Some(ident) => source.find(subject_id, ident)?,
        None => latest(&source, subject_id)?.map(|run| run.map(|run| Found { run, others: Vec::new() })),
    };
    let (run, start) = match found {
        Ok(Some(found)) => {
            found.name_others();
            let start = beginning_of(&found.run);
            (Some(found.run), start)
        }
        Ok(None) if arguments.ident.is_none() => {
            complain("there is no run yet");
            return Ok(Exit::Problem);
        }
        Ok(None) => (None, Start::First),
        Err(Stopped::NoStream) if arguments.follow => {
            complain("no stream takes what runs publish: what was printed so far is not known");
            (None, Start::Now)
        }
        Err(stopped) => return Ok(stopped.exit()),
    };
    let given = arguments.ident.as_deref().map(one_line);
    let ident = run.as_ref().map(|run| run.ident.as_str()).or(given.as_deref()).unwrap_or_default();
    let subjects = match &run {
        Some(run) => source.filters_of(run, None),
        None => source.filters(subject_id, Some(ident), None),
    };
    let heard = source.listen(Wish { subjects, from: start, follow: arguments.follow, before: None })?;
    let mut logs = Logs {
        source: &source,
        arguments,
        ident,
        identity: run.as_ref().and_then(|run| run.identity),
        runs: source.runs(),
        show: Show { arguments, task: String::new(), tail: arguments.tail.map(|_| VecDeque::new()) },
        printer: Printer::default(),
        waiting_since: None,
        is_caught_up: false,
        streams: 0,
    };
    logs.follow(&heard)
}

/// Where a stream has the beginning of a run, as far as its statuses tell.
pub(super) fn beginning_of(run: &Run) -> Start {
    run.first_stored.filter(|_| run.is_whole()).map_or(Start::First, Start::Since)
}

/// The run that began last.
fn latest(source: &Source, subject_id: Option<&str>) -> io::Result<Result<Option<Run>, Stopped>> {
    const DAY: Duration = Duration::from_secs(86_400);
    for since in [DAY, DAY * 365] {
        let since = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
        let runs = match known_runs(source, subject_id, since)? {
            Ok((runs, _)) => runs,
            Err(stopped) => return Ok(Err(stopped)),
        };
        let last = runs.all().map(|(_, run)| run).max_by_key(|run| (run.started, run.first_stored));
        if last.is_some() {
            return Ok(Ok(last.cloned()));
        }
    }
    Ok(Ok(None))
}

struct Logs<'a> {
    source: &'a Source,
    arguments: &'a LogsArguments,
    ident: &'a str,
    /// Of several runs of that ident the one that is meant.
    identity: Option<RunId>,
    runs: Runs,
    show: Show<'a>,
    printer: Printer,
    /// Since when a counter is missing, and others wait for it.
    waiting_since: Option<Instant>,
    /// All was told that streams had kept.
    is_caught_up: bool,
    /// How many streams are read: one may be ahead of another.
    streams: usize,
}

/// What is printed, and how.
struct Show<'a> {
    arguments: &'a LogsArguments,
    /// The task of the last result that was printed.
    task: String,
    /// The last lines of what there was so far, if no others are wanted.
    tail: Option<VecDeque<String>>,
}

impl Logs<'_> {
    fn follow(&mut self, heard: &Receiver<Heard>) -> io::Result<Exit> {
        let mut end = None;
        loop {
            let deadline = self.waiting_since.map(|since| since + GAP);
            let heard = match self.source.next(heard, deadline) {
                Ok(heard) => heard,
                Err(Stopped::TimedOut) => {
                    self.print_all()?;
                    if let Some(end) = end.filter(|_| self.is_caught_up) {
                        self.say_why()?;
                        self.say_what_is_missing();
                        return Ok(end);
                    }
                    continue;
                }
                Err(stopped) => {
                    self.print_all()?;
                    return Ok(stopped.exit());
                }
            };
            match heard {
                Heard::Message(message) => {
                    end = end.or(self.on_message(&message)?);
                    if let Some(end) = end.filter(|_| self.is_told()) {
                        self.print_all()?;
                        self.say_why()?;
                        return Ok(end);
                    }
                }
                Heard::CaughtUp => {
                    if !self.arguments.follow {
                        self.print_all()?;
                        self.say_why()?;
                        return Ok(self.all_told());
                    }
                    self.show.end_of_tail()?;
                    self.is_caught_up = true;
                    if let Some(end) = end.filter(|_| self.is_told()) {
                        self.print_all()?;
                        self.say_why()?;
                        return Ok(end);
                    }
                }
                Heard::Connected { streams, .. } => self.streams = streams.len(),
                Heard::Lost(reason) => complain(&self.source.hide(reason)),
                Heard::Failed(_) | Heard::NoStream => {}
            }
        }
    }

    /// The run has ended: is all of it told? What it said before may still be on its way, by another stream at that.
    fn is_told(&mut self) -> bool {
        if !self.arguments.follow || !(self.is_caught_up || self.streams == 0) {
            return false;
        }
        let missing = self.runs.all().max_by_key(|(id, _)| *id).map_or(0, |(_, run)| run.missing());
        let is_told = !self.printer.is_waiting() && missing == 0 && self.streams <= 1;
        if !is_told {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        is_told
    }

    /// A run that failed though no task did: `--failed` tells why, too.
    fn say_why(&self) -> io::Result<()> {
        let Some((_, run)) = self.runs.all().max_by_key(|(id, _)| *id) else { return Ok(()) };
        let reasons: Vec<&Failure> = run.failures.iter().filter(|failure| failure.is_of_run()).collect();
        if !self.arguments.failed || self.arguments.json || self.arguments.host.is_some() {
            return Ok(());
        }
        stdout(|out| {
            for reason in &reasons {
                writeln!(out, "{}: no task did: {}", run.status(), reason.why)?;
                reason.details.iter().try_for_each(|line| writeln!(out, "    {line}"))?;
            }
            Ok(())
        })
    }

    /// What of the run's output is not there, on standard error.
    fn say_what_is_missing(&self) {
        let Some((_, run)) = self.runs.all().max_by_key(|(id, _)| *id) else { return };
        if let Some(first) = run.first_counter().filter(|first| *first > 1 && !run.selects()) {
            complain(&format!(
                "the beginning of this run is not in the stream: its first event there is number {first}"
            ));
        }
        let gaps = run.gaps();
        if gaps > 0 {
            complain(&format!("{gaps} events of this run are not in the stream"));
        }
    }

    /// Nothing more is to come.
    fn all_told(&self) -> Exit {
        if self.runs.all().next().is_none() {
            complain(&format!("no stream knows a run {}", printable(self.ident)));
            return Exit::Problem;
        }
        self.say_what_is_missing();
        Exit::Success
    }

    /// How the run ended, if the message says so.
    fn on_message(&mut self, message: &Received) -> io::Result<Option<Exit>> {
        if message.run.is_some() && self.identity.is_some_and(|identity| message.run != Some(identity)) {
            return Ok(None);
        }
        let Some(news) = self.runs.hear(message, SystemTime::now()) else { return Ok(None) };
        let Some(run) = self.runs.get(news.run).filter(|run| run.ident == self.ident) else {
            return Ok(None);
        };
        let end = news.is_end.then(|| Exit::of_status(run.status()));
        let Some(counter) = news.counter else { return Ok(end) };
        let text = self.show.text(&news, run, &message.payload);
        let line = text.map(|text| Line { counter, text });
        if run.selects() {
            // Nobody knows which counters are to come.
            self.show.lines(line.into_iter().collect())?;
            return Ok(end);
        }
        if self.waiting_since.is_none()
            && !self.printer.is_waiting()
            && self.printer.is_new()
            && run.is_whole()
        {
            self.printer = Printer::starting_at(1);
        }
        let lines = self.printer.take(counter, line);
        self.show.lines(lines)?;
        self.waiting_since = if self.printer.is_waiting() {
            self.waiting_since.or_else(|| Some(Instant::now()))
        } else {
            None
        };
        Ok(end)
    }

    fn print_all(&mut self) -> io::Result<()> {
        self.waiting_since = None;
        let lines = self.printer.skip();
        self.show.lines(lines)?;
        self.show.end_of_tail()
    }
}

impl Show<'_> {
    /// What is to be printed of an event, if anything.
    fn text(&mut self, news: &News, run: &Run, payload: &[u8]) -> Option<String> {
        let LogsArguments { host, failed, changed, json, timestamps, .. } = self.arguments;
        let is_filtered = host.is_some() || *failed || *changed;
        if is_filtered {
            let result = news.result.as_ref()?;
            let is_wanted = host.as_ref().is_none_or(|host| *host == result.host)
                && ((!failed && !changed)
                    || (*failed && result.is_failed)
                    || (*changed && result.is_changed));
            if !is_wanted {
                return None;
            }
        }
        if *json {
            return Some(json_line(payload));
        }
        let text = if is_filtered { self.result(news, run)? } else { news.printed.clone()? };
        let time = news.when.filter(|_| *timestamps).map(in_utc);
        Some(match time {
            Some(time) => {
                text.split('\n').map(|line| format!("{time} {line}")).collect::<Vec<_>>().join("\n")
            }
            None => text,
        })
    }

    /// A result, with its task, and with all that is said of what went wrong.
    fn result(&mut self, news: &News, run: &Run) -> Option<String> {
        let result = news.result.as_ref()?;
        let mut lines = Vec::new();
        if self.task != result.task {
            self.task.clone_from(&result.task);
            lines.push(format!("TASK [{}]", result.task));
        }
        match &news.printed {
            Some(printed) => lines.push(printed.clone()),
            None => lines.push(format!("{}: [{}]", news.word, result.host)),
        }
        let failure = run.failures.iter().find(|failure| Some(failure.counter) == news.counter);
        let details = failure.into_iter().flat_map(|failure| &failure.details);
        lines.extend(details.map(|line| format!("    {line}")));
        Some(lines.join("\n"))
    }

    fn lines(&mut self, lines: Vec<Line>) -> io::Result<()> {
        if let (Some(tail), Some(most)) = (&mut self.tail, self.arguments.tail) {
            for line in lines {
                tail.extend(line.text.split('\n').map(str::to_owned));
                tail.drain(..tail.len().saturating_sub(most));
            }
            return Ok(());
        }
        if lines.is_empty() {
            return Ok(());
        }
        stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{}", line.text)))
    }

    /// From now on every line is printed.
    fn end_of_tail(&mut self) -> io::Result<()> {
        let tail = self.tail.take().unwrap_or_default();
        stdout(|out| tail.iter().try_for_each(|line| writeln!(out, "{line}")))
    }
}

pub(super) fn wait(arguments: &WaitArguments) -> io::Result<Exit> {
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let Some(source) = Source::open(&arguments.options)? else { return Ok(Exit::Problem) };
    let WaitArguments { ident, subject_id, .. } = arguments;
    let subject_id = subject_id.as_deref();
    let mut known = Vec::new();
    let (run, start) = match source.find(subject_id, ident)? {
        Ok(Some(Found { run, others })) if arguments.next => {
            known = others.iter().chain([&run]).filter_map(|run| run.identity).collect();
            (None, Start::Now)
        }
        Ok(None) if arguments.next => (None, Start::Now),
        Ok(Some(found)) if found.run.is_over() => {
            found.name_others();
            return Ok(Exit::of_status(found.run.status()));
        }
        Ok(Some(Found { run, .. })) => {
            let start = beginning_of(&run);
            (Some(run), start)
        }
        Ok(None) => (None, Start::First),
        Err(Stopped::NoStream) => {
            complain("no stream takes what runs publish: whether the run has ended already is not known");
            (None, Start::Now)
        }
        Err(stopped) => return Ok(stopped.exit()),
    };
    // One that was killed has no last status: that is said where its signs of life are.
    let kinds = [Kind::Status, Kind::Heartbeat].map(Some);
    let subjects: Vec<String> = kinds
        .into_iter()
        .flat_map(|kind| match &run {
            Some(run) => source.filters_of(run, kind),
            None => source.filters(subject_id, Some(ident), kind),
        })
        .collect();
    let heard = source.listen(Wish { subjects, from: start, follow: true, before: None })?;
    let mut runs = source.runs();
    loop {
        match source.next(&heard, deadline) {
            Ok(Heard::Message(message)) => {
                let is_other = match (message.run, run.as_ref().and_then(|run| run.identity)) {
                    (Some(one), Some(wanted)) => one != wanted,
                    (Some(one), None) => known.contains(&one),
                    (None, _) => false,
                };
                if is_other {
                    continue;
                }
                let news = runs.hear(&message, SystemTime::now()).filter(|news| news.is_end);
                let ident = run.as_ref().map_or_else(|| one_line(ident), |run| run.ident.clone());
                let ended = news.and_then(|news| runs.get(news.run)).filter(|run| run.ident == ident);
                if let Some(run) = ended {
                    return Ok(Exit::of_status(run.status()));
                }
            }
            Ok(Heard::Lost(reason)) => complain(&source.hide(reason)),
            Ok(_) => {}
            Err(stopped) => return Ok(stopped.exit()),
        }
    }
}
