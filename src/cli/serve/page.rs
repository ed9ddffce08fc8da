//! What all pages have in common. Every text from elsewhere is escaped by `maud`.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, html};

use super::{
    assets::ASSETS,
    book::{Book, Shared},
    part::Known,
};
use crate::{
    cli::terminal::{Tone, tone_of},
    message::in_utc,
    runs::Status,
};

/// A page: a line that stays in sight, and what is below it.
fn shell(title: &str, line: &Markup, content: &Markup, is_live: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · ansible-runner-nats" }
                link rel="icon" href=(ASSETS.icon.address) type="image/svg+xml";
                link rel="stylesheet" href=(ASSETS.style.address);
                script type="module" src=(ASSETS.script.address) data-listener=[is_live.then_some(&ASSETS.listener.address)] {}
            }
            body {
                a.skip href="#main" { "To the content" }
                header #line { (line) }
                main #main tabindex="-1" { (content) }
            }
        }
    }
}

/// A page about nothing that changes.
pub(super) fn bare(title: &str, content: &Markup) -> Markup {
    shell(title, &html! { a.home href="/" { "runs" } }, content, false)
}

/// A page that is kept up to date by `static/live.js`. `line`: what stands beside the way back to all runs.
pub(super) fn page(
    book: &Book,
    shared: &Shared,
    known: &Known,
    title: &str,
    line: &Markup,
    content: &Markup,
) -> Markup {
    let line = html! {
        a.home href="/" { "runs" }
        (line)
        (known.part("link", "link", link(book, known)))
        button #zone type="button" data-mine hidden {}
    };
    let content = html! { (content) (known.part("foot", "foot", foot(book, shared))) };
    if known.is_update() {
        return html! { header #line { (line) } main #main tabindex="-1" { (content) } };
    }
    shell(title, &line, &content, true)
}

/// Whether what is shown is what there is.
fn link(book: &Book, known: &Known) -> Markup {
    html! {
        @match book.link() {
            Ok(_) => {
                // Without the script nothing is.
                span #live role="status" { @if known.is_update() { "live" } @else { noscript { "as it was when it was loaded" } } }
            },
            Err(reason) => span.bad role="alert" { (reason) },
        }
    }
}

fn foot(book: &Book, shared: &Shared) -> Markup {
    html! {
        @if !book.has_caught_up {
            p role="status" { "Still reading what the stream has kept: " (book.runs.messages) " messages so far." }
        }
        p {
            @if book.streams.is_empty() {
                "No stream keeps what runs publish: only what came since the start is known. "
            } @else {
                "From stream " (book.streams.join(", ")) ", the last " (humantime::format_duration(shared.since)) ". "
            }
            noscript { "Times are in UTC. " }
            a href="/metrics" { "Metrics" } " · " a href="/api/runs" { "JSON" }
        }
    }
}

/// A page that says why there is none.
pub(super) fn nothing(book: &Book, shared: &Shared, known: &Known, why: &str) -> Markup {
    let content = html! { h1 { (why) } p { a href="/" { "All runs" } } };
    page(book, shared, known, why, &html! {}, &content)
}

/// What a state means, as a class of the style.
pub(super) fn class_of(state: &str) -> &'static str {
    match tone_of(state) {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Odd => "odd",
        Tone::Strong | Tone::Faint => "open",
    }
}

/// A state with its colour.
pub(super) fn badge(state: Status) -> Markup {
    html! { span.badge.(class_of(state.as_str())) { (state.as_str()) } }
}

/// A time, short if it is of today, or a dash. All of it is in the title; `static/live.js` writes it as people here do.
pub(super) fn time(when: Option<SystemTime>, now: SystemTime) -> Markup {
    let Some(when) = when else { return html! { "–" } };
    let (text, today) = (in_utc(when), in_utc(now));
    let (day, clock) = (text.get(..10).unwrap_or(&text), text.get(11..19).unwrap_or_default());
    html! {
        time datetime=(text) title=(text) {
            @if today.starts_with(day) { (clock) } @else { (day) " " (clock.get(..5).unwrap_or_default()) }
        }
    }
}

/// How long ago, so that it does not change each second: `just now`, `5 min ago`, `3 h ago`, `2 d ago`.
pub(super) fn ago(when: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(when).unwrap_or_default().as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A count with its noun.
pub(super) fn count_of(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}
