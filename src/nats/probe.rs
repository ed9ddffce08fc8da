//! What stands between us and a server, step by step: for `ansible-runner-nats check`.
//!
//! Each step is what a session does too, taken apart. Nothing is left in anybody's stream.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Event, HeaderMap, ServerInfo, Subscriber, client::traits::Publisher, message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::StreamExt;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{
    jetstream::{self, Captured, StreamInfo},
    link::{Link, Violation, close},
    tls,
};
use crate::{
    config::{Config, Connection, Delivery, Server},
    error::Error,
    message::{EXPECTED_STREAM, Kind, nonce},
};

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It will not work like this.
    Problem,
}

/// A step, and how it went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// What was tried.
    pub step: &'static str,
    /// How it went.
    pub state: State,
    /// One line, without secrets.
    pub text: String,
}

/// Takes every step with one server; each is told as soon as it is known. Stops where it goes no further.
pub(crate) async fn probe(config: &Config, server: &Server, tell: &mut dyn FnMut(Finding)) {
    let mut probe = Probe { config, server, tell };
    // A step that fails has been told.
    let _ = probe.run().await;
}

struct Probe<'a> {
    config: &'a Config,
    server: &'a Server,
    tell: &'a mut dyn FnMut(Finding),
}

/// No further step makes sense.
struct Stop;

type Step<T> = Result<T, Stop>;

const NO_ANSWER: &str = "no answer";

/// Where a user asks what he may do.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

