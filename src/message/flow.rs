//! JSON, and what YAML writes in braces and brackets: read as text, so that what is not secret stays as it is.

use serde_json::Value;

use super::{
    command::CommandLine,
    telling::{is_name_char, name_says_secret},
};
use crate::secret::MASK;

/// Does a text begin like JSON or YAML in braces, and not like a template of ansible's?
pub(super) fn begins(text: &str) -> bool {
    text.starts_with(['{', '[']) && !text.starts_with("{{") && !text.starts_with("{%")
}

/// The text up to the bracket that closes it, without secrets (`None`: there are none in it), and what is behind that.
/// `None` if it is broken.
pub(super) fn redact(text: &str, depth: usize) -> Option<(Option<String>, &str)> {
    let mut reader = Reader { rest: text, redacted: String::with_capacity(text.len()), is_changed: false };
    reader.run(depth)?;
    Some((reader.is_changed.then_some(reader.redacted), reader.rest))
}

struct Reader<'a> {
    rest: &'a str,
    /// What was read, without secrets.
    redacted: String,
    is_changed: bool,
}

/// A scalar as it is written.
struct Scalar<'a> {
    raw: &'a str,
    quote: Option<char>,
}

impl Reader<'_> {
    fn run(&mut self, depth: usize) -> Option<()> {
        let mut open: Vec<char> = Vec::new();
        // The items of a list may be a command line.
        let mut line = CommandLine::default();
        loop {
            let c = self.rest.chars().next()?;
            match c {
                '{' | '[' => {
                    open.push(if c == '{' { '}' } else { ']' });
                    line = CommandLine::default();
                    self.take(1);
                }
                '}' | ']' => {
                    if open.pop() != Some(c) {
                        return None;
                    }
                    self.take(1);
                    if open.is_empty() {
                        return Some(());
                    }
                    line = CommandLine::default();
                }
                _ if c.is_whitespace() || matches!(c, ',' | ':') => self.take(c.len_utf8()),
                _ => {
                    let scalar = scalar(self.rest)?;
                    let behind = self.rest.get(scalar.raw.len()..)?.trim_start();
                    if !behind.starts_with(':') {
                        self.value(&scalar, &mut line, depth);
                        continue;
                    }
                    line = CommandLine::default();
                    let name = scalar.text();
                    self.take(scalar.raw.len());
                    if name_says_secret(&name, behind.get(1..)?.trim_start()) {
                        self.mask()?;
                    }
                }
            }
        }
    }

    /// On by so many bytes.
    fn take(&mut self, bytes: usize) {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.redacted.push_str(taken);
        self.rest = rest;
    }

    /// A scalar that is no name.
    fn value(&mut self, scalar: &Scalar<'_>, line: &mut CommandLine, depth: usize) {
        let start = self.redacted.len();
        self.take(scalar.raw.len());
        if let Some(other) = line.word(&scalar.text(), depth) {
            self.is_changed = true;
            self.redacted.truncate(start);
            match scalar.quote {
                Some('\'') => self.redacted.extend(["'", &other.replace('\'', "''"), "'"]),
                _ => self.redacted.push_str(&Value::from(other).to_string()),
            }
        }
    }

    /// The value behind a name that says secret: up to the next name, or to the bracket that closes all this.
    fn mask(&mut self) -> Option<()> {
        let colon = self.rest.find(':')? + 1;
        let blank = self.rest.get(colon..)?;
        let blank = blank.len() - blank.trim_start().len();
        self.take(colon + blank);
        let value = self.rest;
        let mut rest = value;
        let mut depth = 0_usize;
        loop {
            let c = rest.chars().next()?;
            match c {
                '{' | '[' => depth += 1,
                '}' | ']' if depth == 0 => break,
                '}' | ']' => depth -= 1,
                ',' if depth == 0 && is_name_next(rest.get(1..)?) => break,
                '"' | '\'' => {
                    rest = rest.get(scalar(rest)?.raw.len()..)?;
                    continue;
                }
                _ => {}
            }
            rest = rest.get(c.len_utf8()..)?;
        }
        let blank = value.strip_suffix(rest)?;
        let blank = blank.len() - blank.trim_end().len();
        self.is_changed = true;
        let quote = if value.starts_with('\'') { "'" } else { "\"" };
        self.redacted.extend([quote, MASK, quote]);
        self.rest = value.get(value.len() - rest.len() - blank..)?;
        Some(())
    }
}

