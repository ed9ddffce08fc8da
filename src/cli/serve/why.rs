//! What went wrong, and what is waited for: on one line, and in full.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    name::{line_address, of_host},
    page::count_of,
};
use crate::{
    cli::terminal::first_of,
    harmless::one_line,
    runs::{Failure, Fate, Run, Status, Waiting, in_short, without_colors},
};

/// Failures of one task for one reason.
pub(super) struct Group<'a> {
    /// The first of them tells for all.
    pub(super) first: &'a Failure,
    /// Where, and the events that say so.
    pub(super) hosts: Vec<(&'a str, u64)>,
}

/// The same failure on several hosts is one. A reason often has the host's name in it.
pub(super) fn groups(run: &Run) -> Vec<Group<'_>> {
    let key = |failure: &Failure| {
        (failure.fate.as_str(), failure.task.clone(), failure.why.replace(&failure.host, "*"))
    };
    let mut groups: Vec<(_, Group<'_>)> = Vec::new();
    for failure in &run.failures {
        let key = key(failure);
        let host = (failure.host.as_str(), failure.counter);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.hosts.push(host),
            None => groups.push((key, Group { first: failure, hosts: vec![host] })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// What is the matter with a run.
pub(super) struct Line {
    pub(super) line: Markup,
    /// All of it, where there is too little room.
    pub(super) title: String,
}

/// What is the matter with a run, or where it is.
pub(super) fn in_a_line(run: &Run, state: Status, now: SystemTime) -> Line {
    let groups = groups(run);
    let bad = groups.iter().filter(|group| group.first.counts());
    if !run.is_over() {
        // What has failed may still be rescued: where it is comes first.
        let failed: usize = bad.map(|group| group.hosts.len()).sum();
        return where_it_is(run, state, failed, now);
    }
    // Why the run was cut short, if it was, comes first.
    if let Some(group) = bad.min_by_key(|group| !group.first.is_of_run()) {
        let Failure { host, task, why, .. } = group.first;
        let more = group.hosts.len() - 1;
        let host = if more > 0 { format!("{host} +{more}") } else { host.clone() };
        if group.first.is_of_run() {
            return Line { line: html! { (why) }, title: why.clone() };
        }
        let title = format!("{host} · {task} · {why}");
        return Line { line: html! { b { (host) } " · " (task) " · " (why) }, title };
    }
    let at = if state == Status::Successful { "" } else { run.task.as_str() };
    Line { line: html! { span.m { (at) } }, title: at.to_owned() }
}

/// Of a run that goes on: `silent for 5m00s · waits 12s for web03 · TASK · 1 failed so far`.
fn where_it_is(run: &Run, state: Status, failed: usize, now: SystemTime) -> Line {
    let silent = (state == Status::Silent).then(|| format!("silent for {}", in_short(run.silence(now))));
    let task = Some(run.task.clone()).filter(|task| !task.is_empty());
    let failed = (failed > 0).then(|| format!("{failed} failed so far"));
    // For how long comes first: there is little room.
    let parts = [silent, waiting_in_a_line(&run.waiting(), now), task, failed];
    let title = parts.into_iter().flatten().collect::<Vec<_>>().join(" · ");
    Line { line: html! { (title) }, title }
}

/// For whom it waits: `waits 12s for web03, web04 and 2 more`.
fn waiting_in_a_line(waiting: &[Waiting<'_>], now: SystemTime) -> Option<String> {
    const NAMED: usize = 2;
    let first = waiting.iter().filter_map(|one| one.since).min();
    let hosts: Vec<&str> = waiting.iter().map(|one| one.host).collect();
    let time = first.and_then(|first| now.duration_since(first).ok()).map(in_short);
    let time = time.map(|time| format!("{time} ")).unwrap_or_default();
    (!waiting.is_empty()).then(|| format!("waits {time}for {}", first_of(&hosts, NAMED)))
}

/// What comes first on a run's page.
pub(super) fn in_full(run: &Run, address: &str, now: SystemTime) -> Markup {
    let (bad, other): (Vec<_>, Vec<_>) = groups(run).into_iter().partition(|group| group.first.counts());
    let waiting = run.waiting();
    html! {
        @if !waiting.is_empty() {
            h2 { @if run.is_over() { "In the end it waited for" } @else { "Waits for" } }
            div.waits { (waits(&waiting, address, run.end_or(now))) }
        }
        @if !bad.is_empty() {
            h2 { "What went wrong" }
            @for group in &bad { div.why { (told(group, address)) } }
        }
        @if !other.is_empty() {
            details #other {
                summary.m { (dealt_with(&other)) }
                @for group in &other { div.other { (told(group, address)) } }
            }
        }
    }
}

fn waits(waiting: &[Waiting<'_>], address: &str, now: SystemTime) -> Markup {
    const NAMED: usize = 20;
    html! {
        ul {
            @for one in waiting.iter().take(NAMED) {
                li {
                    b { a href=(of_host(address, one.host)) { (one.host) } } " in " (one.task)
                    @if let Some(time) = one.since.and_then(|since| now.duration_since(since).ok()) { ", for " (in_short(time)) }
                }
            }
            @if waiting.len() > NAMED { li { "and " (waiting.len() - NAMED) " more" } }
        }
    }
}

/// `2 ignored, 1 rescued`.
fn dealt_with(groups: &[Group<'_>]) -> String {
    let count = |fate: Fate| {
        let hosts = groups.iter().filter(|group| group.first.fate == fate).map(|group| group.hosts.len());
        (hosts.sum::<usize>(), fate.as_str())
    };
    let counts = [count(Fate::Ignored), count(Fate::Rescued)];
    let given = counts.iter().filter(|(count, _)| *count > 0);
    given.map(|(count, fate)| format!("{count} {fate}")).collect::<Vec<_>>().join(", ")
}

fn told(group: &Group<'_>, address: &str) -> Markup {
    const NAMED: usize = 20;
    let Failure { counter, task, host, fate, why, details, .. } = group.first;
    let more = group.hosts.len().saturating_sub(NAMED);
    html! {
        b.(fate.as_str()) { (fate.as_str()) }
        @if !group.first.is_of_run() {
            " on "
            @for (place, (name, counter)) in group.hosts.iter().take(NAMED).enumerate() {
                @if place > 0 { ", " }
                b { a href=(line_address(address, *counter)) { (name) } }
            }
            @if more > 0 { " and " (count_of(more, "host")) " more" }
            " in " a href=(line_address(address, *counter)) { (task) }
        }
        ": " b { (why) }
        // The reason itself is not said twice.
        @let details = if details.first() == Some(why) { details.get(1..).unwrap_or_default() } else { details };
        @if !details.is_empty() {
            @if group.hosts.len() > 1 { div.m { "On " (host) ":" } }
            pre { @for line in details { (one_line(&without_colors(line))) "\n" } }
        }
    }
}
