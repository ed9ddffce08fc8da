//! `grep`: in which runs a line appeared.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::SystemTime,
};

use clap::{Args, builder::PossibleValuesParser};
use regex::{Regex, RegexBuilder};
use serde::Serialize;
use wildmatch::WildMatch;

use super::{
    Exit,
    options::Options,
    progress::Progress,
    reading::{Source, short_identity},
    runs::{is_playbook, known_runs},
    stop::Stop,
    terminal::{Tone, complain, json_line, remark, stdout},
    when::{self, When},
};
use crate::{
    message::{Kind, Received, RunId, Template, in_utc, moment},
    runs::{Origin, Printed, Run, Status},
};

/// Look for a line in what all runs printed.
///
/// PATTERN is a regular expression as ripgrep has them. Reads the output of all runs from a stream and prints each line
/// with its run, host and task. Exit status: 0 something was found, 1 nothing was, or there is a problem.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    /// What to look for: a regular expression
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// What was printed since then: an age, a day, a time in UTC, today or yesterday
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = when::parse)]
    since: When,
    /// Only runs of this playbook; * and ? match anything
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    /// Only lines about this host; * and ? match anything
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only runs in these states, with commas between them
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    state: Vec<String>,
    /// Only runs of this subject id
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// Upper and lower case are alike
    #[arg(short, long)]
    ignore_case: bool,
    /// PATTERN is a text, and means itself
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// Only the runs, each once
    #[arg(short = 'l', long)]
    list_runs: bool,
    /// JSON objects, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// A line that was found, for scripts.
#[derive(Debug, Serialize)]
struct Hit<'a> {
    subject_id: &'a str,
    runner_ident: &'a str,
    run_id: Option<RunId>,
    counter: u64,
    host: Option<&'a str>,
    task: Option<&'a str>,
    created: Option<&'a str>,
    line: &'a str,
}

/// A run with such a line, for scripts.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    subject_id: &'a str,
    runner_ident: &'a str,
    run_id: Option<RunId>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let pattern = match pattern_of(arguments) {
        Ok(pattern) => pattern,
        Err(error) => {
            complain(&format!("PATTERN: {error}; -F takes it as a text"));
            return Ok(Exit::Usage);
        }
    };
    let source = Source::open(&arguments.options)?;
    let mut search = Search {
        arguments,
        template: source.template(),
        pattern,
        host: arguments.host.as_deref().map(WildMatch::new),
        only: wanted_runs(arguments, &source)?,
        since: arguments.since.at(source.now()),
        seen: HashSet::new(),
        found: HashMap::new(),
        lines: 0,
        progress: Progress::new(),
    };
    let subjects = source.filters(arguments.subject_id.as_deref(), None, Some(Kind::Event));
    let read = source.sweep(subjects, arguments.since.start(), |message| search.look_at(message));
    search.progress.clear();
    read?;
    let runs = search.found.len();
    remark(&format!(
        "{} line{} of {runs} run{}, in {} events since {}, in {:.2} s",
        search.lines,
        if search.lines == 1 { "" } else { "s" },
        if runs == 1 { "" } else { "s" },
        search.progress.count(),
        in_utc(arguments.since.at(source.now())),
        search.progress.seconds()
    ));
    Ok(if runs == 0 { Exit::Problem } else { Exit::Success })
}

fn pattern_of(arguments: &Arguments) -> Result<Regex, regex::Error> {
    let Arguments { pattern, fixed_strings, ignore_case, .. } = arguments;
    let pattern = if *fixed_strings { regex::escape(pattern) } else { pattern.clone() };
    RegexBuilder::new(&pattern).case_insensitive(*ignore_case).build()
}

/// What tells a run from others: its identity, or else its name.
type Key = (String, String, Option<RunId>);

/// The runs that are meant; `None`: all.
fn wanted_runs(arguments: &Arguments, source: &Source) -> Result<Option<HashSet<Key>>, Stop> {
    if arguments.playbook.is_none() && arguments.state.is_empty() {
        return Ok(None);
    }
    let (runs, _) = known_runs(source, arguments.subject_id.as_deref(), arguments.since)?;
    let playbook = arguments.playbook.as_deref().map(WildMatch::new);
    let now = source.now();
    let is_wanted = |run: &&Run| {
        let state = run.state(now, None).as_str();
        playbook.as_ref().is_none_or(|playbook| is_playbook(run, playbook))
            && (arguments.state.is_empty() || arguments.state.iter().any(|wanted| wanted == state))
    };
    let runs = runs.all().map(|(_, run)| run).filter(is_wanted);
    Ok(Some(runs.map(|run| (run.subject_id.clone(), run.ident.clone(), run.identity)).collect()))
}

