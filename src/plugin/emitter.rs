//! What Python holds: one emitter per run. The edge between ansible-runner's dicts and our messages.

use std::{
    borrow::Cow,
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use pyo3::{
    exceptions::PyValueError,
    intern,
    prelude::*,
    types::{PyDict, PyString},
};

use super::{
    encode::{encode, name_of},
    process::{self, Process},
    settings,
};
use crate::{
    config::{self, Config, Env},
    error::Error,
    fault,
    message::{self, About, Composer, END_STATES, Kind, Message, Template, json::Buffer},
    nats::{Courier, destination_of},
    outbox::{Folder, Identity, Pulse, Record, Run},
    report::{Level, Notice},
};

/// A larger event takes the buffer with it, instead of being copied.
pub(super) const BUFFER_KEPT: usize = 2 << 20;

/// Where JSON is written before its length is known: one for all runs of the process, as the GIL lets only one
/// write at a time. Who finds it gone (Python code ran meanwhile, in another thread) makes a new one.
static SPARE: Mutex<Option<Buffer>> = Mutex::new(None);

/// A larger message is cut at once: nats-server's default `max_pending`, which `max_payload` cannot exceed.
const LARGEST: usize = 64 << 20;

/// A line for Python's `logging`: its level and the text.
pub(super) type LogLine = (u8, String);

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
    fallback_ident: Option<String>,
    artifact_dir: Option<PathBuf>,
    state: Mutex<State>,
}

/// What changes during a run.
struct State {
    /// Statuses have no id of their own: this one tells runs with the same ident apart.
    nonce: String,
    statuses: u64,
    /// Makes the messages, about the last ident seen.
    composer: Composer,
    /// Made with the first message, and anew in a forked child.
    channel: Option<Arc<Channel>>,
    /// What became of the messages, after the end.
    last_record: Option<Record>,
    /// Waiting to be told.
    notices: Vec<Notice>,
    /// The causes of what was told already, in this run.
    told: HashSet<String>,
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
        fault::panic_at("emitter.new");
        let get = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let env = Env { get: &get, names: &Env::names() };
        let hostname = || hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let resolution = config::resolve(&settings::ours(settings), env, &hostname);
        let level = if resolution.config.is_some() { Level::Warning } else { Level::Error };
        let notices = resolution.problems.into_iter().map(|text| Notice::new(level, text)).collect();
        let composer = match &resolution.config {
            Some(config) => config.composer(),
            // Never asked for a message.
            None => Composer::new("", Template::default(), [].into(), false),
        };
        Self {
            config: resolution.config,
            required: resolution.required,
            fallback_ident: ident.and_then(name_of).map(|ident| ident.to_string_lossy().into_owned()),
            artifact_dir,
            state: Mutex::new(State {
                nonce: message::nonce(),
                statuses: 0,
                composer,
                channel: None,
                last_record: None,
                notices,
                told: HashSet::new(),
            }),
        }
    }

    /// Hands a message over; never waits for the network.
    fn publish(&self, kind: &str, data: &Bound<'_, PyDict>) -> PyResult<Vec<LogLine>> {
        // Signs of life are the background's own.
        let kind = Kind::parse(kind).filter(|kind| *kind != Kind::Heartbeat);
        let kind = kind.ok_or_else(|| PyValueError::new_err("kind must be 'event' or 'status'"))?;
        let Some(config) = &self.config else { return Ok(self.tell()) };
        fault::panic_at("emitter.publish");
        Ok(self.accept(config, kind, data))
    }

    /// Why the job must not start: the option `required` asks that the status `starting`, which was published just
    /// now, is confirmed, and it is not. Then nothing of the run is sent or kept. `None` if all is well, or nothing is
    /// required.
    fn refuse_start(&self, py: Python<'_>) -> PyResult<Option<String>> {
        if !self.required {
            return Ok(None);
        }
        let channel = self.lock().channel.clone();
        let Some(channel) = channel else {
            let problems: Vec<String> = self.tell().into_iter().map(|(_, text)| text).collect();
            return Ok(Some(problems.join("; ")));
        };
        let (refusal, interrupt) =
            unless_interrupted(py, |interrupted| channel.courier.require(&channel.run, interrupted));
        if refusal.is_err() {
            self.lock().channel = None;
        }
        match interrupt {
            Some(interrupt) => Err(interrupt),
            None => Ok(refusal.err()),
        }
    }

    /// What became of the messages so far, or until the end; `None` if nothing was published.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let record = {
            let state = self.lock();
            let channel = state.channel.as_ref().filter(|channel| channel.pid == process::id());
            channel.map(|channel| channel.run.so_far()).or_else(|| state.last_record.clone())
        };
        Ok(record.map(|record| pythonize::pythonize(py, &record)).transpose()?)
    }

    /// What there is to log since the last call of any method.
    fn notices(&self) -> Vec<LogLine> {
        self.tell()
    }

    /// Ends the run: waits up to `flush_timeout` for confirmations; the rest goes to disk.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<LogLine>> {
        if self.config.is_none() {
            return Ok(self.tell());
        }
        fault::panic_at("emitter.finish");
        let channel = self.lock().channel.take().filter(|channel| channel.pid == process::id());
        let Some(channel) = channel else { return Ok(self.tell()) };
        let began = Instant::now();
        let ((record, error), interrupt) =
            unless_interrupted(py, |interrupted| channel.courier.finish(&channel.run, began, interrupted));
        let mut state = self.lock();
        state.notices.extend(channel.news());
        state.notices.extend(error.map(|error| Notice::new(Level::Warning, error.to_string())));
        state.notices.push(record.notice());
        state.last_record = Some(record);
        drop(state);
        match interrupt {
            // The summary is lost to the log then; the messages are not.
            Some(interrupt) => Err(interrupt),
            None => Ok(self.tell()),
        }
    }
}

