//! `replay`: publishes what is on disk as the live run would have.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Map;

use super::{
    Exit,
    options::{Options, settings_of},
    recorded::Recorded,
    terminal::{Tone, complain, printable, stdout},
};
use crate::{config::Config, courier::Courier, message::Message, outbox::Run, report::Level, spill::Spill};

/// Publish what is on disk: what could not be delivered, or a whole run from its artifacts.
///
/// Same subjects, headers and message ids as the live run's, confirmed like those, so that a stream does not get
/// an event twice (within its duplicate window). A spill file is removed when all of it is confirmed; what is
/// interrupted or refused stays in it. From an artifact directory come the events by counter, then the statuses.
/// Of a run that ended properly and left a spill file, only that is sent: the rest was confirmed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Spill files (nats-undelivered.jsonl), artifact directories, or private data directories with all their runs
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Show what would be sent, and send nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Most messages per second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    options: Options,
}

/// `100` or `100/s`.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "expected a number such as 100".to_owned())
}

/// Something to replay.
enum Source {
    /// A spill file: its messages as they are.
    File(PathBuf),
    /// A run's artifacts, and the spill files among them.
    Run(Recorded, Vec<PathBuf>),
}

pub(super) fn run(arguments: &Arguments) -> io::Result<Exit> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut exit = Exit::Success;
    for path in &arguments.paths {
        match replay(arguments, path, &interrupted) {
            Ok(one) => exit = exit.worse(one),
            Err(Failure::Said(text)) => {
                complain(&printable(&format!("{}: {text}", path.display())));
                exit = Exit::Problem;
            }
            Err(Failure::Output(error)) => return Err(error),
        }
        if interrupted.load(Relaxed) {
            complain("interrupted: what is not confirmed is still on disk; run it again to go on");
            return Ok(Exit::Interrupted);
        }
    }
    Ok(exit)
}

enum Failure {
    /// To be told.
    Said(String),
    /// Nobody listens.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Said(text)
    }
}

fn replay(arguments: &Arguments, path: &Path, interrupted: &AtomicBool) -> Result<Exit, Failure> {
    let (sources, settings) = sources_of(path)?;
    // A spill file has its subjects; for those that have not, the subject id must be the live run's.
    let needs_id = sources.iter().any(|source| matches!(source, Source::Run(..)));
    let resolution = arguments.options.resolve(settings, (!needs_id).then_some("replay"));
    for problem in &resolution.problems {
        complain(&printable(problem));
    }
    let Some(config) = resolution.config else {
        let reason =
            "the run's subject id is needed (RUNNER_NATS_SUBJECT_ID, or nats_subject_id in env/settings)";
        return Err(Failure::Said(
            if resolution.problems.is_empty() { reason } else { "the options are wrong" }.to_owned(),
        ));
    };
    if sources.is_empty() {
        stdout(|out| writeln!(out, "{}: nothing to replay", printable(&path.display().to_string())))?;
        return Ok(Exit::Success);
    }
    let mut replay = Replay::new(arguments, &config, interrupted);
    let mut exit = Exit::Success;
    for source in sources {
        exit = exit.worse(match source {
            Source::File(path) => replay.file(&path)?,
            Source::Run(recorded, spills) => replay.recorded(&recorded, &spills)?,
        });
        if replay.has_to_stop() {
            break;
        }
    }
    Ok(exit)
}

/// What is to be replayed of a path, and the settings that go with it.
fn sources_of(path: &Path) -> Result<(Vec<Source>, Map<String, serde_json::Value>), String> {
    if path.is_file() {
        return Ok((vec![Source::File(path.to_owned())], Map::new()));
    }
    let sources = |folder: &Path| {
        let spills = spills_of(folder);
        match Recorded::open(folder) {
            // It ended by itself, and all but this was confirmed.
            Some(recorded) if recorded.has_ended() && !spills.is_empty() => {
                drop(recorded);
                spills.into_iter().map(Source::File).collect()
            }
            Some(recorded) => vec![Source::Run(recorded, spills)],
            None => spills.into_iter().map(Source::File).collect::<Vec<_>>(),
        }
    };
    if path.join("job_events").is_dir() {
        // The settings are those of the private data directory around it, if there is one.
        let around = path.parent().and_then(Path::parent).filter(|folder| folder.join("env").is_dir());
        return Ok((sources(path), around.map(settings_of).transpose()?.unwrap_or_default()));
    }
    if path.join("artifacts").is_dir() {
        let mut runs: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(path.join("artifacts"))
            .map_err(|error| error.to_string())?
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        runs.sort();
        return Ok((runs.iter().flat_map(|(_, folder)| sources(folder)).collect(), settings_of(path)?));
    }
    if path.is_dir() {
        let found = sources(path);
        if found.is_empty() {
            return Err("no spill file, artifact directory or private data directory".to_owned());
        }
        return Ok((found, Map::new()));
    }
    Err("no such file or directory".to_owned())
}

