//! A stream's messages one at a time, through a durable consumer: the stream itself remembers which were dealt with, and
//! hands the others out again, to whoever comes next.

use std::{
    collections::HashSet,
    sync::mpsc::SyncSender,
    time::{Duration, Instant, SystemTime},
};

use async_nats::{
    Event,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        context::ConsumerInfoErrorKind,
    },
};
use futures_util::StreamExt;
use tokio::{
    sync::oneshot::{self, Receiver, Sender, error::RecvError},
    time::timeout,
};

use super::{
    api::{Trouble, taking, unless_forbidden},
    dial::Attempts,
    link::{Link, Violation, hung_up},
    listen::received,
    pool::Pool,
};
use crate::{
    config::{Connection, Server},
    message::Received,
};

/// A message that is not dealt with in this time is handed out again: somebody may have been killed over it.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often the stream hears that somebody is still at it.
const AT_IT: Duration = Duration::from_secs(20);
/// So many messages may wait for another try at once.
const WAITING: i64 = 10_000;

/// Which messages, and who remembers them.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    /// What the consumer is called.
    pub(crate) name: String,
    /// Filters that do not overlap.
    pub(crate) subjects: Vec<String>,
    /// Where to begin the first time; `None`: with what comes from then on.
    pub(crate) since: Option<SystemTime>,
}

/// What is told.
#[derive(Debug)]
pub(crate) enum Handed {
    /// There is a connection now.
    Connected {
        /// The stream that is read.
        stream: String,
    },
    /// A message to be dealt with.
    Task(Task),
    /// There is no connection any more, or none yet, and why. It is tried again.
    Lost(String),
    /// Why this is the end; no waiting mends it.
    Failed(String),
    /// The same: no stream takes the subjects.
    NoStream,
}

/// A message that somebody has to deal with.
#[derive(Debug)]
pub(crate) struct Task {
    /// The message.
    pub(crate) message: Received,
    /// The stream's name, and the message's number in it.
    pub(crate) stream: String,
    /// See `stream`.
    pub(crate) number: u64,
    /// Where to say what became of it. The next message comes after that.
    pub(crate) verdict: Sender<Verdict>,
}

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done, and never comes again.
    Done,
    /// It comes again after this time.
    Again(Duration),
}

/// Why a connection is not used any more.
enum End {
    /// Nobody wants to know any more.
    Enough,
    /// The connection is gone.
    Gone,
    /// Something is in the way that may pass.
    NotNow(String),
    /// Something is in the way that will not pass.
    Never(String),
    /// No stream takes the subjects.
    NoStream,
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Gone => Self::Gone,
            Trouble::Forbidden(reason) => Self::Never(reason),
            trouble => Self::NotNow(trouble.to_string()),
        }
    }
}

/// Hands tasks out until nobody wants to know any more, through as many connections as it takes.
pub(crate) async fn hand_out(connection: &Connection, tasks: Tasks, handed: SyncSender<Handed>) {
    let mut office = Office { connection, tasks, handed, done: HashSet::new() };
    let mut pool = Pool::new(connection);
    let mut attempts = Attempts::new(connection);
    let mut refusals = 0;
    while let Some((server, link)) = attempts.next(&pool, None, |_| {}).await {
        let end = match link {
            Ok(link) => {
                attempts = Attempts::new(connection);
                refusals = 0;
                office.serve(&server, link, &mut pool).await
            }
            Err(error) => {
                let text = format!("cannot connect to {error}");
                let is_final = error.is_final();
                refusals = if is_final { refusals + 1 } else { 0 };
                // One of several servers may know us.
                if refusals >= connection.servers.len() { End::Never(text) } else { End::NotNow(text) }
            }
        };
        let outcome = match end {
            End::Enough => return,
            End::Gone => {
                pool.lost(&server);
                Handed::Lost(format!("connection to {} lost", server.address))
            }
            End::NotNow(reason) => {
                pool.failed(&server, Instant::now());
                Handed::Lost(reason)
            }
            End::Never(reason) => Handed::Failed(reason),
            End::NoStream => Handed::NoStream,
        };
        let is_over = matches!(outcome, Handed::Failed(_) | Handed::NoStream);
        if office.handed.send(outcome).is_err() || is_over {
            return;
        }
    }
    let _ = office.handed.send(Handed::Failed("no server left to try (max_reconnect_attempts)".to_owned()));
}

struct Office<'a> {
    connection: &'a Connection,
    tasks: Tasks,
    handed: SyncSender<Handed>,
    /// Messages that are done, and of which the stream has not confirmed that it knows.
    done: HashSet<u64>,
}