impl Probe<'_> {
    async fn run(&mut self) -> Step<()> {
        let url = Url::parse(&self.server.address).map_err(|_| Stop)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(4222);
        let addresses = self.look_up(&host, port).await?;
        let stream = self.connect(&addresses).await?;
        self.handshake(url.scheme(), &host, stream).await?;
        let mut dialogue = self.log_in().await?;
        dialogue.is_heard = self.inbox(&mut dialogue).await;
        self.publishing(&mut dialogue).await?;
        let captured = self.streams(&mut dialogue).await;
        self.delivery(captured);
        close(&dialogue.link.client, &dialogue.link.gone).await;
        Ok(())
    }

    fn ok(&mut self, step: &'static str, text: impl Into<String>) {
        (self.tell)(Finding { step, state: State::Ok, text: text.into() });
    }

    fn note(&mut self, step: &'static str, text: impl Into<String>) {
        (self.tell)(Finding { step, state: State::Note, text: text.into() });
    }

    fn problem(&mut self, step: &'static str, text: impl Into<String>) -> Stop {
        (self.tell)(Finding { step, state: State::Problem, text: text.into() });
        Stop
    }

    fn connection(&self) -> &Connection {
        &self.config.connection
    }

    async fn look_up(&mut self, host: &str, port: u16) -> Step<Vec<SocketAddr>> {
        const STEP: &str = "name";
        let limit = self.connection().connect_timeout;
        let found = match timeout(limit, lookup_host((host, port))).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                return Err(
                    self.problem(STEP, format!("{host} is not known: {error}; check `servers` and DNS"))
                );
            }
            Err(_) => {
                let text = format!("no answer about {host} within {limit:?} (connect_timeout); check DNS");
                return Err(self.problem(STEP, text));
            }
        };
        let list: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
        self.ok(STEP, format!("{host} is {}", list.join(", ")));
        Ok(found)
    }

    async fn connect(&mut self, addresses: &[SocketAddr]) -> Step<TcpStream> {
        const STEP: &str = "TCP";
        let limit = self.connection().connect_timeout;
        let mut failure = "no address".to_owned();
        for address in addresses {
            let began = Instant::now();
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    self.ok(STEP, format!("connected to {address} in {}", ms(began.elapsed())));
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = format!("{address}: {error}; is a server running there?"),
                Err(_) => {
                    failure = format!("{address}: no answer within {limit:?}; a firewall may be in the way");
                }
            }
        }
        Err(self.problem(STEP, failure))
    }

    /// TLS by itself, to see the certificate; the connection is dropped then.
    async fn handshake(&mut self, scheme: &str, host: &str, stream: TcpStream) -> Step<()> {
        const STEP: &str = "TLS";
        let limit = self.connection().connect_timeout;
        let options = &self.config.connection.tls;
        let is_websocket = matches!(scheme, "ws" | "wss");
        let mut stream = BufReader::new(stream);
        let wanted = options.is_required() || matches!(scheme, "tls" | "wss");
        let asked = if is_websocket || options.handshake_first {
            false
        } else {
            let mut line = String::new();
            let mut limited = (&mut stream).take(64 << 10);
            match timeout(limit, limited.read_line(&mut line)).await {
                Ok(Ok(_)) if line.starts_with("INFO ") => line.contains("\"tls_required\":true"),
                Ok(_) => {
                    return Err(
                        self.problem("greeting", "what listens there is no NATS server; check host and port")
                    );
                }
                Err(_) => {
                    return Err(self.problem(
                        "greeting",
                        format!(
                            "no greeting within {limit:?}: no NATS server, or one that wants TLS first \
                         (tls_handshake_first)"
                        ),
                    ));
                }
            }
        };
        if !wanted && !asked {
            self.note(STEP, "none: what is sent can be read on the way; use tls:// if the server can");
            return Ok(());
        }
        let config = match tls::client_config(options, self.server) {
            Ok(config) => config,
            Err(error) => return Err(self.problem(STEP, error.to_string())),
        };
        let Ok(name) = ServerName::try_from(host.to_owned()) else {
            return Err(self.problem(STEP, format!("{host} is no name for a certificate")));
        };
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let connected = match timeout(limit, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                let reason = tls::explain(&error, options).unwrap_or_else(|| error.to_string());
                return Err(self.problem(STEP, reason));
            }
            Err(_) => return Err(self.problem(STEP, format!("no answer within {limit:?}"))),
        };
        let (_, session) = connected.get_ref();
        let version = session.protocol_version().map_or(String::new(), |version| format!("{version:?}"));
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let about = certificate.and_then(|der| tls::describe(der)).unwrap_or_default();
        self.ok(STEP, format!("{}; {about}", version.replace('_', ".")));
        Ok(())
    }

    async fn log_in(&mut self) -> Step<Dialogue> {
        const STEP: &str = "login";
        let connection = self.connection();
        let limit = connection.connect_timeout;
        let auth = connection.auth.as_ref().or(self.server.auth.as_ref());
        let who = auth.map_or("without credentials".to_owned(), |auth| format!("as {auth}"));
        let prefix = connection.inbox_prefix.clone();
        let link = match timeout(limit, Link::open(connection, self.server)).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Err(self.problem(STEP, advice(&error))),
            Err(_) => return Err(self.problem(STEP, format!("no answer within {limit:?} (connect_timeout)"))),
        };
        let info = link.client.server_info();
        self.ok(STEP, who);
        self.ok("server", describe(&info));
        let inbox = format!("{prefix}.{}", nonce());
        match link.client.subscribe(format!("{inbox}.>")).await {
            Ok(inbound) => Ok(Dialogue { link, inbox, inbound, asked: 0, is_heard: false, limit }),
            Err(error) => Err(self.problem("inbox", error.to_string())),
        }
    }

    /// Do our own messages come back, and how fast?
    async fn inbox(&mut self, dialogue: &mut Dialogue) -> bool {
        const ROUNDS: usize = 5;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            match dialogue.echo().await {
                Ok(()) => times.push(began.elapsed()),
                Err(reason) => {
                    let prefix = &self.config.connection.inbox_prefix;
                    self.problem("inbox", format!(
                        "{reason}: deliveries cannot be confirmed; allow this user to publish and subscribe to \
                         {prefix}.> (or set inbox_prefix)"
                    ));
                    return false;
                }
            }
        }
        let least = times.iter().min().copied().unwrap_or_default();
        let most = times.iter().max().copied().unwrap_or_default();
        let count = u32::try_from(times.len()).unwrap_or(1).max(1);
        let mean = times.iter().sum::<Duration>() / count;
        self.ok("inbox", format!("{}.> works", self.config.connection.inbox_prefix));
        self.ok("RTT", format!("{} ({} to {}, {ROUNDS} round trips)", ms(mean), ms(least), ms(most)));
        true
    }

    /// May we publish? The server says what the user may do; one that we may not even ask gets a message that no
    /// stream takes.
    async fn publishing(&mut self, dialogue: &mut Dialogue) -> Step<()> {
        const STEP: &str = "publish";
        let rights = dialogue.rights().await;
        for (kind, subject) in self.subjects() {
            let header = Some((EXPECTED_STREAM, "ansible-runner-nats-check"));
            let allowed = match &rights {
                Some(rights) => rights.allow(&subject),
                None => dialogue.send(&subject, header).await.is_ok(),
            };
            if allowed {
                self.ok(STEP, format!("{kind} messages to {subject}"));
            } else {
                self.problem(STEP, format!("this user may not publish to {subject}; allow it"));
            }
        }
        Ok(())
    }

    /// The streams that take our messages; `None`: could not be told.
    async fn streams(&mut self, dialogue: &mut Dialogue) -> Option<bool> {
        const STEP: &str = "stream";
        let api = self.config.connection.jetstream_api.clone();
        let mut any = false;
        let mut told = Vec::new();
        for (kind, subject) in self.subjects() {
            let question = jetstream::which_streams(&api, &subject);
            let names = match dialogue.question(question).await.map(|answer| Captured::read(&answer)) {
                Ok(Captured::By(names)) => names,
                Ok(Captured::No) => Vec::new(),
                Ok(Captured::Nobody) => {
                    self.note("JetStream", format!("nobody answers for it ({api})"));
                    // A server without may still reach some elsewhere, but not if nobody answers.
                    return Some(false);
                }
                Ok(Captured::NotNow(reason)) => {
                    self.problem(
                        "JetStream",
                        format!(
                            "cannot say now which stream takes {subject}: {reason}; a job \
                        would wait for it"
                        ),
                    );
                    return None;
                }
                Err(reason)
                    if dialogue.is_heard
                        && dialogue.link.client.server_info().jetstream
                        && reason == NO_ANSWER =>
                {
                    self.problem("JetStream", format!("does not answer ({api}): a job would wait for it"));
                    return None;
                }
                Err(reason) => {
                    self.note("JetStream", format!("cannot be asked ({api}): {reason}"));
                    return (!dialogue.link.client.server_info().jetstream).then_some(false);
                }
            };
            if names.is_empty() {
                self.note(
                    STEP,
                    format!("none takes {kind} messages: who does not listen at that moment misses them"),
                );
                continue;
            }
            any = true;
            for name in names {
                if !told.contains(&name) {
                    self.stream(dialogue, &api, &name).await;
                    told.push(name);
                }
            }
        }
        let wanted = self.config.connection.stream.clone();
        if let Some(wanted) = wanted.filter(|wanted| !told.contains(wanted)) {
            self.problem(STEP, format!("{wanted} (option stream) does not take our subjects"));
        }
        Some(any)
    }

    async fn stream(&mut self, dialogue: &mut Dialogue, api: &str, name: &str) {
        const STEP: &str = "stream";
        let (subject, request) = jetstream::about_stream(api, name);
        let info: StreamInfo = match dialogue.ask(&subject, request).await {
            Ok(info) => info,
            Err(reason) => {
                return self.ok(STEP, format!("{name} takes our messages (more is not told: {reason})"));
            }
        };
        let Some(config) = info.config else {
            return self.ok(STEP, format!("{name} takes our messages"));
        };
        let (window, age) = (config.duplicate_window(), config.max_age());
        let limit = |value: i64, unit: &str| {
            if value < 0 { String::new() } else { format!(", at most {value}{unit}") }
        };
        let age = if age.is_zero() { String::new() } else { format!(", at most {age:?} old") };
        self.ok(STEP, format!(
            "{name} takes our messages: duplicate window {window:?}, {} messages and {} bytes in it{}{}{age}, {} replicas",
            info.state.messages,
            info.state.bytes,
            limit(config.max_msgs, " messages"),
            limit(config.max_bytes, " bytes"),
            config.num_replicas,
        ));
        if config.no_ack {
            self.problem(STEP, format!("{name} does not acknowledge (no_ack): nothing can be confirmed"));
        }
        if config.discard == "new" {
            self.note(STEP, format!("{name} refuses messages when it is full (discard new)"));
        }
    }

    fn delivery(&mut self, captured: Option<bool>) {
        let text = match (self.config.connection.delivery, captured) {
            (Delivery::Core, Some(true)) => {
                self.note(
                    "delivery",
                    "core: a stream takes our messages, but whether it stored them is not asked",
                );
                return;
            }
            (Delivery::Core, _) => "core: the server's echo confirms",
            (_, Some(true)) => "jetstream: a stream confirms",
            (Delivery::Auto, Some(false)) => "core: the server's echo confirms (no stream takes our subject)",
            (Delivery::Auto, None) => "core, unless the server can be asked about streams later",
            (Delivery::Jetstream, Some(false)) => {
                self.problem("delivery", "jetstream is asked for, and no stream takes our subject; make one");
                return;
            }
            (Delivery::Jetstream, None) => "jetstream, whatever the server says of its streams",
        };
        self.ok("delivery", text);
    }

    /// Subjects of the kind that a run uses.
    fn subjects(&self) -> [(&'static str, Arc<str>); 2] {
        let of = |kind, name| self.config.subject.subject(&self.config.subject_id, "check", kind, name);
        [("event", of(Kind::Event, "runner_on_ok")), ("status", of(Kind::Status, "running"))]
    }
}

