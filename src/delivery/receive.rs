//! What comes in, and what it means.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ack, Action, Machine, STALL, Says, Tell,
    course::{Course, Flow, Kept, Meanwhile, Scout, Silence},
    flights::Flight,
    health::{Leaving, Link},
    proof::{Proving, Way},
};
use crate::{config::Delivery, outbox::Proof};

/// async-nats drops events beyond 128 at once; far fewer are surely all there.
const EVENTS_TRUSTED: usize = 64;
/// Pause after a transient error of the stream: the server says at once that nobody answers. One message of each run is
/// tried again until something is answered, so that this costs next to nothing.
const PAUSE: Duration = Duration::from_millis(25);
/// The same where a stream has been missing for longer than an election takes.
const LONG_PAUSE: Duration = Duration::from_millis(250);
const ELECTION: Duration = Duration::from_secs(10);

impl Machine {
    pub(super) fn confirm(&mut self, seq: u64, proof: Proof) {
        self.visit.confirmed_any = true;
        if let Some(Action::Confirm(confirmed)) = self.last_action() {
            confirmed.push((seq, proof));
        } else {
            self.act(Action::Confirm(vec![(seq, proof)]));
        }
    }

    /// The answer to a message. Stored is stored, whichever copy it was (a number is never used twice); anything else
    /// that is said of a copy which was sent again since says nothing.
    pub(super) fn on_ack(&mut self, now: Instant, ordinal: u64, seq: u64, ack: Ack) {
        // What we did not ask for, or have never sent, proves nothing.
        if self.terms.delivery == Delivery::Core || seq >= self.sent_below {
            return;
        }
        let scout = self.courses.take_scout(ordinal, seq, &ack);
        let silence = scout.as_ref().map(|scout| scout.silence);
        let flight = scout.map(|scout| scout.flight).or_else(|| self.flights.remove(ordinal, seq));
        let Some(flight) = flight else { return self.on_late_ack(now, seq, &ack) };
        match ack {
            Ack::Stored => {
                if let Some(proof) = flight.proving.on_stored() {
                    self.confirm(seq, proof);
                }
                self.on_stored(now, &flight);
                if silence.is_some() {
                    self.release(flight.run);
                }
            }
            Ack::Refused { code, reason } => {
                let subject = flight.subject();
                let cause = format!("refused {subject} {code}");
                let reason = format!("the stream refused a message on {subject}: {reason} ({code})");
                self.reject(seq, cause, reason);
                // It is there, and answers.
                self.learn_of_stream(now, flight.subject());
                if silence.is_some() {
                    self.release(flight.run);
                }
            }
            Ack::NotNow(reason) => {
                // There is one that takes this subject.
                self.learn_of_stream(now, flight.subject());
                self.miss_stream_of(now, &flight, &reason, PAUSE);
            }
            Ack::Nobody => self.on_nobody(now, &flight, silence.unwrap_or(Silence::NONE)),
        }
    }

    /// The answer to a copy that was sent again since, or is to be, or that the server's echo has confirmed meanwhile: an
    /// acknowledgement comes later than that. Then there is a stream for those that follow.
    fn on_late_ack(&mut self, now: Instant, seq: u64, ack: &Ack) {
        if *ack == Ack::Stored {
            self.confirm(seq, Proof::Stored);
            // Those that follow on its subject are waited for, too.
            if let Some(Meanwhile { subject, tried }) = self.courses.stored_meanwhile(seq) {
                self.try_again(&tried);
                self.learn_of_stream(now, &subject);
            }
            self.on_streams_well();
        }
        if let Some(subject) = self.visit.echoed.subject(seq).filter(|_| *ack != Ack::Nobody) {
            self.learn_of_stream(now, &subject);
        }
    }

    /// A stream has answered for this subject.
    fn learn_of_stream(&mut self, now: Instant, subject: &Arc<str>) {
        if self.lanes.on_acknowledged(subject) {
            self.flights.wait_for_stream(subject);
            // Whether the API sees it, too: then it can say one day that it is gone.
            self.visit.api.later.push_back(Arc::clone(subject));
            self.ask_next(now);
        }
    }

    /// A stream has stored something. If none is missing any more, people may know.
    fn on_streams_well(&mut self) {
        if !self.streams.store() {
            return;
        }
        self.tell_if_mended();
        if self.link == Link::Leaving(Leaving::NoStream) {
            self.link.become_(Link::Up);
        }
    }

