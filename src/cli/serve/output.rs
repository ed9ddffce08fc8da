//! What a run printed, task by task: it is the list of its tasks, too.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use maud::{Markup, html};
use serde::Deserialize;

use super::{
    book::{Book, Shared},
    colors::colored,
    name::address_of,
    page::{self, count_of},
    part::Known,
    url::with_query,
    view::{Sign, TaskView},
};
use crate::runs::{Outcome, Piece, Run, precisely, without_colors};

/// Of what a task printed, so many events at once: its beginning and its end, and what is around a line that is meant.
const HEAD: usize = 100;
const TAIL: usize = 300;
const AROUND: usize = 100;
/// A run that has printed no more lines than this is sent whole: then a browser finds any of them, and prints them all.
const WHOLE: usize = 2_000;
/// Of lines that are looked for, so many.
const FOUND: usize = 2_000;
/// So many tasks are one part: of thousands only those are sent that have changed.
const PART: usize = 20;

/// What of a run is wanted, as the URL says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    /// Words that are in the line, or in the name of its host (`host:web03`) or its task (`task:restart`).
    pub(super) q: String,
    /// How it went: `failed`, `changed`, ….
    pub(super) result: String,
    /// Which tasks are open, if not those that are worth it: `all`, with all that they printed, or `none`.
    pub(super) open: String,
    /// The event of a line that somebody means.
    pub(super) line: Option<u64>,
    /// `all`: each host has a row of its own.
    pub(super) hosts: String,
}

/// Which lines.
#[derive(Debug, Deserialize)]
pub(super) struct Range {
    /// Events, the first and the one behind the last.
    from: u64,
    #[serde(default = "end")]
    to: u64,
    /// Only those after this one, and up to that one.
    #[serde(default)]
    after: Option<u64>,
    #[serde(default = "end")]
    last: u64,
}

fn end() -> u64 {
    u64::MAX
}

/// A task, or what was printed before the first and after the last.
struct Section<'a> {
    name: &'a str,
    from: u64,
    to: u64,
    task: Option<&'a TaskView<'a>>,
    /// What was printed, by event.
    printed: Vec<Piece<'a>>,
}

/// Some lines alone: those that a gap stands for, and those of a task that is opened.
pub(super) fn page(shared: &Shared, book: &Book, run: &Run, range: &Range, known: &Known) -> Markup {
    let address = address_of(run);
    let Range { from, to, after, last } = *range;
    let to = to.min(last.saturating_add(1));
    let from = after.map_or(from, |after| from.max(after.saturating_add(1)));
    let printed: Vec<Piece<'_>> = printed(run, from, to).collect();
    let last = printed.last().map(|one| one.counter).or(after);
    let line = html! { h1 { a href=(address) { (run.ident) } } };
    let content = html! {
        h2 { "Some of its output" }
        div.out data-src="" data-after=[last] { (lines(&printed, &address, None, false)) }
    };
    page::page(book, shared, known, &run.ident, &line, &content)
}

fn printed(run: &Run, from: u64, to: u64) -> impl Iterator<Item = Piece<'_>> {
    run.output.from(from).take_while(move |one| one.counter < to)
}

/// The tasks with what they printed.
pub(super) fn output(
    run: &Run,
    tasks: &[TaskView<'_>],
    look: &Look,
    known: &Known,
    now: SystemTime,
) -> Markup {
    let address = address_of(run);
    let sections = sections(run, tasks);
    let finder = Finder::new(look, tasks);
    html! {
        h2 #output { "Output" }
        form #find.bar role="search" method="get" action=(address) {
            input type="search" name="q" value=(look.q) placeholder="text, host:web03" aria-label="Find in the output";
            select name="result" aria-label="Result" {
                option value="" { "all results" }
                @for result in Finder::RESULTS { option value=(result) selected[look.result == result] { (result) } }
            }
            button { "Show" }
            @if finder.is_none() {
                " " a.button href=(with_query(&address, &[("open", "all")])) { "open all" }
                " " a.button href=(with_query(&address, &[("open", "none")])) { "close all" }
            } @else {
                " " a href={ (address) "#output" } { "clear" }
            }
            span.m { "a line's number is a link to it" }
        }
        @match &finder {
            Some(finder) => (known.part("found", "", finder.found(&sections, &address))),
            None => (task_list(run, &sections, look, known, &address, now)),
        }
    }
}

