//! Ansible's colours (SGR) as classes; the style says what they look like, dark and light.

use maud::{Markup, html};

/// What a part of a text looks like.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    /// 0 to 7, or 8 to 15 for the bright ones.
    color: Option<u8>,
    is_bold: bool,
    is_faint: bool,
}

const NAMES: [&str; 16] =
    ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11", "c12", "c13", "c14", "c15"];

impl Look {
    /// Takes a sequence in: what is between `ESC [` and `m`.
    fn take(&mut self, codes: &str) {
        for code in codes.split(';') {
            match code.parse::<u8>().unwrap_or(0) {
                0 => *self = Self::default(),
                1 => self.is_bold = true,
                2 => self.is_faint = true,
                22 => (self.is_bold, self.is_faint) = (false, false),
                color @ 30..=37 => self.color = Some(color - 30),
                39 => self.color = None,
                color @ 90..=97 => self.color = Some(color - 90 + 8),
                _ => {}
            }
        }
    }

    fn class(self) -> String {
        let color = self.color.and_then(|color| NAMES.get(usize::from(color)).copied());
        let parts = [color, self.is_bold.then_some("bold"), self.is_faint.then_some("faint")];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// A text of [`crate::runs::harmless`], whose only control sequences are colours.
pub(super) fn colored(text: &str) -> Markup {
    let mut look = Look::default();
    let mut parts: Vec<(Look, &str)> = Vec::new();
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        parts.push((look, before));
        let (codes, after) = sequence.split_once('m').unwrap_or((sequence, ""));
        look.take(codes);
        rest = after;
    }
    parts.push((look, rest));
    html! {
        @for (look, text) in parts {
            @if !text.is_empty() {
                @if look == Look::default() { (text) } @else { span class=(look.class()) { (text) } }
            }
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
            ("\u{1b}[mx\u{1b}[", "x"),
        ] {
            assert_eq!(colored(text).into_string(), html);
        }
    }
}
