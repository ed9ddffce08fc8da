//! How a message is proved to have arrived, and what is known of a subject.
//!
//! What comes back to a message that has a reply subject tells what became of it (nats-server 2.10 and later):
//!
//! | | nobody | a stream takes it | subscribers alone |
//! | --- | --- | --- | --- |
//! | | 503, no responders, at once | its acknowledgement | nothing |
//!
//! So the first message of a subject is sent alone, with a marker to ourselves behind it. An acknowledgement, or a 503,
//! settles it. If the marker's echo came, and neither of these within a grace, there are subscribers and no stream.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Says;
use crate::{config::Delivery, outbox::Proof};

/// A subject without permission is tried again after this long.
const CLOSED_FOR: Duration = Duration::from_secs(2);
/// Subjects that are remembered: one a run and kind, and a long-lived service has no end of runs.
const SUBJECTS_KNOWN: usize = 2_048;

/// How one message is proved: a strategy for what is sent with it, and what each answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proving {
    /// The first of its subject: whatever comes back tells how those after it are proved.
    First,
    /// A stream takes it, and says so.
    Ack,
    /// Subscribers, and no stream: the echo of a marker behind it, unless a 503 came before. An acknowledgement is welcome.
    Echo,
    /// The echo of a marker behind it, whoever listens (`delivery=core`).
    Marker,
    /// Nothing can come back: that it is written to the socket must do.
    Written,
}

impl Proving {
    /// Is the server asked to answer?
    pub(super) fn has_reply(self) -> bool {
        match self {
            Self::First | Self::Ack | Self::Echo => true,
            Self::Marker | Self::Written => false,
        }
    }

    /// Is a marker to be sent behind it?
    pub(super) fn has_marker(self) -> bool {
        match self {
            Self::First | Self::Echo | Self::Marker => true,
            Self::Ack | Self::Written => false,
        }
    }

    /// A stream has acknowledged it: what does that prove?
    pub(super) fn on_stored(self) -> Option<Proof> {
        self.has_reply().then_some(Proof::Stored)
    }

    /// The marker behind it came back: what does that prove?
    pub(super) fn on_marker(self) -> Option<Proof> {
        match self {
            Self::Echo | Self::Marker => Some(Proof::Routed),
            Self::First | Self::Ack | Self::Written => None,
        }
    }

    /// All that was sent is written: what does that prove?
    pub(super) fn on_written(self) -> Option<Proof> {
        (self == Self::Written).then_some(Proof::None)
    }

    /// The stream that has to take it, if the user names one, is named to the server.
    pub(super) fn names_stream(self) -> bool {
        matches!(self, Self::First | Self::Ack)
    }
}

/// What becomes of the messages of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing has come back yet in this session: one message is sent and waited for.
    #[default]
    New,
    /// They are proved like this.
    Proved(Proving),
    /// Nobody hears them: neither a stream nor a subscriber.
    Unheard,
    /// The server does not let us publish there, it seems: why, and until when we believe that.
    Closed(String, Instant),
}

/// What is known of a subject.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) way: Way,
    /// A stream has acknowledged a message of it, and is not known to be gone. This outlives the session.
    pub(super) was_acknowledged: bool,
    /// The API has said that it sees that stream. Only then its "no" means that it is gone.
    is_visible: bool,
    /// That stream is gone, says the API.
    is_gone: bool,
    /// What the API has said in this session.
    says: Option<Says>,
    /// When the API was asked last.
    asked: Option<Instant>,
}

impl Lane {
    /// What the API says; one that is silent for too long cannot say it now.
    pub(super) fn says(&self, now: Instant, patience: Duration) -> Option<Says> {
        let is_late = |asked: Instant| now.saturating_duration_since(asked) >= patience;
        self.says.or_else(|| self.asked.is_some_and(is_late).then_some(Says::Nothing))
    }

    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// Did a stream take such messages, and has it not been deleted since?
    pub(super) fn is_known(&self, was_stored: bool) -> bool {
        self.was_acknowledged || (was_stored && !self.is_gone)
    }

    /// The API is asked, once more perhaps: what it did not answer, it cannot say.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.asked.replace(now).is_some() {
            self.says.get_or_insert(Says::Nothing);
        }
    }

    /// A stream acknowledged one, or refused it.
    fn acknowledge(&mut self) {
        self.way = Way::Proved(Proving::Ack);
        self.was_acknowledged = true;
        self.is_gone = false;
    }

    /// The API has answered. Returns whether the stream is gone.
    fn hear(&mut self, says: Says) -> bool {
        self.says = Some(says);
        match says {
            Says::Yes => self.is_visible = true,
            Says::No if self.is_visible => {
                self.is_visible = false;
                self.is_gone = true;
                if std::mem::take(&mut self.was_acknowledged) {
                    self.way = Way::New;
                    return true;
                }
            }
            Says::No | Says::Nobody | Says::NotNow | Says::Nothing => {}
        }
        false
    }

    /// Another session: what came back in the last one need not hold, but that there is a stream.
    fn renew(&mut self) {
        self.way = Way::New;
        self.says = None;
        self.asked = None;
    }
}

/// What is known of all subjects.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    known: HashMap<Arc<str>, Lane>,
    /// In the order in which we came to know them.
    order: VecDeque<Arc<str>>,
    /// The subject that was looked up last, and its proof: messages of one run come one after the other.
    last: Option<(Arc<str>, Proving)>,
    /// Subjects like these were taken by a stream that the API does not see.
    hidden: Vec<Like>,
    /// Subjects like these were heard by subscribers in this session, and by no stream.
    routed: Vec<Like>,
}

