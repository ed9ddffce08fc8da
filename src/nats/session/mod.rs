//! One connection's life: connect, publish, confirm.
//!
//! The session ends with its connection (see [`super::link`]); its runtime is dropped by the courier, and async-nats'
//! task and buffers with it. A file for each thing that it does:
//!
//! - `wire`: the connection itself, what goes in and what comes out;
//! - `inbox`: where confirmations come back, and how they are told apart;
//! - `proof`: what confirms the messages of a subject, and how that is found out;
//! - `send`, `receive`: what is sent when, and what an answer means;
//! - `flights`: what is under way.

mod flights;
mod inbox;
mod proof;
mod receive;
mod send;
mod wire;

use std::time::Duration;

use async_nats::ServerInfo;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

pub(super) use self::proof::Learnt;
use self::{
    flights::Flights,
    inbox::{Answer, Inbox},
    proof::Proofs,
    send::Window,
    wire::{Gone, Incoming, Wire},
};
use super::link::{Link, Violation};
use crate::{
    config::{Connection, Server},
    error::Error,
    message,
    outbox::Outbox,
    report::Notices,
};

/// How often we look for new messages, and how many times in vain before we sleep and have to be woken.
const LINGER: Duration = Duration::from_millis(20);
const LINGERS: usize = 50;
/// How long an idle session without runs stays connected.
const IDLE: Duration = Duration::from_secs(5);
/// Nothing came back for this long: the connection, or the server behind it, is stuck.
const STALL: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing to do and no run left.
    Idle,
    /// The connection broke, or the server went silent.
    Lost(String),
    /// The connection is fine, but another server may know better.
    Elsewhere(String),
    /// The server announced that it will go; we went first.
    LameDuck,
    /// A message within the server's `max_payload` was too large all the same: accounts have limits of their own,
    /// which nobody tells. What the largest one in flight takes, in bytes, headers included.
    Oversize(usize),
}

/// Ends the session from anywhere inside it.
struct Broken(End);

type Step<T> = Result<T, Broken>;

/// How the courier wants a session to be, from what earlier ones have learnt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Rises while a link gets nothing through: a smaller window, a longer wait.
    pub(super) patience: u32,
    /// The most that a message may take, in bytes.
    pub(super) max_payload: usize,
    /// There are other servers to go to.
    pub(super) has_others: bool,
}

/// An established connection, and what is sent through it.
pub(super) struct Session<'a> {
    outbox: &'a Outbox,
    notices: &'a Notices,
    wire: Wire,
    inbox: Inbox,
    proofs: Proofs<'a>,
    flights: Flights,
    window: Window,
    /// The stream that must take the messages.
    stream: Option<String>,
    max_payload: usize,
    has_others: bool,
    /// Rises with each rewind.
    attempt: u64,
    confirmed_any: bool,
    /// Refusals since the last marker.
    violations: usize,
    /// Since when no stream has been available: nothing was stored after that.
    troubled_since: Option<Instant>,
    /// When the next sign of life is due.
    beats_at: Option<Instant>,
}

impl<'a> Session<'a> {
    /// Connects to one server, within `connect_timeout` all in all.
    pub(super) async fn connect(
        connection: &Connection,
        server: &Server,
        terms: Terms,
        learnt: &'a mut Learnt,
        (outbox, notices): (&'a Outbox, &'a Notices),
    ) -> Result<Self, Error> {
        let limit = connection.connect_timeout;
        let broken = |reason: String| Error::Connect { server: server.address.clone(), reason };
        let establish = async {
            let link = Link::open(connection, server).await?;
            let inbox = Inbox::new(&connection.inbox_prefix, &message::nonce());
            let wire = Wire::open(link, inbox.all())
                .await
                .map_err(|error| broken(format!("cannot subscribe to the inbox: {error}")))?;
            let max_payload = wire.server_info().max_payload.min(terms.max_payload);
            let proofs = Proofs::new(connection, learnt, wire.server_info().jetstream);
            let mut session = Self {
                outbox,
                notices,
                wire,
                inbox,
                proofs,
                flights: Flights::default(),
                window: Window::new(connection.window, terms.patience),
                stream: connection.stream.clone(),
                max_payload,
                has_others: terms.has_others,
                attempt: 0,
                confirmed_any: false,
                violations: 0,
                troubled_since: None,
                beats_at: Some(Instant::now()),
            };
            session.hello().await.map_err(|Broken(end)| match end {
                End::Lost(reason) | End::Elsewhere(reason) => broken(reason),
                End::Idle | End::LameDuck | End::Oversize(_) => {
                    broken("the server is shutting down".to_owned())
                }
            })?;
            Ok(session)
        };
        match timeout(limit, establish).await {
            Ok(session) => session,
            Err(_) => Err(Error::ConnectTimeout { server: server.address.clone(), timeout: limit }),
        }
    }

    /// The server's name and the other servers of its cluster.
    pub(super) fn server_info(&self) -> ServerInfo {
        self.wire.server_info()
    }

