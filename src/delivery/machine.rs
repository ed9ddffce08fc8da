//! What the machine is told, and what it answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Action, End, Heard, Inbox, Input, STALL, Server, Tell, Why,
    course::Courses,
    flights::{Flights, Subjects},
    health::{Leaving, Link, Streams},
    proof::{Expected, Lanes},
};
use crate::config::{Connection, Delivery};

/// The smallest `max_payload` that we settle for, in bytes: a server that refuses such messages is of no use.
const LEAST_PAYLOAD: usize = 1 << 9;
/// What nobody hears may take a part of the memory alone, one in so many: it must not hold up the others.
pub(super) const HELD: usize = 4;
/// Rises no further.
const MOST_PATIENCE: u32 = 16;

/// What does not change.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// What is to prove that a message arrived.
    pub(crate) delivery: Delivery,
    /// Messages in flight, unconfirmed.
    pub(crate) window: usize,
    /// The stream that must take the messages.
    pub(crate) stream: Option<Arc<str>>,
    /// Where the JetStream API is.
    pub(crate) api: String,
    /// What the inbox begins with.
    pub(crate) inbox_prefix: String,
    /// How long our first word may take to come back.
    pub(crate) connect_timeout: Duration,
    /// A server that is of no use for less than this is asked again after a pause alone.
    pub(crate) reconnect_time_wait: Duration,
    /// What messages that nobody hears may take in memory, in bytes.
    pub(crate) held: usize,
}

impl Terms {
    /// As the options say.
    pub(crate) fn of(connection: &Connection) -> Self {
        Self {
            delivery: connection.delivery,
            window: connection.window,
            stream: connection.stream.as_deref().map(Arc::from),
            api: connection.jetstream_api.clone(),
            inbox_prefix: connection.inbox_prefix.clone(),
            connect_timeout: connection.connect_timeout,
            reconnect_time_wait: connection.reconnect_time_wait,
            held: connection.pending_size / HELD,
        }
    }
}

/// Delivers what the outbox holds through one connection after the other.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) terms: Terms,
    pub(super) link: Link,
    /// What this connection has brought so far.
    pub(super) visit: Visit,
    pub(super) streams: Streams,
    pub(super) lanes: Lanes,
    pub(super) courses: Courses,
    pub(super) flights: Flights,
    /// Rises while connections stall without getting anything through: smaller windows, longer waits.
    patience: u32,
    /// The most that a message may take, in bytes, as far as we had to learn it.
    learnt_payload: usize,
    /// Every message with a lower number was sent at some time: nothing is proved of those above.
    pub(super) sent_below: u64,
    /// Of the messages that nobody hears and that are in memory.
    pub(super) parked_bytes: usize,
    actions: VecDeque<Action>,
    /// The message that is being looked at: should that panic, it is to blame.
    pub(super) at_work_on: Option<u64>,
}

/// What one connection has brought so far.
#[derive(Debug, Default)]
pub(super) struct Visit {
    pub(super) server: Option<Server>,
    pub(super) inbox: Inbox,
    pub(super) since: Option<Instant>,
    pub(super) confirmed_any: bool,
    /// The server has announced that it will go.
    is_lame: bool,
    /// The last marker that was sent, and the last that came back, and when.
    pub(super) marker_sent: Option<u64>,
    pub(super) marker_back: Option<(u64, Instant)>,
    /// Refusals since the last marker.
    pub(super) violations: usize,
    pub(super) api: Api,
    /// What the server's echo has confirmed: a stream's answer may come later.
    pub(super) echoed: Subjects,
}

/// The JetStream API, as far as this connection has come to know it.
#[derive(Debug)]
pub(super) struct Api {
    /// The server lets us ask, and somebody answers.
    pub(super) may_be_asked: bool,
    /// Questions that wait for an answer, by number.
    pub(super) questions: HashMap<u64, Arc<str>>,
    pub(super) asked: u64,
    /// What is to be asked about when the last question is answered.
    pub(super) later: VecDeque<Arc<str>>,
}

impl Default for Api {
    fn default() -> Self {
        Self { may_be_asked: true, questions: HashMap::new(), asked: 0, later: VecDeque::new() }
    }
}

