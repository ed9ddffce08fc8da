//! Reading a stream: through consumers of our own, which the server forgets when nobody asks any more.
//!
//! A user may be allowed to make consumers of some filter alone (`$JS.API.CONSUMER.CREATE.STREAM.NAME.FILTER`, the server
//! compares it with what the consumer asks for). So there is a consumer for each filter, made by name.

use std::{pin::Pin, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        consumer::{
            AckPolicy, DeliverPolicy,
            pull::{self, MessagesErrorKind},
        },
        stream::ConsumerErrorKind,
    },
};
use futures_util::{
    StreamExt,
    future::{join_all, try_join_all},
};
use tokio::time::timeout;

use super::{
    api::{Trouble, unless_forbidden},
    jetstream::StreamConfig,
    link::Link,
};
use crate::message::nonce;

/// How long the server keeps a consumer that nobody asks for messages. Whoever follows and is interrupted leaves his behind,
/// and a stream may allow few. One that went too early is made anew, from its place on.
const INACTIVE: Duration = Duration::from_secs(10);

/// How consumers are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// By name, one for each filter.
    #[default]
    Apart,
    /// Without a name, one for all filters: where permissions were made for that, or hardly any consumers are allowed.
    Together,
}

impl Form {
    /// The filters of each consumer.
    pub(super) fn split(self, filters: &[String]) -> Vec<Vec<String>> {
        match self {
            Self::Apart => filters.iter().map(|filter| vec![filter.clone()]).collect(),
            Self::Together => vec![filters.to_vec()],
        }
    }
}

/// What is read, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    /// Where JetStream is asked.
    pub(super) api: &'a str,
    pub(super) stream: &'a StreamConfig,
    /// Filters that do not overlap.
    pub(super) filters: &'a [String],
    /// Without the messages' payload.
    pub(super) headers_only: bool,
}

/// A consumer that was made.
pub(super) struct Reading {
    /// What it asks for.
    pub(super) filters: Vec<String>,
    pub(super) name: Name,
    /// How many messages were waiting when it was made.
    pub(super) pending: u64,
    /// In the stream's order. An error says why no more will come: others may be read from where this one was.
    pub(super) messages: Messages,
}

/// What a consumer is called.
#[derive(Clone, Debug)]
pub(super) struct Name {
    stream: String,
    consumer: String,
}

pub(super) type Messages =
    Pin<Box<dyn futures_util::Stream<Item = Result<jetstream::Message, String>> + Send>>;

/// Makes the consumers for an order, each from where `policy` says for its filters. Changes the form if that is needed.
pub(super) async fn open(
    link: &mut Link,
    order: Order<'_>,
    form: &mut Form,
    policy: impl Fn(&[String]) -> DeliverPolicy,
) -> Result<Vec<Reading>, Trouble> {
    let refused = match open_as(link, order, *form, &policy).await {
        Err(trouble @ (Trouble::Forbidden(_) | Trouble::TooMany(_))) if *form == Form::Apart => trouble,
        opened => return opened,
    };
    match open_as(link, order, Form::Together, &policy).await {
        // What was said first names the filter.
        Err(Trouble::Forbidden(_)) => Err(refused),
        opened => {
            *form = Form::Together;
            opened
        }
    }
}

async fn open_as(
    link: &mut Link,
    order: Order<'_>,
    form: Form,
    policy: impl Fn(&[String]) -> DeliverPolicy,
) -> Result<Vec<Reading>, Trouble> {
    let mut wanted = form.split(order.filters).into_iter();
    let mut readings = Vec::new();
    let make = |client: &Client, filters: Vec<String>| {
        let deliver_policy = policy(&filters);
        let name = (form == Form::Apart).then(|| format!("ansible-runner-nats-{}", nonce()));
        open_one(jetstream::with_prefix(client.clone(), order.api), order, name, filters, deliver_policy)
    };
    // One alone: what the server forbids is said for each.
    let Some(first) = wanted.next() else { return Ok(readings) };
    let first = unless_forbidden(link, async |client| make(&client, first).await).await??;
    readings.push(first);
    let others =
        unless_forbidden(link, async |client| join_all(wanted.map(|filters| make(&client, filters))).await);
    let mut trouble = None;
    match others.await {
        Ok(opened) => {
            for one in opened {
                match one {
                    Ok(reading) => readings.push(reading),
                    Err(reason) => trouble = Some(reason),
                }
            }
        }
        Err(reason) => trouble = Some(reason),
    }
    let Some(trouble) = trouble else { return Ok(readings) };
    delete(link, order.api, readings.into_iter().map(|reading| reading.name).collect()).await;
    Err(trouble)
}

