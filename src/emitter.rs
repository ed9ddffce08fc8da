//! What Python holds: one emitter per run. The edge between ansible-runner's dicts and our messages.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use pyo3::{exceptions::PyValueError, intern, prelude::*, types::PyDict};
use serde_json::{Map, Value};

use crate::{
    config::{self, Config},
    courier::Courier,
    encode::encode,
    error::Error,
    fault,
    message::{self, Kind, Message},
    outbox::Run,
    process::Process,
    report::{self, Level, Notice},
    spill::Spill,
};

/// A larger event gets memory of its own instead of making this run's buffer larger for ever.
const BUFFER_KEPT: usize = 64 << 10;

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
    /// Where JSON is written before its length is known.
    buffer: Vec<u8>,
    /// The last ident seen, and the subjects that belong to it.
    subjects: Option<Subjects>,
    /// Made with the first message, and anew in a forked child.
    channel: Option<Channel>,
    /// Waiting to be told.
    notices: Vec<Notice>,
    /// Told already, in this run.
    told: HashSet<String>,
}

struct Subjects {
    ident: String,
    event: Arc<str>,
    status: Arc<str>,
}

/// The way to the courier.
#[derive(Clone)]
struct Channel {
    pid: u32,
    courier: Arc<Courier>,
    run: Arc<Run>,
    /// How far the courier's notices were read.
    seen: Arc<AtomicU64>,
}

