//! How a text is taken apart into words: as ansible does it with variables and the arguments of modules, and as a shell
//! does it with a script. Knows of no secret.

use std::{borrow::Cow, ops::Range};

/// A word of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    /// What is blank before it.
    pub(super) gap: &'a str,
    /// As it is written.
    pub(super) raw: &'a str,
}

/// The words of a text as ansible has them (`ansible.parsing.splitter.split_args`): blanks and line ends part them, unless
/// in quotes or in a template's braces. `None` where ansible refuses the text: something opened is never closed.
pub(super) fn variables(text: &str) -> Option<Vec<Word<'_>>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut quote: Option<char> = None;
    let mut depths = [0_usize; BRACES.len()];
    let mut start = 0;
    for token in text.split([' ', '\n']) {
        let place = start..start + token.len();
        start = place.end + 1;
        let is_inside = quote.is_some() || depths.iter().any(|depth| *depth > 0);
        // A line that goes on behind a lone backslash.
        if token.is_empty() || (token == "\\" && quote.is_none()) {
            continue;
        }
        quote = quote_behind(token, quote);
        for (depth, (open, close)) in depths.iter_mut().zip(BRACES) {
            let (opened, closed) = (token.matches(open).count(), token.matches(close).count());
            *depth = (*depth + opened).saturating_sub(closed);
        }
        match ranges.last_mut() {
            Some(last) if is_inside => last.end = place.end,
            _ => ranges.push(place),
        }
    }
    if quote.is_some() || depths.iter().any(|depth| *depth > 0) {
        return None;
    }
    let mut end = 0;
    let word = |Range { start, end: next }: Range<usize>| {
        let gap = text.get(end..start)?;
        end = next;
        Some(Word { gap, raw: text.get(start..next)? })
    };
    ranges.into_iter().map(word).collect()
}

/// What ansible's templates have around them.
const BRACES: [(&str, &str); 3] = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];

/// The quote that is open behind a token, if `quote` was before it. A backslash hides a quote, but for one at the
/// beginning of a token.
fn quote_behind(token: &str, mut quote: Option<char>) -> Option<char> {
    let mut before = None;
    for c in token.chars() {
        if matches!(c, '"' | '\'') && before != Some('\\') {
            quote = match quote {
                Some(open) if open == c => None,
                Some(open) => Some(open),
                None => Some(c),
            };
        }
        before = Some(c);
    }
    quote
}

/// Name and value of a word, as `ansible.parsing.splitter.parse_kv` has them: at the first `=` that is neither its first
/// character nor behind a backslash, once escapes are read. The value is given as it is written; where an escape
/// stands before it, nobody can tell where it begins there, and it is the whole word.
pub(super) fn assignment(word: &str) -> Option<(Cow<'_, str>, &str)> {
    let equals = |text: &str| {
        text.match_indices('=').map(|(at, _)| at).find(|at| {
            let before = text.get(..*at).unwrap_or_default();
            !before.is_empty() && !before.ends_with('\\')
        })
    };
    let read = escapes_read(word);
    let at = equals(&read)?;
    let name = read.get(..at)?;
    match word.get(..at) {
        Some(same) if same == name && word.get(at..)?.starts_with('=') => {
            Some((Cow::Borrowed(same), word.get(at + 1..)?))
        }
        _ => Some((Cow::Owned(name.to_owned()), word)),
    }
}

/// Name and value of a word as ansible takes them: escapes are read, then what is around the whole value in quotes goes
/// (`ansible.parsing.quoting.unquote`).
pub(super) fn given(word: &str) -> Option<(String, String)> {
    let read = escapes_read(word);
    let (name, _) = assignment(word)?;
    let value = read.get(name.len() + 1..)?.trim();
    let inside =
        |quote: char| value.strip_prefix(quote)?.strip_suffix(quote).filter(|inside| !inside.ends_with('\\'));
    let value = inside('"').or_else(|| inside('\'')).unwrap_or(value);
    Some((name.trim().to_owned(), value.to_owned()))
}

