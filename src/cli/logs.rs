//! `logs`: what a job printed, as it printed it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use wildmatch::WildMatch;

use super::{
    Exit,
    options::Options,
    reading::{Next, Source, Told, Which},
    runs::known_runs,
    stop::Stop,
    terminal::{complain, first_of, json_line, stdout},
    when::When,
};
use crate::{
    message::{Received, in_utc},
    nats::Wish,
    runs::{Failure, News, OnHost, Printer, Run, RunKey, Runs},
};

/// Print what a job printed, as it printed it.
///
/// From a stream, in order, each line once; with -f on as it comes, also of a run that has not begun, until the run ends.
/// --host, --failed and --changed print the results of those tasks instead, with all that is said of what went wrong.
/// Exit status with -f: 0 the run was successful, 3 it failed, 4 it was canceled, 5 it ran out of time; otherwise 0, and 1
/// if there is no such run, or no such host in it.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    /// The run's ident, or the beginning of its identity
    #[arg(required_unless_present = "latest")]
    ident: Option<String>,
    /// Go on as it comes, and end with the run
    #[arg(short, long)]
    follow: bool,
    /// The run that began last
    #[arg(long, conflicts_with = "ident")]
    latest: bool,
    /// With -f, not one that is there already: the run of that ident that begins from now on
    #[arg(long, requires = "follow", conflicts_with = "latest")]
    next: bool,
    /// Of a subject id, where several have runs of that ident
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only results on these hosts; * and ? match anything
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    host: Vec<String>,
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

/// How long a counter that does not come is waited for.
const GAP: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let source = Source::open(&arguments.options)?;
    let subject_id = arguments.subject_id.as_deref();
    let which = match &arguments.ident {
        Some(ident) => Which::find(&source, subject_id, ident, arguments.next),
        None => latest(&source, subject_id).map(Which::known),
    };
    let which = match (which, &arguments.ident) {
        (Err(Stop::NoStream), Some(ident)) if arguments.follow => {
            complain("no stream takes what runs publish: what was printed so far is not known");
            Which::unknown(subject_id, ident)
        }
        (which, _) => which?,
    };
    which.name_others();
    let wish = Wish {
        subjects: which.filters(&source, None),
        from: which.start(),
        follow: arguments.follow,
        before: None,
    };
    let heard = source.listen(wish)?;
    let mut logs = Logs {
        source: &source,
        arguments,
        which,
        runs: source.runs(),
        run: None,
        show: Show::new(arguments),
        printer: Printer::default(),
        waiting_since: None,
        is_caught_up: false,
        streams: 0,
        end: None,
    };
    let read = source.read(&heard, None, |told| logs.on(told));
    if read.is_err() {
        logs.print_all()?;
    }
    read
}

/// The run that began last.
fn latest(source: &Source, subject_id: Option<&str>) -> Result<Run, Stop> {
    const DAY: Duration = Duration::from_secs(86_400);
    for since in [DAY, DAY * 365] {
        let (runs, _) = known_runs(source, subject_id, When::Ago(since))?;
        let last = runs.all().map(|(_, run)| run).max_by_key(|run| (run.started, run.first_stored));
        if let Some(last) = last {
            return Ok(last.clone());
        }
    }
    Err(Stop::Problem("there is no run yet".to_owned()))
}

struct Logs<'a> {
    source: &'a Source,
    arguments: &'a Arguments,
    which: Which,
    runs: Runs,
    /// The one that is printed, once something of it was heard.
    run: Option<RunKey>,
    show: Show<'a>,
    printer: Printer<Event>,
    /// Since when a counter is missing, and others wait for it.
    waiting_since: Option<Instant>,
    /// All was told that streams had kept.
    is_caught_up: bool,
    /// How many streams are read: one may be ahead of another.
    streams: usize,
    /// How the run ended, once it has.
    end: Option<Exit>,
}

