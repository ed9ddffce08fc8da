//! What Python holds: one emitter per run. The edge between ansible-runner's dicts and our messages.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use pyo3::{
    exceptions::{PyKeyError, PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyDict, PyString},
};
use serde_json::{Map, Value};

use crate::{
    cloudevent::CloudEvent,
    config::{self, Config},
    courier::Courier,
    encode::{Without, encode, encode_to_depth, name_of},
    error::Error,
    fault,
    json::Buffer,
    message::{self, Kind, Message, Template},
    outbox::Run,
    process::{self, Process},
    redact::Redaction,
    report::{self, Level, Notice},
    spill::Spill,
};

/// A larger event takes the buffer with it, instead of being copied.
const BUFFER_KEPT: usize = 2 << 20;

/// Where JSON is written before its length is known: one for all runs of the process, as the GIL lets only one
/// write at a time. Who finds it gone (Python code ran meanwhile, in another thread) makes a new one.
static SPARE: Mutex<Option<Buffer>> = Mutex::new(None);

/// A larger message is cut at once: nats-server's default `max_pending`, which `max_payload` cannot exceed.
const LARGEST: usize = 64 << 20;

/// What Python gets of a notice: `logging`'s level and the text.
pub type Told = (u8, String);

/// Publishes the messages of one run.
///
/// Its locks are held only while the GIL is, and no Python code runs meanwhile: a child forked from Python
/// never finds them locked.
#[pyclass(module = "ansible_runner_nats._native", frozen)]
pub struct Emitter {
    /// `None`: not enabled, or the options were refused.
    config: Option<Config>,
    /// No connection, no job.
    required: bool,
    headers: Arc<[(String, String)]>,
    fallback_ident: Option<String>,
    artifact_dir: Option<PathBuf>,
    state: Mutex<State>,
}

/// What changes during a run.
struct State {
    /// Statuses have no id of their own: this one tells runs with the same ident apart.
    nonce: String,
    statuses: u64,
    /// The last ident seen, and what belongs to it.
    subjects: Subjects,
    /// Made with the first message, and anew in a forked child.
    channel: Option<Arc<Channel>>,
    /// Waiting to be told.
    notices: Vec<Notice>,
    /// The causes of what was told already, in this run.
    told: HashSet<String>,
}

struct Subjects {
    ident: String,
    event: Arc<str>,
    status: Arc<str>,
    /// Of events by name, if the subject depends on it.
    named: HashMap<String, Arc<str>>,
    /// What all message ids of this ident begin with.
    id: String,
}

/// The way to the courier.
struct Channel {
    pid: u32,
    courier: Arc<Courier>,
    run: Arc<Run>,
    /// How far the courier's notices were read.
    seen: AtomicU64,
}

#[pymethods]
impl Emitter {
    #[new]
    #[pyo3(signature = (settings, ident=None, artifact_dir=None))]
    fn new(
        settings: &Bound<'_, PyAny>,
        ident: Option<&Bound<'_, PyAny>>,
        artifact_dir: Option<PathBuf>,
    ) -> Self {
        let _ = fault::at("emitter.new");
        let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let hostname = || hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let resolution = config::resolve(&nats_settings(settings), &env, &hostname);
        let level = if resolution.config.is_some() { Level::Warning } else { Level::Error };
        let notices = resolution.problems.into_iter().map(|text| Notice::new(level, text)).collect();
        let config = resolution.config.as_ref();
        let (subject_id, template) =
            config.map(|config| (config.subject_id.as_str(), config.subject.clone())).unwrap_or_default();
        let subjects = Subjects::new(subject_id, &template, "unknown");
        let headers = config.map(|config| config.headers.clone()).unwrap_or_default();
        Self {
            config: resolution.config,
            required: resolution.required,
            headers: headers.into(),
            fallback_ident: ident.and_then(name_of).map(|ident| ident.to_string_lossy().into_owned()),
            artifact_dir,
            state: Mutex::new(State {
                nonce: message::nonce(),
                statuses: 0,
                subjects,
                channel: None,
                notices,
                told: HashSet::new(),
            }),
        }
    }

    /// Hands a message over; never waits for the network.
    fn publish(&self, kind: &str, data: &Bound<'_, PyDict>) -> PyResult<Vec<Told>> {
        let kind =
            Kind::parse(kind).ok_or_else(|| PyValueError::new_err("kind must be 'event' or 'status'"))?;
        let Some(config) = &self.config else { return Ok(self.tell()) };
        let _ = fault::at("emitter.publish");
        Ok(self.accept(config, kind, data))
    }

