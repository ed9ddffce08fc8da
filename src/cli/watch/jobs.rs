//! What is known of the runs that are watched: messages in, a table out.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cli::terminal::printable,
    message::{END_STATES, OPEN_STATES},
};

/// How many of the last failures are kept.
const FAILURES: usize = 500;
/// How many runs are kept; the oldest that have ended go first.
const JOBS: usize = 5_000;
/// How many missing counters of a run are remembered one by one.
const GAPS: usize = 10_000;

/// A message, as far as it is understood.
#[derive(Deserialize)]
struct Payload<'a> {
    status: Option<String>,
    runner_ident: Option<String>,
    event: Option<String>,
    counter: Option<u64>,
    created: Option<String>,
    #[serde(borrow)]
    stdout: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_data: Option<&'a RawValue>,
}

/// `event_data`. Of an event that was cut to fit it may be a note that says so, instead.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Data<'a> {
    playbook: Option<String>,
    play: Option<String>,
    task: Option<String>,
    host: Option<String>,
    ignore_errors: Option<bool>,
    #[serde(borrow)]
    res: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Res {
    changed: Option<bool>,
    item: Option<serde_json::Value>,
    msg: Option<serde_json::Value>,
    stderr: Option<String>,
}

/// The results of tasks on hosts, as in ansible's recap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recap {
    pub(super) ok: u64,
    pub(super) changed: u64,
    pub(super) failed: u64,
    pub(super) unreachable: u64,
    pub(super) skipped: u64,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) subject_id: String,
    pub(super) ident: String,
    pub(super) playbook: String,
    pub(super) play: String,
    pub(super) task: String,
    /// The last status; `running` if none was heard.
    pub(super) status: String,
    pub(super) recap: Recap,
    /// Tasks that were started.
    pub(super) tasks: u64,
    /// Tasks of the last run of the same playbook that ended well.
    pub(super) known_tasks: Option<u64>,
    pub(super) started: SystemTime,
    pub(super) ended: Option<SystemTime>,
    /// The highest counter so far; `None` before the first event.
    highest: Option<u64>,
    /// Counters below `highest` that were not heard, as many as are remembered.
    missing: BTreeSet<u64>,
}

/// Something that went wrong on a host.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) ident: String,
    pub(super) host: String,
    pub(super) task: String,
    pub(super) word: &'static str,
    pub(super) why: String,
}

/// What happened, for a line of text.
#[derive(Clone, Debug)]
pub(super) struct News {
    pub(super) ident: String,
    pub(super) word: String,
    pub(super) text: String,
    /// The run is over.
    pub(super) is_end: bool,
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: HashMap<(String, String), Job>,
    pub(super) failures: VecDeque<Failure>,
    /// Tasks of the last run of each playbook.
    tasks_of: HashMap<String, u64>,
    pub(super) messages: u64,
    /// What came twice, with an id that was known.
    pub(super) repeats: u64,
    /// What was no message of ansible-runner's.
    pub(super) foreign: u64,
}

impl Job {
    /// How many events did not arrive (yet).
    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    pub(super) fn duration(&self, now: SystemTime) -> Duration {
        self.ended.unwrap_or(now).duration_since(self.started).unwrap_or_default()
    }

    /// Events may come late or twice; `false` if this one was there before.
    fn count(&mut self, counter: u64) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(counter);
            return true;
        };
        if counter > highest {
            let gap = (highest + 1..counter).take(GAPS.saturating_sub(self.missing.len()));
            self.missing.extend(gap);
            self.highest = Some(counter);
            return true;
        }
        self.missing.remove(&counter)
    }
}

