//! Settings and environment become one validated [`Config`].
//!
//! Every option has a key in the setting `nats_options` and an environment variable; the environment
//! wins, option by option, and an empty variable counts as not set. The names are those of
//! `ansible-runner-nats` 0.4.0 and of nats-py's `connect`, which 0.4.0 passed its options to.

use std::{fmt, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value};
use url::Url;

use crate::{
    context::{Context, Env},
    credentials,
    error::Error,
    message::{self, Template},
    redact::{MASK, Masks, StatusEnv},
    select::{Events, Omit},
};

/// A string that must not be seen: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, to be handed to the connection and to nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// One server to try: its address, and the credentials that its URL carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// `scheme://host:port`, without credentials.
    pub address: String,
    /// From `user:password@` or `token@` in the URL.
    pub auth: Option<Auth>,
    /// Of a server that another one told us of, by its number: the host name that its certificate must be for.
    pub learnt_for: Option<String>,
}

/// How to authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// User and password.
    User(String, Secret),
    /// A token.
    Token(Secret),
    /// The content of a `.creds` file.
    Creds(Secret),
    /// Path of a `.creds` file, read anew at each connect so that it may be renewed.
    CredsFile(PathBuf),
    /// Path of an nkey seed file, read anew at each connect.
    SeedFile(PathBuf),
    /// The nkey seed itself.
    Seed(Secret),
}

impl Auth {
    /// Does a file hold it?
    pub fn is_file(&self) -> bool {
        matches!(self, Self::CredsFile(_) | Self::SeedFile(_))
    }

    /// What a user calls this way to authenticate.
    pub fn method(&self) -> &'static str {
        match self {
            Self::User(..) => "user and password",
            Self::Token(_) => "token",
            Self::CredsFile(_) | Self::Creds(_) => "user_credentials",
            Self::SeedFile(_) | Self::Seed(_) => "nkeys_seed",
        }
    }
}

impl fmt::Display for Auth {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user, _) => write!(f, "user {user}, password {MASK}"),
            Self::Token(_) => write!(f, "token {MASK}"),
            Self::Creds(_) => write!(f, "creds {MASK}"),
            Self::Seed(_) => write!(f, "nkey {MASK}"),
            Self::CredsFile(path) => write!(f, "creds {}", path.display()),
            Self::SeedFile(path) => write!(f, "nkey {}", path.display()),
        }
    }
}

/// What proves that a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Ask the server whether a stream captures the subject, then as that says.
    Auto,
    /// A stream's acknowledgement: stored.
    Jetstream,
    /// An echo from the server: routed.
    Core,
}

/// What TLS needs to know. Any of it means that there must be TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
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
    pub fn is_required(&self) -> bool {
        *self != Self::default()
    }
}

/// All that two runs must have in common to share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Servers to try, in the order given.
    pub servers: Vec<Server>,
    /// Credentials for servers whose URL carries none. An explicit option beats the URL, as in nats-py.
    pub auth: Option<Auth>,
    /// Client name that the server shows.
    pub name: Option<String>,
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
    pub fn masks(&self) -> Masks {
        let auths = self.auth.iter().chain(self.servers.iter().filter_map(|server| server.auth.as_ref()));
        Masks::new(auths.flat_map(credentials::secrets_of))
    }
}

/// What one run needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// As the user wrote it (or the host's name); not yet fit for a subject.
    pub subject_id: String,
    /// The user's headers, in order, names and values valid.
    pub headers: Vec<(String, String)>,
    /// The most that the end of the run waits.
    pub flush_timeout: Duration,
    /// Where undelivered messages go, if not to the artifact directory.
    pub spill_dir: Option<PathBuf>,
    /// Where messages go.
    pub subject: Template,
    /// Which events are published.
    pub events: Events,
    /// Which fields are left out.
    pub omit: Omit,
    /// Add the headers of CloudEvents.
    pub cloudevents: bool,
    /// What `starting` carries of the environment.
    pub status_env: StatusEnv,
    /// All credentials that we were given, those that another one overrides too.
    pub masks: Masks,
    /// The connection.
    pub connection: Connection,
}

/// An option, for whoever wants to see what is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The option's name.
    pub option: &'static str,
    /// What is in force; no secret.
    pub value: String,
    /// The variable, the setting or the context that says so, or `default`.
    pub source: String,
}

/// What came of the settings and the environment.
#[derive(Debug)]
pub struct Resolution {
    /// What is in force, option by option.
    pub settings: Vec<Setting>,
    /// `None`: not enabled, or refused (then a problem says why).
    pub config: Option<Config>,
    /// The job must not start without a connection.
    pub required: bool,
    /// Each a line for the user, without secrets.
    pub problems: Vec<String>,
}

/// One option: its key in `nats_options` and its variables, the first of which is the documented one.
struct Opt {
    key: &'static str,
    env: &'static [&'static str],
    secret: bool,
    /// A bad value means that nothing is sent, instead of the default being used.
    fail_closed: bool,
}

