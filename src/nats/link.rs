//! One connection: our options become an async-nats client whose end is the end.
//!
//! async-nats reconnects by itself and then flushes what it still had queued, which would overtake the
//! messages that we send again. So it is never allowed to: once the connection is there, the delay before a
//! reconnect is "a year", and being asked for that delay is the signal that the connection is gone.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::tls;
use crate::{
    config::{Auth, Connection, Server, jwt_in, read_secret, seed_in},
    error::Error,
    secret::{MASK, Secret},
};

/// What async-nats is told to wait before it reconnects: it never shall.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// A client that is connected, and does not come back once it is not.
#[derive(Debug)]
pub(super) struct Link {
    /// To publish and subscribe with.
    pub client: Client,
    /// What async-nats has to say about the connection.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Is the connection gone?
    pub gone: watch::Receiver<bool>,
}

impl Link {
    /// As [`Self::open`], within `connect_timeout`.
    pub(super) async fn open_in_time(connection: &Connection, server: &Server) -> Result<Self, Error> {
        let limit = connection.connect_timeout;
        let late = || Error::ConnectTimeout { server: server.address.clone(), timeout: limit };
        timeout(limit, Self::open(connection, server)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Connects to one server. Has to run on a single-threaded runtime.
    pub(super) async fn open(connection: &Connection, server: &Server) -> Result<Self, Error> {
        let established = Arc::new(AtomicBool::new(false));
        let (is_gone, gone) = watch::channel(false);
        let is_gone = Arc::new(is_gone);
        let (event_sender, events) = mpsc::unbounded_channel();
        let auth = connection.auth.as_ref().or(server.auth.as_ref());

        let delay = {
            let established = Arc::clone(&established);
            let is_gone = Arc::clone(&is_gone);
            move |_| {
                if established.load(Relaxed) {
                    is_gone.send_replace(true);
                    NEVER
                } else {
                    Duration::ZERO
                }
            }
        };
        let last_words = event_sender.clone();
        let mut options = authenticated(auth)?
            .reconnect_delay_callback(delay)
            .event_callback(move |event| {
                let _ = event_sender.send(event);
                std::future::ready(())
            })
            // Our own limit includes the name look-up; this one must not come first.
            .connection_timeout(connection.connect_timeout * 2)
            // For what async-nats asks by itself; a session has an inbox of its own.
            .custom_inbox_prefix(connection.inbox_prefix.clone())
            .name(connection.name.as_str())
            .ignore_discovered_servers()
            .ping_interval(ping_interval(connection))
            // Ours are fit for NATS already.
            .skip_subject_validation(true)
            .require_tls(connection.tls.is_required())
            // A message and its marker each: the channel never fills up, so sending never waits.
            .client_capacity(2 * connection.window + 128)
            .subscription_capacity(4 * connection.window + 1024);
        if connection.tls.is_required() || server.learnt_for.is_some() {
            options = options.tls_client_config(tls::client_config(&connection.tls, server)?);
        }
        if connection.tls.handshake_first {
            options = options.tls_first();
        }
        let client = options
            .connect(server.address.as_str())
            .await
            .map_err(|error| connect_error(server, auth, connection, &error))?;
        // No await since `connect`: on this single thread the callback cannot have run in between.
        established.store(true, Relaxed);
        let longest = client.server_info().max_payload.min(LONGEST_MESSAGE) as u64;
        tokio::spawn(guard(client.clone(), FLOOD + longest, is_gone, last_words));
        Ok(Self { client, events, gone })
    }
}

/// So much more than a message can be is too much to come without one, in bytes.
const FLOOD: u64 = 4 << 20;
/// No server takes a longer message (`max_payload`, nats-server's own limit), whatever it says of itself.
const LONGEST_MESSAGE: usize = 64 << 20;

/// Gives a connection up when the server sends without end: async-nats collects an unfinished line or message in memory,
/// however long it gets, and keeps for us all that the server says about itself and its refusals.
async fn guard(
    client: Client,
    most: u64,
    is_gone: Arc<watch::Sender<bool>>,
    last_words: mpsc::UnboundedSender<Event>,
) {
    /// How often we look at first and while much comes, and otherwise.
    const BUSY: Duration = Duration::from_millis(10);
    const IDLE: Duration = Duration::from_millis(50);
    const AT_FIRST: Duration = Duration::from_secs(5);
    const MUCH: u64 = 64 << 10;
    let began = Instant::now();
    let statistics = client.statistics();
    let now = || (statistics.in_messages.load(Relaxed), statistics.in_bytes.load(Relaxed));
    let (mut messages, mut since) = now();
    let mut pause = BUSY;
    while timeout(pause, is_gone.closed()).await.is_err() {
        let (later, bytes) = now();
        if later != messages {
            (messages, since) = (later, bytes);
        }
        let without_message = bytes.saturating_sub(since);
        if without_message > most {
            let words = ServerError::Other("the server sends without end".to_owned());
            let _ = last_words.send(Event::ServerError(words));
            is_gone.send_replace(true);
            // Until it hangs up it would go on reading.
            let _ = client.force_reconnect().await;
            return;
        }
        pause = if without_message > MUCH || began.elapsed() < AT_FIRST { BUSY } else { IDLE };
    }
}

/// The orderly end: what was sent is on its way, and TLS gets its `close_notify`.
pub(super) async fn close(client: &Client, gone: &watch::Receiver<bool>) {
    let limit = Duration::from_millis(100);
    let mut gone = gone.clone();
    if client.force_reconnect().await.is_ok() {
        let _ = timeout(limit, hung_up(&mut gone)).await;
    }
}

/// Returns when the connection is gone. Nothing of the channel stays borrowed.
pub(super) async fn hung_up(gone: &mut watch::Receiver<bool>) {
    let _ = gone.wait_for(|gone| *gone).await;
}

/// async-nats ends a connection at the third PING without an answer, nats-py after `max_outstanding_pings`
/// more intervals: stretched, so that the time until then is the user's.
fn ping_interval(connection: &Connection) -> Duration {
    const OF_ASYNC_NATS: u32 = 3;
    let pings = connection.max_outstanding_pings.saturating_add(1);
    connection.ping_interval.saturating_mul(pings) / OF_ASYNC_NATS
}

/// Credentials are read from their files here, at each connect.
fn authenticated(auth: Option<&Auth>) -> Result<ConnectOptions, Error> {
    let options = ConnectOptions::new();
    Ok(match auth {
        None => options,
        Some(Auth::User(user, password)) => {
            options.user_and_password(user.clone(), password.reveal().to_owned())
        }
        Some(Auth::Token(token)) => options.token(token.reveal().to_owned()),
        Some(Auth::Seed(seed)) => options.nkey(seed.reveal().trim().to_owned()),
        Some(Auth::SeedFile(path)) => {
            let fail = |reason: &str| Error::Credentials {
                option: "nkeys_seed",
                path: path.clone(),
                reason: reason.to_owned(),
            };
            let text = read_secret(path).map_err(|error| fail(&error.to_string()))?;
            let seed = seed_in(&text).ok_or_else(|| fail("no nkey seed (SU...) in it"))?;
            options.nkey(seed.reveal().to_owned())
        }
        Some(Auth::Creds(text)) => {
            let fail = |reason: &str| Error::Option {
                name: "creds".to_owned(),
                shown: MASK.to_owned(),
                expected: format!("the content of a .creds file ({reason})"),
                consequence: "no connection".to_owned(),
            };
            with_creds(options, text, text, fail, fail)?
        }
        Some(Auth::CredsFile(path)) => {
            let text = read_creds(path)?;
            let fail = |reason: &str| no_creds(path, reason);
            with_creds(options, &text, &text, fail, fail)?
        }
        Some(Auth::CredsFiles(jwt, seed)) => {
            let no_jwt = |reason: &str| no_creds(jwt, reason);
            let no_seed = |reason: &str| no_creds(seed, reason);
            with_creds(options, &read_creds(jwt)?, &read_creds(seed)?, no_jwt, no_seed)?
        }
    })
}

fn read_creds(path: &Path) -> Result<Secret, Error> {
    read_secret(path).map_err(|error| no_creds(path, &error.to_string()))
}

fn no_creds(path: &Path, reason: &str) -> Error {
    Error::Credentials { option: "user_credentials", path: path.to_owned(), reason: reason.to_owned() }
}

/// The JWT is in one text and the seed in another, or in the same. async-nats wants both in a strict form.
fn with_creds(
    options: ConnectOptions,
    jwt: &Secret,
    seed: &Secret,
    no_jwt: impl Fn(&str) -> Error,
    no_seed: impl Fn(&str) -> Error,
) -> Result<ConnectOptions, Error> {
    let jwt = jwt_in(jwt).ok_or_else(|| no_jwt("no JWT of a user (eyJ...) in it"))?;
    let seed = seed_in(seed).ok_or_else(|| no_seed("no nkey seed (SU...) in it"))?;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt.reveal(),
        seed.reveal()
    );
    options.credentials(Secret::new(text).reveal()).map_err(|error| no_seed(&error.to_string()))
}

fn connect_error(
    server: &Server,
    auth: Option<&Auth>,
    connection: &Connection,
    error: &async_nats::ConnectError,
) -> Error {
    let address = server.address.clone();
    if let Some(reason) = tls::explain(error, &connection.tls) {
        return Error::Tls { server: address, reason };
    }
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = inner.source();
    }
    let refused =
        matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
            || reason.to_lowercase().contains("authentication");
    if refused {
        Error::Refused { server: address, method: auth.map_or("none given", Auth::method), reason }
    } else {
        Error::Connect { server: address, reason }
    }
}

