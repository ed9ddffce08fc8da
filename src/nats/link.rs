//! One connection: our options become an async-nats client whose end is the end.
//!
//! async-nats reconnects by itself and then flushes what it still had queued, which would overtake the
//! messages that we send again. So it is never allowed to: once the connection is there, the delay before a
//! reconnect is "a year", and being asked for that delay is the signal that the connection is gone.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::tls;
use crate::{
    config::{Auth, Connection, Server, read_secret, seed_in},
    error::Error,
    secret::MASK,
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
        let (event_sender, events) = mpsc::unbounded_channel();
        let auth = connection.auth.as_ref().or(server.auth.as_ref());

        let delay = {
            let established = Arc::clone(&established);
            move |_| {
                if established.load(Relaxed) {
                    is_gone.send_replace(true);
                    NEVER
                } else {
                    Duration::ZERO
                }
            }
        };
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
            .ignore_discovered_servers()
            .ping_interval(ping_interval(connection))
            // Ours are fit for NATS already.
            .skip_subject_validation(true)
            .require_tls(connection.tls.is_required())
            // A message and its marker each: the channel never fills up, so sending never waits.
            .client_capacity(2 * connection.window + 128)
            .subscription_capacity(4 * connection.window + 1024);
        if let Some(name) = &connection.name {
            options = options.name(name);
        }
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
        Ok(Self { client, events, gone })
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
        Some(Auth::Creds(text)) => options.credentials(text.reveal()).map_err(|error| Error::Option {
            name: "creds".to_owned(),
            shown: MASK.to_owned(),
            expected: format!("the content of a .creds file ({error})"),
            consequence: "no connection".to_owned(),
        })?,
        Some(Auth::CredsFile(path)) => {
            let fail = |reason: String| Error::Credentials {
                option: "user_credentials",
                path: path.clone(),
                reason,
            };
            let text = read_secret(path).map_err(|error| fail(error.to_string()))?;
            options.credentials(text.reveal()).map_err(|error| fail(error.to_string()))?
        }
    })
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
