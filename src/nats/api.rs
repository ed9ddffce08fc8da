//! The one way in which a command connects, and asks JetStream.

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use super::{
    dial::Attempts,
    jetstream::{self, Captured, Question, StreamConfig, StreamInfo, StreamState},
    link::{Link, Violation, hung_up},
    pool::Pool,
};
use crate::{
    config::Connection,
    error::Error,
    message::{common_beginning, overlap},
};
use async_nats::{Client, Event, Message, RequestErrorKind, client::Request};

/// How long the API may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody answers for JetStream.
    Nobody,
    /// The server does not let this user publish or subscribe there.
    Forbidden(String),
    /// The connection is gone.
    Gone,
    /// There is no stream of that name.
    NoStream(String),
    /// No more consumers are allowed there.
    TooMany(String),
    /// Anything else; it may pass.
    NotNow(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str(
                "nobody answers for JetStream: is it enabled on the server, and for this account?",
            ),
            Self::Gone => f.write_str("the connection broke"),
            Self::Forbidden(reason)
            | Self::NotNow(reason)
            | Self::NoStream(reason)
            | Self::TooMany(reason) => f.write_str(reason),
        }
    }
}

/// A stream that takes some of our subjects, or has copies of what others take.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) state: StreamState,
    /// What time it was for the server that told of it.
    pub(super) now: Option<SystemTime>,
}

impl Stream {
    /// `None`: the answer does not say how it is made.
    fn new(info: StreamInfo) -> Option<Self> {
        let now = info.now();
        Some(Self { config: info.config?, state: info.state, now })
    }
}

/// A connection to the first server that answers; each is tried once, side by side where one is silent.
pub(super) async fn connect(connection: &Connection) -> Result<Link, Error> {
    let mut pool = Pool::new(connection);
    let mut attempts = Attempts::new(connection);
    let mut last = Error::Connect { server: "no server".to_owned(), reason: "there is none".to_owned() };
    for _ in 0..connection.servers.len() {
        match attempts.next(&pool, None, |_| {}).await {
            Some((_, Ok(link))) => return Ok(link),
            Some((server, Err(error))) => {
                pool.failed(&server, Instant::now());
                last = error;
            }
            None => break,
        }
    }
    Err(last)
}

/// Does something with a connection, unless the server forbids it meanwhile or is gone.
pub(super) async fn unless_forbidden<T>(
    link: &mut Link,
    work: impl AsyncFnOnce(Client) -> T,
) -> Result<T, Trouble> {
    let Link { client, events, gone } = link;
    let work = work(client.clone());
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = hung_up(gone) => {
                let said = std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event {
                    Event::ServerError(error) => Some(error.to_string()),
                    _ => None,
                });
                return Err(said.map_or(Trouble::Gone, Trouble::NotNow));
            }
            Some(event) = events.recv() => {
                if let Event::ServerError(error) = event
                    && let Some(violation) = Violation::parse(&error.to_string())
                {
                    return Err(Trouble::Forbidden(violation.to_string()));
                }
            }
        }
    }
}

/// The answer to a question.
pub(super) async fn ask(link: &mut Link, (subject, payload): Question) -> Result<Message, Trouble> {
    let asked = unless_forbidden(link, async |client| {
        let request = Request::new().payload(payload.into()).timeout(Some(PATIENCE));
        client.send_request(subject, request).await
    });
    asked.await?.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Trouble::Nobody,
        RequestErrorKind::TimedOut => Trouble::NotNow("JetStream does not answer".to_owned()),
        _ => Trouble::NotNow(error.to_string()),
    })
}

/// The streams that take subjects which match any of `filters`, and how they are made.
pub(super) async fn taking(link: &mut Link, api: &str, filters: &[String]) -> Result<Vec<Stream>, Trouble> {
    let mut streams: Vec<Stream> = Vec::new();
    // All filters begin alike: one question is enough, and the answer is looked at.
    let names = names_for(link, api, &common_beginning(filters)).await?;
    for name in names {
        let Some(stream) = Stream::new(about(link, api, &name, None).await?) else { continue };
        let mut subjects = stream.config.subjects.iter();
        if subjects.any(|one| filters.iter().any(|other| overlap(one, other))) {
            streams.push(stream);
        }
    }
    Ok(streams)
}

/// The streams that have messages on subjects which match any of `filters`: the one that the user names, or those that take
/// them. A stream that copies others (a mirror, or one with sources) has to be named: no question finds it by a subject.
pub(super) async fn holding(
    link: &mut Link,
    connection: &Connection,
    filters: &[String],
) -> Result<Vec<Stream>, Trouble> {
    let api = connection.jetstream_api.as_str();
    match &connection.stream {
        Some(name) => Ok(Stream::new(about(link, api, name, None).await?).into_iter().collect()),
        None => taking(link, api, filters).await,
    }
}

/// The names of the streams that take a subject.
pub(super) async fn names_for(link: &mut Link, api: &str, subject: &str) -> Result<Vec<String>, Trouble> {
    let answer = match ask(link, jetstream::which_streams(api, subject)).await {
        Err(Trouble::Nobody) if link.client.server_info().jetstream => {
            return Err(Trouble::NotNow("nobody answers for JetStream".to_owned()));
        }
        Err(Trouble::Nobody) => return Ok(Vec::new()),
        answer => answer?,
    };
    match Captured::read(&answer) {
        Captured::By(names) => Ok(names),
        Captured::No | Captured::Nobody => Ok(Vec::new()),
        Captured::NotNow(reason) => Err(Trouble::NotNow(reason)),
    }
}

/// How is this stream made? `counted`: a subject whose messages are to be counted.
pub(super) async fn about(
    link: &mut Link,
    api: &str,
    name: &str,
    counted: Option<&str>,
) -> Result<StreamInfo, Trouble> {
    let answer = ask(link, jetstream::about_stream(api, name, counted)).await?;
    let info: StreamInfo = serde_json::from_slice(&answer.payload)
        .map_err(|_| Trouble::NotNow("an answer that we do not understand".to_owned()))?;
    match info.refusal() {
        Some(refusal) if info.is_not_there() => Err(Trouble::NoStream(refusal.to_owned())),
        Some(refusal) => Err(Trouble::NotNow(format!("stream {name}: {refusal}"))),
        None => Ok(info),
    }
}

/// Waits for what needs a runtime, in a command or a thread that has none. An error says why there is none to be had.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A connection that hangs keeps nobody.
    runtime.shutdown_background();
    Ok(done)
}
