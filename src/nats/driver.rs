//! Drives the machine (`delivery`): the one loop, the one clock, and what it takes to do as the machine says.

use std::{future::pending, pin::Pin, time::Instant};

use async_nats::Event;
use tokio::{
    task::coop::consume_budget,
    time::{Duration, sleep, sleep_until},
};

use super::{
    dial::look_elsewhere,
    jetstream,
    link::{Link, Violation},
    pool::Pool,
    streams::Streams,
    wire::{Gone, Incoming, Wire},
};
use crate::{
    config::{Connection, Server},
    delivery::{self, Action, Answer, BATCH, End, Heard, Input, Machine, Tell, Want, Why},
    fault,
    message::{TTL, nonce},
    outbox::{Outbox, Places, Sign},
    recovery::Recovery,
    report::Notices,
};

/// How often we look for new messages, and how many times in vain before we sleep and have to be woken.
const LINGER: Duration = Duration::from_millis(20);
const LINGERS: usize = 50;
/// A server could go on for ever with answers that prove nothing.
const MOST_PLACES: usize = 10_000;
/// How long an idle session without runs stays connected.
const IDLE: Duration = Duration::from_secs(5);
/// Whoever is woken later than this was suspended, or the machine is busy: what came meanwhile waits in the socket.
const LATE: Duration = Duration::from_millis(5);
/// So long async-nats may take to read a part of it.
const TURN: Duration = Duration::from_millis(1);

/// What a connection has to do with.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// What is to be delivered.
    pub(super) outbox: &'a Outbox,
    /// What earlier runs have left.
    pub(super) recovery: &'a Recovery,
    /// What is to be said.
    pub(super) notices: &'a Notices,
    /// Where streams are asked about.
    pub(super) api: &'a str,
}

/// One connection, and the machine that uses it.
pub(super) struct Driver<'a> {
    machine: &'a mut Machine,
    around: Around<'a>,
    wire: Wire,
    /// What is known of the streams that acknowledge.
    streams: &'a mut Streams,
    /// Where those have stored what they have acknowledged just now.
    places: Places,
    /// Numbers of messages that were handed to the connection, and that the outbox has not been told of yet.
    sent: Vec<u64>,
    /// Another server is to be looked for.
    looks: bool,
    /// The connection is gone, or not to be used any more.
    end: Option<End>,
    is_gone: bool,
    /// When the next sign of life is due.
    beats_at: Option<Instant>,
}

impl<'a> Driver<'a> {
    /// Takes a connection on. An error says why it is of no use.
    pub(super) async fn begin(
        link: Link,
        has_others: bool,
        machine: &'a mut Machine,
        streams: &'a mut Streams,
        around: Around<'a>,
    ) -> Result<Self, End> {
        streams.begin();
        let info = link.client.server_info();
        let server = delivery::Server {
            nonce: nonce(),
            max_payload: info.max_payload,
            jetstream: info.jetstream,
            has_others,
        };
        machine.on(Instant::now(), Input::Connected(server));
        let wire = Wire::open(link, machine.inbox().all()).await.map_err(|error| End {
            why: Why::Lost(format!("cannot subscribe to the inbox: {error}")),
            is_useless: true,
        })?;
        let mut driver = Self {
            machine,
            around,
            wire,
            streams,
            places: Places::new(),
            sent: Vec::new(),
            looks: false,
            end: None,
            is_gone: false,
            beats_at: Some(Instant::now()),
        };
        driver.perform().await;
        while driver.end.is_none() && !driver.machine.carries() {
            driver.step().await;
        }
        match driver.end.take() {
            Some(end) => Err(end),
            None => Ok(driver),
        }
    }

    /// Publishes what the outbox holds until there is a reason to end. If that is another server, it is connected already.
    pub(super) async fn serve(
        &mut self,
        connection: &Connection,
        pool: &mut Pool,
        server: &Server,
    ) -> (End, Option<(Server, Link)>) {
        let mut found = None;
        let mut looking: Option<Looking<'_>> = None;
        // Lent to whoever looks.
        let mut pool = Some(pool);
        let mut drained_at: Option<Instant> = None;
        loop {
            if let Some(end) = self.end.take() {
                if !matches!(end.why, Why::Lost(_) | Why::Oversize { .. }) {
                    self.wire.close().await;
                }
                return (end, found);
            }
            if std::mem::take(&mut self.looks)
                && let Some(pool) = pool.take()
            {
                looking = Some(Box::pin(look_elsewhere(connection, pool, server)));
            }
            for error in self.around.outbox.begin_records() {
                self.around.notices.warn(&error.cause(), error.to_string());
            }
            if let Err(error) = self.around.outbox.refill() {
                self.around.notices.problem(&error.cause(), error.to_string());
            }
            while let Err(error) = self.around.recovery.feed(self.around.outbox) {
                self.around.notices.problem(&error.cause(), error.to_string());
            }
            if self.fill().await {
                drained_at = None;
            }
            self.give_signs_of_life().await;
            self.ask_about_streams().await;
            if self.end.is_some() {
                continue;
            }
            let now = Instant::now();
            let idle = !self.machine.is_waiting() && self.around.outbox.is_idle();
            let idle_until = *drained_at.get_or_insert(now) + IDLE;
            let wakes_at = self.machine.wakes_at(now).into_iter().chain(self.beats_at).min();
            let has_room = self.machine.has_room(now);
            let outbox = self.around.outbox;
            // Whatever is at hand again and again: async-nats' task must have its turn, and timers theirs.
            consume_budget().await;
            tokio::select! {
                incoming = self.wire.next() => self.on_incoming(incoming).await,
                () = until(wakes_at) => self.on_time(wakes_at).await,
                () = until(Some(idle_until)), if idle => self.tell_machine(Input::Rest).await,
                (lent, server, link) = or_never(&mut looking) => {
                    looking = None;
                    pool = Some(lent);
                    found = Some((server, link));
                    self.tell_machine(Input::Found).await;
                    if self.end.is_none() {
                        // It is not needed any more.
                        found = None;
                    }
                }
                () = more_work(outbox), if has_room => {}
            }
        }
    }

