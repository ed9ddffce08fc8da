//! What confirms the messages of a subject, and how that is found out.
//!
//! With `delivery: auto` the JetStream API is asked whether a stream takes the subject. What it said, and what a stream's
//! acknowledgement proves, outlives the session ([`Learnt`]): the API needs a leader of the whole cluster, which may be
//! back seconds after the stream's own. A subject that a stream has acknowledged is one that it takes, until the API
//! says otherwise; while the API says nothing, the oldest message is sent, and an acknowledgement says it all.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Answer, Incoming, Session, Step};
use crate::{
    config::{Connection, Delivery},
    nats::jetstream::{self, Captured, Found, Wanted},
    outbox::Proof,
};

/// How long the API may take to answer before we try without.
const FIND_OUT: Duration = Duration::from_secs(1);
/// The same where a stream takes other subjects of ours: it most likely takes this one, too, and will say so itself.
const FIND_OUT_BESIDE: Duration = Duration::from_millis(500);
/// How long a server without JetStream may take to say that nobody answers for it.
const NO_JETSTREAM: Duration = Duration::from_millis(500);
/// Where no stream takes a subject, we ask again after this long: one may have been made, or come back.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// A stream that does not answer may be gone: we ask about it so often at most.
const ASK_IN_DOUBT: Duration = Duration::from_secs(1);
/// Pause before JetStream is asked again for which nobody answers.
const NOT_YET: Duration = Duration::from_millis(250);
/// A subject without permission or stream is tried again after this long.
const REJECTED_FOR: Duration = Duration::from_secs(2);
/// Subjects that are remembered: one a run and kind, and a long-lived service has no end of runs.
const SUBJECTS_KNOWN: usize = 1_000;

/// Which subjects a stream takes (or none), as far as is known.
#[derive(Debug, Default)]
pub(in crate::nats) struct Learnt(HashMap<Arc<str>, bool>);

impl Learnt {
    fn is_captured(&self, subject: &str) -> Option<bool> {
        self.0.get(subject).copied()
    }

    fn any_captured(&self) -> bool {
        self.0.values().any(|captured| *captured)
    }

    fn learn(&mut self, subject: &Arc<str>, captured: bool) {
        if self.0.len() >= SUBJECTS_KNOWN && !self.0.contains_key(subject) {
            self.0.clear();
        }
        self.0.insert(Arc::clone(subject), captured);
    }
}

/// What a session knows about its subjects.
pub(super) struct Proofs<'a> {
    learnt: &'a mut Learnt,
    delivery: Delivery,
    /// Where the JetStream API is.
    api: String,
    /// The server says that it has JetStream. One without may still reach that of others (as a leaf node does).
    is_expected: bool,
    /// The server lets us ask.
    may_ask: bool,
    /// What confirms the messages of a subject.
    known: HashMap<Arc<str>, Proof>,
    /// The subject that was looked up last, and its proof: messages of one run come one after the other.
    last: Option<(Arc<str>, Proof)>,
    /// The subject on which a stream acknowledged a message last.
    acknowledged: Option<Arc<str>>,
    /// Subjects that cannot be published to at present, why, and until when we believe that.
    closed: HashMap<Arc<str>, (String, Instant)>,
    /// Questions that wait for an answer, and how many there were so far.
    questions: HashMap<u64, Arc<str>>,
    asked: u64,
    asked_at: Instant,
    /// A subject whose stream does not answer.
    doubted: Option<Arc<str>>,
}

impl<'a> Proofs<'a> {
    pub(super) fn new(connection: &Connection, learnt: &'a mut Learnt, is_expected: bool) -> Self {
        Self {
            learnt,
            delivery: connection.delivery,
            api: connection.jetstream_api.clone(),
            is_expected,
            may_ask: true,
            known: HashMap::new(),
            last: None,
            acknowledged: None,
            closed: HashMap::new(),
            questions: HashMap::new(),
            asked: 0,
            asked_at: Instant::now(),
            doubted: None,
        }
    }

    /// What confirms messages on this subject, if we know already.
    pub(super) fn known(&mut self, subject: &Arc<str>) -> Option<Proof> {
        match &self.last {
            Some((last, proof)) if Arc::ptr_eq(last, subject) => Some(*proof),
            _ => {
                let proof = *self.known.get(subject)?;
                self.last = Some((Arc::clone(subject), proof));
                Some(proof)
            }
        }
    }

