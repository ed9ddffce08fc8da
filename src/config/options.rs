//! Every option, once.
//!
//! A new option is a constant here, a place in [`GROUPS`], and a line in `config::resolve` that reads it. The reader,
//! "did you mean", `check`, what a status hides of our own variables, docs/options.md and the stub `_native.pyi` all
//! come from this table (`UPDATE_DOCS=1 cargo test` writes the last two anew).

use super::{
    entry::{FIRST, NOW, Opt, Place, Shown, Takes, careful, guarded, secret, tuning},
    nats_py,
};

pub(crate) const SUBJECT_ID: Opt = Opt {
    place: Place::Setting,
    ..guarded(
        "nats_subject_id",
        &["RUNNER_NATS_SUBJECT_ID"],
        FIRST,
        Takes::Text("text", ""),
        "Enables the plugin: whose runs these are, a part of every subject. `hostname` stands for this host's name, \
         with `-` for its dots. Empty, `false` or `0`: off.",
    )
.like("site-a")
};
pub(super) const HEADERS: Opt = Opt {
    place: Place::Setting,
    shown: Shown::Understood,
    ..tuning(
        "nats_headers",
        &["RUNNER_NATS_HEADERS"],
        FIRST,
        Takes::Pairs,
        "Headers for every message. In the environment `name=value,name2=value2` (split at the first `=`), merged over \
         the setting. A pair that cannot be sent is named in a warning and skipped.",
    )
.like("team=platform,region=eu")
};

pub(super) const CONTEXT: Opt = careful(
    "context",
    &["RUNNER_NATS_CONTEXT"],
    NOW,
    Takes::Text("the name of a context, or its path", ""),
    "A context of the `nats` command, by name or path: servers, credentials, TLS and JetStream domain from there. Any \
     option of our own beats the context's field; with a user, token or key of our own the context's way to \
     authenticate is left aside as a whole.",
).like("prod");
pub(super) const SERVERS: Opt = careful(
    "servers",
    &["RUNNER_NATS_SERVERS"],
    FIRST,
    Takes::Texts(
        "server URLs such as nats://localhost:4222, with scheme nats, tls, ws or wss",
        "nats://localhost:4222",
    ),
    "Servers to try: a list, or text with commas. Schemes `nats`, `tls`, `ws`, `wss`; credentials in a URL \
     (percent-encoded) work.",
)
.like("nats://n1.example.org:4222,nats://n2.example.org:4222");

pub(super) const USER_CREDENTIALS: Opt = careful(
    "user_credentials",
    &["RUNNER_NATS_USER_CREDENTIALS"],
    FIRST,
    Takes::Text("the path of a .creds file", ""),
    "Path of a `.creds` file (JWT and nkey), or a list of two: the JWT's file and the seed's. Read at each connect, so \
     that they may be renewed while a job runs. nats-py's `RawCredentials`, or the whole content of such a file, works, \
     too.",
).like("/etc/nats/jobs.creds");
pub(super) const NKEYS_SEED_STR: Opt =
    secret("nkeys_seed_str", &[], FIRST, Takes::Text("an nkey seed (SU...)", ""), "An nkey seed (`SU...`).")
        .like("SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU");
pub(super) const NKEYS_SEED: Opt = secret(
    "nkeys_seed",
    &["RUNNER_NATS_NKEYS_SEED"],
    FIRST,
    Takes::Text("the path of an nkey seed file, or the seed (SU...)", ""),
    "Path of an nkey seed file (read at each connect), or the seed itself.",
)
.like("/etc/nats/jobs.nk");
pub(super) const USER: Opt =
    guarded("user", &["RUNNER_NATS_USERNAME"], FIRST, Takes::Text("a user name", ""), USER_ABOUT)
        .like("jobs");
const USER_ABOUT: &str = "User name. In code this, `password` and `token` may be functions without arguments that return \
                          the text: each is called once when a run begins.";