    /// Waits for what happens next.
    async fn step(&mut self) {
        let wakes_at = self.machine.wakes_at(Instant::now());
        tokio::select! {
            incoming = self.wire.next() => self.on_incoming(incoming).await,
            () = until(wakes_at) => self.on_time(wakes_at).await,
        }
    }

    /// Sends as much as the machine wants; `true` if that was anything.
    async fn fill(&mut self) -> bool {
        let mut sent = false;
        while self.end.is_none()
            && let Some(want) = self.machine.wants(Instant::now())
        {
            let (batch, input): (_, fn(_) -> _) = match want {
                Want::Again(seqs) => (self.around.outbox.take_again(&seqs), Input::TakenAgain),
                Want::Next { most, bytes } => {
                    let batch = self.around.outbox.take(most, bytes);
                    if batch.is_empty() {
                        break;
                    }
                    (batch, Input::Taken)
                }
            };
            sent = true;
            self.tell_machine(input(batch)).await;
            if let Some(incoming) = self.wire.at_hand() {
                self.on_incoming(incoming).await;
            }
        }
        // What the machine has put aside on the way.
        self.perform().await;
        sent
    }

    /// Handles one thing that came in, and all that came with it.
    async fn on_incoming(&mut self, first: Incoming) {
        if self.machine.carries() {
            fault::panic_at("session.incoming");
        }
        let mut incoming = Some(first);
        for _ in 0..BATCH {
            let Some(one) = incoming else { break };
            self.on_one(one).await;
            incoming = self.wire.at_hand();
        }
        if let Some(last) = incoming {
            self.on_one(last).await;
        }
        self.perform().await;
    }

