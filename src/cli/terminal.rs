//! Standard output and standard error: colours for terminals alone, and no crash when nobody reads.

use std::io::{self, Write};

use anstream::ColorChoice;
use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};
use serde::Serialize;

use crate::{
    harmless::{self, one_line},
    message::start_of,
    runs::{self, RECAP, Status},
};

/// Where there are colours.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Colors {
    Auto,
    Always,
    Never,
}

impl Colors {
    /// For all that is written from now on.
    pub(super) fn choose(self) {
        let choice = match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// What a text means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tone {
    Good,
    Bad,
    Odd,
    Faint,
    Strong,
}

impl Tone {
    /// The text with its colour; [`stdout`] takes it away again where there is no terminal or `NO_COLOR` is set.
    pub(super) fn paint(self, text: &str) -> String {
        let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
        let style = match self {
            Self::Good => color(AnsiColor::Green),
            Self::Bad => color(AnsiColor::Red).bold(),
            Self::Odd => color(AnsiColor::Yellow),
            Self::Faint => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// Writes to standard output at once. Whoever wrote the text, a terminal obeys nothing of it but colours.
pub(super) fn stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    write(&mut text)?;
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    out.write_all(runs::harmless(&String::from_utf8_lossy(&text)).as_bytes())?;
    out.flush()
}

/// A line on standard error.
pub(super) fn complain(text: &str) {
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    let _ = writeln!(err, "{} {}", Tone::Bad.paint("ansible-runner-nats:"), bounded(text));
}

/// A line on standard error that is worth knowing, and no problem.
pub(super) fn remark(text: &str) {
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    let _ = writeln!(err, "{}", Tone::Faint.paint(&bounded(text)));
}

/// In it may be what a server says: its beginning is enough.
fn bounded(text: &str) -> String {
    const LONGEST: usize = 4000;
    runs::harmless(start_of(text, LONGEST))
}

/// What a state, or a result of a task, means.
pub(super) fn tone_of(word: &str) -> Tone {
    match (Status::parse(word), word) {
        (Some(Status::Starting | Status::Running), _) | (_, "PLAY" | "TASK" | RECAP) => Tone::Strong,
        (Some(Status::Silent), _) | (_, "changed" | "rescued" | "ignored") => Tone::Odd,
        (Some(Status::Successful), _) | (_, "ok") => Tone::Good,
        (Some(_), _) | (_, "unreachable") => Tone::Bad,
        _ => Tone::Faint,
    }
}

/// The first of some names, and how many more there are.
pub(super) fn first_of(names: &[&str], most: usize) -> String {
    let some = names.iter().take(most).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

/// What a command says as JSON.
pub(super) fn json_text(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(harmless::json(&serde_json::to_string_pretty(value)?))
}

/// A message's payload in one line, whether it is JSON or not.
pub(super) fn json_line(payload: &[u8]) -> String {
    harmless::json(&String::from_utf8_lossy(payload).replace(['\r', '\n'], " "))
}

/// A text from elsewhere in one line, without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    one_line(text)
}
