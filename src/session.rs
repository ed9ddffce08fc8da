//! One connection's life: connect, publish, confirm.
//!
//! The session ends with its connection (see [`crate::link`]); its runtime is dropped by the courier, and
//! async-nats' task and buffers with it.
//!
//! Confirmations come back to an inbox of our own, `PREFIX.kind.attempt.seq`: the acknowledgement of a
//! stream (kind `a`), or the echo of a marker that was published behind the messages (kind `m`). The
//! attempt rises with each rewind, so that a late confirmation of something sent again proves nothing.

use std::{
    collections::{HashMap, VecDeque},
    str::FromStr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_nats::{
    Client, Event, HeaderMap, HeaderName, HeaderValue, ServerInfo, Subscriber, client::traits::Publisher,
    message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    config::{Connection, Delivery, Server},
    error::Error,
    fault,
    link::{self, Link, Violation, hung_up},
    message::{self, EXPECTED_STREAM, Message},
    outbox::{Outbox, Proof, Sending},
    report::Notices,
};

/// How often we look for new messages, and how many times in vain before we sleep and have to be woken.
const LINGER: Duration = Duration::from_millis(20);
const LINGERS: usize = 50;
/// How long an idle session without runs stays connected.
const IDLE: Duration = Duration::from_secs(5);
/// Unconfirmed for this long: the connection, or the server behind it, is stuck.
const STALL: Duration = Duration::from_secs(5);
/// Bytes in flight; a slow link gets this much at once, at `SLOWEST` bytes a second.
const WINDOW_BYTES: usize = 4 << 20;
const SLOWEST: u64 = 1 << 20;
/// Messages between two looks at what came back.
const BATCH: usize = 256;
/// How long a server without JetStream may take to say that nobody answers for it.
const NO_JETSTREAM: Duration = Duration::from_millis(500);
/// A subject without permission or stream is tried again after this long.
const REJECTED_FOR: Duration = Duration::from_secs(2);
/// async-nats drops events beyond 128 at once; far fewer are surely all there.
const EVENTS_TRUSTED: usize = 64;
/// How often we look whether the server sends without end, while we wait for it and otherwise. async-nats
/// collects an unfinished line or message in memory, however long it gets.
const WATCH_BUSY: Duration = Duration::from_millis(10);
const WATCH_IDLE: Duration = Duration::from_millis(50);
/// More than this much without anything that concerns us is too much.
const FLOOD: u64 = 4 << 20;
/// An acknowledgement takes about a hundred bytes, the names of streams a few thousand.
const LONGEST_ANSWER: usize = 1 << 20;
/// Subjects that are remembered: more are asked about anew.
const SUBJECTS_KNOWN: usize = 1_000;
/// A stream that has not acknowledged a message for this long gets no further one: its leader may be gone, and
/// the next one would store what comes later before what is sent again. Electing one takes 4 s or more.
const HOLD: Duration = Duration::from_secs(1);
/// Pause after a transient error of the stream.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing to do and no run left.
    Idle,
    /// The connection broke, or the server went silent.
    Lost(String),
    /// The server announced that it will go; we went first.
    LameDuck,
    /// A message within the server's `max_payload` was too large all the same: accounts have limits of their own,
    /// which nobody tells. What the largest one in flight takes, in bytes, headers included.
    Oversize(usize),
}

/// An established connection.
pub struct Session {
    client: Client,
    inbox: String,
    inbound: Subscriber,
    events: mpsc::UnboundedReceiver<Event>,
    gone: watch::Receiver<bool>,
    /// What the server said last before it hung up.
    last_words: Option<String>,
    /// May we publish to, and hear from, our inbox?
    echoes: bool,
    acks: bool,
    delivery: Delivery,
    stream: Option<String>,
    jetstream_api: String,
    connect_timeout: Duration,
    window_size: usize,
    stall: Duration,
    max_payload: usize,
    attempt: u64,
    flights: Flights,
    /// What confirms the messages of a subject, as far as we asked.
    proofs: HashMap<Arc<str>, Proof>,
    /// The last one: messages of one run come one after the other.
    last_proof: Option<(Arc<str>, Proof)>,
    /// Subjects that cannot be published to at present, why, and until when we believe that.
    closed: HashMap<Arc<str>, (String, Instant)>,
    lookups: u64,
    confirmed_any: bool,
    /// The last attempt in which something was answered. Before, one message at a time: a stream that is just
    /// coming back must not miss the first ones and store the next.
    answered: Option<u64>,
    /// Every number below was sent in this session, or before it.
    sent_below: u64,
    /// The same, of the present batch alone.
    batch_sent_below: u64,
    /// Refusals since the last marker.
    violations: usize,
    /// Since when no stream has been available: nothing was stored after that.
    troubled_since: Option<Instant>,
    /// Nothing is sent before, after a transient error of the stream.
    paused_until: Option<Instant>,
    /// What we had received in all when something last concerned us, in bytes.
    received: u64,
}

/// What comes in.
enum Incoming {
    Gone,
    Event(Event),
    Message(async_nats::Message),
}

