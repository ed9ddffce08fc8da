//! What the commands that read runs have in common: from where they read, the one loop over what is heard, and how a run
//! is found by its name.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    options::Options,
    stop::Stop,
    terminal::{complain, printable},
};
use crate::{
    config::Connection,
    harmless::one_line,
    message::{Kind, Received, RunId, Template, in_utc, start_of},
    nats::{Handed, Heard, Start, Tasks, Wish, hand_out, listen},
    runs::{Run, RunKey, Runs},
    secret::Masks,
};

/// Where runs are read from.
pub(super) struct Source {
    connection: Connection,
    masks: Masks,
    template: Template,
    /// Ctrl-C, or SIGTERM.
    interrupted: Arc<AtomicBool>,
    /// By how much the server's clock is ahead of ours, in milliseconds.
    ahead: AtomicI64,
}

/// What is heard waits here for whoever shows it; more only if nobody does.
const WAITING: usize = 100_000;
/// How often a waiting command looks whether it was interrupted.
pub(super) const LOOK_UP: Duration = Duration::from_millis(100);

/// What a reader is told.
pub(super) enum Told {
    /// There is a connection; from these streams it reads.
    Connected {
        server: String,
        streams: Vec<String>,
    },
    Message(Received),
    /// All that streams had kept was told.
    CaughtUp,
    /// There is no connection: why, as it may be shown. It is tried again.
    Lost(String),
    /// Nothing came until the time that was asked for.
    Nothing,
}

/// What a reader wants after that.
pub(super) enum Next<T> {
    /// To be told more; at this time at the latest that there is nothing.
    More(Option<Instant>),
    /// That is it.
    Enough(T),
}

