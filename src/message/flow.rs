//! JSON, and what YAML writes in braces and brackets, as pieces of text: put together again they are the text. Knows of no
//! secret.

use std::borrow::Cow;

/// A part of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A bracket.
    Open(&'a str),
    /// The end of what the last open bracket began.
    Close(&'a str),
    /// What a value is called.
    Name(Scalar<'a>),
    /// Any other scalar.
    Value(Scalar<'a>),
    /// Between two of a collection.
    Comma(&'a str),
    /// What is blank, and the colon behind a name.
    Gap(&'a str),
}

/// A scalar as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scalar<'a> {
    pub(super) raw: &'a str,
    pub(super) quote: Option<char>,
}

impl<'a> Piece<'a> {
    /// As it is written.
    pub(super) fn raw(&self) -> &'a str {
        match self {
            Self::Open(raw) | Self::Close(raw) | Self::Comma(raw) | Self::Gap(raw) => raw,
            Self::Name(scalar) | Self::Value(scalar) => scalar.raw,
        }
    }
}

/// Does a text begin like JSON or YAML in braces, and not like a template of ansible's?
pub(super) fn begins(text: &str) -> bool {
    text.starts_with(['{', '[']) && !text.starts_with("{{") && !text.starts_with("{%")
}

/// The pieces up to the bracket that closes the first one, and what is behind that. `None` if it is broken, or has what
/// only YAML has (an alias, a tag, a comment, a name that is a collection): then nobody here knows what belongs to what.
pub(super) fn read(text: &str) -> Option<(Vec<Piece<'_>>, &str)> {
    let mut pieces = Vec::new();
    let mut open: Vec<char> = Vec::new();
    let mut rest = text;
    loop {
        let c = rest.chars().next()?;
        let is_blank = |c: char| c.is_whitespace() || c == ':';
        let piece = match c {
            '{' | '[' => {
                open.push(if c == '{' { '}' } else { ']' });
                Piece::Open(rest.get(..1)?)
            }
            '}' | ']' if open.pop() == Some(c) => Piece::Close(rest.get(..1)?),
            '}' | ']' => return None,
            ',' => Piece::Comma(rest.get(..1)?),
            _ if is_blank(c) => {
                let length = rest.len() - rest.trim_start_matches(is_blank).len();
                Piece::Gap(rest.get(..length)?)
            }
            _ => {
                let scalar = scalar(rest)?;
                let behind = rest.get(scalar.raw.len()..)?.trim_start();
                if behind.starts_with(':') { Piece::Name(scalar) } else { Piece::Value(scalar) }
            }
        };
        rest = rest.get(piece.raw().len()..)?;
        let is_end = open.is_empty();
        if matches!(piece, Piece::Close(_)) && !is_end && rest.trim_start().starts_with(':') {
            return None;
        }
        pieces.push(piece);
        if is_end {
            return Some((pieces, rest));
        }
    }
}

/// The scalar at the beginning. `None` if it has no end, or is none of JSON's and YAML's plain ones.
fn scalar(text: &str) -> Option<Scalar<'_>> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let raw = plain(text);
        let is_plain = !raw.starts_with(['*', '&', '!', '?', '|', '>', '%', '@', '`', '#'])
            && !raw.split('#').rev().skip(1).any(|before| before.ends_with([' ', '\t', '\n', '\r']));
        return is_plain.then_some(Scalar { raw, quote: None });
    };
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match (quote, c, chars.peek()) {
            ('"', '\\', _) | ('\'', '\'', Some((_, '\''))) => drop(chars.next()),
            _ if c == quote => return Some(Scalar { raw: text.get(..=at)?, quote: Some(quote) }),
            _ => {}
        }
    }
    None
}

