//! The runs of a playbook over time: how long they took, and how they ended.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use super::{
    book::Shared,
    name::address_of,
    page::{class_of, time},
};
use crate::runs::{Run, in_short};

/// So many runs, the newest.
const MOST: usize = 200;
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 160.0;
/// Around the marks, for the numbers.
const LEFT: f64 = 56.0;
const EDGE: f64 = 20.0;

struct Mark<'a> {
    run: &'a Run,
    x: f64,
    y: f64,
    state: &'static str,
    took: Duration,
}

/// `runs`: the newest first.
pub(super) fn plot(runs: &[&Run], shared: &Shared, now: SystemTime) -> Markup {
    let known: Vec<(&Run, SystemTime, Duration)> =
        runs.iter().filter_map(|run| Some((*run, run.started?, run.duration(now)?))).take(MOST).collect();
    let first = known.iter().map(|(_, started, _)| *started).min();
    let last = known.iter().map(|(_, started, _)| *started).max();
    let longest = known.iter().map(|(_, _, took)| took.as_secs_f64()).fold(1.0, f64::max);
    let Some((first, last)) = first.zip(last) else { return html! {} };
    let span = last.duration_since(first).unwrap_or_default().as_secs_f64();
    let marks: Vec<Mark<'_>> = known
        .iter()
        .map(|(run, started, took)| {
            let since = started.duration_since(first).unwrap_or_default().as_secs_f64();
            let part = if span > 0.0 { since / span } else { 0.5 };
            let x = LEFT + part * (WIDTH - LEFT - EDGE);
            let y = HEIGHT - EDGE - took.as_secs_f64() / longest * (HEIGHT - 2.0 * EDGE);
            Mark { run, x, y, state: shared.state(run, now).as_str(), took: *took }
        })
        .collect();
    let top = in_short(Duration::from_secs_f64(longest));
    let failed = marks.iter().filter(|mark| class_of(mark.state) == "bad").count();
    html! {
        figure.plot {
            // The list below says the same to whoever does not see it.
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } aria-hidden="true" {
                line.axis x1=(LEFT) y1=(EDGE) x2=(LEFT) y2=(HEIGHT - EDGE) {}
                line.axis x1=(LEFT) y1=(HEIGHT - EDGE) x2=(WIDTH - EDGE) y2=(HEIGHT - EDGE) {}
                text.label x=(LEFT - 6.0) y=(EDGE + 4.0) text-anchor="end" { (top) }
                text.label x=(LEFT - 6.0) y=(HEIGHT - EDGE + 4.0) text-anchor="end" { "0s" }
                @for mark in &marks {
                    a href=(address_of(mark.run)) tabindex="-1" {
                        circle.mark.(class_of(mark.state)) cx=(rounded(mark.x)) cy=(rounded(mark.y)) r="4" {
                            title { (mark.run.ident) ": " (mark.state) ", " (in_short(mark.took)) }
                        }
                    }
                }
            }
            figcaption { "How long the last " (marks.len()) " runs took, from " (time(Some(first), now)) " to " (time(Some(last), now)) ". " (failed) " did not succeed." }
        }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
