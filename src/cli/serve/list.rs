//! The page with all runs.

use std::{collections::HashMap, time::SystemTime};

use maud::{Markup, html};

use super::{
    book::{Book, Shared},
    fingerprint::fingerprint,
    name::address_of,
    page::{self, ago, badge, class_of, count_of, time},
    part::Known,
    plot,
    url::with_query,
    view::place_in_time,
    wanted::{UNSUCCESSFUL, Wanted, is_of, words},
    why,
};
use crate::runs::{Run, Status, in_short};

/// Runs on a page.
const ROWS: usize = 100;
/// Of a playbook's runs so many are small squares.
const SQUARES: usize = 10;

pub(super) fn page(shared: &Shared, wanted: &Wanted, known: &Known) -> Markup {
    let now = shared.now();
    let book = shared.book();
    let filter = wanted.filter(now);
    let all = filter.of(&book.runs, shared, now);
    let runs: Vec<&Run> =
        all.iter().copied().filter(|run| wanted.has_state(shared.state(run, now))).collect();
    let pages = runs.len().div_ceil(ROWS).max(1);
    let number = wanted.page.parse::<usize>().unwrap_or(1).saturating_sub(1).min(pages - 1);
    let shown = runs.iter().copied().skip(number * ROWS).take(ROWS);
    let histories = histories(&book);
    let content = html! {
        h1 { "Runs" }
        (known.part("chips", "bar", chips(&all, wanted, shared, now)))
        (form(wanted))
        (known.part("problems", "", html! { @for problem in &filter.problems { p.bad role="alert" { (problem) } } }))
        @if !wanted.playbook.is_empty() { (known.part("plot", "", plot::plot(&runs, shared, now))) }
        table.runs {
            caption.away { "Runs, the newest first" }
            colgroup { @for name in ["state", "run", "playbook", "what", "hosts", "when", "took"] { col.(name); } }
            thead {
                tr {
                    @for name in ["state", "run", "playbook, up to this run", "what is wrong, or where it is", "hosts", "started", "took"] {
                        th scope="col" { (name) }
                    }
                }
            }
            tbody #rows {
                @for run in shown {
                    (known.row(&format!("r{}", fingerprint(&address_of(run))), row(run, &histories, shared, now)))
                }
            }
        }
        (known.part("pager", "bar", pager(wanted, number, pages, runs.len())))
    };
    let line = known.part("source", "m", source(&book));
    page::page(&book, shared, known, "Runs", &line, &content)
}

/// Where all of it comes from.
fn source(book: &Book) -> Markup {
    html! {
        @if let Ok(server) = book.link() { (server) }
        @if !book.streams.is_empty() { " · stream " (book.streams.join(", ")) }
    }
}

/// How many are in which state, of those that one looks for; each is a link to those.
fn chips(all: &[&Run], wanted: &Wanted, shared: &Shared, now: SystemTime) -> Markup {
    let states: Vec<Status> = all.iter().map(|run| shared.state(run, now)).collect();
    let count_of = |word: &str| states.iter().filter(|state| is_of(**state, word)).count();
    // One that says the same is enough.
    let mut bad = states.iter().filter(|state| is_of(**state, UNSUCCESSFUL));
    let is_one_state = bad.next().is_some_and(|first| bad.all(|state| state == first));
    html! {
        @for word in words() {
            @let count = count_of(word);
            @let is_on = wanted.state == word;
            @if is_on || if word == UNSUCCESSFUL { !is_one_state } else { count > 0 } {
                a.chip.(if word == UNSUCCESSFUL { "bad" } else { class_of(word) }) href=(wanted.toggled(word).address(0)) aria-current=[is_on.then_some("true")] {
                    @if word == UNSUCCESSFUL { "not successful" } @else { (word) }
                    " " b { (count) }
                }
            }
        }
    }
}