pub(super) const PASSWORD: Opt = secret(
    "password",
    &["RUNNER_NATS_PASSWORD"],
    FIRST,
    Takes::Text("a password", ""),
    "The user's password.",
)
.like("correct-horse");
pub(super) const TOKEN: Opt = secret(
    "token",
    &["RUNNER_NATS_TOKEN"],
    FIRST,
    Takes::Text("a token", ""),
    "A token that the server knows.",
)
.like("s3cr3t");

pub(super) const TLS_CA: Opt = guarded(
    "tls_ca",
    &["RUNNER_NATS_TLS_CA"],
    NOW,
    Takes::Path,
    "PEM file of the authorities that are trusted, instead of the system's.",
)
.like("/etc/nats/ca.pem");
pub(super) const TLS_CERT: Opt =
    guarded("tls_cert", &["RUNNER_NATS_TLS_CERT"], NOW, Takes::Path, "PEM file of the client certificate.")
        .like("/etc/nats/jobs.pem");
pub(super) const TLS_KEY: Opt = careful(
    "tls_key",
    &["RUNNER_NATS_TLS_KEY"],
    NOW,
    Takes::Path,
    "PEM file of the client certificate's key.",
)
.like("/etc/nats/jobs-key.pem");
pub(super) const TLS_HOSTNAME: Opt = guarded(
    "tls_hostname",
    &["RUNNER_NATS_TLS_HOSTNAME"],
    FIRST,
    Takes::Text("a host name or an IP address", ""),
    "The name that the server's certificate must have, instead of the URL's host (the name in SNI stays the URL's).",
).like("nats.example.org");
pub(super) const TLS_HANDSHAKE_FIRST: Opt = guarded(
    "tls_handshake_first",
    &["RUNNER_NATS_TLS_HANDSHAKE_FIRST"],
    FIRST,
    Takes::Flag(false),
    "Begin TLS at once, before the server has said anything (as the server's option `handshake_first` wants it).",
)
.like("true");

pub(super) const SUBJECT: Opt = guarded(
    "subject",
    &["RUNNER_NATS_SUBJECT"],
    NOW,
    Takes::Text("a subject such as runs.{subject_id}.{runner_ident}.{kind}.{name}", crate::message::SUBJECT),
    "Where messages go. `{name}` is the event's name or the status, so that consumers can subscribe to \
     `….event.runner_on_failed` alone.",
)
.like("runs.{subject_id}.{runner_ident}.{kind}.{name}");
pub(super) const EVENTS: Opt = guarded(
    "events",
    &["RUNNER_NATS_EVENTS"],
    NOW,
    Takes::Texts("names of events with * and ?, such as runner_*,!runner_item_*", ""),
    "Which events are published, all if it is not set: names with `*` and `?`; `!` excludes. Statuses always are. A \
     name without `*` and `?` that ansible-runner does not have is told in a warning.",
).like("runner_*,!runner_item_*");
pub(super) const OMIT: Opt = guarded(
    "omit",
    &["RUNNER_NATS_OMIT"],
    NOW,
    Takes::Texts("names of fields such as event_data.res,stdout", ""),
    "Fields that are left out, such as `event_data.res,stdout`; lists are looked through.",
)
.like("event_data.res,stdout");
pub(super) const STATUS_ENV: Opt = tuning(
    "status_env",
    &["RUNNER_NATS_STATUS_ENV"],
    NOW,
    Takes::Word(&["redact", "omit", "full"]),
    "What the status `starting` carries of the job's environment and command line. `redact` masks what looks secret: \
     the values of names and options that say so (`...PASS...`, `...TOKEN...`, `...KEY...`, in `-e`, `--extra-vars` and \
     `--name=value` too), and passwords in addresses and connection strings. `omit` leaves the environment out and masks \
     the command line, `full` masks nothing but this plugin's own credentials.",
).like("omit");
pub(super) const MASK_VALUES: Opt = tuning(
    "mask_values",
    &["RUNNER_NATS_MASK_VALUES"],
    NOW,
    Takes::Flag(true),
    "Mask what the run was given under a secret name wherever it occurs in what is published, whatever prints it: from \
     `env/passwords`, `env/extravars`, `env/ssh_key`, `-e`, the environment, and this plugin's own credentials. Values of \
     fewer than 8 characters, and words that everybody uses, are not looked for.",
).like("false");
pub(super) const ACTOR: Opt = tuning(
    "actor",
    &["RUNNER_NATS_ACTOR"],
    NOW,
    Takes::Text("a name of at most 256 characters", ""),
    "On whose behalf the job runs, for those who read about it: a portal sets it for each job. It goes out with the status \
     `starting` (header `Ansible-Runner-Card`).",
).like("jane.doe");
pub(super) const CLOUDEVENTS: Opt = tuning(
    "cloudevents",
    &["RUNNER_NATS_CLOUDEVENTS"],
    NOW,
    Takes::Flag(false),
    "Add the headers of a [CloudEvent](https://cloudevents.io) in binary mode.",
)
.like("true");

