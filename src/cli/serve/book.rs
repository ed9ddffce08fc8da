//! What the pages, the API and the metrics tell of.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{
    metrics::Metrics,
    name::{Name, run_id},
};
use crate::{
    cli::{reading::Source, runs::Listed},
    message::{Received, RunId},
    runs::{Run, RunKey, Runs, Status},
};

/// How often those who listen hear of what has changed.
const ANNOUNCED: Duration = Duration::from_millis(250);
/// Whoever is so many announcements behind is dropped.
const BEHIND: usize = 64;

/// What is heard of, by whoever reads NATS, and shown, by whoever answers requests.
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) silent_after: Option<Duration>,
    /// How far back what is known goes.
    pub(super) since: Duration,
    book: Mutex<Book>,
    /// Since when there is no connection: who says nothing then is not silent, it is not heard.
    deaf_since: Mutex<Option<SystemTime>>,
    /// Of runs that have changed, each as JSON.
    news: broadcast::Sender<Bytes>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) runs: Runs,
    pub(super) metrics: Metrics,
    /// All that a stream had kept was read.
    pub(super) has_caught_up: bool,
    pub(super) streams: Vec<String>,
    /// The server, or why there is none.
    link: Result<String, String>,
    changed: HashSet<RunKey>,
    /// A run was heard of that had begun before.
    pub(super) is_incomplete: bool,
    /// Those whose beginning was looked for.
    asked: HashSet<RunId>,
}

impl Shared {
    pub(super) fn new(source: Source, silent_after: Option<Duration>, since: Duration) -> Self {
        let book = Book {
            runs: source.latest_runs(),
            metrics: Metrics::new(),
            has_caught_up: false,
            streams: Vec::new(),
            link: Err("connecting".to_owned()),
            changed: HashSet::new(),
            is_incomplete: false,
            asked: HashSet::new(),
        };
        let (book, deaf_since) = (Mutex::new(book), Mutex::default());
        Self { source, silent_after, since, book, deaf_since, news: broadcast::channel(BEHIND).0 }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What changes from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Bytes> {
        self.news.subscribe()
    }

    /// Tells those who listen what has changed, again and again.
    pub(super) async fn announce(&self) {
        loop {
            tokio::time::sleep(ANNOUNCED).await;
            let texts = {
                let mut book = self.book();
                let changed = std::mem::take(&mut book.changed);
                let Book { metrics, runs, .. } = &mut *book;
                metrics.settle(runs, self.now());
                if self.news.receiver_count() == 0 {
                    continue;
                }
                let now = self.now();
                let runs = changed.iter().filter_map(|id| book.runs.get(*id));
                let listed = runs.map(|run| Listed::new(run, self.as_of(now), self.silent_after));
                listed.filter_map(|run| serde_json::to_vec(&run).ok()).collect::<Vec<_>>()
            };
            if !texts.is_empty() {
                // One event a run, in one piece for all who listen.
                let mut frame = Vec::new();
                for text in texts {
                    frame.extend_from_slice(b"event: run\ndata: ");
                    frame.extend_from_slice(&text);
                    frame.extend_from_slice(b"\n\n");
                }
                let _ = self.news.send(frame.into());
            }
        }
    }

    /// What time it is for the server: messages have its time, too.
    pub(super) fn now(&self) -> SystemTime {
        self.source.now()
    }

    /// Has it said something within the time that is looked back?
    pub(super) fn is_recent(&self, run: &Run, now: SystemTime) -> bool {
        let begin = now.checked_sub(self.since).unwrap_or(SystemTime::UNIX_EPOCH);
        run.last_event.is_none_or(|last| last >= begin)
    }

    /// The runs that have not ended.
    pub(super) fn open<'a>(&self, book: &'a Book) -> impl Iterator<Item = &'a Run> {
        let now = self.now();
        let runs = book.runs.all().map(|(_, run)| run);
        runs.filter(move |run| !run.is_over() && self.is_recent(run, now))
    }

    pub(super) fn state(&self, run: &Run, now: SystemTime) -> Status {
        run.state(self.as_of(now), self.silent_after)
    }

    /// The time that is known of: now, or when the connection went away.
    pub(super) fn as_of(&self, now: SystemTime) -> SystemTime {
        (*self.deaf_since()).map_or(now, |since| since.min(now))
    }

    fn deaf_since(&self) -> MutexGuard<'_, Option<SystemTime>> {
        self.deaf_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is gone, or there is one again.
    pub(super) fn set_deaf(&self, is_deaf: bool) {
        let mut since = self.deaf_since();
        *since = if is_deaf { since.or_else(|| Some(self.now())) } else { None };
    }
}

impl Book {
    pub(super) fn hear(&mut self, message: &Received, now: SystemTime) {
        let Some(news) = self.runs.hear(message, now) else { return };
        if let Some(run) = self.runs.get(news.run) {
            self.metrics.count(&news, run, message.cut);
            let is_known = run.has_beginning() || run.identity.is_none_or(|one| self.asked.contains(&one));
            self.is_incomplete |= !is_known;
        }
        self.changed.insert(news.run);
    }

    /// Runs that had begun before they were heard of, and of which nobody was asked yet.
    pub(super) fn take_incomplete(&mut self) -> HashSet<RunId> {
        let runs = self.runs.all().map(|(_, run)| run).filter(|run| !run.has_beginning());
        let unasked: HashSet<RunId> =
            runs.filter_map(|run| run.identity).filter(|run| !self.asked.contains(run)).collect();
        self.asked.extend(&unasked);
        self.is_incomplete = false;
        unasked
    }

    /// Something was said of a run that is known, before the time that is looked back to: it is counted nowhere.
    pub(super) fn complete(&mut self, message: &Received, now: SystemTime) {
        if let Some(news) = self.runs.hear(message, now) {
            self.changed.insert(news.run);
        }
    }

    /// All that a stream had kept was heard.
    pub(super) fn caught_up(&mut self) {
        self.has_caught_up = true;
        self.metrics.go_live();
    }

    pub(super) fn connected(&mut self, server: String, streams: Vec<String>) {
        self.link = Ok(server);
        self.streams = streams;
    }

    pub(super) fn lost(&mut self, reason: String) {
        self.link = Err(reason);
    }

    /// The server, or why there is none.
    pub(super) fn link(&self) -> &Result<String, String> {
        &self.link
    }

    /// The run that is meant, and all of that name, the last one first.
    pub(super) fn find(&self, name: &Name) -> Option<(&Run, Vec<&Run>)> {
        let is_its = |run: &&Run| run.ident == name.ident && run.subject_id == name.subject_id();
        let mut all: Vec<(RunKey, &Run)> = self.runs.all().filter(|(_, run)| is_its(run)).collect();
        all.sort_by_key(|(key, run)| std::cmp::Reverse((run.identity, *key)));
        let all: Vec<&Run> = all.into_iter().map(|(_, run)| run).collect();
        let is_it = |run: &&&Run| name.run_id.is_none() || name.run_id == run_id(run);
        Some((all.iter().find(is_it).copied()?, all))
    }
}