/// A word with the escapes that ansible reads (those of Python).
fn escapes_read(word: &str) -> Cow<'_, str> {
    if !word.contains('\\') {
        return Cow::Borrowed(word);
    }
    let mut read = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        read.push_str(before);
        let (c, length) = escaped(escape).unwrap_or(('\\', 1));
        read.push(c);
        rest = escape.get(length..).unwrap_or_default();
    }
    read.push_str(rest);
    Cow::Owned(read)
}

/// The character that an escape at the beginning stands for, and the escape's length.
fn escaped(text: &str) -> Option<(char, usize)> {
    let kind = text.chars().nth(1)?;
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        // A character by its name: whichever it is, it is none of a word that says something.
        'N' => return Some((char::REPLACEMENT_CHARACTER, text.strip_prefix("\\N{")?.find('}')? + 4)),
        _ => {
            let (_, c) = SHORT_ESCAPES.into_iter().find(|(escape, _)| *escape == kind)?;
            return Some((c, 2));
        }
    };
    let number = text.get(2..2 + digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let c = char::from_u32(u32::from_str_radix(number, 16).ok()?);
    Some((c.unwrap_or(char::REPLACEMENT_CHARACTER), 2 + digits))
}

const SHORT_ESCAPES: [(char, char); 10] = [
    ('\\', '\\'),
    ('\'', '\''),
    ('"', '"'),
    ('a', '\x07'),
    ('b', '\x08'),
    ('f', '\x0c'),
    ('n', '\n'),
    ('r', '\r'),
    ('t', '\t'),
    ('v', '\x0b'),
];

/// The words of a script, as a shell has them. A quote without an end is a character like any other; what ansible's
/// templates have in braces is no word of its own.
pub(super) fn script(text: &str) -> impl Iterator<Item = Word<'_>> {
    let mut rest = text;
    let mut endless = Endless::default();
    std::iter::from_fn(move || {
        let trimmed = rest.trim_start();
        let gap = rest.get(..rest.len() - trimmed.len()).unwrap_or_default();
        if trimmed.is_empty() {
            return None;
        }
        rest = trimmed;
        while let Some(c) = rest.chars().next().filter(|c| !c.is_whitespace()) {
            let (_, length) = piece(rest, c, &mut endless);
            rest = rest.get(length..).unwrap_or_default();
        }
        Some(Word { gap, raw: trimmed.get(..trimmed.len() - rest.len()).unwrap_or_default() })
    })
}

/// What a shell reads where this is written: without quotes, and with escapes read.
pub(super) fn unquoted(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let (mut rest, mut endless) = (raw, Endless::default());
    while let Some(c) = rest.chars().next() {
        let (inside, length) = piece(rest, c, &mut endless);
        text.push_str(&inside);
        rest = rest.get(length..).unwrap_or_default();
    }
    text
}

/// Brackets and quotes that have no end from here on: nobody looks for it again.
#[derive(Default)]
struct Endless(Vec<&'static str>);

/// What stands at the beginning of a text, whose first character this is: something in quotes or braces, an escape, or a
/// character. What it means, and how long it is.
fn piece<'a>(text: &'a str, first: char, endless: &mut Endless) -> (Cow<'a, str>, usize) {
    let after = text.get(first.len_utf8()..).unwrap_or_default();
    let bracket = match first {
        '\'' => Some(("'", "'")),
        '"' => Some(("\"", "\"")),
        '{' if after.starts_with('{') => Some(("{{", "}}")),
        _ => None,
    };
    if let Some((open, close)) = bracket.filter(|(_, close)| !endless.0.contains(close)) {
        let inside = text.get(open.len()..).unwrap_or_default();
        if let Some(end) = end_of(inside, close) {
            let length = open.len() + end + close.len();
            let inside = inside.get(..end).unwrap_or_default();
            let meant = match first {
                '{' => Cow::Borrowed(text.get(..length).unwrap_or_default()),
                '"' => Cow::Owned(unescaped(inside)),
                _ => Cow::Borrowed(inside),
            };
            return (meant, length);
        }
        endless.0.push(close);
    }
    let skipped = usize::from(first == '\\' && !after.is_empty());
    let length = skipped + text.get(skipped..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    (Cow::Borrowed(text.get(skipped..length).unwrap_or_default()), length)
}

/// Where something ends; in double quotes a backslash hides an end.
fn end_of(inside: &str, close: &str) -> Option<usize> {
    if close != "\"" {
        return inside.find(close);
    }
    let mut is_hidden = false;
    inside.char_indices().find_map(|(at, c)| {
        let was_hidden = is_hidden;
        is_hidden = c == '\\' && !was_hidden;
        (c == '"' && !was_hidden).then_some(at)
    })
}

/// The inside of double quotes.
fn unescaped(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut chars = inside.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some('"' | '\\' | '$' | '`') if c == '\\' => text.extend(chars.next()),
            _ => text.push(c),
        }
    }
    text
}

