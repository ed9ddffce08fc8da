//! The keys.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

const KEYS: [(&str, &str); 11] = [
    ("↑ ↓ j k", "move"),
    ("PgUp PgDn", "move by a page"),
    ("g G", "to the first, to the last"),
    ("Enter", "open the run"),
    ("Esc", "go back; clear the filter"),
    ("Tab", "to the next pane"),
    ("/", "filter runs and failures"),
    ("s r", "sort by something else; reverse"),
    ("?", "these keys"),
    ("q", "go back; quit"),
    ("Ctrl-C", "quit"),
];

pub(super) fn draw(frame: &mut Frame<'_>) {
    let area = frame.area();
    let wide = KEYS.iter().map(|(_, what)| what.chars().count() + 14).max().unwrap_or(0);
    let size = |wanted: usize, most: u16| u16::try_from(wanted).unwrap_or(u16::MAX).min(most);
    let (width, height) = (size(wide, area.width), size(KEYS.len() + 2, area.height));
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let line = |(keys, what): &(&'static str, &'static str)| {
        Line::from(vec![Span::styled(format!("{keys:11}"), Style::new().bold()), Span::from(*what)])
    };
    let lines: Vec<Line<'_>> = KEYS.iter().map(line).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("keys")), place);
}