/// A message from our inbox, understood.
enum Answer {
    Ack { seq: u64, ack: Ack, of_this_attempt: bool },
    Marker { seq: u64 },
    Other,
}

/// What the server says about streams for a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Captured {
    Yes,
    No,
    /// We may not ask.
    Forbidden,
    /// It cannot say at present.
    NotNow,
}

const SILENT: &str = "JetStream does not say which stream takes our subject";

/// Ends the session from anywhere inside it.
struct Broken(End);

type Step<T> = Result<T, Broken>;

impl Session {
    /// Connects to one server, within `connect_timeout` all in all. What earlier sessions have learnt: with how
    /// much `patience` it must be treated, and how much a message may take (`most`, in bytes).
    pub async fn connect(
        connection: &Connection,
        server: &Server,
        patience: u32,
        most: usize,
    ) -> Result<Self, Error> {
        let limit = connection.connect_timeout;
        let late = || Error::ConnectTimeout { server: server.address.clone(), timeout: limit };
        match timeout(limit, Self::establish(connection, server, patience, most)).await {
            Ok(session) => session,
            Err(_) => Err(late()),
        }
    }

    async fn establish(
        connection: &Connection,
        server: &Server,
        patience: u32,
        most: usize,
    ) -> Result<Self, Error> {
        let Link { client, events, gone } = Link::open(connection, server).await?;
        let inbox = format!("{}.{}", connection.inbox_prefix, message::nonce());
        let broken = |reason: String| Error::Connect { server: server.address.clone(), reason };
        let inbound = client
            .subscribe(format!("{inbox}.>"))
            .await
            .map_err(|error| broken(format!("cannot subscribe to the inbox: {error}")))?;
        let mut session = Self {
            max_payload: client.server_info().max_payload.min(most),
            client,
            inbox,
            inbound,
            events,
            gone,
            last_words: None,
            echoes: true,
            acks: true,
            delivery: connection.delivery,
            stream: connection.stream.clone(),
            jetstream_api: connection.jetstream_api.clone(),
            connect_timeout: connection.connect_timeout,
            window_size: (connection.window / patience as usize).max(1),
            stall: STALL * patience,
            attempt: 0,
            flights: Flights::default(),
            proofs: HashMap::new(),
            last_proof: None,
            closed: HashMap::new(),
            lookups: 0,
            confirmed_any: false,
            answered: None,
            sent_below: 0,
            batch_sent_below: 0,
            violations: 0,
            troubled_since: None,
            paused_until: None,
            received: 0,
        };
        session.hello().await.map_err(|Broken(end)| match end {
            End::Lost(reason) => broken(reason),
            End::Idle | End::LameDuck | End::Oversize(_) => broken("the server is shutting down".to_owned()),
        })?;
        Ok(session)
    }

    /// The server's name and the other servers of its cluster.
    pub fn server_info(&self) -> ServerInfo {
        self.client.server_info()
    }

    /// Did messages go in and nothing come out?
    pub fn got_stuck(&self) -> bool {
        !self.confirmed_any && self.flights.len() > 0
    }

    /// Was anything confirmed?
    pub fn was_of_use(&self) -> bool {
        self.confirmed_any
    }

    /// Sends us a message through the server: proves that confirmations can come back.
    async fn hello(&mut self) -> Step<()> {
        self.publish(format!("{}.hello", self.inbox), None, None, Bytes::new()).await?;
        loop {
            match self.next().await {
                Incoming::Message(message) if message.subject.ends_with(".hello") => return Ok(()),
                Incoming::Message(_) => {}
                Incoming::Gone => return Err(self.lost("connection closed")),
                Incoming::Event(event) => {
                    let violation = self.on_event(event)?;
                    match violation.filter(|violation| violation.subject.starts_with(&self.inbox)) {
                        Some(Violation { publish: false, .. }) => {
                            self.echoes = false;
                            self.acks = false;
                            return Ok(());
                        }
                        // Streams may still answer to the inbox.
                        Some(Violation { publish: true, .. }) => {
                            self.echoes = false;
                            return Ok(());
                        }
                        None => {}
                    }
                }
            }
        }
    }

    /// Publishes what the outbox holds until there is a reason to end.
    pub async fn serve(&mut self, outbox: &Outbox, notices: &Notices) -> End {
        if !self.echoes {
            notices.problem("inbox", format!(
                "the server does not let us use the inbox {}.>: {}; allow this user to publish and subscribe \
                 there (inbox_prefix)",
                self.inbox.rsplit_once('.').map_or("", |(prefix, _)| prefix),
                if self.acks { "only streams can confirm" } else { "nothing can be confirmed" },
            ));
        }
        let end = match self.work(outbox, notices).await {
            Ok(()) => End::Idle,
            Err(Broken(end)) => end,
        };
        if !matches!(end, End::Lost(_) | End::Oversize(_)) {
            self.close().await;
        }
        end
    }