/// The spill files in a folder, the oldest name first.
fn spills_of(folder: &Path) -> Vec<PathBuf> {
    let is_spill = |name: &str| {
        let stem = name.strip_suffix(".jsonl").unwrap_or_default();
        ["nats-overflow", "nats-undelivered"].into_iter().any(|known| {
            stem.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_spill))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

struct Replay<'a> {
    dry_run: bool,
    /// Between two messages.
    pause: Option<Duration>,
    next: Instant,
    config: &'a Config,
    courier: Arc<Courier>,
    seen: u64,
    interrupted: &'a AtomicBool,
    stalled: bool,
}

/// What became of the messages of one source.
#[derive(Default)]
struct Outcome {
    confirmed: u64,
    left: u64,
    /// Of those left, what is in none of the files.
    unsure: u64,
    /// Where what was not confirmed went.
    files: Vec<PathBuf>,
}

impl<'a> Replay<'a> {
    fn new(arguments: &Arguments, config: &'a Config, interrupted: &'a AtomicBool) -> Self {
        Self {
            dry_run: arguments.dry_run,
            pause: arguments.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: Instant::now(),
            config,
            courier: Courier::new(config.connection.clone()),
            seen: 0,
            interrupted,
            stalled: false,
        }
    }

    fn has_to_stop(&self) -> bool {
        self.stalled || self.interrupted.load(Relaxed)
    }

    /// A spill file. What is not confirmed takes its place.
    fn file(&mut self, path: &Path) -> Result<Exit, Failure> {
        let shown = printable(&path.display().to_string());
        let fail = |error: io::Error| Failure::Said(error.to_string());
        let file = File::options().read(true).append(true).open(path).map_err(fail)?;
        if file.try_lock().is_err() {
            return Err(Failure::Said(format!("{shown} is still being written by a run; it is left alone")));
        }
        let (good, bad) = count(&file).map_err(fail)?;
        if good == 0 && bad > 0 {
            return Err(Failure::Said(format!(
                "{shown} is no spill file of this plugin: no line of it is a message"
            )));
        }
        if bad > 0 {
            complain(&format!("{shown}: {bad} lines are no messages; they stay there"));
        }
        if self.dry_run {
            let subjects = lines(&file).map_err(fail)?.filter_map(|line| readable(&line.ok()?));
            self.show(&shown, subjects)?;
            return Ok(if bad > 0 { Exit::Problem } else { Exit::Success });
        }
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let run = Run::new(shown.clone(), Spill::new(Some(folder.to_owned())), self.config.flush_timeout);
        let bar = self.begin(&run, good, &shown);
        let mut sent = 0;
        for line in lines(&file).map_err(fail)? {
            if self.has_to_stop() {
                break;
            }
            if let Some(message) = readable(&line.map_err(fail)?) {
                self.send(&run, message, &bar);
                sent += 1;
            }
        }
        let outcome = self.end(&run, &bar);
        let left = bad + (good - sent) + outcome.left;
        let fate = if left == 0 {
            fs::remove_file(path).map_err(fail)?;
            "removed".to_owned()
        } else if outcome.unsure > 0 {
            // What became of these is not known: all of it stays.
            "left as it is".to_owned()
        } else {
            shrink(path, &file, &outcome.files, sent).map_err(fail)?;
            format!("{left} lines are left in it")
        };
        for spilled in &outcome.files {
            fs::remove_file(spilled).map_err(fail)?;
        }
        self.summary(&shown, &outcome, left == 0, &fate)
    }

    /// A run from its artifacts, and what was spilled of it.
    fn recorded(&mut self, recorded: &Recorded, spills: &[PathBuf]) -> Result<Exit, Failure> {
        let shown = printable(&recorded.folder.display().to_string());
        let fail = |error: io::Error| Failure::Said(error.to_string());
        // Statuses have ids that only the live run knew.
        let mut spilled: Vec<Message> = Vec::new();
        for path in spills {
            let file = File::options().read(true).append(true).open(path).map_err(fail)?;
            if file.try_lock().is_err() {
                return Err(Failure::Said(format!(
                    "{} is still being written; the run is left alone",
                    path.display()
                )));
            }
            spilled.extend(lines(&file).map_err(fail)?.filter_map(|line| readable(&line.ok()?)));
        }
        let spilled_ids: HashSet<Arc<str>> = spilled.iter().map(|message| Arc::clone(&message.id)).collect();
        let mut bad = Vec::new();
        let messages = recorded.messages(self.config, &mut bad);
        let known = |message: &Message| spilled_ids.contains(&message.id);
        let all = messages.filter(|message| !known(message)).chain(spilled.iter().cloned());
        if self.dry_run {
            self.show(&shown, all)?;
        } else {
            let run = Run::new(shown.clone(), Spill::new(None), self.config.flush_timeout);
            let bar = self.begin(&run, recorded.count() as u64 + spilled.len() as u64, &shown);
            for message in all {
                if self.has_to_stop() {
                    break;
                }
                self.send(&run, message, &bar);
            }
            let stopped = self.has_to_stop();
            let outcome = self.end(&run, &bar);
            let done = outcome.left == 0 && !stopped && !self.has_to_stop();
            if done {
                for path in spills {
                    fs::remove_file(path).map_err(fail)?;
                }
            }
            let fate = if done { "all of it" } else { "not all of it: run it again" };
            self.summary(&shown, &outcome, done, fate)?;
            if !done {
                return Ok(Exit::Problem);
            }
        }
        for text in &bad {
            complain(&printable(text));
        }
        Ok(if bad.is_empty() { Exit::Success } else { Exit::Problem })
    }

    fn show(&self, name: &str, messages: impl Iterator<Item = Message>) -> Result<(), Failure> {
        let mut subjects: Vec<(Arc<str>, u64, u64)> = Vec::new();
        for message in messages {
            let size = message.payload.len() as u64;
            match subjects.iter_mut().find(|(subject, ..)| *subject == message.subject) {
                Some((_, count, bytes)) => {
                    *count += 1;
                    *bytes += size;
                }
                None => subjects.push((message.subject, 1, size)),
            }
        }
        stdout(|out| {
            writeln!(out, "{}", Tone::Strong.paint(name))?;
            for (subject, count, bytes) in &subjects {
                writeln!(out, "  {count:>8} messages {bytes:>12} bytes  {}", printable(subject))?;
            }
            let servers: Vec<&str> =
                self.config.connection.servers.iter().map(|server| server.address.as_str()).collect();
            writeln!(out, "  would go to {}", servers.join(", "))
        })?;
        Ok(())
    }

    fn begin(&self, run: &Arc<Run>, total: u64, name: &str) -> ProgressBar {
        self.courier.outbox.open(run);
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {per_sec}, {eta} left");
        // Nothing of it is shown where there is no terminal.
        let bar = ProgressBar::new(total).with_message(name.to_owned());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// Hands a message over when there is room for it, and its time has come.
    fn send(&mut self, run: &Arc<Run>, message: Message, bar: &ProgressBar) {
        let mut progress = Progress::new(self.patience());
        let limit = self.config.connection.pending_size / 2;
        while self.courier.outbox.bytes() > limit {
            self.listen(run, bar);
            if self.interrupted.load(Relaxed) {
                break;
            }
            if progress.is_stalled(confirmed(run)) {
                self.stalled = true;
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        if let Some(pause) = self.pause {
            let now = Instant::now();
            thread::sleep(self.next.saturating_duration_since(now));
            self.next = self.next.max(now) + pause;
        }
        // What the disk did not take is counted, and told at the end.
        let _ = self.courier.accept(run, message, true);
        self.listen(run, bar);
    }

    /// Waits until all is confirmed, or nothing has been for a while.
    fn end(&mut self, run: &Arc<Run>, bar: &ProgressBar) -> Outcome {
        let mut progress = Progress::new(self.patience());
        while !self.courier.outbox.wait_settled(run, Instant::now() + Duration::from_millis(50)) {
            self.courier.ensure_started();
            self.listen(run, bar);
            if self.interrupted.load(Relaxed) || self.courier.outbox.is_given_up() {
                break;
            }
            if progress.is_stalled(confirmed(run)) {
                self.stalled = true;
                break;
            }
        }
        let (report, error) = self.courier.finish(run, Instant::now(), &mut || true);
        self.listen(run, bar);
        bar.finish_and_clear();
        if let Some(error) = error {
            complain(&printable(&error.to_string()));
        }
        if report.unproven > 0 {
            complain("the server lets nothing be confirmed: see `ansible-runner-nats check`");
        }
        let unsure = report.dropped + report.unproven;
        let left = report.spilled + unsure;
        Outcome { confirmed: report.stored + report.routed, left, unsure, files: report.files }
    }

    fn summary(&self, name: &str, outcome: &Outcome, done: bool, fate: &str) -> Result<Exit, Failure> {
        let confirmed = outcome.confirmed;
        let line = format!("{name}: {confirmed} messages confirmed; {fate}");
        stdout(|out| writeln!(out, "{}", if done { line } else { Tone::Odd.paint(&line) }))?;
        if self.stalled {
            complain("nothing was confirmed for a while: giving up (flush_timeout says how long)");
        }
        Ok(if done { Exit::Success } else { Exit::Problem })
    }

    /// Shows how far it is, and what the background has to say.
    fn listen(&mut self, run: &Run, bar: &ProgressBar) {
        bar.set_position(confirmed(run));
        if !self.courier.notices.has_news(self.seen) {
            return;
        }
        let (news, seen) = self.courier.notices.since(self.seen);
        self.seen = seen;
        for notice in news.iter().filter(|notice| notice.level >= Level::Warning) {
            bar.suspend(|| complain(&printable(&notice.text)));
        }
    }

    /// How long nothing may be confirmed.
    fn patience(&self) -> Duration {
        self.config.flush_timeout * 3
    }
}

/// Sees whether anything moves.
struct Progress {
    patience: Duration,
    last: u64,
    since: Instant,
}

impl Progress {
    fn new(patience: Duration) -> Self {
        Self { patience, last: u64::MAX, since: Instant::now() }
    }

    fn is_stalled(&mut self, now: u64) -> bool {
        if now != self.last {
            self.last = now;
            self.since = Instant::now();
        }
        self.since.elapsed() > self.patience
    }
}

fn confirmed(run: &Run) -> u64 {
    run.counters.stored.load(Relaxed) + run.counters.routed.load(Relaxed)
}

/// Leaves in a spill file what was not confirmed (it is in `unconfirmed` now), what is no message, and what comes
/// after the first `sent` messages.
fn shrink(path: &Path, file: &File, unconfirmed: &[PathBuf], sent: u64) -> io::Result<()> {
    let rest = path.with_extension("jsonl.rest");
    let _ = fs::remove_file(&rest);
    let mut kept = File::options().write(true).create_new(true).mode(0o600).open(&rest)?;
    for spilled in unconfirmed {
        io::copy(&mut File::open(spilled)?, &mut kept)?;
    }
    let mut good = 0;
    for line in lines(file)? {
        let line = line?;
        let is_good = readable(&line).is_some();
        good += u64::from(is_good);
        if !is_good || good > sent {
            kept.write_all(&line)?;
        }
    }
    kept.sync_all()?;
    fs::rename(&rest, path)
}

/// The message in a line, if it is one that can be sent.
fn readable(line: &[u8]) -> Option<Message> {
    Message::from_line(line).filter(Message::is_sendable)
}

/// Good and bad lines.
fn count(file: &File) -> io::Result<(u64, u64)> {
    let mut found = (0, 0);
    for line in lines(file)? {
        if readable(&line?).is_some() {
            found.0 += 1;
        } else {
            found.1 += 1;
        }
    }
    Ok(found)
}

/// The lines of a file from its beginning, each with its end.
fn lines(file: &File) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    use std::io::Seek;
    let mut file = file.try_clone()?;
    file.rewind()?;
    let mut reader = BufReader::new(file);
    Ok(std::iter::from_fn(move || {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }))
}