impl Emitter {
    fn accept(&self, config: &Config, kind: Kind, data: &Bound<'_, PyDict>) -> Vec<LogLine> {
        // All that may run Python code comes before the lock.
        let text = |key| name_of(&data.get_item(key).ok().flatten()?);
        let py = data.py();
        let needs_name = config.cloudevents
            || (kind == Kind::Status && config.heartbeat.is_some())
            || config.subject.has_name()
            || (kind == Kind::Event && config.events.is_selective());
        let name = needs_name.then(|| {
            text(match kind {
                Kind::Event => intern!(py, "event"),
                Kind::Status | Kind::Heartbeat => intern!(py, "status"),
            })
        });
        let name = lossy(name.as_ref().and_then(Option::as_ref)).unwrap_or_default();
        if kind == Kind::Event && !config.events.contains(&name) {
            return self.tell();
        }
        let created = config.cloudevents.then(|| text(intern!(py, "created"))).flatten();
        let ident = text(intern!(py, "runner_ident"));
        let (counter, uuid) = match kind {
            Kind::Event => (text(intern!(py, "counter")), text(intern!(py, "uuid"))),
            Kind::Status | Kind::Heartbeat => (None, None),
        };
        let (ident, counter, uuid) = (lossy(ident.as_ref()), lossy(counter.as_ref()), lossy(uuid.as_ref()));
        let mut buffer = spare().take().unwrap_or_default();
        buffer.clear();
        let mut encoded = encode(data, &mut buffer, config.sieve(kind));
        if fault::error_at("emitter.memory").is_err() {
            encoded = Err(Error::Memory { size: buffer.text().len() });
        }

        let mut state = self.lock();
        state.address(ident.as_deref().or(self.fallback_ident.as_deref()));
        let created = lossy(created.as_ref());
        let message = state.message(kind, &name, counter.as_deref().zip(uuid.as_deref()), created.as_deref());
        let channel = self.channel(&mut state, config);
        channel.beat(kind, &name, counter.as_deref());
        let complaint = match encoded {
            Ok(()) => channel.send(message, buffer, kind),
            Err(error) => {
                channel.run.drop_one(&message);
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
        let ident = state.composer.ident();
        let folder = Folder::new(config.spill_dir.as_deref(), self.artifact_dir.clone(), ident);
        let run = Run::new(
            Identity::new(&config.subject_id, ident, destination_of(&config.connection)),
            folder,
            config.flush_timeout,
            config.heartbeat.map(|every| Pulse::new(every, state.composer.clone())),
        );
        courier.open(&run);
        let (problem, seen) = courier.notices.start();
        state.notices.extend(problem);
        let channel = Arc::new(Channel { pid: process.pid(), courier, run, seen: AtomicU64::new(seen) });
        state.channel = Some(Arc::clone(&channel));
        channel
    }

    /// What is to be logged now: each cause once per run.
    fn tell(&self) -> Vec<LogLine> {
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
                match run.keep_at_once(&message) {
                    Ok(()) => format!("a message is kept on disk: {reason}"),
                    Err(error) => format!("a message is LOST: {reason}; {error}"),
                }
            }
        };
        Some(Notice::about(Level::Warning, "not sent", complaint))
    }

    /// What signs of life say: an event is in them, and after the end there is none.
    fn beat(&self, kind: Kind, name: &str, counter: Option<&str>) {
        let Some(pulse) = &self.run.pulse else { return };
        if kind == Kind::Status && END_STATES.contains(&name) {
            pulse.stop();
        }
        if let Some(counter) = counter.and_then(|counter| counter.parse().ok()) {
            pulse.counts(counter);
        }
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

impl State {
    /// From now on messages are about `ident`; without one, about the last one.
    fn address(&mut self, ident: Option<&str>) {
        if let Some(ident) = ident {
            self.composer.address(ident);
        }
    }

    /// A message without its payload. An event has an id of its own: its counter and its uuid.
    fn message(
        &mut self,
        kind: Kind,
        name: &str,
        counter_and_uuid: Option<(&str, &str)>,
        created: Option<&str>,
    ) -> Message {
        if let Some((counter, uuid)) = counter_and_uuid {
            let about = About { kind, name, own_id: &[counter, uuid], created };
            return self.composer.message(&about, Bytes::new());
        }
        self.statuses += 1;
        let own_id = [kind.as_str(), &self.nonce, &self.statuses.to_string()];
        self.composer.message(&About { kind, name, own_id: &own_id, created }, Bytes::new())
    }

    /// What is to be told now: each cause once per run.
    fn tell(&mut self, channel: Option<&Channel>) -> Vec<LogLine> {
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

pub(super) fn spare() -> MutexGuard<'static, Option<Buffer>> {
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

/// Waits without the GIL; Ctrl-C must not have to wait, so `wait` gets a look-out for it. Returns the
/// exception that a signal has raised, too.
pub(super) fn unless_interrupted<T: Send>(
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
