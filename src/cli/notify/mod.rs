//! `notify`: tells somebody else how runs end.
//!
//! - `notice`: what is said of a run;
//! - `post`: to whom, and whether it has arrived.
//!
//! What is to be told is remembered by a durable consumer in the stream, and nowhere else. A run that has begun stays a
//! task there until it ends or falls silent; an end, until the receiver has taken it.

mod notice;
mod post;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::mpsc::{Receiver as Queue, RecvTimeoutError},
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum, ValueHint};

use self::{
    notice::{Format, Notice},
    post::Receiver,
};
use super::{
    Exit,
    options::Options,
    reading::{LOOK_UP, Source, same_run},
    serve::address_of,
    stop::Stop,
    terminal::{complain, printable, remark},
    when::{self, When},
};
use crate::{
    config::read_secret,
    message::{Kind, Received, in_utc},
    nats::{Handed, Start, Task, Tasks, Verdict},
    runs::{Run, Status},
    secret::Secret,
};

/// Post a message to a URL when a run fails.
///
/// One message a run, with the hosts that failed and why. The stream remembers what has not arrived: it is posted again,
/// later and later, for as long as the stream keeps it, also after a restart. Exit status: 130 when it is stopped, 1 if it
/// cannot go on.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to post; other users of this host may see a command line: see --to-file
    #[arg(long, value_name = "URL", required_unless_present = "to_file")]
    to: Option<String>,
    /// A file with the URL in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "to")]
    to_file: Option<PathBuf>,
    /// When to post
    #[arg(long, value_name = "WHEN", value_delimiter = ',', default_value = "failed,killed,silent,timeout")]
    on: Vec<Occasion>,
    /// What the receiver understands
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// The address of the page of `serve`: messages have a link to the run there
    #[arg(long, value_name = "BASE")]
    link: Option<String>,
    /// Under which name the stream remembers what was told: one for each receiver
    #[arg(long, value_name = "NAME", default_value = "notify", value_parser = consumer_name)]
    name: String,
    /// The first time, begin with what the stream has kept since then [default: from now on]
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<When>,
    /// Only runs of this subject id
    #[arg(long, value_name = "ID")]
    subject_id: Option<String>,
    /// A run that has said nothing for so long is silent [default: 60s, or two of its heartbeats]
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    #[command(flatten)]
    options: Options,
}

/// What a run may be told for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Occasion {
    /// It failed, or could not be run (`error`)
    Failed,
    /// Its process was killed
    Killed,
    /// It has not ended, and says nothing any more
    Silent,
    /// It was canceled
    Canceled,
    /// It ran out of time
    Timeout,
    /// It was successful, and has changed something
    Changed,
}

impl Occasion {
    /// What it may be that a run is in this state.
    fn of(status: Status) -> Option<Self> {
        match status {
            Status::Failed | Status::Error => Some(Self::Failed),
            Status::Killed => Some(Self::Killed),
            Status::Silent => Some(Self::Silent),
            Status::Canceled => Some(Self::Canceled),
            Status::Timeout => Some(Self::Timeout),
            Status::Successful => Some(Self::Changed),
            Status::Starting | Status::Running => None,
        }
    }
}

/// What a consumer may be called (ADR-6 of nats-architecture-and-design).
fn consumer_name(text: &str) -> Result<String, &'static str> {
    const LONGEST: usize = 32;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_name = !text.is_empty() && text.len() <= LONGEST && text.chars().all(is_plain);
    is_name.then(|| text.to_owned()).ok_or("expected at most 32 letters, digits, - and _")
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Stop> {
    let receiver = url_of(arguments).and_then(|url| Receiver::at(&url));
    let receiver = receiver.map_err(|reason| Stop::Problem(printable(&reason)))?;
    let source = Source::open(&arguments.options)?;
    let subjects = [Kind::Status, Kind::Heartbeat]
        .into_iter()
        .flat_map(|kind| source.filters(arguments.subject_id.as_deref(), None, Some(kind)))
        .collect();
    let tasks = Tasks {
        name: arguments.name.clone(),
        subjects,
        since: arguments.since.map(|since| since.at(SystemTime::now())),
    };
    let handed = source.hand_out(tasks)?;
    let mut notifier = Notifier { arguments, source: &source, receiver, tries: HashMap::new() };
    Err(notifier.work(&handed))
}

fn url_of(arguments: &Arguments) -> Result<Secret, String> {
    match (&arguments.to, &arguments.to_file) {
        (_, Some(path)) => {
            read_secret(path).map_err(|error| format!("--to-file {}: {error}", path.display()))
        }
        (to, None) => Ok(Secret::new(to.clone().unwrap_or_default())),
    }
}

struct Notifier<'a> {
    arguments: &'a Arguments,
    source: &'a Source,
    receiver: Receiver,
    /// How often a task could not be done, by its number.
    tries: HashMap<u64, u32>,
}

