//! Metrics for Prometheus. Counters count what happens while this program is there, as Prometheus expects: they begin at 0
//! with it, so that a restart is no event. What was before is told by gauges, which are the same after a restart.

use std::{
    collections::HashSet,
    fmt::Write,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    message::{KILLED, Kind},
    runs::{News, RECAP, Recap, Run, RunKey, Runs, Status},
};

/// The content type of `OpenMetrics`, and that of the older form.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(super) const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// So many playbooks have a name of their own.
const PLAYBOOKS: usize = 200;
/// The others.
const OTHER: &str = "other";
/// A job takes 10 s to 4 h.
const BUCKETS: [f64; 11] = [10., 30., 60., 120., 300., 600., 1200., 1800., 3600., 7200., 14_400.];
/// An event that has not come so long after the end of its run is missed.
const LATE: Duration = Duration::from_secs(10);

const RUNS: &str = "ansible_runner_runs";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    playbook: String,
    status: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    playbook: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WithResult {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// All that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    ended: Family<Ended, Counter>,
    open: Family<InState, Gauge>,
    last_ended: Family<Ended, Gauge<f64, AtomicU64>>,
    durations: Family<Of, Histogram>,
    results: Family<WithResult, Counter>,
    messages: Family<OfKind, Counter>,
    missed: Counter,
    cut: Counter,
    connected: Gauge,
    playbooks: HashSet<String>,
    /// What is heard is new, and nothing that a stream has kept.
    is_live: bool,
    /// Runs that have ended, of which something may still be on its way.
    settling: HashSet<RunKey>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            ended: Family::default(),
            open: Family::default(),
            last_ended: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            results: Family::default(),
            messages: Family::default(),
            missed: Counter::default(),
            cut: Counter::default(),
            connected: Gauge::default(),
            playbooks: HashSet::new(),
            is_live: false,
            settling: HashSet::new(),
        };
        let Self {
            registry,
            ended,
            open,
            last_ended,
            durations,
            results,
            messages,
            missed,
            cut,
            connected,
            ..
        } = &mut metrics;
        registry.register(RUNS, "Runs that have ended since the start of serve", ended.clone());
        registry.register(RUNS, "Runs that go on", open.clone());
        registry.register(
            "ansible_runner_run_last_ended_timestamp_seconds",
            "When a run of this playbook ended so last; 0: never, as far as is known",
            last_ended.clone(),
        );
        registry.register(
            "ansible_runner_run_duration_seconds",
            "How long runs took that have ended",
            durations.clone(),
        );
        registry.register(
            "ansible_runner_task_results",
            "Results of tasks on hosts, as ansible counts them at the end of a playbook",
            results.clone(),
        );
        registry.register("ansible_runner_messages", "Messages of runs, repeats left out", messages.clone());
        registry.register(
            "ansible_runner_events_missed",
            "Events of ended runs that did not arrive",
            missed.clone(),
        );
        registry.register("ansible_runner_cut_messages", "Messages that were cut to fit", cut.clone());
        registry.register(
            "ansible_runner_connected",
            "Whether there is a connection to NATS",
            connected.clone(),
        );
        // What has not happened yet is there, too: an alert on it must not wait for the first time.
        for state in [Status::Running, Status::Silent].map(Status::as_str) {
            drop(metrics.open.get_or_create(&InState { state }));
        }
        for kind in [Kind::Event, Kind::Status, Kind::Heartbeat] {
            drop(metrics.messages.get_or_create(&OfKind { kind: kind.as_str() }));
        }
        for (result, _) in Recap::default().parts() {
            drop(metrics.results.get_or_create(&WithResult { result }));
        }
        metrics
    }

    /// All that a stream had kept was heard: from now on things are counted.
    pub(super) fn go_live(&mut self) {
        self.is_live = true;
    }

    /// Something was heard that was not heard before.
    pub(super) fn count(&mut self, news: &News, run: &Run, is_cut: bool) {
        if !run.playbook.is_empty() || news.is_end {
            let playbook = self.label(&run.playbook);
            if news.is_end {
                self.note_end(&playbook, run);
            }
        }
        if self.is_live {
            self.count_live(news, run, is_cut);
        }
    }

    /// When a run ended: the same however often it is read.
    fn note_end(&self, playbook: &str, run: &Run) {
        let ended = run.ended.and_then(|ended| ended.duration_since(SystemTime::UNIX_EPOCH).ok());
        let labels = Ended { playbook: playbook.to_owned(), status: run.status().as_str().to_owned() };
        let gauge = self.last_ended.get_or_create(&labels);
        gauge.set(gauge.get().max(ended.unwrap_or_default().as_secs_f64()));
    }

    fn count_live(&mut self, news: &News, run: &Run, is_cut: bool) {
        let kind = match news.counter {
            Some(_) => Kind::Event,
            None if [Kind::Heartbeat.as_str(), KILLED].contains(&news.word.as_str()) => Kind::Heartbeat,
            None => Kind::Status,
        };
        self.messages.get_or_create(&OfKind { kind: kind.as_str() }).inc();
        self.cut.inc_by(u64::from(is_cut));
        if news.word == RECAP {
            for (result, count) in run.recap.parts() {
                self.results.get_or_create(&WithResult { result }).inc_by(count);
            }
        }
        if news.is_end {
            let playbook = self.label(&run.playbook);
            let status = run.status().as_str().to_owned();
            self.ended.get_or_create(&Ended { playbook: playbook.clone(), status }).inc();
            if let Some(duration) = run.duration(SystemTime::now()) {
                self.durations.get_or_create(&Of { playbook }).observe(duration.as_secs_f64());
            }
            self.settling.insert(news.run);
        }
    }

    /// Counts what is missing of runs that ended a while ago.
    pub(super) fn settle(&mut self, runs: &Runs, now: SystemTime) {
        self.settling.retain(|id| {
            let Some(run) = runs.get(*id) else { return false };
            let is_late = run.silence(now) > LATE;
            if is_late {
                self.missed.inc_by(run.missing());
            }
            !is_late
        });
    }

    /// The playbook as a label. Of a new one everything is 0 at first: Prometheus' `increase` would overlook what a counter
    /// begins with.
    fn label(&mut self, playbook: &str) -> String {
        let name = if playbook.is_empty() { "unknown" } else { playbook };
        if self.playbooks.contains(name) {
            return name.to_owned();
        }
        let name = if self.playbooks.len() >= PLAYBOOKS { OTHER } else { name };
        if self.playbooks.insert(name.to_owned()) {
            for status in Status::ALL.into_iter().filter(|status| status.is_end()) {
                let labels = Ended { playbook: name.to_owned(), status: status.as_str().to_owned() };
                drop(self.ended.get_or_create(&labels));
                drop(self.last_ended.get_or_create(&labels));
            }
        }
        name.to_owned()
    }

    /// All of it as text, in the form that is asked for. `open`: the runs that have not ended.
    pub(super) fn text<'a>(
        &self,
        open: impl Iterator<Item = &'a Run>,
        now: SystemTime,
        silent_after: Option<Duration>,
        is_connected: bool,
        is_open_metrics: bool,
    ) -> String {
        let (silent, running): (Vec<_>, Vec<_>) =
            open.partition(|run| run.state(now, silent_after) == Status::Silent);
        let gauge = |state, count: usize| {
            self.open.get_or_create(&InState { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        gauge(Status::Running.as_str(), running.len());
        gauge(Status::Silent.as_str(), silent.len());
        self.connected.set(i64::from(is_connected));
        let mut encoded = String::new();
        // Writing to a text cannot fail.
        let _ = text::encode(&mut encoded, &self.registry);
        in_form(&encoded, is_open_metrics)
    }
}

/// `OpenMetrics` as the library writes it, or the older form of it.
///
/// In the older form a counter is described by its whole name (`..._total`), and there is no end mark. In `OpenMetrics` the
/// counter of runs and the gauge of runs would have one name; there the counter is described by its whole name, too, as
/// one whose kind is not known.
fn in_form(encoded: &str, is_open_metrics: bool) -> String {
    let mut out = String::with_capacity(encoded.len());
    let lines: Vec<&str> = encoded.lines().collect();
    let mut kind_of_next = None;
    for (place, line) in lines.iter().enumerate() {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let Some((name, _)) = described.and_then(|rest| rest.split_once(' ')) else {
            if is_open_metrics || *line != "# EOF" {
                let _ = writeln!(out, "{line}");
            }
            continue;
        };
        let is_help = line.starts_with("# HELP ");
        if is_help {
            let next = lines.get(place + 1).and_then(|line| line.strip_prefix("# TYPE "));
            kind_of_next = next.and_then(|rest| rest.split_once(' ')).map(|(_, kind)| kind);
        }
        let is_counter = kind_of_next == Some("counter");
        let whole = is_counter && (!is_open_metrics || name == RUNS);
        let (word, rest) = line.split_at("# HELP ".len());
        let rest = rest.get(name.len()..).unwrap_or_default();
        let rest = if whole && is_open_metrics && !is_help { " unknown" } else { rest };
        let _ = writeln!(out, "{word}{name}{}{rest}", if whole { "_total" } else { "" });
    }
    out
}