    async fn work(&mut self, outbox: &Outbox, notices: &Notices) -> Step<()> {
        let mut drained_at: Option<Instant> = None;
        loop {
            if let Err(error) = outbox.refill() {
                notices.problem(&error.cause(), error.to_string());
            }
            if self.fill(outbox, notices).await? {
                drained_at = None;
            }
            if self.troubled_since.is_some_and(|since| since.elapsed() > self.stall) {
                // Another server of the cluster may know better: this one may be cut off from it.
                return Err(self.lost("it has had no stream for us for too long"));
            }
            let paused = self.paused_until;
            let room = self.room() > 0 && self.flights.bytes < WINDOW_BYTES;
            let stalls_at = self.flights.stalls_at(self.stall);
            let idle = self.flights.len() == 0 && outbox.is_idle();
            let idle_until = *drained_at.get_or_insert_with(Instant::now) + IDLE;
            tokio::select! {
                incoming = self.next() => self.on_incoming(incoming, outbox, notices).await?,
                () = sleep_until(stalls_at), if self.flights.len() > 0 => {
                    let mut reason = format!("no confirmation for {} s", self.stall.as_secs());
                    if !self.confirmed_any && self.flights.any_stored() {
                        reason += " (is the stream made with no_ack?)";
                    }
                    return Err(Broken(End::Lost(reason)));
                }
                () = sleep_until(idle_until), if idle => return Ok(()),
                () = sleep_until(paused.unwrap_or(idle_until)), if paused.is_some() => self.paused_until = None,
                () = more_work(outbox), if room => {}
            }
        }
    }

    /// How many messages may be sent now.
    fn room(&self) -> usize {
        if self.paused_until.is_some() || self.flights.are_held() {
            return 0;
        }
        let window = if self.answered == Some(self.attempt) { self.window_size } else { 1 };
        // From the oldest unconfirmed one on, so that none can be overtaken by more than the window.
        window.saturating_sub(self.flights.span())
    }

    /// Sends as much as the window allows; `true` if that was anything.
    async fn fill(&mut self, outbox: &Outbox, notices: &Notices) -> Step<bool> {
        let mut sent = false;
        loop {
            let room = self.room().min(BATCH);
            let bytes = WINDOW_BYTES.saturating_sub(self.flights.bytes);
            if room == 0 || bytes == 0 {
                break;
            }
            let batch = outbox.take(room, bytes);
            let Some(first) = batch.first().map(|sending| sending.seq) else { break };
            sent = true;
            let _ = fault::at("session.fill");
            self.batch_sent_below = first;
            let result = self.send_batch(batch, outbox, notices).await;
            outbox.mark_sent(first, self.batch_sent_below);
            outbox.at_work_on(None);
            result?;
            if let Some(incoming) = self.at_hand() {
                self.on_incoming(incoming, outbox, notices).await?;
            }
        }
        Ok(sent)
    }

    /// Sends a batch, and a marker behind it if that is what proves its delivery.
    async fn send_batch(&mut self, batch: Vec<Sending>, outbox: &Outbox, notices: &Notices) -> Step<()> {
        let attempt = self.attempt;
        let now = Instant::now();
        let mut marker = None;
        let mut unproven = Vec::new();
        for Sending { seq, message } in batch {
            outbox.at_work_on(Some(seq));
            let _ = fault::at("session.message");
            if let Some(reason) = self.why_closed(&message.subject) {
                reject(outbox, notices, seq, &reason, &reason);
                continue;
            }
            let proof = match self.known_proof(&message.subject) {
                Some(proof) => proof,
                None => {
                    let proof = self.proof_of(&message.subject, outbox, notices).await?;
                    if self.attempt != attempt {
                        // Rewound meanwhile: what is left of this batch will be taken again.
                        return Ok(());
                    }
                    if let Some(reason) = self.why_closed(&message.subject) {
                        reject(outbox, notices, seq, &reason, &reason);
                        continue;
                    }
                    proof
                }
            };
            let Some((outbound, subject, wire_size)) = self.outbound(seq, message, proof, outbox, notices)
            else {
                continue;
            };
            let bytes = outbound.payload.len();
            self.send(outbound).await?;
            match proof {
                Proof::Stored => {}
                Proof::Routed => marker = Some(seq),
                Proof::None => unproven.push(seq),
            }
            self.batch_sent_below = seq + 1;
            self.sent_below = self.sent_below.max(seq + 1);
            self.flights.add(seq, Flight { subject, bytes, wire_size, proof, sent: now });
        }
        if let Some(seq) = marker {
            let reply = format!("{}.m.{}.{seq}", self.inbox, self.attempt);
            self.publish(reply, None, None, Bytes::new()).await?;
        }
        if !unproven.is_empty() {
            self.flush_unproven(&unproven, outbox).await?;
        }
        Ok(())
    }

