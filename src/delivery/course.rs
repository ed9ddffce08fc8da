//! What a run waits for. Order matters within a run alone: one that waits holds up no other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Ack, flights::Flight};

/// Nobody hears a subject: so long from one try to the next at first, and at the most.
const RETRY: Duration = Duration::from_millis(25);
const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// So long a whole run waits for the first subject that nobody hears.
const TOGETHER: Duration = Duration::from_millis(500);

/// A run whose messages do not simply go as they come.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) flow: Flow,
    /// What goes next, before anything new: by number in the outbox.
    pub(super) waiting: BTreeMap<u64, Kept>,
    /// What nobody hears, until it is tried again; the run's other subjects go on.
    pub(super) parked: BTreeMap<u64, Kept>,
    /// When that is.
    retry_at: Option<Instant>,
    pub(super) silence: Silence,
    /// Since when its stream has been missing.
    missing_since: Option<Instant>,
    /// What was parked and is tried just now, up to this number; the next one that is tried is another.
    tried: Option<u64>,
}

/// That nobody hears a run, if so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// Since when.
    since: Option<Instant>,
    /// The next try is after this time.
    backoff: Duration,
}

impl Silence {
    pub(super) const NONE: Self = Self { since: None, backoff: RETRY };
}

/// What a run's messages may do.
#[derive(Debug)]
pub(super) enum Flow {
    /// Go, as far as their subjects are known.
    Free,
    /// Wait until this time: their stream was not there.
    Paused(Instant),
    /// One alone may go.
    One,
    /// One is under way; all others wait for what comes back.
    Scouting(Box<Scout>),
}

/// A message that was sent to see what comes back.
#[derive(Debug)]
pub(super) struct Scout {
    pub(super) flight: Flight,
    /// When the marker behind it came back: the server has got it.
    pub(super) echoed: Option<Instant>,
    /// Of its run, before it was sent.
    pub(super) silence: Silence,
    /// Whatever comes back, the next one is sent alone, too.
    pub(super) is_alone: bool,
}

/// A message that stays in the outbox for now.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) subject: Arc<str>,
    /// What it takes in memory.
    pub(super) size: usize,
}

/// What a late acknowledgement tells.
#[derive(Debug)]
pub(super) struct Meanwhile {
    /// This one's stream is there.
    pub(super) subject: Arc<str>,
    /// This was parked, and is tried now.
    pub(super) tried: BTreeMap<u64, Kept>,
}

impl Kept {
    pub(super) fn of(flight: &Flight) -> Self {
        Self { subject: Arc::clone(flight.subject()), size: flight.size }
    }
}

impl Default for Course {
    fn default() -> Self {
        Self {
            flow: Flow::Free,
            waiting: BTreeMap::new(),
            parked: BTreeMap::new(),
            retry_at: None,
            silence: Silence::NONE,
            missing_since: None,
            tried: None,
        }
    }
}

impl Course {
    /// Is there nothing that sets this run apart?
    fn is_over(&self) -> bool {
        matches!(self.flow, Flow::Free | Flow::One) && self.waiting.is_empty() && self.parked.is_empty()
    }