impl Notifier<'_> {
    /// Works until something stops it.
    fn work(&mut self, handed: &Queue<Handed>) -> Stop {
        loop {
            if self.source.is_interrupted() {
                return Stop::Interrupted;
            }
            match handed.recv_timeout(LOOK_UP) {
                Ok(Handed::Connected { stream }) => {
                    let place = self.receiver.place();
                    remark(&format!("telling {place} of runs in stream {}", printable(&stream)));
                }
                Ok(Handed::Task(task)) => {
                    let verdict = match self.deal_with(&task) {
                        Ok(verdict) => verdict,
                        Err(Stop::Interrupted) => return Stop::Interrupted,
                        Err(stop) => {
                            // Why it cannot be done now is said there.
                            stop.exit();
                            self.later(&task)
                        }
                    };
                    if verdict == Verdict::Done {
                        self.tries.remove(&task.number);
                    }
                    // Nobody waits for it if the connection has ended for good: that is told next.
                    let _ = task.verdict.send(verdict);
                }
                Ok(Handed::Lost(reason)) => complain(&self.source.hide(reason)),
                Ok(Handed::Failed(reason)) => return Stop::Problem(self.source.hide(reason)),
                Ok(Handed::NoStream) => return Stop::NoStream,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Stop::Said,
            }
        }
    }

    /// Tries again after 2, 4, 8, … seconds, at most five minutes apart.
    fn later(&mut self, task: &Task) -> Verdict {
        const LONGEST: Duration = Duration::from_secs(300);
        let tries = self.tries.entry(task.number).or_default();
        *tries = tries.saturating_add(1);
        let pause = 1_u64.checked_shl(*tries).map_or(LONGEST, Duration::from_secs);
        Verdict::Again(pause.min(LONGEST))
    }

    fn wants(&self, occasion: Occasion) -> bool {
        self.arguments.on.contains(&occasion)
    }

    fn deal_with(&mut self, task: &Task) -> Result<Verdict, Stop> {
        let message = &task.message;
        let mut runs = self.source.runs();
        if message.is_marker {
            // Of a marker only the subject is known: the run is the last one that publishes there.
            let statuses =
                self.source.filters(self.arguments.subject_id.as_deref(), None, Some(Kind::Status));
            self.source.take_in(&mut runs, statuses, Start::Last)?;
        }
        let heard = runs.hear(message, self.source.now());
        let Some(run) = heard.as_ref().and_then(|news| runs.get(news.run)).cloned() else {
            return Ok(Verdict::Done);
        };
        let is_end = heard.is_some_and(|news| news.is_end);
        if is_end && Occasion::of(run.status()).is_some_and(|occasion| self.wants(occasion)) {
            self.on_end(task, &run)
        } else if run.status() == Status::Starting && self.wants(Occasion::Silent) {
            self.on_start(task, &run)
        } else {
            Ok(Verdict::Done)
        }
    }

    /// A run has ended: is that new, and what is there to tell?
    fn on_end(&mut self, task: &Task, run: &Run) -> Result<Verdict, Stop> {
        let mut earlier: Vec<Received> = Vec::new();
        let kinds = if run.status() == Status::Killed {
            vec![Kind::Status, Kind::Heartbeat]
        } else {
            vec![Kind::Status]
        };
        let subjects = kinds.into_iter().flat_map(|kind| self.source.filters_of(run, Some(kind))).collect();
        self.source.history(subjects, Start::First, |message| {
            // What came later does not count: it has a notice of its own.
            if message.stored <= task.message.stored {
                earlier.push(message.clone());
            }
            Ok(())
        })?;
        // Subjects are read side by side.
        earlier.sort_by_key(|message| message.stored);
        let (mut runs, mut news) = (self.source.runs(), None);
        for message in &earlier {
            news = runs.hear(message, self.source.now());
        }
        // `replay` may have sent it once more.
        let Some(run) = news.filter(|news| news.is_end).and_then(|news| runs.get(news.run)) else {
            return Ok(Verdict::Done);
        };
        let whole = self.source.whole(run)?;
        if run.status() == Status::Successful && whole.recap.changed == 0 {
            return Ok(Verdict::Done);
        }
        Ok(self.post(task, &whole))
    }

    /// A run has begun: is it still heard of?
    fn on_start(&mut self, task: &Task, run: &Run) -> Result<Verdict, Stop> {
        let mut runs = self.source.runs();
        let statuses = self.source.filters_of(run, Some(Kind::Status));
        let last_words = self.source.filters_of(run, None);
        for (subjects, from) in [(statuses, Start::First), (last_words, Start::Last)] {
            self.source.take_in(&mut runs, subjects, from)?;
        }
        let Some(run) = same_run(&runs, run).filter(|run| !run.is_over()) else {
            return Ok(Verdict::Done);
        };
        if let Some(left) = run.silent_in(self.source.now(), self.arguments.silent_after) {
            return Ok(Verdict::Again(left));
        }
        let whole = self.source.whole(run)?;
        Ok(self.post(task, &whole))
    }

    fn post(&mut self, task: &Task, run: &Run) -> Verdict {
        let now = self.source.now();
        let silent_after = self.arguments.silent_after;
        let base = self.arguments.link.as_deref().map(|base| base.trim_end_matches('/'));
        let link = base.map(|base| format!("{base}{}", address_of(run)));
        let id = format!("{}-{}", task.stream, task.number);
        let notice = Notice::new(id, run, link, now, silent_after);
        let what = format!("{}: {}", printable(&run.ident), run.state(now, silent_after).as_str());
        let posted = match notice.body(self.arguments.format) {
            Ok(body) => self.receiver.post(notice.id(), &body),
            Err(error) => Err(error.to_string()),
        };
        match posted {
            Ok(()) => {
                remark(&format!("{what}: told at {}", in_utc(now)));
                Verdict::Done
            }
            Err(reason) => {
                let verdict = self.later(task);
                let again = match verdict {
                    Verdict::Again(pause) => pause.as_secs(),
                    Verdict::Done => 0,
                };
                complain(&format!(
                    "{what}: {} did not take it: {reason}; again in {again} s",
                    self.receiver.place()
                ));
                verdict
            }
        }
    }
}