const fn tuning(key: &'static str, env: &'static [&'static str]) -> Opt {
    Opt { key, env, secret: false, fail_closed: false }
}

const fn guarded(key: &'static str, env: &'static [&'static str]) -> Opt {
    Opt { key, env, secret: false, fail_closed: true }
}

const fn secret(key: &'static str, env: &'static [&'static str]) -> Opt {
    Opt { key, env, secret: true, fail_closed: true }
}

/// The variable that enables the plugin.
pub const SUBJECT_ID: &str = "RUNNER_NATS_SUBJECT_ID";
const HEADERS: &str = "RUNNER_NATS_HEADERS";

const SERVERS: Opt = secret("servers", &["RUNNER_NATS_SERVERS"]);
const USER: Opt = guarded("user", &["RUNNER_NATS_USERNAME"]);
const PASSWORD: Opt = secret("password", &["RUNNER_NATS_PASSWORD"]);
const TOKEN: Opt = secret("token", &["RUNNER_NATS_TOKEN"]);
const USER_CREDENTIALS: Opt = secret("user_credentials", &["RUNNER_NATS_USER_CREDENTIALS"]);
const NKEYS_SEED: Opt = secret("nkeys_seed", &["RUNNER_NATS_NKEYS_SEED"]);
const NKEYS_SEED_STR: Opt = secret("nkeys_seed_str", &[]);
const NAME: Opt = tuning("name", &["RUNNER_NATS_CLIENT_NAME"]);
const VERBOSE: Opt = tuning("verbose", &["RUNNER_NATS_CLIENT_VERBOSE"]);
const ALLOW_RECONNECT: Opt = tuning("allow_reconnect", &["RUNNER_NATS_ALLOW_RECONNECT"]);
const CONNECT_TIMEOUT: Opt = tuning("connect_timeout", &["RUNNER_NATS_CONNECT_TIMEOUT"]);
const RECONNECT_TIME_WAIT: Opt = tuning("reconnect_time_wait", &["RUNNER_NATS_RECONNECT_TIME_WAIT"]);
const MAX_RECONNECT_ATTEMPTS: Opt = tuning("max_reconnect_attempts", &["RUNNER_NATS_MAX_RECONNECT_ATTEMPTS"]);
const PING_INTERVAL: Opt = tuning("ping_interval", &["RUNNER_NATS_PING_INTERVAL"]);
const MAX_OUTSTANDING_PINGS: Opt =
    tuning("max_outstanding_pings", &["RUNNER_NATS_MAX_OUTSTANDING_PINGS", "RUNNER_MAX_OUTSTANDING_PINGS"]);
const FLUSHER_QUEUE_SIZE: Opt = tuning("flusher_queue_size", &["RUNNER_NATS_FLUSHER_QUEUE_SIZE"]);
const PENDING_SIZE: Opt = tuning("pending_size", &["RUNNER_NATS_PENDING_SIZE"]);
const FLUSH_TIMEOUT: Opt = tuning("flush_timeout", &["RUNNER_NATS_FLUSH_TIMEOUT"]);
const INBOX_PREFIX: Opt = tuning("inbox_prefix", &["RUNNER_NATS_INBOX_PREFIX"]);
const DONT_RANDOMIZE: Opt = tuning("dont_randomize", &["RUNNER_NATS_DONT_RANDOMIZE"]);
const TLS_HANDSHAKE_FIRST: Opt = guarded("tls_handshake_first", &["RUNNER_NATS_TLS_HANDSHAKE_FIRST"]);
const NO_ECHO: Opt = tuning("no_echo", &["RUNNER_NATS_NO_ECHO"]);
const PEDANTIC: Opt = tuning("pedantic", &["RUNNER_NATS_PEDANTIC"]);
const DRAIN_TIMEOUT: Opt = tuning("drain_timeout", &["RUNNER_NATS_DRAIN_TIMEOUT"]);
const TLS_HOSTNAME: Opt = guarded("tls_hostname", &["RUNNER_NATS_TLS_HOSTNAME"]);
const TLS_CA: Opt = guarded("tls_ca", &["RUNNER_NATS_TLS_CA"]);
const TLS_CERT: Opt = guarded("tls_cert", &["RUNNER_NATS_TLS_CERT"]);
const TLS_KEY: Opt = secret("tls_key", &["RUNNER_NATS_TLS_KEY"]);
const CONTEXT: Opt = secret("context", &["RUNNER_NATS_CONTEXT"]);
// Whoever leaves something out, or sends it elsewhere, may have a reason that a typing error must not defeat.
const SUBJECT: Opt = guarded("subject", &["RUNNER_NATS_SUBJECT"]);
const EVENTS: Opt = guarded("events", &["RUNNER_NATS_EVENTS"]);
const OMIT: Opt = guarded("omit", &["RUNNER_NATS_OMIT"]);
const CLOUDEVENTS: Opt = tuning("cloudevents", &["RUNNER_NATS_CLOUDEVENTS"]);
const TLS: Opt = guarded("tls", &[]);
const SIGNATURE_CB: Opt = guarded("signature_cb", &[]);
const USER_JWT_CB: Opt = guarded("user_jwt_cb", &[]);
const DELIVERY: Opt = tuning("delivery", &["RUNNER_NATS_DELIVERY"]);
const STREAM: Opt = tuning("stream", &["RUNNER_NATS_STREAM"]);
const SPILL_DIR: Opt = tuning("spill_dir", &["RUNNER_NATS_SPILL_DIR"]);
const STATUS_ENV: Opt = tuning("status_env", &["RUNNER_NATS_STATUS_ENV"]);
const REQUIRED: Opt = tuning("required", &["RUNNER_NATS_REQUIRED"]);
/// Of a context alone.
const JETSTREAM_DOMAIN: Opt = guarded("jetstream_domain", &[]);
const JETSTREAM_API_PREFIX: Opt = guarded("jetstream_api_prefix", &[]);

/// Options that say who we are: a context's way is not mixed with them.
const AUTH: &[&Opt] = &[&USER, &PASSWORD, &TOKEN, &USER_CREDENTIALS, &NKEYS_SEED, &NKEYS_SEED_STR];

/// Every option, for "did you mean".
const OPTIONS: &[&Opt] = &[
    &SERVERS,
    &USER,
    &PASSWORD,
    &TOKEN,
    &USER_CREDENTIALS,
    &NKEYS_SEED,
    &NKEYS_SEED_STR,
    &NAME,
    &VERBOSE,
    &ALLOW_RECONNECT,
    &CONNECT_TIMEOUT,
    &RECONNECT_TIME_WAIT,
    &MAX_RECONNECT_ATTEMPTS,
    &PING_INTERVAL,
    &MAX_OUTSTANDING_PINGS,
    &FLUSHER_QUEUE_SIZE,
    &PENDING_SIZE,
    &FLUSH_TIMEOUT,
    &INBOX_PREFIX,
    &DONT_RANDOMIZE,
    &TLS_HANDSHAKE_FIRST,
    &NO_ECHO,
    &PEDANTIC,
    &DRAIN_TIMEOUT,
    &TLS_HOSTNAME,
    &TLS_CA,
    &TLS_CERT,
    &TLS_KEY,
    &CONTEXT,
    &TLS,
    &SIGNATURE_CB,
    &USER_JWT_CB,
    &DELIVERY,
    &STREAM,
    &SPILL_DIR,
    &STATUS_ENV,
    &SUBJECT,
    &EVENTS,
    &OMIT,
    &CLOUDEVENTS,
    &REQUIRED,
];

/// Options of nats-py that this client cannot follow: accepted, and said.
const WITHOUT_EFFECT: &[(&Opt, &str)] = &[
    (&NO_ECHO, "the echo of our own markers is what confirms delivery"),
    (&PEDANTIC, "subjects are checked before they are sent"),
    (&DRAIN_TIMEOUT, "flush_timeout bounds the end of a run"),
];

/// Options that carry Python objects and belong to security: without them the user's intent is not met.
const CANNOT_SERVE: &[(&Opt, &str)] = &[
    (&TLS, "tls_ca, tls_cert and tls_key (an ssl.SSLContext cannot be used here)"),
    (&SIGNATURE_CB, "user_credentials or nkeys_seed instead of a callback"),
    (&USER_JWT_CB, "user_credentials instead of a callback"),
];

/// The variables of an option in `nats_options`.
pub fn variables_of(key: &str) -> &'static [&'static str] {
    OPTIONS.iter().find(|opt| opt.key == key).map_or(&[], |opt| opt.env)
}

/// Reads settings and environment. `env` looks a variable up (an empty one counts as not set);
/// `hostname` gives this host's name, for the subject id `hostname`.
pub fn resolve(settings: &Map<String, Value>, env: Env<'_>, hostname: &dyn Fn() -> String) -> Resolution {
    let empty = Map::new();
    let mut reader = Reader {
        options: &empty,
        env,
        context: Context::default(),
        settings: Vec::new(),
        problems: Vec::new(),
        refused: false,
        secrets: Vec::new(),
    };
    let subject_id = reader.subject_id(settings, hostname);
    if subject_id.is_none() && !reader.refused {
        return Resolution { settings: Vec::new(), config: None, required: false, problems: Vec::new() };
    }
    match settings.get("nats_options") {
        None | Some(Value::Null) => {}
        Some(Value::Object(options)) => reader.options = options,
        // Servers and credentials may be in there: sending elsewhere is worse than not sending.
        Some(_) => reader.refuse("nats_options", "a mapping of option names to values"),
    }
    reader.unknown_keys();
    reader.unusable();
    let required = reader.boolean(&REQUIRED, false);
    reader.context();
    let mut headers = reader.headers(settings);
    reader.trace_context(&mut headers);
    let flush_timeout = reader.seconds(&FLUSH_TIMEOUT, 5.0, 0.0);
    let spill_dir = reader.path(&SPILL_DIR);
    let status_env = reader.status_env();
    let subject = reader.subject(subject_id.as_deref().unwrap_or_default());
    let events =
        reader.list(&EVENTS, "names of events with * and ?, such as runner_*,!runner_item_*", Events::parse);
    let omit = reader.list(&OMIT, "names of fields such as event_data.res,stdout", Omit::parse);
    let cloudevents = reader.boolean(&CLOUDEVENTS, false);
    let connection = reader.connection();
    let masks = Masks::new(std::mem::take(&mut reader.secrets));
    let problems = reader.problems.into_iter().map(|problem| masks.hidden(problem)).collect();
    let config = subject_id.filter(|_| !reader.refused).map(|subject_id| Config {
        subject_id,
        headers,
        flush_timeout,
        spill_dir,
        subject,
        events: events.unwrap_or_default(),
        omit: omit.unwrap_or_default(),
        cloudevents,
        status_env,
        masks,
        connection,
    });
    Resolution { settings: reader.settings, config, required, problems }
}

struct Reader<'a> {
    options: &'a Map<String, Value>,
    env: Env<'a>,
    context: Context,
    settings: Vec<Setting>,
    problems: Vec<String>,
    refused: bool,
    /// Every credential that was given.
    secrets: Vec<Secret>,
}

impl Reader<'_> {
    fn subject_id(&mut self, settings: &Map<String, Value>, hostname: &dyn Fn() -> String) -> Option<String> {
        const SETTING: &str = "nats_subject_id";
        let (name, id) = match (self.var(SUBJECT_ID), settings.get(SETTING)) {
            (Some(id), _) => (SUBJECT_ID, id),
            (None, None | Some(Value::Null)) => return None,
            (None, Some(value)) => match as_text(value) {
                Some(id) => (SETTING, id),
                None => {
                    self.refuse(SETTING, "text");
                    return None;
                }
            },
        };
        if id.len() > message::LONGEST_TOKENS {
            self.say(format!(
                "{name}={}: longer than {} bytes, the rest is cut off",
                shorten(&id),
                message::LONGEST_TOKENS
            ));
        }
        self.in_force(SETTING, shorten(&id), name);
        let id = if id == "hostname" { hostname().replace('.', "-") } else { id };
        (!id.is_empty()).then_some(id)
    }

    fn connection(&mut self) -> Connection {
        let stream = self.stream();
        let (mut servers, tls) = (self.servers(), self.tls());
        if let Some((field, auth)) = self.context.auth.take() {
            let source = format!("context {}: {field}", self.context.name);
            self.in_force("authentication", auth.to_string(), &source);
            // As in nats.go, credentials in a URL beat the context's; and they are meant for that server.
            for server in servers.iter_mut().filter(|server| server.auth.is_none()) {
                server.auth = Some(auth.clone());
            }
        }
        if tls.is_required() && servers.iter().any(|server| server.address.starts_with("ws://")) {
            self.refuse("servers", "wss:// instead of ws://, which has no TLS, as options of TLS are set");
        }
        Connection {
            servers,
            auth: self.auth(),
            name: self.client_name(),
            verbose: self.boolean(&VERBOSE, false),
            allow_reconnect: self.boolean(&ALLOW_RECONNECT, true),
            connect_timeout: self.seconds(&CONNECT_TIMEOUT, 2.0, MIN_TIMEOUT),
            reconnect_time_wait: self.seconds(&RECONNECT_TIME_WAIT, 2.0, 0.0),
            max_reconnect_attempts: self.attempts(),
            ping_interval: self.seconds(&PING_INTERVAL, 120.0, MIN_TIMEOUT),
            max_outstanding_pings: self.count(&MAX_OUTSTANDING_PINGS, 2, 1..=1_000),
            window: self.count(&FLUSHER_QUEUE_SIZE, 1024, 1..=65_536),
            pending_size: self.count(&PENDING_SIZE, 64 << 20, 0..=1 << 40),
            inbox_prefix: self.inbox_prefix(),
            dont_randomize: self.boolean(&DONT_RANDOMIZE, false),
            tls,
            jetstream_api: self.jetstream_api(),
            delivery: self.delivery(stream.is_some()),
            stream,
        }
    }

    /// A variable that is set to something.
    fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// The raw value and the name under which the user set it.
    fn raw(&self, opt: &Opt) -> Option<(String, Value)> {
        let from_env =
            opt.env.iter().find_map(|name| Some(((*name).to_owned(), Value::String(self.var(name)?))));
        let from_settings = || match self.options.get(opt.key) {
            None | Some(Value::Null) => None,
            // As an empty variable.
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => Some((format!("nats_options.{}", opt.key), value.clone())),
        };
        from_env.or_else(from_settings).or_else(|| {
            let (_, field, value) = self.context.options.iter().find(|(key, ..)| *key == opt.key)?;
            Some((format!("context {}: {field}", self.context.name), value.clone()))
        })
    }

    /// Did the user say it here, and not only in a context?
    fn is_explicit(&self, opt: &Opt) -> bool {
        self.options.get(opt.key).is_some_and(|value| !value.is_null() && value != "")
            || opt.env.iter().any(|name| self.var(name).is_some())
    }

    /// Reads the context, if one is named; what is said explicitly beats it.
    fn context(&mut self) {
        let parse = |value: &Value| as_text(value).filter(|name| name.len() <= 1024 && !looks_secret(name));
        let Some(name) = self.read(&CONTEXT, "the name of a context, or its path", "", parse) else { return };
        self.shown(CONTEXT.key, name.clone());
        let auth_is_explicit = AUTH.iter().any(|opt| self.is_explicit(opt));
        let context = match Context::load(&name, self.env, !auth_is_explicit) {
            Ok(context) => context,
            Err(reason) => {
                self.refused = true;
                return self.say(format!("context {}: {reason}; nothing is published", shorten(&name)));
            }
        };
        for field in &context.not_served {
            self.say(format!("context {name}: {} has no effect here", shorten(field)));
        }
        self.secrets.extend(context.secrets.iter().cloned());
        self.context = context;
        // Certificate and key belong together.
        if self.is_explicit(&TLS_CERT) || self.is_explicit(&TLS_KEY) {
            self.context.options.retain(|(key, ..)| *key != TLS_CERT.key && *key != TLS_KEY.key);
        }
    }

    /// What the user gave for an option, overridden or not.
    fn all_given(&self, opt: &Opt) -> Vec<Value> {
        let from_env = opt.env.iter().filter_map(|name| self.var(name)).map(Value::String);
        let from_context = self.context.options.iter().filter(|(key, ..)| *key == opt.key);
        from_env
            .chain(self.options.get(opt.key).cloned())
            .chain(from_context.map(|(_, _, value)| value.clone()))
            .collect()
    }

    fn read<T>(
        &mut self,
        opt: &Opt,
        expected: &str,
        default: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let given = self.raw(opt).map(|(name, value)| (parse(&value), name, value));
        match &given {
            Some((Some(_), name, value)) => {
                let shown = if opt.secret { MASK.to_owned() } else { plain(value) };
                self.in_force(opt.key, shown, name);
            }
            Some((None, name, value)) => {
                self.complain(opt, name, value, expected, default);
                self.in_force(opt.key, default.to_owned(), "default");
            }
            None => self.in_force(opt.key, default.to_owned(), "default"),
        }
        given?.0
    }

    /// Notes what is in force; the last word counts.
    fn in_force(&mut self, option: &'static str, value: impl Into<String>, source: &str) {
        let setting = Setting { option, value: value.into(), source: source.to_owned() };
        match self.settings.iter_mut().find(|known| known.option == option) {
            Some(known) => *known = setting,
            None => self.settings.push(setting),
        }
    }

    /// Notes another form of what is in force: one that may be seen, or what another option makes of it.
    fn shown(&mut self, option: &str, value: String) {
        if let Some(known) = self.settings.iter_mut().find(|known| known.option == option) {
            known.value = value;
        }
    }

    fn complain(&mut self, opt: &Opt, name: &str, value: &Value, expected: &str, default: &str) {
        let shown = if opt.secret { MASK.to_owned() } else { shorten(&value.to_string()) };
        let consequence = if opt.fail_closed {
            self.refused = true;
            "nothing is published".to_owned()
        } else {
            format!("using {default}")
        };
        self.say(
            Error::Option { name: name.to_owned(), shown, expected: expected.to_owned(), consequence }
                .to_string(),
        );
    }

    fn refuse(&mut self, name: &str, expected: &str) {
        self.refused = true;
        self.say(format!("{name}: expected {expected}; nothing is published"));
    }

    /// Keeps a line for the user; no endless list of them.
    fn say(&mut self, problem: String) {
        const MOST: usize = 50;
        match self.problems.len() {
            0..MOST if !self.problems.contains(&problem) => self.problems.push(problem),
            MOST => self.problems.push("there are more problems with the options than these".to_owned()),
            _ => {}
        }
    }

    /// The server reads a client's name in one line with all else that it must know.
    fn client_name(&mut self) -> Option<String> {
        const MOST: usize = 256;
        let expected = format!("text of at most {MOST} characters");
        self.read(&NAME, &expected, "none", |value| {
            as_text(value).filter(|name| name.chars().count() <= MOST)
        })
    }

    /// A stream's name as nats-server takes it (NATS ADR-6).
    fn stream(&mut self) -> Option<String> {
        const MOST: usize = 255;
        let expected = "the name of a stream, without blanks and any of . * > / \\";
        let allowed =
            |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
        self.read(&STREAM, expected, "none", |value| {
            as_text(value).filter(|name| !name.is_empty() && name.len() <= MOST && name.chars().all(allowed))
        })
    }

    fn path(&mut self, opt: &Opt) -> Option<PathBuf> {
        const MOST: usize = 4096;
        let parse = |value: &Value| {
            let fits = |path: &String| path.len() < MOST && !path.is_empty() && !path.contains('\0');
            as_text(value).filter(|path| fits(path) && !looks_secret(path))
        };
        let path = self.read(opt, "a path", "none", parse)?;
        self.shown(opt.key, path.clone());
        Some(PathBuf::from(path))
    }

    /// A list, or text with commas.
    fn list<T>(&mut self, opt: &Opt, expected: &str, parse: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        const MOST: usize = 16 << 10;
        let parse = |value: &Value| {
            let items: Vec<String> = match value {
                Value::Array(items) => items.iter().map(as_text).collect::<Option<_>>()?,
                other => as_text(other)?.split(',').map(str::to_owned).collect(),
            };
            let size: usize = items.iter().map(String::len).sum();
            if size <= MOST { parse(&items) } else { None }
        };
        self.read(opt, expected, "", parse)
    }

    fn subject(&mut self, subject_id: &str) -> Template {
        let value = self.raw(&SUBJECT).and_then(|(_, value)| as_text(&value));
        let reason = value.and_then(|text| Template::parse(&text).err());
        let expected = "a subject such as runs.{subject_id}.{runner_ident}.{kind}.{name}";
        let expected = reason.map_or(expected.to_owned(), |reason| format!("{expected} ({reason})"));
        let template =
            self.read(&SUBJECT, &expected, message::SUBJECT, |value| Template::parse(&as_text(value)?).ok());
        let template = template.unwrap_or_default();
        if template.subject(subject_id, "x", message::Kind::Event, "x").starts_with(['$', '_']) {
            self.refuse(SUBJECT.key, "a subject that begins with neither $ nor _");
        }
        template
    }

    fn tls(&mut self) -> Tls {
        let hostname = self.read(&TLS_HOSTNAME, "a host name or an IP address", "", |value| {
            as_text(value).filter(|name| rustls::pki_types::ServerName::try_from(name.as_str()).is_ok())
        });
        let (ca, cert, key) = (self.path(&TLS_CA), self.path(&TLS_CERT), self.path(&TLS_KEY));
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => {
                self.secrets.extend(credentials::lines_of(&key));
                Some((cert, key))
            }
            (None, None) => None,
            (Some(_), None) => {
                self.refuse("tls_cert", "its key too (RUNNER_NATS_TLS_KEY or nats_options.tls_key)");
                None
            }
            (None, Some(_)) => {
                self.refuse("tls_key", "its certificate too (RUNNER_NATS_TLS_CERT or nats_options.tls_cert)");
                None
            }
        };
        Tls { ca, identity, handshake_first: self.boolean(&TLS_HANDSHAKE_FIRST, false), hostname }
    }

    /// As the `nats` command line has it: the prefix of a domain (NATS ADR-28), or any other.
    fn jetstream_api(&mut self) -> String {
        let expected = "a subject prefix without wildcards or blanks";
        let parse = |value: &Value| {
            let prefix = as_text(value)?.trim_end_matches('.').to_owned();
            (prefix.len() <= 256 && message::is_literal_subject(&prefix)).then_some(prefix)
        };
        let prefix = self.read(&JETSTREAM_API_PREFIX, expected, "$JS.API", parse);
        let domain = self.read(&JETSTREAM_DOMAIN, expected, "none", parse);
        domain.map(|domain| format!("$JS.{domain}.API")).or(prefix).unwrap_or("$JS.API".to_owned())
    }

    /// The trace that this process is part of goes on in our messages (W3C Trace Context).
    fn trace_context(&mut self, headers: &mut Vec<(String, String)>) {
        if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("traceparent")) {
            return;
        }
        for (variable, header, is_valid) in [
            ("TRACEPARENT", "traceparent", is_traceparent as fn(&str) -> bool),
            ("TRACESTATE", "tracestate", |text| {
                text.len() <= 512 && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            }),
        ] {
            // The state is nothing without the parent.
            let Some(value) = self.var(variable) else { return };
            if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header)) {
                continue;
            }
            if !is_valid(&value) {
                // It decides how what comes with it is read.
                return self.say(format!("{variable}: no trace context of W3C, not passed on"));
            }
            headers.push((header.to_owned(), value));
        }
    }

    fn status_env(&mut self) -> StatusEnv {
        let parse = |value: &Value| match as_text(value)?.trim().to_ascii_lowercase().as_str() {
            "redact" => Some(StatusEnv::Redact),
            "omit" => Some(StatusEnv::Omit),
            "full" => Some(StatusEnv::Full),
            _ => None,
        };
        self.read(&STATUS_ENV, "redact, omit or full", "redact", parse).unwrap_or_default()
    }

    fn boolean(&mut self, opt: &Opt, default: bool) -> bool {
        let expected = "true, yes, y, 1, on or false, no, n, 0, off";
        self.read(opt, expected, &default.to_string(), as_bool).unwrap_or(default)
    }

    fn seconds(&mut self, opt: &Opt, default: f64, least: f64) -> Duration {
        let expected = format!("a number of seconds, at least {least}");
        let parse = |value: &Value| {
            let seconds = as_number(value)?;
            // `Duration` overflows far above; ten years is "for ever" for a job.
            (seconds >= least && seconds <= 315_360_000.0).then(|| Duration::from_secs_f64(seconds))
        };
        self.read(opt, &expected, &default.to_string(), parse)
            .unwrap_or_else(|| Duration::from_secs_f64(default))
    }

    fn count<T>(&mut self, opt: &Opt, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: Copy + fmt::Display + PartialOrd + TryFrom<i64>,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let parse = |value: &Value| T::try_from(as_integer(value)?).ok().filter(|n| range.contains(n));
        self.read(opt, &expected, &default.to_string(), parse).unwrap_or(default)
    }

    /// As in nats-py, zero and below mean "without end".
    fn attempts(&mut self) -> Option<u32> {
        let number = self.read(&MAX_RECONNECT_ATTEMPTS, "a whole number, -1 for no limit", "-1", as_integer);
        number.filter(|n| *n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn delivery(&mut self, stream_given: bool) -> Delivery {
        let parse = |value: &Value| match as_text(value)?.trim().to_ascii_lowercase().as_str() {
            "auto" => Some(Delivery::Auto),
            "jetstream" => Some(Delivery::Jetstream),
            "core" => Some(Delivery::Core),
            _ => None,
        };
        let delivery =
            self.read(&DELIVERY, "auto, jetstream or core", "auto", parse).unwrap_or(Delivery::Auto);
        if !stream_given {
            return delivery;
        }
        if delivery == Delivery::Core {
            self.say("stream: implies delivery=jetstream; delivery=core is ignored".to_owned());
        }
        self.in_force(DELIVERY.key, "jetstream", "stream");
        Delivery::Jetstream
    }

    fn inbox_prefix(&mut self) -> String {
        let expected = "a subject prefix such as _INBOX, without wildcards or blanks";
        let parse = |value: &Value| {
            as_text(value).filter(|prefix| prefix.len() <= 256 && message::is_literal_subject(prefix))
        };
        self.read(&INBOX_PREFIX, expected, "_INBOX", parse).unwrap_or_else(|| "_INBOX".to_owned())
    }

    fn servers(&mut self) -> Vec<Server> {
        const LOCAL: &str = "nats://localhost:4222";
        let expected = "server URLs such as nats://localhost:4222, with scheme nats, tls, ws or wss";
        let parse = |value: &Value| -> Option<Vec<Server>> {
            let urls: Vec<String> = match value {
                Value::Array(urls) => urls.iter().map(as_text).collect::<Option<_>>()?,
                other => as_text(other)?.split(',').map(str::to_owned).collect(),
            };
            let urls: Vec<&str> = urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
            let servers: Vec<Server> = urls.into_iter().map(parse_server).collect::<Option<_>>()?;
            (!servers.is_empty()).then_some(servers)
        };
        for value in self.all_given(&SERVERS) {
            for server in parse(&value).unwrap_or_default() {
                self.secrets.extend(server.auth.iter().flat_map(credentials::secrets_of));
            }
            self.secrets.extend(userinfo_as_written(&value));
        }
        let servers = self
            .read(&SERVERS, expected, LOCAL, parse)
            .unwrap_or_else(|| vec![Server { address: LOCAL.to_owned(), auth: None, learnt_for: None }]);
        let with_auth = |server: &Server| {
            let auth = server.auth.as_ref().map_or("", |_| " (with credentials)");
            format!("{}{auth}", server.address)
        };
        self.shown(SERVERS.key, servers.iter().map(with_auth).collect::<Vec<_>>().join(", "));
        servers
    }

    /// In nats-py's order: a signature first, then user and password, then the token.
    fn auth(&mut self) -> Option<Auth> {
        for opt in [&PASSWORD, &TOKEN, &NKEYS_SEED_STR, &NKEYS_SEED] {
            let given = self.all_given(opt);
            // A path is no secret.
            let texts = given.iter().filter_map(as_text);
            let secrets =
                texts.filter(|text| opt.key != NKEYS_SEED.key || is_seed(text) || looks_secret(text));
            self.secrets.extend(secrets.map(Secret::new));
        }
        let creds = self.read(&USER_CREDENTIALS, "the path of a .creds file, not its content", "", |value| {
            as_text(value).filter(|path| !looks_secret(path))
        });
        let seed = self.read(&NKEYS_SEED_STR, "an nkey seed (SU...)", "", |value| {
            as_text(value).filter(|seed| is_seed(seed))
        });
        let seed_or_path =
            self.read(&NKEYS_SEED, "the path of an nkey seed file, or the seed (SU...)", "", |value| {
                as_text(value).filter(|text| is_seed(text) || !looks_secret(text))
            });
        let user = self.read(&USER, "a user name", "", as_text);
        let password = self.read(&PASSWORD, "a password", "", as_text);
        let token = self.read(&TOKEN, "a token", "", as_text);
        if let Some(path) = &creds {
            self.shown(USER_CREDENTIALS.key, path.clone());
        }
        if let Some(path) = seed_or_path.as_ref().filter(|text| !is_seed(text)) {
            self.shown(NKEYS_SEED.key, path.clone());
        }
        let creds = creds.map(|path| Auth::CredsFile(PathBuf::from(path)));
        let seed_or_path = seed_or_path.map(|text| {
            if is_seed(&text) { Auth::Seed(Secret::new(text)) } else { Auth::SeedFile(PathBuf::from(text)) }
        });
        for auth in creds.iter().chain(&seed_or_path) {
            self.secrets.extend(credentials::secrets_of(auth));
        }
        if creds.is_some() {
            return creds;
        }
        if let Some(seed) = seed {
            return Some(Auth::Seed(Secret::new(seed)));
        }
        if seed_or_path.is_some() {
            return seed_or_path;
        }
        match (user, password, token) {
            (Some(user), Some(password), _) => Some(Auth::User(user, Secret::new(password))),
            (None, None, None) => None,
            (None, None, Some(token)) => Some(Auth::Token(Secret::new(token))),
            (Some(_), None, _) => {
                self.refuse("user", "a password too (RUNNER_NATS_PASSWORD or nats_options.password)");
                None
            }
            (None, Some(_), _) => {
                self.refuse("password", "a user too (RUNNER_NATS_USERNAME or nats_options.user)");
                None
            }
        }
    }

    /// The setting's headers, then the environment's over them.
    fn headers(&mut self, settings: &Map<String, Value>) -> Vec<(String, String)> {
        let mut pairs: Vec<(&str, String, String)> = Vec::new();
        match settings.get("nats_headers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(headers)) => {
                for (name, value) in headers {
                    let value = as_text(value).unwrap_or_else(|| value.to_string());
                    pairs.push(("nats_headers", name.clone(), value));
                }
            }
            Some(Value::String(list)) => self.split_headers("nats_headers", list, &mut pairs),
            Some(_) => self.say("nats_headers: expected a mapping; it is ignored".to_owned()),
        }
        if let Some(list) = self.var(HEADERS) {
            self.split_headers(HEADERS, &list, &mut pairs);
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut room = MOST_HEADER_BYTES;
        for (source, name, value) in pairs {
            let size = name.len() + value.len();
            let checked = check_header(&name, &value);
            let fits = if size <= room { Ok(()) } else { Err("all headers together are too long") };
            if let Err(reason) = checked.and(fits) {
                // An odd name may be the first half of a value: `Authorization: Bearer abc=`.
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                let shown = if plain { shorten(&name) } else { "***".to_owned() };
                self.say(format!("{source}: header {shown:?} is skipped: {reason}"));
                continue;
            }
            room -= size;
            match headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => headers.push((name, value)),
            }
        }
        if !headers.is_empty() {
            // A value may be a secret.
            let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            let source = if self.var(HEADERS).is_some() { HEADERS } else { "nats_headers" };
            self.in_force("nats_headers", names.join(", "), source);
        }
        headers
    }

    fn split_headers<'s>(&mut self, source: &'s str, list: &str, pairs: &mut Vec<(&'s str, String, String)>) {
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((name, value)) => pairs.push((source, name.trim().to_owned(), value.trim().to_owned())),
                // The text may be the tail of a value with a comma in it, hence a secret: not shown.
                None => self.say(format!(
                    "{source}: a pair without \"=\" is skipped; expected name=value,name2=value2"
                )),
            }
        }
    }

    fn unknown_keys(&mut self) {
        for key in self.options.keys() {
            if OPTIONS.iter().any(|opt| opt.key == key) {
                continue;
            }
            // The distance to a text of megabytes would take minutes.
            let lower = key.to_lowercase();
            let near = OPTIONS
                .iter()
                .filter(|_| key.len() <= 64)
                .map(|opt| (strsim::damerau_levenshtein(opt.key, &lower), opt))
                .min_by_key(|(distance, opt)| (*distance, opt.key))
                .filter(|(distance, _)| *distance <= 3);
            if let Some((distance, opt)) = near
                && opt.fail_closed
                && distance <= 1 + key.len() / 8
            {
                // Whoever asked for this would not want to go on without it.
                self.refuse(
                    &format!("nats_options.{}", shorten(key)),
                    &format!("it to be called {}", opt.key),
                );
                continue;
            }
            let hint = near.map_or(String::new(), |(_, opt)| format!("; did you mean {}?", opt.key));
            self.say(format!("nats_options.{}: no such option, ignored{hint}", shorten(key)));
        }
    }

    fn unusable(&mut self) {
        for (opt, why) in WITHOUT_EFFECT {
            if let Some((name, _)) = self.raw(opt) {
                self.say(format!("{name}: has no effect here: {why}"));
            }
        }
        for (opt, expected) in CANNOT_SERVE {
            if let Some((name, _)) = self.raw(opt) {
                self.refuse(&name, expected);
            }
        }
    }
}