/// Does a name with a colon come next?
fn is_name_next(rest: &str) -> bool {
    let rest = rest.trim_start();
    let behind = scalar(rest).and_then(|scalar| rest.get(scalar.raw.len()..));
    behind.is_some_and(|behind| behind.trim_start().starts_with(':'))
}

/// The scalar at the beginning. `None` if it has no end.
fn scalar(text: &str) -> Option<Scalar<'_>> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        return Some(Scalar { raw: plain(text), quote: None });
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

/// A scalar without quotes: up to a comma, a bracket, or a colon with a blank behind it. One that says secret ends at
/// any colon: YAML takes `{password:x}` for a name, and whoever wrote it did not.
fn plain(text: &str) -> &str {
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        let is_end = match c {
            ',' | '{' | '}' | '[' | ']' => at > 0,
            ':' => {
                let name = text.get(..at).unwrap_or_default();
                let next = text.get(at + 1..).and_then(|rest| rest.chars().next());
                next.is_none_or(|next| next.is_whitespace() || ",{}[]\"'".contains(next))
                    || (at <= 64 && name.chars().all(is_name_char) && name_says_secret(name, ""))
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

impl Scalar<'_> {
    /// What it says.
    fn text(&self) -> String {
        let inside = || {
            let inside = self.raw.get(1..self.raw.len().saturating_sub(1));
            inside.unwrap_or_default().to_owned()
        };
        match self.quote {
            // What is not JSON's own (YAML knows more escapes) is taken as it is written.
            Some('"') => serde_json::from_str(self.raw).unwrap_or_else(|_| inside()),
            Some(_) => inside().replace("''", "'"),
            None => self.raw.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml() {
        for (given, expected) in [
            (r#"{"a": 1, "password": "x\"y"}"#, r#"{"a": 1, "password": "***"}"#),
            (r#"{"password":"x"}"#, r#"{"password":"***"}"#),
            (r#"{"p\u0061ssword": 4711, "a": null}"#, r#"{"p\u0061ssword": "***", "a": null}"#),
            (r#"{"tokens": ["x", {"a": "]"}], "a": ["b"]}"#, r#"{"tokens": "***", "a": ["b"]}"#),
            (r#"[{"password": "x"}, {"user": "joe"}]"#, r#"[{"password": "***"}, {"user": "joe"}]"#),
            (
                r#"{"cmd": ["mysql", "--password", "x", "db"]}"#,
                r#"{"cmd": ["mysql", "--password", "***", "db"]}"#,
            ),
            (r#"{"url": "pg://u:p@h", "a": "b"}"#, r#"{"url": "pg://***@h", "a": "b"}"#),
            (r#"{"c": "Server=h;Password=x"}"#, r#"{"c": "Server=h;Password=***"}"#),
            ("{password: a, b, user: joe}", r#"{password: "***", user: joe}"#),
            ("{user: joe, password: 'it''s' }", "{user: joe, password: '***' }"),
            ("{password:x, user: joe}", r#"{password:"***", user: joe}"#),
            ("{password: [a, b], c: {d: 'my token=x'}}", r#"{password: "***", c: {d: 'my token=***'}}"#),
            ("{a: {b: {api_key: x}}}", r#"{a: {b: {api_key: "***"}}}"#),
            ("{'db_password' : x}", r#"{'db_password' : "***"}"#),
            ("{key_file: /a/b, user: joe}", "{key_file: /a/b, user: joe}"),
            ("{a: http://h/, b: [1, two, 3.0]}", "{a: http://h/, b: [1, two, 3.0]}"),
            ("{}", "{}"),
        ] {
            let (redacted, rest) = redact(given, 4).unwrap_or_else(|| panic!("{given}"));
            assert_eq!(redacted.as_deref().unwrap_or(given), expected, "{given}");
            assert_eq!(rest, "");
        }
    }

    #[test]
    fn what_is_behind_and_what_is_broken() {
        assert_eq!(redact("{a: b} c=d", 4), Some((None, " c=d")));
        for broken in ["{", "[1", "{]", "{\"a", "{'a: b}", "{password: x", "{password: \"x}", "{password"] {
            assert_eq!(redact(broken, 4), None, "{broken}");
        }
        assert!(begins("{a}") && begins("[") && !begins("{{ a }}") && !begins("{% if %}") && !begins("a{"));
    }
}