/// A connection that asks and gets answers.
struct Dialogue {
    link: Link,
    inbox: String,
    inbound: Subscriber,
    asked: u64,
    /// Do answers come back to the inbox?
    is_heard: bool,
    limit: Duration,
}

impl Dialogue {
    async fn ask<T: for<'a> Deserialize<'a>>(&mut self, subject: &str, request: String) -> Result<T, String> {
        let answer = self.round(subject, request.into(), None, true).await?;
        if jetstream::is_unanswered(&answer) {
            return Err("nobody answers for it".to_owned());
        }
        serde_json::from_slice(&answer.payload).map_err(|_| "an answer that we do not understand".to_owned())
    }

    /// Asks, and gets the answer as it is.
    async fn question(
        &mut self,
        (subject, request): jetstream::Question,
    ) -> Result<async_nats::Message, String> {
        self.round(&subject, request.into(), None, true).await
    }

    /// Publishes to our own inbox and waits for it.
    async fn echo(&mut self) -> Result<(), String> {
        // Its own each time: that of a round which was refused may still come.
        let subject = format!("{}.echo.{}", self.inbox, self.asked);
        self.round(&subject, Bytes::new(), None, false).await.map(drop)
    }

    /// Publishes; an error if the server forbids it.
    async fn send(&mut self, subject: &str, header: Option<(&str, &str)>) -> Result<(), String> {
        let payload = Bytes::from_static(b"{\"status\":\"check\"}");
        self.publish(subject, None, payload, header).await?;
        match self.echo().await {
            // Without an inbox we only know that nothing was said against it.
            Err(reason) if reason.contains(subject) => Err(reason),
            _ => Ok(()),
        }
    }