    /// Did messages go in and nothing come out, not even an echo?
    pub(super) fn got_stuck(&self) -> bool {
        !self.confirmed_any && self.flights.len() > 0 && !self.window.is_link_alive()
    }

    /// Was anything confirmed?
    pub(super) fn was_of_use(&self) -> bool {
        self.confirmed_any
    }

    /// Sends us a message through the server: proves that confirmations can come back.
    async fn hello(&mut self) -> Step<()> {
        self.publish(self.inbox.hello(), None, Bytes::new()).await?;
        loop {
            match self.wire.next(true).await {
                Incoming::Message(message) => {
                    if self.inbox.understand(&message.subject) == Answer::Hello {
                        return Ok(());
                    }
                }
                Incoming::Gone => return Err(self.lost("connection closed")),
                Incoming::Event(event) => {
                    let violation = self.on_event(event)?;
                    let Some(Violation { publish, .. }) =
                        violation.filter(|violation| self.inbox.has(&violation.subject))
                    else {
                        continue;
                    };
                    self.inbox.echoes = false;
                    // Streams may still answer to it.
                    self.inbox.acks = publish;
                    return Ok(());
                }
            }
        }
    }

    /// Publishes what the outbox holds until there is a reason to end.
    pub(super) async fn serve(&mut self) -> End {
        if !self.inbox.echoes {
            self.notices.problem("inbox", format!(
                "the server does not let us use the inbox {}.>: {}; allow this user to publish and subscribe \
                 there (inbox_prefix)",
                self.inbox.prefix(),
                if self.inbox.acks { "only streams can confirm" } else { "nothing can be confirmed" },
            ));
        }
        let end = match self.work().await {
            Ok(()) => End::Idle,
            Err(Broken(end)) => end,
        };
        if !matches!(end, End::Lost(_) | End::Oversize(_)) {
            self.wire.close().await;
        }
        end
    }

    async fn work(&mut self) -> Step<()> {
        let mut drained_at: Option<Instant> = None;
        loop {
            for error in self.outbox.begin_records() {
                self.notices.warn(&error.cause(), error.to_string());
            }
            if let Err(error) = self.outbox.refill() {
                self.notices.problem(&error.cause(), error.to_string());
            }
            self.outbox.feed();
            if self.fill().await? {
                drained_at = None;
            }
            self.ask_again().await?;
            let beats_at = self.give_signs_of_life().await?;
            if self.has_others && self.troubled_since.is_some_and(|since| since.elapsed() > STALL) {
                // This server may be cut off from its cluster.
                let reason = "it has had no stream for us for too long".to_owned();
                return Err(Broken(End::Elsewhere(reason)));
            }
            let (outbox, flying) = (self.outbox, self.flights.len() > 0);
            let stalls_at = self.flights.stalls_at(self.window.stall);
            let silent_at = self.silent_at();
            let idle = !flying && outbox.is_idle();
            let idle_until = *drained_at.get_or_insert_with(Instant::now) + IDLE;
            let wakes_at = self.window.paused_until.into_iter().chain(silent_at).chain(beats_at).min();
            let has_room = self.has_room();
            tokio::select! {
                incoming = self.wire.next(flying) => self.on_incoming(incoming).await?,
                () = sleep_until(stalls_at), if flying => {
                    let stall = self.window.stall.as_secs();
                    return Err(self.lost(&format!("no confirmation for {stall} s")));
                }
                () = sleep_until(wakes_at.unwrap_or(idle_until)), if wakes_at.is_some() => self.on_time().await?,
                () = sleep_until(idle_until), if idle => return Ok(()),
                () = more_work(outbox), if has_room => {}
            }
        }
    }

    /// All that is unconfirmed is sent again.
    fn rewind(&mut self) {
        self.attempt += 1;
        self.flights = Flights::default();
        self.outbox.rewind();
    }

    /// Sends something of our own.
    async fn publish(&mut self, subject: String, reply: Option<String>, payload: Bytes) -> Step<()> {
        let sent = self.wire.publish(subject, reply, payload).await;
        sent.map_err(|Gone| self.lost("connection closed"))
    }

    fn lost(&mut self, reason: &str) -> Broken {
        let reason = self.wire.reason(reason);
        let oversize = reason.to_lowercase().contains("maximum payload violation");
        Broken(match self.flights.largest().filter(|_| oversize) {
            Some(largest) => End::Oversize(largest),
            None => End::Lost(reason),
        })
    }

    /// A message that will not be sent goes to disk.
    fn reject(&self, seq: u64, cause: &str, reason: &str) {
        self.notices.warn(cause, reason.to_owned());
        if let Err(error) = self.outbox.reject(seq) {
            self.notices.warn(&error.cause(), error.to_string());
        }
    }
}

/// Returns when there is something to send. Waking us costs the job's thread more than all else that it does
/// for a message, so for a while we look by ourselves.
async fn more_work(outbox: &Outbox) {
    for _ in 0..LINGERS {
        if outbox.is_hurried() {
            break;
        }
        if outbox.work(Some(LINGER)).await {
            return;
        }
    }
    outbox.work(None).await;
}
