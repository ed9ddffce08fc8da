//! What the pages, the API and the metrics tell of.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast;

use super::metrics::Metrics;
use crate::{
    cli::{reading::Source, runs::Listed},
    message::Received,
    runs::{Run, RunKey, Runs},
};

/// How often those who listen hear of what has changed.
const ANNOUNCED: Duration = Duration::from_millis(250);
/// Whoever is so many announcements behind is dropped.
const BEHIND: usize = 64;

/// Which run is meant: the last one of a name, unless its identity is there, too.
#[derive(Debug, Deserialize)]
pub(super) struct Name {
    subject_id: String,
    ident: String,
    #[serde(default)]
    run_id: Option<String>,
}

impl Name {
    fn subject_id(&self) -> &str {
        if self.subject_id == "-" { "" } else { &self.subject_id }
    }
}

/// What is heard of, by whoever reads NATS, and shown, by whoever answers requests.
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) silent_after: Option<Duration>,
    /// How far back what is known goes.
    pub(super) since: Duration,
    book: Mutex<Book>,
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
}

impl Shared {
    pub(super) fn new(source: Source, silent_after: Option<Duration>, since: Duration) -> Self {
        let book = Book {
            runs: source.runs(),
            metrics: Metrics::new(),
            has_caught_up: false,
            streams: Vec::new(),
            link: Err("connecting".to_owned()),
            changed: HashSet::new(),
        };
        Self { source, silent_after, since, book: Mutex::new(book), news: broadcast::channel(BEHIND).0 }
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
                metrics.settle(runs);
                if self.news.receiver_count() == 0 {
                    continue;
                }
                let now = SystemTime::now();
                let runs = changed.iter().filter_map(|id| book.runs.get(*id));
                let listed = runs.map(|run| Listed::new(run, now, self.silent_after));
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

    pub(super) fn state(&self, run: &Run, now: SystemTime) -> &'static str {
        run.state(now, self.silent_after).as_str()
    }
}

impl Book {
    pub(super) fn hear(&mut self, message: &Received) {
        let Some(news) = self.runs.hear(message, SystemTime::now()) else { return };
        if let Some(run) = self.runs.get(news.run) {
            self.metrics.count(&news, run, message.cut);
        }
        self.changed.insert(news.run);
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

    /// The run of this identity, or the last one of this name.
    pub(super) fn find(&self, name: &Name) -> Option<&Run> {
        let is_it = |run: &Run| {
            let identity = || run.identity.map(|identity| identity.to_string());
            run.ident == name.ident
                && run.subject_id == name.subject_id()
                && (name.run_id.is_none() || name.run_id == identity())
        };
        let found = self.runs.all().filter(|(_, run)| is_it(run));
        found.max_by_key(|(id, run)| (run.identity, *id)).map(|(_, run)| run)
    }
}
