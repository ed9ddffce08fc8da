//! Reading what runs publish: what streams have kept, and what comes.
//!
//! Streams that take the subjects are read through consumers, from a place on and then live: after a break of the
//! connection nothing is missing. What no stream takes is subscribed to.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::mpsc::SyncSender,
    time::{Instant, SystemTime},
};

use async_nats::{
    Client, Event, Message,
    jetstream::{self, consumer::DeliverPolicy},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::OptionFuture, stream::SelectAll};
use tokio::time::{Duration, timeout};

use super::{
    api::{Stream, Trouble, holding},
    consumer::{self, Form, Name, Order, Reading},
    dial::Attempts,
    link::{Link, Violation, hung_up},
    pool::Pool,
    raw::Raw,
    wish::{Heard, Start, Wish},
};
use crate::{
    config::{Connection, Server},
    message::{Received, covers, merged, nonce},
};

/// Why a connection is not used any more.
enum Stop {
    /// The receiver is gone, or all is told.
    Enough,
    /// The connection is gone.
    Gone,
    /// A consumer is gone; others can go on from where it was.
    Broken(String),
    /// Something is in the way that may pass.
    NotNow(String),
    /// Something is in the way that will not pass.
    Never(String),
    /// A stream is needed, and none takes the subjects.
    NoStream,
}

type Step<T> = Result<T, Stop>;

/// Listens until nobody wants to know any more, through as many connections as it takes. If the wish is not to follow,
/// each server is tried once.
pub(crate) async fn listen(connection: &Connection, wish: Wish, heard: SyncSender<Heard>) {
    let tries = connection.servers.len();
    let mut listener = Listener {
        connection,
        wish,
        places: HashMap::new(),
        stalls: 0,
        form: Form::default(),
        consumers: Vec::new(),
        is_caught_up: false,
        heard,
    };
    let mut pool = Pool::new(connection);
    // Failures in a row, and those of them that no waiting mends.
    let (mut failures, mut final_ones) = (0, 0);
    let mut attempts = Attempts::new(connection);
    while let Some((server, link)) = attempts.next(&pool, None, |_| {}).await {
        let (stop, is_connected) = match link {
            Ok(link) => {
                attempts = Attempts::new(connection);
                let (began, places) = (Instant::now(), listener.places.clone());
                let stop = listener.serve(&server, link, &mut pool).await;
                let is_stall = began.elapsed() < SHORT && places == listener.places;
                listener.stalls = if is_stall { listener.stalls + 1 } else { 0 };
                (stop.err().unwrap_or(Stop::Enough), true)
            }
            Err(error) => {
                let text = format!("cannot connect to {error}");
                let is_final = error.is_final();
                (if is_final { Stop::Never(text) } else { Stop::NotNow(text) }, false)
            }
        };
        let is_final = matches!(stop, Stop::Never(_));
        let told = match stop {
            Stop::Enough => return,
            Stop::NoStream => {
                let _ = listener.tell(Heard::NoStream);
                return;
            }
            Stop::Gone => {
                (failures, final_ones) = (0, 0);
                let reason = format!("connection to {} lost", server.address);
                // Once may be a message that nobody can read from the wire: then it is read in another way.
                let stalls = listener.stalls;
                if stalls < 2 {
                    pool.lost(&server);
                } else if listener.wish.follow || stalls < MOST_STALLS {
                    pool.failed(&server, Instant::now());
                } else {
                    let _ = listener.tell(Heard::Failed(format!("{reason}, {stalls} times in a row")));
                    return;
                }
                listener.tell(Heard::Lost(reason))
            }
            Stop::Broken(reason) | Stop::NotNow(reason) | Stop::Never(reason) => {
                failures += 1;
                final_ones = if is_final { final_ones + 1 } else { 0 };
                let is_over = final_ones >= tries || (!listener.wish.follow && failures >= tries);
                if is_over || (is_final && is_connected) {
                    let _ = listener.tell(Heard::Failed(reason));
                    return;
                }
                pool.failed(&server, Instant::now());
                listener.tell(Heard::Lost(reason))
            }
        };
        if told.is_err() {
            return;
        }
    }
    let _ = listener.tell(Heard::Failed("no server left to try (max_reconnect_attempts)".to_owned()));
}