/// In a shell's quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r#"'"'"'"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raws<'a>(words: impl IntoIterator<Item = Word<'a>>) -> Vec<&'a str> {
        words.into_iter().map(|word| word.raw).collect()
    }

    #[test]
    fn words_as_ansible_has_them() {
        for (given, expected) in [
            ("a=b  c='d e'\nf", Some(&["a=b", "c='d e'", "f"][..])),
            ("a='b \"c d' e", Some(&["a='b \"c d'", "e"])),
            ("a={{ b c }} d={% if x %}", Some(&["a={{ b c }}", "d={% if x %}"])),
            ("a=b\tc", Some(&["a=b\tc"])),
            ("a=b\\ c", Some(&["a=b\\", "c"])),
            ("a \\\nb", Some(&["a", "b"])),
            ("it\\'s a", Some(&["it\\'s", "a"])),
            ("it's a", None),
            ("{{ a", None),
            ("", Some(&[])),
            ("  ", Some(&[])),
        ] {
            assert_eq!(variables(given).map(raws).as_deref(), expected, "{given}");
        }
        let text = " a=b  'c d'\n";
        let again: String =
            variables(text).unwrap().iter().map(|word| word.gap.to_owned() + word.raw).collect();
        assert_eq!(again, text.trim_end());
    }

    #[test]
    fn names_and_values_as_ansible_has_them() {
        for (given, expected) in [
            ("a=b=c", Some(("a", "b=c"))),
            ("a=", Some(("a", ""))),
            ("=a=b", Some(("=a", "b"))),
            (r"a\=b=c", Some((r"a\=b", "c"))),
            (r"a\x3db", Some(("a", r"a\x3db"))),
            (r"p\x61ss=b", Some(("pass", r"p\x61ss=b"))),
            (r"a=\x41", Some(("a", r"\x41"))),
            ("a", None),
            ("=", None),
            (r"a\=b", None),
        ] {
            let found = assignment(given);
            assert_eq!(found.as_ref().map(|(name, value)| (name.as_ref(), *value)), expected, "{given}");
        }
    }

    #[test]
    fn values_as_ansible_takes_them() {
        for (word, value) in [
            ("a=b", "b"),
            ("a='b c'", "b c"),
            (r#"a="b\"c\nd""#, "b\"c\nd"),
            ("a='b", "'b"),
            (r"a=\x41", "A"),
        ] {
            assert_eq!(given(word), Some(("a".to_owned(), value.to_owned())), "{word}");
        }
    }

    #[test]
    fn words_as_a_shell_has_them() {
        let read = |text| script(text).map(|word| unquoted(word.raw)).collect::<Vec<_>>();
        for (given, expected) in [
            (r#"a 'b c' "d \" e"f"#, &["a", "b c", "d \" ef"][..]),
            (r"a\ b c", &["a b", "c"]),
            ("it's a", &["it's", "a"]),
            ("{{ a b }}c d", &["{{ a b }}c", "d"]),
            ("a\tb\\", &["a", "b\\"]),
            ("", &[]),
        ] {
            assert_eq!(read(given), expected, "{given}");
        }
    }
}