const MIN_TIMEOUT: f64 = 0.001;

/// Of all the user's headers: they go with every message, and count towards its size.
const MOST_HEADER_BYTES: usize = 16 << 10;

/// Headers that decide over delivery, and are ours to set.
const RESERVED: &[&str] = &[message::MSG_ID, message::EXPECTED_STREAM, message::TRUNCATED];

/// What NATS allows in a header (ADR-4): a printable name without a colon, a value without line ends.
fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    if !message::is_header_name(name) {
        return Err("its name must be printable ASCII without blanks and colons");
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err("this plugin sets it itself");
    }
    if value.contains(['\r', '\n', '\0']) {
        return Err("its value must not contain line ends");
    }
    Ok(())
}

/// Key material where a path belongs: a damaged seed, or the content of a file. It must not be shown as a
/// path that does not exist.
pub fn looks_secret(text: &str) -> bool {
    const SEED_LENGTH: usize = 50;
    let base32 = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    text.contains(['\n', '\r', '{'])
        || text.contains("-----BEGIN")
        || text.split(|c| !base32(c)).any(|run| run.len() >= SEED_LENGTH)
}

/// `version-traceid-parentid-flags` (W3C Trace Context, section 3.2).
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let zero = |part: &&str| part.chars().all(|c| c == '0');
    lengths.eq([2, 32, 16, 2])
        && text.chars().all(|c| c == '-' || hex(c))
        && !parts.iter().skip(1).take(2).any(zero)
        && !text.starts_with("ff")
}