/// A connection or a consumer that breaks within this time, before anything came, was of no use.
const SHORT: Duration = Duration::from_secs(2);
/// After so many of them in a row a command that does not follow gives up.
const MOST_STALLS: u32 = 4;
/// So many messages in a row that can be read from the wire: it is tried again.
const CALM: u32 = 256;

/// So many consumers read a stream at most.
const MOST_CONSUMERS: usize = 16;

struct Listener<'a> {
    connection: &'a Connection,
    wish: Wish,
    /// The number of the message that was read last.
    places: HashMap<Part, u64>,
    /// Connections in a row that broke before anything came: perhaps because of what comes next.
    stalls: u32,
    /// How consumers are made here.
    form: Form,
    /// The consumers that we have made.
    consumers: Vec<Name>,
    is_caught_up: bool,
    heard: SyncSender<Heard>,
}

/// What one consumer reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    stream: String,
    filters: Vec<String>,
}

impl Listener<'_> {
    fn tell(&self, heard: Heard) -> Step<()> {
        self.heard.send(heard).map_err(|_| Stop::Enough)
    }

    async fn serve(&mut self, server: &Server, mut link: Link, pool: &mut Pool) -> Step<()> {
        let told = self.tell_all(server, &mut link, pool).await;
        if matches!(told, Err(Stop::Enough)) {
            self.delete_consumers(&mut link).await;
        }
        if !matches!(told, Err(Stop::Gone)) {
            return told;
        }
        // What the server said last tells more.
        while let Ok(event) = link.events.try_recv() {
            on_event(&event, &self.connection.jetstream_api)?;
        }
        told
    }

    async fn tell_all(&mut self, server: &Server, link: &mut Link, pool: &mut Pool) -> Step<()> {
        let info = link.client.server_info();
        pool.learn(server, &info.connect_urls, info.tls_required);
        // Nobody has given it a name: it is called by its key.
        let name = Some(info.server_name).filter(|name| *name != info.server_id);
        let name =
            name.map_or_else(|| server.address.clone(), |name| format!("{name} at {}", server.address));
        self.delete_consumers(link).await;
        let streams = self.streams(link).await?;
        let filters = merged(&self.wish.subjects, MOST_CONSUMERS);
        for stream in &streams {
            self.begin(stream, &filters);
        }
        let names = streams.iter().map(|stream| stream.config.name.clone()).collect();
        // First of all, so that nothing is missed that comes while history is read.
        let mut live = self.subscribe(link, &streams).await?;
        let now = streams.iter().filter_map(|stream| stream.now).max();
        // By the server's clock, if it has told the time.
        let clock = now.unwrap_or_else(SystemTime::now);
        if let Start::Ago(age) = self.wish.from {
            // The same place, should the connection break.
            self.wish.from = Start::Since(before(clock, age));
        }
        self.tell(Heard::Connected { server: name, streams: names, now })?;
        if let Some((subjects, age)) = self.wish.before.take() {
            let told = self.history(link, &streams, &subjects, before(clock, age));
            if let Err(stop) = told.await {
                self.wish.before = Some((subjects, age));
                return Err(stop);
            }
        }
        loop {
            let (began, places) = (Instant::now(), self.places.clone());
            match self.read(link, &streams, &filters, &mut live).await {
                Err(Stop::Broken(_)) if *link.gone.borrow() => return Err(Stop::Gone),
                Err(Stop::Broken(_)) if began.elapsed() >= SHORT || places != self.places => {
                    self.delete_consumers(link).await;
                }
                told => return told,
            }
        }
    }

    /// From where a stream is read: from now on is from this message on, however often the connection breaks.
    fn begin(&mut self, stream: &Stream, filters: &[String]) {
        let (name, last_seq) = (&stream.config.name, stream.state.last_seq);
        for filters in [Form::Apart, Form::Together].into_iter().flat_map(|form| form.split(filters)) {
            let part = Part { stream: name.clone(), filters };
            let place = self.places.entry(part).or_insert(match self.wish.from {
                Start::Now => last_seq,
                _ => 0,
            });
            // A stream of this name that was made anew.
            *place = if *place > last_seq { 0 } else { *place };
        }
    }

    /// Tells what streams have, and what comes.
    async fn read(
        &mut self,
        link: &mut Link,
        streams: &[Stream],
        filters: &[String],
        live: &mut Option<Live>,
    ) -> Step<()> {
        let mut parts = Vec::new();
        let mut readings = SelectAll::new();
        let mut waiting = HashSet::new();
        for stream in streams {
            if self.stalls > 0 {
                self.read_all_raw(link, stream, filters).await?;
            }
            let name = &stream.config.name;
            for Reading { filters, messages, pending, .. } in self.open(link, stream, filters, None).await? {
                let number = parts.len();
                parts.push(Part { stream: name.clone(), filters });
                readings.push(messages.map(move |message| (number, message)));
                if pending > 0 {
                    waiting.insert(number);
                }
            }
        }
        let subjects = self.wish.subjects.clone();
        let is_wanted = wanted(&subjects, filters);
        loop {
            let is_over = waiting.is_empty() && !self.wish.follow;
            if is_over {
                // Whoever knows that all is told may be gone at once.
                self.delete_consumers(link).await;
            }
            if waiting.is_empty() && !self.is_caught_up {
                self.is_caught_up = true;
                self.tell(Heard::CaughtUp)?;
            }
            if is_over {
                return Ok(());
            }
            let subscribed: OptionFuture<_> = live.as_mut().map(StreamExt::next).into();
            tokio::select! {
                biased;
                Some(event) = link.events.recv() => on_event(&event, &self.connection.jetstream_api)?,
                Some((number, message)) = readings.next(), if !readings.is_empty() => {
                    let Some(part) = parts.get(number) else { continue };
                    let broken = |error| Stop::Broken(format!("stream {}: {error}", part.stream));
                    if self.hear(part, &message.map_err(broken)?, &is_wanted)? {
                        waiting.remove(&number);
                    }
                }
                Some(message) = subscribed => match message {
                    Some(message) => self.tell(Heard::Message(received(&message, None)))?,
                    None => return Err(Stop::Gone),
                },
                // What has come in already is told before.
                () = hung_up(&mut link.gone) => return Err(Stop::Gone),
            }
        }
    }

    /// Tells a message of a stream, if it is wanted, and remembers its place. Was it the last that the stream has?
    fn hear(
        &mut self,
        part: &Part,
        message: &jetstream::Message,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Step<bool> {
        let info = message.info().ok();
        if let (Some(info), Some(place)) = (&info, self.places.get_mut(part)) {
            *place = info.stream_sequence;
        }
        let is_last = info.as_ref().is_some_and(|info| info.pending == 0);
        if is_wanted(&message.subject) {
            self.tell(Heard::Message(received(&message.message, info)))?;
        }
        Ok(is_last)
    }

    /// The streams to be read. What needs one is told if there is none.
    async fn streams(&self, link: &mut Link) -> Step<Vec<Stream>> {
        let needs_one = self.wish.from != Start::Now;
        let streams = match holding(link, self.connection, &self.wish.subjects).await {
            // That it is made later nobody need wait for.
            Err(Trouble::NoStream(reason)) if self.connection.stream.is_some() => {
                let name = self.connection.stream.as_deref().unwrap_or_default();
                return Err(Stop::Never(format!("stream {name} (option stream): {reason}")));
            }
            // Whoever may not ask can still subscribe.
            Err(Trouble::Forbidden(_)) if !needs_one => Vec::new(),
            Err(Trouble::NotNow(_)) if !needs_one && !link.client.server_info().jetstream => Vec::new(),
            streams => streams.map_err(stop)?,
        };
        if streams.is_empty() && needs_one {
            return Err(Stop::NoStream);
        }
        Ok(streams)
    }

    /// Where a consumer of these filters begins.
    fn policy(&self, stream: &str, filters: &[String]) -> DeliverPolicy {
        let part = Part { stream: stream.to_owned(), filters: filters.to_vec() };
        let place = self.places.get(&part).copied().unwrap_or(0);
        match self.wish.from {
            _ if place > 0 => DeliverPolicy::ByStartSequence { start_sequence: place + 1 },
            Start::Now | Start::First => DeliverPolicy::All,
            Start::Since(when) => DeliverPolicy::ByStartTime { start_time: when.into() },
            Start::Ago(age) => {
                DeliverPolicy::ByStartTime { start_time: before(SystemTime::now(), age).into() }
            }
            Start::Last => DeliverPolicy::LastPerSubject,
        }
    }

    /// Makes the consumers of a stream; `since`: of what it has kept since then, instead of what comes after our places.
    async fn open(
        &mut self,
        link: &mut Link,
        stream: &Stream,
        filters: &[String],
        since: Option<SystemTime>,
    ) -> Step<Vec<Reading>> {
        let config = &stream.config;
        let order =
            Order { api: &self.connection.jetstream_api, stream: config, filters, headers_only: false };
        let mut form = self.form;
        let policy = |filters: &[String]| match since {
            Some(since) => DeliverPolicy::ByStartTime { start_time: since.into() },
            None => self.policy(&config.name, filters),
        };
        let readings = consumer::open(link, order, &mut form, policy).await.map_err(stop)?;
        self.form = form;
        self.consumers.extend(readings.iter().map(|reading| reading.name.clone()));
        Ok(readings)
    }

    /// Tells what a stream has, message by message, from our places on.
    async fn read_all_raw(&mut self, link: &mut Link, stream: &Stream, filters: &[String]) -> Step<()> {
        for filters in self.form.split(filters) {
            let part = Part { stream: stream.config.name.clone(), filters };
            let mut place = self.places.get(&part).copied().unwrap_or(0);
            let told = self.read_raw(link, stream, &part.filters, self.wish.from, &mut place, CALM).await;
            self.places.insert(part, place);
            told?;
        }
        Ok(())
    }

    /// Tells what a stream has after a place, message by message, until so many in a row could have been read from the wire.
    async fn read_raw(
        &self,
        link: &mut Link,
        stream: &Stream,
        filters: &[String],
        from: Start,
        place: &mut u64,
        calm: u32,
    ) -> Step<()> {
        let name = stream.config.name.as_str();
        let api = self.connection.jetstream_api.as_str();
        let last = *place;
        // Which of the parts it is that cannot be read nobody knows: all before this was.
        let read = self.places.iter().filter(|(part, _)| part.stream == name).map(|(_, place)| *place).max();
        let read = read.unwrap_or(0).max(last);
        let explained = |trouble| match trouble {
            Trouble::Forbidden(reason) => Stop::Never(format!(
                "stream {name}: what comes behind message {read} cannot be read as it comes over the wire, and {reason}; \
                 allow this user to publish to {api}.STREAM.MSG.GET.{name}"
            )),
            trouble => stop(trouble),
        };
        let is_wanted = wanted(&self.wish.subjects, filters);
        let mut next = match from {
            _ if last > 0 => last + 1,
            Start::Now | Start::First => 1,
            Start::Since(when) => Raw::first_since(link, api, stream, when).await.map_err(explained)?,
            Start::Ago(age) => Raw::first_since(link, api, stream, before(SystemTime::now(), age))
                .await
                .map_err(explained)?,
            Start::Last => {
                for raw in Raw::last_of_each(link, api, name, filters).await.map_err(explained)? {
                    if is_wanted(&raw.subject) {
                        self.tell(Heard::Message(raw.received()))?;
                    }
                }
                *place = stream.state.last_seq;
                return Ok(());
            }
        };
        let mut readable = 0;
        while readable < calm
            && let Some(raw) = Raw::next(link, api, name, filters, next).await.map_err(explained)?
        {
            readable = if raw.is_readable() { readable + 1 } else { 0 };
            next = raw.seq + 1;
            *place = raw.seq;
            if is_wanted(&raw.subject) {
                self.tell(Heard::Message(raw.received()))?;
            }
        }
        Ok(())
    }

    /// Deletes the consumers that are not read any more.
    async fn delete_consumers(&mut self, link: &mut Link) {
        consumer::delete(link, &self.connection.jetstream_api, std::mem::take(&mut self.consumers)).await;
    }

    /// Tells what streams have kept.
    async fn history(
        &mut self,
        link: &mut Link,
        streams: &[Stream],
        subjects: &[String],
        since: SystemTime,
    ) -> Step<()> {
        let filters = merged(subjects, MOST_CONSUMERS);
        let is_wanted = wanted(subjects, &filters);
        for stream in streams {
            if self.stalls > 0 {
                // Where in it that was is not known.
                self.read_raw(link, stream, &filters, Start::Since(since), &mut 0, u32::MAX).await?;
                continue;
            }
            for Reading { mut messages, mut pending, .. } in
                self.open(link, stream, &filters, Some(since)).await?
            {
                while pending > 0 {
                    tokio::select! {
                        () = hung_up(&mut link.gone) => return Err(Stop::Gone),
                        message = messages.next() => {
                            let Some(Ok(message)) = message else {
                                let name = &stream.config.name;
                                return Err(Stop::NotNow(format!("stream {name}: its history broke off")));
                            };
                            pending = message.info().map_or(0, |info| info.pending);
                            if is_wanted(&message.subject) {
                                self.tell(Heard::Message(received(&message.message, message.info().ok())))?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Subscribes to what no stream takes, if anybody wants to know what comes. Returns when the server knows.
    async fn subscribe(&self, link: &Link, streams: &[Stream]) -> Step<Option<Live>> {
        let taken = |subject: &String| {
            streams.iter().flat_map(|stream| &stream.config.subjects).any(|wide| covers(wide, subject))
        };
        // A stream that is named has all: one that copies others takes no subject itself.
        let is_named = self.connection.stream.is_some() && !streams.is_empty();
        if !self.wish.follow || is_named || self.wish.subjects.iter().all(taken) {
            return Ok(None);
        }
        let mut all: Live = SelectAll::new();
        for subject in &self.wish.subjects {
            let subscriber = link.client.subscribe(subject.clone()).await;
            all.push(subscriber.map_err(|error| Stop::NotNow(error.to_string()))?.boxed());
        }
        // That we may not subscribe is said by the server while we listen.
        until_subscribed(&link.client, &self.connection.inbox_prefix).await;
        Ok(Some(all))
    }
}

/// Filters may ask for more than is wanted: which subjects are?
fn wanted<'a>(subjects: &'a [String], filters: &[String]) -> impl Fn(&str) -> bool + 'a {
    let asks_for_more = filters.iter().any(|filter| !subjects.contains(filter));
    move |subject| !asks_for_more || subjects.iter().any(|wide| covers(wide, subject))
}

type Live = SelectAll<Pin<Box<dyn futures_util::Stream<Item = Message> + Send>>>;

/// So long before now.
pub(crate) fn before(now: SystemTime, age: Duration) -> SystemTime {
    // JetStream reads no time before the year 1.
    now.checked_sub(age).map_or(SystemTime::UNIX_EPOCH, |then| then.max(SystemTime::UNIX_EPOCH))
}

/// The server knows our subscriptions: it has then handled what we sent after them, too. Where we may not send to an
/// inbox, a moment has to do.
async fn until_subscribed(client: &Client, inbox_prefix: &str) {
    const MOMENT: Duration = Duration::from_millis(500);
    let inbox = format!("{inbox_prefix}.{}", nonce());
    let echo = async {
        let mut own = client.subscribe(inbox.clone()).await.ok()?;
        client.publish(inbox, Bytes::new()).await.ok()?;
        own.next().await
    };
    let _ = timeout(MOMENT, echo).await;
}

/// `api`: where we ask for what streams have. Other than that we need not publish anything to listen.
fn on_event(event: &Event, api: &str) -> Step<()> {
    let Event::ServerError(error) = event else { return Ok(()) };
    let text = error.to_string();
    match Violation::parse(&text) {
        Some(Violation { publish: true, subject }) if !subject.starts_with(api) => Ok(()),
        Some(violation) => Err(Stop::Never(violation.to_string())),
        None => Err(Stop::NotNow(text)),
    }
}

fn stop(trouble: Trouble) -> Stop {
    match trouble {
        Trouble::Gone => Stop::Gone,
        Trouble::Forbidden(reason) => Stop::Never(reason),
        Trouble::Nobody => Stop::NotNow("nobody answers for JetStream".to_owned()),
        // Gone between two questions: the next look tells.
        Trouble::NotNow(reason) | Trouble::NoStream(reason) | Trouble::TooMany(reason) => {
            Stop::NotNow(reason)
        }
    }
}

pub(super) fn received(message: &Message, info: Option<jetstream::message::Info<'_>>) -> Received {
    let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
    let stored = info.map(|info| info.published.into());
    Received::new(message.subject.to_string(), message.payload.clone(), stored, header)
}
