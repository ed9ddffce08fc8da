//! The page of one run: its result, what went wrong, its tasks, what it prints.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    book::{Book, Shared},
    colors::colored,
    list::tasks,
    page::{self, address_of, badge, counts, duration, in_url, time},
    plot,
};
use crate::runs::{Run, in_short};

/// Of what was printed, so many lines; the whole is a link.
const LINES: usize = 1_000;
/// Failures that are shown.
const FAILURES: usize = 200;

/// `after`: of what was printed only what came after the event with this counter.
pub(super) fn page(shared: &Shared, book: &Book, run: &Run, after: Option<u64>) -> Markup {
    let now = SystemTime::now();
    let address = address_of(run);
    let state = shared.state(run, now);
    let mut others: Vec<&Run> = book
        .runs
        .all()
        .map(|(_, other)| other)
        .filter(|other| !run.playbook.is_empty() && other.playbook == run.playbook)
        .collect();
    others.sort_by_key(|other| std::cmp::Reverse(other.started));
    let content = html! {
        h1 { (run.ident) " " span #state { (badge(state)) } }
        dl #about.about {
            @if !run.subject_id.is_empty() { dt { "subject id" } dd { (run.subject_id) } }
            @if !run.playbook.is_empty() {
                dt { "playbook" }
                dd { a href={ "/?playbook=" (in_url(&run.playbook)) } { (run.playbook) } }
            }
            @if !run.is_over() && !run.task.is_empty() { dt { "at" } dd { (run.task) } }
            dt { "tasks" } dd { (tasks(run)) }
            dt { "results" } dd { (counts(&run.recap)) }
            dt { "started" } dd { (time(run.started)) }
            dt { "took" } dd { (duration(run, now)) }
            dt { "last heard" } dd { (time(run.last_event)) @if !run.is_over() { ", " (in_short(run.silence(now))) " ago" } }
            @if run.missing() > 0 { dt { "missing" } dd { (run.missing()) " events did not arrive" } }
            @if run.selects() { dt { "events" } dd { "only some are published (option events)" } }
            @if run.cut > 0 { dt { "cut" } dd { (run.cut) " messages were cut to fit" } }
            @if run.is_again { dt { "again" } dd { "an earlier run had this ident" } }
        }
        (failures(run))
        (task_table(run, now))
        section aria-label="Output" {
            h2 { "Output " a.more href={ "/api" (address) "/log" } { "all of it, as text" } }
            (output(run, after))
        }
        @if others.len() > 1 { (plot::plot(&others, shared, now)) }
    };
    page::page(book, shared, &run.ident, &content)
}

fn failures(run: &Run) -> Markup {
    html! {
        section #failures aria-label="Failures" {
            @if !run.failures.is_empty() {
                h2 { "What went wrong " span.faint { (run.failures.len()) } }
                @for failure in run.failures.iter().take(FAILURES) {
                    details id={ "failure-" (failure.counter) "-" (failure.host) } {
                        summary {
                            span.count.(failure.fate.as_str()) { (failure.fate.as_str()) } " "
                            b { (failure.host) } " · " (failure.task) " · " (failure.why)
                        }
                        pre { @for line in &failure.details { (line) "\n" } }
                    }
                }
                @if run.failures.len() > FAILURES { p { (run.failures.len() - FAILURES) " more are in the output." } }
            }
        }
    }
}

fn task_table(run: &Run, now: SystemTime) -> Markup {
    html! {
        section #tasks aria-label="Tasks" {
            @if !run.tasks.is_empty() {
                details #task-list {
                    summary { h2 { "Tasks " span.faint { (run.task_count) } } }
                    div.wide {
                        table {
                            thead { tr { th scope="col" { "task" } th scope="col" { "began" } th scope="col" { "took" } th scope="col" { "hosts" } } }
                            tbody {
                                @for task in run.tasks.iter() {
                                    tr {
                                        td { (task.name) }
                                        td.when { (time(task.began)) }
                                        td.number { @if let Some(took) = run.duration_of(task, now) { (format!("{:.1}", took.as_secs_f64())) " s" } }
                                        td.counts { (counts(&task.recap)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn output(run: &Run, after: Option<u64>) -> Markup {
    let printed: Vec<(u64, &str)> = run.output.since(after).collect();
    let skipped = printed.len().saturating_sub(LINES);
    let last = printed.last().map(|(counter, _)| *counter).or(after).unwrap_or(0);
    html! {
        @if after.is_none() && (skipped > 0 || run.output.is_cut_off()) {
            p.faint { "Only the end is shown." }
        }
        div #output.output role="log" tabindex="0" aria-label="What the job prints" data-after=(last) data-skipped=(skipped) {
            @for (counter, text) in printed.into_iter().skip(skipped) {
                div.l data-counter=(counter) { (colored(text)) }
            }
        }
    }
}