impl Logs<'_> {
    fn on(&mut self, told: Told) -> Result<Next<Exit>, Stop> {
        match told {
            Told::Message(message) => self.on_message(&message)?,
            Told::CaughtUp if !self.arguments.follow => {
                return self.all_told(Exit::Success).map(Next::Enough);
            }
            Told::CaughtUp => {
                self.show.end_of_tail()?;
                self.is_caught_up = true;
            }
            Told::Connected { streams, .. } => self.streams = streams.len(),
            Told::Lost(reason) => complain(&reason),
            Told::Nothing => {
                self.print_all()?;
                if let Some(end) = self.end.filter(|_| self.is_caught_up) {
                    return self.all_told(end).map(Next::Enough);
                }
            }
        }
        if let Some(end) = self.end.filter(|_| self.is_told()) {
            return self.all_told(end).map(Next::Enough);
        }
        Ok(Next::More(self.waiting_since.map(|since| since + GAP)))
    }

    fn run(&self) -> Option<&Run> {
        self.runs.get(self.run?)
    }

    /// The run has ended: is all of it told? What it said before may still be on its way, by another stream at that.
    fn is_told(&mut self) -> bool {
        if !self.arguments.follow || !(self.is_caught_up || self.streams == 0) {
            return false;
        }
        let missing = self.run().map_or(0, Run::missing);
        let is_told = !self.printer.is_waiting() && missing == 0 && self.streams <= 1;
        if !is_told {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        is_told
    }

    /// Nothing more is to come.
    fn all_told(&mut self, end: Exit) -> Result<Exit, Stop> {
        self.print_all()?;
        let Some(run) = self.run() else {
            return Err(Stop::Problem(format!("no stream knows a run {}", self.which.ident())));
        };
        self.show.reasons(run)?;
        say_what_is_missing(run);
        if let Some(unknown) = self.show.unknown_hosts(run) {
            complain(&unknown);
            return Ok(end.worse(Exit::Problem));
        }
        Ok(end)
    }

    fn on_message(&mut self, message: &Received) -> Result<(), Stop> {
        if !self.which.may_be(message) {
            return Ok(());
        }
        let Some(news) = self.runs.hear(message, self.source.now()) else { return Ok(()) };
        let Some(run) = self.runs.get(news.run).filter(|run| self.which.is(run)) else { return Ok(()) };
        self.run = Some(news.run);
        if news.is_end {
            self.end.get_or_insert_with(|| Exit::of_status(run.status()));
        }
        let Some(counter) = news.counter else { return Ok(()) };
        let event = self.show.event(news, run, message);
        if run.selects() {
            // Nobody knows which counters are to come.
            return Ok(self.show.print(event.into_iter().collect())?);
        }
        let is_first = self.waiting_since.is_none() && !self.printer.is_waiting() && self.printer.is_new();
        if is_first && run.is_whole() {
            self.printer = Printer::starting_at(1);
        }
        let events = self.printer.take(counter, event);
        self.show.print(events)?;
        let is_waiting = self.printer.is_waiting();
        self.waiting_since = is_waiting.then(|| self.waiting_since.unwrap_or_else(Instant::now));
        Ok(())
    }

    fn print_all(&mut self) -> io::Result<()> {
        self.waiting_since = None;
        let events = self.printer.skip();
        self.show.print(events)?;
        self.show.end_of_tail()
    }
}

/// What of the run's output is not there, on standard error.
fn say_what_is_missing(run: &Run) {
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

/// What is to be printed of an event, in its turn.
struct Event {
    when: Option<SystemTime>,
    /// As it was published, if that is wanted.
    json: Option<String>,
    printed: Option<String>,
    on: Option<OnHost>,
    /// How it went there, in a word.
    word: String,
    /// All that is said of what went wrong.
    details: Vec<String>,
}

/// What is printed, and how.
struct Show<'a> {
    arguments: &'a Arguments,
    hosts: Vec<WildMatch>,
    /// Which of them have matched.
    matched: HashSet<usize>,
    /// The task of the last result that was printed.
    task: String,
    /// What was printed of tasks that have not ended yet, by host and task: it is shown with the result.
    parts: HashMap<(String, String), Vec<Event>>,
    /// The last lines of what there was so far, if no others are wanted.
    tail: Option<VecDeque<String>>,
}

impl<'a> Show<'a> {
    fn new(arguments: &'a Arguments) -> Self {
        Self {
            arguments,
            hosts: arguments.host.iter().map(|host| WildMatch::new(host)).collect(),
            matched: HashSet::new(),
            task: String::new(),
            parts: HashMap::new(),
            tail: arguments.tail.map(|_| VecDeque::new()),
        }
    }

    fn is_filtered(&self) -> bool {
        !self.hosts.is_empty() || self.arguments.failed || self.arguments.changed
    }

    /// What may be printed of an event; `None`: nothing.
    fn event(&self, news: News, run: &Run, message: &Received) -> Option<Event> {
        if self.is_filtered() {
            news.on.as_ref()?;
        }
        let failure = run.failures.iter().find(|failure| Some(failure.counter) == news.counter);
        let details = if self.is_filtered() { failure.map(|failure| failure.details.clone()) } else { None };
        Some(Event {
            when: news.when,
            json: self.arguments.json.then(|| json_line(&message.payload)),
            printed: news.printed,
            on: news.on,
            word: news.word,
            details: details.unwrap_or_default(),
        })
    }