impl Machine {
    /// A machine without a connection.
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            link: Link::Away,
            visit: Visit::default(),
            streams: Streams::default(),
            lanes: Lanes::default(),
            courses: Courses::default(),
            flights: Flights::default(),
            patience: 1,
            learnt_payload: usize::MAX,
            sent_below: 0,
            parked_bytes: 0,
            actions: VecDeque::new(),
            at_work_on: None,
        }
    }

    /// Something happened: notes what is to be done.
    pub(crate) fn on(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected(server) => self.on_connected(now, server),
            // What is on its way from a connection that is over means nothing.
            _ if self.is_over() => {}
            Input::Taken(batch) => self.on_batch(now, batch, false),
            Input::TakenAgain(batch) => self.on_batch(now, batch, true),
            Input::Heard(heard) => self.on_heard(now, heard),
            Input::Forbidden { publish, subject } => self.on_forbidden(now, publish, &subject),
            Input::LameDuck => {
                self.visit.is_lame = true;
                self.leave(Leaving::LameDuck);
            }
            Input::Flushed(true) => self.on_written(),
            Input::Flushed(false) => self.on_gone(now, "the server does not read what we send".to_owned()),
            Input::Time => self.on_time(now),
            Input::Found => self.on_found(),
            Input::Rest => self.end(End { why: Why::Idle, is_useless: false }),
            Input::Gone(reason) => self.on_gone(now, reason),
        }
        if self.courses.tidy() {
            // Nobody is left whom it concerns.
            self.act(Action::Tell(Tell::Mended));
        }
    }

    /// The next thing to do.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How answers are told apart.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.visit.inbox
    }

    /// Is an answer waited for?
    pub(crate) fn is_waiting(&self) -> bool {
        self.flights.len() > 0 || self.courses.scouts().next().is_some() || self.link.is_greeting()
    }

    /// Do messages go through the connection? It is known then whether confirmations can come back.
    pub(crate) fn carries(&self) -> bool {
        self.link.carries()
    }

    /// Nothing is taken from the outbox any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.link, Link::Away | Link::Over)
    }

    /// How long the server may take to read what is written.
    pub(crate) fn stall(&self) -> Duration {
        STALL * self.patience
    }

    /// What was being looked at when something panicked. The connection counts as gone, with all that was under way.
    pub(crate) fn after_panic(&mut self) -> Option<u64> {
        self.actions.clear();
        self.link.become_(Link::Over);
        self.at_work_on.take()
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// The last action, to be added to.
    pub(super) fn last_action(&mut self) -> Option<&mut Action> {
        self.actions.back_mut()
    }

    pub(super) fn say(&mut self, subject: String, reply: Option<String>, payload: Bytes) {
        self.act(Action::Say { subject, reply, payload });
    }

    pub(super) fn problem(&mut self, cause: impl Into<String>, text: String) {
        self.act(Action::Tell(Tell::Problem { cause: cause.into(), text }));
    }

    pub(super) fn window(&self) -> usize {
        (self.terms.window / self.patience as usize).max(1)
    }

    pub(super) fn max_payload(&self) -> usize {
        let servers = self.visit.server.as_ref().map_or(usize::MAX, |server| server.max_payload);
        servers.min(self.learnt_payload)
    }

    pub(super) fn expected(&self) -> Expected {
        Expected {
            has_jetstream: self.visit.server.as_ref().is_some_and(|server| server.jetstream),
            delivery: self.terms.delivery,
        }
    }

    pub(super) fn has_others(&self) -> bool {
        self.visit.server.as_ref().is_some_and(|server| server.has_others)
    }

    fn on_connected(&mut self, now: Instant, server: Server) {
        self.actions.clear();
        self.visit = Visit {
            inbox: Inbox::new(&self.terms.inbox_prefix, &server.nonce),
            server: Some(server),
            since: Some(now),
            ..Visit::default()
        };
        self.streams = Streams::default();
        self.lanes.renew();
        self.begin_anew();
        self.link.become_(Link::Greeting { until: now + self.terms.connect_timeout });
        self.say(self.visit.inbox.hello(), None, Bytes::new());
    }

    /// Nothing is under way: all that is unconfirmed is sent again.
    pub(super) fn begin_anew(&mut self) {
        self.flights.clear();
        self.courses = Courses::default();
        self.parked_bytes = 0;
        self.act(Action::Rewind);
    }

    /// Our first word is back, or we know that it will not come.
    pub(super) fn greet(&mut self) {
        if !self.link.is_greeting() {
            return;
        }
        self.link.become_(Link::Up);
        if self.visit.is_lame {
            self.leave(Leaving::LameDuck);
        }
        let inbox = &self.visit.inbox;
        if !inbox.echoes {
            let text = format!(
                "the server does not let us use the inbox {}.>: {}; allow this user to publish and subscribe \
                 there (inbox_prefix)",
                inbox.prefix(),
                if inbox.acks { "only streams can confirm" } else { "nothing can be confirmed" },
            );
            self.problem("inbox", text);
        }
    }

    /// Another server would be better, if there is one.
    pub(super) fn leave(&mut self, why: Leaving) {
        let known = match &self.link {
            Link::Leaving(known) => Some(known.clone()),
            _ => None,
        };
        // What will go is left for that reason, whatever else is wrong with it.
        let is_news = known != Some(Leaving::LameDuck) && known.as_ref() != Some(&why);
        if !self.link.carries() || !self.has_others() || !is_news {
            return;
        }
        self.link.become_(Link::Leaving(why));
        if known.is_none() {
            self.act(Action::Look);
        }
    }

    fn on_found(&mut self) {
        let Link::Leaving(why) = &self.link else { return };
        let why = match why {
            Leaving::LameDuck => Why::LameDuck,
            Leaving::NoStream => Why::Elsewhere("it has had no stream for us for too long".to_owned()),
        };
        let is_useless = matches!(why, Why::Elsewhere(_)) && !self.visit.confirmed_any;
        self.end(End { why, is_useless });
    }

    pub(super) fn no_hello(&mut self) {
        self.end(End { why: Why::NoHello, is_useless: true });
    }

    /// What was sent does not come back. Perhaps the link is slow: the next connection gets more time for less, even if
    /// this one has confirmed its first messages, or each would carry no more than those.
    pub(super) fn on_stall(&mut self, now: Instant) {
        let stall = self.stall().as_secs();
        let patience = self.more_patience();
        self.on_gone(now, format!("no confirmation for {stall} s"));
        self.patience = patience;
    }

    fn more_patience(&self) -> u32 {
        (self.patience * 2).min(MOST_PATIENCE)
    }

    /// The connection is gone, or cannot be trusted any more.
    pub(super) fn on_gone(&mut self, now: Instant, reason: String) {
        let is_greeting = self.link.is_greeting();
        let lasted = self.visit.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let largest = self.in_flight().map(|flight| flight.wire_size).max();
        let is_oversize = reason.to_lowercase().contains("maximum payload violation");
        if let Some(size) = largest.filter(|_| is_oversize) {
            let is_useless = size < LEAST_PAYLOAD;
            if !is_useless {
                // Halving ends soon.
                self.learnt_payload = size / 2;
                self.patience = 1;
            }
            let limit = self.learnt_payload.min(size);
            return self.end(End { why: Why::Oversize { size, limit }, is_useless });
        }
        let is_stuck = !self.visit.confirmed_any && largest.is_some() && self.visit.marker_back.is_none();
        self.patience = if is_stuck { self.more_patience() } else { 1 };
        // A server that accepts us and then is of no use must not be asked without a pause.
        let is_short = lasted < self.terms.reconnect_time_wait;
        let is_useless = is_greeting || is_stuck || (is_short && !self.visit.confirmed_any);
        self.end(End { why: Why::Lost(reason), is_useless });
    }

    fn end(&mut self, end: End) {
        self.link.become_(Link::Over);
        self.act(Action::End(end));
    }

    /// A heard word that concerns the greeting, or what is under way.
    fn on_heard(&mut self, now: Instant, heard: Heard) {
        match heard {
            Heard::Hello => self.greet(),
            Heard::Ack { ordinal, seq, ack } => self.on_ack(now, ordinal, seq, ack),
            Heard::Marker(ordinal) => self.on_marker(now, ordinal),
            Heard::Api { question, says } => self.on_api(now, question, says),
        }
    }
}
