//! What Python holds: one emitter per run. The edge between ansible-runner's dicts and our messages.

use std::{
    borrow::Cow,
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use pyo3::{
    intern,
    prelude::*,
    types::{PyDict, PyInt, PyString},
};
use serde_json::{Map, Value};

use super::{
    card::Making,
    channel::Channel,
    encode::{encode, interrupt, name_of},
    process::{self, Inside, Process},
    settings,
};
use crate::{
    config::{self, Config, Env},
    error::Error,
    fault,
    journal::{Folder, Identity, Record},
    message::{
        self, About, Composer, Kind, Message, RunId, STARTING, Template, Values,
        buffer::{Buffer, OutOfMemory},
        to_millis,
    },
    nats::{Recipe, destination_of},
    outbox::{Pulse, Run},
    report::{Level, Notice},
};

/// So many times a message is encoded again that was interrupted.
const AGAIN: usize = 5;

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
    /// Where undelivered messages go if the artifact directory will be removed by ansible-runner itself.
    shelter: Option<PathBuf>,
    /// For the card: of ansible-runner and of Python.
    versions: Vec<(&'static str, String)>,
    state: Mutex<State>,
}

/// What changes during a run.
struct State {
    /// The run's identity, made with its first message.
    run: Option<RunId>,
    /// It has ended: if it starts, it is another one.
    has_ended: bool,
    /// Statuses have no id of their own: this one tells runs with the same ident apart.
    nonce: String,
    statuses: u64,
    /// Makes the messages, about the last ident seen.
    composer: Composer,
    /// What is masked wherever it occurs, if there is anything.
    values: Option<Arc<Values>>,
    /// Made with the first message, and anew in a forked child.
    channel: Option<Arc<Channel>>,
    /// What became of the messages, after the end.
    last_record: Option<Record>,
    /// Waiting to be told.
    notices: Vec<Notice>,
    /// The causes of what was told already, in this run.
    told: HashSet<String>,
}

#[pymethods]
impl Emitter {
    #[new]
    #[pyo3(signature = (settings, ident=None, artifact_dir=None, runner_version=None, before=None, shelter=None))]
    fn new(
        settings: &Bound<'_, PyAny>,
        ident: Option<&Bound<'_, PyAny>>,
        artifact_dir: Option<PathBuf>,
        runner_version: Option<String>,
        before: Option<PyRef<'_, Self>>,
        shelter: Option<PathBuf>,
    ) -> Self {
        fault::panic_at("emitter.new");
        let get = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let env = Env { get: &get, names: &Env::names() };
        let hostname = || hostname::get().unwrap_or_default().to_string_lossy().into_owned();
        let resolution = config::resolve(&settings::ours(settings), env, &hostname);
        let level = if resolution.config.is_some() { Level::Warning } else { Level::Error };
        let notices = resolution.problems.into_iter().map(|text| Notice::new(level, text)).collect();
        let mut composer = match &resolution.config {
            Some(config) => config.composer(),
            // Never asked for a message.
            None => Composer::new("", Template::default(), [].into(), false),
        };
        // What comes late is of the run that has ended.
        let known = before.and_then(|before| {
            let state = before.lock();
            Some((state.run?, state.statuses))
        });
        if let Some((run, _)) = known {
            composer.identify(run);
        }
        Self {
            config: resolution.config,
            required: resolution.required,
            fallback_ident: ident.and_then(name_of).map(|ident| ident.to_string_lossy().into_owned()),
            artifact_dir,
            shelter,
            versions: [("ansible_runner", runner_version), ("python", Some(python_version(settings.py())))]
                .into_iter()
                .filter_map(|(name, version)| Some((name, version?)))
                .collect(),
            state: Mutex::new(State {
                run: known.map(|(run, _)| run),
                has_ended: known.is_some(),
                nonce: known.map(|(run, _)| run.nonce()).unwrap_or_default(),
                statuses: known.map_or(0, |(_, statuses)| statuses),
                composer,
                values: None,
                channel: None,
                last_record: None,
                notices,
                told: HashSet::new(),
            }),
        }
    }

    /// Hands an event over; never waits for the network. Returns what there is to log, if anything.
    fn event(&self, data: &Bound<'_, PyDict>) -> PyResult<Option<Vec<LogLine>>> {
        self.publish_all_the_same(Kind::Event, data)
    }

    /// The same for a status.
    fn status(&self, data: &Bound<'_, PyDict>) -> PyResult<Option<Vec<LogLine>>> {
        self.publish_all_the_same(Kind::Status, data)
    }

    /// Are the run's secrets to be masked wherever they occur?
    fn masks_values(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.mask_values)
    }

    /// What the run was given: `passwords` and `key` are secrets, of `variables` those under secret names. What cannot be
    /// understood is left aside.
    fn learn(&self, passwords: &Bound<'_, PyAny>, variables: &Bound<'_, PyAny>, key: &Bound<'_, PyAny>) {
        let [passwords, variables, key] = [passwords, variables, key].map(settings::value_of);
        self.learn_values(|values| {
            values.learn(None, &passwords);
            values.learn(Some(""), &variables);
            values.learn(None, &key);
        });
    }

    /// Is there a folder for what cannot be delivered, or nothing to deliver?
    fn has_spill_dir(&self) -> bool {
        self.config.as_ref().is_none_or(|config| config.spill_dir.is_some())
    }

    /// Why the job must not start: the option `required` asks that the status `starting`, which was published just
    /// now, is confirmed, and it is not. Then nothing of the run is sent or kept. `None` if all is well, or nothing is
    /// required.
    fn refuse_start(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let _inside = Inside::enter();
        if !self.required {
            return Ok(None);
        }
        let channel = self.lock().channel.clone();
        let Some(channel) = channel else {
            let problems: Vec<String> = self.notices().into_iter().map(|(_, text)| text).collect();
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
        self.tell().unwrap_or_default()
    }

    /// Ends the run: waits up to `flush_timeout` for confirmations; the rest goes to disk.
    fn finish(&self, py: Python<'_>) -> PyResult<Vec<LogLine>> {
        let _inside = Inside::enter();
        if self.config.is_none() {
            return Ok(self.notices());
        }
        fault::panic_at("emitter.finish");
        let channel = self.lock().channel.take().filter(|channel| channel.pid == process::id());
        let Some(channel) = channel else { return Ok(self.notices()) };
        let began = Instant::now();
        let ((record, error), interrupt) =
            unless_interrupted(py, |interrupted| channel.courier.finish(&channel.run, began, interrupted));
        let mut state = self.lock();
        state.has_ended = true;
        state.notices.extend(channel.news());
        state.notices.extend(error.map(|error| Notice::new(Level::Warning, error.to_string())));
        state.notices.push(record.notice());
        state.last_record = Some(record);
        drop(state);
        match interrupt {
            // The summary is lost to the log then; the messages are not.
            Some(interrupt) => Err(interrupt),
            None => Ok(self.notices()),
        }
    }
}

impl Emitter {
    /// Ctrl-C or exit in Python code that is called meanwhile leaves us when the message is on its way.
    fn publish_all_the_same(&self, kind: Kind, data: &Bound<'_, PyDict>) -> PyResult<Option<Vec<LogLine>>> {
        let _inside = Inside::enter();
        let mut interrupt = None;
        let told = self.publish(kind, data, &mut interrupt);
        match interrupt.or_else(interrupt::take) {
            Some(interrupt) => {
                // What there is to tell is told with the next call.
                let mut state = self.lock();
                for (level, text) in told.into_iter().flatten() {
                    state.told.remove(&text);
                    state.notices.push(Notice::new(Level::from(level), text));
                }
                Err(interrupt)
            }
            None => Ok(told),
        }
    }

    /// Takes in more of what is to be masked.
    fn learn_values(&self, learn: impl FnOnce(&mut Values)) {
        let Some(config) = self.config.as_ref().filter(|config| config.mask_values) else { return };
        let known = self.lock().values.take();
        let mut values =
            known.map_or_else(|| Values::new(&config.redaction.masks), |known| Values::clone(&known));
        learn(&mut values);
        let mut state = self.lock();
        let ident = state.composer.ident().to_owned();
        values.prepare(self.fallback_ident.as_deref().unwrap_or(&ident));
        state.values = Some(Arc::new(values)).filter(|values| !values.is_empty());
    }

    /// What the status `starting` says of the run: its environment and its command line.
    fn learn_from(&self, data: &Bound<'_, PyDict>) {
        let py = data.py();
        let item = |key| data.get_item(key).ok().flatten();
        let (env, command) = (item(intern!(py, "env")), item(intern!(py, "command")));
        if env.is_none() && command.is_none() || !self.masks_values() {
            return;
        }
        let text = |value: Bound<'_, PyAny>| {
            value.cast_into::<PyString>().ok().map(|text| text.to_string_lossy().into_owned())
        };
        let env = env.and_then(|env| env.cast_into::<PyDict>().ok());
        let env: Map<String, Value> = env
            .iter()
            .flatten()
            .filter_map(|(name, value)| Some((text(name)?, Value::from(text(value)?))))
            .collect();
        let command = command.as_ref().map(settings::value_of).unwrap_or_default();
        self.learn_values(|values| values.learn_starting(&Value::Object(env), &command));
    }

    fn publish(
        &self,
        kind: Kind,
        data: &Bound<'_, PyDict>,
        interrupt: &mut Option<PyErr>,
    ) -> Option<Vec<LogLine>> {
        let Some(config) = &self.config else { return self.tell() };
        fault::panic_at("emitter.publish");
        if kind == Kind::Status {
            self.learn_from(data);
        }
        // All that may run Python code comes before the lock, or after it.
        let py = data.py();
        let text = |key| name_of(&data.get_item(key).ok().flatten()?);
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
            Kind::Event => (Number::of(data, intern!(py, "counter")), text(intern!(py, "uuid"))),
            Kind::Status | Kind::Heartbeat => (None, None),
        };
        let (ident, uuid, created) = (lossy(ident.as_ref()), lossy(uuid.as_ref()), lossy(created.as_ref()));
        let mut digits = itoa::Buffer::new();
        let counter = counter.as_ref().and_then(|counter| counter.text(&mut digits));

        let is_start = kind == Kind::Status && is_starting(data);
        let cwd = is_start.then(|| short_text(data, intern!(py, "cwd"))).flatten();
        let card = is_start.then(|| self.card(config, lossy(cwd.as_ref()).as_deref()));
        let said = (kind == Kind::Status).then(|| to_millis(SystemTime::now()));

        let mut state = self.lock();
        state.address(ident.as_deref().or(self.fallback_ident.as_deref()));
        if is_start && std::mem::take(&mut state.has_ended) {
            state.run = None;
        }
        let channel = self.channel(&mut state, config, card.as_deref());
        let own_id = counter.as_deref().zip(uuid.as_deref());
        let created = said.as_deref().or(created.as_deref());
        let message = state.message(kind, &name, own_id, created, card.as_deref());
        // Of a status that hides nothing.
        let values = state.values.clone().filter(|_| kind == Kind::Event || !config.redaction.is_full());
        let has_notices = !state.notices.is_empty();
        drop(state);

        channel.beat(kind, &name, counter.as_deref());
        let mut buffer = channel.courier.outbox.buffer();
        let mut encoded = encode(data, &mut buffer, config.sieve(kind));
        for _ in 0..AGAIN {
            let Some(now) = interrupt::take() else { break };
            interrupt.get_or_insert(now);
            // What was interrupted has its value the next time.
            buffer.clear();
            encoded = encode(data, &mut buffer, config.sieve(kind));
        }
        if matches!(encoded, Err(Error::Memory { .. })) {
            // With what is kept for such a time it may be possible.
            channel.courier.outbox.save_memory();
            buffer = Buffer::default();
            encoded = encode(data, &mut buffer, config.sieve(kind));
        }
        if let (Some(values), Ok(())) = (&values, &encoded) {
            let size = buffer.text().len();
            encoded = values.hide(&mut buffer).map_err(|OutOfMemory| Error::Memory { size });
        }
        if fault::error_at("emitter.memory").is_err() {
            encoded = Err(Error::Memory { size: buffer.text().len() });
        }
        let complaint = match encoded {
            Ok(()) => channel.send(message, &mut buffer, kind),
            Err(error) => {
                channel.run.drop_one(&message);
                Some(Notice::about(Level::Warning, &error.cause(), format!("a message is LOST: {error}")))
            }
        };
        channel.courier.outbox.give_back(buffer);
        if complaint.is_none() && !has_notices && !channel.has_news() {
            return None;
        }
        self.lock().notices.extend(complaint);
        self.tell()
    }

    /// The way to the courier: an existing one, unless it belongs to our parent process.
    fn channel(&self, state: &mut State, config: &Config, card: Option<&str>) -> Arc<Channel> {
        if let Some(channel) = &state.channel
            && channel.pid == process::id()
        {
            return Arc::clone(channel);
        }
        if state.channel.is_some() {
            // The parent's: never dropped. It is the same run, whose parent numbers its statuses, too.
            std::mem::forget(state.channel.take());
            state.nonce = message::nonce();
        }
        let now = SystemTime::now();
        let run_id = state.identity(now);
        let process = Process::current();
        let courier = process.courier(&config.connection);
        let ident = state.composer.ident();
        let spool = config.spill_dir.as_deref().or(self.shelter.as_deref());
        let folder = Folder::new(spool, self.artifact_dir.clone(), ident);
        let run = Run::new(
            Identity::new(
                run_id,
                now,
                &config.subject_id,
                ident,
                destination_of(&config.connection),
                config.subject.clone(),
            )
            .with_card(card.and_then(|card| serde_json::from_str(card).ok())),
            folder,
            config.flush_timeout,
            config.heartbeat.map(|every| Pulse::new(every, state.composer.clone())),
        );
        courier.open(&run, Some(Recipe { config: config.clone(), values: state.values.clone() }));
        let (problem, seen) = courier.notices.start();
        state.notices.extend(problem);
        let channel = Arc::new(Channel { pid: process.pid(), courier, run, seen: AtomicU64::new(seen) });
        state.channel = Some(Arc::clone(&channel));
        channel
    }

    /// Who runs what where, as JSON, without what is masked.
    fn card(&self, config: &Config, cwd: Option<&str>) -> String {
        let making = Making { actor: config.actor.as_deref(), cwd, versions: &self.versions };
        let card = config.hidden(Value::Object(making.card()).to_string());
        let values = self.lock().values.clone();
        values.and_then(|values| values.hide_in(&card)).unwrap_or(card)
    }

    /// What is to be logged now: each cause once per run.
    fn tell(&self) -> Option<Vec<LogLine>> {
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

impl State {
    /// From now on messages are about `ident`; without one, about the last one.
    fn address(&mut self, ident: Option<&str>) {
        if let Some(ident) = ident {
            self.composer.address(ident);
        }
    }

    /// The run's identity, made if it has none yet.
    fn identity(&mut self, now: SystemTime) -> RunId {
        *self.run.get_or_insert_with(|| {
            let run = RunId::new(now);
            self.composer.identify(run);
            self.nonce = run.nonce();
            self.statuses = 0;
            run
        })
    }

    /// A message without its payload. An event has an id of its own: its counter and its uuid.
    fn message(
        &mut self,
        kind: Kind,
        name: &str,
        counter_and_uuid: Option<(&str, &str)>,
        created: Option<&str>,
        card: Option<&str>,
    ) -> Message {
        if let Some((counter, uuid)) = counter_and_uuid {
            let about = About { kind, name, own_id: &[counter, uuid], created, card };
            return self.composer.message(&about, Bytes::new());
        }
        self.statuses += 1;
        let own_id = [kind.as_str(), &self.nonce, &self.statuses.to_string()];
        self.composer.message(&About { kind, name, own_id: &own_id, created, card }, Bytes::new())
    }

    /// What is to be told now: each cause once per run.
    fn tell(&mut self, channel: Option<&Channel>) -> Option<Vec<LogLine>> {
        self.notices.extend(channel.into_iter().flat_map(Channel::news));
        if self.notices.is_empty() {
            return None;
        }
        let notices = std::mem::take(&mut self.notices);
        let new = notices
            .into_iter()
            .filter(|notice| notice.level < Level::Warning || self.told.insert(notice.cause.clone()));
        Some(new.map(|notice| (notice.level as u8, notice.text)).collect())
    }
}

/// A number that names something; most are small, and need no text of Python's.
enum Number<'py> {
    Small(i64),
    Other(Bound<'py, PyString>),
}

impl<'py> Number<'py> {
    fn of(data: &Bound<'py, PyDict>, key: &Bound<'py, PyString>) -> Option<Self> {
        let value = data.get_item(key).ok().flatten()?;
        let small = value.cast_exact::<PyInt>().ok().and_then(|number| number.extract().ok());
        small.map(Self::Small).or_else(|| name_of(&value).map(Self::Other))
    }

    fn text<'a>(&'a self, digits: &'a mut itoa::Buffer) -> Option<Cow<'a, str>> {
        match self {
            Self::Small(number) => Some(Cow::Borrowed(digits.format(*number))),
            Self::Other(text) => lossy(Some(text)),
        }
    }
}

/// Is it a run's first status?
fn is_starting(data: &Bound<'_, PyDict>) -> bool {
    short_text(data, intern!(data.py(), "status")).is_some_and(|status| status == *STARTING)
}

/// A text that is no longer than a path may be: to look into one of megabytes costs as much memory once more.
fn short_text<'py>(data: &Bound<'py, PyDict>, key: &Bound<'py, PyString>) -> Option<Bound<'py, PyString>> {
    const LONGEST: usize = 4096;
    let text = data.get_item(key).ok().flatten()?.cast_into_exact::<PyString>().ok()?;
    text.len().is_ok_and(|len| len <= LONGEST).then_some(text)
}

fn python_version(py: Python<'_>) -> String {
    let version = py.version_info();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
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
