//! `replay`: publishes what is missing of runs, as the live run would have.

mod destination;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use self::destination::{Destinations, in_doubt};
use super::{
    Exit,
    options::{Options, given_in, settings_of},
    terminal::{Tone, complain, printable, remark, stdout},
};
use crate::{
    config::{Config, Connection, Delivery},
    files,
    journal::{Folder, Found, SHELTER, spill_files_in},
    message::Message,
    nats::{Courier, Held, block_on, held},
    outbox::Run,
    recovery::{Decision, Given, Plan, Sent, Wish},
    report::Level,
};

/// Publish what is missing of runs: what could not be delivered, or what a killed run had no time for.
///
/// Goes by the records that runs leave (nats-run.json), and asks the stream first what it holds: what is missing is
/// sent, by counter, and nothing else. Same subjects, headers and message ids as the live run's, confirmed like those.
/// Spill files are removed when all of them is confirmed; what is interrupted or refused stays in them. A run that goes
/// on is left alone, and so is one without a record, unless it is named itself.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Private data directories or spools with all their runs, artifact directories, or files of messages
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Show what would be sent and why, and send nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Whatever the records say, and also of runs without one: all that the stream does not hold
    #[arg(short, long)]
    all: bool,
    /// Send to the servers of the options, though the records say others
    #[arg(long)]
    elsewhere: bool,
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
    // Whoever names a link means what it leads to; below that none is followed.
    let is_link = path.is_symlink() || path.parent().is_some_and(Path::is_symlink);
    let named = is_link.then(|| fs::canonicalize(path).ok()).flatten();
    let (plans, settings) = plans_of(named.as_deref().unwrap_or(path), arguments.all)?;
    let destinations = Destinations::new(arguments, settings);
    let is_one = plans.len() == 1;
    if plans.is_empty() {
        say(|out| writeln!(out, "{}: nothing to send: it is empty", printable(&path.display().to_string())));
    }
    // One courier for all runs that go to the same servers.
    let mut replays: Vec<(Connection, Replay<'_>)> = Vec::new();
    let mut exit = Exit::Success;
    for (folder, decision) in plans {
        let shown = printable(&folder.display().to_string());
        // Of a run that is whole by its record: how that is said.
        let (mut plan, is_whole) = match decision {
            Err(reason) if is_one => return Err(reason.into()),
            // The others can be told and sent all the same.
            Err(reason) => {
                complain(&printable(&format!("{shown}: {reason}")));
                exit = exit.worse(Exit::Problem);
                continue;
            }
            Ok(Decision::Send(plan)) => (plan, None),
            Ok(Decision::Verify(plan, why)) => (plan, Some(why)),
            Ok(Decision::Nothing(why)) => {
                say(|out| writeln!(out, "{shown}: nothing to send: {why}"));
                continue;
            }
            Ok(Decision::LeftAlone(why)) => {
                say(|out| writeln!(out, "{}", Tone::Faint.paint(&format!("{shown}: left alone: {why}"))));
                continue;
            }
        };
        if let Some(objection) = destinations.objection(&plan) {
            complain(&printable(&format!("{shown}: {objection}")));
            exit = exit.worse(Exit::Problem);
            continue;
        }
        let config = destinations.config_for(&plan)?;
        if let Some(why) = is_whole {
            match in_doubt(&config, &plan) {
                Ok(None) => {
                    say(|out| writeln!(out, "{shown}: nothing to send: {why}"));
                    continue;
                }
                Ok(Some(doubt)) => plan.why = doubt,
                Err(reason) => {
                    let reason = format!("whether the stream still has them cannot be told: {reason}");
                    say(|out| writeln!(out, "{shown}: nothing to send: {why}; {}", printable(&reason)));
                    continue;
                }
            }
        }
        plan.list(&config)?;
        let at = replays.iter().position(|(connection, _)| *connection == config.connection);
        let at = at.unwrap_or_else(|| {
            replays.push((config.connection.clone(), Replay::new(arguments, &config, interrupted)));
            replays.len() - 1
        });
        let Some((_, replay)) = replays.get_mut(at) else { continue };
        exit = exit.worse(replay.send_plan(&shown, &config, *plan)?);
        if replay.has_to_stop() {
            break;
        }
    }
    Ok(exit)
}

