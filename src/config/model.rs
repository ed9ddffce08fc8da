//! What the options say, validated.

use std::{
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::credentials::{Auth, secrets_of};
use crate::{
    message::{Composer, Events, Kind, Omit, Redaction, SELECTED, Sieve, Template},
    secret::Masks,
};

/// What proves that a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Delivery {
    /// A stream's acknowledgement where there is a stream, else an echo from the server: what comes back to a message tells.
    Auto,
    /// A stream's acknowledgement: stored.
    Jetstream,
    /// An echo from the server: routed.
    Core,
}

/// What TLS needs to know. Any of it means that there must be TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    /// PEM file of those whom we trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// TLS before the server's first word.
    pub handshake_first: bool,
    /// What the server's certificate must be for, instead of the host in the URL.
    pub hostname: Option<String>,
}

impl Tls {
    /// Is a connection without TLS out of the question, whatever the server says?
    pub(crate) fn is_required(&self) -> bool {
        *self != Self::default()
    }
}

/// What the server shows of a client. Runs of different subject ids share a connection, which is called after the first
/// of them.
#[derive(Clone, Debug)]
pub(crate) struct ClientName {
    /// As the user has it.
    pub given: Option<String>,
    /// Whose runs these are, and on which host.
    pub default: String,
}

impl ClientName {
    /// The name that the server is told.
    pub(crate) fn as_str(&self) -> &str {
        self.given.as_deref().unwrap_or(&self.default)
    }
}

impl PartialEq for ClientName {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

impl Eq for ClientName {}

impl Hash for ClientName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.given.hash(state);
    }
}

/// One server to try: its address, and the credentials that its URL carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// `scheme://host:port`, without credentials.
    pub address: String,
    /// From `user:password@` or `token@` in the URL.
    pub auth: Option<Auth>,
    /// Of a server that another one told us of, by its number: the host name that its certificate must be for.
    pub learnt_for: Option<String>,
}

/// All that two runs must have in common to share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    /// Servers to try, in the order given.
    pub servers: Vec<Server>,
    /// Credentials for servers whose URL carries none. An explicit option beats the URL, as in nats-py.
    pub auth: Option<Auth>,
    /// Client name that the server shows.
    pub name: ClientName,
    /// Log each step of the connection.
    pub verbose: bool,
    /// Connect again after a disconnect.
    pub allow_reconnect: bool,
    /// For one attempt, name look-up included.
    pub connect_timeout: Duration,
    /// Pause before the same server is tried again.
    pub reconnect_time_wait: Duration,
    /// Consecutive failures after which a server is given up; `None` = never.
    pub max_reconnect_attempts: Option<u32>,
    /// Pause between PINGs on an idle connection.
    pub ping_interval: Duration,
    /// Unanswered PINGs after which the connection is stale.
    pub max_outstanding_pings: u32,
    /// Messages in flight, unconfirmed.
    pub window: usize,
    /// Bytes held in memory.
    pub pending_size: usize,
    /// Prefix of the inbox that confirmations come back to.
    pub inbox_prefix: String,
    /// Try the servers in the order given.
    pub dont_randomize: bool,
    /// TLS, beyond what the URL says.
    pub tls: Tls,
    /// Where the server is asked about streams: `$JS.API`, unless a context says otherwise.
    pub jetstream_api: String,
    /// What proves that a message arrived.
    pub delivery: Delivery,
    /// The stream that must capture our subjects.
    pub stream: Option<String>,
}

impl Connection {
    /// The credentials that this connection knows, which a server could repeat to us.
    pub(crate) fn masks(&self) -> Masks {
        let auths = self.auth.iter().chain(self.servers.iter().filter_map(|server| server.auth.as_ref()));
        Masks::new(auths.flat_map(secrets_of))
    }
}

/// What one run needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// As the user wrote it (or the host's name); not yet fit for a subject.
    pub subject_id: String,
    /// The user's headers, in order, names and values valid.
    pub headers: Arc<[(String, String)]>,
    /// The most that the end of the run waits.
    pub flush_timeout: Duration,
    /// From one sign of life of a run to the next.
    pub heartbeat: Option<Duration>,
    /// Where undelivered messages go, if not to the artifact directory.
    pub spill_dir: Option<PathBuf>,
    /// Where messages go.
    pub subject: Template,
    /// Which events are published.
    pub events: Events,
    /// Which fields are left out.
    pub omit: Omit,
    /// On whose behalf the job runs.
    pub actor: Option<String>,
    /// Add the headers of CloudEvents.
    pub cloudevents: bool,
    /// Mask the run's own secrets wherever they occur.
    pub mask_values: bool,
    /// What a status hides: all credentials that we were given (those that another one overrides too), and what the
    /// job's environment says.
    pub redaction: Redaction,
    /// The connection.
    pub connection: Connection,
}

impl Config {
    /// What makes the messages of a run.
    pub(crate) fn composer(&self) -> Composer {
        let mut headers = Arc::clone(&self.headers);
        if self.events.is_selective() {
            let selected = (SELECTED.to_owned(), self.events.as_str().to_owned());
            headers = headers.iter().cloned().chain([selected]).collect();
        }
        Composer::new(&self.subject_id, self.subject.clone(), headers, self.cloudevents)
    }

    /// What of the data of such messages goes out.
    pub(crate) fn sieve(&self, kind: Kind) -> Sieve<'_> {
        Sieve::new(kind, &self.omit, &self.redaction)
    }

    /// The text without our credentials.
    pub(crate) fn hidden(&self, text: String) -> String {
        self.redaction.masks.hidden(text)
    }
}

/// An option, for whoever wants to see what is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// The option's name.
    pub option: &'static str,
    /// What is in force; no secret.
    pub value: String,
    /// The variable, the setting or the context that says so, or `default`.
    pub source: String,
}

/// What came of the settings and the environment.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// What is in force, option by option.
    pub settings: Vec<Setting>,
    /// `None`: not enabled, or refused (then a problem says why).
    pub config: Option<Config>,
    /// The job must not start without a connection.
    pub required: bool,
    /// Each a line for the user, without secrets.
    pub problems: Vec<String>,
}
