//! Settings, environment and context become one validated [`Config`].
//!
//! Every option has a key in the setting `nats_options` and an environment variable (the table is in [`options`]); the
//! environment wins, option by option, and an empty variable counts as not set. The names are those of
//! `ansible-runner-nats` 0.4.0 and of nats-py's `connect`, which 0.4.0 passed its options to.

mod auth;
mod context;
mod credentials;
#[cfg(test)]
pub(crate) mod document;
mod entry;
mod headers;
mod model;
mod nats_py;
mod near;
mod options;
mod reader;
mod servers;
#[cfg(test)]
mod tests;
mod values;

use std::net::IpAddr;

use serde_json::{Map, Value};
use url::Host;

pub(crate) use self::{
    context::Env,
    credentials::{Auth, jwt_in, read as read_secret, secrets_of, seed_in},
    model::{ClientName, Config, Connection, Delivery, Resolution, Server, Setting, Tls},
    options::{AUTH, SUBJECT_ID, of_key as option_of_key},
    reader::NOTHING_IS_PUBLISHED,
    values::is_off,
};
use self::{
    credentials::lines_of,
    entry::Opt,
    options as opt,
    reader::Reader,
    values::{as_integer, as_text, as_texts, shorten},
};
#[cfg(feature = "python")]
pub(crate) use self::{entry::TRUE, near::is_ours, options::CALLABLE};
use crate::{
    message::{self, Events, Kind, Redaction, StatusEnv, Template},
    secret::Masks,
};

/// The variable that enables the plugin.
pub(crate) const SUBJECT_ID_VARIABLE: &str = match SUBJECT_ID.env {
    [first, ..] => first,
    [] => "",
};

/// Reads settings and environment (an empty variable counts as not set). `hostname` gives this host's name, for the
/// subject id `hostname`.
pub(crate) fn resolve(
    settings: &Map<String, Value>,
    env: Env<'_>,
    hostname: &dyn Fn() -> String,
) -> Resolution {
    let empty = Map::new();
    let mut reader = Reader::new(&empty, env);
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
    reader.unknown_variables();
    reader.unknown_settings(settings);
    reader.unknown_keys();
    reader.unusable();
    let required = reader.flag(&opt::REQUIRED);
    reader.context();
    let mut headers = reader.headers(settings);
    reader.trace_context(&mut headers);
    let flush_timeout = reader.seconds(&opt::FLUSH_TIMEOUT);
    let heartbeat = Some(reader.seconds(&opt::HEARTBEAT)).filter(|every| !every.is_zero());
    let spill_dir = reader.path(&opt::SPILL_DIR);
    let status_env = reader.word(&opt::STATUS_ENV, &[StatusEnv::Redact, StatusEnv::Omit, StatusEnv::Full]);
    let mask_values = reader.flag(&opt::MASK_VALUES);
    let subject = reader.subject(subject_id.as_deref().unwrap_or_default());
    let events = reader.events();
    let omit = reader.list(&opt::OMIT, message::Omit::parse);
    let actor = reader.actor();
    let cloudevents = reader.flag(&opt::CLOUDEVENTS);
    let connection = reader.connection(subject_id.as_deref().unwrap_or_default(), hostname);
    let masks = Masks::new(std::mem::take(&mut reader.secrets));
    let problems = reader.problems.into_iter().map(|problem| masks.hidden(problem)).collect();
    let config = subject_id.filter(|_| !reader.refused).map(|subject_id| Config {
        subject_id,
        headers: headers.into(),
        flush_timeout,
        heartbeat,
        spill_dir,
        subject,
        events: events.unwrap_or_default(),
        omit: omit.unwrap_or_default(),
        actor,
        cloudevents,
        mask_values,
        redaction: Redaction::new(masks, status_env.unwrap_or_default(), opt::secret_variables()),
        connection,
    });
    Resolution { settings: reader.settings, config, required, problems }
}