    async fn on_one(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Message(message) => self.on_message(&message).await,
            Incoming::Event(event) => self.on_event(event),
            Incoming::Gone => {
                // What came before the end is as true as ever.
                while let Some(before) = self.wire.at_hand() {
                    match before {
                        Incoming::Message(message) => self.on_message(&message).await,
                        Incoming::Event(event) => self.on_event(event),
                        Incoming::Gone => break,
                    }
                }
                self.hang_up();
            }
        }
    }

    async fn on_message(&mut self, message: &async_nats::Message) {
        let heard = match self.machine.inbox().understand(&message.subject) {
            Answer::Hello => Heard::Hello,
            Answer::Ack { ordinal, seq } => match jetstream::read_receipt(message) {
                Some((ack, receipt)) => {
                    if let Some(receipt) = receipt {
                        if self.places.len() > MOST_PLACES {
                            self.places.clear();
                        }
                        self.places.insert(seq, self.streams.place(&receipt));
                    }
                    Heard::Ack { ordinal, seq, ack }
                }
                None => return,
            },
            Answer::About(number) => {
                if let Some((stream, created)) = self.streams.answer(number, message) {
                    self.around.outbox.made(&stream, &created);
                }
                return;
            }
            Answer::Question(question) => {
                Heard::Api { question, says: jetstream::Captured::read(message).says() }
            }
            Answer::Marker(ordinal) => {
                // A refusal of a message before the marker came before it, but on another way: let async-nats' event
                // task speak first.
                tokio::task::yield_now().await;
                while let Some(event) = self.wire.event_at_hand() {
                    self.on_event(event);
                }
                Heard::Marker(ordinal)
            }
            Answer::Other => return,
        };
        self.machine.on(Instant::now(), Input::Heard(heard));
    }

    fn on_event(&mut self, event: Event) {
        let input = match event {
            Event::LameDuckMode => Input::LameDuck,
            Event::ServerError(error) => {
                let text = error.to_string();
                match Violation::parse(&text) {
                    // Whoever may not ask about streams goes on without.
                    Some(Violation { subject, .. })
                        if jetstream::is_about_stream(self.around.api, &subject) =>
                    {
                        return;
                    }
                    Some(Violation { publish, subject }) => Input::Forbidden { publish, subject },
                    None => return self.wire.heard(text),
                }
            }
            _ => return,
        };
        self.machine.on(Instant::now(), input);
    }

    /// A time has come. Whoever is late (a suspended process, a busy machine) reads what has come first: answers that wait
    /// in the socket are in time.
    async fn on_time(&mut self, due: Option<Instant>) {
        let is_late = due.is_some_and(|due| due.elapsed() > LATE);
        tokio::task::yield_now().await;
        while self.end.is_none() {
            if is_late {
                sleep(TURN).await;
            }
            let Some(incoming) = self.wire.at_hand() else { break };
            self.on_incoming(incoming).await;
        }
        self.tell_machine(Input::Time).await;
    }

    async fn tell_machine(&mut self, input: Input) {
        self.machine.on(Instant::now(), input);
        self.perform().await;
    }

    /// The connection is gone.
    fn hang_up(&mut self) {
        if !std::mem::replace(&mut self.is_gone, true) {
            let reason = self.wire.reason("connection closed");
            self.machine.on(Instant::now(), Input::Gone(reason));
        }
    }

    /// Does as the machine says.
    async fn perform(&mut self) {
        while let Some(action) = self.machine.action() {
            let done = match action {
                Action::Send { seq, message, reply, stream } if !self.is_gone => {
                    self.sent.push(seq);
                    self.wire.send_message(message, reply, stream.as_deref()).await
                }
                Action::Say { subject, reply, payload } if !self.is_gone => {
                    self.wire.publish(subject, reply, payload).await
                }
                Action::Flush if !self.is_gone => {
                    let flushed = self.wire.flush(self.machine.stall()).await;
                    flushed.map(|flushed| self.machine.on(Instant::now(), Input::Flushed(flushed)))
                }
                // To whom?
                Action::Send { .. } | Action::Say { .. } | Action::Flush => Ok(()),
                other => {
                    self.note_sent();
                    self.settle(other);
                    Ok(())
                }
            };
            if let Err(Gone) = done {
                self.hang_up();
            }
        }
        self.note_sent();
    }

    /// What concerns the outbox and people.
    fn settle(&mut self, action: Action) {
        match action {
            Action::Confirm(proofs) => {
                self.around.outbox.confirm(&proofs, &self.places, Instant::now());
                self.places.clear();
            }
            Action::Unheard(seqs, unheard) => self.around.outbox.mark_unheard(&seqs, unheard),
            Action::Reject { seq, cause, reason } => {
                let rejected = self.around.outbox.reject(seq, &reason);
                self.around.notices.warn(&cause, reason);
                if let Err(error) = rejected {
                    self.around.notices.warn(&error.cause(), error.to_string());
                }
            }
            Action::Rewind => self.around.outbox.rewind(Instant::now()),
            Action::Tell(Tell::Problem { cause, text }) => self.around.notices.problem(&cause, text),
            Action::Tell(Tell::Mended) => drop(self.around.notices.mended()),
            Action::Look => self.looks = true,
            Action::End(end) => drop(self.end.get_or_insert(end)),
            Action::Send { .. } | Action::Say { .. } | Action::Flush => {}
        }
    }

    fn note_sent(&mut self) {
        if !self.sent.is_empty() {
            self.around.outbox.mark_sent(&self.sent);
            self.sent.clear();
        }
    }

    /// Asks new streams how they were made.
    async fn ask_about_streams(&mut self) {
        while self.end.is_none()
            && let Some((number, (subject, payload))) = self.streams.question(self.around.api)
        {
            let reply = self.machine.inbox().about(number);
            if let Err(Gone) = self.wire.publish(subject, Some(reply), payload.into()).await {
                self.hang_up();
                return self.perform().await;
            }
        }
    }

    /// Sends what runs have to say of being alive: no proof is asked for, and nothing is kept.
    async fn give_signs_of_life(&mut self) {
        let now = Instant::now();
        let is_due = self.beats_at.is_some_and(|at| at <= now);
        if self.end.is_some() || !(self.around.outbox.has_new_pulses() || is_due) {
            return;
        }
        let (due, next) = self.around.outbox.beats(now);
        self.beats_at = next;
        let allow_ttl = self.streams.allow_ttl();
        for Sign { message, keep } in due {
            let message = match keep {
                // Nothing of what came before it goes by itself: it is not needed.
                None if !allow_ttl => continue,
                Some(keep) if allow_ttl => {
                    let seconds = keep.as_millis().div_ceil(1000).max(1);
                    message.with_replaced_header(TTL, &format!("{seconds}s"))
                }
                _ => message,
            };
            if let Err(Gone) = self.wire.send_message(message, None, None).await {
                self.hang_up();
                return self.perform().await;
            }
        }
    }
}

/// Whoever looks for another server, and the pool that was lent for it.
type Looking<'a> = Pin<Box<dyn Future<Output = (&'a mut Pool, Server, Link)> + 'a>>;

async fn or_never<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + '_>>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => pending().await,
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