/// A section for each task, one for what came before, and one for ansible's last words.
fn sections<'a>(run: &'a Run, tasks: &'a [TaskView<'a>]) -> Vec<Section<'a>> {
    let first = tasks.first().map_or(u64::MAX, |task| task.from);
    let last = tasks.last().map_or(0, |task| task.from);
    let is_recap = |one: &Piece<'_>| without_colors(one.text).trim_start().starts_with("PLAY RECAP");
    let recap = printed(run, last, u64::MAX).find(is_recap).map_or(u64::MAX, |one| one.counter);
    let section = |name, from, to: u64, task| {
        let printed = printed(run, from, to.min(if from < recap { recap } else { to })).collect();
        Section { name, from, to, task, printed }
    };
    let mut sections = vec![section("before the first task", 0, first, None)];
    sections.extend(tasks.iter().map(|task| section(task.name, task.from, task.to, Some(task))));
    sections.push(section("PLAY RECAP", recap, u64::MAX, None));
    sections.retain(|section| section.task.is_some() || !section.printed.is_empty());
    sections
}

fn task_list(
    run: &Run,
    sections: &[Section<'_>],
    look: &Look,
    known: &Known,
    address: &str,
    now: SystemTime,
) -> Markup {
    let count: usize = sections.iter().map(|section| line_count(&section.printed)).sum();
    let span = run.started.and_then(|started| match run.ended {
        Some(ended) => Some((started, ended.duration_since(started).ok()?)),
        None => Some((started, scale(now.duration_since(started).ok()?))),
    });
    let last = sections.iter().rposition(|section| section.task.is_some());
    let waiting = run.waiting();
    let is_waited_for = |task: &TaskView<'_>| {
        let is_it = |host: &str| waiting.iter().any(|one| one.host == host && one.task == task.name);
        task.steps.iter().any(|step| step.sign == Sign::Open && is_it(step.host))
    };
    let view = |place: usize, section: &Section<'_>, with_lines: bool| {
        let is_current = !run.is_over() && Some(place) == last;
        let sign = section
            .task
            .map_or(Sign::Ended(Outcome::Skipped), |task| task.sign(is_current || is_waited_for(task)));
        let has_line = look.line.is_some_and(|line| (section.from..section.to).contains(&line));
        let is_open = match look.open.as_str() {
            "all" => true,
            "none" => has_line,
            _ => {
                has_line
                    || sign.rank() == 0
                    || sign == Sign::Open
                    || section.task.is_none() && section.from > 0
            }
        };
        let is_sent = with_lines && (is_open || count <= WHOLE);
        let lines = Lines { is_sent, is_whole: count <= WHOLE };
        details(section, sign, is_open, &lines, look, span, address)
    };
    html! {
        @if run.output.is_cut_off() {
            p.m { "Only the end of what it printed is remembered here: " a href={ "/api" (address) "/log" } { "all of it, as text" } "." }
        }
        @for (number, part) in sections.chunks(PART).enumerate() {
            @let views = |with_lines| html! {
                @for (place, section) in part.iter().enumerate() { (view(number * PART + place, section, with_lines)) }
            };
            (known.part_with_more(&format!("p{number}"), views(false), || views(true)))
        }
    }
}

/// Which of a task's lines a browser has.
struct Lines {
    /// They are sent now.
    is_sent: bool,
    /// It has all of them at any time, whatever is open: so that it finds them.
    is_whole: bool,
}

fn details(
    section: &Section<'_>,
    sign: Sign,
    is_open: bool,
    lines_of: &Lines,
    look: &Look,
    span: Option<(SystemTime, Duration)>,
    address: &str,
) -> Markup {
    let Section { name, from, to, task, printed } = section;
    let Lines { is_sent, is_whole } = *lines_of;
    let last = printed.last().map(|one| one.counter);
    let (first, end) = (from.to_string(), to.to_string());
    let end = if *to == u64::MAX { "" } else { &end };
    let source = with_query(&format!("{address}/lines"), &[("from", &first), ("to", end)]);
    html! {
        details.task #{ "t" (from) } open[is_open] {
            summary {
                span.(sign.as_str()) title=(sign.as_str()) { (if task.is_some() { sign.glyph() } else { "·" }) }
                span.name title=(name) { (name) }
                (bar(*task, sign, span))
                span.number { @if let Some(took) = task.and_then(|task| task.took) { (precisely(took)) } }
                span.counts { @if let Some(task) = task { (counts(task)) } }
            }
            div.out #{ "o" (from) } data-src=(source) data-after=(last.filter(|_| is_sent).map(|last| last.to_string()).unwrap_or_default()) data-last=[last] data-whole[is_whole] {
                @if is_sent {
                    (lines(printed, address, look.line, look.open == "all"))
                } @else if !printed.is_empty() {
                    div { a.gap href=(source) { (count_of(line_count(printed), "line")) ": show" } }
                }
            }
        }
    }
}

