//! What the commands that read runs have in common: from where they read, and what they say about it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Exit,
    options::Options,
    terminal::{complain, printable},
};
use crate::{
    config::Connection,
    harmless::one_line,
    message::{Kind, Received, Template, in_utc, start_of},
    nats::{Heard, Start, Wish, listen},
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
}

/// What is heard waits here for whoever shows it; more only if nobody does.
const WAITING: usize = 100_000;
/// How often a waiting command looks whether it was interrupted.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Why reading came to an end before all was told.
pub(super) enum Stopped {
    /// It was said why.
    Failed,
    /// No stream takes the subjects: this was not said yet.
    NoStream,
    Interrupted,
    /// Nothing came until then.
    TimedOut,
}

impl Stopped {
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Failed => Exit::Problem,
            Self::NoStream => {
                complain(NEEDS_STREAM);
                Exit::Problem
            }
            Self::Interrupted => Exit::Interrupted,
            Self::TimedOut => Exit::NotEnded,
        }
    }
}

const NEEDS_STREAM: &str = "no stream takes what runs publish, and what they have done is only known where one keeps it: \
                            `ansible-runner-nats stream create` makes one";

impl Source {
    /// By the plugin's own options; `None` if they cannot be used, which was said.
    pub(super) fn open(options: &Options) -> io::Result<Option<Self>> {
        let Some(config) = options.config("watch") else { return Ok(None) };
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Some(Self {
            connection: config.connection,
            masks: config.redaction.masks,
            template: config.subject,
            interrupted,
        }))
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// What a server says may repeat what we told it.
    pub(super) fn hide(&self, text: String) -> String {
        printable(&self.masks.hidden(text))
    }

    /// For runs that are heard of here.
    pub(super) fn runs(&self) -> Runs {
        Runs::of(&self.template)
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = self.connection.clone();
        thread::Builder::new().name("listen".to_owned()).spawn(move || {
            runtime.block_on(listen(&connection, wish, sender));
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    /// Hands every message that streams have kept of some subjects to `take`. Returns the streams' names.
    pub(super) fn history(
        &self,
        subjects: Vec<String>,
        from: Start,
        mut take: impl FnMut(&Received) -> io::Result<()>,
    ) -> io::Result<Result<Vec<String>, Stopped>> {
        let heard = self.listen(Wish { subjects, from, follow: false, before: None })?;
        let mut read = Vec::new();
        loop {
            match self.next(&heard, None) {
                Ok(Heard::Connected { streams, .. }) => read = streams,
                Ok(Heard::CaughtUp) => return Ok(Ok(read)),
                Ok(Heard::Message(message)) => take(&message)?,
                Ok(Heard::Lost(reason)) => complain(&self.hide(reason)),
                Ok(Heard::Failed(_) | Heard::NoStream) => {}
                Err(stopped) => return Ok(Err(stopped)),
            }
        }
    }

    /// What is heard next; what ends it is said, but that there is no stream.
    pub(super) fn next(&self, heard: &Receiver<Heard>, deadline: Option<Instant>) -> Result<Heard, Stopped> {
        loop {
            if self.is_interrupted() {
                return Err(Stopped::Interrupted);
            }
            let left =
                deadline.map_or(LOOK_UP, |deadline| deadline.saturating_duration_since(Instant::now()));
            match heard.recv_timeout(left.min(LOOK_UP)) {
                Ok(Heard::Failed(reason)) => {
                    complain(&self.hide(reason));
                    return Err(Stopped::Failed);
                }
                Ok(Heard::NoStream) => return Err(Stopped::NoStream),
                Ok(heard) => return Ok(heard),
                Err(RecvTimeoutError::Timeout)
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) =>
                {
                    return Err(Stopped::TimedOut);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped::Failed),
            }
        }
    }

    /// The run of this name that a stream knows of, by its statuses: the last one of an ident, or the one whose identity
    /// begins like this. `Ok(None)`: there is none. Of an ident that was used again the others are named.
    pub(super) fn find(
        &self,
        subject_id: Option<&str>,
        name: &str,
    ) -> io::Result<Result<Option<Found>, Stopped>> {
        let ident = &one_line(name);
        let mut runs = self.runs();
        let statuses = |ident| self.filters(subject_id, ident, Some(Kind::Status));
        if let Err(stopped) = self.take_in(&mut runs, statuses(Some(name)), Start::First)? {
            return Ok(Err(stopped));
        }
        let mut is_wanted: Box<dyn Fn(&Run) -> bool> =
            Box::new(move |run| run.ident == *ident && subject_id.is_none_or(|id| run.subject_id == id));
        if !runs.all().any(|(_, run)| is_wanted(run)) && is_identity(name) {
            if let Err(stopped) = self.take_in(&mut runs, statuses(None), Start::First)? {
                return Ok(Err(stopped));
            }
            let name = name.to_ascii_lowercase();
            is_wanted = Box::new(move |run| {
                let identity = run.identity.map(|identity| identity.to_string());
                identity.is_some_and(|identity| identity.starts_with(&name))
                    && subject_id.is_none_or(|id| run.subject_id == id)
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
        if names.len() > 1 {
            let sites: Vec<&str> = names.iter().map(|(site, _)| *site).collect();
            let (what, names) = if names.iter().all(|(_, one)| one == ident) {
                ("a run of several subject ids", sites.join(", "))
            } else {
                let idents: Vec<&str> = names.iter().map(|(_, ident)| *ident).collect();
                ("the beginning of several runs' identities", idents.join(", "))
            };
            complain(&format!("{ident} is {what}: {names}; name one with --subject-id, or by more of it"));
            return Ok(Err(Stopped::Failed));
        }
        // One that was killed has no last status: what is said of its signs of life last tells.
        if let Some(open) = found.last().filter(|run| !run.is_over()) {
            let subjects = self.filters_of(open, Some(Kind::Heartbeat));
            if let Err(stopped) = self.take_in(&mut runs, subjects, Start::Last)? {
                return Ok(Err(stopped));
            }
        }
        let mut found = wanted(&runs);
        let Some(run) = found.pop() else {
            if subject_id.is_some() {
                self.name_other_sites(name)?;
            }
            return Ok(Ok(None));
        };
        Ok(Ok(Some(Found { run, others: found })))
    }

    /// There is no such run of this subject id: perhaps another one was meant.
    fn name_other_sites(&self, name: &str) -> io::Result<()> {
        let mut runs = self.runs();
        let subjects = self.filters(None, Some(name), Some(Kind::Status));
        let Ok(()) = self.take_in(&mut runs, subjects, Start::First)? else { return Ok(()) };
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

    /// What streams have kept of some subjects.
    fn take_in(
        &self,
        runs: &mut Runs,
        subjects: Vec<String>,
        from: Start,
    ) -> io::Result<Result<(), Stopped>> {
        let read = self.history(subjects, from, |message| {
            runs.hear(message, SystemTime::now());
            Ok(())
        })?;
        Ok(read.map(drop))
    }
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
    /// Of a UUID of version 7: the time to the millisecond.
    const SHORT: usize = 13;
    let identity = run.identity.map(|identity| identity.to_string()).unwrap_or_default();
    format!("{} ({})", start_of(&identity, SHORT), run.status()).trim_start().to_owned()
}

/// Could it be the beginning of a run's identity?
fn is_identity(text: &str) -> bool {
    const SHORTEST: usize = 4;
    text.len() >= SHORTEST && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