/// Says something. If nobody reads it any more (`| head`), what is to be sent is sent all the same.
fn say(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) {
    let _ = stdout(write);
}

type Decided = (PathBuf, Result<Decision, String>);

/// What is to be replayed of a path, run by run, and the settings that go with it.
fn plans_of(path: &Path, all: bool) -> Result<(Vec<Decided>, Map<String, Value>), String> {
    if path.is_file() {
        let plan = Plan::of_file(path).map(|plan| Decision::Send(Box::new(plan)));
        // Its name is part of what the user reads then.
        let plan = plan.map_err(|reason| format!("{} {reason}", path.display()));
        return Ok((vec![(path.to_owned(), plan)], Map::new()));
    }
    if !path.is_dir() {
        return Err("no such file or directory".to_owned());
    }
    let decide = |folder: &Path, named: bool| {
        let wish = Wish { named, all, beside_live: false, given: Given::Files(given_in) };
        (folder.to_owned(), Plan::of_folder(folder, &wish))
    };
    if path.join("job_events").is_dir() {
        // The settings are those of the private data directory around it, if there is one.
        let around = path.parent().and_then(Path::parent).filter(|folder| folder.join("env").is_dir());
        return Ok((vec![decide(path, true)], around.map(settings_of).transpose()?.unwrap_or_default()));
    }
    let artifacts = path.join("artifacts");
    if artifacts.is_dir() {
        // `ansible-runner process` has one run, whose files are in this folder itself.
        let own = has_something(&artifacts) || artifacts.join("job_events").is_dir();
        let mut decided: Vec<Decided> = own.then(|| decide(&artifacts, false)).into_iter().collect();
        let is_run = |folder: &PathBuf| folder.join("job_events").is_dir() || has_something(folder);
        decided.extend(
            folders_in(&artifacts)?
                .iter()
                .filter(|folder| is_run(folder))
                .map(|folder| decide(folder, false)),
        );
        // What runs with `rotate_artifacts` have left.
        let shelter = path.join(SHELTER);
        if files::is_folder(&shelter) {
            let folders = folders_in(&shelter)?;
            decided.extend(
                folders.iter().filter(|folder| has_something(folder)).map(|folder| decide(folder, false)),
            );
        }
        return Ok((decided, settings_of(path)?));
    }
    // A spool, or a run's folder in one.
    let mut decided: Vec<Decided> = has_something(path).then(|| decide(path, true)).into_iter().collect();
    decided.extend(
        folders_in(path)?.iter().filter(|folder| has_something(folder)).map(|folder| decide(folder, false)),
    );
    if decided.is_empty() && folders_in(path)?.iter().any(|folder| !is_empty(folder)) {
        return Err("no spill file, artifact directory, spool or private data directory".to_owned());
    }
    Ok((decided, Map::new()))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn has_something(folder: &Path) -> bool {
    !spill_files_in(folder).is_empty() || !Found::all_in(folder).is_empty()
}

/// The folders in a folder, the oldest first.
fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut folders: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(folder)
        .map_err(|error| error.to_string())?
        .flatten()
        .filter(|entry| files::is_folder(&entry.path()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    folders.sort();
    Ok(folders.into_iter().map(|(_, folder)| folder).collect())
}

struct Replay<'a> {
    dry_run: bool,
    all: bool,
    /// Between two messages.
    pause: Option<Duration>,
    next: Instant,
    pending_size: usize,
    flush_timeout: Duration,
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
    fates: Sent,
}

/// How many of the first messages of a plan the stream does not hold, though it has confirmed all: a repeat of what was
/// deleted a short while ago is dropped, and confirmed.
fn forgotten(config: &Config, plan: &Plan, sent: usize) -> u64 {
    let Ok(Ok(Some(Held { ids, .. }))) = block_on(held(&config.connection, &plan.subjects())) else {
        return 0;
    };
    let forgotten = plan.items.iter().take(sent).filter(|item| !ids.contains_key(&item.id)).count() as u64;
    if forgotten > 0 {
        complain(&format!(
            "{forgotten} messages are not in the stream, which has dropped them as repeats of what was deleted from it: \
             call replay once more when its duplicate window is over"
        ));
    }
    forgotten
}

impl<'a> Replay<'a> {
    fn new(arguments: &Arguments, config: &Config, interrupted: &'a AtomicBool) -> Self {
        Self {
            dry_run: arguments.dry_run,
            all: arguments.all,
            pause: arguments.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: Instant::now(),
            pending_size: config.connection.pending_size,
            flush_timeout: config.flush_timeout,
            courier: Courier::new(config.connection.clone()),
            seen: 0,
            interrupted,
            stalled: false,
        }
    }

    fn has_to_stop(&self) -> bool {
        self.stalled || self.interrupted.load(Relaxed)
    }

    fn send_plan(&mut self, shown: &str, config: &Config, mut plan: Plan) -> Result<Exit, Failure> {
        let is_file = plan.path.is_file();
        for file in &plan.files {
            let name = printable(&file.path.display().to_string());
            if file.bad > 0 && plan.items.is_empty() && is_file {
                return Err(Failure::Said(format!(
                    "{name} is no spill file of this plugin: no line of it is a message"
                )));
            }
            if file.bad > 0 {
                complain(&format!("{name}: {} lines are no messages; they stay there", file.bad));
            }
        }
        for text in &plan.bad {
            complain(&printable(text));
        }
        if plan.others > 0 {
            remark(&format!(
                "{}: {} events there are of other runs of that ident, and are left alone",
                printable(&plan.path.display().to_string()),
                plan.others
            ));
        }
        let held = self.leave_out_held(config, &mut plan)?;
        if self.dry_run {
            show(shown, config, &plan, held)?;
        }
        let is_bad = plan.bad_lines() > 0 || !plan.bad.is_empty();
        let exit = if is_bad { Exit::Problem } else { Exit::Success };
        if self.dry_run {
            return Ok(exit);
        }
        // What is not confirmed goes into the first spill file; without one it is in the artifacts.
        let folder = plan.files.first().and_then(|file| file.path.parent());
        let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        let folder = Folder::of(folder.map(Path::to_owned));
        let run = Run::unrecorded(shown, folder, self.flush_timeout);
        let bar = self.begin(&run, plan.items.len() as u64, shown);
        let mut composer = plan.composer(config);
        let mut sent = 0;
        for item in &plan.items {
            if self.has_to_stop() {
                break;
            }
            if let Some(message) = plan.read(item, config, &mut composer) {
                self.send(&run, message, &bar);
            }
            sent += 1;
        }
        let words =
            if sent == plan.items.len() { plan.last_words(config, SystemTime::now()) } else { Vec::new() };
        let said = words.len() as u64;
        for message in words {
            self.send(&run, message, &bar);
        }
        let mut outcome = self.end(&run, &bar);
        let forgotten = if run.has_repeats() { forgotten(config, &plan, sent) } else { 0 };
        outcome.unsure += forgotten;
        outcome.left += forgotten;
        outcome.fates = std::mem::take(&mut outcome.fates).without(said + forgotten);
        outcome.confirmed = outcome.fates.stored + outcome.fates.routed;
        let (left, fate) = if outcome.unsure > 0 {
            // What became of these is not known: all of it stays.
            for spilled in &outcome.files {
                fs::remove_file(spilled).map_err(|error| error.to_string())?;
            }
            (outcome.left, "left as it is".to_owned())
        } else {
            let left = plan.settle(sent, &outcome.files, outcome.left, &outcome.fates)?;
            let fate = match (left, is_file) {
                (0, true) => "removed".to_owned(),
                (0, false) => "nothing is left to send".to_owned(),
                (left, true) => format!("{left} lines are left in it"),
                (left, false) => format!("{left} are left"),
            };
            (left, fate)
        };
        let already = if held > 0 { format!(", {held} were in the stream already") } else { String::new() };
        Ok(self.summary(shown, &outcome, &already, left == 0, &fate).worse(exit))
    }

    /// Leaves out what the stream holds already; says how many messages that are.
    fn leave_out_held(&self, config: &Config, plan: &mut Plan) -> Result<u64, Failure> {
        if plan.items.is_empty() || config.connection.delivery == Delivery::Core {
            return Ok(0);
        }
        let found =
            block_on(held(&config.connection, &plan.subjects())).map_err(|error| error.to_string())?;
        Ok(match found {
            Ok(Some(Held { ids, horizon })) => {
                if plan.learn_identity(&ids) {
                    plan.list(config)?;
                }
                let (held, gone) = plan.leave_out(&ids, horizon.filter(|_| !self.all));
                if gone > 0 {
                    remark(&format!(
                        "{gone} events are older than what the stream keeps: they are not sent again (--all sends them)"
                    ));
                }
                held
            }
            Ok(None) => {
                complain(
                    "no stream takes these messages: what was delivered before cannot be told from what was not",
                );
                0
            }
            Err(reason) => {
                complain(&printable(&config.hidden(format!(
                    "cannot ask the stream what it holds ({reason}): it drops repeats within its duplicate window only"
                ))));
                0
            }
        })
    }

    fn begin(&self, run: &Arc<Run>, total: u64, name: &str) -> ProgressBar {
        // As wide as the terminal, in one line: of a long path the end tells most.
        const NAME: usize = 24;
        let length = name.chars().count();
        let name: String = if length > NAME {
            "…".chars().chain(name.chars().skip(length - NAME + 1)).collect()
        } else {
            name.to_owned()
        };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta:>4}");
        // Nothing of it is shown where there is no terminal.
        let bar = ProgressBar::new(total).with_message(name);
        self.courier.open(run, None);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// Hands a message over when there is room for it, and its time has come.
    fn send(&mut self, run: &Arc<Run>, message: Message, bar: &ProgressBar) {
        let mut progress = Progress::new(self.patience());
        let limit = self.pending_size / 2;
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
        let (record, error) = self.courier.finish(run, Instant::now(), &mut || true);
        self.listen(run, bar);
        bar.finish_and_clear();
        if let Some(error) = error {
            complain(&printable(&error.to_string()));
        }
        if record.unproven > 0 {
            complain("the server lets nothing be confirmed: see `ansible-runner-nats check`");
        }
        let unsure = record.lost + record.unproven;
        let left = record.undelivered + unsure;
        let fates = Sent::of(run);
        Outcome { confirmed: record.confirmed, left, unsure, files: record.files, fates }
    }

    fn summary(&self, name: &str, outcome: &Outcome, already: &str, done: bool, fate: &str) -> Exit {
        let confirmed = outcome.confirmed;
        let line = format!("{name}: {confirmed} messages confirmed{already}; {fate}");
        say(|out| writeln!(out, "{}", if done { line } else { Tone::Odd.paint(&line) }));
        if self.stalled {
            complain("nothing was confirmed for a while: giving up (flush_timeout says how long)");
        }
        if done { Exit::Success } else { Exit::Problem }
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
        self.flush_timeout * 3
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

/// What would be sent, by subject, and why.
fn show(name: &str, config: &Config, plan: &Plan, held: u64) -> Result<(), Failure> {
    let mut composer = plan.composer(config);
    let mut subjects: Vec<(Arc<str>, u64, u64)> = Vec::new();
    for item in &plan.items {
        let size = plan.read(item, config, &mut composer).map_or(0, |message| message.payload.len() as u64);
        match subjects.iter_mut().find(|(subject, ..)| *subject == item.subject) {
            Some((_, count, bytes)) => {
                *count += 1;
                *bytes += size;
            }
            None => subjects.push((Arc::clone(&item.subject), 1, size)),
        }
    }
    stdout(|out| {
        writeln!(out, "{}: {}", Tone::Strong.paint(name), printable(&plan.why))?;
        for (subject, count, bytes) in &subjects {
            writeln!(out, "  {count:>8} messages {bytes:>12} bytes  {}", printable(subject))?;
        }
        if held > 0 {
            writeln!(out, "  {held:>8} more are in the stream already")?;
        }
        let servers: Vec<&str> =
            config.connection.servers.iter().map(|server| server.address.as_str()).collect();
        writeln!(out, "  would go to {}", servers.join(", "))
    })?;
    Ok(())
}