fn is_seed(text: &str) -> bool {
    nkeys::KeyPair::from_seed(text.trim()).is_ok()
}

/// Passwords and tokens of server URLs as they were written, percent-encoded or not.
fn userinfo_as_written(value: &Value) -> Vec<Secret> {
    let urls: Vec<String> = match value {
        Value::Array(urls) => urls.iter().filter_map(as_text).collect(),
        other => as_text(other).iter().flat_map(|urls| urls.split(',')).map(str::to_owned).collect(),
    };
    let secret = |url: &String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let (userinfo, _) = rest.rsplit_once('@')?;
        Some(Secret::new(userinfo.split_once(':').map_or(userinfo, |(_, password)| password)))
    };
    urls.iter().filter_map(secret).collect()
}

/// A server URL; the scheme may be left out (`localhost:4222`), and credentials may be percent-encoded.
fn parse_server(text: &str) -> Option<Server> {
    let text = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let url = Url::parse(&text).ok()?;
    if !matches!(url.scheme(), "nats" | "tls" | "ws" | "wss") || url.host_str().unwrap_or_default().is_empty()
    {
        return None;
    }
    // A `#`, `?` or `/` in a password that is not percent-encoded ends the host early: we would connect to
    // somebody else.
    let websocket = matches!(url.scheme(), "ws" | "wss");
    let tail = url.query().is_some() || url.fragment().is_some() || url.path().contains('@');
    if tail || (!websocket && !matches!(url.path(), "" | "/")) {
        return None;
    }
    let decode = |part: &str| percent_decode_str(part).decode_utf8().ok().map(String::from);
    let auth = match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(Auth::Token(Secret::new(decode(token)?))),
        (user, Some(password)) => Some(Auth::User(decode(user)?, Secret::new(decode(password)?))),
    };
    Some(Server { address: address_of(&url), auth, learnt_for: None })
}

