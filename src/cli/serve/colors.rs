//! Colours as classes; the style says what they look like, dark and light.

use maud::{Markup, html};

use crate::runs::{Color, Look, pieces};

const NAMES: [&str; 16] =
    ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11", "c12", "c13", "c14", "c15"];

fn class(look: Look) -> String {
    let color = match look.color {
        Some(Color::Basic(color)) => NAMES.get(usize::from(color)).copied(),
        _ => None,
    };
    let parts = [color, look.is_bold.then_some("bold"), look.is_faint.then_some("faint")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A text from elsewhere, with its colours.
pub(super) fn colored(text: &str) -> Markup {
    html! {
        @for (look, text) in pieces(text) {
            @let class = class(look);
            @if class.is_empty() { (text) } @else { span class=(class) { (text) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_classes_and_markup_is_text() {
        for (text, html) in [
            ("plain <b>&\"", "plain &lt;b&gt;&amp;&quot;"),
            ("\u{1b}[0;32mok: [a]\u{1b}[0m", "<span class=\"c2\">ok: [a]</span>"),
            ("a\u{1b}[1;31m<script>\u{1b}[0mb", "a<span class=\"c1 bold\">&lt;script&gt;</span>b"),
            ("\u{1b}[95mx\u{1b}[39my", "<span class=\"c13\">x</span>y"),
            ("\u{1b}[38;5;200mx", "x"),
            ("\u{1b}[mx\u{1b}[", "x^[["),
        ] {
            assert_eq!(colored(text).into_string(), html);
        }
    }
}