impl Office<'_> {
    async fn serve(&mut self, server: &Server, mut link: Link, pool: &mut Pool) -> End {
        let info = link.client.server_info();
        pool.learn(server, &info.connect_urls, info.tls_required);
        let Err(end) = self.serve_until(&mut link).await;
        end
    }

    async fn serve_until(&mut self, link: &mut Link) -> Result<std::convert::Infallible, End> {
        let (stream, consumer) = self.consumer(link).await?;
        self.handed.send(Handed::Connected { stream: stream.clone() }).map_err(|_| End::Enough)?;
        loop {
            let message = next(link, &consumer, &self.connection.jetstream_api).await?;
            let Some(message) = message else { continue };
            let number = message.info().map_err(|error| End::NotNow(error.to_string()))?.stream_sequence;
            let verdict = if self.done.contains(&number) {
                // The connection broke before the stream knew.
                Verdict::Done
            } else {
                self.deal_with(link, &stream, number, &message).await?
            };
            let is_told = match verdict {
                Verdict::Done => message.double_ack().await,
                Verdict::Again(after) => message.ack_with(AckKind::Nak(Some(after))).await,
            };
            if let Err(error) = is_told {
                let is_gone = *link.gone.borrow();
                return Err(if is_gone { End::Gone } else { End::NotNow(error.to_string()) });
            }
            self.done.remove(&number);
        }
    }

    /// Hands a message out, and waits for what becomes of it, however long that takes.
    async fn deal_with(
        &mut self,
        link: &mut Link,
        stream: &str,
        number: u64,
        message: &jetstream::Message,
    ) -> Result<Verdict, End> {
        let (verdict, mut said) = oneshot::channel();
        let message_of_it = received(&message.message, message.info().ok());
        let task = Task { message: message_of_it, stream: stream.to_owned(), number, verdict };
        self.handed.send(Handed::Task(task)).map_err(|_| End::Enough)?;
        let verdict = verdict_of(&mut said, message).await.map_err(|_| End::Enough)?;
        if verdict == Verdict::Done {
            self.done.insert(number);
        }
        if *link.gone.borrow() { Err(End::Gone) } else { Ok(verdict) }
    }

    /// The stream that takes the subjects, and our consumer of it.
    async fn consumer(&self, link: &mut Link) -> Result<(String, PullConsumer), End> {
        let api = self.connection.jetstream_api.as_str();
        let streams = taking(link, api, &self.tasks.subjects).await?;
        let names: Vec<String> = streams.into_iter().map(|stream| stream.config.name).collect();
        let stream = match (names.as_slice(), &self.connection.stream) {
            ([], _) => return Err(End::NoStream),
            (names, Some(wanted)) if names.contains(wanted) => wanted.clone(),
            ([one], _) => one.clone(),
            (several, _) => {
                return Err(End::Never(format!(
                    "several streams take these subjects ({}); name one with -o stream=NAME",
                    several.join(", ")
                )));
            }
        };
        let opened = unless_forbidden(link, async |client| {
            let context = jetstream::with_prefix(client, api);
            open(&context, &stream, &self.tasks).await
        });
        let consumer = opened.await??;
        Ok((stream, consumer))
    }
}

/// The consumer as it is, or else a new one.
async fn open(context: &jetstream::Context, stream: &str, tasks: &Tasks) -> Result<PullConsumer, End> {
    let not_now = |error: String| End::NotNow(format!("stream {stream}: {error}"));
    let handle = context.get_stream_no_info(stream).await.map_err(|error| not_now(error.to_string()))?;
    match handle.consumer_info(&tasks.name).await {
        Ok(info) => {
            let known = [info.config.filter_subject].into_iter().filter(|one| !one.is_empty());
            let mut known: Vec<String> = known.chain(info.config.filter_subjects).collect();
            let mut wanted = tasks.subjects.clone();
            known.sort();
            wanted.sort();
            if known != wanted {
                return Err(End::Never(format!(
                    "consumer {} of stream {stream} is there already and reads {}, not {}; take another --name",
                    tasks.name,
                    known.join(", "),
                    wanted.join(", ")
                )));
            }
        }
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
        Err(error) => return Err(not_now(error.to_string())),
    }
    let mut config = pull::Config {
        durable_name: Some(tasks.name.clone()),
        deliver_policy: tasks
            .since
            .map_or(DeliverPolicy::New, |since| DeliverPolicy::ByStartTime { start_time: since.into() }),
        ack_policy: AckPolicy::Explicit,
        ack_wait: PATIENCE,
        max_ack_pending: WAITING,
        ..pull::Config::default()
    };
    match tasks.subjects.as_slice() {
        [one] => one.clone_into(&mut config.filter_subject),
        several => config.filter_subjects = several.to_vec(),
    }
    let created = handle.get_or_create_consumer(&tasks.name, config).await;
    created.map_err(|error| not_now(error.to_string()))
}

/// The next message; `None` if none came for a while.
async fn next(
    link: &mut Link,
    consumer: &PullConsumer,
    api: &str,
) -> Result<Option<jetstream::Message>, End> {
    /// For so long the server keeps our wish for a message. One that a server has lost is not missed for longer, either.
    const WISH: Duration = Duration::from_secs(15);
    // Without the server's heartbeats: async-nats 0.51 sleeps for ever behind the first one.
    let asked = consumer.batch().max_messages(1).expires(WISH).messages();
    let mut batch = asked.await.map_err(|error| End::NotNow(error.to_string()))?;
    loop {
        tokio::select! {
            biased;
            Some(event) = link.events.recv() => on_event(&event, api)?,
            message = batch.next() => {
                return message.transpose().map_err(|error| End::NotNow(error.to_string()));
            }
            () = hung_up(&mut link.gone) => return Err(End::Gone),
        }
    }
}

/// What became of a task. Until that is known the stream hears that somebody is at it.
async fn verdict_of(
    said: &mut Receiver<Verdict>,
    message: &jetstream::Message,
) -> Result<Verdict, RecvError> {
    loop {
        match timeout(AT_IT, &mut *said).await {
            Ok(verdict) => return verdict,
            // Without a connection nobody can be told.
            Err(_) => drop(message.ack_with(AckKind::Progress).await),
        }
    }
}

fn on_event(event: &Event, api: &str) -> Result<(), End> {
    let Event::ServerError(error) = event else { return Ok(()) };
    let text = error.to_string();
    match Violation::parse(&text) {
        Some(Violation { publish: true, subject })
            if !subject.starts_with(api) && !subject.starts_with("$JS.ACK") =>
        {
            Ok(())
        }
        Some(violation) => Err(End::Never(violation.to_string())),
        None => Err(End::NotNow(text)),
    }
}
