//! Standard output and standard error: colours for terminals alone, and no crash when nobody reads.

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};

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

/// A text from elsewhere in one line, without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_format(c) { ' ' } else { c }).collect()
}

/// Characters that change how what follows is shown (Unicode's bidirectional controls).
fn is_format(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}