/// `Permissions Violation for Publish to "subject"`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// The server forbids to publish; otherwise, to subscribe.
    pub publish: bool,
    /// The subject that we may not use.
    pub subject: String,
}

impl Violation {
    /// Reads what the server says; `None` if it is about something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("Permissions Violation for ")?;
        let (_, quoted) = rest.split_once('"')?;
        Some(Self { publish: rest.starts_with("Publish"), subject: unquote(quoted)? })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.publish { "publish" } else { "subscribe" };
        write!(f, "the server does not let this user {what} to {}", self.subject)
    }
}

/// Reads Go's `%q` up to the closing quote: the server escapes quotes, backslashes and what it cannot print.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        let escape = match chars.next()? {
            '"' => return Some(text),
            '\\' => chars.next()?,
            plain => {
                text.push(plain);
                continue;
            }
        };
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            itself => {
                text.push(itself);
                continue;
            }
        };
        let hex: String = chars.by_ref().take(digits).collect();
        text.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_the_subject_as_we_sent_it() {
        for (said, subject, publish) in [
            (r#"nats: Permissions Violation for Publish to "a.b""#, "a.b", true),
            (
                r#"Permissions Violation for Publish to "a\"b\\c\u200bd\U000e0001\x7f""#,
                "a\"b\\c\u{200b}d\u{e0001}\u{7f}",
                true,
            ),
            (r#"Permissions Violation for Subscription to "_INBOX.>" using queue "q""#, "_INBOX.>", false),
        ] {
            let expected = Violation { publish, subject: subject.to_owned() };
            assert_eq!(Violation::parse(said), Some(expected), "{said}");
        }
        for other in [
            "Stale Connection",
            "Permissions Violation for Publish to",
            "Permissions Violation for Publish to \"a",
        ] {
            assert_eq!(Violation::parse(other), None, "{other}");
        }
    }
}