/// The time that bars are drawn in while a run goes on: in few steps, so that what is long over does not change each second.
fn scale(time: Duration) -> Duration {
    const LEAST: u64 = 60;
    let steps = time.as_secs().div_ceil(LEAST).max(1).next_power_of_two();
    Duration::from_secs(LEAST.saturating_mul(steps))
}

/// When it was at it, and for how long, within the run.
fn bar(task: Option<&TaskView<'_>>, sign: Sign, span: Option<(SystemTime, Duration)>) -> Markup {
    const WIDTH: f64 = 1000.0;
    let place = task.zip(span).and_then(|(task, (started, span))| {
        let part =
            |time: Duration| (time.as_secs_f64() / span.as_secs_f64().max(0.001)).clamp(0.0, 1.0) * WIDTH;
        Some((part(task.began?.duration_since(started).ok()?), part(task.took?)))
    });
    html! {
        svg.gantt.(sign.as_str()) viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
            @if let Some((x, width)) = place {
                rect x=(format!("{:.1}", x.min(WIDTH - 3.0))) y="0" width=(format!("{:.1}", width.max(3.0))) height="10" {}
            }
        }
    }
}

/// How a task went on its hosts, the worst first. Where too much is known to keep each host, as ansible counts.
fn counts(task: &TaskView<'_>) -> Markup {
    let mut signs: BTreeMap<(u8, &str), u64> = BTreeMap::new();
    for step in &task.steps {
        *signs.entry((step.sign.rank(), step.sign.as_str())).or_default() += 1;
    }
    let signs: Vec<(&str, u64)> = signs.into_iter().map(|((_, name), count)| (name, count)).collect();
    let counts = if signs.is_empty() { task.recap.parts().to_vec() } else { signs };
    html! { @for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) { span.(name) { (count) " " (name) } " " } }
}

