//! What a run and its connection have to say: counters, and the notice ring.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    harmless,
    secret::{self, Masks, Secret},
};

/// How much a notice matters; the values are those of Python's `logging`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Worth knowing.
    Info = 20,
    /// Something is wrong; we go on.
    Warning = 30,
    /// Something is wrong, and this run publishes nothing.
    Error = 40,
}

impl From<u8> for Level {
    fn from(value: u8) -> Self {
        [Self::Info, Self::Warning].into_iter().find(|level| *level as u8 == value).unwrap_or(Self::Error)
    }
}

/// A line for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// How much it matters.
    pub level: Level,
    /// One line, without secrets.
    pub text: String,
    /// What stays the same while the same thing is wrong, in whatever words: told once per run.
    pub cause: String,
}

impl Notice {
    /// A notice of this level. What servers and users put into the text cannot make it more than one line,
    /// nor endless.
    pub(crate) fn new(level: Level, text: impl AsRef<str>) -> Self {
        let text = one_line(text.as_ref());
        Self { level, cause: text.clone(), text }
    }

    /// A notice whose text may vary while its cause lasts.
    pub(crate) fn about(level: Level, cause: &str, text: impl AsRef<str>) -> Self {
        Self { level, text: one_line(text.as_ref()), cause: one_line(cause) }
    }
}

fn one_line(text: &str) -> String {
    const LONGEST: usize = 2000;
    harmless::one_line(&secret::collapsed(text)).chars().take(LONGEST).collect()
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// From now on a panic of ours is not printed: its message may quote what it stumbled over, which may be
/// secret. Only its place is kept. (The hook is this library's own: each has its own copy of `std`.)
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // Not waited for: a thread that held it may have been left behind by a fork.
        if let Ok(mut last) = LAST_PANIC.try_lock() {
            *last = place;
        }
    }));
}

/// Where the last panic of ours happened: `file:line:column`.
pub(crate) fn last_panic() -> String {
    LAST_PANIC.try_lock().map(|place| place.clone()).unwrap_or_default()
}

/// The last things that the background has to say. It never calls Python: whoever holds the GIL next
/// collects them.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// What a server says may repeat what we told it.
    masks: Mutex<Masks>,
    ring: Mutex<Ring>,
    latest: AtomicU64,
    /// The number of the last one that somebody was told.
    told: AtomicU64,
}

#[derive(Debug, Default)]
struct Ring {
    /// The youngest notices, numbered from `latest - len + 1` on.
    notices: VecDeque<Notice>,
    /// What is wrong now and why, for runs that start while it is.
    problem: Option<(String, Notice)>,
}

impl Notices {
    const KEPT: usize = 64;

    /// An empty ring that lets none of these credentials in.
    pub(crate) fn new(masks: Masks) -> Self {
        Self { masks: Mutex::new(masks), ..Self::default() }
    }

    /// More credentials, which were read from their file just now.
    pub(crate) fn learn(&self, secrets: Vec<Secret>) {
        self.masks.lock().unwrap_or_else(PoisonError::into_inner).learn(secrets);
    }

    /// A text of the server's without our credentials.
    pub(crate) fn hide(&self, text: String) -> String {
        let masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.hidden(text)
    }

    /// Says something.
    pub(crate) fn say(&self, level: Level, text: String) {
        self.put(Notice::new(level, self.hide(text)));
    }

    /// Says that something is wrong, in words that may vary while the `cause` lasts.
    pub(crate) fn warn(&self, cause: &str, text: String) {
        self.put(Notice::about(Level::Warning, cause, self.hide(text)));
    }

    /// Says that something is wrong, and keeps it for later runs until [`Self::mended`]. While the same
    /// `cause` lasts it is said once, in whatever words the network finds for it.
    pub(crate) fn problem(&self, cause: &str, text: String) {
        // Not `about`: what is wrong again after it was mended is told again.
        let notice = Notice::new(Level::Warning, self.hide(text));
        {
            let mut ring = self.lock();
            if ring.problem.as_ref().is_some_and(|(known, _)| known == cause) {
                return;
            }
            ring.problem = Some((cause.to_owned(), notice.clone()));
        }
        self.put(notice);
    }

    /// Adds a notice, unless the youngest has its cause and level: what is said twice in a row is said once.
    fn put(&self, notice: Notice) {
        let mut ring = self.lock();
        if ring.notices.back().is_some_and(|last| last.cause == notice.cause && last.level == notice.level) {
            return;
        }
        if ring.notices.len() >= Self::KEPT {
            ring.notices.pop_front();
        }
        ring.notices.push_back(notice);
        self.latest.fetch_add(1, Relaxed);
    }

