//! What comes in, and what it means.

use std::{sync::Arc, time::Duration};

use async_nats::Event;
use tokio::time::Instant;

use super::{Answer, Broken, End, Incoming, Session, Step, Violation, send::BATCH};
use crate::{fault, nats::jetstream::Ack, outbox::Proof};

/// async-nats drops events beyond 128 at once; far fewer are surely all there.
const EVENTS_TRUSTED: usize = 64;
/// Pause after a transient error of the stream: the server says at once that nobody answers. One message is tried again
/// until something is answered, so that this costs next to nothing.
const PAUSE: Duration = Duration::from_millis(25);

impl Session<'_> {
    /// Handles one thing that came in, and all that came with it.
    pub(super) async fn on_incoming(&mut self, first: Incoming) -> Step<()> {
        fault::panic_at("session.incoming");
        let mut confirmed = Vec::new();
        let mut incoming = Some(first);
        let mut result = Ok(());
        while let Some(one) = incoming {
            result = self.on_one(one, &mut confirmed).await;
            if result.is_err() || confirmed.len() >= BATCH {
                break;
            }
            incoming = self.wire.at_hand();
        }
        self.confirm(&confirmed);
        result
    }

    pub(super) fn confirm(&mut self, confirmed: &[(u64, Proof)]) {
        self.confirmed_any |= !confirmed.is_empty();
        self.outbox.confirm(confirmed);
    }

    pub(super) async fn on_one(&mut self, incoming: Incoming, confirmed: &mut Vec<(u64, Proof)>) -> Step<()> {
        match incoming {
            Incoming::Gone => return Err(self.lost("connection closed")),
            Incoming::Event(event) => self.on_any_event(event)?,
            Incoming::Message(message) => match self.inbox.understand(&message.subject) {
                Answer::Ack { attempt, seq } => self.on_ack(attempt, seq, Ack::read(&message), confirmed),
                // A marker that we have not sent proves nothing.
                Answer::Marker { attempt, seq }
                    if attempt == self.attempt && seq < self.window.sent_below =>
                {
                    self.on_marker(seq, confirmed).await?;
                }
                Answer::Probe { attempt, seq } => self.window.on_probe(attempt, seq),
                Answer::Question(number) => self.on_answer(number, &message),
                Answer::Hello | Answer::Marker { .. } | Answer::Other => {}
            },
        }
        Ok(())
    }

    async fn on_marker(&mut self, seq: u64, confirmed: &mut Vec<(u64, Proof)>) -> Step<()> {
        // A refusal of a message before the marker came before it, but on another way: let async-nats' event task
        // speak first.
        tokio::task::yield_now().await;
        while let Some(event) = self.wire.event_at_hand() {
            self.on_any_event(event)?;
        }
        if std::mem::take(&mut self.violations) >= EVENTS_TRUSTED {
            // async-nats may have dropped some: what is still forbidden will say so again.
            self.rewind();
            return Ok(());
        }
        self.window.answered = Some(self.attempt);
        confirmed.extend(self.flights.echoed(seq).into_iter().map(|seq| (seq, Proof::Routed)));
        Ok(())
    }

    fn on_any_event(&mut self, event: Event) -> Step<()> {
        if let Some(violation) = self.on_event(event)? {
            self.forbid(&violation);
        }
        Ok(())
    }

    /// What async-nats tells; a permission violation is returned, to be dealt with where it matters.
    pub(super) fn on_event(&mut self, event: Event) -> Step<Option<Violation>> {
        match event {
            Event::LameDuckMode => Err(Broken(End::LameDuck)),
            Event::ServerError(error) => {
                let text = error.to_string();
                let violation = Violation::parse(&text);
                if violation.is_none() {
                    self.wire.heard(text);
                }
                Ok(violation)
            }
            _ => Ok(None),
        }
    }

    /// All messages of a subject that we may not publish to go to disk: those in flight and those to come.
    fn forbid(&mut self, violation: &Violation) {
        if !violation.publish {
            return;
        }
        if self.is_question(&violation.subject) {
            self.forbid_questions();
            return;
        }
        let subject: Arc<str> = violation.subject.as_str().into();
        let in_flight = self.flights.of_subject(&subject);
        // A server could go on for ever about subjects that we never used.
        if in_flight.is_empty() && !self.proofs.is_in_use(&subject) {
            return;
        }
        self.violations += 1;
        let reason = format!("the server does not let this user publish to {subject}");
        for seq in in_flight {
            self.reject(seq, &reason, &reason);
        }
        self.proofs.close(&subject, reason);
    }

    /// A stream's answer. Stored is stored, whichever copy it was (a number is never used twice); an error of a copy
    /// that was sent again since says nothing.
    fn on_ack(&mut self, attempt: u64, seq: u64, ack: Ack, confirmed: &mut Vec<(u64, Proof)>) {
        let of_this_attempt = attempt == self.attempt;
        if !of_this_attempt && ack != Ack::Stored {
            return;
        }
        if self.flights.get(seq).is_some_and(|flight| flight.proof != Proof::Stored) {
            // We did not ask for it.
            return;
        }
        match (ack, self.flights.remove(seq)) {
            // Of an earlier attempt too: the outbox knows whether it was still waiting for this.
            (Ack::Stored, flight) => {
                if of_this_attempt {
                    self.window.answered = Some(self.attempt);
                }
                if seq < self.window.sent_below {
                    confirmed.push((seq, Proof::Stored));
                    if self.troubled_since.take().is_some() {
                        self.notices.mended();
                    }
                }
                if let Some(flight) = flight {
                    self.proofs.on_acknowledged(&flight.head.subject);
                }
            }
            // A refusal of what is not in flight says nothing.
            (_, None) => {}
            (Ack::Refused { code, reason }, Some(flight)) => {
                self.window.answered = Some(self.attempt);
                let cause = format!("refused {} {code}", flight.head.subject);
                let reason =
                    format!("the stream refused a message on {}: {reason} ({code})", flight.head.subject);
                self.reject(seq, &cause, &reason);
            }
            (Ack::NotNow(reason), Some(flight)) => self.wait_for_stream(&flight.head.subject, &reason, PAUSE),
        }
    }

    /// All that is unconfirmed will be sent again, after a pause in which we go on to listen; meanwhile the API is
    /// asked whether there still is a stream.
    pub(super) fn wait_for_stream(&mut self, subject: &Arc<str>, reason: &str, pause: Duration) {
        self.notices.problem("stream", format!("the stream is not available: {reason}; trying again"));
        self.proofs.doubt(subject);
        self.rewind();
        let now = Instant::now();
        self.troubled_since.get_or_insert(now);
        self.window.paused_until = Some(now + pause);
    }
}
