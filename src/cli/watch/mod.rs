//! `watch`: what runs are doing, live.
//!
//! - here: what is heard, and lines of text;
//! - `screen`: the terminal, its keys, and which view is shown;
//! - `list`, `detail`, `help`: the views: all runs, one run, the keys;
//! - `columns`, `text`: how things fit.

mod columns;
mod detail;
mod help;
mod list;
mod screen;
mod text;

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::{Duration, Instant},
};

use clap::Args;

use self::screen::{Screen, Wanted};
use super::{
    Exit,
    options::Options,
    reading::{Next, Source, Told},
    stop::Stop,
    terminal::{complain, json_line, stdout, tone_of},
    when::{self, When},
};
use crate::{
    message::{Kind, in_utc},
    nats::{Heard, Start, Wish},
    runs::{News, Run, RunKey, Runs, Status},
};

/// Show what runs are doing, live.
///
/// A screen of all runs on a terminal; one line per message elsewhere or with --plain. With a stream it shows the runs of
/// the last day from the start, and misses nothing while the server restarts. ? shows the keys. Exit status: 0, or 1 if
/// the server refuses us, or a stream is asked for that is not there.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to listen to, instead of all runs
    #[arg(value_parser = subject)]
    subject: Option<String>,
    /// First what a stream has kept, from its beginning
    #[arg(long)]
    from_stream: bool,
    /// First what a stream has kept since then: an age, a day, a time in UTC, today or yesterday
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<When>,
    /// A run that has said nothing for so long is silent [default: 60s, or two of its heartbeats]
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    /// One line per message, also on a terminal
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// The messages as they are, one per line
    #[arg(long)]
    json: bool,
    /// Stop when this many runs have ended
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    #[command(flatten)]
    options: Options,
}

/// A subject with wildcards, as the server takes it: it says nothing of another one, and nothing comes.
fn subject(text: &str) -> Result<String, String> {
    let plain = |token: &str| !token.contains(|c: char| c.is_whitespace() || c.is_control());
    let tokens: Vec<&str> = text.split('.').collect();
    let fits = |(at, token): (usize, &&str)| {
        !token.is_empty() && plain(token) && (*token != ">" || at + 1 == tokens.len())
    };
    if tokens.iter().enumerate().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected a subject such as pub.ansible.runner.site-a.>: tokens with dots between them, * for one, > for all \
             that follow"
            .to_owned())
    }
}

/// How far back the screen knows runs from the start.
const LOOK_BACK: Duration = Duration::from_secs(86_400);

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let source = Source::open(&arguments.options)?;
    let is_screen = !arguments.plain && !arguments.json && io::stdout().is_terminal();
    let from = match (arguments.since, arguments.from_stream) {
        (Some(since), _) => since.start(),
        (None, true) => Start::First,
        (None, false) => Start::Now,
    };
    let looks_back = is_screen && from == Start::Now && arguments.subject.is_none();
    let statuses = || (source.filters(None, None, Some(Kind::Status)), LOOK_BACK);
    let subjects = arguments
        .subject
        .as_ref()
        .map_or_else(|| source.filters(None, None, None), |subject| vec![subject.clone()]);
    let before = looks_back.then(statuses);
    let heard = source.listen(Wish { subjects: subjects.clone(), from, follow: true, before })?;
    let mut watch = Watch {
        arguments,
        source: &source,
        subjects: subjects.join(", "),
        heard,
        fetched: Vec::new(),
        runs: source.latest_runs(),
        has_stream: false,
        ended: 0,
    };
    if is_screen { watch.on_screen() } else { watch.in_lines() }
}

struct Watch<'a> {
    arguments: &'a Arguments,
    source: &'a Source,
    subjects: String,
    heard: Receiver<Heard>,
    /// What streams have kept of single runs.
    fetched: Vec<Receiver<Heard>>,
    runs: Runs,
    has_stream: bool,
    /// Runs that have ended.
    ended: u64,
}