impl Source {
    /// By the plugin's own options.
    pub(super) fn open(options: &Options) -> Result<Self, Stop> {
        let config = options.config("watch").ok_or(Stop::Said)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self {
            connection: config.connection,
            masks: config.redaction.masks,
            template: config.subject,
            interrupted,
            ahead: AtomicI64::new(0),
        })
    }

    /// What time it is: by the server's clock, once it has said so. Ours may be hours off, and messages have its time.
    pub(super) fn now(&self) -> SystemTime {
        let ours = SystemTime::now();
        let ahead = self.ahead.load(Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        let now = if ahead < 0 { ours.checked_sub(by) } else { ours.checked_add(by) };
        now.unwrap_or(ours)
    }

    /// The server has said what time it is.
    pub(super) fn learn(&self, now: Option<SystemTime>) {
        let Some(theirs) = now else { return };
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(0);
        let ahead = match theirs.duration_since(SystemTime::now()) {
            Ok(ahead) => millis(ahead),
            Err(behind) => -millis(behind.duration()),
        };
        self.ahead.store(ahead, Relaxed);
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// What a server says may repeat what we told it.
    pub(super) fn hide(&self, text: String) -> String {
        printable(&self.masks.hidden(text))
    }

    /// Where messages are published.
    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    /// For runs that are heard of here.
    pub(super) fn runs(&self) -> Runs {
        Runs::of(&self.template)
    }

    /// The same for who reads on and on: not all are kept.
    pub(super) fn latest_runs(&self) -> Runs {
        const MOST: usize = 5_000;
        self.runs().at_most(MOST)
    }

    /// The filters of messages; see [`Template::filters`].
    pub(super) fn filters(
        &self,
        subject_id: Option<&str>,
        ident: Option<&str>,
        kind: Option<Kind>,
    ) -> Vec<String> {
        self.template.filters(subject_id, ident, kind)
    }

    /// The filters of all messages of one run.
    pub(super) fn filters_of(&self, run: &Run, kind: Option<Kind>) -> Vec<String> {
        let subject_id = Some(run.subject_id.as_str()).filter(|id| !id.is_empty());
        self.filters(subject_id, Some(&run.ident), kind)
    }

    /// Listens in the background, until nobody wants to know any more or all is told.
    pub(super) fn listen(&self, wish: Wish) -> io::Result<Receiver<Heard>> {
        let (sender, heard) = sync_channel(WAITING);
        self.listen_to(wish, sender)?;
        Ok(heard)
    }

    /// The same, into a channel that there is already.
    pub(super) fn listen_to(&self, wish: Wish, sender: SyncSender<Heard>) -> io::Result<()> {
        let connection = self.connection.clone();
        in_background("listen", async move || listen(&connection, wish, sender).await)
    }

    /// Hands tasks out in the background, until nobody wants them any more.
    pub(super) fn hand_out(&self, tasks: Tasks) -> io::Result<Receiver<Handed>> {
        let (sender, handed) = sync_channel(WAITING);
        let connection = self.connection.clone();
        in_background("tasks", async move || hand_out(&connection, tasks, sender).await)?;
        Ok(handed)
    }

    /// Hands every message that streams have kept of some subjects to `take`. Returns the streams' names.
    pub(super) fn history(
        &self,
        subjects: Vec<String>,
        from: Start,
        take: impl FnMut(&Received) -> Result<(), Stop>,
    ) -> Result<Vec<String>, Stop> {
        self.history_by(WAITING, subjects, from, take)
    }

    /// The same for very many messages: few of them wait, as that takes memory and makes nothing faster.
    pub(super) fn sweep(
        &self,
        subjects: Vec<String>,
        from: Start,
        take: impl FnMut(&Received) -> Result<(), Stop>,
    ) -> Result<Vec<String>, Stop> {
        const AHEAD: usize = 2_000;
        self.history_by(AHEAD, subjects, from, take)
    }

    fn history_by(
        &self,
        ahead: usize,
        subjects: Vec<String>,
        from: Start,
        mut take: impl FnMut(&Received) -> Result<(), Stop>,
    ) -> Result<Vec<String>, Stop> {
        let (sender, heard) = sync_channel(ahead);
        self.listen_to(Wish { subjects, from, follow: false, before: None }, sender)?;
        let mut read = Vec::new();
        self.read(&heard, None, |told| {
            match told {
                Told::Connected { streams, .. } => read = streams,
                Told::CaughtUp => return Ok(Next::Enough(std::mem::take(&mut read))),
                Told::Message(message) => take(&message)?,
                Told::Lost(reason) => complain(&reason),
                Told::Nothing => {}
            }
            Ok(Next::More(None))
        })
    }

    /// The loop over what is heard: tells `take`, until that has enough. `until`: if nothing comes until then, it is told so.
    pub(super) fn read<T>(
        &self,
        heard: &Receiver<Heard>,
        mut until: Option<Instant>,
        mut take: impl FnMut(Told) -> Result<Next<T>, Stop>,
    ) -> Result<T, Stop> {
        // One trouble is told once, however often it is tried again.
        let mut trouble = None;
        loop {
            if self.is_interrupted() {
                return Err(Stop::Interrupted);
            }
            let now = Instant::now();
            let left = until.map_or(LOOK_UP, |until| until.saturating_duration_since(now));
            let told = match heard.recv_timeout(left.min(LOOK_UP)) {
                Ok(Heard::Connected { server, streams, now }) => {
                    self.learn(now);
                    trouble = None;
                    Told::Connected { server: self.hide(server), streams }
                }
                Ok(Heard::Message(message)) => Told::Message(message),
                Ok(Heard::CaughtUp) => Told::CaughtUp,
                Ok(Heard::Lost(reason)) if trouble.as_ref() == Some(&reason) => continue,
                Ok(Heard::Lost(reason)) => {
                    trouble = Some(reason.clone());
                    Told::Lost(self.hide(reason))
                }
                Ok(Heard::Failed(reason)) => return Err(Stop::Problem(self.hide(reason))),
                Ok(Heard::NoStream) => return Err(Stop::NoStream),
                Err(RecvTimeoutError::Disconnected) => return Err(Stop::Said),
                Err(RecvTimeoutError::Timeout) if until.is_some_and(|until| until <= Instant::now()) => {
                    Told::Nothing
                }
                Err(RecvTimeoutError::Timeout) => continue,
            };
            match take(told)? {
                Next::More(next) => until = next,
                Next::Enough(it) => return Ok(it),
            }
        }
    }

    /// The run of this name that a stream knows of, by its statuses: the last one of an ident, or the one whose identity
    /// begins like this. `Ok(None)`: there is none. Of an ident that was used again the others are named.
    pub(super) fn find(&self, subject_id: Option<&str>, name: &str) -> Result<Option<Found>, Stop> {
        let ident = &one_line(name);
        let mut runs = self.runs();
        let statuses = |ident| self.filters(subject_id, ident, Some(Kind::Status));
        self.take_in(&mut runs, statuses(Some(name)), Start::First)?;
        let mut is_wanted: Box<dyn Fn(&Run) -> bool> =
            Box::new(move |run| run.ident == *ident && subject_id.is_none_or(|id| run.subject_id == id));
        let is_by_identity = !runs.all().any(|(_, run)| is_wanted(run)) && is_identity(name);
        if is_by_identity {
            let name = name.to_ascii_lowercase();
            let begins_so =
                move |run: Option<RunId>| run.is_some_and(|run| run.to_string().starts_with(&name));
            // Of all runs that a stream knows, those alone are kept.
            self.history(statuses(None), Start::First, |message| {
                if begins_so(message.run) {
                    runs.hear(message, self.now());
                }
                Ok(())
            })?;
            is_wanted = Box::new(move |run| {
                begins_so(run.identity) && subject_id.is_none_or(|id| run.subject_id == id)
            });
        }
        let wanted = |runs: &Runs| {
            let mut found: Vec<(RunKey, Run)> =
                runs.all().filter(|(_, run)| is_wanted(run)).map(|(id, run)| (id, run.clone())).collect();
            found.sort_by_key(|(id, run)| (run.identity, *id));
            found.into_iter().map(|(_, run)| run).collect::<Vec<_>>()
        };
        let found = wanted(&runs);
        let mut names: Vec<(&str, &str)> =
            found.iter().map(|run| (run.subject_id.as_str(), run.ident.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        if is_by_identity && names.len() == 1 && found.len() > 1 {
            let identities: Vec<String> =
                found.iter().filter_map(|run| Some(run.identity?.to_string())).collect();
            return Err(Stop::Problem(format!(
                "{ident} is the beginning of several runs' identities: {}; name one by more of it",
                identities.join(", ")
            )));
        }
        if names.len() > 1 {
            let sites: Vec<&str> = names.iter().map(|(site, _)| *site).collect();
            let (what, names) = if names.iter().all(|(_, one)| one == ident) {
                ("a run of several subject ids", sites.join(", "))
            } else {
                let idents: Vec<&str> = names.iter().map(|(_, ident)| *ident).collect();
                ("the beginning of several runs' identities", idents.join(", "))
            };
            let text = format!("{ident} is {what}: {names}; name one with --subject-id, or by more of it");
            return Err(Stop::Problem(text));
        }
        // One that was killed has no last status: what is said of its signs of life last tells.
        if let Some(open) = found.last().filter(|run| !run.is_over()) {
            let subjects = self.filters_of(open, Some(Kind::Heartbeat));
            self.take_in(&mut runs, subjects, Start::Last)?;
        }
        let mut found = wanted(&runs);
        let Some(run) = found.pop() else {
            if subject_id.is_some() {
                self.name_other_sites(name)?;
            }
            return Ok(None);
        };
        Ok(Some(Found { run, others: found }))
    }

    /// There is no such run of this subject id: perhaps another one was meant.
    fn name_other_sites(&self, name: &str) -> Result<(), Stop> {
        let mut runs = self.runs();
        let subjects = self.filters(None, Some(name), Some(Kind::Status));
        self.take_in(&mut runs, subjects, Start::First)?;
        let mut sites: Vec<&str> = runs
            .all()
            .filter(|(_, run)| run.ident == one_line(name))
            .map(|(_, run)| run.subject_id.as_str())
            .collect();
        sites.sort_unstable();
        sites.dedup();
        if !sites.is_empty() {
            complain(&format!("{} is a run of {}", one_line(name), sites.join(", ")));
        }
        Ok(())
    }

    /// All that streams know of a run that was found.
    pub(super) fn whole(&self, run: &Run) -> Result<Run, Stop> {
        let mut runs = self.runs();
        self.take_in(&mut runs, self.filters_of(run, None), beginning_of(run))?;
        Ok(same_run(&runs, run).unwrap_or(run).clone())
    }

    /// What streams have kept of some subjects.
    pub(super) fn take_in(
        &self,
        runs: &mut Runs,
        subjects: Vec<String>,
        from: Start,
    ) -> Result<Vec<String>, Stop> {
        self.history(subjects, from, |message| {
            runs.hear(message, self.now());
            Ok(())
        })
    }
}

/// Does something in a thread of its own.
fn in_background(name: &str, work: impl AsyncFnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(work());
        runtime.shutdown_background();
    })?;
    Ok(())
}

/// Which run a command is about: one that a stream knows of, or one that is to begin.
#[derive(Debug)]
pub(super) struct Which {
    subject_id: Option<String>,
    /// As somebody has named it.
    name: String,
    /// As it is shown.
    ident: String,
    found: Option<Found>,
    /// Runs of that ident that are not meant: they were there already.
    not: Vec<RunId>,
    start: Start,
}

impl Which {
    /// `next`: none that is there already.
    pub(super) fn find(
        source: &Source,
        subject_id: Option<&str>,
        name: &str,
        next: bool,
    ) -> Result<Self, Stop> {
        let found = source.find(subject_id, name)?;
        if next {
            let known: Vec<&Run> =
                found.iter().flat_map(|Found { run, others }| others.iter().chain([run])).collect();
            let not = known.iter().filter_map(|run| run.identity).collect();
            // Right behind what was just read: a run may begin while we turn to listening.
            let last = known.iter().map(|run| run.heard + Duration::from_millis(1)).max();
            let start = last.map_or(Start::First, Start::Since);
            return Ok(Self { not, start, ..Self::unknown(subject_id, name) });
        }
        let start = found.as_ref().map_or(Start::First, |found| beginning_of(&found.run));
        Ok(Self { found, start, ..Self::unknown(subject_id, name) })
    }

    /// A run of which nothing is known: it is heard of from now on.
    pub(super) fn unknown(subject_id: Option<&str>, name: &str) -> Self {
        let subject_id = subject_id.map(ToOwned::to_owned);
        let (name, ident) = (name.to_owned(), one_line(name));
        Self { subject_id, name, ident, found: None, not: Vec::new(), start: Start::Now }
    }

    /// This one.
    pub(super) fn known(run: Run) -> Self {
        let start = beginning_of(&run);
        let found = Some(Found { run, others: Vec::new() });
        Self { found, start, ..Self::unknown(None, "") }
    }

    /// What is known of it so far, if anything is.
    pub(super) fn run(&self) -> Option<&Run> {
        self.found.as_ref().map(|found| &found.run)
    }

    pub(super) fn name_others(&self) {
        if let Some(found) = &self.found {
            found.name_others();
        }
    }

    pub(super) fn ident(&self) -> &str {
        self.run().map_or(&self.ident, |run| &run.ident)
    }

    /// Where its messages are to be read from.
    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// The filters of its messages.
    pub(super) fn filters(&self, source: &Source, kind: Option<Kind>) -> Vec<String> {
        match self.run() {
            Some(run) => source.filters_of(run, kind),
            None => source.filters(self.subject_id.as_deref(), Some(&self.name), kind),
        }
    }

    /// Could it be one of its messages? Those of other runs of that ident are none.
    pub(super) fn may_be(&self, message: &Received) -> bool {
        match (message.run, self.run().and_then(|run| run.identity)) {
            (Some(one), Some(wanted)) => one == wanted,
            (Some(one), None) => !self.not.contains(&one),
            (None, _) => true,
        }
    }

    /// Is it this run, as it was heard of?
    pub(super) fn is(&self, run: &Run) -> bool {
        run.ident == self.ident()
    }
}

/// Where a stream has the beginning of a run, as far as its statuses tell.
pub(super) fn beginning_of(run: &Run) -> Start {
    run.first_stored.filter(|_| run.is_whole()).map_or(Start::First, Start::Since)
}

/// The run that this one is, as far as others have told of it.
pub(super) fn same_run<'a>(runs: &'a Runs, run: &Run) -> Option<&'a Run> {
    let is_same = |other: &&Run| {
        (&other.subject_id, &other.ident, other.identity) == (&run.subject_id, &run.ident, run.identity)
            // Without an identity it is known by its first message.
            && (run.identity.is_some() || other.first_stored == run.first_stored)
    };
    runs.all().map(|(_, run)| run).find(is_same)
}