impl Reader<'_> {
    fn subject_id(&mut self, settings: &Map<String, Value>, hostname: &dyn Fn() -> String) -> Option<String> {
        const SETTING: &str = SUBJECT_ID.key;
        let (name, id) = match (self.var(SUBJECT_ID_VARIABLE), settings.get(SETTING)) {
            (Some(id), _) => (SUBJECT_ID_VARIABLE, id),
            (None, None) => return None,
            (None, Some(value)) if is_off(value) => return None,
            (None, Some(value)) => match as_text(value) {
                Some(id) => (SETTING, id),
                None => {
                    self.refuse(SETTING, &SUBJECT_ID.takes.expected());
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

    fn connection(&mut self, subject_id: &str, hostname: &dyn Fn() -> String) -> Connection {
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
            name: self.client_name(subject_id, hostname),
            verbose: self.flag(&opt::VERBOSE),
            allow_reconnect: self.flag(&opt::ALLOW_RECONNECT),
            connect_timeout: self.seconds(&opt::CONNECT_TIMEOUT),
            reconnect_time_wait: self.seconds(&opt::RECONNECT_TIME_WAIT),
            max_reconnect_attempts: self.attempts(),
            ping_interval: self.seconds(&opt::PING_INTERVAL),
            max_outstanding_pings: self.count(&opt::MAX_OUTSTANDING_PINGS),
            window: self.count(&opt::FLUSHER_QUEUE_SIZE),
            pending_size: self.count(&opt::PENDING_SIZE),
            inbox_prefix: self.prefix(&opt::INBOX_PREFIX),
            dont_randomize: self.flag(&opt::DONT_RANDOMIZE),
            tls,
            jetstream_api: self.jetstream_api(),
            delivery: self.delivery(stream.is_some()),
            stream,
        }
    }

    /// The server reads a client's name in one line with all else that it must know.
    fn client_name(&mut self, subject_id: &str, hostname: &dyn Fn() -> String) -> ClientName {
        const MOST: usize = 256;
        let given = self.read(&opt::NAME, |value| as_text(value).filter(|name| name.chars().count() <= MOST));
        let default = format!("ansible-runner-nats {} on {}", shorten(subject_id), shorten(&hostname()));
        ClientName { given, default }
    }

    /// On whose behalf the job runs.
    fn actor(&mut self) -> Option<String> {
        const MOST: usize = 256;
        self.read(&opt::ACTOR, |value| as_text(value).filter(|name| name.chars().count() <= MOST))
            .filter(|name| !name.is_empty())
    }

    /// A stream's name as nats-server takes it (NATS ADR-6).
    fn stream(&mut self) -> Option<String> {
        const MOST: usize = 255;
        let allowed =
            |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
        self.read(&opt::STREAM, |value| {
            as_text(value).filter(|name| !name.is_empty() && name.len() <= MOST && name.chars().all(allowed))
        })
    }

    fn subject(&mut self, subject_id: &str) -> Template {
        let value = self.raw(&opt::SUBJECT).and_then(|(_, value)| as_text(&value));
        let reason = value.and_then(|text| Template::parse(&text).err());
        let expected = opt::SUBJECT.takes.expected();
        let expected = reason.map_or_else(|| expected.clone(), |reason| format!("{expected} ({reason})"));
        let parse = |value: &Value| Template::parse(&as_text(value)?).ok();
        let template = self.read_as(&opt::SUBJECT, &expected, parse).unwrap_or_default();
        if template.subject(subject_id, "x", Kind::Event, "x").starts_with(['$', '_']) {
            self.refuse(opt::SUBJECT.key, "a subject that begins with neither $ nor _");
        }
        template
    }

    /// Names that no event has are passed on as they are: ansible-runner may have new ones.
    fn events(&mut self) -> Option<Events> {
        let events = self.list(&opt::EVENTS, Events::parse)?;
        let (name, value) = self.raw(&opt::EVENTS)?;
        for pattern in as_texts(&value).unwrap_or_default() {
            if let Some((kind, nearest)) = message::unknown_kind(&pattern) {
                let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean {nearest}?"));
                self.say(format!("{name}: ansible-runner has no event {}{hint}", shorten(kind)));
            }
        }
        Some(events)
    }

    fn tls(&mut self) -> Tls {
        let hostname =
            self.read(&opt::TLS_HOSTNAME, |value| as_text(value).filter(|name| is_host_name(name)));
        let ca = self.path(&opt::TLS_CA);
        let identity = match (self.path(&opt::TLS_CERT), self.path(&opt::TLS_KEY)) {
            (Some(cert), Some(key)) => {
                self.secrets.extend(lines_of(&key));
                Some((cert, key))
            }
            (None, None) => None,
            (Some(_), None) => {
                self.refuse_half(&opt::TLS_CERT, "its key too", &opt::TLS_KEY);
                None
            }
            (None, Some(_)) => {
                self.refuse_half(&opt::TLS_KEY, "its certificate too", &opt::TLS_CERT);
                None
            }
        };
        Tls { ca, identity, handshake_first: self.flag(&opt::TLS_HANDSHAKE_FIRST), hostname }
    }

    /// As the `nats` command line has it: the prefix of a domain (NATS ADR-28), or any other.
    fn jetstream_api(&mut self) -> String {
        let prefix = self.prefix(&opt::JETSTREAM_API_PREFIX);
        let parse = |value: &Value| as_prefix(value);
        self.read(&opt::JETSTREAM_DOMAIN, parse).map_or(prefix, |domain| format!("$JS.{domain}.API"))
    }

    /// The beginning of a subject.
    fn prefix(&mut self, opt: &Opt) -> String {
        self.read(opt, as_prefix).unwrap_or_else(|| opt.takes.default())
    }

    /// As in nats-py, zero and below mean "without end".
    fn attempts(&mut self) -> Option<u32> {
        let number = self.read(&opt::MAX_RECONNECT_ATTEMPTS, as_integer);
        number.filter(|n| *n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn delivery(&mut self, stream_given: bool) -> Delivery {
        let words = [Delivery::Auto, Delivery::Jetstream, Delivery::Core];
        let delivery = self.word(&opt::DELIVERY, &words).unwrap_or(Delivery::Auto);
        if !stream_given {
            return delivery;
        }
        if delivery == Delivery::Core {
            self.say("stream: implies delivery=jetstream; delivery=core is ignored".to_owned());
        }
        self.in_force(opt::DELIVERY.key, "jetstream", opt::STREAM.key);
        Delivery::Jetstream
    }
}

/// Without wildcards or blanks, and without a dot at its end.
fn as_prefix(value: &Value) -> Option<String> {
    const MOST: usize = 256;
    let prefix = as_text(value)?.trim_end_matches('.').to_owned();
    (prefix.len() <= MOST && message::is_literal_subject(&prefix)).then_some(prefix)
}

/// A name that a certificate can be for, or an IP address.
fn is_host_name(name: &str) -> bool {
    /// Of a name in DNS (RFC 1035, section 2.3.4).
    const MOST: usize = 253;
    name.parse::<IpAddr>().is_ok()
        || (name.len() <= MOST
            && name.is_ascii()
            && !name.split('.').any(str::is_empty)
            && matches!(Host::parse(name), Ok(Host::Domain(_))))
}