    /// A trouble has ended: people are told when it was the last one.
    fn tell_if_mended(&mut self) {
        if !self.courses.are_in_trouble() {
            self.act(Action::Tell(Tell::Mended));
        }
    }

    /// A stream has stored a message.
    fn on_stored(&mut self, now: Instant, flight: &Flight) {
        if self.courses.get(flight.run).is_some() {
            self.courses.change(flight.run, Course::find_stream);
        }
        self.on_streams_well();
        self.learn_of_stream(now, flight.subject());
    }

    /// Asks the API about the streams that have shown, one after the other.
    fn ask_next(&mut self, now: Instant) {
        /// More than this are forgotten: a stream of which it is not known whether the API sees it is waited for.
        const MOST: usize = 64;
        let api = &mut self.visit.api;
        while api.later.len() > MOST {
            api.later.pop_front();
        }
        while self.visit.api.questions.is_empty()
            && let Some(subject) = self.visit.api.later.pop_front()
        {
            self.ask(now, &subject);
        }
    }

    /// Neither a stream nor a subscriber wants this message.
    fn on_nobody(&mut self, now: Instant, flight: &Flight, silence: Silence) {
        let subject = Arc::clone(flight.subject());
        self.ask(now, &subject);
        if self.awaits_stream(now, flight) {
            return self.miss_stream_of(now, flight, "no stream answers", PAUSE);
        }
        self.set_aside(now, flight, silence);
    }

    /// Nobody hears this message. For a moment its run waits for that, so that all of it comes in order; then its other
    /// subjects go on without this one.
    fn set_aside(&mut self, now: Instant, flight: &Flight, silence: Silence) {
        let (run, seq, subject) = (flight.run, flight.seq, Arc::clone(flight.subject()));
        let text = format!("{}; messages are held and tried again", self.words_for_unheard(&subject));
        self.problem(format!("unheard {subject}"), text);
        let waits =
            self.courses.change(run, |course| course.wait_together(seq, Kept::of(flight), now, silence));
        if !waits {
            self.lanes.set(&subject, Way::Unheard);
            self.park(now, run, seq, Kept::of(flight));
        }
    }

    pub(super) fn on_unheard_scout(&mut self, now: Instant, run: u64) {
        if let Some(Scout { flight, silence, .. }) = self.courses.take_scout_of(run) {
            self.set_aside(now, &flight, silence);
        }
    }

    /// A run's message got its answer: the others follow.
    fn release(&mut self, run: u64) {
        if self.courses.get(run).is_none() {
            return;
        }
        let (ended, again) = self.courses.change(run, |course| {
            course.flow = Flow::Free;
            let ended = course.end_silence();
            (ended, course.waiting.keys().copied().filter(|_| ended).collect::<Vec<u64>>())
        });
        if ended {
            self.tell_if_mended();
        }
        if !again.is_empty() {
            self.act(Action::Unheard(again, false));
        }
    }

    /// There are subscribers, and no stream.
    pub(super) fn on_heard_scout(&mut self, run: u64) {
        let Some(Scout { flight, .. }) = self.courses.take_scout_of(run) else { return };
        self.visit.echoed.add(flight.seq, flight.subject());
        let (proving, proof) = if self.visit.inbox.echoes {
            (Proving::Echo, Proof::Routed)
        } else {
            (Proving::Written, Proof::None)
        };
        self.confirm(flight.seq, proof);
        self.lanes.on_routed(flight.subject(), proving);
        self.release(run);
    }

    /// The stream that is to take this message is not there.
    fn miss_stream_of(&mut self, now: Instant, flight: &Flight, reason: &str, pause: Duration) {
        let (run, subject) = (flight.run, Arc::clone(flight.subject()));
        self.courses.change(run, |course| course.waiting.insert(flight.seq, Kept::of(flight)));
        self.miss_stream(now, run, &subject, reason, pause);
    }

