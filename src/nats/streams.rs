//! Which streams take our subjects, and what a command asks of them.

use std::time::Duration;

use async_nats::{Client, Event, Message, RequestErrorKind, client::Request};

use super::{
    jetstream::{self, Captured, Question, StreamConfig, StreamInfo, StreamState},
    link::{Link, Violation, hung_up},
};
use crate::message::overlap;

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

/// A stream that takes some of our subjects.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) state: StreamState,
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
            () = hung_up(gone) => return Err(Trouble::Gone),
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
    let beginning = common_beginning(filters);
    let names = match Captured::read(&match ask(link, jetstream::which_streams(api, &beginning)).await {
        Err(Trouble::Nobody) if link.client.server_info().jetstream => {
            return Err(Trouble::NotNow("nobody answers for JetStream".to_owned()));
        }
        Err(Trouble::Nobody) => return Ok(streams),
        answer => answer?,
    }) {
        Captured::By(names) => names,
        Captured::No | Captured::Nobody => return Ok(streams),
        Captured::NotNow(reason) => return Err(Trouble::NotNow(reason)),
    };
    for name in names {
        let info = about(link, api, &name).await?;
        let Some(config) = info.config else { continue };
        let taken = config.subjects.iter().any(|one| filters.iter().any(|other| overlap(one, other)));
        if taken {
            streams.push(Stream { config, state: info.state });
        }
    }
    Ok(streams)
}

/// How is this stream made?
pub(super) async fn about(link: &mut Link, api: &str, name: &str) -> Result<StreamInfo, Trouble> {
    let answer = ask(link, jetstream::about_stream(api, name, None)).await?;
    let info: StreamInfo = serde_json::from_slice(&answer.payload)
        .map_err(|_| Trouble::NotNow("an answer that we do not understand".to_owned()))?;
    match info.refusal() {
        Some(refusal) if info.is_not_there() => Err(Trouble::NoStream(refusal.to_owned())),
        Some(refusal) => Err(Trouble::NotNow(format!("stream {name}: {refusal}"))),
        None => Ok(info),
    }
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