impl Jobs {
    /// Takes a message in. `None`: it is none of ansible-runner's, or a repeat.
    pub(super) fn hear(&mut self, id: Option<&str>, payload: &[u8], now: SystemTime) -> Option<News> {
        self.messages += 1;
        let Ok(payload) = serde_json::from_slice::<Payload<'_>>(payload) else {
            self.foreign += 1;
            return None;
        };
        let ident = printable(payload.runner_ident.as_deref().unwrap_or("unknown"));
        let subject_id =
            id.and_then(|id| id.split_once(&format!(".{ident}."))).map_or("", |(before, _)| before);
        let key = (printable(subject_id), ident);
        let when = payload.created.as_deref().and_then(time_of).unwrap_or(now);
        let status = payload.status.as_deref();
        let is_known = |status: &str| END_STATES.contains(&status) || OPEN_STATES.contains(&status);
        if !status.map_or(payload.counter.is_some(), is_known) {
            // Somebody else's, or `check`'s.
            self.foreign += 1;
            return None;
        }
        let job = self.all.entry(key.clone()).or_insert_with(|| Job::new(&key, when));
        let news = if let Some(status) = status {
            job.status = printable(status);
            if status == "starting" {
                // The ident is used again.
                *job = Job { status: job.status.clone(), ..Job::new(&key, now) };
            }
            // A repeat is no other end.
            let is_end = END_STATES.contains(&status) && job.ended.is_none();
            if is_end {
                job.ended = Some(now);
                if status == "successful" && !job.playbook.is_empty() {
                    self.tasks_of.insert(job.playbook.clone(), job.tasks);
                }
            }
            News { ident: key.1.clone(), word: job.status.clone(), text: String::new(), is_end }
        } else if let Some(counter) = payload.counter {
            if !job.count(counter) {
                self.repeats += 1;
                return None;
            }
            let data: Data<'_> =
                payload.event_data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
            let result: Res =
                data.res.and_then(|res| serde_json::from_str(res.get()).ok()).unwrap_or_default();
            let name = payload.event.as_deref().unwrap_or_default();
            let failure = job.event(name, &data, &result, &self.tasks_of);
            let mut news = describe(name, job, &data, &result, failure.as_ref());
            if news.text.is_empty() {
                let line = payload
                    .stdout
                    .as_deref()
                    .and_then(|text| text.lines().find(|line| !line.trim().is_empty()));
                news.text = printable(line.unwrap_or_default());
            }
            if let Some(failure) = failure {
                self.failures.push_back(failure);
                if self.failures.len() > FAILURES {
                    self.failures.pop_front();
                }
            }
            news
        } else {
            return None;
        };
        self.forget();
        Some(news)
    }

    fn forget(&mut self) {
        if self.all.len() <= JOBS {
            return;
        }
        let oldest = self.all.iter().min_by_key(|(_, job)| (job.ended.is_none(), job.started));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.all.remove(&key);
        }
    }

    /// All runs, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.all.values()
    }
}

impl Job {
    fn new((subject_id, ident): &(String, String), started: SystemTime) -> Self {
        Self {
            subject_id: subject_id.clone(),
            ident: ident.clone(),
            playbook: String::new(),
            play: String::new(),
            task: String::new(),
            status: "running".to_owned(),
            recap: Recap::default(),
            tasks: 0,
            known_tasks: None,
            started,
            ended: None,
            highest: None,
            missing: BTreeSet::new(),
        }
    }