/// A run that was looked for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) run: Run,
    /// Earlier ones of that ident, the oldest first.
    pub(super) others: Vec<Run>,
}

impl Found {
    /// The earlier runs, in a line; nothing if there are none.
    pub(super) fn name_others(&self) {
        /// More of them nobody reads.
        const MOST: usize = 5;
        if self.others.is_empty() {
            return;
        }
        let began = |run: &Run| {
            run.started.map_or_else(String::new, |when| format!(", which began at {}", in_utc(when)))
        };
        let named: Vec<String> =
            self.others.iter().rev().take(MOST).map(|run| short_name(run) + &began(run)).collect();
        let more = self.others.len().saturating_sub(MOST);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        complain(&format!(
            "there were several runs of this ident; this is the last one{}; before it: {}{more}",
            began(&self.run),
            named.join("; ")
        ));
    }
}

/// What tells a run from others of its ident, as short as it may be, and how it ended.
fn short_name(run: &Run) -> String {
    let identity = run.identity.as_ref().map(short_identity).unwrap_or_default();
    format!("{identity} ({})", run.status().as_str()).trim_start().to_owned()
}

/// As much of an identity as tells runs apart.
pub(super) fn short_identity(identity: &RunId) -> String {
    /// Of a UUID of version 7: the time to the millisecond.
    const SHORT: usize = 13;
    start_of(&identity.to_string(), SHORT).to_owned()
}

/// Could it be the beginning of a run's identity?
fn is_identity(text: &str) -> bool {
    const SHORTEST: usize = 4;
    text.len() >= SHORTEST && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