    fn remember(&mut self, subject: &Arc<str>, proof: Proof) {
        if self.known.len() >= SUBJECTS_KNOWN {
            self.known.clear();
        }
        self.known.insert(Arc::clone(subject), proof);
    }

    fn forget(&mut self, subject: &Arc<str>) {
        self.known.remove(subject);
        self.last = None;
    }

    /// A stream has stored a message on this subject.
    pub(super) fn on_acknowledged(&mut self, subject: &Arc<str>) {
        if self.acknowledged.as_ref().is_none_or(|last| !Arc::ptr_eq(last, subject)) {
            self.learnt.learn(subject, true);
            self.acknowledged = Some(Arc::clone(subject));
        }
        self.doubted = None;
    }

    /// The stream that takes messages on this subject does not answer.
    pub(super) fn doubt(&mut self, subject: &Arc<str>) {
        self.doubted = Some(Arc::clone(subject));
    }

    /// Have we published to this subject in this session?
    pub(super) fn is_in_use(&self, subject: &str) -> bool {
        self.known.contains_key(subject)
    }

    /// Does not publish to this subject for a while.
    pub(super) fn close(&mut self, subject: &Arc<str>, reason: String) {
        let now = Instant::now();
        if self.closed.len() >= SUBJECTS_KNOWN {
            self.closed.retain(|_, (_, until)| *until > now);
        }
        self.closed.insert(Arc::clone(subject), (reason, now + REJECTED_FOR));
    }

    /// Why nothing is published to this subject now.
    pub(super) fn why_closed(&mut self, subject: &Arc<str>) -> Option<String> {
        if self.closed.is_empty() {
            return None;
        }
        let (reason, until) = self.closed.get(subject)?;
        if *until > Instant::now() {
            return Some(reason.clone());
        }
        self.closed.remove(subject);
        None
    }

    /// Does a stream take these messages, and has none of them been acknowledged? It may be made without.
    pub(super) fn may_be_without_ack(&self, subject: &Arc<str>) -> bool {
        self.acknowledged.is_none() && self.learnt.is_captured(subject) == Some(true)
    }

    /// The subject that is to be asked about now: one whose stream does not answer, or that no stream took when we
    /// asked last.
    fn is_due(&self) -> Option<Arc<str>> {
        let waited = self.asked_at.elapsed();
        if self.delivery == Delivery::Core || !self.may_ask || waited < ASK_IN_DOUBT {
            return None;
        }
        if let Some(doubted) = &self.doubted {
            return Some(Arc::clone(doubted));
        }
        let (last, _) = self.last.as_ref().filter(|(_, proof)| *proof != Proof::Stored)?;
        (waited >= ASK_AGAIN).then(|| Arc::clone(last))
    }
}

