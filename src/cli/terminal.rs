//! Standard output and standard error: colours for terminals alone, and no crash when nobody reads.

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};

use crate::runs::{RECAP, SILENT};

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

/// Writes to standard output at once.
pub(super) fn stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    write(&mut out)?;
    out.flush()
}

/// A line on standard error.
pub(super) fn complain(text: &str) {
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    let _ = writeln!(err, "{} {text}", Tone::Bad.paint("ansible-runner-nats:"));
}

/// A line on standard error that is worth knowing, and no problem.
pub(super) fn remark(text: &str) {
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    let _ = writeln!(err, "{}", Tone::Faint.paint(text));
}

/// What a state, or a result of a task, means.
pub(super) fn tone_of(word: &str) -> Tone {
    match word {
        "failed" | "unreachable" | "timeout" | "error" | "canceled" => Tone::Bad,
        "ok" | "successful" => Tone::Good,
        SILENT | "changed" | "rescued" | "ignored" => Tone::Odd,
        "PLAY" | "TASK" | RECAP | "starting" | "running" => Tone::Strong,
        _ => Tone::Faint,
    }
}

/// A text from elsewhere in one line, without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    crate::runs::one_line(text)
}