    /// Why the job must not start: there is no connection, and the option `required` asks for one. Waits
    /// until every server was tried. `None` if all is well, or nothing is required.
    fn refuse_start(&self, py: Python<'_>) -> PyResult<Option<String>> {
        if !self.required {
            return Ok(None);
        }
        let Some(config) = &self.config else {
            let problems: Vec<String> = self.tell().into_iter().map(|(_, text)| text).collect();
            return Ok(Some(problems.join("; ")));
        };
        let channel = {
            let mut state = self.lock();
            state.address(config, self.fallback_ident.as_deref());
            self.channel(&mut state, config)
        };
        let (refusal, interrupt) = unless_interrupted(py, |interrupted| channel.courier.require(interrupted));
        if let Some(interrupt) = interrupt {
            return Err(interrupt);
        }
        Ok(refusal.err())
    }

    /// What there is to log since the last call of any method.
    fn notices(&self) -> Vec<Told> {
        self.tell()
    }

    /// Ends the run: waits up to `flush_timeout` for confirmations; the rest goes to disk.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<Told>> {
        if self.config.is_none() {
            return Ok(self.tell());
        }
        let _ = fault::at("emitter.finish");
        let channel = self.lock().channel.take().filter(|channel| channel.pid == process::id());
        let Some(channel) = channel else { return Ok(self.tell()) };
        let began = Instant::now();
        let ((report, error), interrupt) =
            unless_interrupted(py, |interrupted| channel.courier.finish(&channel.run, began, interrupted));
        let mut state = self.lock();
        state.notices.extend(channel.news());
        state.notices.extend(error.map(|error| Notice::new(Level::Warning, error.to_string())));
        state.notices.push(report.notice());
        drop(state);
        match interrupt {
            // The summary is lost to the log then; the messages are not.
            Some(interrupt) => Err(interrupt),
            None => Ok(self.tell()),
        }
    }
}

impl Emitter {
    fn accept(&self, config: &Config, kind: Kind, data: &Bound<'_, PyDict>) -> Vec<Told> {
        // All that may run Python code comes before the lock.
        let text = |key| name_of(&data.get_item(key).ok().flatten()?);
        let py = data.py();
        let needs_name = config.cloudevents
            || config.subject.has_name()
            || (kind == Kind::Event && config.events.is_selective());
        let name = needs_name.then(|| match kind {
            Kind::Event => text(intern!(py, "event")),
            Kind::Status => text(intern!(py, "status")),
        });
        let name = lossy(name.as_ref().and_then(Option::as_ref)).unwrap_or_default();
        if kind == Kind::Event && !config.events.contains(&name) {
            return self.tell();
        }
        let created = config.cloudevents.then(|| text(intern!(py, "created"))).flatten();
        let ident = text(intern!(py, "runner_ident"));
        let (counter, uuid) = match kind {
            Kind::Event => (text(intern!(py, "counter")), text(intern!(py, "uuid"))),
            Kind::Status => (None, None),
        };
        let (ident, counter, uuid) = (lossy(ident.as_ref()), lossy(counter.as_ref()), lossy(uuid.as_ref()));
        let mut buffer = spare().take().unwrap_or_default();
        buffer.clear();
        let redaction = Redaction { masks: &config.masks, env: config.status_env };
        let redaction = (kind == Kind::Status).then_some(&redaction);
        let mut encoded = encode(data, &mut buffer, Without { redaction, omit: Some(&config.omit) });
        if fault::at("emitter.memory").is_err() {
            encoded = Err(Error::Memory { size: buffer.text().len() });
        }

        let mut state = self.lock();
        state.address(config, ident.as_deref().or(self.fallback_ident.as_deref()));
        let id = state.message_id(kind, counter.as_deref().zip(uuid.as_deref()));
        let headers = if config.cloudevents {
            let created = lossy(created.as_ref());
            let ident = &state.subjects.ident;
            let about = CloudEvent { subject_id: &config.subject_id, ident, kind, name: &name, id: &id };
            about.headers(&self.headers, created.as_deref())
        } else {
            Arc::clone(&self.headers)
        };
        let message = Message {
            subject: state.subjects.of(config, kind, &name),
            headers,
            id: id.into(),
            payload: Bytes::new(),
        };
        let channel = self.channel(&mut state, config);
        let complaint = match encoded {
            Ok(()) => channel.send(message, buffer, kind),
            Err(error) => {
                channel.courier.outbox.drop_one(&channel.run);
                Some(Notice::about(Level::Warning, &error.cause(), format!("a message is LOST: {error}")))
            }
        };
        state.notices.extend(complaint);
        state.tell(Some(&channel))
    }