#[pymethods]
impl Emitter {
    #[new]
    #[pyo3(signature = (settings, ident=None, artifact_dir=None))]
    fn new(settings: &Bound<'_, PyAny>, ident: Option<String>, artifact_dir: Option<PathBuf>) -> Self {
        let _ = fault::at("emitter.new");
        let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let hostname = || hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let resolution = config::resolve(&to_map(settings), &env, &hostname);
        let level = if resolution.config.is_some() { Level::Warning } else { Level::Error };
        let notices = resolution.problems.into_iter().map(|text| Notice::new(level, text)).collect();
        let headers = resolution.config.as_ref().map(|config| config.headers.clone()).unwrap_or_default();
        Self {
            config: resolution.config,
            required: resolution.required,
            headers: headers.into(),
            fallback_ident: ident,
            artifact_dir,
            state: Mutex::new(State {
                nonce: message::nonce(),
                statuses: 0,
                buffer: Vec::new(),
                subjects: None,
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
        if let Some(config) = &self.config {
            let _ = fault::at("emitter.publish");
            self.accept(config, kind, data);
        }
        Ok(self.tell())
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
        let ident = self.fallback_ident.clone().unwrap_or_else(|| "unknown".to_owned());
        let channel = {
            let mut state = self.lock();
            self.channel(&mut state, config, ident)
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
        let Some(config) = &self.config else { return Ok(self.tell()) };
        let _ = fault::at("emitter.finish");
        let channel = self.lock().channel.take().filter(|channel| channel.pid == std::process::id());
        let Some(channel) = channel else { return Ok(self.tell()) };
        let deadline = Instant::now() + config.flush_timeout;
        let ((report, error), interrupt) =
            unless_interrupted(py, |interrupted| channel.courier.finish(&channel.run, deadline, interrupted));
        let mut state = self.lock();
        channel.read_notices(&mut state);
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
    fn accept(&self, config: &Config, kind: Kind, data: &Bound<'_, PyDict>) {
        // All that may run Python code comes before the lock.
        let py = data.py();
        let ident = text_of(data, intern!(py, "runner_ident"));
        let id_parts = match kind {
            Kind::Event => text_of(data, intern!(py, "counter")).zip(text_of(data, intern!(py, "uuid"))),
            Kind::Status => None,
        };
        let mut buffer = std::mem::take(&mut self.lock().buffer);
        buffer.clear();
        let mut encoded = encode(data, &mut buffer);
        if fault::at("emitter.memory").is_err() {
            encoded = Err(Error::Memory { size: buffer.len() });
        }
        if kind == Kind::Status {
            buffer = config.masks.redact(buffer, config.status_env);
        }

        let (message, channel) = {
            let mut state = self.lock();
            state.address(config, ident, self.fallback_ident.as_deref());
            let Some(subjects) = &state.subjects else { return };
            let (subject, ident) = match kind {
                Kind::Event => (Arc::clone(&subjects.event), subjects.ident.clone()),
                Kind::Status => (Arc::clone(&subjects.status), subjects.ident.clone()),
            };
            let id = match &id_parts {
                Some((counter, uuid)) => message::message_id(&[&config.subject_id, &ident, counter, uuid]),
                None => {
                    state.statuses += 1;
                    let number = state.statuses.to_string();
                    message::message_id(&[&config.subject_id, &ident, kind.as_str(), &state.nonce, &number])
                }
            };
            let message = Message { subject, headers: Arc::clone(&self.headers), id, payload: Bytes::new() };
            (message, self.channel(&mut state, config, ident))
        };
        let message = encoded.and_then(|()| self.with_payload(message, buffer));
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                channel.courier.outbox.drop_one(&channel.run);
                return self.complain(format!("a message is LOST: {error}"));
            }
        };
        let pushed = channel.courier.outbox.push(&channel.run, message, kind == Kind::Status);
        channel.courier.ensure_started();
        if let Err(error) = pushed {
            let what = "not connected, memory (pending_size) is full, and there is no room on disk either";
            self.complain(format!("{what}: events are LOST: {error}"));
        }
    }

    /// The message with the JSON that is in `buffer`.
    fn with_payload(&self, message: Message, mut buffer: Vec<u8>) -> Result<Message, Error> {
        if buffer.len() <= BUFFER_KEPT {
            // To the byte: what waits in memory is counted by its length.
            let payload = Bytes::copy_from_slice(&buffer);
            self.lock().buffer = buffer;
            return Ok(Message { payload, ..message });
        }
        buffer.shrink_to_fit();
        let size = buffer.len();
        message.with_cut_payload(buffer, LARGEST).ok_or(Error::TooLarge { size, limit: LARGEST })
    }

    fn complain(&self, text: String) {
        self.lock().notices.push(Notice::new(Level::Warning, text));
    }

    /// The way to the courier: an existing one, unless it belongs to our parent process.
    fn channel(&self, state: &mut State, config: &Config, ident: String) -> Channel {
        if let Some(channel) = &state.channel
            && channel.pid == std::process::id()
        {
            return channel.clone();
        }
        if state.channel.is_some() {
            // The parent's: never dropped. What it has published is its own; we are someone else.
            std::mem::forget(state.channel.take());
            state.nonce = message::nonce();
        }
        let process = Process::current();
        let courier = process.courier(&config.connection);
        let dir = config.spill_dir.clone().or_else(|| self.artifact_dir.clone());
        let run = Run::new(ident, Spill::new(dir));
        courier.outbox.open(&run);
        let (problem, seen) = courier.notices.start();
        state.notices.extend(problem);
        let channel = Channel { pid: process.pid(), courier, run, seen: Arc::new(AtomicU64::new(seen)) };
        state.channel = Some(channel.clone());
        channel
    }

    /// What is to be logged now: each text once per run.
    fn tell(&self) -> Vec<Told> {
        let mut state = self.lock();
        if let Some(channel) = state.channel.clone().filter(|channel| channel.pid == std::process::id()) {
            channel.read_notices(&mut state);
        }
        if state.notices.is_empty() {
            return Vec::new();
        }
        let notices = std::mem::take(&mut state.notices);
        let new = notices
            .into_iter()
            .filter(|notice| notice.level < Level::Warning || state.told.insert(notice.text.clone()));
        new.map(|notice| (notice.level as u8, notice.text)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Emitter {
    /// A run without an end: what it published is delivered as long as the process lives.
    fn drop(&mut self) {
        let Some(channel) = self.lock().channel.take() else { return };
        if channel.pid == std::process::id() {
            channel.courier.outbox.close(&channel.run);
        } else {
            std::mem::forget(channel);
        }
    }
}

impl Channel {
    fn read_notices(&self, state: &mut State) {
        let seen = self.seen.load(Relaxed);
        if self.courier.notices.has_news(seen) {
            let (news, latest) = self.courier.notices.since(seen);
            self.seen.store(latest, Relaxed);
            state.notices.extend(news);
        }
    }
}

impl State {
    /// The subjects for `ident`; without one, for that of the configuration or the last one seen.
    fn address(&mut self, config: &Config, ident: Option<String>, fallback: Option<&str>) {
        let known = self.subjects.as_ref().map(|subjects| subjects.ident.as_str());
        let ident = match ident {
            Some(ident) => ident,
            None => fallback.or(known).unwrap_or("unknown").to_owned(),
        };
        if known != Some(ident.as_str()) {
            self.subjects = Some(Subjects {
                event: message::subject(&config.subject_id, &ident, Kind::Event),
                status: message::subject(&config.subject_id, &ident, Kind::Status),
                ident,
            });
        }
    }
}

/// A value as text; `None` if there is none.
fn text_of(data: &Bound<'_, PyDict>, key: &Bound<'_, pyo3::types::PyString>) -> Option<String> {
    let value = data.get_item(key).ok().flatten().filter(|value| !value.is_none())?;
    // Lone surrogates included: `to_string_lossy`.
    let text = value.str().ok()?;
    Some(text.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
}

/// Settings may hold anything; what is no JSON becomes text.
fn to_map(settings: &Bound<'_, PyAny>) -> Map<String, Value> {
    let mut json = Vec::new();
    if encode(settings, &mut json).is_err() {
        return Map::new();
    }
    serde_json::from_slice(&json).unwrap_or_default()
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
            interrupt = Python::attach(|py| py.check_signals().err());
            interrupt.is_some()
        })
    });
    (result, interrupt)
}

/// Where the last panic of this library happened, for a bug report.
#[pyfunction]
pub fn last_panic() -> String {
    report::last_panic()
}

/// Ends every run of this process that did not end by itself, within `timeout` seconds all in all.
#[pyfunction]
pub fn shut_down(py: Python<'_>, timeout: f64) -> Vec<Told> {
    let limit = Duration::try_from_secs_f64(timeout).unwrap_or_default();
    let notices = py.detach(|| Process::current().shut_down(limit));
    notices.into_iter().map(|notice| (notice.level as u8, notice.text)).collect()
}