    fn print(&mut self, events: Vec<Event>) -> io::Result<()> {
        let mut lines = Vec::new();
        for event in events {
            if self.is_filtered() {
                self.result(event, &mut lines);
            } else if let Some(json) = event.json {
                lines.push(json);
            } else if let Some(printed) = &event.printed {
                self.stamped(event.when, printed, &mut lines);
            }
        }
        self.lines(lines)
    }

    /// A result, with its task, and with all that is said of what went wrong.
    fn result(&mut self, event: Event, lines: &mut Vec<String>) {
        let Some(on) = event.on.clone() else { return };
        for (place, host) in self.hosts.iter().enumerate() {
            if host.matches(&on.host) {
                self.matched.insert(place);
            }
        }
        let key = (on.host.clone(), on.task.clone());
        let Arguments { failed, changed, .. } = self.arguments;
        let is_host_wanted = self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(&on.host));
        if !is_host_wanted {
            return;
        }
        if on.outcome.is_none() {
            self.parts.entry(key).or_default().push(event);
            return;
        }
        let mut parts = self.parts.remove(&key).unwrap_or_default();
        let is_any = !failed && !changed;
        if !(is_any || (*failed && on.is_failed()) || (*changed && on.is_changed)) {
            return;
        }
        let first = parts.iter().chain([&event]).find_map(|part| part.when);
        if event.json.is_none() && self.task != on.task {
            self.task.clone_from(&on.task);
            self.stamped(first, &format!("TASK [{}]", on.task), lines);
        }
        parts.push(event);
        if !parts.iter().filter_map(|part| part.printed.as_ref()).any(|text| text.contains(&on.host))
            && let Some(result) = parts.last_mut()
        {
            // "...ignoring" alone does not say who.
            let name = format!("{}: [{}]", result.word, on.host);
            result.printed =
                Some(result.printed.take().map_or(name.clone(), |text| format!("{name}\n{text}")));
        }
        for part in parts {
            if let Some(json) = part.json {
                lines.push(json);
                continue;
            }
            if let Some(printed) = &part.printed {
                self.stamped(part.when, printed, lines);
            }
            for detail in &part.details {
                self.stamped(part.when, &format!("    {detail}"), lines);
            }
        }
    }

    /// The lines of a text, each with the time of its event if that is wanted.
    fn stamped(&self, when: Option<SystemTime>, text: &str, lines: &mut Vec<String>) {
        let time = when.filter(|_| self.arguments.timestamps).map(|when| in_utc(when) + " ");
        let time = time.unwrap_or_default();
        lines.extend(text.split('\n').map(|line| format!("{time}{line}")));
    }

    fn lines(&mut self, lines: Vec<String>) -> io::Result<()> {
        if let (Some(tail), Some(most)) = (&mut self.tail, self.arguments.tail) {
            tail.extend(lines);
            tail.drain(..tail.len().saturating_sub(most));
            return Ok(());
        }
        if lines.is_empty() {
            return Ok(());
        }
        stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
    }

    /// From now on every line is printed.
    fn end_of_tail(&mut self) -> io::Result<()> {
        let tail = self.tail.take().unwrap_or_default();
        stdout(|out| tail.iter().try_for_each(|line| writeln!(out, "{line}")))
    }

    /// A run that failed though no task did, or was cut short: `--failed` tells why, too.
    fn reasons(&self, run: &Run) -> io::Result<()> {
        if !self.arguments.failed || self.arguments.json || !self.hosts.is_empty() {
            return Ok(());
        }
        let reasons: Vec<&Failure> = run.failures.iter().filter(|failure| failure.is_of_run()).collect();
        stdout(|out| {
            for reason in &reasons {
                writeln!(out, "{}: {}: {}", run.status().as_str(), run.who_failed(), reason.why)?;
                reason.details.iter().try_for_each(|line| writeln!(out, "    {line}"))?;
            }
            Ok(())
        })
    }

    /// Hosts that were asked for and are not in the run, and those that are.
    fn unknown_hosts(&self, run: &Run) -> Option<String> {
        /// More of them nobody reads.
        const NAMED: usize = 20;
        let is_known = |place: &usize, host: &WildMatch| {
            self.matched.contains(place) || run.tasks.hosts().any(|name| host.matches(name))
        };
        let asked = self.arguments.host.iter().zip(self.hosts.iter().enumerate());
        let unknown: Vec<&str> = asked
            .filter(|(_, (place, host))| !is_known(place, host))
            .map(|(name, _)| name.as_str())
            .collect();
        if unknown.is_empty() {
            return None;
        }
        let mut known: Vec<&str> = run.tasks.hosts().filter(|host| !host.is_empty()).collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none".to_owned() } else { first_of(&known, NAMED) };
        Some(format!("--host {}: nothing was done there; the hosts of this run: {known}", unknown.join(", ")))
    }
}
