//! What is sent, and when.

use std::{str::FromStr, sync::Arc, time::Duration};

use async_nats::{HeaderMap, HeaderName, HeaderValue, message::OutboundMessage};
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Gone, STALL, Session, Step,
    flights::{Flight, HOLD},
};
use crate::{
    fault,
    message::{self, EXPECTED_STREAM, Head, Message},
    outbox::{Proof, Sending},
};

/// Bytes in flight; a slow link gets this much at once.
const MOST_BYTES: usize = 4 << 20;
/// Messages between two looks at what came back.
pub(super) const BATCH: usize = 256;

/// How much may be in flight now, and what we know about the link.
#[derive(Debug)]
pub(super) struct Window {
    /// How many messages may be in flight.
    size: usize,
    /// Nothing came back for this long: the link is stuck.
    pub(super) stall: Duration,
    /// The last attempt in which something was answered. Until then one message at a time is sent: a stream that
    /// is just coming back must not miss the first ones and store the next.
    pub(super) answered: Option<u64>,
    /// Every message with a lower number was sent in this session, or before it.
    pub(super) sent_below: u64,
    /// Every message of the present batch with a lower number was sent.
    batch_sent_below: u64,
    /// Nothing is sent before this time: the stream had a transient error.
    pub(super) paused_until: Option<Instant>,
    /// Does the server have what we sent? Then it is the stream that does not answer, not the link.
    probe: Option<Probe>,
}

/// A marker behind a message that a stream is to acknowledge.
#[derive(Debug)]
struct Probe {
    attempt: u64,
    seq: u64,
    /// When the marker's echo came.
    back: Option<Instant>,
}

impl Window {
    pub(super) fn new(size: usize, patience: u32) -> Self {
        Self {
            size: (size / patience as usize).max(1),
            stall: STALL * patience,
            answered: None,
            sent_below: 0,
            batch_sent_below: 0,
            paused_until: None,
            probe: None,
        }
    }

    /// Has the last probe come back?
    pub(super) fn is_link_alive(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.back.is_some())
    }

    pub(super) fn on_probe(&mut self, attempt: u64, seq: u64) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| (probe.attempt, probe.seq) == (attempt, seq))
        {
            probe.back.get_or_insert_with(Instant::now);
        }
    }
}

