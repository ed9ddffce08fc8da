//! What is said of a run, and how each kind of receiver wants it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli::runs::Listed,
    message::start_of,
    runs::{Failure, Recap, Run, in_short},
};

/// So many hosts are named.
const HOSTS: usize = 10;

/// How a receiver wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object, as docs/schemas/commands/notify.json describes it
    Json,
    /// An incoming webhook of Slack, Mattermost or Rocket.Chat
    Slack,
    /// Alertmanager's API, version 2 (.../api/v2/alerts)
    Alertmanager,
}

/// What is said of a run.
#[derive(Debug, Serialize)]
pub(super) struct Notice<'a> {
    /// The same if it comes again.
    id: String,
    #[serde(flatten)]
    run: Listed<'a>,
    /// Of the first hosts that failed, why.
    failures: Vec<Failing<'a>>,
    /// How many hosts failed beside those.
    more_hosts: usize,
    /// How its tasks went; none if no task has come so far.
    recap: Option<Recap>,
    /// Its page.
    link: Option<String>,
    /// The same for people, in lines.
    text: String,
}

/// Why a host failed, or the run.
#[derive(Debug, Serialize)]
struct Failing<'a> {
    host: Option<&'a str>,
    task: Option<&'a str>,
    reason: String,
}

impl<'a> Failing<'a> {
    fn of(failure: &'a Failure) -> Self {
        /// In bytes.
        const LONGEST: usize = 300;
        let is_of_task = !failure.is_of_run();
        let reason = match start_of(&failure.why, LONGEST) {
            whole if whole.len() == failure.why.len() => whole.to_owned(),
            start => format!("{start}…"),
        };
        Self {
            host: is_of_task.then_some(failure.host.as_str()),
            task: is_of_task.then_some(failure.task.as_str()),
            reason,
        }
    }

    fn line(&self) -> String {
        let parts = self.host.into_iter().chain(self.task).chain([self.reason.as_str()]);
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
    }
}

impl<'a> Notice<'a> {
    /// About this run. `link`: the address of the page that shows runs.
    pub(super) fn new(
        id: String,
        run: &'a Run,
        link: Option<String>,
        now: SystemTime,
        silent_after: Option<Duration>,
    ) -> Self {
        let failed = failed_hosts(run);
        let failures: Vec<Failing<'_>> =
            failed.iter().take(HOSTS).map(|failure| Failing::of(failure)).collect();
        let more_hosts = failed.len().saturating_sub(HOSTS);
        let recap = Some(run.recap).filter(|recap| *recap != Recap::default());
        let mut lines = vec![headline(run, now, silent_after)];
        lines.extend(failures.iter().map(Failing::line));
        if more_hosts > 0 {
            lines.push(format!("and {more_hosts} more host{}", if more_hosts == 1 { "" } else { "s" }));
        }
        lines.extend(recap.map(|recap| recap.to_string()));
        lines.extend(link.clone());
        let text = lines.join("\n");
        Self { id, run: Listed::new(run, now, silent_after), failures, more_hosts, recap, link, text }
    }

    /// The same when it is posted again.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What is posted.
    pub(super) fn body(&self, format: Format) -> serde_json::Result<String> {
        match format {
            Format::Json => serde_json::to_string(self),
            Format::Slack => serde_json::to_string(&json!({ "text": escaped(&self.text) })),
            Format::Alertmanager => serde_json::to_string(&[self.alert()?]),
        }
    }

    /// An alert, as Alertmanager's `openapi.yaml` has it. It ends by itself (`resolve_timeout`).
    fn alert(&self) -> serde_json::Result<Value> {
        let run = serde_json::to_value(&self.run)?;
        let named = ["subject_id", "runner_ident", "run_id", "playbook", "state"];
        let mut labels: HashMap<&str, &str> =
            named.iter().filter_map(|name| Some((*name, run.get(name)?.as_str()?))).collect();
        labels.insert("alertname", "AnsibleRun");
        let (summary, description) = self.text.split_once('\n').unwrap_or((&self.text, ""));
        let annotations = json!({ "summary": summary, "description": description });
        Ok(match &self.link {
            Some(link) => json!({ "labels": labels, "annotations": annotations, "generatorURL": link }),
            None => json!({ "labels": labels, "annotations": annotations }),
        })
    }
}

/// Why the run failed, if no task ended it; and of each host that failed and was not rescued, what it failed at last.
fn failed_hosts(run: &Run) -> Vec<&Failure> {
    let (of_run, of_hosts): (Vec<&Failure>, Vec<&Failure>) =
        run.failures.iter().filter(|failure| failure.counts()).partition(|failure| failure.is_of_run());
    let mut last: Vec<&Failure> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for failure in of_hosts {
        let place = *places.entry(&failure.host).or_insert(last.len());
        match last.get_mut(place) {
            Some(known) => *known = failure,
            None => last.push(failure),
        }
    }
    of_run.into_iter().chain(last).collect()
}

fn headline(run: &Run, now: SystemTime, silent_after: Option<Duration>) -> String {
    let name = match run.subject_id.as_str() {
        "" => run.ident.clone(),
        subject_id => format!("{} of {subject_id}", run.ident),
    };
    let state = run.state(now, silent_after).as_str();
    let playbook = Some(run.playbook.clone()).filter(|name| !name.is_empty());
    let actor = run.actor.as_ref().map(|actor| format!("for {actor}"));
    let took = run.duration(now).map(|took| format!("after {}", in_short(took)));
    let at = (!run.is_over() && !run.task.is_empty()).then(|| format!("at task {}", run.task));
    let more: Vec<String> = [playbook, actor, took, at].into_iter().flatten().collect();
    if more.is_empty() {
        format!("{name}: {state}")
    } else {
        format!("{name}: {state} ({})", more.join(", "))
    }
}

/// What means something in Slack's texts (`mrkdwn`), as itself.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slack_would_obey_is_shown() {
        assert_eq!(escaped("<!channel> a && b"), "&lt;!channel&gt; a &amp;&amp; b");
    }
}
