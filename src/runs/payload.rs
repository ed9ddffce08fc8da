//! A message, as far as it is understood. What is not there, or is something else, is left out: a later ansible may say
//! more than we know, and of an event that was cut to fit anything may be a note that says so.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    path::Path,
};

use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

use super::Recap;
use crate::message::KILLED;

/// A message's payload.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Payload<'a> {
    pub(super) status: Option<String>,
    /// What became of the run, says somebody else: [`crate::message::KILLED`].
    pub(super) state: Option<String>,
    /// The number of a sign of life.
    pub(super) heartbeat: Option<u64>,
    pub(super) runner_ident: Option<String>,
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    pub(super) counter: Option<u64>,
    pub(super) created: Option<String>,
    #[serde(borrow)]
    pub(super) stdout: Option<Cow<'a, str>>,
    pub(super) start_line: Option<u64>,
    pub(super) end_line: Option<u64>,
    #[serde(borrow)]
    pub(super) event_data: Option<&'a RawValue>,
    /// Of `starting`.
    #[serde(borrow)]
    pub(super) command: Option<&'a RawValue>,
}

/// `event_data`. A field that is something else than it should be says nothing, and costs no other field.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Data<'a> {
    #[serde(deserialize_with = "text")]
    pub(super) playbook: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) play: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) task: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) task_uuid: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) host: Option<String>,
    #[serde(deserialize_with = "truth")]
    pub(super) ignore_errors: Option<bool>,
    #[serde(borrow)]
    pub(super) res: Option<&'a RawValue>,
}

/// `event_data` of `playbook_on_stats`: a number for each host.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) ok: HashMap<String, u64>,
    pub(super) changed: HashMap<String, u64>,
    pub(super) dark: HashMap<String, u64>,
    pub(super) failures: HashMap<String, u64>,
    pub(super) skipped: HashMap<String, u64>,
    pub(super) rescued: HashMap<String, u64>,
    pub(super) ignored: HashMap<String, u64>,
}

/// The result of a task (or of one item) on a host. A module may put anything anywhere: `results` of `dnf` are texts.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Res {
    #[serde(deserialize_with = "truth")]
    pub(super) changed: Option<bool>,
    #[serde(deserialize_with = "truth")]
    pub(super) failed: Option<bool>,
    pub(super) item: Option<serde_json::Value>,
    pub(super) msg: Option<serde_json::Value>,
    #[serde(deserialize_with = "text")]
    pub(super) reason: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) stderr: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) stdout: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) module_stderr: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) module_stdout: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) exception: Option<String>,
    /// In the place of all else, of a task with `no_log`.
    #[serde(deserialize_with = "text")]
    pub(super) censored: Option<String>,
    /// A condition of the playbook has decided.
    #[serde(deserialize_with = "truth")]
    pub(super) failed_when_result: Option<bool>,
    pub(super) rc: Option<serde_json::Value>,
    /// What was called: a text, or its words.
    pub(super) cmd: Option<serde_json::Value>,
    /// Of the items of a loop.
    #[serde(deserialize_with = "items")]
    pub(super) results: Vec<Res>,
}

/// A text; of something else its JSON.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// Yes or no, as Python takes numbers for it.
fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Bool(truth) => Some(truth),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        _ => None,
    })
}

fn items<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Res>, D::Error> {
    let Value::Array(items) = Value::deserialize(from)? else { return Ok(Vec::new()) };
    let objects = items.into_iter().filter(Value::is_object);
    Ok(objects.map(|item| serde_json::from_value(item).unwrap_or_default()).collect())
}

impl Stats {
    /// How it went on each host.
    pub(super) fn by_host(&self) -> impl Iterator<Item = (&str, Recap)> {
        let Self { ok, changed, dark, failures, skipped, rescued, ignored } = self;
        let all = [ok, changed, dark, failures, skipped, rescued, ignored];
        let hosts: BTreeSet<&str> = all.iter().flat_map(|of| of.keys()).map(String::as_str).collect();
        let of = |counts: &HashMap<String, u64>, host: &str| counts.get(host).copied().unwrap_or(0);
        hosts.into_iter().map(move |host| {
            let recap = Recap {
                ok: of(ok, host),
                changed: of(changed, host),
                unreachable: of(dark, host),
                failed: of(failures, host),
                skipped: of(skipped, host),
                rescued: of(rescued, host),
                ignored: of(ignored, host),
            };
            (host, recap)
        })
    }
}

impl Payload<'_> {
    /// Does it say that the run was killed?
    pub(super) fn says_killed(&self) -> bool {
        self.state.as_deref() == Some(KILLED) && self.status.is_none() && self.counter.is_none()
    }

    pub(super) fn data(&self) -> Data<'_> {
        self.event_data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }

    /// ansible's last word; `None`: it was left out (`omit_event_data`).
    pub(super) fn stats(&self) -> Option<Stats> {
        let data = self.event_data?.get();
        serde_json::from_str(data).ok().filter(|_| data != "{}")
    }

    /// The command line of `starting`.
    pub(super) fn command(&self) -> Vec<String> {
        self.command.and_then(|command| serde_json::from_str(command.get()).ok()).unwrap_or_default()
    }

    /// What a job is about, by the command line of `starting`: its playbook, or else its module.
    pub(super) fn job(&self) -> Option<String> {
        let command = self.command();
        let is_named =
            |word: &String, name: &str| Path::new(word).file_name().is_some_and(|file| file == name);
        // It may be called in a container, by another program.
        let called = |name: &str| command.iter().position(|word| is_named(word, name));
        if let Some(at) = called("ansible-playbook") {
            return first_argument(command.get(at + 1..)?);
        }
        let arguments = command.get(called("ansible")? + 1..)?;
        let at = arguments.iter().position(|word| matches!(word.as_str(), "-m" | "--module-name"));
        let joined =
            || arguments.iter().find_map(|word| word.strip_prefix("--module-name=")).map(str::to_owned);
        at.and_then(|at| arguments.get(at + 1).cloned()).or_else(joined)
    }
}

/// The first word that is no option and no option's value (`ansible.cli.playbook`, `ansible.cli.arguments.option_helpers`).
fn first_argument(arguments: &[String]) -> Option<String> {
    const WITH_VALUE: &[&str] = &[
        "-i",
        "--inventory",
        "--inventory-file",
        "-l",
        "--limit",
        "-e",
        "--extra-vars",
        "-f",
        "--forks",
        "-t",
        "--tags",
        "--skip-tags",
        "-u",
        "--user",
        "-c",
        "--connection",
        "-T",
        "--timeout",
        "-M",
        "--module-path",
        "--vault-id",
        "--vault-password-file",
        "--vault-pass-file",
        "--become-method",
        "--become-user",
        "--private-key",
        "--key-file",
        "--ssh-common-args",
        "--sftp-extra-args",
        "--scp-extra-args",
        "--ssh-extra-args",
        "--start-at-task",
        "--connection-password-file",
        "--conn-pass-file",
        "--become-password-file",
        "--become-pass-file",
    ];
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            return Some(word.clone());
        }
    }
    None
}

impl Data<'_> {
    pub(super) fn res(&self) -> Res {
        self.res.and_then(|res| serde_json::from_str(res.get()).ok()).unwrap_or_default()
    }
}