    /// What this user may do, if he may ask.
    async fn rights(&mut self) -> Option<Rights> {
        self.ask::<UserInfo>(USER_INFO, String::new()).await.ok().map(|info| info.data.permissions)
    }

    async fn publish(
        &self,
        subject: &str,
        reply: Option<String>,
        payload: Bytes,
        header: Option<(&str, &str)>,
    ) -> Result<(), String> {
        let headers = header.map(|(name, value)| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            headers
        });
        let message =
            OutboundMessage { subject: subject.into(), reply: reply.map(Into::into), payload, headers };
        self.link.client.publish_message(message).await.map_err(|error| error.to_string())
    }

    /// Publishes and waits for what comes back: the message itself, or an answer to it.
    async fn round(
        &mut self,
        subject: &str,
        payload: Bytes,
        header: Option<(&str, &str)>,
        answered: bool,
    ) -> Result<async_nats::Message, String> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        self.publish(subject, answered.then(|| reply.clone()), payload, header).await?;
        let expected = if answered { reply } else { subject.to_owned() };
        let waiting = async {
            loop {
                tokio::select! {
                    biased;
                    Some(event) = self.link.events.recv() => {
                        if let Some(refusal) = refusal(&event) {
                            return Err(refusal);
                        }
                    }
                    message = self.inbound.next() => {
                        let Some(message) = message else { return Err("connection closed".to_owned()) };
                        if message.subject.as_str() != expected {
                            continue;
                        }
                        // A refusal came before it, but on another way: let async-nats' event task speak first.
                        tokio::task::yield_now().await;
                        while let Ok(event) = self.link.events.try_recv() {
                            if let Some(refusal) = refusal(&event) {
                                return Err(refusal);
                            }
                        }
                        return Ok(message);
                    }
                }
            }
        };
        timeout(self.limit, waiting).await.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()))
    }
}

