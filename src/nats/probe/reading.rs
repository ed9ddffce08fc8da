//! What the commands that read runs need: a stream that may be asked, consumers, and their messages; or, where no stream
//! keeps runs, a subscription.

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Probe, dialogue::Dialogue};
use crate::nats::{
    api::{Stream, Trouble, ask, holding, unless_forbidden},
    consumer::{self, Form, Order, Reading},
    jetstream,
};

impl Probe<'_> {
    /// All that is between a reader and the messages of these filters.
    pub(super) async fn reading(&mut self, dialogue: &mut Dialogue, filters: &[String]) {
        const STEP: &str = "stream";
        match holding(&mut dialogue.link, &self.config.connection, filters).await {
            Ok(streams) if streams.is_empty() => {
                let text =
                    format!("none takes {}: what was is not known, only what comes", filters.join(", "));
                self.note(STEP, text);
                self.subscription(dialogue, filters).await;
            }
            Ok(streams) => {
                for stream in &streams {
                    let messages = stream.state.messages;
                    self.ok(STEP, format!("{} has {messages} messages", stream.config.name));
                    self.consumers(dialogue, stream, filters).await;
                }
            }
            Err(trouble) => {
                let _ = self.problem(STEP, format!("which one has runs cannot be asked: {trouble}"));
            }
        }
    }

    /// Without a stream: may we listen?
    async fn subscription(&mut self, dialogue: &mut Dialogue, filters: &[String]) {
        const STEP: &str = "subscribe";
        for filter in filters {
            match dialogue.may_subscribe(filter).await {
                Ok(()) => self.ok(STEP, format!("to {filter}")),
                Err(reason) => {
                    let _ = self.problem(STEP, format!("{reason}; allow it, or make a stream"));
                }
            }
        }
    }

    /// May we make consumers of this stream, and have their messages?
    async fn consumers(&mut self, dialogue: &mut Dialogue, stream: &Stream, filters: &[String]) {
        const STEP: &str = "consumer";
        let api = self.config.connection.jetstream_api.clone();
        let name = stream.config.name.as_str();
        let order = Order { api: &api, stream: &stream.config, filters, headers_only: true };
        let mut form = Form::default();
        let opened =
            consumer::open(&mut dialogue.link, order, &mut form, |_| DeliverPolicy::LastPerSubject).await;
        let mut readings = match opened {
            Ok(readings) => readings,
            Err(trouble) => {
                let advice = match trouble {
                    Trouble::Forbidden(_) => format!(
                        "; allow this user to publish to {}",
                        filters
                            .iter()
                            .map(|filter| format!("{api}.CONSUMER.CREATE.{name}.*.{filter}"))
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                    _ => String::new(),
                };
                let _ = self.problem(STEP, format!("{trouble}{advice}"));
                return;
            }
        };
        match form {
            Form::Apart => self.ok(STEP, format!("{} of {name} made, by name", readings.len())),
            Form::Together => {
                self.note(STEP, format!("of {name} made without a name, as the other form is refused"));
            }
        }
        if let Some(reading) = readings.first_mut() {
            self.messages(dialogue, stream, reading).await;
        }
        let names = readings.into_iter().map(|reading| reading.name).collect();
        consumer::delete(&mut dialogue.link, &api, names).await;
    }

    /// May a consumer be asked for messages, and the stream for a single one?
    async fn messages(&mut self, dialogue: &mut Dialogue, stream: &Stream, reading: &mut Reading) {
        const STEP: &str = "messages";
        let api = self.config.connection.jetstream_api.clone();
        let name = stream.config.name.as_str();
        let limit = self.config.connection.connect_timeout;
        let come =
            unless_forbidden(&mut dialogue.link, async |_| timeout(limit, reading.messages.next()).await);
        let reason = match come.await {
            Err(trouble) => Some(trouble.to_string()),
            Ok(Ok(Some(Err(reason)))) => Some(reason),
            Ok(Err(_) | Ok(None)) if reading.pending > 0 => Some("none comes".to_owned()),
            Ok(_) => None,
        };
        if let Some(reason) = reason {
            let subject = format!("{api}.CONSUMER.MSG.NEXT.{name}.*");
            let _ = self.problem(STEP, format!("{name}: {reason}; allow this user to publish to {subject}"));
            return;
        }
        self.ok(STEP, format!("{name} sends them"));
        if let Err(trouble) = ask(&mut dialogue.link, jetstream::message_at(&api, name, 1)).await {
            let text = format!(
                "one that cannot be read as it comes (an odd blank in its subject) ends a command: {trouble}"
            );
            self.note(STEP, text);
        }
    }
}