    /// The server forbids every proof: written to the socket is all that can be said.
    async fn flush_unproven(&mut self, seqs: &[u64], outbox: &Outbox) -> Step<()> {
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            () = hung_up(&mut gone) => return Err(self.lost("connection closed")),
            flushed = timeout(self.stall, self.client.flush()) => {
                if !matches!(flushed, Ok(Ok(()))) {
                    return Err(self.lost("the server does not read what we send"));
                }
            }
        }
        self.confirmed_any = true;
        self.answered = Some(self.attempt);
        let mut sent = Vec::with_capacity(seqs.len());
        for seq in seqs {
            self.flights.remove(*seq);
            sent.push((*seq, Proof::None));
        }
        outbox.confirm(&sent);
        Ok(())
    }

    /// The message in async-nats' form; `None` if it cannot be sent at all.
    fn outbound(
        &self,
        seq: u64,
        message: Message,
        proof: Proof,
        outbox: &Outbox,
        notices: &Notices,
    ) -> Option<(OutboundMessage, Arc<str>, usize)> {
        // The stream's header comes on top.
        let expected = self.stream.as_deref().filter(|_| proof == Proof::Stored);
        let extra = expected.map_or(0, |stream| message::header_size(EXPECTED_STREAM, stream));
        let subject = Arc::clone(&message.subject);
        let message = match message.fit(self.max_payload.saturating_sub(extra)) {
            Ok(message) => message,
            Err(size) => {
                let limit = self.max_payload;
                let reason =
                    format!("{size} bytes do not fit into the server's max_payload of {limit} bytes");
                reject(outbox, notices, seq, &format!("too large for {subject}"), &reason);
                return None;
            }
        };
        let wire_size = message.wire_size() + extra;
        let mut headers = HeaderMap::new();
        if let Ok(id) = HeaderValue::from_str(&message.id) {
            headers.insert(async_nats::header::NATS_MESSAGE_ID, id);
        }
        let user = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in user.chain(expected.map(|stream| (EXPECTED_STREAM, stream))) {
            if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        let reply =
            (proof == Proof::Stored).then(|| format!("{}.a.{}.{seq}", self.inbox, self.attempt).into());
        let subject = async_nats::Subject::from(&*message.subject);
        let payload = message.payload;
        Some((
            OutboundMessage { subject, reply, payload, headers: Some(headers) },
            message.subject,
            wire_size,
        ))
    }

    /// Hands a message to async-nats. Its queue has room for the whole window: this hardly ever waits.
    async fn send(&mut self, message: OutboundMessage) -> Step<()> {
        tokio::select! {
            biased;
            // What is queued when the connection is gone stays unconfirmed, and is sent again.
            sent = self.client.publish_message(message) => match sent {
                Ok(()) => Ok(()),
                Err(error) => Err(Broken(End::Lost(error.to_string()))),
            },
            () = hung_up(&mut self.gone) => Err(self.lost("connection closed")),
        }
    }

    async fn publish(
        &mut self,
        subject: String,
        reply: Option<String>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Step<()> {
        let reply = reply.map(Into::into);
        self.send(OutboundMessage { subject: subject.into(), reply, payload, headers }).await
    }

    async fn next(&mut self) -> Incoming {
        let watch = if self.flights.len() > 0 { WATCH_BUSY } else { WATCH_IDLE };
        loop {
            tokio::select! {
                biased;
                () = hung_up(&mut self.gone) => return Incoming::Gone,
                Some(event) = self.events.recv() => {
                    return if self.is_flooded() { Incoming::Gone } else { Incoming::Event(event) };
                }
                message = self.inbound.next() => {
                    return message.map_or(Incoming::Gone, |message| self.checked(message));
                }
                () = sleep(watch) => {
                    if self.is_flooded() {
                        return Incoming::Gone;
                    }
                }
            }
        }
    }

    /// What has come in already, if anything has. That the connection is gone is for `next` to see.
    fn at_hand(&mut self) -> Option<Incoming> {
        if let Ok(event) = self.events.try_recv() {
            return Some(Incoming::Event(event));
        }
        let message = self.inbound.next().now_or_never()??;
        Some(self.checked(message))
    }

    /// A message of reasonable size. It concerns us: what came with it is no flood.
    fn checked(&mut self, message: async_nats::Message) -> Incoming {
        if message.payload.len() > LONGEST_ANSWER {
            self.last_words = Some("the server sends to our inbox what we did not ask for".to_owned());
            return Incoming::Gone;
        }
        self.received = self.received_in_all();
        Incoming::Message(message)
    }

    fn is_flooded(&mut self) -> bool {
        let flooded = self.received_in_all().saturating_sub(self.received) > FLOOD;
        if flooded {
            self.last_words = Some("the server sends without end".to_owned());
        }
        flooded
    }

    fn received_in_all(&self) -> u64 {
        self.client.statistics().in_bytes.load(Relaxed)
    }

    /// Handles one thing that came in, and all that came with it.
    async fn on_incoming(&mut self, first: Incoming, outbox: &Outbox, notices: &Notices) -> Step<()> {
        let _ = fault::at("session.incoming");
        let mut confirmed = Vec::new();
        let mut incoming = Some(first);
        let mut result = Ok(());
        while let Some(one) = incoming {
            result = self.on_one(one, &mut confirmed, outbox, notices).await;
            if result.is_err() || confirmed.len() >= BATCH {
                break;
            }
            incoming = self.at_hand();
        }
        self.confirmed_any |= !confirmed.is_empty();
        outbox.confirm(&confirmed);
        result
    }

    async fn on_one(
        &mut self,
        incoming: Incoming,
        confirmed: &mut Vec<(u64, Proof)>,
        outbox: &Outbox,
        notices: &Notices,
    ) -> Step<()> {
        match incoming {
            Incoming::Gone => Err(self.lost("connection closed")),
            Incoming::Event(event) => {
                if let Some(violation) = self.on_event(event)? {
                    self.forbid(&violation, outbox, notices);
                }
                Ok(())
            }
            Incoming::Message(message) => match self.understand(&message) {
                Answer::Ack { seq, ack, of_this_attempt } => {
                    if of_this_attempt && ack == Ack::Stored {
                        self.answered = Some(self.attempt);
                    }
                    self.on_ack(seq, ack, confirmed, outbox, notices);
                    Ok(())
                }
                Answer::Marker { seq } => {
                    // A refusal of a message before the marker came before it, but on another way:
                    // let async-nats' event task speak first.
                    tokio::task::yield_now().await;
                    while let Ok(event) = self.events.try_recv() {
                        if let Some(violation) = self.on_event(event)? {
                            self.forbid(&violation, outbox, notices);
                        }
                    }
                    if std::mem::take(&mut self.violations) >= EVENTS_TRUSTED {
                        // async-nats may have dropped some: what is still forbidden will say so again.
                        self.rewind(outbox);
                        return Ok(());
                    }
                    self.answered = Some(self.attempt);
                    confirmed.extend(self.flights.echoed(seq).into_iter().map(|seq| (seq, Proof::Routed)));
                    Ok(())
                }
                Answer::Other => Ok(()),
            },
        }
    }

    /// What async-nats tells; a permission violation is returned, to be dealt with where it matters.
    fn on_event(&mut self, event: Event) -> Step<Option<Violation>> {
        match event {
            Event::LameDuckMode => Err(Broken(End::LameDuck)),
            Event::ServerError(error) => {
                let text = error.to_string();
                let violation = Violation::parse(&text);
                if violation.is_none() {
                    self.last_words = Some(text);
                }
                Ok(violation)
            }
            _ => Ok(None),
        }
    }

    /// All messages of a subject that we may not publish to go to disk: those in flight and those to come.
    fn forbid(&mut self, violation: &Violation, outbox: &Outbox, notices: &Notices) {
        if !violation.publish {
            return;
        }
        let subject: Arc<str> = violation.subject.as_str().into();
        let in_flight = self.flights.of_subject(&subject);
        // A server could go on for ever about subjects that we never used.
        if in_flight.is_empty() && !self.proofs.contains_key(&subject) {
            return;
        }
        self.violations += 1;
        let reason = format!("the server does not let this user publish to {subject}");
        for seq in in_flight {
            reject(outbox, notices, seq, &reason, &reason);
        }
        self.shut(&subject, reason);
    }

    fn shut(&mut self, subject: &Arc<str>, reason: String) {
        let now = Instant::now();
        if self.closed.len() >= SUBJECTS_KNOWN {
            self.closed.retain(|_, (_, until)| *until > now);
        }
        self.closed.insert(Arc::clone(subject), (reason, now + REJECTED_FOR));
    }

    fn why_closed(&mut self, subject: &Arc<str>) -> Option<String> {
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

    fn understand(&self, message: &async_nats::Message) -> Answer {
        let Some(rest) = message.subject.strip_prefix(self.inbox.as_str()) else { return Answer::Other };
        let mut tokens = rest.split('.').skip(1);
        let (kind, attempt, seq) = (tokens.next(), tokens.next(), tokens.next());
        let number = |token: Option<&str>| token.and_then(|token| token.parse::<u64>().ok());
        match (kind, number(attempt), number(seq)) {
            (Some("a"), Some(attempt), Some(seq)) => {
                let ack = Ack::read(message);
                // Stored is stored, whichever copy it was (a number is never used twice); an error of a copy
                // that was sent again since says nothing.
                let of_this_attempt = attempt == self.attempt;
                if of_this_attempt || ack == Ack::Stored {
                    Answer::Ack { seq, ack, of_this_attempt }
                } else {
                    Answer::Other
                }
            }
            // A marker that we have not sent proves nothing.
            (Some("m"), Some(attempt), Some(seq)) if attempt == self.attempt && seq < self.sent_below => {
                Answer::Marker { seq }
            }
            _ => Answer::Other,
        }
    }

    fn on_ack(
        &mut self,
        seq: u64,
        ack: Ack,
        confirmed: &mut Vec<(u64, Proof)>,
        outbox: &Outbox,
        notices: &Notices,
    ) {
        if self.flights.get(seq).is_some_and(|flight| flight.proof != Proof::Stored) {
            // We did not ask for it.
            return;
        }
        match (ack, self.flights.remove(seq)) {
            // Of an earlier attempt too: the outbox knows whether it was still waiting for this.
            (Ack::Stored, _) => {
                if seq < self.sent_below {
                    confirmed.push((seq, Proof::Stored));
                    if self.troubled_since.take().is_some() {
                        notices.mended();
                    }
                }
            }
            // A refusal of what is not in flight says nothing.
            (_, None) => {}
            (Ack::Refused { code, reason }, Some(flight)) => {
                self.answered = Some(self.attempt);
                let cause = format!("refused {} {code}", flight.subject);
                let reason = format!("the stream refused a message on {}: {reason} ({code})", flight.subject);
                reject(outbox, notices, seq, &cause, &reason);
            }
            (Ack::NotNow(reason), Some(flight)) => {
                self.proofs.remove(&flight.subject);
                self.last_proof = None;
                self.wait_for_stream(&reason, outbox, notices);
            }
        }
    }

    /// All that is unconfirmed will be sent again, after a pause in which we go on to listen.
    fn wait_for_stream(&mut self, reason: &str, outbox: &Outbox, notices: &Notices) {
        notices.problem("stream", format!("the stream is not available: {reason}; trying again"));
        self.rewind(outbox);
        let now = Instant::now();
        self.troubled_since.get_or_insert(now);
        self.paused_until = Some(now + PAUSE);
    }

    fn rewind(&mut self, outbox: &Outbox) {
        self.attempt += 1;
        self.flights = Flights::default();
        outbox.rewind();
    }

    /// What confirms messages on this subject, if we asked already.
    fn known_proof(&mut self, subject: &Arc<str>) -> Option<Proof> {
        match &self.last_proof {
            Some((last, proof)) if Arc::ptr_eq(last, subject) => Some(*proof),
            _ => {
                let proof = *self.proofs.get(subject)?;
                self.last_proof = Some((Arc::clone(subject), proof));
                Some(proof)
            }
        }
    }

    /// What confirms messages on this subject: asks the server.
    async fn proof_of(&mut self, subject: &Arc<str>, outbox: &Outbox, notices: &Notices) -> Step<Proof> {
        let echo = if self.echoes { Proof::Routed } else { Proof::None };
        let proof = match self.delivery {
            Delivery::Core => echo,
            _ if !self.acks => Proof::None,
            _ => match (self.captured(subject, outbox, notices).await?, self.delivery) {
                (Captured::NotNow, _) => {
                    self.wait_for_stream(SILENT, outbox, notices);
                    return Ok(Proof::Stored);
                }
                (Captured::Yes, _) | (Captured::Forbidden, Delivery::Jetstream) => Proof::Stored,
                (Captured::No | Captured::Forbidden, Delivery::Auto | Delivery::Core) => echo,
                (Captured::No, Delivery::Jetstream) => {
                    let reason = format!("no stream takes messages on {subject} (delivery=jetstream)");
                    self.shut(subject, reason);
                    // Not remembered: the stream may be made meanwhile.
                    return Ok(Proof::Stored);
                }
            },
        };
        // One subject a run and kind: the table would grow for ever under a long-lived service.
        if self.proofs.len() >= SUBJECTS_KNOWN {
            self.proofs.clear();
        }
        self.proofs.insert(Arc::clone(subject), proof);
        Ok(proof)
    }

    /// Does a stream capture this subject? A server that does not say is no good: guessing "no" would
    /// lose what a busy stream sheds.
    async fn captured(&mut self, subject: &str, outbox: &Outbox, notices: &Notices) -> Step<Captured> {
        let api = format!("{}.STREAM.NAMES", self.jetstream_api);
        self.lookups += 1;
        let request = serde_json::json!({ "subject": subject }).to_string();
        let inbox = format!("{}.q.{}", self.inbox, self.lookups);
        self.publish(api.clone(), Some(inbox.clone()), None, request.into()).await?;
        // Without JetStream of its own a server may still reach some (as a leaf node does), but a
        // subscriber to everything keeps it from saying that nobody answers.
        let expected = self.server_info().jetstream;
        let deadline = Instant::now() + if expected { self.connect_timeout } else { NO_JETSTREAM };
        loop {
            let incoming = tokio::select! {
                incoming = self.next() => incoming,
                () = sleep_until(deadline) => {
                    if expected {
                        return Err(self.lost(SILENT));
                    }
                    if self.delivery == Delivery::Auto {
                        // No need to ask for every subject.
                        self.delivery = Delivery::Core;
                    }
                    return Ok(Captured::No);
                }
            };
            match incoming {
                Incoming::Message(answer) if *answer.subject == *inbox => match StreamNames::read(&answer) {
                    Some(true) => return Ok(Captured::Yes),
                    Some(false) => return Ok(Captured::No),
                    None => return Ok(Captured::NotNow),
                },
                Incoming::Event(event) => match self.on_event(event)? {
                    Some(violation) if violation.subject == api => return Ok(Captured::Forbidden),
                    Some(violation) => self.forbid(&violation, outbox, notices),
                    None => {}
                },
                Incoming::Gone => return Err(self.lost("connection closed")),
                other @ Incoming::Message(_) => {
                    let mut confirmed = Vec::new();
                    let handled = self.on_one(other, &mut confirmed, outbox, notices).await;
                    self.confirmed_any |= !confirmed.is_empty();
                    outbox.confirm(&confirmed);
                    handled?;
                }
            }
        }
    }

    fn lost(&mut self, reason: &str) -> Broken {
        let reason = self.reason(reason);
        let oversize = reason.to_lowercase().contains("maximum payload violation");
        Broken(match self.flights.largest().filter(|_| oversize) {
            Some(largest) => End::Oversize(largest),
            None => End::Lost(reason),
        })
    }

    fn reason(&mut self, reason: &str) -> String {
        while let Ok(event) = self.events.try_recv() {
            if let Event::ServerError(error) = event {
                self.last_words = Some(error.to_string());
            }
        }
        self.last_words.take().unwrap_or_else(|| reason.to_owned())
    }

    async fn close(&mut self) {
        link::close(&self.client, &self.gone).await;
    }
}

/// Returns when there is something to send. Waking us costs the job's thread more than all else that it does
/// for a message, so for a while we look by ourselves.
async fn more_work(outbox: &Outbox) {
    for _ in 0..LINGERS {
        if outbox.is_hurried() {
            break;
        }
        if outbox.linger(LINGER).await {
            return;
        }
    }
    outbox.work().await;
}

fn reject(outbox: &Outbox, notices: &Notices, seq: u64, cause: &str, reason: &str) {
    notices.warn(cause, reason.to_owned());
    if let Err(error) = outbox.reject(seq) {
        notices.warn(&error.cause(), error.to_string());
    }
}

/// Messages in flight, unconfirmed, of the present attempt.
#[derive(Default)]
struct Flights {
    /// From number `base` on; `None`: confirmed, or never sent.
    slots: VecDeque<Option<Flight>>,
    base: u64,
    count: usize,
    bytes: usize,
}

struct Flight {
    subject: Arc<str>,
    bytes: usize,
    /// Headers included: what limits are about.
    wire_size: usize,
    proof: Proof,
    sent: Instant,
}

impl Flights {
    fn len(&self) -> usize {
        self.count
    }

    /// Numbers rise from one call to the next.
    fn add(&mut self, seq: u64, flight: Flight) {
        if self.slots.is_empty() {
            self.base = seq;
        }
        while self.base + (self.slots.len() as u64) < seq {
            self.slots.push_back(None);
        }
        self.bytes += flight.bytes;
        self.count += 1;
        self.slots.push_back(Some(flight));
    }

    /// From the oldest one in flight to the youngest, those between them that are confirmed included.
    fn span(&self) -> usize {
        self.slots.len()
    }

    fn largest(&self) -> Option<usize> {
        self.slots.iter().flatten().map(|flight| flight.wire_size).max()
    }

    fn slot(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.base)?).ok()
    }

    fn get(&self, seq: u64) -> Option<&Flight> {
        self.slots.get(self.slot(seq)?)?.as_ref()
    }

    fn remove(&mut self, seq: u64) -> Option<Flight> {
        let slot = self.slot(seq)?;
        let flight = self.slots.get_mut(slot)?.take()?;
        self.bytes -= flight.bytes;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        Some(flight)
    }

    /// The marker behind `seq` came back: the server has routed all that was waiting for it.
    fn echoed(&mut self, seq: u64) -> Vec<u64> {
        let all = self.slot(seq).map_or(0, |slot| slot.saturating_add(1));
        self.remove_where(all, |flight| flight.proof == Proof::Routed)
    }

    fn of_subject(&mut self, subject: &str) -> Vec<u64> {
        self.remove_where(usize::MAX, |flight| &*flight.subject == subject)
    }

    fn remove_where(&mut self, first: usize, is_it: impl Fn(&Flight) -> bool) -> Vec<u64> {
        let flights = (self.base..).zip(&self.slots).take(first);
        let found = flights.filter(|(_, flight)| flight.as_ref().is_some_and(&is_it)).map(|(seq, _)| seq);
        let seqs: Vec<u64> = found.collect();
        for seq in &seqs {
            self.remove(*seq);
        }
        seqs
    }

    /// Does any wait for a stream?
    fn any_stored(&self) -> bool {
        self.slots.iter().flatten().any(|flight| flight.proof == Proof::Stored)
    }

    /// Does a stream owe us an answer for too long to send more?
    fn are_held(&self) -> bool {
        let oldest = self.slots.front().and_then(Option::as_ref);
        oldest.is_some_and(|flight| flight.proof == Proof::Stored && flight.sent.elapsed() > HOLD)
    }

    /// When to lose patience with the oldest: a stream may lose one message and confirm all others.
    fn stalls_at(&self, stall: Duration) -> Instant {
        let transfer = Duration::from_secs(self.bytes as u64 / SLOWEST);
        let oldest = self.slots.front().and_then(|flight| Some(flight.as_ref()?.sent));
        oldest.unwrap_or_else(Instant::now) + stall + transfer
    }
}