    /// May messages that wait go now?
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.flow, Flow::Free | Flow::One) && !self.waiting.is_empty()
    }

    pub(super) fn scout(&self) -> Option<&Scout> {
        match &self.flow {
            Flow::Scouting(scout) => Some(scout),
            Flow::Free | Flow::Paused(_) | Flow::One => None,
        }
    }

    /// Nobody hears this message: it waits for the next try.
    pub(super) fn park(&mut self, seq: u64, kept: Kept, now: Instant) {
        self.parked.insert(seq, kept);
        self.retry_at.get_or_insert(now + self.silence.backoff);
    }

    /// Nobody hears this message: all of the run waits with it, unless it has waited for long enough (then `false`).
    pub(super) fn wait_together(&mut self, seq: u64, kept: Kept, now: Instant, silence: Silence) -> bool {
        let since = silence.since.unwrap_or(now);
        self.silence = Silence { since: Some(since), ..silence };
        if now.saturating_duration_since(since) >= TOGETHER {
            return false;
        }
        self.waiting.insert(seq, kept);
        if !matches!(self.flow, Flow::Scouting(_)) {
            self.flow = Flow::Paused(now + silence.backoff);
            self.back_off();
        }
        true
    }

    fn back_off(&mut self) {
        self.silence.backoff = (self.silence.backoff * 2).min(LONGEST_RETRY);
    }

    /// The run's stream is not there. Since when is that so?
    pub(super) fn miss_stream(&mut self, now: Instant) -> Instant {
        // What was tried before the pause that follows was not tried just now.
        self.tried = None;
        *self.missing_since.get_or_insert(now)
    }

    /// The run's stream has answered.
    pub(super) fn find_stream(&mut self) {
        self.missing_since = None;
    }

    /// Is anything wrong that people were told of?
    fn is_in_trouble(&self) -> bool {
        self.missing_since.is_some() || self.silence.since.is_some()
    }

    /// Somebody hears, and the next silence is a new one, unless something is parked still. Returns whether one has ended.
    pub(super) fn end_silence(&mut self) -> bool {
        if !self.parked.is_empty() {
            return false;
        }
        std::mem::replace(&mut self.silence, Silence::NONE).since.is_some()
    }

    /// A message is about to be sent to see what comes back. What is parked, and was accepted before it, is tried first,
    /// unless it was just now.
    pub(super) fn take_parked_before(&mut self, seq: u64) -> BTreeMap<u64, Kept> {
        if self.tried.is_some_and(|last| seq > last) {
            self.tried = None;
            return BTreeMap::new();
        }
        let is_before = self.parked.first_key_value().is_some_and(|(first, _)| *first < seq);
        if is_before && self.tried.is_none() { self.unpark() } else { BTreeMap::new() }
    }

    /// A message came that is new: what was tried before it was not tried just now.
    pub(super) fn forget_tries(&mut self) {
        self.tried = None;
    }

    fn unpark(&mut self) -> BTreeMap<u64, Kept> {
        let parked = std::mem::take(&mut self.parked);
        self.tried = parked.last_key_value().map(|(last, _)| *last);
        self.retry_at = None;
        self.waiting.extend(parked.iter().map(|(seq, kept)| (*seq, kept.clone())));
        parked
    }

    /// The time for something to be done.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.flow {
            Flow::Paused(until) => Some(until),
            Flow::Free | Flow::One => self.retry_at,
            // What waits for a try waits for this one, too.
            Flow::Scouting(_) => None,
        }
    }

    /// What is due: a pause is over, or what is parked is tried again. Returns the latter.
    pub(super) fn on_time(&mut self, now: Instant) -> BTreeMap<u64, Kept> {
        match self.flow {
            Flow::Paused(until) if until <= now => {
                self.flow = Flow::One;
                BTreeMap::new()
            }
            Flow::Free | Flow::One if self.retry_at.is_some_and(|at| at <= now) => {
                self.back_off();
                self.unpark()
            }
            _ => BTreeMap::new(),
        }
    }
}

/// All runs that wait for something.
#[derive(Debug, Default)]
pub(super) struct Courses {
    all: HashMap<u64, Course>,
    /// Those of which something may be sent.
    ready: BTreeSet<u64>,
    /// The one of which something was sent last.
    served: u64,
    /// Those that nothing seemed to set apart any more.
    over: Vec<u64>,
}

impl Courses {
    pub(super) fn get(&self, run: u64) -> Option<&Course> {
        // Mostly there is none.
        if self.all.is_empty() { None } else { self.all.get(&run) }
    }