    /// The way to the courier: an existing one, unless it belongs to our parent process.
    fn channel(&self, state: &mut State, config: &Config) -> Arc<Channel> {
        if let Some(channel) = &state.channel
            && channel.pid == process::id()
        {
            return Arc::clone(channel);
        }
        if state.channel.is_some() {
            // The parent's: never dropped. What it has published is its own; we are someone else.
            std::mem::forget(state.channel.take());
            state.nonce = message::nonce();
        }
        let process = Process::current();
        let courier = process.courier(&config.connection);
        let dir = config.spill_dir.clone().or_else(|| self.artifact_dir.clone());
        let run = Run::new(state.subjects.ident.clone(), Spill::new(dir), config.flush_timeout);
        courier.outbox.open(&run);
        let (problem, seen) = courier.notices.start();
        state.notices.extend(problem);
        let channel = Arc::new(Channel { pid: process.pid(), courier, run, seen: AtomicU64::new(seen) });
        state.channel = Some(Arc::clone(&channel));
        channel
    }

    /// What is to be logged now: each cause once per run.
    fn tell(&self) -> Vec<Told> {
        let mut state = self.lock();
        let channel = state.channel.clone().filter(|channel| channel.pid == process::id());
        state.tell(channel.as_deref())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Emitter {
    /// A run without an end: what it published is delivered as long as the process lives.
    fn drop(&mut self) {
        let Some(channel) = self.lock().channel.take() else { return };
        if channel.pid == process::id() {
            channel.courier.outbox.close(&channel.run);
        } else {
            std::mem::forget(channel);
        }
    }
}

impl Channel {
    /// Hands over the message with the JSON that is in `buffer`. Says what went wrong.
    fn send(&self, message: Message, buffer: Buffer, kind: Kind) -> Option<Notice> {
        let Self { courier, run, .. } = self;
        let message = match copy_of(buffer.text()) {
            Some(payload) => {
                *spare() = Some(buffer);
                Ok(Message { payload, ..message })
            }
            None => message.with_cut_payload(buffer.into_text(), LARGEST),
        };
        let complaint = match message {
            Ok(message) => match courier.accept(run, message, kind == Kind::Status) {
                Ok(()) => return None,
                Err(error) => format!(
                    "not connected, memory (pending_size) is full, and there is no room on disk either: events \
                     are LOST: {error}"
                ),
            },
            Err(message) => {
                let size = message.payload.len();
                let reason = Error::TooLarge { size, limit: LARGEST };
                match courier.outbox.push_to_disk(run, &message) {
                    Ok(()) => format!("a message is kept on disk: {reason}"),
                    Err(error) => format!("a message is LOST: {reason}; {error}"),
                }
            }
        };
        Some(Notice::about(Level::Warning, "not sent", complaint))
    }

    /// What the courier has said since the last call.
    fn news(&self) -> Vec<Notice> {
        let seen = self.seen.load(Relaxed);
        if !self.courier.notices.has_news(seen) {
            return Vec::new();
        }
        let (news, latest) = self.courier.notices.since(seen);
        self.seen.store(latest, Relaxed);
        news
    }
}

impl Subjects {
    fn new(subject_id: &str, template: &Template, ident: &str) -> Self {
        let of = |kind| template.subject(subject_id, ident, kind, "");
        Self {
            ident: ident.to_owned(),
            event: of(Kind::Event),
            status: of(Kind::Status),
            named: HashMap::new(),
            id: message::message_id(&[subject_id, ident]),
        }
    }

    fn of(&mut self, config: &Config, kind: Kind, name: &str) -> Arc<str> {
        /// ansible-runner has about fifty short ones; others could make up new ones for ever.
        const MOST: usize = 200;
        const LONGEST: usize = 256;
        match kind {
            _ if config.subject.has_name() => {
                if let Some(known) = self.named.get(name).filter(|_| kind == Kind::Event) {
                    return Arc::clone(known);
                }
                let subject = config.subject.subject(&config.subject_id, &self.ident, kind, name);
                if kind == Kind::Event && self.named.len() < MOST && name.len() <= LONGEST {
                    self.named.insert(name.to_owned(), Arc::clone(&subject));
                }
                subject
            }
            Kind::Event => Arc::clone(&self.event),
            Kind::Status => Arc::clone(&self.status),
        }
    }
}

impl State {
    /// From now on messages are about `ident`; without one, about the last one.
    fn address(&mut self, config: &Config, ident: Option<&str>) {
        if let Some(ident) = ident.filter(|ident| *ident != self.subjects.ident) {
            self.subjects = Subjects::new(&config.subject_id, &config.subject, ident);
        }
    }

    /// An event has an id of its own: its counter and its uuid.
    fn message_id(&mut self, kind: Kind, own: Option<(&str, &str)>) -> String {
        let id = &self.subjects.id;
        if let Some((counter, uuid)) = own {
            return message::longer_id(id, &[counter, uuid]);
        }
        self.statuses += 1;
        message::longer_id(id, &[kind.as_str(), &self.nonce, &self.statuses.to_string()])
    }

    /// What is to be told now: each cause once per run.
    fn tell(&mut self, channel: Option<&Channel>) -> Vec<Told> {
        self.notices.extend(channel.into_iter().flat_map(Channel::news));
        if self.notices.is_empty() {
            return Vec::new();
        }
        let notices = std::mem::take(&mut self.notices);
        let new = notices
            .into_iter()
            .filter(|notice| notice.level < Level::Warning || self.told.insert(notice.cause.clone()));
        new.map(|notice| (notice.level as u8, notice.text)).collect()
    }
}

fn spare() -> MutexGuard<'static, Option<Buffer>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A payload to the byte, as what waits in memory is counted by its length. `None`: too large to be copied.
fn copy_of(text: &[u8]) -> Option<Bytes> {
    let mut copy = Vec::new();
    if text.len() <= BUFFER_KEPT && copy.try_reserve_exact(text.len()).is_ok() {
        copy.extend_from_slice(text);
        return Some(copy.into());
    }
    None
}

/// A name as text, if there is one; lone surrogates are replaced.
fn lossy<'a>(name: Option<&'a Bound<'_, PyString>>) -> Option<Cow<'a, str>> {
    name.map(|name| name.to_string_lossy()).filter(|name| !name.is_empty())
}

/// Ours of the settings. They may hold anything: what is no JSON becomes text, and what cannot be read at all
/// becomes something that the options refuse.
fn nats_settings(settings: &Bound<'_, PyAny>) -> Map<String, Value> {
    const OURS: [&str; 3] = ["nats_subject_id", "nats_options", "nats_headers"];
    // The reader is recursive, and the thread's stack may be small.
    const DEPTH: usize = 8;
    let py = settings.py();
    let read = |key: &str| {
        let value = match settings.get_item(key) {
            Ok(value) => value,
            Err(error)
                if error.is_instance_of::<PyKeyError>(py) || error.is_instance_of::<PyTypeError>(py) =>
            {
                return None;
            }
            Err(_) => return Some((key.to_owned(), Value::from(false))),
        };
        let mut json = Buffer::default();
        let read = encode_to_depth(&value, &mut json, Without::default(), DEPTH).ok();
        let value = read.and_then(|()| serde_json::from_slice(json.text()).ok());
        Some((key.to_owned(), value.unwrap_or(Value::from(false))))
    };
    OURS.into_iter().filter_map(read).collect()
}

/// Waits without the GIL; Ctrl-C must not have to wait, so `wait` gets a look-out for it. Returns the
/// exception that a signal has raised, too.
fn unless_interrupted<T: Send>(
    py: Python<'_>,
    wait: impl FnOnce(&mut dyn FnMut() -> bool) -> T + Send,
) -> (T, Option<PyErr>) {
    let mut interrupt = None;
    let result = py.detach(|| {
        wait(&mut || {
            if interrupt.is_none() {
                interrupt = Python::attach(|py| py.check_signals().err());
            }
            interrupt.is_some()
        })
    });
    (result, interrupt)
}

/// To be called in a forked child, before anything else of ours (`os.register_at_fork`).
#[pyfunction]
pub fn forked() {
    process::forked();
}

/// Where the last panic of this library happened, for a bug report.
#[pyfunction]
pub fn last_panic() -> String {
    report::last_panic()
}

/// Ends every run of this process that did not end by itself: see [`Process::shut_down`].
#[pyfunction]
pub fn shut_down(py: Python<'_>) -> Vec<Told> {
    // Whoever interrupts this wants to leave, and the process is about to: nothing more to raise.
    let (notices, _) = unless_interrupted(py, |interrupted| Process::current().shut_down(interrupted));
    notices.into_iter().map(|notice| (notice.level as u8, notice.text)).collect()
}
