//! What stands between us and a server, step by step: for `ansible-runner-nats check`.
//!
//! Each step is what a session does too, taken apart. Nothing is left in anybody's stream.
//!
//! - here: the way to the server, and to our inbox;
//! - `delivery`: what would become of the messages of a run, kind by kind;
//! - `reading`: whether runs could be read;
//! - `limits`: what the way a stream is made means for them;
//! - `dialogue`: asking, and trying what leaves nothing behind.

mod delivery;
mod dialogue;
mod limits;
mod reading;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::ServerInfo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use self::dialogue::Dialogue;
pub(super) use self::limits::{Load, SMALL_RUN, of_stream};
use super::{
    link::{Link, close},
    tls,
};
use crate::{
    config::{Config, Connection, Server},
    error::Error,
    message::nonce,
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

/// What is to work.
#[derive(Clone, Debug)]
pub(crate) enum Aim {
    /// Publishing, as a job does.
    Publish,
    /// Reading what runs have published: messages on subjects that match these filters.
    Read(Vec<String>),
}

/// Takes every step with one server; each is told as soon as it is known. Stops where it goes no further.
pub(crate) async fn probe(config: &Config, server: &Server, aim: &Aim, tell: &mut dyn FnMut(Finding)) {
    let mut probe = Probe { config, server, tell, problems: 0, told: HashSet::new() };
    // A step that fails has been told.
    let _ = probe.run(aim).await;
}

struct Probe<'a> {
    config: &'a Config,
    server: &'a Server,
    tell: &'a mut dyn FnMut(Finding),
    /// How many there were so far.
    problems: usize,
    /// What was told need not be told for each kind of message again.
    told: HashSet<String>,
}

/// No further step makes sense.
struct Stop;

type Step<T> = Result<T, Stop>;

impl Probe<'_> {
    async fn run(&mut self, aim: &Aim) -> Step<()> {
        let url = Url::parse(&self.server.address).map_err(|_| Stop)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(4222);
        let addresses = self.look_up(&host, port).await?;
        let stream = self.connect(&addresses).await?;
        self.handshake(url.scheme(), &host, stream).await?;
        let mut dialogue = self.log_in().await?;
        match aim {
            Aim::Publish => {
                dialogue.is_heard = self.inbox(&mut dialogue).await;
                self.deliveries(&mut dialogue).await;
            }
            Aim::Read(filters) => self.reading(&mut dialogue, filters).await,
        }
        close(&dialogue.link.client, &dialogue.link.gone).await;
        Ok(())
    }

    fn ok(&mut self, step: &'static str, text: impl Into<String>) {
        self.tell(step, State::Ok, text.into());
    }

    fn note(&mut self, step: &'static str, text: impl Into<String>) {
        self.tell(step, State::Note, text.into());
    }

    fn problem(&mut self, step: &'static str, text: impl Into<String>) -> Stop {
        self.tell(step, State::Problem, text.into());
        Stop
    }

    fn tell(&mut self, step: &'static str, state: State, text: String) {
        if self.told.insert(format!("{step} {text}")) {
            self.problems += usize::from(state == State::Problem);
            (self.tell)(Finding { step, state, text });
        }
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
        if (info.max_payload as u64) < limits::LARGE_MESSAGE {
            let text = format!("max_payload of {} bytes: larger events are cut to that", info.max_payload);
            self.note("server", text);
        }
        let inbox = format!("{prefix}.{}", nonce());
        Dialogue::open(link, inbox, limit).await.map_err(|error| self.problem("inbox", error))
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
}

fn describe(info: &ServerInfo) -> String {
    let cluster = info.cluster.as_ref().map_or(String::new(), |name| format!(", cluster {name}"));
    let domain = info.domain.as_ref().map_or(String::new(), |name| format!(", domain {name}"));
    let others = match info.connect_urls.as_slice() {
        [] => String::new(),
        urls => format!("; to be reached at {}", urls.join(", ")),
    };
    let jetstream = if info.jetstream { "on" } else { "off" };
    format!(
        "{}, version {}{cluster}{domain}, max_payload {} bytes, JetStream {jetstream}{others}",
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