fn line_count(printed: &[Piece<'_>]) -> usize {
    printed.iter().map(|one| one.text.split('\n').count()).sum()
}

/// Lines with their numbers. Of too many, some; where others are missing, a line says so and has them.
fn lines(printed: &[Piece<'_>], address: &str, meant: Option<u64>, all: bool) -> Markup {
    let meant = meant.and_then(|line| printed.iter().position(|one| one.counter == line));
    let is_shown = |place: usize| {
        all || place < HEAD
            || place + TAIL >= printed.len()
            || meant.is_some_and(|meant| place.abs_diff(meant) <= AROUND)
    };
    let mut shown = Vec::new();
    let mut gap = None;
    for (place, event) in printed.iter().enumerate() {
        if is_shown(place) {
            // The last one is always shown: no gap is left at the end.
            shown.extend(gap.take().and_then(|from| printed.get(from..place)).map(Err));
            shown.push(Ok(*event));
        } else {
            gap.get_or_insert(place);
        }
    }
    html! {
        @for one in shown {
            @match one {
                Ok(one) => (event(&one, address)),
                Err(gap) => (gap_line(gap, address)),
            }
        }
    }
}

fn gap_line(gap: &[Piece<'_>], address: &str) -> Markup {
    let (Some(first), Some(last)) = (gap.first(), gap.last()) else { return html! {} };
    let (from, to) = (first.counter.to_string(), last.counter.saturating_add(1).to_string());
    let source = with_query(&format!("{address}/lines"), &[("from", &from), ("to", &to)]);
    html! { div { a.gap href=(source) { (count_of(line_count(gap), "more line")) ": show" } } }
}

/// What an event printed. The number of each line is a link to it; where it has none, its event's is there.
fn event(printed: &Piece<'_>, address: &str) -> Markup {
    let Piece { counter, line, text } = *printed;
    html! {
        @for (place, text) in (0..).zip(text.split('\n')) {
            @let id = if place == 0 { format!("e{counter}") } else { format!("e{counter}.{place}") };
            @let number = line.map_or(counter, |line| line.saturating_add(place));
            div id=(id) { a href={ (address) "?line=" (counter) "#" (id) } { (number) } span { (colored(text)) } }
        }
    }
}

/// Looks for lines.
struct Finder<'a> {
    words: Vec<String>,
    hosts: Vec<String>,
    tasks: Vec<String>,
    result: &'a str,
    /// Which host an event is of, and how it went there.
    steps: HashMap<u64, (&'a str, Sign)>,
}

impl<'a> Finder<'a> {
    const RESULTS: [&'static str; 7] =
        ["failed", "unreachable", "changed", "ok", "skipped", "ignored", "rescued"];

    /// `None`: nothing is looked for.
    fn new(look: &'a Look, tasks: &'a [TaskView<'_>]) -> Option<Self> {
        let (mut words, mut hosts, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for word in look.q.to_lowercase().split_whitespace() {
            match word.split_once(':') {
                Some(("host", host)) => hosts.push(host.to_owned()),
                Some(("task", task)) => names.push(task.to_owned()),
                _ => words.push(word.to_owned()),
            }
        }
        if hosts.is_empty() && names.is_empty() && words.is_empty() && look.result.is_empty() {
            return None;
        }
        let steps = tasks.iter().flat_map(|task| &task.steps);
        let steps = steps.map(|step| (step.counter, (step.host, step.sign))).collect();
        Some(Self { words, hosts, tasks: names, result: &look.result, steps })
    }

    fn has(&self, printed: &Piece<'_>) -> bool {
        let step = self.steps.get(&printed.counter);
        (self.result.is_empty() || step.is_some_and(|(_, sign)| sign.as_str() == self.result))
            && self.hosts.iter().all(|host| step.is_some_and(|(name, _)| name.to_lowercase().contains(host)))
            && (self.words.is_empty() || {
                let text = without_colors(printed.text).to_lowercase();
                self.words.iter().all(|word| text.contains(word))
            })
    }

    fn found(&self, sections: &[Section<'_>], address: &str) -> Markup {
        let mut left = FOUND;
        let mut found = Vec::new();
        let is_meant =
            |section: &&Section<'_>| self.tasks.iter().all(|task| section.name.to_lowercase().contains(task));
        for section in sections.iter().filter(is_meant) {
            let mut events: Vec<&Piece<'_>> = section.printed.iter().filter(|one| self.has(one)).collect();
            let all = events.len();
            events.truncate(left);
            left -= events.len();
            if all > 0 {
                found.push((section, events, all));
            }
        }
        let count: usize = found.iter().map(|(_, _, all)| all).sum();
        html! {
            p.m role="status" {
                @if count == 0 { "Nothing of it is like this." } @else { (count_of(count, "hit")) @if count > FOUND { ", the first " (FOUND) " of which are here" } }
            }
            @for (section, events, _) in &found {
                @if !events.is_empty() {
                    h3.name { (section.name) }
                    div.out { @for one in events { (event(one, address)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: u64) -> Vec<String> {
        (0..count).map(|n| format!("line {n}")).collect()
    }

    fn shown(texts: &[String], meant: Option<u64>, all: bool) -> String {
        let printed: Vec<Piece<'_>> =
            (1..).zip(texts).map(|(counter, text)| Piece { counter, line: None, text }).collect();
        lines(&printed, "/runs/a/b", meant, all).0
    }

    #[test]
    fn bars_of_a_run_that_goes_on_change_in_few_steps() {
        let scales: Vec<Duration> = (0..36_000).map(|second| scale(Duration::from_secs(second))).collect();
        let mut steps = scales.clone();
        steps.dedup();
        assert!(steps.len() < 12 && steps.is_sorted(), "{}", steps.len());
        assert!((0..).zip(&scales).all(|(second, scale)| *scale >= Duration::from_secs(second)));
    }

    #[test]
    fn what_is_left_out_is_a_line_that_has_it() {
        let texts = texts(10_000);
        let html = shown(&texts, None, false);
        assert_eq!(html.matches("<span>").count(), HEAD + TAIL);
        assert!(html.contains("/runs/a/b/lines?from=101&amp;to=9701\">9600 more lines: show"));
        assert!(html.contains(">line 99<") && !html.contains(">line 100<"));
        assert!(
            !html.contains(">line 9699<") && html.contains(">line 9700<") && html.contains(">line 9999<")
        );
    }

    #[test]
    fn the_line_that_is_meant_is_there_with_what_is_around_it() {
        let html = shown(&texts(10_000), Some(5_001), false);
        assert_eq!(html.matches("class=\"gap\"").count(), 2);
        assert!(html.contains("from=101&amp;to=4901") && html.contains("from=5102&amp;to=9701"));
        assert!(html.contains("id=\"e5001\"") && html.contains(">line 5000<"));
    }

    #[test]
    fn little_and_all_have_no_gap() {
        for (count, all) in [(0, false), (HEAD + TAIL, false), (10_000, true)] {
            let html = shown(&texts(count as u64), None, all);
            assert_eq!((html.matches("<span>").count(), html.matches("gap").count()), (count, 0));
        }
    }

    #[test]
    fn each_line_of_an_event_has_a_link_of_its_own() {
        let html =
            event(&Piece { counter: 7, line: Some(41), text: "a\n\u{1b}[0;31mb\u{1b}[0m" }, "/runs/a/b").0;
        assert!(html.contains(r#"id="e7"><a href="/runs/a/b?line=7#e7">41</a><span>a</span>"#));
        assert!(html.contains(
            r#"id="e7.1"><a href="/runs/a/b?line=7#e7.1">42</a><span><span class="c1">b</span></span>"#
        ));
    }
}
