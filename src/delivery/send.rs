//! What is sent, and when.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Action, BATCH, Machine, Says, Want,
    course::{Flow, Kept, Scout},
    flights::Flight,
    health::Link,
    proof::{Lane, Proving, Way, is_awaited},
};
use crate::{
    config::Delivery,
    fault,
    message::{self, EXPECTED_STREAM, Message},
    outbox::Sending,
};

/// Bytes in flight; a slow link gets this much at once.
const MOST_BYTES: usize = 4 << 20;
/// A stream that has not acknowledged a message for this long gets no further one: its leader may be gone, and the next
/// one would store what comes later before what is sent again. Electing one takes 4 s or more.
const HOLD: Duration = Duration::from_secs(1);
/// The marker's echo came, and nothing else for this long: there is no stream. An acknowledgement comes within
/// milliseconds of it; what a busy stream's disk may take longer is covered.
const GRACE: Duration = Duration::from_millis(250);
/// The same where a stream that the API does not see took other messages like this: it may just be electing its leader.
const LONG_GRACE: Duration = Duration::from_secs(10);
/// Where no marker comes back, a message counts as having got there after this long.
const SLOW: Duration = Duration::from_secs(2);
/// How long the API may take to answer before it counts as silent.
const FIND_OUT: Duration = Duration::from_secs(1);
/// Nothing has come back to the first message of a subject for this long: the API is asked as well.
const ASK_AFTER: Duration = Duration::from_millis(20);
/// Where a stream does not answer, it is asked about it so often at most.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Which messages are to be sent next, if any.
    pub(crate) fn wants(&mut self, now: Instant) -> Option<Want> {
        let room = self.room(now).min(BATCH);
        let bytes = MOST_BYTES.saturating_sub(self.flights.bytes);
        if room == 0 || bytes == 0 {
            return None;
        }
        while let Some(run) = self.courses.next_ready() {
            let again = self.next_of(run, now, room, bytes);
            if !again.is_empty() {
                return Some(Want::Again(again));
            }
        }
        Some(Want::Next { most: room, bytes })
    }

    /// Could anything be sent now?
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        self.room(now) > 0 && self.flights.bytes < MOST_BYTES
    }

    /// How many messages may be sent now.
    fn room(&self, now: Instant) -> usize {
        if !self.link.carries() || self.is_held(now) {
            return 0;
        }
        // From the oldest unconfirmed one on, so that none can be overtaken by more than the window.
        self.window().saturating_sub(self.flights.span())
    }

    /// Does a stream owe us an answer for too long to send more? (All runs wait then, until its run is set apart: a second.)
    fn is_held(&self, now: Instant) -> bool {
        self.oldest_acknowledged().is_some_and(|flight| now.saturating_duration_since(flight.sent) > HOLD)
    }

    /// The oldest message in flight, if it waits for a stream.
    fn oldest_acknowledged(&self) -> Option<&Flight> {
        self.flights.oldest().filter(|flight| flight.proving == Proving::Ack)
    }

    /// What of a run goes next: up to the first message of a subject that is to be tried. What nobody hears is put aside.
    fn next_of(&mut self, run: u64, now: Instant, room: usize, bytes: usize) -> Vec<u64> {
        let lanes = &mut self.lanes;
        let (mut next, mut unheard, mut size) = (Vec::new(), Vec::new(), 0);
        self.courses.change(run, |course| {
            let is_one = matches!(course.flow, Flow::One);
            while next.len() < room && size < bytes {
                let Some((seq, kept)) = course.waiting.pop_first() else { break };
                if *lanes.way(&kept.subject) == Way::Unheard {
                    unheard.push((seq, kept));
                    continue;
                }
                size += kept.size;
                next.push(seq);
                if is_one || lanes.proved(&kept.subject).is_none() {
                    break;
                }
            }
        });
        for (seq, kept) in unheard {
            self.park(now, run, seq, kept);
        }
        next
    }

    /// Sends a batch, and a marker behind it if that is what proves its delivery.
    pub(super) fn on_batch(&mut self, now: Instant, batch: Vec<Sending>, again: bool) {
        fault::panic_at("session.fill");
        let (mut marked, mut unproven) = (false, false);
        for sending in batch {
            self.at_work_on = Some(sending.seq);
            fault::panic_at("session.message");
            let Some(proving) = self.offer(now, sending, again) else { continue };
            marked |= proving.has_marker();
            unproven |= proving == Proving::Written;
        }
        self.at_work_on = None;
        if marked {
            self.mark();
        }
        if unproven {
            self.act(Action::Flush);
        }
    }

    /// Sends a message, if it is its turn. Returns how it will be proved, if it was sent.
    fn offer(&mut self, now: Instant, sending: Sending, again: bool) -> Option<Proving> {
        let Sending { seq, run, was_stored, ref message } = sending;
        let subject = &message.head.subject;
        if let Some(proving) = self.lanes.proved(subject)
            && self.courses.get(run).is_none()
        {
            // Nothing sets its run apart: mostly it is like that.
            return self.send(now, sending, proving).then_some(proving);
        }
        let subject = Arc::clone(subject);
        if let Some(reason) = self.lanes.why_closed(&subject, now) {
            self.reject(seq, reason.clone(), reason);
            return None;
        }
        let kept = Kept { subject: Arc::clone(&subject), size: message.size() };
        let (waits, is_scout) = match self.courses.get(run) {
            Some(course) => {
                let is_one = matches!(course.flow, Flow::One);
                let goes = is_one || matches!(course.flow, Flow::Free);
                // What is new comes after what waits.
                (!goes || (!again && !course.waiting.is_empty()), is_one)
            }
            None => (false, false),
        };
        if waits {
            self.courses.change(run, |course| course.waiting.insert(seq, kept));
            return None;
        }
        match self.lanes.way(&subject) {
            Way::Unheard => {
                self.park(now, run, seq, kept);
                None
            }
            Way::Proved(proving) if !is_scout || !proving.has_reply() => {
                let proving = *proving;
                self.send(now, sending, proving).then_some(proving)
            }
            Way::Proved(_) | Way::New | Way::Closed(..) => match self.certain(&subject, was_stored) {
                Some(proving) => {
                    self.lanes.set(&subject, Way::Proved(proving));
                    self.send(now, sending, proving).then_some(proving)
                }
                None if self.tries_parked_before(run, seq, again) => {
                    self.courses.change(run, |course| course.waiting.insert(seq, kept));
                    None
                }
                None => self.send(now, sending, Proving::First).then_some(Proving::First),
            },
        }
    }

    /// A message is about to be sent to see what comes back. Is something of its run to be tried before it?
    fn tries_parked_before(&mut self, run: u64, seq: u64, again: bool) -> bool {
        if self.courses.get(run).is_none() {
            return false;
        }
        let tried = self.courses.change(run, |course| {
            if !again {
                course.forget_tries();
            }
            course.take_parked_before(seq)
        });
        self.try_again(&tried);
        !tried.is_empty()
    }

    /// How messages are proved, if that does not depend on what comes back to the first one.
    fn certain(&self, subject: &str, was_stored: bool) -> Option<Proving> {
        let inbox = &self.visit.inbox;
        let is_like_others = || {
            let is_new = self.lanes.get(subject).is_none();
            inbox.echoes && !was_stored && is_new && self.lanes.is_routed(subject)
        };
        match self.terms.delivery {
            Delivery::Core if inbox.echoes => Some(Proving::Marker),
            Delivery::Core => Some(Proving::Written),
            Delivery::Auto | Delivery::Jetstream if !inbox.acks => Some(Proving::Written),
            Delivery::Auto if is_like_others() => Some(Proving::Echo),
            Delivery::Auto | Delivery::Jetstream => None,
        }
    }

    /// `false`: it cannot be sent at all, and goes to disk.
    fn send(&mut self, now: Instant, sending: Sending, proving: Proving) -> bool {
        let Sending { seq, run, was_stored, message } = sending;
        let size = message.size();
        let stream = self.terms.stream.clone().filter(|_| proving.names_stream());
        let Some((message, wire_size)) = self.fitted(seq, message, stream.as_deref()) else { return false };
        let ordinal = self.flights.next();
        let reply = proving.has_reply().then(|| self.visit.inbox.ack(ordinal, seq));
        let flight = Flight {
            ordinal,
            seq,
            run,
            head: Arc::clone(&message.head),
            bytes: message.payload.len(),
            size,
            wire_size,
            proving,
            was_stored,
            sent: now,
        };
        self.sent_below = self.sent_below.max(seq + 1);
        if proving == Proving::First {
            self.flights.skip();
            // Without an echo it cannot be told when the server has got it.
            let echoed = (!self.visit.inbox.echoes).then_some(now + SLOW);
            self.courses.change(run, |course| {
                let is_alone = matches!(course.flow, Flow::One);
                let silence = course.silence;
                course.flow = Flow::Scouting(Box::new(Scout { flight, echoed, silence, is_alone }));
            });
        } else {
            self.flights.add(flight);
        }
        self.act(Action::Send { seq, message, reply, stream });
        true
    }

    /// The message, cut to what the server takes, and its size on the wire.
    fn fitted(&mut self, seq: u64, message: Message, stream: Option<&str>) -> Option<(Message, usize)> {
        // The stream's header comes on top.
        let extra = stream.map_or(0, |stream| message::header_size(EXPECTED_STREAM.len(), stream.len()));
        match message.fit(self.max_payload().saturating_sub(extra)) {
            Ok(message) => {
                let wire_size = message.wire_size() + extra;
                Some((message, wire_size))
            }
            Err(message) => {
                let (size, limit) = (message.wire_size(), self.max_payload());
                let reason =
                    format!("{size} bytes do not fit into the server's max_payload of {limit} bytes");
                self.reject(seq, format!("too large for {}", message.head.subject), reason);
                None
            }
        }
    }

    /// Asks the server to tell when it has got all that was sent so far.
    fn mark(&mut self) {
        let Some(last) = self.flights.next().checked_sub(1).filter(|_| self.visit.inbox.echoes) else {
            return;
        };
        self.visit.marker_sent = Some(last);
        self.say(self.visit.inbox.marker(last), None, Bytes::new());
    }

    /// A message that will not be sent goes to disk.
    pub(super) fn reject(&mut self, seq: u64, cause: String, reason: String) {
        // That is why, whatever was wrong with it before.
        self.act(Action::Unheard(vec![seq], false));
        self.act(Action::Reject { seq, cause, reason });
    }

    /// Nobody hears this message: it is tried again later, or goes to disk if too many are.
    pub(super) fn park(&mut self, now: Instant, run: u64, seq: u64, kept: Kept) {
        if let Some(Action::Unheard(seqs, true)) = self.last_action() {
            seqs.push(seq);
        } else {
            self.act(Action::Unheard(vec![seq], true));
        }
        if self.parked_bytes + kept.size > self.terms.held {
            let reason = self.words_for_unheard(&kept.subject);
            let cause = format!("unheard {}", kept.subject);
            return self.act(Action::Reject { seq, cause, reason });
        }
        self.parked_bytes += kept.size;
        self.courses.change(run, |course| course.park(seq, kept, now));
    }

    /// What is to be said of a subject that nobody hears.
    pub(super) fn words_for_unheard(&self, subject: &str) -> String {
        match self.terms.delivery {
            Delivery::Jetstream => {
                format!("no stream takes messages on {subject} (delivery=jetstream); make one")
            }
            Delivery::Auto | Delivery::Core => format!(
                "nobody listens to {subject}, and no stream takes it: make one, or set delivery=core if that is meant"
            ),
        }
    }

    /// All messages that are under way.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().chain(self.courses.scouts().map(|scout| &scout.flight))
    }

    /// When to call with [`Input::Time`](super::Input::Time), if nothing else happens before.
    pub(crate) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        match self.link {
            Link::Greeting { until } => Some(until),
            Link::Up | Link::Leaving(_) => {
                let scouts = self.courses.scouts().map(|scout| self.scout_at(scout, now));
                let times = [self.stalls_at(), self.silent_at(), self.courses.wakes_at()];
                scouts.chain(times.into_iter().flatten()).min()
            }
            Link::Away | Link::Over => None,
        }
    }

    /// When to lose patience with the link: what was sent first has not come back.
    fn stalls_at(&self) -> Option<Instant> {
        let oldest = self.flights.oldest()?;
        Some(oldest.stalls_at(self.stall(), self.flights.bytes))
    }

    /// When something is to be done about a stream that does not answer.
    fn silent_at(&self) -> Option<Instant> {
        let flight = self.oldest_acknowledged().filter(|_| self.visit.inbox.echoes)?;
        let oldest = self.flights.oldest_ordinal();
        if self.visit.marker_sent.is_none_or(|sent| sent < oldest) {
            return Some(flight.sent + HOLD);
        }
        // As long as the marker is not back, the link is slow; that is another matter.
        let (_, back) = self.visit.marker_back.filter(|(ordinal, _)| *ordinal >= oldest)?;
        Some(back.max(flight.sent) + HOLD)
    }

    /// When something is to be done about a message that was sent to see what comes back.
    fn scout_at(&self, scout: &Scout, now: Instant) -> Instant {
        let Some(echoed) = scout.echoed else {
            return scout.flight.stalls_at(self.stall(), self.flights.bytes + scout.flight.bytes);
        };
        if self.is_to_be_asked(scout.flight.subject()) {
            return scout.flight.sent + ASK_AFTER;
        }
        self.decides_at(scout, echoed, now)
    }

    /// When silence has said enough.
    fn decides_at(&self, scout: &Scout, echoed: Instant, now: Instant) -> Instant {
        if self.awaits_stream(now, &scout.flight) {
            return echoed + HOLD;
        }
        let subject = scout.flight.subject();
        let asked = self.lanes.get(subject).and_then(Lane::asked);
        let is_asked = asked.filter(|_| self.says(now, subject).is_none());
        match is_asked {
            // One that has JetStream, and does not answer for it in time, is to be waited for.
            Some(asked) if self.expected().has_jetstream => asked + FIND_OUT,
            _ if self.lanes.may_be_hidden(subject) => echoed + LONG_GRACE,
            _ => echoed + GRACE,
        }
    }

    /// What the API says of this subject; `None`: not asked, or it may still answer.
    fn says(&self, now: Instant, subject: &str) -> Option<Says> {
        self.lanes.get(subject).and_then(|lane| lane.says(now, FIND_OUT))
    }

    /// Must a stream be waited for, where nothing or a 503 came back to this message?
    pub(super) fn awaits_stream(&self, now: Instant, flight: &Flight) -> bool {
        let subject = flight.subject();
        is_awaited(self.lanes.get(subject), flight.was_stored, self.says(now, subject), self.expected())
    }

    /// Has the API not been asked about this subject yet, and may it be?
    fn is_to_be_asked(&self, subject: &str) -> bool {
        self.visit.api.may_be_asked && self.lanes.get(subject).is_none_or(|lane| lane.asked().is_none())
    }

    /// Asks the API about a subject, in the background.
    pub(super) fn ask(&mut self, now: Instant, subject: &Arc<str>) {
        /// Answers that never come must not be waited for without end.
        const MOST: usize = 100;
        let asked = self.lanes.get(subject).and_then(Lane::asked);
        let is_again = asked.is_some_and(|asked| now.saturating_duration_since(asked) < ASK_AGAIN);
        if is_again || !self.visit.api.may_be_asked {
            return;
        }
        self.lanes.of(subject).ask(now);
        let api = &mut self.visit.api;
        api.asked += 1;
        if api.questions.len() >= MOST {
            api.questions.clear();
        }
        let number = api.asked;
        api.questions.insert(number, Arc::clone(subject));
        let request = serde_json::json!({ "subject": &**subject }).to_string();
        let reply = self.visit.inbox.question(number);
        self.say(format!("{}.STREAM.NAMES", self.terms.api), Some(reply), request.into());
    }

    /// The time that was asked for has come.
    pub(super) fn on_time(&mut self, now: Instant) {
        if let Link::Greeting { until } = self.link {
            if until <= now {
                self.no_hello();
            }
            return;
        }
        if self.stalls_at().is_some_and(|at| at <= now) {
            return self.on_stall(now);
        }
        if self.silent_at().is_some_and(|at| at <= now) {
            self.on_silence(now);
        }
        for run in self.courses.due(now) {
            let tried = self.courses.change(run, |course| course.on_time(now));
            self.try_again(&tried);
        }
        let due: Vec<u64> = self
            .courses
            .scouts()
            .filter(|scout| self.scout_at(scout, now) <= now)
            .map(|scout| scout.flight.run)
            .collect();
        for run in due {
            self.on_silent_scout(now, run);
            if self.is_over() {
                return;
            }
        }
    }

    /// What nobody heard is to be tried again.
    pub(super) fn try_again(&mut self, tried: &BTreeMap<u64, Kept>) {
        for kept in tried.values() {
            self.parked_bytes = self.parked_bytes.saturating_sub(kept.size);
            if *self.lanes.way(&kept.subject) == Way::Unheard {
                self.lanes.set(&kept.subject, Way::New);
            }
        }
    }

    /// The oldest message in flight waits for a stream for too long.
    fn on_silence(&mut self, now: Instant) {
        let oldest = self.flights.oldest_ordinal();
        if self.visit.marker_sent.is_none_or(|sent| sent < oldest) {
            return self.mark();
        }
        // The server has the message, and the stream says nothing: what it got may be lost.
        let Some(flight) = self.oldest_acknowledged() else { return };
        let (run, subject) = (flight.run, Arc::clone(flight.subject()));
        self.miss_stream(now, run, &subject, "no acknowledgement", Duration::ZERO);
    }

    /// Nothing came back to a message that was sent for that.
    fn on_silent_scout(&mut self, now: Instant, run: u64) {
        let Some(scout) = self.courses.get(run).and_then(|course| course.scout()) else { return };
        let subject = Arc::clone(scout.flight.subject());
        let Some(echoed) = scout.echoed else {
            return self.on_stall(now);
        };
        if self.is_to_be_asked(&subject) {
            return self.ask(now, &subject);
        }
        if self.decides_at(scout, echoed, now) > now {
            return;
        }
        match self.terms.delivery {
            _ if self.awaits_stream(now, &scout.flight) => {
                let hint = match self.lanes.get(&subject) {
                    Some(lane) if !lane.was_acknowledged => " (is it made with no_ack?)",
                    _ => "",
                };
                self.miss_stream(now, run, &subject, &format!("no acknowledgement{hint}"), Duration::ZERO);
            }
            Delivery::Jetstream if self.says(now, &subject) == Some(Says::No) => {
                self.on_unheard_scout(now, run);
            }
            Delivery::Jetstream => {
                self.miss_stream(now, run, &subject, "no acknowledgement", Duration::ZERO);
            }
            // Subscribers, and no stream.
            Delivery::Auto | Delivery::Core => self.on_heard_scout(run),
        }
    }
}
