//! Colours of a text (SGR, ECMA-48 8.3.117), read once: screen, page and plain text only render them.
//!
//! Ansible's are kept (`ansible.utils.color`), and their relatives. Nothing can hide what follows: there is no background,
//! nothing is concealed, what is black becomes grey, and a colour ends with its line.

use std::fmt::{self, Write};

use crate::harmless::{is_odd, show};

/// What a piece of text looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) color: Option<Color>,
    pub(crate) is_bold: bool,
    pub(crate) is_faint: bool,
}

/// A colour of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    /// 0 to 7, or 8 to 15 for the bright ones.
    Basic(u8),
    /// Of the 256 that many terminals have.
    Indexed(u8),
}

/// No sequence of ansible's is longer, in bytes.
const LONGEST: usize = 32;

/// A text from elsewhere as pieces with their looks; all that a terminal would obey, other than lines, tabs and colours, is
/// shown instead.
pub(crate) fn pieces(text: &str) -> Vec<(Look, String)> {
    let mut pieces: Vec<(Look, String)> = Vec::new();
    let mut look = Look::default();
    let mut piece = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_odd) {
        let (before, odd) = rest.split_at(at);
        piece.push_str(before);
        if let Some((codes, behind)) = color_at(odd) {
            let next = look.with(codes);
            if next != look && !piece.is_empty() {
                pieces.push((look, std::mem::take(&mut piece)));
            }
            (look, rest) = (next, behind);
            continue;
        }
        let mut chars = odd.chars();
        match chars.next() {
            Some(c @ ('\n' | '\t')) => piece.push(c),
            Some('\r') if odd.starts_with("\r\n") || odd.len() == 1 => {}
            Some(c) => show(c, &mut piece),
            None => {}
        }
        rest = chars.as_str();
    }
    piece.push_str(rest);
    if !piece.is_empty() {
        pieces.push((look, piece));
    }
    pieces
}

/// The text with its lines and its colours and nothing else that a terminal would obey; colours as ansible writes them, each
/// ending with its line.
pub(crate) fn harmless(text: &str) -> String {
    if !text.contains(|c| is_odd(c) && !matches!(c, '\n' | '\t')) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len());
    for (look, piece) in pieces(text) {
        for line in piece.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            if look == Look::default() || line.is_empty() {
                safe.push_str(line);
            } else {
                let _ = write!(safe, "{look}{line}\u{1b}[0m");
            }
            safe.push_str(end);
        }
    }
    safe
}

/// The text of [`harmless`] without its colours.
pub(crate) fn without_colors(text: &str) -> String {
    pieces(text).into_iter().map(|(_, piece)| piece).collect()
}

/// The colour (`ESC [ digits and semicolons m`) that a text begins with: its codes, and what is behind it.
fn color_at(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("\u{1b}[")?;
    let length = rest.bytes().take(LONGEST).take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    let (codes, behind) = rest.split_at_checked(length)?;
    Some((codes, behind.strip_prefix('m')?))
}

impl Look {
    /// Changed by these codes.
    fn with(mut self, codes: &str) -> Self {
        let mut codes = codes.split(';').map(|code| code.parse::<u8>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => self = Self::default(),
                1 => self.is_bold = true,
                2 => self.is_faint = true,
                22 => (self.is_bold, self.is_faint) = (false, false),
                30..=37 => self.color = Some(Color::Basic(code - 30)),
                90..=97 => self.color = Some(Color::Basic(code - 90 + 8)),
                39 => self.color = None,
                // Of a colour of 256, or of three parts: its codes are none of their own.
                38 | 48 => match codes.next() {
                    Some(5) => {
                        let color = codes.next().map(Color::of_256);
                        self.color = if code == 38 { color } else { self.color };
                    }
                    Some(2) => drop(codes.by_ref().take(3).count()),
                    _ => {}
                },
                _ => {}
            }
        }
        self
    }
}

impl Color {
    fn of_256(number: u8) -> Self {
        match number {
            0..=15 => Self::Basic(number),
            // As good as black.
            16 | 232..=236 => Self::Basic(8),
            _ => Self::Indexed(number),
        }
    }

    /// Its codes: what is black in grey.
    fn codes(self, is_bold: bool) -> String {
        match self {
            Self::Basic(0) if !is_bold => "90".to_owned(),
            Self::Basic(color @ 0..=7) => (30 + color).to_string(),
            Self::Basic(color) => (90 + color.min(15) - 8).to_string(),
            Self::Indexed(color) => format!("38;5;{color}"),
        }
    }
}

/// The sequence that begins it, as ansible writes it (`ansible.utils.color.stringc`).
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bold = if self.is_bold { "1" } else { "0" };
        let faint = if self.is_faint { ";2" } else { "" };
        match self.color {
            Some(color @ Color::Indexed(_)) if !self.is_bold && !self.is_faint => {
                write!(f, "\u{1b}[{}m", color.codes(false))
            }
            Some(color) => write!(f, "\u{1b}[{bold}{faint};{}m", color.codes(self.is_bold)),
            None => write!(f, "\u{1b}[{bold}{faint}m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_would_obey() {
        for (text, shown) in [
            ("a\r\nb\tc\n", "a\nb\tc\n"),
            ("\u{1b}[0;32mok\u{1b}[0m", "\u{1b}[0;32mok\u{1b}[0m"),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "^[[2J^[]0;x^G"),
            ("\u{9b}31m\u{7f}\u{202e}ü", "<U+009B>31m^?<U+202E>ü"),
            ("over\rwritten\r", "over^Mwritten"),
            ("\u{1b}[1;", "^[[1;"),
            ("\u{1b}P+q\u{1b}\\", "^[P+q^[\\"),
        ] {
            assert_eq!(harmless(text), shown);
            assert_eq!(harmless(shown), shown);
        }
        assert_eq!(without_colors("\u{1b}[0;32mok\u{1b}[0m ü"), "ok ü");
    }

    #[test]
    fn ansibles_colours_stay_as_they_are() {
        for codes in ["0;31", "1;35", "1;30", "0;90", "1;34", "38;5;200", "0;36"] {
            let text = format!("\u{1b}[{codes}mx\u{1b}[0m");
            assert_eq!(harmless(&text), text);
        }
    }

    #[test]
    fn no_colour_hides_what_follows() {
        for (text, shown) in [
            ("\u{1b}[8mhidden", "hidden"),
            ("\u{1b}[30;40mhidden", "\u{1b}[0;90mhidden\u{1b}[0m"),
            ("\u{1b}[38;5;16mhidden", "\u{1b}[0;90mhidden\u{1b}[0m"),
            ("\u{1b}[38;2;0;0;0mhidden", "hidden"),
            ("\u{1b}[48;5;31mx", "x"),
            ("\u{1b}[31ma\nb", "\u{1b}[0;31ma\u{1b}[0m\n\u{1b}[0;31mb\u{1b}[0m"),
            ("\u{1b}[7;5mx", "x"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn a_colour_of_256_is_one_code() {
        assert_eq!(
            pieces("\u{1b}[38;5;31mx\u{1b}[38;5;1my"),
            [
                (Look { color: Some(Color::Indexed(31)), ..Look::default() }, "x".to_owned()),
                (Look { color: Some(Color::Basic(1)), ..Look::default() }, "y".to_owned()),
            ]
        );
    }
}