    /// All messages of the run that wait for a stream are sent again, one first, after a pause in which the other runs go
    /// on; meanwhile the API is asked whether there still is a stream.
    pub(super) fn miss_stream(
        &mut self,
        now: Instant,
        run: u64,
        subject: &Arc<str>,
        reason: &str,
        pause: Duration,
    ) {
        let mut back =
            self.flights.remove_where(|flight| flight.run == run && flight.proving == Proving::Ack);
        back.extend(self.courses.take_scout_of(run).map(|scout| scout.flight));
        let missed_for = now.saturating_duration_since(self.streams.miss(now));
        let waiting = self.courses.change(run, |course| {
            let is_long = now.saturating_duration_since(course.miss_stream(now)) > ELECTION;
            let pause = if is_long { pause.max(LONG_PAUSE) } else { pause };
            course.waiting.extend(back.iter().map(|flight| (flight.seq, Kept::of(flight))));
            course.flow = Flow::Paused(now + pause);
            course.waiting.keys().copied().collect()
        });
        // Somebody may have heard these before, or will; it is a stream that they wait for.
        self.act(Action::Unheard(waiting, false));
        self.problem("stream", format!("the stream is not available: {reason}; trying again"));
        self.ask(now, subject);
        if missed_for > STALL {
            self.leave(Leaving::NoStream);
        }
    }

    /// The server has got all that was sent up to this number.
    pub(super) fn on_marker(&mut self, now: Instant, ordinal: u64) {
        // A marker that we have not sent proves nothing.
        if self.visit.marker_sent.is_none_or(|sent| ordinal > sent) {
            return;
        }
        if std::mem::take(&mut self.visit.violations) >= EVENTS_TRUSTED {
            // async-nats may have dropped some: what is still forbidden will say so again.
            return self.begin_anew();
        }
        if self.visit.marker_back.is_none_or(|(back, _)| back < ordinal) {
            self.visit.marker_back = Some((ordinal, now));
        }
        for flight in self.flights.remove_up_to(ordinal, |flight| flight.proving.on_marker().is_some()) {
            if let Some(proof) = flight.proving.on_marker() {
                self.confirm(flight.seq, proof);
            }
            if flight.proving.has_reply() {
                self.visit.echoed.add(flight.seq, flight.subject());
            }
        }
        self.courses.echo(ordinal, now);
    }

    /// All that was sent is written.
    pub(super) fn on_written(&mut self) {
        for flight in self.flights.remove_where(|flight| flight.proving.on_written().is_some()) {
            if let Some(proof) = flight.proving.on_written() {
                self.confirm(flight.seq, proof);
            }
        }
    }

    /// The API says whether a stream takes a subject.
    pub(super) fn on_api(&mut self, now: Instant, question: u64, says: Says) {
        let Some(subject) = self.visit.api.questions.remove(&question) else { return };
        if self.lanes.on_api(&subject, says) {
            self.problem("stream", format!("the stream that took {subject} is gone"));
        }
        if says == Says::Nobody && !self.expected().has_jetstream {
            // Where nobody answers for it, nobody need be asked again in this session.
            self.stop_asking();
        }
        self.ask_next(now);
    }

    /// The API is not asked any more, and what it has not said it will not say.
    fn stop_asking(&mut self) {
        self.visit.api.may_be_asked = false;
        self.visit.api.questions.clear();
        self.lanes.forget_api_silence();
    }

    /// The server does not let us use a subject. All messages on it go to disk: those in flight and those to come.
    pub(super) fn on_forbidden(&mut self, now: Instant, publish: bool, subject: &str) {
        if self.visit.inbox.has(subject) {
            if self.link.is_greeting() {
                self.visit.inbox.echoes = false;
                // Streams may still answer to it.
                self.visit.inbox.acks = publish;
                self.greet();
            }
            return;
        }
        if !publish {
            return;
        }
        if subject.strip_prefix(self.terms.api.as_str()).is_some_and(|rest| rest.starts_with('.')) {
            return self.stop_asking();
        }
        let subject: Arc<str> = subject.into();
        let mut in_flight = self.flights.remove_where(|flight| *flight.subject() == subject);
        let scouts = self.courses.scouts().filter(|scout| *scout.flight.subject() == subject);
        let runs: Vec<u64> = scouts.map(|scout| scout.flight.run).collect();
        for run in runs {
            in_flight.extend(self.courses.take_scout_of(run).map(|scout| scout.flight));
            self.release(run);
        }
        // A server could go on for ever about subjects that we never used.
        if in_flight.is_empty() && self.lanes.get(&subject).is_none() {
            return;
        }
        self.visit.violations += 1;
        let reason = format!("the server does not let this user publish to {subject}");
        for flight in in_flight {
            self.reject(flight.seq, reason.clone(), reason.clone());
        }
        self.lanes.close(&subject, reason, now);
    }
}
