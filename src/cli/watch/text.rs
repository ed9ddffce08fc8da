//! Texts that fit: clipped to a width, wrapped, and with ansible's colours.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::runs::{self, Look, pieces};

/// How wide a text is on a terminal.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The text, with `…` at its end if it is wider than `most`.
pub(super) fn clipped(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > most {
            break;
        }
        used += wide;
        clipped.push(c);
    }
    if most > 0 {
        clipped.push('…');
    }
    clipped
}

/// A line in ansible's colours (SGR), as lines that are no wider than `most`.
pub(super) fn wrapped(text: &str, most: usize) -> Vec<Line<'static>> {
    let most = most.max(1);
    let mut lines = vec![Line::default()];
    let mut used = 0;
    for (look, piece) in pieces(text) {
        let style = style_of(look);
        let mut chunk = String::new();
        for c in piece.chars() {
            let c = if c == '\t' { ' ' } else { c };
            let wide = c.width().unwrap_or(0);
            if used + wide > most {
                push(&mut lines, &mut chunk, style);
                lines.push(Line::default());
                used = 0;
            }
            used += wide;
            chunk.push(c);
        }
        push(&mut lines, &mut chunk, style);
    }
    lines
}

fn push(lines: &mut [Line<'static>], chunk: &mut String, style: Style) {
    if let Some(line) = lines.last_mut().filter(|_| !chunk.is_empty()) {
        line.spans.push(Span::styled(std::mem::take(chunk), style));
    }
}

/// A look, as ratatui has it.
fn style_of(look: Look) -> Style {
    const COLORS: [Color; 16] = [
        Color::DarkGray,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
        Color::Gray,
        Color::DarkGray,
        Color::LightRed,
        Color::LightGreen,
        Color::LightYellow,
        Color::LightBlue,
        Color::LightMagenta,
        Color::LightCyan,
        Color::White,
    ];
    let mut style = Style::new();
    style.fg = match look.color {
        Some(runs::Color::Basic(color)) => COLORS.get(usize::from(color)).copied(),
        Some(runs::Color::Indexed(color)) => Some(Color::Indexed(color)),
        None => None,
    };
    if look.is_bold {
        style = style.add_modifier(Modifier::BOLD);
    }
    if look.is_faint {
        style = style.add_modifier(Modifier::DIM);
    }
    style
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn texts_fit() {
        assert_eq!(clipped("rollout", 7), "rollout");
        assert_eq!(clipped("rollout", 5), "roll…");
        assert_eq!(clipped("日本語", 5), "日本…");
        assert_eq!(clipped("x", 0), "");
        assert_eq!(plain(&wrapped("\u{1b}[0;31mabcd\u{1b}[0mef", 3)), ["abc", "def"]);
        assert_eq!(plain(&wrapped("", 3)), [""]);
        let colored = wrapped("\u{1b}[1;31ma\u{1b}[0mb", 9);
        let styles: Vec<Style> = colored.iter().flat_map(|line| &line.spans).map(|span| span.style).collect();
        assert_eq!(styles, [Style::new().add_modifier(Modifier::BOLD).fg(Color::Red), Style::new()]);
    }
}
