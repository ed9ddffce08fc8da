//! Hosts × tasks: who did what at a glance.

use std::collections::{BTreeMap, HashMap};

use maud::{Markup, html};

use super::{
    name::{line_address, of_host},
    url::with_query,
    view::{Step, TaskView},
};
use crate::runs::precisely;

/// So many hosts have a row each; of more, those that are alike share one.
const HOSTS: usize = 30;
/// So many tasks have a column.
const TASKS: usize = 60;
/// Rows, however different hosts are.
const ROWS: usize = 200;

/// A row: hosts that are alike.
struct Row<'a> {
    hosts: Vec<&'a str>,
    /// By column.
    steps: HashMap<usize, &'a Step<'a>>,
}

/// `all`: each host has a row of its own.
pub(super) fn matrix(tasks: &[TaskView<'_>], address: &str, all: bool) -> Markup {
    let columns = columns(tasks);
    let (rows, count) = rows(&columns, all);
    let (shared, hidden) = (rows.len() < count, rows.len().saturating_sub(ROWS));
    if count == 0 {
        return html! {};
    }
    html! {
        h2 { "Hosts" }
        div.wide tabindex="0" role="region" aria-label="Hosts and tasks" {
            table.matrix {
                thead {
                    tr {
                        td {}
                        @for task in &columns { th scope="col" { a href={ "#t" (task.from) } title=(task.name) { (task.name) } } }
                    }
                }
                tbody {
                    @for row in rows.iter().take(ROWS) {
                        tr {
                            th scope="row" title=(row.hosts.join(", ")) {
                                @match row.hosts.as_slice() {
                                    [host] => a.plain href=(of_host(address, host)) { (host) },
                                    _ => (name(row, rows.len())),
                                }
                            }
                            @for place in 0..columns.len() { (cell(row, row.steps.get(&place).copied(), address)) }
                        }
                    }
                }
            }
        }
        p.m {
            (legend(&columns)) ". "
            @if columns.len() < tasks.len() {
                (columns.len()) " of " (tasks.len()) " tasks: first those in which something went wrong, or changed. "
            }
            @if hidden > 0 { (hidden) " more rows are not shown. " }
            @if shared { "Hosts that failed come first, and those that are alike share a row: " a href=(with_query(address, &[("hosts", "all")])) { "show all " (count) } "." }
        }
    }
}

/// The tasks that have a column: if there are too many, those that say most.
fn columns<'a>(tasks: &'a [TaskView<'a>]) -> Vec<&'a TaskView<'a>> {
    let mut columns: Vec<&TaskView<'_>> = tasks.iter().filter(|task| !task.steps.is_empty()).collect();
    if columns.len() > TASKS {
        columns.sort_by_key(|task| (task.sign(false).rank(), std::cmp::Reverse(task.from)));
        columns.truncate(TASKS);
        columns.sort_by_key(|task| task.from);
    }
    columns
}

/// The rows, and how many hosts there are.
fn rows<'a>(columns: &[&'a TaskView<'a>], all: bool) -> (Vec<Row<'a>>, usize) {
    let mut hosts: BTreeMap<&str, HashMap<usize, &Step<'_>>> = BTreeMap::new();
    for (place, task) in columns.iter().enumerate() {
        for step in &task.steps {
            hosts.entry(step.host).or_default().insert(place, step);
        }
    }
    let count = hosts.len();
    let shares = count > HOSTS && !all;
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut alike: HashMap<Vec<(usize, &str)>, usize> = HashMap::new();
    for (host, steps) in hosts {
        let mut key: Vec<(usize, &str)> =
            steps.iter().map(|(place, step)| (*place, step.sign.as_str())).collect();
        key.sort_unstable();
        let is_bad = steps.values().any(|step| step.sign.rank() == 0);
        let known = alike.get(&key).copied().filter(|_| shares && !is_bad);
        match known.and_then(|known| rows.get_mut(known)) {
            Some(row) => row.hosts.push(host),
            None => {
                alike.insert(key, rows.len());
                rows.push(Row { hosts: vec![host], steps });
            }
        }
    }
    // Who failed, then for whom it waits.
    let worst = |row: &Row<'_>| row.steps.values().map(|step| step.sign.rank()).min().unwrap_or(u8::MAX);
    rows.sort_by_key(|row| (worst(row).min(2), row.hosts.len() > 1));
    (rows, count)
}