/// What the server refuses, if that is what it says.
fn refusal(event: &Event) -> Option<String> {
    let Event::ServerError(error) = event else { return None };
    Some(match Violation::parse(&error.to_string()) {
        Some(Violation { publish: true, subject }) => format!("this user may not publish to {subject}"),
        Some(Violation { subject, .. }) => format!("this user may not subscribe to {subject}"),
        None => error.to_string(),
    })
}

/// The answer to `$SYS.REQ.USER.INFO`.
#[derive(Deserialize)]
struct UserInfo {
    data: UserData,
}

#[derive(Deserialize)]
struct UserData {
    #[serde(default)]
    permissions: Rights,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rights {
    publish: Option<Lists>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

impl Rights {
    fn allow(&self, subject: &str) -> bool {
        let Some(Lists { allow, deny }) = &self.publish else { return true };
        let any = |patterns: &Option<Vec<String>>| {
            patterns.iter().flatten().any(|pattern| matches(pattern, subject))
        };
        allow.as_ref().is_none_or(|_| any(allow)) && !any(deny)
    }
}

/// Does a subject match a pattern with `*` and `>`?
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

fn describe(info: &ServerInfo) -> String {
    let cluster = info.cluster.as_ref().map_or(String::new(), |name| format!(", cluster {name}"));
    let domain = info.domain.as_ref().map_or(String::new(), |name| format!(", domain {name}"));
    let jetstream = if info.jetstream { "on" } else { "off" };
    format!(
        "{}, version {}{cluster}{domain}, max_payload {} bytes, JetStream {jetstream}",
        info.server_name, info.version, info.max_payload
    )
}

fn advice(error: &Error) -> String {
    let advice = match error {
        Error::Refused { .. } => "; check the credentials, and that this server knows them",
        _ => "",
    };
    format!("{error}{advice}")
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_patterns() {
        for (pattern, subject, expected) in [
            ("pub.>", "pub.a.b", true),
            ("pub.>", "pub", false),
            (">", "a", true),
            ("pub.*.b", "pub.a.b", true),
            ("pub.*", "pub.a.b", false),
            ("pub.a.b", "pub.a", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
        let rights = |allow: &[&str], deny: &[&str]| {
            let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
            Rights { publish: Some(Lists { allow: list(allow), deny: list(deny) }) }
        };
        assert!(rights(&["pub.>"], &[]).allow("pub.a"));
        assert!(!rights(&["pub.>"], &["pub.a"]).allow("pub.a") && !rights(&[], &[]).allow("pub.a"));
        assert!(Rights::default().allow("pub.a"));
    }
}
