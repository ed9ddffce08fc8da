//! Texts that fit: clipped to a width, wrapped, and with ansible's colours.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
    for (style, piece) in styled(text) {
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

/// Pieces of a text and their styles.
fn styled(text: &str) -> Vec<(Style, &str)> {
    let mut pieces = Vec::new();
    let mut style = Style::new();
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let (before, escape) = rest.split_at(at);
        pieces.push((style, before));
        let Some((codes, after)) = escape.get(2..).and_then(|codes| codes.split_once('m')) else { break };
        style = with_codes(style, codes);
        rest = after;
    }
    pieces.push((style, rest));
    pieces
}

/// Those codes that ansible has (`ansible.utils.color`), and their relatives.
fn with_codes(style: Style, codes: &str) -> Style {
    const COLORS: [Color; 8] = [
        Color::Black,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
        Color::Gray,
    ];
    let mut codes = codes.split(';').map(|code| code.parse::<usize>().unwrap_or(0));
    let mut style = style;
    while let Some(code) = codes.next() {
        style = match code {
            0 => Style::new(),
            1 => style.add_modifier(Modifier::BOLD),
            2 => style.add_modifier(Modifier::DIM),
            4 => style.add_modifier(Modifier::UNDERLINED),
            7 => style.add_modifier(Modifier::REVERSED),
            30..=37 => COLORS.get(code - 30).map_or(style, |color| style.fg(*color)),
            90..=97 => COLORS.get(code - 90).map_or(style, |color| style.fg(*color)),
            39 => style.fg(Color::Reset),
            38 => match (codes.next(), codes.next().and_then(|color| u8::try_from(color).ok())) {
                (Some(5), Some(color)) => style.fg(Color::Indexed(color)),
                _ => style,
            },
            _ => style,
        };
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