/// What subjects of one kind have in common: all but the last token but one, which mostly is the run.
#[derive(Debug, PartialEq, Eq)]
struct Like {
    before: Box<str>,
    last: Box<str>,
}

impl Like {
    fn of(subject: &str) -> Self {
        let (before, last) = Self::parts(subject);
        Self { before: before.into(), last: last.into() }
    }

    fn is(&self, subject: &str) -> bool {
        let (before, last) = Self::parts(subject);
        *self.before == *before && *self.last == *last
    }

    fn parts(subject: &str) -> (&str, &str) {
        let (rest, last) = subject.rsplit_once('.').unwrap_or(("", subject));
        (rest.rsplit_once('.').map_or("", |(before, _)| before), last)
    }
}

impl Lanes {
    /// What proves messages on this subject, if that is known.
    pub(super) fn proved(&mut self, subject: &Arc<str>) -> Option<Proving> {
        match &self.last {
            Some((last, proving)) if Arc::ptr_eq(last, subject) => Some(*proving),
            _ => {
                let Way::Proved(proving) = self.known.get(subject)?.way else { return None };
                self.last = Some((Arc::clone(subject), proving));
                Some(proving)
            }
        }
    }

    pub(super) fn get(&self, subject: &str) -> Option<&Lane> {
        self.known.get(subject)
    }

    pub(super) fn way(&self, subject: &str) -> &Way {
        self.known.get(subject).map_or(&Way::New, |lane| &lane.way)
    }

    pub(super) fn of(&mut self, subject: &Arc<str>) -> &mut Lane {
        self.last = None;
        if !self.known.contains_key(subject) {
            if self.order.len() >= SUBJECTS_KNOWN
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
            self.order.push_back(Arc::clone(subject));
        }
        self.known.entry(Arc::clone(subject)).or_default()
    }

    pub(super) fn set(&mut self, subject: &Arc<str>, way: Way) {
        self.of(subject).way = way;
    }

    /// Does not publish to this subject for a while.
    pub(super) fn close(&mut self, subject: &Arc<str>, reason: String, now: Instant) {
        self.set(subject, Way::Closed(reason, now + CLOSED_FOR));
    }

    /// Why nothing is published to this subject now.
    pub(super) fn why_closed(&mut self, subject: &Arc<str>, now: Instant) -> Option<String> {
        let Way::Closed(reason, until) = self.way(subject) else { return None };
        if *until > now {
            return Some(reason.clone());
        }
        self.set(subject, Way::New);
        None
    }

    /// A stream has answered for this subject; `true` if that is news.
    pub(super) fn on_acknowledged(&mut self, subject: &Arc<str>) -> bool {
        if self.proved(subject) == Some(Proving::Ack) {
            return false;
        }
        let lane = self.of(subject);
        lane.acknowledge();
        if lane.says == Some(Says::No) && !self.may_be_hidden(subject) {
            // It was asked about before.
            self.hidden.push(Like::of(subject));
        }
        // There may be a stream for others now, too.
        self.routed.clear();
        true
    }

    /// Subscribers have heard a message, and no stream takes it.
    pub(super) fn on_routed(&mut self, subject: &Arc<str>, proving: Proving) {
        self.set(subject, Way::Proved(proving));
        if proving == Proving::Echo && !self.is_routed(subject) {
            self.routed.push(Like::of(subject));
        }
    }

    /// Is a subject that is new like others of which that is known? Then its first message need not be waited for.
    pub(super) fn is_routed(&self, subject: &str) -> bool {
        self.routed.iter().any(|like| like.is(subject))
    }

    /// The API has answered about this subject. Returns whether its stream is gone.
    pub(super) fn on_api(&mut self, subject: &Arc<str>, says: Says) -> bool {
        let lane = self.of(subject);
        let is_hidden = lane.was_acknowledged && says == Says::No && !lane.is_visible;
        let is_gone = lane.hear(says);
        if is_hidden && !self.may_be_hidden(subject) {
            self.hidden.push(Like::of(subject));
        }
        is_gone
    }

    /// Did a stream that the API does not see take messages like this? Then its "no" says nothing here either.
    pub(super) fn may_be_hidden(&self, subject: &str) -> bool {
        self.hidden.iter().any(|like| like.is(subject))
    }

    /// The API is not asked any more: that it does not answer says nothing, and it will not answer later.
    pub(super) fn forget_api_silence(&mut self) {
        for lane in self.known.values_mut() {
            lane.asked = None;
            lane.says.take_if(|says| matches!(says, Says::Nothing | Says::NotNow));
        }
    }

    /// Another session.
    pub(super) fn renew(&mut self) {
        self.last = None;
        self.routed.clear();
        self.known.values_mut().for_each(Lane::renew);
    }
}

/// Must a stream be waited for, where nothing or a 503 came back? Then one is expected to be there.
pub(super) fn is_awaited(
    lane: Option<&Lane>,
    was_stored: bool,
    says: Option<Says>,
    server: Expected,
) -> bool {
    if lane.map_or(was_stored, |lane| lane.is_known(was_stored)) {
        return true;
    }
    match says {
        // A JetStream that cannot say is one that is there.
        Some(Says::Yes | Says::NotNow) => true,
        // Without JetStream, a subscriber to everything may keep the server from saying that nobody answers.
        Some(Says::Nothing) => server.has_jetstream,
        // It is another domain's that the user insists on.
        Some(Says::Nobody) => server.has_jetstream && server.delivery == Delivery::Jetstream,
        Some(Says::No) | None => false,
    }
}

/// What may be expected of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) has_jetstream: bool,
    pub(super) delivery: Delivery,
}