/// What the signs mean that are there.
fn legend(columns: &[&TaskView<'_>]) -> Markup {
    let steps = columns.iter().flat_map(|task| &task.steps);
    let signs: BTreeMap<(u8, &str), &str> =
        steps.map(|step| ((step.sign.rank(), step.sign.as_str()), step.sign.glyph())).collect();
    html! {
        @for (place, ((_, word), glyph)) in signs.iter().enumerate() {
            @if place > 0 { ", " }
            span.(word) { (glyph) } " " (word)
        }
    }
}

fn name(row: &Row<'_>, rows: usize) -> String {
    match row.hosts.as_slice() {
        [host] => (*host).to_owned(),
        hosts if rows > 1 => format!("{} others", hosts.len()),
        hosts => format!("all {}", hosts.len()),
    }
}

fn cell(row: &Row<'_>, step: Option<&Step<'_>>, address: &str) -> Markup {
    let Some(step) = step else { return html! { td {} } };
    let (sign, glyph) = (step.sign.as_str(), step.sign.glyph());
    let took = step.took.map(|took| format!(", {}", precisely(took))).unwrap_or_default();
    html! {
        td.(sign) {
            @match row.hosts.as_slice() {
                [host] => a href=(line_address(address, step.counter)) title={ (host) ": " (sign) (took) } aria-label=(sign) { (glyph) },
                _ => span title=(sign) { (glyph) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::serve::view::Sign,
        runs::{Outcome, Recap},
    };

    const NONE: Recap =
        Recap { ok: 0, changed: 0, unreachable: 0, failed: 0, skipped: 0, rescued: 0, ignored: 0 };

    fn task(from: u64, steps: Vec<Step<'static>>) -> TaskView<'static> {
        TaskView { name: "t", from, to: from + 1, began: None, took: None, recap: &NONE, steps }
    }

    fn step(host: &'static str, outcome: Outcome) -> Step<'static> {
        Step { host, sign: Sign::Ended(outcome), began: None, took: None, counter: 1 }
    }

    fn many(count: usize) -> Vec<Step<'static>> {
        (0..count).map(|n| step(Box::leak(format!("h{n:04}").into_boxed_str()), Outcome::Ok)).collect()
    }

    #[test]
    fn who_failed_comes_first_and_who_is_alike_shares_a_row() {
        let mut steps = many(200);
        steps[101].sign = Sign::Ended(Outcome::Failed);
        steps[17].sign = Sign::Ended(Outcome::Unreachable);
        steps[5].sign = Sign::Ended(Outcome::Changed);
        let task = task(1, steps);
        let names = |all| {
            let (rows, count) = rows(&[&task], all);
            assert_eq!(count, 200);
            rows.iter().map(|row| name(row, rows.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["h0017", "h0101", "h0005", "197 others"]);
        assert_eq!((names(true).len(), names(true)[0].as_str()), (200, "h0017"));
    }

    #[test]
    fn few_hosts_have_a_row_each() {
        let task = task(1, many(HOSTS));
        assert_eq!(rows(&[&task], false).0.len(), HOSTS);
        let (rows, _) = rows(&[], false);
        assert!(rows.is_empty());
    }

    #[test]
    fn of_thousands_of_tasks_those_that_say_most_have_a_column() {
        let outcome = |from| if from == 7 { Outcome::Failed } else { Outcome::Ok };
        let tasks: Vec<TaskView<'_>> =
            (0..3000).map(|from| task(from, vec![step("a", outcome(from))])).collect();
        let columns = columns(&tasks);
        assert_eq!((columns.len(), columns[0].from, columns[TASKS - 1].from), (TASKS, 7, 2999));
    }
}