/// A stream's answer to a message (NATS API type `io.nats.jetstream.api.v1.pub_ack_response`).
#[derive(Debug, PartialEq, Eq)]
enum Ack {
    Stored,
    /// For good: this message will not be stored.
    Refused {
        /// `err_code` of the API (nats-server, `errors.json`).
        code: u64,
        reason: String,
    },
    /// Try again.
    NotNow(String),
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Ack {
    /// Errors that pass: system unavailable, insufficient resources (a leader that steps down), Raft error,
    /// a repeat whose first copy is still being stored, too many requests.
    const PASSING: [u64; 5] = [10_008, 10_023, 10_041, 10_158, 10_167];

    fn read(message: &async_nats::Message) -> Self {
        if message.status.is_some_and(|status| status == async_nats::StatusCode::NO_RESPONDERS) {
            return Self::NotNow(format!("no stream answers on {}", message.subject));
        }
        match serde_json::from_slice(&message.payload) {
            Ok(PubAck { error: None, seq }) if seq > 0 => Self::Stored,
            Ok(PubAck { error: Some(error), .. }) => {
                // Without a number: a leader that lost its office between check and proposal.
                let unnumbered = error.code == 503 && error.err_code == 0;
                if unnumbered || Self::PASSING.contains(&error.err_code) {
                    Self::NotNow(format!("{} ({})", error.description, error.err_code))
                } else {
                    Self::Refused { code: error.err_code, reason: error.description }
                }
            }
            Ok(_) | Err(_) => Self::NotNow("an answer that is no acknowledgement".to_owned()),
        }
    }
}

/// The answer to `$JS.API.STREAM.NAMES`.
#[derive(Deserialize)]
struct StreamNames {
    #[serde(default)]
    streams: Option<Vec<String>>,
    error: Option<ApiError>,
}

impl StreamNames {
    /// Is there a stream? `None`: could not be told now.
    fn read(message: &async_nats::Message) -> Option<bool> {
        if message.status.is_some_and(|status| status == async_nats::StatusCode::NO_RESPONDERS) {
            // No JetStream in this server or account.
            return Some(false);
        }
        match serde_json::from_slice(&message.payload) {
            Ok(Self { error: None, streams }) => Some(streams.is_some_and(|names| !names.is_empty())),
            // Not enabled, or not for this account.
            Ok(Self { error: Some(ApiError { err_code: 10_039 | 10_076, .. }), .. }) => Some(false),
            Ok(_) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(subject: &str, proof: Proof) -> Flight {
        Flight { subject: subject.into(), bytes: 10, wire_size: 10, proof, sent: Instant::now() }
    }

    #[test]
    fn a_marker_confirms_what_went_before_it_and_waited_for_it() {
        let mut flights = Flights::default();
        for (seq, proof) in [(1, Proof::Routed), (2, Proof::Stored), (3, Proof::Routed), (4, Proof::Routed)] {
            flights.add(seq, flight("s", proof));
        }
        assert_eq!(flights.echoed(3), [1, 3]);
        assert_eq!(flights.echoed(3), Vec::<u64>::new());
        assert_eq!((flights.len(), flights.bytes), (2, 20));
        assert_eq!(flights.of_subject("s"), [2, 4]);
        assert_eq!(flights.bytes, 0);
    }

    #[test]
    fn numbers_may_be_missing() {
        let mut flights = Flights::default();
        for seq in [7, 9, 12] {
            flights.add(seq, flight("s", Proof::Stored));
        }
        assert!(flights.remove(8).is_none() && flights.remove(3).is_none() && flights.remove(99).is_none());
        assert!(flights.get(9).is_some() && flights.remove(9).is_some() && flights.remove(7).is_some());
        assert_eq!((flights.len(), flights.bytes, flights.base), (1, 10, 12));
        assert!(flights.remove(12).is_some());
        flights.add(20, flight("s", Proof::Routed));
        assert_eq!(flights.echoed(19), Vec::<u64>::new());
        assert_eq!(flights.echoed(25), [20]);
    }

    #[test]
    fn the_answers_of_a_stream() {
        let read = |payload: &str, status: Option<u16>| {
            Ack::read(&async_nats::Message {
                subject: "inbox".into(),
                reply: None,
                payload: payload.to_owned().into(),
                headers: None,
                status: status.map(|code| async_nats::StatusCode::from_u16(code).unwrap()),
                description: None,
                length: 0,
            })
        };
        assert_eq!(read(r#"{"stream":"S","seq":7}"#, None), Ack::Stored);
        assert_eq!(read(r#"{"stream":"S","seq":7,"duplicate":true}"#, None), Ack::Stored);
        for passing in [
            r#"{"error":{"code":503,"err_code":10008,"description":"x"},"seq":0}"#,
            r#"{"error":{"code":503,"description":"not leader"}}"#,
            r#"{"error":{"code":409,"err_code":10158,"description":"x"}}"#,
        ] {
            assert!(matches!(read(passing, None), Ack::NotNow(_)), "{passing}");
        }
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        let reason = "maximum messages exceeded".to_owned();
        assert_eq!(read(full, None), Ack::Refused { code: 10_077, reason });
        assert!(matches!(read("", Some(503)), Ack::NotNow(_)));
        for garbage in ["", "{}", "[]", "null", r#"{"seq":0}"#, "\u{0}"] {
            assert!(!matches!(read(garbage, None), Ack::Stored), "{garbage}");
        }
    }
}
