//! The one way in which a command connects, and asks JetStream.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_nats::{
    Client, Event, Message, RequestErrorKind,
    client::Request,
    jetstream::{
        consumer::{DeliverPolicy, pull::OrderedConfig},
        with_prefix,
    },
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    dial::Attempts,
    jetstream::{self, Captured, Question, StreamConfig, StreamInfo, StreamState},
    link::{Link, Violation, close, hung_up},
    pool::Pool,
};
use crate::{
    config::Connection,
    error::Error,
    message::{MSG_ID, overlap},
    outbox::Place,
};

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
            Self::Forbidden(reason) | Self::NotNow(reason) | Self::NoStream(reason) => f.write_str(reason),
        }
    }
}

/// A stream that takes some of our subjects.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) state: StreamState,
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
        let info = about(link, api, &name, None).await?;
        let Some(config) = info.config else { continue };
        let taken = config.subjects.iter().any(|one| filters.iter().any(|other| overlap(one, other)));
        if taken {
            streams.push(Stream { config, state: info.state });
        }
    }
    Ok(streams)
}

/// The names of the streams that take a subject.
async fn names_for(link: &mut Link, api: &str, subject: &str) -> Result<Vec<String>, Trouble> {
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

/// What streams hold of some subjects.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The ids of their messages, and where these are.
    pub(crate) ids: HashMap<String, Place>,
    /// What was published before this time the streams may have let go, by their own limits.
    pub(crate) horizon: Option<SystemTime>,
}

/// Asks the streams that take these subjects, through the first server that can be reached. Headers alone are read, and of
/// these subjects alone, however large the streams are. `None`: no stream takes them. An error says why they cannot be
/// asked.
pub(crate) async fn held(connection: &Connection, subjects: &[String]) -> Result<Option<Held>, String> {
    let mut link = connect(connection).await.map_err(|error| error.to_string())?;
    let found = ids_of(&mut link, connection, subjects).await;
    close(&link.client, &link.gone).await;
    found
}

async fn ids_of(
    link: &mut Link,
    connection: &Connection,
    subjects: &[String],
) -> Result<Option<Held>, String> {
    /// So many times `connect_timeout` a stream may take for its next message.
    const SILENCE: u32 = 5;
    let api = &connection.jetstream_api;
    let mut held = None;
    for subject in subjects {
        let names = names_for(link, api, subject).await.map_err(|trouble| trouble.to_string())?;
        let Some(name) = names.first() else { continue };
        let held = held.get_or_insert_with(Held::default);
        let context = with_prefix(link.client.clone(), api);
        let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
        let about = about(link, api, name, None).await.map_err(|trouble| trouble.to_string())?;
        held.horizon = held.horizon.max(about.horizon(SystemTime::now()));
        let created: Option<Arc<str>> = about.created.map(Into::into);
        let name: Arc<str> = name.as_str().into();
        let transform = about.config.and_then(|config| config.subject_transform);
        let config = OrderedConfig {
            filter_subject: transform.map_or_else(|| subject.clone(), |transform| transform.stored(subject)),
            deliver_policy: DeliverPolicy::All,
            headers_only: true,
            ..OrderedConfig::default()
        };
        let mut consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let mut left = consumer.info().await.map_err(|error| error.to_string())?.num_pending;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        while left > 0 {
            // Where the user may not ask for messages, the server says nothing, and async-nats tries for ever.
            let Ok(next) = timeout(connection.connect_timeout * SILENCE, messages.next()).await else {
                return Err(format!(
                    "stream {name} sends nothing; allow this user to publish to {api}.CONSUMER.MSG.NEXT.{name}.*"
                ));
            };
            let Some(message) = next else { return Err("the connection broke".to_owned()) };
            let message = message.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            left = info.pending;
            let (stream, created) = (Arc::clone(&name), created.clone());
            // It was there before.
            let place = Place { stream, created, number: info.stream_sequence, is_repeat: true };
            let id = message.headers.as_ref().and_then(|headers| headers.get(MSG_ID));
            held.ids.extend(id.map(|id| (id.as_str().to_owned(), place)));
        }
    }
    Ok(held)
}

/// A filter that covers all of these.
fn common_beginning(filters: &[String]) -> String {
    let [first, others @ ..] = filters else { return ">".to_owned() };
    if others.is_empty() {
        return first.clone();
    }
    let tokens: Vec<&str> = first.split('.').collect();
    let is_shared = |count: &usize| {
        let shared = tokens.get(..*count).unwrap_or_default();
        others.iter().all(|other| other.split('.').take(*count).eq(shared.iter().copied()))
    };
    let count = (0..tokens.len()).rev().find(is_shared).unwrap_or(0);
    let mut start = tokens.get(..count).unwrap_or_default().to_vec();
    start.push(">");
    start.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_filters_have_in_common() {
        let common =
            |filters: &[&str]| common_beginning(&filters.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(common(&["a.b.>"]), "a.b.>");
        assert_eq!(common(&["a.b.*.x", "a.b.*.*.x"]), "a.b.*.>");
        assert_eq!(common(&["a.b", "c"]), ">");
        assert_eq!(common(&["a.b", "a.b.c"]), "a.>");
    }
}