    /// Changes a run's course.
    pub(super) fn change<T>(&mut self, run: u64, change: impl FnOnce(&mut Course) -> T) -> T {
        let course = self.all.entry(run).or_default();
        let result = change(course);
        if course.is_ready() {
            self.ready.insert(run);
        } else {
            self.ready.remove(&run);
            if course.is_over() {
                self.over.push(run);
            }
        }
        result
    }

    /// Forgets the runs that nothing sets apart any more. Not at once: a message that comes back from being tried is put
    /// somewhere else in the next moment. Returns whether one of them was the last that was in trouble.
    pub(super) fn tidy(&mut self) -> bool {
        let mut was_in_trouble = false;
        for run in self.over.drain(..) {
            if self.all.get(&run).is_some_and(Course::is_over) {
                was_in_trouble |= self.all.remove(&run).is_some_and(|course| course.is_in_trouble());
            }
        }
        was_in_trouble && !self.are_in_trouble()
    }

    pub(super) fn are_in_trouble(&self) -> bool {
        self.all.values().any(Course::is_in_trouble)
    }

    /// A run of which something may be sent: each has its turn, however much waits of another.
    pub(super) fn next_ready(&mut self) -> Option<u64> {
        let run = self.ready.range(self.served + 1..).next().or_else(|| self.ready.first()).copied()?;
        self.served = run;
        Some(run)
    }

    pub(super) fn scouts(&self) -> impl Iterator<Item = &Scout> {
        self.all.values().filter_map(Course::scout)
    }

    /// Takes out the scout that this answer is for. Its run goes on. Stored is stored, whichever copy of it was.
    pub(super) fn take_scout(&mut self, ordinal: u64, seq: u64, ack: &Ack) -> Option<Scout> {
        let is_it = |scout: &Scout| {
            scout.flight.seq == seq && (scout.flight.ordinal == ordinal || *ack == Ack::Stored)
        };
        let run = self.scouts().find(|scout| is_it(scout))?.flight.run;
        self.take_scout_of(run)
    }

    pub(super) fn take_scout_of(&mut self, run: u64) -> Option<Scout> {
        self.change(run, |course| match std::mem::replace(&mut course.flow, Flow::Free) {
            Flow::Scouting(scout) => {
                if scout.is_alone && !course.waiting.is_empty() {
                    course.flow = Flow::One;
                }
                Some(*scout)
            }
            other => {
                course.flow = other;
                None
            }
        })
    }

    /// The server has got all that was sent up to this number.
    pub(super) fn echo(&mut self, ordinal: u64, now: Instant) {
        for course in self.all.values_mut() {
            if let Flow::Scouting(scout) = &mut course.flow
                && scout.flight.ordinal <= ordinal
            {
                scout.echoed.get_or_insert(now);
            }
        }
    }

    /// A stream has stored a message that waits to be sent again, or is parked: it need not be, and its run's stream is
    /// there. What else is parked is to be tried before anything new follows it.
    pub(super) fn stored_meanwhile(&mut self, seq: u64) -> Option<Meanwhile> {
        let has = |course: &Course| course.waiting.contains_key(&seq) || course.parked.contains_key(&seq);
        let run = *self.all.iter().find(|(_, course)| has(course))?.0;
        self.change(run, |course| {
            course.find_stream();
            if let Some(Kept { subject, .. }) = course.waiting.remove(&seq) {
                return Some(Meanwhile { subject, tried: BTreeMap::new() });
            }
            let tried = course.unpark();
            let Kept { subject, .. } = course.waiting.remove(&seq)?;
            Some(Meanwhile { subject, tried })
        })
    }

    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.all.values().filter_map(Course::wakes_at).min()
    }

    /// The runs that have something to do now.
    pub(super) fn due(&self, now: Instant) -> Vec<u64> {
        let is_due = |course: &Course| course.wakes_at().is_some_and(|at| at <= now);
        self.all.iter().filter(|(_, course)| is_due(course)).map(|(run, _)| *run).collect()
    }
}