    /// What an event changes; a failure, if it is one.
    fn event(
        &mut self,
        name: &str,
        data: &Data<'_>,
        result: &Res,
        tasks_of: &HashMap<String, u64>,
    ) -> Option<Failure> {
        if let Some(playbook) = data.playbook.as_deref().filter(|_| self.playbook.is_empty()) {
            self.playbook = printable(playbook);
            self.known_tasks = tasks_of.get(&self.playbook).copied();
        }
        if let Some(play) = &data.play {
            self.play = printable(play);
        }
        if let Some(task) = data.task.as_ref().filter(|_| name != "runner_on_start") {
            self.task = printable(task);
        }
        let word = match name {
            "playbook_on_task_start" | "playbook_on_handler_task_start" => {
                self.tasks += 1;
                return None;
            }
            "runner_on_ok" => {
                self.recap.ok += 1;
                self.recap.changed += u64::from(result.changed == Some(true));
                return None;
            }
            "runner_on_skipped" => {
                self.recap.skipped += 1;
                return None;
            }
            "runner_on_failed" if data.ignore_errors == Some(true) => {
                self.recap.ok += 1;
                return None;
            }
            "runner_on_failed" => {
                self.recap.failed += 1;
                "failed"
            }
            "runner_on_unreachable" => {
                self.recap.unreachable += 1;
                "unreachable"
            }
            _ => return None,
        };
        let why = result.msg.as_ref().map(plain).filter(|msg| !msg.is_empty()).or(result.stderr.clone());
        Some(Failure {
            ident: self.ident.clone(),
            host: printable(data.host.as_deref().unwrap_or("?")),
            task: printable(data.task.as_deref().unwrap_or("?")),
            word,
            why: printable(&why.unwrap_or_default()),
        })
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn describe(name: &str, job: &Job, data: &Data<'_>, result: &Res, failure: Option<&Failure>) -> News {
    let host = printable(data.host.as_deref().unwrap_or_default());
    let task = printable(data.task.as_deref().unwrap_or_default());
    let (word, text) = match (name, failure) {
        (_, Some(failure)) => (failure.word.to_owned(), format!("{host} · {task} · {}", failure.why)),
        ("playbook_on_play_start", _) => ("PLAY".to_owned(), job.play.clone()),
        ("playbook_on_task_start" | "playbook_on_handler_task_start", _) => ("TASK".to_owned(), task),
        ("playbook_on_stats", _) => {
            let Recap { ok, changed, failed, unreachable, skipped } = job.recap;
            let text = format!(
                "ok={ok} changed={changed} failed={failed} unreachable={unreachable} skipped={skipped}"
            );
            ("RECAP".to_owned(), text)
        }
        (name, _) => {
            let short =
                name.strip_prefix("runner_on_").or_else(|| name.strip_prefix("runner_")).unwrap_or(name);
            let short = if short == "ok" && result.changed == Some(true) { "changed" } else { short };
            let more = result.msg.as_ref().or(result.item.as_ref()).map(|more| printable(&plain(more)));
            let parts = [host, task, more.unwrap_or_default()];
            let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
            (printable(short), parts.join(" · "))
        }
    };
    News { ident: job.ident.clone(), word, text, is_end: false }
}

/// Older versions of ansible-runner leave out that it is UTC.
fn time_of(created: &str) -> Option<SystemTime> {
    let parsed = OffsetDateTime::parse(created, &Rfc3339);
    let parsed = parsed.or_else(|_| OffsetDateTime::parse(&format!("{created}Z"), &Rfc3339));
    parsed.ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn hear(jobs: &mut Jobs, counter: u64, event: &str, data: &Value) -> Option<News> {
        let payload = json!({"runner_ident": "r.1", "counter": counter, "event": event, "event_data": data});
        jobs.hear(Some(&format!("site.a.r.1.{counter}.uuid")), payload.to_string().as_bytes(), NOW)
    }

    fn status(jobs: &mut Jobs, status: &str) -> Option<News> {
        let payload = json!({"runner_ident": "r.1", "status": status});
        jobs.hear(Some("site.a.r.1.status.n.1"), payload.to_string().as_bytes(), NOW + Duration::from_secs(7))
    }

    #[test]
    fn a_run_from_start_to_end() {
        let mut jobs = Jobs::default();
        let base = json!({"playbook": "p.yml", "play": "P", "task": "T", "host": "h"});
        let with = |more: Value| {
            let mut data = base.clone();
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            data
        };
        hear(&mut jobs, 1, "playbook_on_task_start", &base);
        hear(&mut jobs, 2, "runner_on_ok", &with(json!({"res": {"changed": true}})));
        hear(&mut jobs, 3, "runner_on_ok", &with(json!({"res": "... [9 bytes cut by ansible-runner-nats]"})));
        hear(&mut jobs, 4, "runner_on_failed", &with(json!({"ignore_errors": true})));
        hear(&mut jobs, 5, "runner_on_failed", &with(json!({"res": {"msg": "no\n\u{1b}[2J"}})));
        hear(&mut jobs, 6, "runner_on_unreachable", &with(json!({"res": {"msg": ["a"]}})));
        hear(&mut jobs, 7, "runner_on_skipped", &base);
        assert!(hear(&mut jobs, 8, "runner_on_ok", &json!("cut")).is_some());
        assert!(status(&mut jobs, "successful").unwrap().is_end);
        let job = jobs.all().next().unwrap();
        assert_eq!(
            (job.subject_id.as_str(), job.ident.as_str(), job.status.as_str()),
            ("site.a", "r.1", "successful")
        );
        assert_eq!(job.recap, Recap { ok: 4, changed: 1, failed: 1, unreachable: 1, skipped: 1 });
        assert_eq!((job.tasks, job.missing()), (1, 0));
        assert_eq!(job.duration(NOW + Duration::from_secs(100)), Duration::from_secs(7));
        let why: Vec<&str> = jobs.failures.iter().map(|failure| failure.why.as_str()).collect();
        assert_eq!(why, ["no  [2J", "[\"a\"]"]);
        // The next run of the playbook has something to go by.
        status(&mut jobs, "starting");
        hear(&mut jobs, 1, "playbook_on_task_start", &base);
        assert_eq!(jobs.all().next().unwrap().known_tasks, Some(1));
    }

    #[test]
    fn gaps_are_seen_and_mended() {
        let mut jobs = Jobs::default();
        for counter in [5, 6, 9, 6, 8] {
            hear(&mut jobs, counter, "verbose", &Value::Null);
        }
        assert_eq!((jobs.all().next().unwrap().missing(), jobs.repeats), (1, 1));
        hear(&mut jobs, 7, "verbose", &Value::Null);
        assert_eq!(jobs.all().next().unwrap().missing(), 0);
        hear(&mut jobs, u64::MAX, "verbose", &Value::Null);
        assert_eq!(jobs.all().next().unwrap().missing(), GAPS);
    }

    #[test]
    fn an_end_is_one_end_however_often_it_is_heard() {
        let mut jobs = Jobs::default();
        let ends = ["running", "failed", "failed", "running", "failed"]
            .map(|name| status(&mut jobs, name).unwrap().is_end);
        assert_eq!(ends, [false, true, false, false, false]);
    }

    #[test]
    fn a_message_of_others_changes_no_run_of_ours() {
        let mut jobs = Jobs::default();
        hear(&mut jobs, 1, "verbose", &Value::Null);
        for foreign in [json!({"runner_ident": "r.1"}), json!({"runner_ident": "r.1", "status": "check"})] {
            assert!(jobs.hear(Some("site.a.r.1.x"), foreign.to_string().as_bytes(), NOW).is_none());
        }
        assert_eq!((jobs.all().count(), jobs.foreign), (1, 2));
        assert_eq!(jobs.all().next().unwrap().status, "running");
        // What `check` may publish is no run.
        assert!(jobs.hear(None, b"{\"status\":\"check\"}", NOW).is_none());
        assert_eq!(jobs.all().count(), 1);
    }

    #[test]
    fn what_is_no_message_of_ours() {
        let mut jobs = Jobs::default();
        for payload in ["", "{}", "[]", "7", "{\"status\":7}", "\u{0}", "{\"runner_ident\":\"x\"}"] {
            assert!(jobs.hear(None, payload.as_bytes(), NOW).is_none());
        }
        assert_eq!((jobs.foreign, jobs.all().count()), (7, 0));
    }
}
