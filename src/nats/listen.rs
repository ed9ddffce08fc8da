//! Reading what runs publish: what streams have kept, and what comes.
//!
//! Streams that take the subjects are read through a consumer each, from a place on and then live: after a break of the
//! connection nothing is missing. What no stream takes is subscribed to.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::mpsc::SyncSender,
    time::{Instant, SystemTime},
};

use async_nats::{
    Client, Event, Message,
    jetstream::{
        self,
        consumer::{
            DeliverPolicy,
            pull::{Ordered, OrderedConfig},
        },
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, future::OptionFuture, stream::SelectAll};
use tokio::time::{Duration, timeout};

use super::{
    api::{Stream, Trouble, taking, unless_forbidden},
    dial::Attempts,
    link::{Link, Violation, hung_up},
    pool::Pool,
    raw::Raw,
};
use crate::{
    config::{Connection, Server},
    error::Error,
    message::{Received, covers, nonce},
};

/// What to listen to.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Filters that do not overlap.
    pub(crate) subjects: Vec<String>,
    /// Where to begin.
    pub(crate) from: Start,
    /// Go on when all has been told that streams had kept.
    pub(crate) follow: bool,
    /// Before all else, what streams have kept of these since then.
    pub(crate) before: Option<(Vec<String>, SystemTime)>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what comes from now on; no stream is needed.
    Now,
    /// With the first message that a stream has.
    First,
    /// With a stream's messages since this time.
    Since(SystemTime),
    /// With the last message of each subject.
    Last,
}

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// There is a connection now, and whoever reads this misses nothing that is published after it.
    Connected {
        /// The server's name and address.
        server: String,
        /// The streams that are read.
        streams: Vec<String>,
    },
    /// All that streams had kept has been told.
    CaughtUp,
    /// There is no connection any more, or none yet, and why. It is tried again.
    Lost(String),
    /// Why this is the end; no waiting mends it.
    Failed(String),
    /// The same: a stream is needed, and none takes the subjects.
    NoStream,
    /// A message.
    Message(Received),
}