pub(super) const DELIVERY: Opt = tuning(
    "delivery",
    &["RUNNER_NATS_DELIVERY"],
    NOW,
    Takes::Word(&["auto", "jetstream", "core"]),
    "What proves that a message arrived: `auto`, a stream's acknowledgement where there is a stream, and else the server's \
     echo, if anybody listens; `jetstream`, a stream's acknowledgement alone; `core`, the server's echo, even if nobody \
     listens.",
).like("jetstream");
pub(super) const STREAM: Opt = tuning(
    "stream",
    &["RUNNER_NATS_STREAM"],
    NOW,
    Takes::Text("the name of a stream, without blanks and any of . * > / \\", "none"),
    "The stream that must take the messages; implies `delivery: jetstream`. Commands that read runs read this one.",
)
.like("RUNS");
pub(super) const REQUIRED: Opt = tuning(
    "required",
    &["RUNNER_NATS_REQUIRED"],
    NOW,
    Takes::Flag(false),
    "The job does not start unless its first status, `starting`, was confirmed: connection, permission, stream and room in \
     it. `NatsRequiredError` says why not. Once it runs, nothing stops it.",
).like("true");
pub(super) const FLUSH_TIMEOUT: Opt = tuning(
    "flush_timeout",
    &["RUNNER_NATS_FLUSH_TIMEOUT"],
    NOW,
    Takes::Seconds { default: 5.0, least: 0.0 },
    "The most that the end of a run waits for confirmations; what is not confirmed by then goes to disk.",
)
.like("30");
pub(super) const SPILL_DIR: Opt = tuning(
    "spill_dir",
    &["RUNNER_NATS_SPILL_DIR"],
    NOW,
    Takes::Path,
    "Where undelivered messages go, instead of the run's artifact directory: one folder for each run is made in it. \
     What is left there is sent by the next run there: with the same `spill_dir`, host, servers, login and subject id.",
).like("/var/lib/ansible-runner-nats");
pub(super) const HEARTBEAT: Opt = tuning(
    "heartbeat",
    &["RUNNER_NATS_HEARTBEAT"],
    NOW,
    Takes::Seconds { default: 0.0, least: 0.0 },
    "Pause between two signs of life of a run that goes on, on the subject whose `{kind}` is `heartbeat`. Sent if there is a \
     connection, and never kept to be sent later. 0: none.",
).like("30");
pub(super) const PENDING_SIZE: Opt = tuning(
    "pending_size",
    &["RUNNER_NATS_PENDING_SIZE"],
    FIRST,
    Takes::Count { default: 64 << 20, least: 0, most: 1 << 40 },
    "Bytes held in memory while they wait, for all runs of a process that share a connection; more goes to disk, as much as there is, until there is room again.",
)
.like("16777216");
pub(super) const FLUSHER_QUEUE_SIZE: Opt = tuning(
    "flusher_queue_size",
    &["RUNNER_NATS_FLUSHER_QUEUE_SIZE"],
    FIRST,
    Takes::Count { default: 1024, least: 1, most: 65_536 },
    "The most messages that may be sent and not yet confirmed.",
)
.like("4096");

