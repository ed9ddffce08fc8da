//! A message, as far as it is understood. What is not there, or is something else, is left out: a later ansible may say
//! more than we know, and of an event that was cut to fit anything may be a note that says so.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    path::Path,
};

use serde::Deserialize;
use serde_json::value::RawValue;

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

/// `event_data`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Data<'a> {
    pub(super) playbook: Option<String>,
    pub(super) play: Option<String>,
    pub(super) task: Option<String>,
    pub(super) task_uuid: Option<String>,
    pub(super) host: Option<String>,
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

/// The result of a task (or of one item) on a host.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Res {
    pub(super) changed: Option<bool>,
    pub(super) failed: Option<bool>,
    pub(super) item: Option<serde_json::Value>,
    pub(super) msg: Option<serde_json::Value>,
    pub(super) reason: Option<String>,
    pub(super) stderr: Option<String>,
    pub(super) stdout: Option<String>,
    pub(super) module_stderr: Option<String>,
    pub(super) module_stdout: Option<String>,
    pub(super) exception: Option<String>,
    pub(super) rc: Option<serde_json::Value>,
    /// What was called: a text, or its words.
    pub(super) cmd: Option<serde_json::Value>,
    pub(super) results: Vec<Res>,
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

    pub(super) fn stats(&self) -> Option<Stats> {
        serde_json::from_str(self.event_data?.get()).ok()
    }

    /// The command line of `starting`.
    pub(super) fn command(&self) -> Vec<String> {
        self.command.and_then(|command| serde_json::from_str(command.get()).ok()).unwrap_or_default()
    }

    /// What a job is about, by the command line of `starting`: its playbook, or else its module.
    pub(super) fn job(&self) -> Option<String> {
        let command = self.command();
        let is_playbook = |arg: &&String| {
            Path::new(arg).extension().is_some_and(|ending| ending == "yml" || ending == "yaml")
        };
        let playbook = command.iter().rev().find(is_playbook);
        let mut rest = command.iter().skip_while(|arg| !matches!(arg.as_str(), "-m" | "--module-name"));
        playbook.or_else(|| rest.nth(1)).cloned()
    }
}

impl Data<'_> {
    pub(super) fn res(&self) -> Res {
        self.res.and_then(|res| serde_json::from_str(res.get()).ok()).unwrap_or_default()
    }
}