async fn open_one(
    context: jetstream::Context,
    order: Order<'_>,
    name: Option<String>,
    filters: Vec<String>,
    deliver_policy: DeliverPolicy,
) -> Result<Reading, Trouble> {
    /// As many as async-nats asks for at once where it keeps the order itself.
    const BATCH: usize = 500;
    /// The server says so often that it is there; without it for twice as long it is not.
    const HEARTBEAT: Duration = Duration::from_secs(15);
    let stream = order.stream.name.as_str();
    let config = config(order, name, &filters, deliver_policy);
    let broken = |reason: String| Trouble::NotNow(format!("stream {stream}: {reason}"));
    let consumer = context.create_consumer_on_stream(config, stream).await.map_err(|error| {
        let text = format!("stream {stream}: {error}");
        match error.kind() {
            ConsumerErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::MAXIMUM_CONSUMERS_LIMIT =>
            {
                Trouble::TooMany(text)
            }
            _ => Trouble::NotNow(text),
        }
    })?;
    let info = consumer.cached_info();
    let name = Name { stream: stream.to_owned(), consumer: info.name.clone() };
    let pending = info.num_pending;
    let messages = consumer.stream().max_messages_per_batch(BATCH).heartbeat(HEARTBEAT).messages().await;
    let messages = in_order(messages.map_err(|error| broken(error.to_string()))?);
    Ok(Reading { filters, name, pending, messages })
}

fn config(
    order: Order<'_>,
    name: Option<String>,
    filters: &[String],
    deliver_policy: DeliverPolicy,
) -> pull::Config {
    let limits = &order.stream.consumer_limits;
    let (filter_subject, filter_subjects) = match filters {
        [one] => (one.clone(), Vec::new()),
        several => (String::new(), several.to_vec()),
    };
    pull::Config {
        name,
        deliver_policy,
        filter_subject,
        filter_subjects,
        headers_only: order.headers_only,
        // Nothing is acknowledged: who reads keeps the place.
        ack_policy: AckPolicy::None,
        max_deliver: 1,
        inactive_threshold: limits.inactive_threshold().map_or(INACTIVE, |limit| limit.min(INACTIVE)),
        num_replicas: 1,
        memory_storage: true,
        ..pull::Config::default()
    }
}

/// Messages up to the first that is missing, or the first sign that no more will come.
fn in_order(messages: pull::Stream) -> Messages {
    let numbered = messages.enumerate().map(|(before, message)| {
        let message = message.map_err(|error| match error.kind() {
            MessagesErrorKind::ConsumerDeleted => "its consumer was deleted".to_owned(),
            MessagesErrorKind::NoResponders | MessagesErrorKind::MissingHeartbeat => {
                "it does not answer any more".to_owned()
            }
            _ => error.to_string(),
        })?;
        let number = message.info().map_err(|error| error.to_string())?.consumer_sequence;
        if number == before as u64 + 1 {
            Ok(message)
        } else {
            Err("messages were lost on the way".to_owned())
        }
    });
    numbered.boxed()
}

/// Deletes consumers. Whoever may not (who may could delete those of others, too) leaves them to the server, which has them
/// for some seconds.
pub(super) async fn delete(link: &mut Link, api: &str, made: Vec<Name>) {
    const LIMIT: Duration = Duration::from_secs(1);
    let mut made = made.into_iter();
    // One alone: what the server forbids is said for each.
    let Some(first) = made.next() else { return };
    let deleted = unless_forbidden(link, async |client| {
        let context = jetstream::with_prefix(client, api);
        let delete = async |Name { stream, consumer }: Name| {
            context.delete_consumer_from_stream(&consumer, &stream).await
        };
        delete(first).await.ok()?;
        try_join_all(made.map(delete)).await.ok()
    });
    let _ = timeout(LIMIT, deleted).await;
}
