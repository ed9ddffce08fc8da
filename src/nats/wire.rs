//! The connection itself: what goes in, what comes out, and when it is over.

use std::{str::FromStr, sync::Arc, time::Duration};

use async_nats::{
    Client, Event, HeaderMap, HeaderName, HeaderValue, Subject, Subscriber, client::traits::Publisher,
    message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::link::{self, Link, hung_up};
use crate::message::{EXPECTED_STREAM, Message};

/// An acknowledgement takes about a hundred bytes, the names of streams a few thousand.
const LONGEST_ANSWER: usize = 1 << 20;

/// A connection with a subscription to our inbox.
pub(super) struct Wire {
    client: Client,
    inbound: Subscriber,
    events: mpsc::UnboundedReceiver<Event>,
    gone: watch::Receiver<bool>,
    /// What the server said last before it hung up.
    last_words: Option<String>,
    /// The subject that was used last: messages of one run come one after the other.
    subject: Option<(Arc<str>, Subject)>,
}

/// What comes in.
pub(super) enum Incoming {
    /// The connection is gone.
    Gone,
    /// Something happened to it.
    Event(Event),
    /// Something for our inbox.
    Message(async_nats::Message),
}

/// The connection is gone; [`Wire::reason`] says why.
pub(super) struct Gone;

impl Wire {
    /// Subscribes to `inbox`. An error says why not.
    pub(super) async fn open(link: Link, inbox: String) -> Result<Self, String> {
        let Link { client, events, gone } = link;
        let inbound = client.subscribe(inbox).await.map_err(|error| error.to_string())?;
        Ok(Self { client, inbound, events, gone, last_words: None, subject: None })
    }

    /// Publishes a message of ours; `stream` is the one that must take it.
    pub(super) async fn send_message(
        &mut self,
        message: Message,
        reply: Option<String>,
        stream: Option<&str>,
    ) -> Result<(), Gone> {
        let outbound = OutboundMessage {
            subject: self.subject(&message.head.subject),
            reply: reply.map(Into::into),
            headers: Some(headers_of(&message, stream)),
            payload: message.payload,
        };
        self.send(outbound).await
    }

    /// A subject in async-nats' form.
    fn subject(&mut self, subject: &Arc<str>) -> Subject {
        match &self.subject {
            Some((known, theirs)) if Arc::ptr_eq(known, subject) => theirs.clone(),
            _ => {
                let theirs = Subject::from(&**subject);
                self.subject = Some((Arc::clone(subject), theirs.clone()));
                theirs
            }
        }
    }

    /// Hands a message to async-nats. Its queue has room for the whole window: this hardly ever waits.
    async fn send(&mut self, message: OutboundMessage) -> Result<(), Gone> {
        tokio::select! {
            biased;
            // What is queued when the connection is gone stays unconfirmed, and is sent again.
            sent = self.client.publish_message(message) => sent.map_err(|error| {
                self.last_words.get_or_insert_with(|| error.to_string());
                Gone
            }),
            () = hung_up(&mut self.gone) => Err(Gone),
        }
    }

    /// Sends something of our own.
    pub(super) async fn publish(
        &mut self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), Gone> {
        let reply = reply.map(Into::into);
        self.send(OutboundMessage { subject: subject.into(), reply, payload, headers: None }).await
    }

    /// Writes to the socket what was sent; `false` if the server does not read it within `limit`.
    pub(super) async fn flush(&mut self, limit: Duration) -> Result<bool, Gone> {
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            () = hung_up(&mut gone) => Err(Gone),
            flushed = timeout(limit, self.client.flush()) => Ok(matches!(flushed, Ok(Ok(())))),
        }
    }

    /// What comes in next.
    pub(super) async fn next(&mut self) -> Incoming {
        tokio::select! {
            biased;
            () = hung_up(&mut self.gone) => Incoming::Gone,
            Some(event) = self.events.recv() => Incoming::Event(event),
            message = self.inbound.next() => message.map_or(Incoming::Gone, |message| self.checked(message)),
        }
    }

    /// What has come in already, if anything has. That the connection is gone is for `next` to see.
    pub(super) fn at_hand(&mut self) -> Option<Incoming> {
        if let Some(event) = self.event_at_hand() {
            return Some(Incoming::Event(event));
        }
        let message = self.inbound.next().now_or_never()??;
        Some(self.checked(message))
    }

    pub(super) fn event_at_hand(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Keeps what the server said, should it hang up now.
    pub(super) fn heard(&mut self, words: String) {
        self.last_words = Some(words);
    }

    /// Why the connection is gone: the server's last words, or else `reason`.
    pub(super) fn reason(&mut self, reason: &str) -> String {
        while let Some(event) = self.event_at_hand() {
            if let Event::ServerError(error) = event {
                self.heard(error.to_string());
            }
        }
        self.last_words.take().unwrap_or_else(|| reason.to_owned())
    }

    pub(super) async fn close(&self) {
        link::close(&self.client, &self.gone).await;
    }

    /// A message of reasonable size.
    fn checked(&mut self, message: async_nats::Message) -> Incoming {
        if message.payload.len() > LONGEST_ANSWER {
            self.heard("the server sends to our inbox what we did not ask for".to_owned());
            return Incoming::Gone;
        }
        Incoming::Message(message)
    }
}

/// All headers; `stream`: the one that must take the message.
fn headers_of(message: &Message, stream: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = message.id();
    // Otherwise async-nats would panic; `Message::is_sendable` sees to it.
    if !id.contains(['\r', '\n']) {
        headers.insert(async_nats::header::NATS_MESSAGE_ID, HeaderValue::from(id));
    }
    let user = message.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in user.chain(stream.map(|stream| (EXPECTED_STREAM, stream))) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    headers
}
