//! What a stream holds already: the ids of its messages, for `replay`.

use std::collections::HashSet;

use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull::OrderedConfig},
        context::GetStreamByNameErrorKind,
    },
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    link::{Link, close},
    pool::Pool,
};
use crate::{config::Connection, message::MSG_ID};

/// So many times `connect_timeout` a stream may take for its next message.
const SILENCE: u32 = 5;

/// What a stream holds of some subjects.
#[derive(Debug)]
pub(crate) enum Held {
    /// The ids of its messages.
    Ids(HashSet<String>),
    /// No stream takes these subjects: nothing can be known.
    NoStream,
    /// It cannot be asked, and why.
    Unknown(String),
}

/// Asks the stream that takes these subjects, through the first server that can be reached. Headers alone are read,
/// and of these subjects alone, however large the stream is.
pub(crate) async fn held(connection: &Connection, subjects: &[String]) -> Held {
    let mut pool = Pool::new(connection);
    let mut reason = "no server".to_owned();
    let deadline = Instant::now() + connection.connect_timeout * 2;
    while let Some((server, not_before)) = pool.next() {
        if not_before.is_some_and(|when| Instant::from_std(when) > deadline) {
            break;
        }
        if let Some(when) = not_before {
            sleep_until(when.into()).await;
        }
        match Link::open_in_time(connection, &server).await {
            Ok(link) => {
                let found = ask(&link.client, connection, subjects).await;
                close(&link.client, &link.gone).await;
                return found.unwrap_or_else(Held::Unknown);
            }
            Err(error) => reason = error.to_string(),
        }
        pool.failed(&server, std::time::Instant::now());
    }
    Held::Unknown(reason)
}

async fn ask(client: &Client, connection: &Connection, subjects: &[String]) -> Result<Held, String> {
    let context = jetstream::with_prefix(client.clone(), &connection.jetstream_api);
    let mut ids = HashSet::new();
    let mut any = false;
    for subject in subjects {
        let name = match context.stream_by_subject(subject).await {
            Ok(name) => name,
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => continue,
            // Without JetStream nobody answers.
            Err(_) if !client.server_info().jetstream => continue,
            Err(error) => return Err(error.to_string()),
        };
        any = true;
        let config = OrderedConfig {
            filter_subject: subject.clone(),
            deliver_policy: DeliverPolicy::All,
            headers_only: true,
            ..OrderedConfig::default()
        };
        let stream = context.get_stream(&name).await.map_err(|error| error.to_string())?;
        let mut consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let mut left = consumer.info().await.map_err(|error| error.to_string())?.num_pending;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        while left > 0 {
            // Where the user may not ask for messages, the server says nothing, and async-nats tries for ever.
            let Ok(next) = timeout(connection.connect_timeout * SILENCE, messages.next()).await else {
                let api = &connection.jetstream_api;
                return Err(format!(
                    "stream {name} sends nothing; allow this user to publish to {api}.CONSUMER.MSG.NEXT.{name}.*"
                ));
            };
            let Some(message) = next else { return Err("the connection broke".to_owned()) };
            let message = message.map_err(|error| error.to_string())?;
            left = message.info().map_err(|error| error.to_string())?.pending;
            let id = message.headers.as_ref().and_then(|headers| headers.get(MSG_ID));
            ids.extend(id.map(|id| id.as_str().to_owned()));
        }
    }
    Ok(if any { Held::Ids(ids) } else { Held::NoStream })
}