/// Why a connection is not used any more.
enum Stop {
    /// The receiver is gone, or all is told.
    Enough,
    /// The connection is gone.
    Gone,
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
        last: HashMap::new(),
        stalls: 0,
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
                let (began, last) = (Instant::now(), listener.last.clone());
                let stop = listener.serve(&server, link, &mut pool).await;
                let is_stall = began.elapsed() < SHORT && last == listener.last;
                listener.stalls = if is_stall { listener.stalls + 1 } else { 0 };
                (stop.err().unwrap_or(Stop::Enough), true)
            }
            Err(error) => {
                let text = format!("cannot connect to {error}");
                let is_final =
                    matches!(error, Error::Refused { .. } | Error::Credentials { .. } | Error::Tls { .. });
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
            Stop::NotNow(reason) | Stop::Never(reason) => {
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

/// A connection that breaks within this time, before anything came, was of no use.
const SHORT: Duration = Duration::from_secs(2);
/// After so many of them in a row a command that does not follow gives up.
const MOST_STALLS: u32 = 4;
/// So many messages in a row that can be read from the wire: it is tried again.
const CALM: u32 = 256;

struct Listener<'a> {
    connection: &'a Connection,
    wish: Wish,
    /// The number of the message that was read last, by stream.
    last: HashMap<String, u64>,
    /// Connections in a row that broke before anything came: perhaps because of what comes next.
    stalls: u32,
    /// The consumers that we have made, and their streams.
    consumers: Vec<(String, String)>,
    is_caught_up: bool,
    heard: SyncSender<Heard>,
}

/// A stream's messages, and how many were waiting when its consumer was made.
struct Reading {
    messages: Ordered,
    pending: u64,
}

/// What comes out of a stream: its place among those that are read, and a message or what went wrong.
type Read = (usize, Result<jetstream::Message, String>);

impl Listener<'_> {
    fn tell(&self, heard: Heard) -> Step<()> {
        self.heard.send(heard).map_err(|_| Stop::Enough)
    }

    async fn serve(&mut self, server: &Server, mut link: Link, pool: &mut Pool) -> Step<()> {
        let told = self.tell_all(server, &mut link, pool).await;
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
        for stream in &streams {
            // From now on is from this message on, however often the connection breaks.
            let last = self.last.entry(stream.config.name.clone()).or_insert(match self.wish.from {
                Start::Now => stream.state.last_seq,
                _ => 0,
            });
            // A stream of this name that was made anew.
            *last = if *last > stream.state.last_seq { 0 } else { *last };
        }
        let names: Vec<String> = streams.iter().map(|stream| stream.config.name.clone()).collect();
        // First of all, so that nothing is missed that comes while history is read.
        let mut live = self.subscribe(link, &streams).await?;
        self.tell(Heard::Connected { server: name, streams: names.clone() })?;
        if let Some((subjects, since)) = self.wish.before.take() {
            let told = self.history(link, &streams, &subjects, since);
            if let Err(stop) = told.await {
                self.wish.before = Some((subjects, since));
                return Err(stop);
            }
        }
        let mut readings = SelectAll::new();
        let mut waiting = HashSet::new();
        for (place, stream) in streams.iter().enumerate() {
            let subjects = self.wish.subjects.clone();
            if self.stalls > 0 {
                self.read_raw(link, stream, &subjects, self.wish.from, CALM).await?;
            }
            let policy = self.policy(&stream.config.name);
            let Reading { messages, pending } = self.read(link, stream, &subjects, policy).await?;
            readings.push(numbered(place, messages));
            if pending > 0 {
                waiting.insert(place);
            }
        }
        loop {
            if waiting.is_empty() && !self.is_caught_up {
                self.is_caught_up = true;
                self.tell(Heard::CaughtUp)?;
            }
            if waiting.is_empty() && !self.wish.follow {
                return Ok(());
            }
            let subscribed: OptionFuture<_> = live.as_mut().map(StreamExt::next).into();
            tokio::select! {
                biased;
                Some(event) = link.events.recv() => on_event(&event, &self.connection.jetstream_api)?,
                Some((place, message)) = readings.next(), if !readings.is_empty() => {
                    let name = names.get(place).cloned().unwrap_or_default();
                    let is_gone = *link.gone.borrow();
                    let broken = |error| {
                        if is_gone { Stop::Gone } else { Stop::NotNow(format!("stream {name}: {error}")) }
                    };
                    let message = message.map_err(broken)?;
                    if let Ok(info) = message.info() {
                        if info.pending == 0 {
                            waiting.remove(&place);
                        }
                        self.last.insert(name, info.stream_sequence);
                    }
                    self.tell(Heard::Message(received(&message.message, message.info().ok())))?;
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

    /// The streams to be read. What needs one is told if there is none.
    async fn streams(&self, link: &mut Link) -> Step<Vec<Stream>> {
        let needs_one = self.wish.from != Start::Now;
        let streams = match taking(link, &self.connection.jetstream_api, &self.wish.subjects).await {
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

    fn policy(&self, stream: &str) -> DeliverPolicy {
        let last = self.last.get(stream).copied().unwrap_or(0);
        match self.wish.from {
            _ if last > 0 => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            Start::Now | Start::First => DeliverPolicy::All,
            Start::Since(when) => DeliverPolicy::ByStartTime { start_time: when.into() },
            Start::Last => DeliverPolicy::LastPerSubject,
        }
    }

    /// Tells what a stream has, message by message, until so many in a row could have been read from the wire.
    async fn read_raw(
        &mut self,
        link: &mut Link,
        stream: &Stream,
        subjects: &[String],
        from: Start,
        calm: u32,
    ) -> Step<()> {
        let name = stream.config.name.as_str();
        let api = self.connection.jetstream_api.clone();
        let last = self.last.get(name).copied().unwrap_or(0);
        let explained = |trouble| match trouble {
            Trouble::Forbidden(reason) => Stop::Never(format!(
                "stream {name}: what comes behind message {last} cannot be read as it comes over the wire, and {reason}; \
                 allow this user to publish to {api}.STREAM.MSG.GET.{name}"
            )),
            trouble => stop(trouble),
        };
        let mut next = match from {
            _ if last > 0 => last + 1,
            Start::Now | Start::First => 1,
            Start::Since(when) => Raw::first_since(link, &api, stream, when).await.map_err(explained)?,
            Start::Last => {
                for raw in Raw::last_of_each(link, &api, name, subjects).await.map_err(explained)? {
                    self.tell(Heard::Message(raw.received()))?;
                }
                self.last.insert(name.to_owned(), stream.state.last_seq);
                return Ok(());
            }
        };
        let mut readable = 0;
        while readable < calm
            && let Some(raw) = Raw::next(link, &api, name, subjects, next).await.map_err(explained)?
        {
            readable = if raw.is_readable() { readable + 1 } else { 0 };
            next = raw.seq + 1;
            self.last.insert(name.to_owned(), raw.seq);
            self.tell(Heard::Message(raw.received()))?;
        }
        Ok(())
    }

    /// Deletes the consumers of connections that broke. Whoever may not (who may could delete those of others, too) leaves
    /// them to the server, as does an orderly end: it has them for half a minute.
    async fn delete_consumers(&mut self, link: &mut Link) {
        const LIMIT: Duration = Duration::from_secs(1);
        for (stream, consumer) in std::mem::take(&mut self.consumers) {
            let api = self.connection.jetstream_api.as_str();
            let deleted = unless_forbidden(link, async |client| {
                let context = jetstream::with_prefix(client, api);
                timeout(LIMIT, context.delete_consumer_from_stream(&consumer, &stream)).await
            });
            if !matches!(deleted.await, Ok(Ok(_))) {
                return;
            }
        }
    }

    /// Tells what streams have kept.
    async fn history(
        &mut self,
        link: &mut Link,
        streams: &[Stream],
        subjects: &[String],
        since: SystemTime,
    ) -> Step<()> {
        let policy = DeliverPolicy::ByStartTime { start_time: since.into() };
        for stream in streams {
            if self.stalls > 0 {
                // Where in it that was is not known.
                let last = self.last.remove(&stream.config.name);
                let told = self.read_raw(link, stream, subjects, Start::Since(since), u32::MAX).await;
                self.last.extend(last.map(|last| (stream.config.name.clone(), last)));
                told?;
                continue;
            }
            let Reading { mut messages, mut pending } = self.read(link, stream, subjects, policy).await?;
            while pending > 0 {
                tokio::select! {
                    () = hung_up(&mut link.gone) => return Err(Stop::Gone),
                    message = messages.next() => {
                        let Some(Ok(message)) = message else {
                            return Err(Stop::NotNow(format!("stream {}: its history broke off", stream.config.name)));
                        };
                        pending = message.info().map_or(0, |info| info.pending);
                        self.tell(Heard::Message(received(&message.message, message.info().ok())))?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn read(
        &mut self,
        link: &mut Link,
        stream: &Stream,
        subjects: &[String],
        deliver_policy: DeliverPolicy,
    ) -> Step<Reading> {
        let name = &stream.config.name;
        let api = self.connection.jetstream_api.as_str();
        let mut config = OrderedConfig { deliver_policy, ..OrderedConfig::default() };
        match subjects {
            [one] => one.clone_into(&mut config.filter_subject),
            several => config.filter_subjects = several.to_vec(),
        }
        let opened = unless_forbidden(link, async |client| {
            let context = jetstream::with_prefix(client, api);
            let stream = context.get_stream_no_info(name).await.map_err(|error| error.to_string())?;
            let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
            let about = consumer.cached_info();
            let (pending, own_name) = (about.num_pending, about.name.clone());
            let messages = consumer.messages().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((Reading { messages, pending }, own_name))
        });
        let opened = opened.await.map_err(stop)?;
        let (reading, own_name) = opened.map_err(|error| Stop::NotNow(format!("stream {name}: {error}")))?;
        self.consumers.push((name.clone(), own_name));
        Ok(reading)
    }

    /// Subscribes to what no stream takes, if anybody wants to know what comes. Returns when the server knows.
    async fn subscribe(&self, link: &Link, streams: &[Stream]) -> Step<Option<Live>> {
        let taken = |subject: &String| {
            streams.iter().flat_map(|stream| &stream.config.subjects).any(|wide| covers(wide, subject))
        };
        if !self.wish.follow || self.wish.subjects.iter().all(taken) {
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

type Live = SelectAll<Pin<Box<dyn futures_util::Stream<Item = Message> + Send>>>;

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

fn numbered(place: usize, messages: Ordered) -> Pin<Box<dyn futures_util::Stream<Item = Read> + Send>> {
    messages.map(move |message| (place, message.map_err(|error| error.to_string()))).boxed()
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
        Trouble::NotNow(reason) | Trouble::NoStream(reason) => Stop::NotNow(reason),
    }
}

fn received(message: &Message, info: Option<jetstream::message::Info<'_>>) -> Received {
    let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
    let stored = info.map(|info| info.published.into());
    Received::new(message.subject.to_string(), message.payload.clone(), stored, header)
}