/// A scalar without quotes: up to a comma, a bracket, or a colon with a blank behind it.
fn plain(text: &str) -> &str {
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        let is_end = match c {
            ',' | '{' | '}' | '[' | ']' => at > 0,
            ':' => {
                let next = text.get(at + 1..).and_then(|rest| rest.chars().next());
                next.is_none_or(|next| next.is_whitespace() || ",{}[]".contains(next))
            }
            _ => false,
        };
        if is_end {
            end = at;
            break;
        }
    }
    text.get(..end).unwrap_or_default().trim_end()
}

impl<'a> Scalar<'a> {
    /// What it says.
    pub(super) fn text(&self) -> Cow<'a, str> {
        let inside = self.raw.get(1..self.raw.len().saturating_sub(1)).unwrap_or_default();
        match self.quote {
            Some('"') if inside.contains('\\') => Cow::Owned(escapes_read(inside)),
            Some('\'') => Cow::Owned(inside.replace("''", "'")),
            Some(_) => Cow::Borrowed(inside),
            None => Cow::Borrowed(self.raw),
        }
    }
}

/// The inside of double quotes, with the escapes of JSON and of YAML 1.1.
fn escapes_read(inside: &str) -> String {
    let mut read = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    // The first half of a pair of surrogates.
    let mut high = None;
    while let Some(c) = chars.next() {
        if c != '\\' {
            read.push(c);
            continue;
        }
        let Some(kind) = chars.next() else { break };
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                let known = ESCAPES.into_iter().find(|(escape, _)| *escape == kind);
                read.push(known.map_or(kind, |(_, c)| c));
                continue;
            }
        };
        let number: String = chars.by_ref().take(digits).collect();
        let number: u32 = u32::from_str_radix(&number, 16).unwrap_or(0xFFFD);
        let low = (0xDC00..0xE000).contains(&number).then_some(number & 0x3FF);
        match (high.take(), low) {
            (Some(first), Some(second)) => {
                read.extend(char::from_u32(0x1_0000_u32 + (first << 10) + second));
            }
            _ if (0xD800..0xDC00).contains(&number) => high = Some(number & 0x3FF),
            _ => read.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }
    read
}

const ESCAPES: [(char, char); 12] = [
    ('0', '\0'),
    ('a', '\x07'),
    ('b', '\x08'),
    ('t', '\t'),
    ('n', '\n'),
    ('v', '\x0b'),
    ('f', '\x0c'),
    ('r', '\r'),
    ('e', '\x1b'),
    ('N', '\u{85}'),
    ('_', '\u{a0}'),
    ('L', '\u{2028}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        for text in [
            r#"{"a": 1, "password": "x\"y"}"#,
            "[{'it''s' : x}, {user: joe, n: [1, two]} ]",
            "{a: http://h/, b: it's}",
            "{}",
        ] {
            let (pieces, rest) = read(text).unwrap();
            assert_eq!((pieces.iter().map(Piece::raw).collect::<String>().as_str(), rest), (text, ""));
        }
        assert_eq!(read("{a: b} c=d").unwrap().1, " c=d");
    }

    #[test]
    fn names_and_values() {
        let (pieces, _) = read(r#"{"p\x61ss\u0077": 'it''s', b: [c d, "\ud83d\ude80\e"], e:f}"#).unwrap();
        let names: Vec<_> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Name(name) => Some(format!("{}:", name.text())),
                Piece::Value(value) => Some(value.text().into_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["passw:", "it's", "b:", "c d", "\u{1f680}\x1b", "e:f"]);
    }

    #[test]
    fn what_is_broken_or_only_yaml() {
        for broken in [
            "{",
            "[1",
            "{]",
            "{\"a",
            "{'a: b}",
            "{password: x",
            "{password: \"x}",
            "{password",
            "{a: *b}",
            "{a: &b c}",
            "{? a : b}",
            "{[a]: b}",
            "{a: b # c\n}",
            "{a: !t b}",
        ] {
            assert_eq!(read(broken), None, "{broken}");
        }
        assert!(begins("{a}") && begins("[") && !begins("{{ a }}") && !begins("{% if %}") && !begins("a{"));
    }
}