pub(super) const NAME: Opt = tuning(
    "name",
    &["RUNNER_NATS_CLIENT_NAME"],
    FIRST,
    Takes::Text("text of at most 256 characters", "none"),
    "The client name that the server shows; without it `ansible-runner-nats SUBJECT_ID on HOST`.",
)
.like("rollout-service");
pub(super) const VERBOSE: Opt = tuning(
    "verbose",
    &["RUNNER_NATS_CLIENT_VERBOSE"],
    FIRST,
    Takes::Flag(false),
    "Log each step of the connection (INFO).",
)
.like("true");
pub(super) const ALLOW_RECONNECT: Opt = tuning(
    "allow_reconnect",
    &["RUNNER_NATS_ALLOW_RECONNECT"],
    FIRST,
    Takes::Flag(true),
    "Connect again when a connection breaks.",
)
.like("false");
pub(super) const CONNECT_TIMEOUT: Opt = tuning(
    "connect_timeout",
    &["RUNNER_NATS_CONNECT_TIMEOUT"],
    FIRST,
    Takes::Seconds { default: 2.0, least: LEAST_TIMEOUT },
    "For one attempt to connect, name look-up included.",
)
.like("5");
pub(super) const RECONNECT_TIME_WAIT: Opt = tuning(
    "reconnect_time_wait",
    &["RUNNER_NATS_RECONNECT_TIME_WAIT"],
    FIRST,
    Takes::Seconds { default: 2.0, least: 0.0 },
    "Pause before a server is tried again (the first retry is at once).",
)
.like("0.5");
pub(super) const MAX_RECONNECT_ATTEMPTS: Opt = tuning(
    "max_reconnect_attempts",
    &["RUNNER_NATS_MAX_RECONNECT_ATTEMPTS"],
    FIRST,
    Takes::Text("a whole number, -1 for no limit", "-1"),
    "After so many failures in a row a server is given up. -1: never, as long as a run is open.",
)
.like("60");
pub(super) const PING_INTERVAL: Opt = tuning(
    "ping_interval",
    &["RUNNER_NATS_PING_INTERVAL"],
    FIRST,
    Takes::Seconds { default: 120.0, least: LEAST_TIMEOUT },
    "Pause between two PINGs on a connection.",
)
.like("30");
pub(super) const MAX_OUTSTANDING_PINGS: Opt = tuning(
    "max_outstanding_pings",
    &["RUNNER_NATS_MAX_OUTSTANDING_PINGS", "RUNNER_MAX_OUTSTANDING_PINGS"],
    FIRST,
    Takes::Count { default: 2, least: 1, most: 1_000 },
    "Unanswered PINGs after which a connection is stale. The second variable is how 0.4.0 spelt it.",
)
.like("3");
pub(super) const INBOX_PREFIX: Opt = tuning(
    "inbox_prefix",
    &["RUNNER_NATS_INBOX_PREFIX"],
    FIRST,
    Takes::Text("a subject prefix such as _INBOX, without wildcards or blanks", "_INBOX"),
    "The beginning of the subject to which answers to this client come, confirmations among them.",
)
.like("_INBOX_jobs");
pub(super) const DONT_RANDOMIZE: Opt = tuning(
    "dont_randomize",
    &["RUNNER_NATS_DONT_RANDOMIZE"],
    FIRST,
    Takes::Flag(false),
    "Try the servers in the given order.",
)
.like("true");

/// A context may say this, too.
pub(super) const JETSTREAM_DOMAIN: Opt = guarded(
    "jetstream_domain",
    &["RUNNER_NATS_JETSTREAM_DOMAIN"],
    NOW,
    Takes::Text("the name of a JetStream domain, without wildcards or blanks", "none"),
    "The JetStream domain of the stream, where that is not the server's own: behind a leaf node. The commands ask there. A \
     job's messages are confirmed by whatever acknowledges them, with or without it.",
).like("hub");
/// What a context alone may say.
pub(super) const JETSTREAM_API_PREFIX: Opt = Opt {
    place: Place::Context,
    ..guarded("jetstream_api_prefix", &[], NOW, Takes::Text(PREFIX, "$JS.API"), "")
};

const PREFIX: &str = "a subject prefix without wildcards or blanks";

/// The shortest time-out that makes sense, in seconds.
const LEAST_TIMEOUT: f64 = 0.001;