    /// The problem is over; `true` if there was one.
    pub(crate) fn mended(&self) -> bool {
        self.lock().problem.take().is_some()
    }

    /// What is wrong now, and the number of the latest notice: where a new reader starts.
    pub(crate) fn start(&self) -> (Option<Notice>, u64) {
        let ring = self.lock();
        (ring.problem.as_ref().map(|(_, notice)| notice.clone()), self.latest.load(Relaxed))
    }

    /// Is there anything after number `seen`? Cheap.
    pub(crate) fn has_news(&self, seen: u64) -> bool {
        self.latest.load(Relaxed) != seen
    }

    /// All that is kept of what was said after number `seen`, and the number of the latest.
    pub(crate) fn since(&self, seen: u64) -> (Vec<Notice>, u64) {
        let ring = self.lock();
        let latest = self.latest.load(Relaxed);
        let news = usize::try_from(latest.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = ring.notices.len().saturating_sub(news);
        (ring.notices.iter().skip(skip).cloned().collect(), latest)
    }

    /// All up to this number was told.
    pub(crate) fn were_told(&self, number: u64) {
        self.told.fetch_max(number, Relaxed);
    }

    /// What nobody was told: it was said when no run was there any more to tell it.
    pub(crate) fn untold(&self) -> Vec<Notice> {
        let (notices, latest) = self.since(self.told.load(Relaxed));
        self.were_told(latest);
        notices
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a run's messages. Every accepted one ends in exactly one of `stored`, `routed`,
/// `unproven`, `spilled`, `dropped`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Taken from ansible-runner.
    pub accepted: AtomicU64,
    /// Confirmed by a stream.
    pub stored: AtomicU64,
    /// Confirmed by the server's echo.
    pub routed: AtomicU64,
    /// Handed to a server that forbids us to ask for a confirmation.
    pub unproven: AtomicU64,
    /// Sent once more (not a fate of its own).
    pub resent: AtomicU64,
    /// Kept on disk at the end.
    pub spilled: AtomicU64,
    /// Of these, what nobody had heard.
    pub unheard: AtomicU64,
    /// Lost, and said.
    pub dropped: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_what_is_new_to_it() {
        let notices = Notices::default();
        notices.say(Level::Info, "one".to_owned());
        let (problem, seen) = notices.start();
        assert_eq!((problem, notices.has_news(seen)), (None, false));
        notices.problem("cause", "two".to_owned());
        notices.problem("cause", "two, in other words".to_owned());
        let (news, seen) = notices.since(seen);
        assert_eq!(news, [Notice::new(Level::Warning, "two")]);
        assert!(!notices.has_news(seen));
        assert_eq!(notices.start().0.unwrap().text, "two");
        assert!(notices.mended() && !notices.mended());
    }

    #[test]
    fn a_server_cannot_make_us_print_our_password() {
        let notices = Notices::new(Masks::new([Secret::new("canary-1")]));
        notices.problem("cause", "bad password canary-1".to_owned());
        notices.say(Level::Info, "hello canary-1".to_owned());
        notices.learn(vec![Secret::new("canary  2")]);
        notices.say(Level::Info, format!("{}canary  2", "x ".repeat(996)));
        let texts: Vec<String> = notices.since(0).0.into_iter().map(|notice| notice.text).collect();
        assert_eq!(texts[..2], ["bad password ***", "hello ***"]);
        assert!(texts[2].ends_with("x ***"));
        assert_eq!(notices.start().0.unwrap().text, "bad password ***");
    }

    #[test]
    fn one_cause_in_many_words_does_not_fill_the_ring() {
        let notices = Notices::default();
        notices.say(Level::Info, "first".to_owned());
        for n in 0..1000 {
            notices.warn("large", format!("{n} bytes are too many"));
        }
        let texts: Vec<String> = notices.since(0).0.into_iter().map(|notice| notice.text).collect();
        assert_eq!(texts, ["first", "0 bytes are too many"]);
    }

    #[test]
    fn a_notice_is_one_line() {
        let notice = Notice::new(Level::Info, "a\r\nansible-runner-nats: forged\u{1b}[2J \u{2028}b");
        assert_eq!(notice.text, "a ansible-runner-nats: forged [2J b");
        assert_eq!(Notice::new(Level::Info, "x".repeat(1 << 20)).text.len(), 2000);
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let notices = Notices::default();
        for n in 0..1000 {
            notices.say(Level::Info, n.to_string());
        }
        let (kept, seen) = notices.since(0);
        assert_eq!((kept.len(), seen), (Notices::KEPT, 1000));
        assert_eq!(kept.last().unwrap().text, "999");
    }
}
