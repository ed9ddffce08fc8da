//! Reading what runs publish, for `ansible-runner-nats watch`: live, or from a stream's history on.

use std::{
    sync::mpsc::SyncSender,
    time::{Duration, Instant, SystemTime},
};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{sleep_until, timeout};

use super::{
    link::{Link, hung_up},
    pool::Pool,
};
use crate::{
    config::{Connection, Server},
    message::{MSG_ID, nonce},
};

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// With what comes from now on; no stream is needed.
    Now,
    /// With the first message that a stream has.
    First,
    /// With a stream's messages since this time.
    Since(SystemTime),
}

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// There is a connection to this server now.
    Connected(String),
    /// There is no connection any more, or none yet, and why.
    Lost(String),
    /// A message.
    Message {
        /// The header `Nats-Msg-Id`, if the message has one.
        id: Option<String>,
        /// The message's payload.
        payload: Bytes,
    },
}

/// The receiver is gone: nobody wants to know any more.
struct Enough;

/// Listens until nobody wants to know any more, through as many connections as it takes.
pub(crate) async fn listen(connection: &Connection, subject: &str, from: From, heard: SyncSender<Heard>) {
    let mut listener = Listener { connection, subject, from, last: None, heard };
    let mut pool = Pool::new(connection);
    while let Some((server, not_before)) = pool.next() {
        if let Some(when) = not_before {
            sleep_until(when.into()).await;
        }
        let tried = match Link::open_in_time(connection, &server).await {
            Ok(link) => listener.serve(&server, link, &mut pool).await,
            Err(error) => listener.failed(&server, &mut pool, &error.to_string()),
        };
        if tried.is_err() {
            return;
        }
    }
    let _ = listener.tell(Heard::Lost("no server left to try (max_reconnect_attempts)".to_owned()));
}

struct Listener<'a> {
    connection: &'a Connection,
    subject: &'a str,
    from: From,
    /// The sequence of the message that was read from the stream last.
    last: Option<u64>,
    heard: SyncSender<Heard>,
}

impl Listener<'_> {
    fn tell(&self, heard: Heard) -> Result<(), Enough> {
        self.heard.send(heard).map_err(|_| Enough)
    }

    fn failed(&self, server: &Server, pool: &mut Pool, reason: &str) -> Result<(), Enough> {
        pool.failed(server, Instant::now());
        self.tell(Heard::Lost(format!("cannot connect to {reason}")))
    }

    async fn serve(&mut self, server: &Server, mut link: Link, pool: &mut Pool) -> Result<(), Enough> {
        let info = link.client.server_info();
        pool.learn(server, &info.connect_urls, info.tls_required);
        let name = format!("{} at {}", info.server_name, server.address);
        let reason = match self.from {
            From::Now => self.live(&mut link, name).await?,
            From::First | From::Since(_) => {
                self.tell(Heard::Connected(name))?;
                self.history(&mut link).await?
            }
        };
        match reason {
            None => {
                pool.lost(server);
                self.tell(Heard::Lost(format!("connection to {} lost", server.address)))
            }
            Some(reason) => self.failed(server, pool, &format!("{}: {reason}", server.address)),
        }
    }

    /// `None`: the connection is gone. Otherwise what is in the way.
    async fn live(&mut self, link: &mut Link, name: String) -> Result<Option<String>, Enough> {
        let mut messages = match link.client.subscribe(self.subject.to_owned()).await {
            Ok(messages) => messages,
            Err(error) => return Ok(Some(error.to_string())),
        };
        self.until_subscribed(link).await;
        // Now: whoever reads this misses nothing that is published after it.
        self.tell(Heard::Connected(name))?;
        loop {
            tokio::select! {
                biased;
                () = hung_up(&mut link.gone) => return Ok(None),
                Some(event) = link.events.recv() => {
                    if let async_nats::Event::ServerError(error) = event {
                        return Ok(Some(error.to_string()));
                    }
                }
                message = messages.next() => match message {
                    Some(message) => self.message(&message)?,
                    None => return Ok(None),
                },
            }
        }
    }

    /// Returns when the server knows our subscription: it has then handled what we sent after it, too. Where we may not
    /// send to an inbox, a moment has to do.
    async fn until_subscribed(&self, link: &mut Link) {
        const MOMENT: Duration = Duration::from_millis(500);
        let inbox = format!("{}.{}", self.connection.inbox_prefix, nonce());
        let echo = async {
            let mut own = link.client.subscribe(inbox.clone()).await.ok()?;
            link.client.publish(inbox, Bytes::new()).await.ok()?;
            own.next().await
        };
        let _ = timeout(MOMENT, echo).await;
    }

    async fn history(&mut self, link: &mut Link) -> Result<Option<String>, Enough> {
        let context = jetstream::with_prefix(link.client.clone(), &self.connection.jetstream_api);
        let Ok(name) = context.stream_by_subject(self.subject).await else {
            return Ok(Some(format!("no stream takes {}", self.subject)));
        };
        let config = OrderedConfig {
            filter_subject: self.subject.to_owned(),
            deliver_policy: match (self.last, self.from) {
                (Some(last), _) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
                (None, From::Since(when)) => DeliverPolicy::ByStartTime { start_time: when.into() },
                (None, _) => DeliverPolicy::All,
            },
            ..OrderedConfig::default()
        };
        let stream = match context.get_stream(&name).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Some(format!("stream {name}: {error}"))),
        };
        let consumer = match stream.create_consumer(config).await {
            Ok(consumer) => consumer,
            Err(error) => return Ok(Some(format!("stream {name}: {error}"))),
        };
        let mut messages = match consumer.messages().await {
            Ok(messages) => messages,
            Err(error) => return Ok(Some(format!("stream {name}: {error}"))),
        };
        loop {
            tokio::select! {
                biased;
                () = hung_up(&mut link.gone) => return Ok(None),
                message = messages.next() => match message {
                    Some(Ok(message)) => {
                        self.last = message.info().ok().map(|info| info.stream_sequence).or(self.last);
                        self.message(&message)?;
                    }
                    Some(Err(error)) => return Ok(Some(format!("stream {name}: {error}"))),
                    None => return Ok(None),
                },
            }
        }
    }

    fn message(&self, message: &async_nats::Message) -> Result<(), Enough> {
        let id = message.headers.as_ref().and_then(|headers| headers.get(MSG_ID));
        self.tell(Heard::Message {
            id: id.map(|id| id.as_str().to_owned()),
            payload: message.payload.clone(),
        })
    }
}