impl Session<'_> {
    /// What confirms messages on this subject: asks the server, if need be.
    pub(super) async fn proof_of(&mut self, subject: &Arc<str>) -> Step<Proof> {
        let echo = if self.inbox.echoes { Proof::Routed } else { Proof::None };
        let delivery = self.proofs.delivery;
        let proof = if delivery == Delivery::Core {
            echo
        } else if !self.inbox.acks {
            Proof::None
        } else {
            let found = self.find_out(subject).await?;
            match found.wants(delivery, self.proofs.learnt.is_captured(subject)) {
                Wanted::Ack => Proof::Stored,
                Wanted::Echo => echo,
                // These are not remembered: more will be known soon.
                Wanted::AckIfAny => return Ok(Proof::Stored),
                Wanted::Nothing => {
                    let reason = format!("no stream takes messages on {subject} (delivery=jetstream)");
                    self.proofs.close(subject, reason);
                    return Ok(Proof::Stored);
                }
                Wanted::Wait => {
                    self.wait_for_stream(subject, "nobody answers for JetStream", NOT_YET);
                    return Ok(Proof::Stored);
                }
            }
        };
        self.proofs.remember(subject, proof);
        Ok(proof)
    }

    /// Does a stream take this subject? Guessing "no" would lose what a busy stream sheds.
    async fn find_out(&mut self, subject: &Arc<str>) -> Step<Found> {
        if self.proofs.learnt.is_captured(subject) == Some(true) {
            return Ok(Found::Captured);
        }
        if !self.proofs.may_ask {
            return Ok(Found::Forbidden);
        }
        let is_asked = self.proofs.questions.values().any(|asked| asked == subject);
        if is_asked && self.proofs.is_expected {
            // In vain so far: we need not wait for it once more.
            return Ok(Found::NotNow);
        }
        let number = self.ask(subject).await?;
        // A subscriber to everything keeps a server without JetStream from saying that nobody answers.
        let patience = match (self.proofs.is_expected, self.proofs.learnt.any_captured()) {
            (true, false) => FIND_OUT,
            (true, true) => FIND_OUT_BESIDE,
            (false, _) => NO_JETSTREAM,
        };
        let deadline = Instant::now() + patience;
        loop {
            let incoming = tokio::select! {
                incoming = self.wire.next(true) => incoming,
                () = sleep_until(deadline) => {
                    if self.proofs.is_expected {
                        return Ok(Found::NotNow);
                    }
                    self.proofs.questions.remove(&number);
                    self.proofs.learnt.learn(subject, false);
                    return Ok(Found::NotCaptured);
                }
            };
            if let Incoming::Message(answer) = &incoming
                && self.inbox.understand(&answer.subject) == Answer::Question(number)
            {
                self.proofs.questions.remove(&number);
                return Ok(self.proofs.on_first_answer(subject, &Captured::read(answer)));
            }
            let mut confirmed = Vec::new();
            let handled = self.on_one(incoming, &mut confirmed).await;
            self.confirm(&confirmed);
            handled?;
            if !self.proofs.may_ask {
                return Ok(Found::Forbidden);
            }
        }
    }

    /// Asks the JetStream API about a subject; the answer comes to the inbox under this number.
    async fn ask(&mut self, subject: &Arc<str>) -> Step<u64> {
        /// Answers that never come must not be waited for without end.
        const MOST: usize = 100;
        let proofs = &mut self.proofs;
        proofs.asked += 1;
        proofs.asked_at = Instant::now();
        if proofs.questions.len() >= MOST {
            proofs.questions.clear();
        }
        let number = proofs.asked;
        proofs.questions.insert(number, Arc::clone(subject));
        let (api, request) = jetstream::which_streams(&proofs.api, subject);
        self.publish(api, Some(self.inbox.question(number)), request.into()).await?;
        Ok(number)
    }

    /// Asks again what may have changed, in the background.
    pub(super) async fn ask_again(&mut self) -> Step<()> {
        if let Some(subject) = self.proofs.is_due() {
            self.ask(&subject).await?;
        }
        Ok(())
    }

    /// An answer that nobody waits for any more.
    pub(super) fn on_answer(&mut self, number: u64, message: &async_nats::Message) {
        let Some(subject) = self.proofs.questions.remove(&number) else { return };
        match Captured::read(message) {
            Captured::By(_) => {
                self.proofs.learnt.learn(&subject, true);
                // Others may have a stream now, too.
                self.proofs.known.retain(|_, proof| *proof == Proof::Stored);
                self.proofs.last = None;
            }
            Captured::Nobody if self.proofs.learnt.is_captured(&subject) == Some(true) => {}
            Captured::No | Captured::Nobody => {
                self.proofs.learnt.learn(&subject, false);
                self.proofs.forget(&subject);
                if self.flights.any_stored(&subject) {
                    // Nobody will acknowledge these.
                    self.rewind();
                }
            }
            Captured::NotNow(_) => {}
        }
    }

    /// Is it the question about streams that the server forbids?
    pub(super) fn is_question(&self, subject: &str) -> bool {
        subject.strip_prefix(self.proofs.api.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }

    pub(super) fn forbid_questions(&mut self) {
        self.proofs.may_ask = false;
    }
}

impl Proofs<'_> {
    fn on_first_answer(&mut self, subject: &Arc<str>, answer: &Captured) -> Found {
        let found = Found::new(answer, self.is_expected, self.delivery);
        match found {
            Found::Captured => self.learnt.learn(subject, true),
            Found::NotCaptured => self.learnt.learn(subject, false),
            Found::Forbidden | Found::NotNow | Found::NotYet => {}
        }
        found
    }
}