/// The ways to authenticate, in the order in which they are used if there are several: as nats-py has it, a signature
/// before user and password, and those before the token.
pub(crate) const AUTH: &[&Opt] = &[&USER_CREDENTIALS, &NKEYS_SEED_STR, &NKEYS_SEED, &USER, &PASSWORD, &TOKEN];

/// What may be a function that gives the value, as in nats-py. It is called on the job's thread when a run begins.
pub(crate) const CALLABLE: &[&Opt] = &[&USER, &PASSWORD, &TOKEN];

/// Every option, in the order of the documents, with a word about each group.
pub(super) const GROUPS: &[(&str, &str, &[&Opt])] = &[
    (
        "What enables it",
        "These two are settings of their own, not keys of `nats_options`.",
        &[&SUBJECT_ID, &HEADERS],
    ),
    ("Servers", "", &[&SERVERS, &CONTEXT]),
    (
        "Authentication",
        "Choose one. If several are set, the first of these is used; then what the server's URL carries.",
        AUTH,
    ),
    (
        "TLS",
        "Any of these, a URL `tls://` or `wss://`, or a server that asks for it mean TLS. The server's certificate is \
         always verified.",
        &[&TLS_CA, &TLS_CERT, &TLS_KEY, &TLS_HOSTNAME, &TLS_HANDSHAKE_FIRST],
    ),
    ("What is published", "", &[&SUBJECT, &EVENTS, &OMIT, &STATUS_ENV, &MASK_VALUES, &ACTOR, &CLOUDEVENTS]),
    (
        "Delivery",
        "",
        &[
            &DELIVERY,
            &STREAM,
            &JETSTREAM_DOMAIN,
            &REQUIRED,
            &FLUSH_TIMEOUT,
            &SPILL_DIR,
            &PENDING_SIZE,
            &FLUSHER_QUEUE_SIZE,
            &HEARTBEAT,
        ],
    ),
    (
        "The connection",
        "",
        &[
            &NAME,
            &VERBOSE,
            &ALLOW_RECONNECT,
            &CONNECT_TIMEOUT,
            &RECONNECT_TIME_WAIT,
            &MAX_RECONNECT_ATTEMPTS,
            &PING_INTERVAL,
            &MAX_OUTSTANDING_PINGS,
            &INBOX_PREFIX,
            &DONT_RANDOMIZE,
        ],
    ),
    (
        "Known from nats-py",
        "0.4.0 handed `nats_options` to nats-py's `connect`. These are accepted, and a warning says that they have no \
         effect, unless they ask for nothing (`None`, or nats-py's default). With one of the last four set, nothing is \
         published, as what they ask for cannot be had.",
        &[
            &nats_py::NO_ECHO,
            &nats_py::PEDANTIC,
            &nats_py::DRAIN_TIMEOUT,
            &nats_py::SKIP_SUBJECT_VALIDATION,
            &nats_py::RECONNECT_TO_SERVER_HANDLER,
            &nats_py::ERROR_CB,
            &nats_py::DISCONNECTED_CB,
            &nats_py::CLOSED_CB,
            &nats_py::DISCOVERED_SERVER_CB,
            &nats_py::RECONNECTED_CB,
            &nats_py::LAME_DUCK_MODE_CB,
            &nats_py::TLS,
            &nats_py::SIGNATURE_CB,
            &nats_py::USER_JWT_CB,
            &nats_py::WS_CONNECTION_HEADERS,
        ],
    ),
];

/// Every option.
pub(super) fn all() -> impl Iterator<Item = &'static Opt> {
    GROUPS.iter().flat_map(|(_, _, options)| options.iter().copied())
}

/// The option of this key in `nats_options`.
pub(crate) fn of_key(key: &str) -> Option<&'static Opt> {
    all().find(|opt| opt.place == Place::NatsOptions && opt.key == key)
}

/// Our own variables, as far as they may hold a credential: those that always do, and those that may.
pub(super) fn secret_variables() -> (Vec<&'static str>, Vec<&'static str>) {
    let of = |shown| all().filter(move |opt| opt.shown == shown).flat_map(|opt| opt.env).copied().collect();
    (of(Shown::Never), of(Shown::Understood))
}