impl Session<'_> {
    /// How many messages may be sent now.
    fn room(&self) -> usize {
        if self.window.paused_until.is_some() || self.flights.are_held() {
            return 0;
        }
        let window = if self.window.answered == Some(self.attempt) { self.window.size } else { 1 };
        // From the oldest unconfirmed one on, so that none can be overtaken by more than the window.
        window.saturating_sub(self.flights.span())
    }

    pub(super) fn has_room(&self) -> bool {
        self.room() > 0 && self.flights.bytes < MOST_BYTES
    }

    /// Sends as much as the window allows; `true` if that was anything.
    pub(super) async fn fill(&mut self) -> Step<bool> {
        let mut sent = false;
        loop {
            let room = self.room().min(BATCH);
            let bytes = MOST_BYTES.saturating_sub(self.flights.bytes);
            if room == 0 || bytes == 0 {
                break;
            }
            let batch = self.outbox.take(room, bytes);
            let Some(first) = batch.first().map(|sending| sending.seq) else { break };
            sent = true;
            fault::panic_at("session.fill");
            self.window.batch_sent_below = first;
            let result = self.send_batch(batch).await;
            self.outbox.mark_sent(first, self.window.batch_sent_below);
            self.outbox.at_work_on(None);
            result?;
            if let Some(incoming) = self.wire.at_hand() {
                self.on_incoming(incoming).await?;
            }
        }
        Ok(sent)
    }

    /// Sends a batch, and a marker behind it if that is what proves its delivery.
    async fn send_batch(&mut self, batch: Vec<Sending>) -> Step<()> {
        let attempt = self.attempt;
        let now = Instant::now();
        let (mut marker, mut stored, mut unproven) = (None, None, Vec::new());
        for Sending { seq, message } in batch {
            self.outbox.at_work_on(Some(seq));
            fault::panic_at("session.message");
            let Some(proof) = self.cleared(seq, &message.head.subject).await? else {
                if self.attempt != attempt {
                    // Rewound meanwhile: what is left of this batch will be taken again.
                    return Ok(());
                }
                continue;
            };
            let Some((outbound, head, wire_size)) = self.outbound(seq, message, proof) else { continue };
            let bytes = outbound.payload.len();
            let sent = self.wire.send(outbound).await;
            sent.map_err(|Gone| self.lost("connection closed"))?;
            match proof {
                Proof::Stored => stored = Some(seq),
                Proof::Routed => marker = Some(seq),
                Proof::None => unproven.push(seq),
            }
            self.window.batch_sent_below = seq + 1;
            self.window.sent_below = self.window.sent_below.max(seq + 1);
            self.flights.add(seq, Flight { head, bytes, wire_size, proof, sent: now });
        }
        if let Some(seq) = marker {
            self.publish(self.inbox.marker(self.attempt, seq), None, Bytes::new()).await?;
        }
        if let Some(seq) = stored.filter(|_| self.window.answered != Some(self.attempt)) {
            self.send_probe(seq).await?;
        }
        if !unproven.is_empty() {
            self.flush_unproven(&unproven).await?;
        }
        Ok(())
    }

    /// What proves the delivery of a message; `None` if it is not to be sent (now).
    async fn cleared(&mut self, seq: u64, subject: &Arc<str>) -> Step<Option<Proof>> {
        let mut reason = self.proofs.why_closed(subject);
        if reason.is_none() {
            if let Some(proof) = self.proofs.known(subject) {
                return Ok(Some(proof));
            }
            let attempt = self.attempt;
            let proof = self.proof_of(subject).await?;
            if self.attempt != attempt {
                return Ok(None);
            }
            reason = self.proofs.why_closed(subject);
            if reason.is_none() {
                return Ok(Some(proof));
            }
        }
        let reason = reason.unwrap_or_default();
        self.reject(seq, &reason, &reason);
        Ok(None)
    }

    async fn send_probe(&mut self, seq: u64) -> Step<()> {
        if self.inbox.echoes {
            self.window.probe = Some(Probe { attempt: self.attempt, seq, back: None });
            self.publish(self.inbox.probe(self.attempt, seq), None, Bytes::new()).await?;
        }
        Ok(())
    }

    /// The probe that tells of message `seq`.
    fn probe_of(&self, seq: u64) -> Option<&Probe> {
        self.window.probe.as_ref().filter(|probe| probe.attempt == self.attempt && probe.seq >= seq)
    }

    /// When something is to be done about a stream that does not answer.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let (seq, flight) = self.flights.oldest_stored().filter(|_| self.inbox.echoes)?;
        match self.probe_of(seq) {
            None => Some(flight.sent + HOLD),
            // As long as it is not back, the link is slow; that is another matter.
            Some(probe) => probe.back.map(|back| back.max(flight.sent) + HOLD),
        }
    }

    /// A time that `work` waited for has come.
    pub(super) async fn on_time(&mut self) -> Step<()> {
        let now = Instant::now();
        if self.window.paused_until.is_some_and(|until| until <= now) {
            self.window.paused_until = None;
        }
        if self.silent_at().is_none_or(|at| at > now) {
            return Ok(());
        }
        let Some((seq, flight)) = self.flights.oldest_stored() else { return Ok(()) };
        let subject = Arc::clone(&flight.head.subject);
        if self.probe_of(seq).is_none() {
            let youngest = self.window.sent_below.saturating_sub(1).max(seq);
            return self.send_probe(youngest).await;
        }
        // The server has the message, and the stream says nothing: what it got may be lost.
        let hint = if self.troubled_since.is_some_and(|since| since.elapsed() > STALL)
            && self.proofs.may_be_without_ack(&subject)
        {
            " (is it made with no_ack?)"
        } else {
            ""
        };
        self.wait_for_stream(&subject, &format!("no acknowledgement{hint}"), Duration::ZERO);
        Ok(())
    }

    /// Sends what runs have to say of being alive: no proof is asked for, and nothing is kept. Returns when to do so again.
    pub(super) async fn give_signs_of_life(&mut self) -> Step<Option<Instant>> {
        let is_due = self.beats_at.is_some_and(|at| at <= Instant::now());
        if !self.outbox.has_new_pulses() && !is_due {
            return Ok(self.beats_at);
        }
        let (due, next) = self.outbox.beats();
        self.beats_at = next.map(Instant::from_std);
        for message in due {
            let outbound = OutboundMessage {
                subject: async_nats::Subject::from(&*message.head.subject),
                reply: None,
                headers: Some(headers_of(&message, None)),
                payload: message.payload,
            };
            self.wire.send(outbound).await.map_err(|Gone| self.lost("connection closed"))?;
        }
        Ok(self.beats_at)
    }

    /// The server forbids every proof: written to the socket is all that can be said.
    async fn flush_unproven(&mut self, seqs: &[u64]) -> Step<()> {
        match self.wire.flush(self.window.stall).await {
            Ok(true) => {}
            Ok(false) => return Err(self.lost("the server does not read what we send")),
            Err(Gone) => return Err(self.lost("connection closed")),
        }
        self.window.answered = Some(self.attempt);
        let mut sent = Vec::with_capacity(seqs.len());
        for seq in seqs {
            self.flights.remove(*seq);
            sent.push((*seq, Proof::None));
        }
        self.confirm(&sent);
        Ok(())
    }

    /// The message in async-nats' form; `None` if it cannot be sent at all.
    fn outbound(
        &mut self,
        seq: u64,
        message: Message,
        proof: Proof,
    ) -> Option<(OutboundMessage, Arc<Head>, usize)> {
        // The stream's header comes on top.
        let expected = self.stream.as_deref().filter(|_| proof == Proof::Stored);
        let extra = expected.map_or(0, |stream| message::header_size(EXPECTED_STREAM.len(), stream.len()));
        let limit = self.max_payload.saturating_sub(extra);
        let message = match message.fit(limit) {
            Ok(message) => message,
            Err(message) => {
                let (size, limit) = (message.wire_size(), self.max_payload);
                let reason =
                    format!("{size} bytes do not fit into the server's max_payload of {limit} bytes");
                self.reject(seq, &format!("too large for {}", message.head.subject), &reason);
                return None;
            }
        };
        let wire_size = message.wire_size() + extra;
        let headers = headers_of(&message, expected);
        let reply = (proof == Proof::Stored).then(|| self.inbox.ack(self.attempt, seq).into());
        let outbound = OutboundMessage {
            subject: self.wire.subject(&message.head.subject),
            reply,
            payload: message.payload,
            headers: Some(headers),
        };
        Some((outbound, message.head, wire_size))
    }
}

/// All headers; `stream`: the one that must take the message.
fn headers_of(message: &Message, stream: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = message.id();
    // Otherwise async-nats would panic; `Message::is_sendable` sees to it.
    if !id.contains(['\r', '\n']) {
        headers.insert(async_nats::header::NATS_MESSAGE_ID, HeaderValue::from(id));
    }
    let user = message.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in user.chain(stream.map(|stream| (EXPECTED_STREAM, stream))) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    headers
}