struct Search<'a> {
    arguments: &'a Arguments,
    template: &'a Template,
    pattern: Regex,
    host: Option<WildMatch>,
    only: Option<HashSet<Key>>,
    /// What was printed earlier, and came late, is not meant.
    since: SystemTime,
    /// Events that were found: a stream may have one twice.
    seen: HashSet<u64>,
    /// How many lines of each run were found.
    found: HashMap<Key, u64>,
    lines: u64,
    progress: Progress,
}

impl Search<'_> {
    fn look_at(&mut self, message: &Received) -> Result<(), Stop> {
        self.progress.tick();
        let Some(printed) = Printed::read(message) else { return Ok(()) };
        let text = printed.text();
        let lines: Vec<&str> = text.lines().filter(|line| self.pattern.is_match(line)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let Some(origin) = printed.origin(self.template) else { return Ok(()) };
        let key = (origin.subject_id.clone(), origin.ident.clone(), origin.identity);
        let is_wanted = self.only.as_ref().is_none_or(|only| only.contains(&key))
            && created(&origin).is_none_or(|when| when >= self.since)
            && self.arguments.subject_id.as_ref().is_none_or(|id| *id == origin.subject_id)
            && self
                .host
                .as_ref()
                .is_none_or(|host| origin.host.as_deref().is_some_and(|one| host.matches(one)));
        if !is_wanted || !self.seen.insert(trace_of(&key, message)) {
            return Ok(());
        }
        let known = self.found.entry(key).or_default();
        let is_first = *known == 0;
        let count = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        *known += count;
        self.lines += count;
        let shown = match (self.arguments.list_runs, is_first) {
            (true, false) => return Ok(()),
            (true, true) => vec![self.run_of(&origin)?],
            (false, _) => lines.iter().map(|line| self.line(&origin, line)).collect::<Result<_, _>>()?,
        };
        let write = || stdout(|out| shown.iter().try_for_each(|line| writeln!(out, "{line}")));
        Ok(self.progress.aside(write)?)
    }

    fn run_of(&self, origin: &Origin) -> serde_json::Result<String> {
        let Origin { subject_id, ident, identity, .. } = origin;
        if !self.arguments.json {
            let identity = identity.map(|identity| short_identity(&identity)).unwrap_or_default();
            return Ok(format!("{}{ident}  {identity}", time_of(origin)).trim_end().to_owned());
        }
        let listed = Listed { subject_id, runner_ident: ident, run_id: *identity };
        Ok(json_line(&serde_json::to_vec(&listed)?))
    }

    fn line(&self, origin: &Origin, line: &str) -> serde_json::Result<String> {
        if self.arguments.json {
            let hit = Hit {
                subject_id: &origin.subject_id,
                runner_ident: &origin.ident,
                run_id: origin.identity,
                counter: origin.counter,
                host: origin.host.as_deref(),
                task: origin.task.as_deref(),
                created: origin.created.as_deref(),
                line,
            };
            return Ok(json_line(&serde_json::to_vec(&hit)?));
        }
        let about: Vec<&str> = origin.host.iter().chain(&origin.task).map(String::as_str).collect();
        let about = if about.is_empty() { String::new() } else { format!(" [{}]", about.join(" · ")) };
        let (ident, about) = (Tone::Strong.paint(&origin.ident), Tone::Faint.paint(&about));
        Ok(format!("{}{ident}{about}: {line}", Tone::Faint.paint(&time_of(origin))))
    }
}

/// When it was printed, and a gap; nothing if nobody knows.
fn time_of(origin: &Origin) -> String {
    created(origin).map(|when| in_utc(when) + "  ").unwrap_or_default()
}

fn created(origin: &Origin) -> Option<SystemTime> {
    origin.created.as_deref().and_then(moment).map(|(_, when)| when)
}

/// Of two copies of one event the same.
fn trace_of(key: &Key, message: &Received) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    match &message.id {
        Some(id) => id.hash(&mut hasher),
        None => message.payload.hash(&mut hasher),
    }
    hasher.finish()
}