impl Watch<'_> {
    fn in_lines(&mut self) -> Result<Exit, Stop> {
        if self.has_seen_enough() {
            return Ok(Exit::Success);
        }
        let Self { source, heard, .. } = self;
        let (source, heard) = (*source, std::mem::replace(heard, channel().1));
        source.read(&heard, None, |told| {
            self.on(told)?;
            Ok(if self.has_seen_enough() { Next::Enough(Exit::Success) } else { Next::More(None) })
        })
    }

    fn on(&mut self, told: Told) -> io::Result<()> {
        match told {
            Told::Connected { server, streams } => {
                let stream = match streams.as_slice() {
                    [] => String::new(),
                    names => format!(" from stream {}", names.join(", ")),
                };
                complain(&format!("connected to {server}, listening to {}{stream}", self.subjects));
            }
            Told::Lost(reason) => complain(&reason),
            Told::Message(message) => {
                let news = self.runs.hear(&message, self.source.now());
                self.count(news.as_ref());
                if self.arguments.json {
                    stdout(|out| writeln!(out, "{}", json_line(&message.payload)))?;
                } else if let Some(news) = news
                    && let Some(run) = self.runs.get(news.run)
                {
                    stdout(|out| writeln!(out, "{}", line(run, &news)))?;
                }
            }
            Told::CaughtUp | Told::Nothing => {}
        }
        Ok(())
    }

    fn on_screen(&mut self) -> Result<Exit, Stop> {
        /// As often as anybody can see.
        const FRAME: Duration = Duration::from_millis(100);
        let mut screen = Screen::open(self.arguments.silent_after)?;
        "connecting".clone_into(&mut screen.server);
        while !self.has_seen_enough() {
            if self.source.is_interrupted() {
                return Ok(Exit::Interrupted);
            }
            // All that has come, but no longer than a frame takes: keys must work under any load.
            let began = Instant::now();
            while began.elapsed() < FRAME {
                match self.heard.try_recv() {
                    Ok(Heard::Connected { server, streams, now }) => {
                        self.source.learn(now);
                        self.has_stream = !streams.is_empty();
                        screen.server = format!("connected to {}", self.source.hide(server));
                    }
                    Ok(Heard::CaughtUp) => {}
                    Ok(Heard::Lost(reason)) => screen.server = self.source.hide(reason),
                    Ok(Heard::Failed(reason)) => {
                        return Err(Stop::Problem(self.source.hide(reason)));
                    }
                    Ok(Heard::NoStream) => {
                        return Err(Stop::NoStream);
                    }
                    Ok(Heard::Message(message)) => {
                        let news = self.runs.hear(&message, self.source.now());
                        self.count(news.as_ref());
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Err(Stop::Said),
                }
            }
            self.take_fetched(began, FRAME);
            screen.draw(&self.runs, self.source.now())?;
            if self.fetched.is_empty() {
                // What is shown is to be true: of a run whose statuses alone were heard the counts are not known.
                self.fetch(screen.visible())?;
            }
            match screen.keys(&self.runs, FRAME)? {
                Wanted::Nothing => {}
                Wanted::Run(id) => self.fetch(&[id])?,
                Wanted::Quit => break,
                Wanted::Interrupt => return Ok(Exit::Interrupted),
            }
        }
        Ok(Exit::Success)
    }

    fn count(&mut self, news: Option<&News>) {
        self.ended += u64::from(news.is_some_and(|news| news.is_end));
    }

    fn has_seen_enough(&self) -> bool {
        self.arguments.runs.is_some_and(|runs| self.ended >= runs)
    }

    /// Reads all that streams have kept of some runs, in the background.
    fn fetch(&mut self, ids: &[RunKey]) -> io::Result<()> {
        let runs = ids.iter().filter_map(|id| Some((*id, self.runs.get(*id)?)));
        let wanted: Vec<(RunKey, &Run)> = runs.filter(|(_, run)| run.is_worth_reading()).collect();
        let Some(since) = wanted.iter().filter_map(|(_, run)| run.first_stored).min() else { return Ok(()) };
        if !self.has_stream {
            return Ok(());
        }
        // From its beginning, if that is known.
        let is_known = wanted.iter().all(|(_, run)| run.is_whole());
        let from = if is_known { Start::Since(since) } else { Start::First };
        let mut subjects: Vec<String> =
            wanted.iter().flat_map(|(_, run)| self.source.filters_of(run, None)).collect();
        subjects.sort();
        subjects.dedup();
        let ids: Vec<RunKey> = wanted.iter().map(|(id, _)| *id).collect();
        for id in ids {
            self.runs.is_being_fetched(id);
        }
        self.fetched.push(self.source.listen(Wish { subjects, from, follow: false, before: None })?);
        Ok(())
    }

    fn take_fetched(&mut self, began: Instant, limit: Duration) {
        let runs = &mut self.runs;
        self.fetched.retain(|heard| {
            while began.elapsed() < limit {
                match heard.try_recv() {
                    Ok(Heard::Message(message)) => drop(runs.hear(&message, self.source.now())),
                    Ok(_) => {}
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            true
        });
    }
}

fn line(run: &Run, news: &News) -> String {
    let time = news.when.map_or_else(|| "-".to_owned(), in_utc);
    let name = format!("{} {}", run.subject_id, run.ident);
    let name = name.trim_start();
    let tone = tone_of(&news.word);
    // A run that failed is something else than a task that did.
    if Status::parse(&news.word).is_some() && news.counter.is_none() {
        return format!("{time} {name} RUN {}", tone.paint(&news.word));
    }
    if news.text.is_empty() {
        return format!("{time} {name} {}", tone.paint(&news.word));
    }
    format!("{time} {name} {} {}", tone.paint(&format!("{:12}", news.word)), news.text)
}
