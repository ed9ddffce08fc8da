//! What all pages have in common. Every text from elsewhere is escaped by `maud`.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::book::{Book, Shared};
use crate::{
    cli::terminal::{Tone, tone_of},
    message::in_utc,
    runs::{Recap, Run, in_short},
};

/// In a path or a query (RFC 3986, `unreserved`).
const IN_URI: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a URL.
pub(super) fn in_url(text: &str) -> String {
    // A browser takes these away, however they are written: the path would be another one.
    match text {
        "." | ".." => text.replace('.', "%2E"),
        text => utf8_percent_encode(text, IN_URI).to_string(),
    }
}

/// The address of a run's page. Of an ident that is used again the last run has the name for itself.
pub(super) fn address_of(run: &Run) -> String {
    let subject_id = if run.subject_id.is_empty() { "-" } else { &run.subject_id };
    let address = format!("/runs/{}/{}", in_url(subject_id), in_url(&run.ident));
    let identity = run.identity.filter(|_| run.is_superseded);
    identity.map_or_else(|| address.clone(), |identity| format!("{address}/{identity}"))
}

/// The same for as long as the run is known, whatever runs come after it.
pub(in crate::cli) fn lasting_address_of(run: &Run) -> String {
    let address = address_of(run);
    let identity = run.identity.filter(|_| !run.is_superseded);
    identity.map_or_else(|| address.clone(), |identity| format!("{address}/{identity}"))
}

/// A page around its content. What has an id in it is kept up to date by `static/live.js`.
fn shell(title: &str, link: Option<&Result<String, String>>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · ansible-runner-nats" }
                link rel="icon" href="/static/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/static/style.css";
                script type="module" src="/static/live.js" {}
                @if link.is_some() {
                    noscript { meta http-equiv="refresh" content="5"; }
                }
            }
            body {
                a.skip href="#main" { "To the content" }
                header {
                    a.home href="/" { "runs" }
                    @match link {
                        Some(Ok(server)) => span #link.link.up role="status" { "connected to " (server) },
                        Some(Err(reason)) => span #link.link.down role="alert" { (reason) },
                        None => {}
                    }
                }
                main #main { (content) }
            }
        }
    }
}

pub(super) fn page(book: &Book, shared: &Shared, title: &str, content: &Markup) -> Markup {
    let content = html! {
        (content)
        footer #foot {
            @if !book.has_caught_up {
                p role="status" { "Still reading what the stream has kept: " (book.runs.messages) " messages so far." }
            }
            p {
                @if book.streams.is_empty() {
                    "No stream keeps what runs publish: only what came since the start is known. "
                } @else {
                    "From stream " (book.streams.join(", ")) ", the last " (humantime::format_duration(shared.since)) ". "
                }
                "Times are in UTC. "
                a href="/metrics" { "Metrics" } " · " a href="/api/runs" { "JSON" }
            }
        }
    };
    shell(title, Some(book.link()), &content)
}

/// A page that says why there is none.
pub(super) fn nothing(book: &Book, shared: &Shared, why: &str) -> Markup {
    page(book, shared, why, &html! { h1 { (why) } p { a href="/" { "All runs" } } })
}

/// Where the token is asked for.
pub(super) fn login(was_wrong: bool) -> Markup {
    let form = html! {
        h1 { "Who are you?" }
        form.login method="post" action="/login" {
            @if was_wrong { p role="alert" { "That is not the token." } }
            label { "Token " input type="password" name="token" autocomplete="current-password" required autofocus; }
            button { "Enter" }
        }
    };
    shell("Token", None, &form)
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
pub(super) fn badge(state: &str) -> Markup {
    html! { span.badge.(class_of(state)) { (state) } }
}

/// How the tasks went: what there is none of is left out, but for `ok` and `failed`.
pub(super) fn counts(recap: &Recap) -> Markup {
    html! {
        @for (name, count) in recap.parts() {
            @if count > 0 || name == "ok" || name == "failed" {
                span.count.(name).none[count == 0] { (name) "=" (count) } " "
            }
        }
    }
}

/// A time, or a dash.
pub(super) fn time(when: Option<SystemTime>) -> Markup {
    html! {
        @match when {
            Some(when) => {
                @let text = in_utc(when);
                time datetime=(text) { (text.get(..19).unwrap_or(&text).replace('T', " ")) }
            }
            None => "–",
        }
    }
}

pub(super) fn duration(run: &Run, now: SystemTime) -> String {
    run.duration(now).map_or_else(|| "–".to_owned(), in_short)
}
