//! The page of one run: its result, what went wrong, its hosts, its tasks and what they printed.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use super::{
    book::{Book, Shared},
    matrix::matrix,
    name::{address_of, name_address, run_id},
    output::{Look, output},
    page::{self, ago, badge, count_of, time},
    part::Known,
    url::with_query,
    view, why,
};
use crate::runs::{Run, Status, in_short};

/// `named`: all runs of this name, the last one first.
pub(super) fn page(
    shared: &Shared,
    book: &Book,
    run: &Run,
    named: &[&Run],
    look: &Look,
    known: &Known,
) -> Markup {
    let now = shared.now();
    let address = address_of(run);
    let tasks = view::tasks(run, now);
    let line = html! { (known.part("about", "about", about(shared, book, run, now))) (ways(run, &address)) };
    let content = html! {
        (known.part("notes", "notes", notes(run, named, shared, now)))
        (known.part("why", "", html! { (why::in_full(run, &address, now)) (since(book, run, now)) }))
        (known.part("hosts", "", matrix(&tasks, &address, look.hosts == "all")))
        @if run.tasks.is_empty() && !run.has_events() { p.m { "None of its events was heard: only what its state is." } }
        (output(run, &tasks, look, known, now))
    };
    page::page(book, shared, known, &run.ident, &line, &content)
}

/// What stays in sight.
fn about(shared: &Shared, book: &Book, run: &Run, now: SystemTime) -> Markup {
    let hosts = run.tasks.hosts().count();
    let took = run.duration(now);
    html! {
        h1 { (run.ident) }
        span #state { (badge(shared.state(run, now))) }
        @if !run.playbook.is_empty() { a href=(with_query("/", &[("playbook", &run.playbook)])) { (run.playbook) } }
        span.m {
            @if !run.subject_id.is_empty() { (run.subject_id) " · " }
            @if let Some(actor) = &run.actor { span title="on whose behalf" { "for " (actor) } " · " }
            @if let Some(host) = &run.host { span title="where ansible-runner was called" { "on " (host) } " · " }
            @if hosts > 0 { (count_of(hosts, "host")) " · " }
            (tasks_of(run)) " · started " (time(run.started, now))
            @if let Some(started) = run.started { " (" (ago(started, now)) ")" }
            @if let Some(took) = took {
                @if run.is_over() { " · took " } @else { " · for " }
                (in_short(took))
                @if let Some(median) = median(book, run, now) { ", usually " (in_short(median)) }
            }
        }
    }
}

/// How far it is.
fn tasks_of(run: &Run) -> String {
    let count = usize::try_from(run.task_count).unwrap_or(usize::MAX);
    match run.known_tasks.filter(|known| !run.is_over() && *known >= run.task_count) {
        Some(known) => format!("task {count} of {known}"),
        None => count_of(count, "task"),
    }
}

/// Since when its playbook fails there: the first of the runs up to this one that failed, and the last good one before.
fn since(book: &Book, run: &Run, now: SystemTime) -> Markup {
    if !run.status().is_failure() || run.playbook.is_empty() {
        return html! {};
    }
    let is_of_it = |other: &&Run| {
        other.course() == run.course()
            && (other.status().is_failure() || other.status() == Status::Successful)
    };
    let mut course: Vec<&Run> = book.runs.all().map(|(_, other)| other).filter(is_of_it).collect();
    course.sort_by_key(|other| view::place_in_time(other));
    let after = course.partition_point(|other| view::place_in_time(other) <= view::place_in_time(run));
    let again = course.split_off(after).into_iter().find(|other| other.status() == Status::Successful);
    let good = course.iter().rposition(|other| other.status() == Status::Successful);
    let bad = course.get(good.map_or(0, |good| good + 1)..).unwrap_or_default();
    let named = |other: &Run| html! { a href=(address_of(other)) { (other.ident) } " (" (time(other.started, now)) ")" };
    let there = if run.subject_id.is_empty() { String::new() } else { format!(" at {}", run.subject_id) };
    let good = good.and_then(|good| course.get(good));
    html! {
        @if let [first, _, ..] = bad {
            p {
                (run.playbook) @if again.is_some() { " failed" } @else { " has failed" } (there) " since " (named(first)) ", " (bad.len()) " runs; "
                @if let Some(good) = good { "the last good run was " (named(good)) "." } @else { "no good run is known." }
            }
        } @else if let Some(good) = good {
            p { "The run of " (run.playbook) (there) " before it, " (named(good)) ", was good." }
        }
        @if let Some(again) = again { p { "It was good again in " (named(again)) "." } }
    }
}

/// How long the other successful runs of its playbook took: half of them longer, half of them not so long.
fn median(book: &Book, run: &Run, now: SystemTime) -> Option<Duration> {
    let is_like = |other: &&Run| {
        other.playbook == run.playbook && other.status() == Status::Successful && !std::ptr::eq(*other, run)
    };
    let others = book.runs.all().map(|(_, other)| other).filter(is_like);
    let mut times: Vec<Duration> = others.filter_map(|other| other.duration(now)).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().filter(|_| !run.playbook.is_empty())
}

fn ways(run: &Run, address: &str) -> Markup {
    html! {
        span.ways {
            @if !run.is_over() { button #follow type="button" aria-pressed="false" data-mine hidden { "Follow" } " " }
            a href={ "/api" (address) "/log" } { "text" } " · " a href={ "/api" (address) } { "JSON" }
        }
    }
}

/// What one should know before one believes the rest.
fn notes(run: &Run, named: &[&Run], shared: &Shared, now: SystemTime) -> Markup {
    const NAMED: usize = 5;
    let others: Vec<&&Run> = named.iter().filter(|other| run_id(other) != run_id(run)).collect();
    let is_last = named.first().is_some_and(|last| run_id(last) == run_id(run));
    html! {
        @if !others.is_empty() {
            p.m {
                @if !is_last { "A later run has this ident: " a href=(name_address(run)) { "the last one" } ". " }
                "Others of this ident: "
                @for (place, other) in others.iter().take(NAMED).enumerate() {
                    @if place > 0 { ", " }
                    a href=(address_of(other)) { (time(other.started, now)) } " " (badge(shared.state(other, now)))
                }
                @if others.len() > NAMED { ", and " a href=(with_query("/", &[("q", &run.ident)])) { (others.len() - NAMED) " more" } }
            }
        }
        @if !run.is_over() && run.silence(now) > Duration::from_secs(10) { p.m { "Last heard of " (in_short(run.silence(now))) " ago." } }
        @if run.missing() > 0 { p.bad { (run.missing()) " events did not arrive." } }
        @if run.selects() { p.m { "Only some of its events are published (option events)." } }
        @if run.cut > 0 { p.odd { (run.cut) " messages were cut to fit." } }
    }
}
