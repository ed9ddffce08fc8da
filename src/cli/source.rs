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
    message::{Kind, Received, Template},
    nats::{Heard, Start, Wish, listen},
    runs::{Run, Runs},
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

    /// The last run of this ident that a stream knows of, by its statuses. `Ok(None)`: there is none.
    pub(super) fn last_run(
        &self,
        subject_id: Option<&str>,
        ident: &str,
    ) -> io::Result<Result<Option<Run>, Stopped>> {
        let mut runs = self.runs();
        let subjects = self.filters(subject_id, Some(ident), Some(Kind::Status));
        let read = self.history(subjects, Start::First, |message| {
            runs.hear(message, SystemTime::now());
            Ok(())
        })?;
        if let Err(stopped) = read {
            return Ok(Err(stopped));
        }
        let is_wanted = |run: &Run| run.ident == ident && subject_id.is_none_or(|id| run.subject_id == id);
        let last = |runs: &Runs| {
            let wanted = runs.all().filter(|(_, run)| is_wanted(run));
            wanted.max_by_key(|(id, run)| (run.identity, *id)).map(|(_, run)| run.clone())
        };
        // One that was killed has no last status: what is said of its signs of life last tells.
        if let Some(open) = last(&runs).filter(|run| !run.is_over()) {
            let subjects = self.filters_of(&open, Some(Kind::Heartbeat));
            let read = self.history(subjects, Start::Last, |message| {
                runs.hear(message, SystemTime::now());
                Ok(())
            })?;
            if let Err(stopped) = read {
                return Ok(Err(stopped));
            }
        }
        let found = runs.all().filter(|(_, run)| is_wanted(run));
        let mut sites: Vec<&str> = found.map(|(_, run)| run.subject_id.as_str()).collect();
        sites.sort_unstable();
        sites.dedup();
        if sites.len() > 1 {
            let sites = sites.join(", ");
            complain(&format!(
                "{ident} is a run of several subject ids: {sites}; name one with --subject-id"
            ));
            return Ok(Err(Stopped::Failed));
        }
        Ok(Ok(last(&runs)))
    }
}