/// `scheme://host:port` and, for WebSocket, the path.
fn address_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(4222);
    let path = if matches!(url.scheme(), "ws" | "wss") { url.path().trim_end_matches('/') } else { "" };
    format!("{}://{host}:{port}{path}", url.scheme())
}

/// YAML gives `4222` and `true` where a user means text.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn as_bool(value: &Value) -> Option<bool> {
    match as_text(value)?.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "1" | "on" => Some(true),
        "false" | "no" | "n" | "0" | "off" => Some(false),
        _ => None,
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A value as its user wrote it.
fn plain(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => shorten(&as_text(other).unwrap_or_else(|| other.to_string())),
    }
}

/// Enough of a value to recognise it.
fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolve_with(settings: &Value, env: &[(&str, &str)]) -> Resolution {
        let env =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        resolve(settings.as_object().unwrap(), &env, &|| "web.example.org".to_owned())
    }

    fn good(settings: &Value, env: &[(&str, &str)]) -> Config {
        let resolution = resolve_with(settings, env);
        assert_eq!(resolution.problems, Vec::<String>::new());
        resolution.config.unwrap()
    }

    const ON: (&str, &str) = ("RUNNER_NATS_SUBJECT_ID", "id");

    #[test]
    fn off_unless_a_subject_id_is_given() {
        for (settings, env) in [
            (json!({}), vec![]),
            (json!({}), vec![("RUNNER_NATS_SUBJECT_ID", "")]),
            (json!({"nats_subject_id": ""}), vec![]),
            (json!({"nats_subject_id": null}), vec![]),
        ] {
            assert!(resolve_with(&settings, &env).config.is_none());
        }
    }

    #[test]
    fn subject_id_from_settings_environment_and_host() {
        assert_eq!(good(&json!({"nats_subject_id": "a.b"}), &[]).subject_id, "a.b");
        assert_eq!(good(&json!({"nats_subject_id": 7}), &[]).subject_id, "7");
        assert_eq!(good(&json!({"nats_subject_id": "a"}), &[ON]).subject_id, "id");
        let host = good(&json!({}), &[("RUNNER_NATS_SUBJECT_ID", "hostname")]);
        assert_eq!(host.subject_id, "web-example-org");
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = good(&json!({}), &[ON]);
        assert_eq!(config.flush_timeout, Duration::from_secs(5));
        let connection = config.connection;
        assert_eq!(connection.servers[0].address, "nats://localhost:4222");
        assert_eq!(connection.connect_timeout, Duration::from_secs(2));
        assert_eq!(connection.reconnect_time_wait, Duration::from_secs(2));
        assert_eq!(connection.max_reconnect_attempts, None);
        assert_eq!(connection.ping_interval, Duration::from_secs(120));
        assert_eq!(connection.max_outstanding_pings, 2);
        assert_eq!((connection.window, connection.pending_size), (1024, 64 << 20));
        assert!(connection.allow_reconnect && !connection.verbose);
        assert_eq!(connection.delivery, Delivery::Auto);
    }

    #[test]
    fn environment_beats_settings_option_by_option() {
        let settings = json!({"nats_options": {
            "connect_timeout": 7, "reconnect_time_wait": "0.5", "max_reconnect_attempts": 9,
            "allow_reconnect": false, "servers": ["a:1", "tls://b"]}});
        let env = [ON, ("RUNNER_NATS_CONNECT_TIMEOUT", "3"), ("RUNNER_MAX_OUTSTANDING_PINGS", "5")];
        let connection = good(&settings, &env).connection;
        assert_eq!(connection.connect_timeout, Duration::from_secs(3));
        assert_eq!(connection.reconnect_time_wait, Duration::from_millis(500));
        assert_eq!(connection.max_reconnect_attempts, Some(9));
        assert_eq!(connection.max_outstanding_pings, 5);
        assert!(!connection.allow_reconnect);
        let addresses: Vec<&str> = connection.servers.iter().map(|s| s.address.as_str()).collect();
        assert_eq!(addresses, ["nats://a:1", "tls://b:4222"]);
    }

    #[test]
    fn booleans_in_every_spelling() {
        for (text, expected) in [
            ("YES", true),
            ("y", true),
            ("1", true),
            ("On", true),
            ("off", false),
            ("0", false),
            ("N", false),
        ] {
            let connection = good(&json!({}), &[ON, ("RUNNER_NATS_CLIENT_VERBOSE", text)]).connection;
            assert_eq!(connection.verbose, expected, "{text}");
        }
    }

    #[test]
    fn a_bad_tuning_value_names_variable_value_and_default() {
        let resolution = resolve_with(&json!({}), &[ON, ("RUNNER_NATS_CONNECT_TIMEOUT", "soon")]);
        assert_eq!(resolution.config.unwrap().connection.connect_timeout, Duration::from_secs(2));
        assert_eq!(
            resolution.problems,
            ["RUNNER_NATS_CONNECT_TIMEOUT=\"soon\": expected a number of seconds, at least 0.001; using 2"]
        );
    }

    #[test]
    fn numbers_out_of_range_are_bad_values() {
        for (name, value) in [
            ("RUNNER_NATS_CONNECT_TIMEOUT", "-1"),
            ("RUNNER_NATS_CONNECT_TIMEOUT", "NaN"),
            ("RUNNER_NATS_CONNECT_TIMEOUT", "inf"),
            ("RUNNER_NATS_FLUSH_TIMEOUT", "1e300"),
            ("RUNNER_NATS_FLUSHER_QUEUE_SIZE", "0"),
            ("RUNNER_NATS_PENDING_SIZE", "-5"),
            ("RUNNER_NATS_PENDING_SIZE", "99999999999999999999"),
            ("RUNNER_NATS_MAX_RECONNECT_ATTEMPTS", "many"),
            ("RUNNER_NATS_ALLOW_RECONNECT", "maybe"),
        ] {
            let resolution = resolve_with(&json!({}), &[ON, (name, value)]);
            assert!(resolution.config.is_some());
            assert!(resolution.problems[0].starts_with(name), "{:?}", resolution.problems);
        }
    }

    #[test]
    fn bad_servers_and_authentication_fail_closed() {
        for (name, value) in [
            ("RUNNER_NATS_SERVERS", "http://a"),
            ("RUNNER_NATS_SERVERS", "nats://good,nats://"),
            ("RUNNER_NATS_SERVERS", "nats://admin:2024#canary@h"),
            ("RUNNER_NATS_SERVERS", "nats://u:12/canary@h"),
            ("RUNNER_NATS_NKEYS_SEED", "\"SUAM-canary-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\""),
            ("RUNNER_NATS_USER_CREDENTIALS", "-----BEGIN NATS USER JWT-----\ncanary\n"),
            ("RUNNER_NATS_USERNAME", "alone"),
            ("RUNNER_NATS_PASSWORD", "alone-canary"),
            ("RUNNER_NATS_TLS_HANDSHAKE_FIRST", "perhaps"),
        ] {
            let resolution = resolve_with(&json!({}), &[ON, (name, value)]);
            assert!(resolution.config.is_none(), "{name}");
            assert!(resolution.problems[0].ends_with("nothing is published"), "{:?}", resolution.problems);
            assert!(!resolution.problems[0].contains("canary"));
        }
        for options in [json!("text"), json!({"tls": "<ssl.SSLContext>"}), json!({"nkeys_seed_str": "SUxx"})]
        {
            let resolution = resolve_with(&json!({"nats_options": options}), &[ON]);
            assert!(resolution.config.is_none(), "{options}");
        }
    }

    #[test]
    fn every_way_to_authenticate() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let auth = |env: &[(&str, &str)]| good(&json!({}), &[&[ON], env].concat()).connection.auth.unwrap();
        assert_eq!(
            auth(&[("RUNNER_NATS_USERNAME", "u"), ("RUNNER_NATS_PASSWORD", "p")]),
            Auth::User("u".into(), Secret::new("p"))
        );
        assert_eq!(auth(&[("RUNNER_NATS_TOKEN", "t")]), Auth::Token(Secret::new("t")));
        assert_eq!(auth(&[("RUNNER_NATS_USER_CREDENTIALS", "/c")]), Auth::CredsFile("/c".into()));
        assert_eq!(auth(&[("RUNNER_NATS_NKEYS_SEED", "/s")]), Auth::SeedFile("/s".into()));
        assert_eq!(auth(&[("RUNNER_NATS_NKEYS_SEED", &seed)]), Auth::Seed(Secret::new(seed.clone())));
        let settings = json!({"nats_options": {"nkeys_seed_str": seed, "user": "u", "password": 1}});
        assert_eq!(good(&settings, &[ON]).connection.auth.unwrap(), Auth::Seed(Secret::new(seed)));
    }

    #[test]
    fn credentials_in_urls_are_decoded_and_kept_out_of_the_address() {
        let urls = "nats://us%40er:p%3Aw@h:1, nats://tok@[::1], ws://h/path";
        let servers = good(&json!({}), &[ON, ("RUNNER_NATS_SERVERS", urls)]).connection.servers;
        assert_eq!(servers[0].address, "nats://h:1");
        assert_eq!(servers[0].auth, Some(Auth::User("us@er".into(), Secret::new("p:w"))));
        assert_eq!(servers[1].address, "nats://[::1]:4222");
        assert_eq!(servers[1].auth, Some(Auth::Token(Secret::new("tok"))));
        assert_eq!(servers[2].address, "ws://h:80/path");
    }

    #[test]
    fn headers_are_merged_and_bad_pairs_skipped() {
        let settings = json!({"nats_headers": {"a": "1", "b": 2}});
        let env = [ON, ("RUNNER_NATS_HEADERS", "b=x=y, c = z")];
        let expected = [("a", "1"), ("b", "x=y"), ("c", "z")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(good(&settings, &env).headers, expected);

        let bad = [ON, ("RUNNER_NATS_HEADERS", "nopair,=v,a:b=c,Nats-Msg-Id=1,ok=1")];
        let resolution = resolve_with(&json!({"nats_headers": {"evil": "a\r\nb"}}), &bad);
        assert_eq!(resolution.config.unwrap().headers, [("ok".to_owned(), "1".to_owned())]);
        assert_eq!(resolution.problems.len(), 5, "{:?}", resolution.problems);

        let secret = [ON, ("RUNNER_NATS_HEADERS", "Authorization: Bearer canary==")];
        assert!(!resolve_with(&json!({}), &secret).problems[0].contains("canary"));
    }

    #[test]
    fn unknown_and_powerless_options_are_named() {
        let settings = json!({"nats_options": {"conect_timeout": 3, "zzzzzz": 1, "no_echo": true}});
        let resolution = resolve_with(&settings, &[ON]);
        assert!(resolution.config.is_some());
        assert_eq!(
            resolution.problems[..2],
            [
                "nats_options.conect_timeout: no such option, ignored; did you mean connect_timeout?",
                "nats_options.zzzzzz: no such option, ignored"
            ]
        );
        assert!(resolution.problems[2].starts_with("nats_options.no_echo: has no effect"));
    }

    #[test]
    fn a_stream_implies_jetstream() {
        assert_eq!(
            good(&json!({}), &[ON, ("RUNNER_NATS_STREAM", "S")]).connection.delivery,
            Delivery::Jetstream
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let env = [ON, ("RUNNER_NATS_SERVERS", "nats://user:canary1@h"), ("RUNNER_NATS_TOKEN", "canary2")];
        assert!(!format!("{:?}", good(&json!({}), &env)).contains("canary"));
    }
}