fn form(wanted: &Wanted) -> Markup {
    let Wanted { q, state, playbook, since, until, .. } = wanted;
    html! {
        form #filter.bar role="search" method="get" action="/" {
            input type="search" name="q" value=(q) size="34" placeholder="text of a run, or host:web03" title="Of its ident, playbook, task, host, reason or for whom it runs; several words must all be there; host:, task: and for: mean that alone" aria-label="Find";
            label { "active since " input name="since" value=(since) size="16" list="times" placeholder="any time" title=(TIMES); }
            label { "begun until " input name="until" value=(until) size="16" list="times" placeholder="now" title=(TIMES); }
            datalist #times { @for time in ["1h", "8h", "24h", "7d", "today", "yesterday"] { option value=(time) {} } }
            @if !playbook.is_empty() { label { "playbook " input name="playbook" value=(playbook); } }
            input type="hidden" name="state" value=(state);
            button { "Show" }
            " " a href="/" { "clear" }
        }
    }
}

const TIMES: &str = "8h, yesterday, 2026-11-29, or 2026-11-29T03:00 in UTC";

/// The runs of each playbook, by subject id, the oldest first.
type Histories<'a> = HashMap<(&'a str, &'a str), Vec<&'a Run>>;

fn histories(book: &Book) -> Histories<'_> {
    let mut histories = Histories::new();
    for (_, run) in book.runs.all().filter(|(_, run)| !run.playbook.is_empty()) {
        histories.entry(run.course()).or_default().push(run);
    }
    for runs in histories.values_mut() {
        runs.sort_by_key(|run| place_in_time(run));
    }
    histories
}

fn row(run: &Run, histories: &Histories<'_>, shared: &Shared, now: SystemTime) -> Markup {
    let state = shared.state(run, now);
    let what = why::in_a_line(run, state, now);
    html! {
        td { (badge(state)) }
        td title=(run.ident) {
            a href=(address_of(run)) { (run.ident) } " " span.m { (run.subject_id) }
        }
        td title=(run.playbook) {
            @if let Some(history) = histories.get(&run.course()) {
                div.history {
                    a.plain href=(with_query("/", &[("playbook", &run.playbook)])) { (run.playbook) }
                    (squares(run, history, shared, now))
                }
            }
        }
        td.what title=(what.title) { (what.line) }
        td { (run.tasks.hosts().count()) span.narrow { " hosts" } @if run.recap.changed > 0 { " " span.changed { "~" (run.recap.changed) } } }
        td { (time(run.started, now)) @if let Some(started) = run.started { " " small.m { (ago(started, now)) } } }
        td.number { (run.duration(now).map_or_else(|| "–".to_owned(), in_short)) }
    }
}

/// How the last runs of its playbook went, up to this one.
fn squares(run: &Run, history: &[&Run], shared: &Shared, now: SystemTime) -> Markup {
    let end = history.partition_point(|other| place_in_time(other) <= place_in_time(run));
    let shown = history.get(end.saturating_sub(SQUARES)..end).unwrap_or_default();
    let good = shown.iter().filter(|run| shared.state(run, now) == Status::Successful).count();
    html! {
        span.squares role="img" aria-label={ (good) " of the last " (shown.len()) " were successful" } {
            @for run in shown {
                @let state = shared.state(run, now);
                i.(class_of(state.as_str())) title={ (run.ident) ": " (state.as_str()) } {}
            }
        }
    }
}

fn pager(wanted: &Wanted, number: usize, pages: usize, count: usize) -> Markup {
    html! {
        @if count == 0 {
            "No run is like this. " a href="/" { "Clear the filter" }
        } @else {
            nav aria-label="Pages" {
                @if number > 0 { a rel="prev" href=(wanted.address(number - 1)) { "newer" } " " }
                (count_of(count, "run"))
                @if pages > 1 { ", page " (number + 1) " of " (pages) }
                @if number + 1 < pages { " " a rel="next" href=(wanted.address(number + 1)) { "older" } }
            }
        }
    }
}
