//! The page with all runs, and what of them is wanted.

use std::time::SystemTime;

use maud::{Markup, html};
use serde::Deserialize;

use super::{
    book::{Book, Shared},
    page::{self, address_of, badge, counts, duration, in_url, time},
    plot,
};
use crate::runs::{Run, Runs, Status};

/// Runs on a page.
const ROWS: usize = 100;

/// Which runs are wanted: what the URL says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    /// In the ident, the subject id, the playbook or the task.
    q: String,
    state: String,
    /// Exactly this one.
    playbook: String,
    page: String,
}

impl Wanted {
    /// These runs, the newest first.
    pub(super) fn of<'a>(&self, runs: &'a Runs, shared: &Shared, now: SystemTime) -> Vec<&'a Run> {
        let query = self.q.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&query);
        let is_wanted = |run: &&Run| {
            (self.state.is_empty() || shared.state(run, now) == self.state)
                && (self.playbook.is_empty() || run.playbook == self.playbook)
                && (query.is_empty()
                    || [&run.ident, &run.subject_id, &run.playbook, &run.task]
                        .into_iter()
                        .any(|text| has(text)))
        };
        let mut found: Vec<(u64, &Run)> = runs.all().filter(|(_, run)| is_wanted(run)).collect();
        found.sort_by(|(a, one), (b, other)| other.started.cmp(&one.started).then(b.cmp(a)));
        found.into_iter().map(|(_, run)| run).collect()
    }

    /// The address of a page of them.
    fn address(&self, page: usize) -> String {
        let Self { q, state, playbook, .. } = self;
        let page = if page == 0 { String::new() } else { (page + 1).to_string() };
        let pairs = [("q", q), ("state", state), ("playbook", playbook), ("page", &page)];
        let given = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", in_url(value))).collect();
        if query.is_empty() { "/".to_owned() } else { format!("/?{}", query.join("&")) }
    }
}

pub(super) fn page(shared: &Shared, wanted: &Wanted) -> Markup {
    let now = SystemTime::now();
    let book = shared.book();
    let runs = wanted.of(&book.runs, shared, now);
    let number = wanted.page.parse::<usize>().unwrap_or(1).saturating_sub(1);
    let pages = runs.len().div_ceil(ROWS).max(1);
    let number = number.min(pages - 1);
    let shown: Vec<&Run> = runs.iter().copied().skip(number * ROWS).take(ROWS).collect();
    let content = html! {
        h1 { "Runs of ansible-runner" }
        (summary(&book, shared, now))
        (form(wanted))
        @if !wanted.playbook.is_empty() { (plot::plot(&runs, shared, now)) }
        div.wide {
            table #runs aria-label="Runs, the newest first" {
                thead {
                    tr {
                        @for name in ["state", "run", "playbook", "at", "tasks", "results", "started", "took"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody #rows data-keyed {
                    @for run in &shown { (row(run, shared, now)) }
                }
            }
        }
        p #none { @if shown.is_empty() { "No run is like this (yet)." } }
        (pager(wanted, number, pages, runs.len()))
    };
    page::page(&book, shared, "Runs", &content)
}

/// How many are in which state; each is a link to those.
fn summary(book: &Book, shared: &Shared, now: SystemTime) -> Markup {
    let count = |state: &str| book.runs.all().filter(|(_, run)| shared.state(run, now) == state).count();
    html! {
        ul #summary.summary aria-label="Runs by state" {
            @for state in Status::ALL.map(Status::as_str) {
                @let count = count(state);
                @if count > 0 {
                    li { a href={ "/?state=" (state) } { (badge(state)) " " b { (count) } } }
                }
            }
        }
    }
}

fn form(wanted: &Wanted) -> Markup {
    html! {
        form #filter role="search" method="get" action="/" {
            label { "Find " input type="search" name="q" value=(wanted.q) placeholder="ident, playbook, task"; }
            label {
                "State "
                select name="state" {
                    option value="" { "any" }
                    @for state in Status::ALL.map(Status::as_str) { option value=(state) selected[wanted.state == state] { (state) } }
                }
            }
            @if !wanted.playbook.is_empty() {
                label { "Playbook " input name="playbook" value=(wanted.playbook); }
            }
            button { "Show" }
            @if wanted.address(0) != "/" { a href="/" { "all" } }
        }
    }
}

fn row(run: &Run, shared: &Shared, now: SystemTime) -> Markup {
    let state = shared.state(run, now);
    html! {
        tr id={ "run-" (run.subject_id) "/" (run.ident) "/" (run.identity.map(|one| one.to_string()).unwrap_or_default()) } {
            td { (badge(state)) }
            td.run {
                a href=(address_of(run)) { (run.ident) }
                @if !run.subject_id.is_empty() { " " span.faint { (run.subject_id) } }
            }
            td {
                @if !run.playbook.is_empty() {
                    a.plain href={ "/?playbook=" (in_url(&run.playbook)) } { (run.playbook) }
                }
            }
            td.task { @if !run.is_over() { (run.task) } }
            td.number { (tasks(run)) }
            td.counts {
                @if run.has_events() { (counts(&run.recap)) }
                @if run.missing() > 0 { span.count.missing { "missing=" (run.missing()) } }
            }
            td.when { (time(run.started)) }
            td.number { (duration(run, now)) }
        }
    }
}

/// How far it is.
pub(super) fn tasks(run: &Run) -> Markup {
    html! {
        @if run.task_count > 0 {
            @match run.known_tasks.filter(|_| !run.is_over()) {
                Some(known) => {
                    progress max=(known.max(run.task_count)) value=(run.task_count) aria-label="Tasks" {}
                    " " (run.task_count) "/" (known)
                }
                None => (run.task_count),
            }
        }
    }
}

fn pager(wanted: &Wanted, number: usize, pages: usize, count: usize) -> Markup {
    html! {
        nav #pager aria-label="Pages" {
            @if number > 0 { a rel="prev" href=(wanted.address(number - 1)) { "newer" } " " }
            (count) @if count == 1 { " run" } @else { " runs" }
            @if pages > 1 { ", page " (number + 1) " of " (pages) }
            @if number + 1 < pages { " " a rel="next" href=(wanted.address(number + 1)) { "older" } }
        }
    }
}
