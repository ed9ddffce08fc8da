//! What must not be seen: secrets, and where they would show.

use std::fmt::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// A string that must not be seen: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, to be handed to the connection and to nothing else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Key material where a path belongs: a damaged seed, or the content of a file. It must not be shown as a
/// path that does not exist.
pub(crate) fn looks_secret(text: &str) -> bool {
    const SEED_LENGTH: usize = 50;
    const LEAST: usize = 8;
    let base32 = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let is_start_of_seed = text.starts_with("SU") && text.len() >= LEAST && text.chars().all(base32);
    is_start_of_seed
        // A JWT: `{"` in base64.
        || text.starts_with("eyJ")
        || text.contains(['\n', '\r', '{'])
        || text.contains("-----BEGIN")
        || text.split(|c| !base32(c)).any(|run| run.len() >= SEED_LENGTH)
}

/// What takes the place of a secret.
pub(crate) const MASK: &str = "***";

/// What may be shown of a value in a place for paths: it may be a damaged key instead. No key has a `/` in it.
pub(crate) fn shown_path(path: &str) -> &str {
    if path.contains('/') { path } else { MASK }
}

/// Our own credentials, to be masked wherever they occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masks {
    /// The credentials in every spelling, the longest first: one may be part of another.
    secrets: Vec<Secret>,
}

/// A secret of fewer bytes is in many words: it is masked only where it stands alone.
const SHORT: usize = 4;

impl Masks {
    /// Masks for all credentials that the user gave us.
    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut masks = Self::default();
        masks.learn(secrets);
        masks
    }

    /// Adds more credentials.
    pub(crate) fn learn(&mut self, secrets: impl IntoIterator<Item = Secret>) {
        self.secrets.extend(secrets.into_iter().flat_map(|secret| spellings(secret.reveal().trim())));
        self.secrets.retain(|secret| !secret.reveal().is_empty());
        self.secrets.sort_by(|a, b| {
            let (a, b) = (a.reveal(), b.reveal());
            b.len().cmp(&a.len()).then_with(|| a.cmp(b))
        });
        self.secrets.dedup();
    }

    /// The text without our credentials; `None` if there are none in it.
    pub(crate) fn hide(&self, text: &str) -> Option<String> {
        if self.is_secret(text.as_bytes()) {
            return Some(MASK.to_owned());
        }
        let mut hidden: Option<String> = None;
        for part in self.parts() {
            let now = hidden.as_deref().unwrap_or(text);
            if now.contains(part) {
                hidden = Some(now.replace(part, MASK));
            }
        }
        hidden
    }

    /// The text without our credentials, whether there were any in it or not.
    pub(crate) fn hidden(&self, text: String) -> String {
        self.hide(&text).unwrap_or(text)
    }

    /// Is this text one of our credentials, and nothing else?
    pub(crate) fn is_secret(&self, text: &[u8]) -> bool {
        self.secrets.iter().any(|secret| secret.reveal().as_bytes() == text)
    }

    /// Every spelling that must not be part of a text.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(Secret::reveal).filter(|secret| secret.len() >= SHORT)
    }
}

/// A secret as it was given, and as others write it: JSON (with and without `\u`), a URL, a shell, a log line.
pub(crate) fn spellings(secret: &str) -> Vec<Secret> {
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
    let in_json = serde_json::Value::from(secret).to_string();
    let in_json = in_json.get(1..in_json.len() - 1).unwrap_or_default();
    let ascii_json = in_ascii(in_json);
    let in_url = |kept| utf8_percent_encode(secret, kept).to_string();
    let spelled = [
        secret.to_owned(),
        in_json.to_owned(),
        ascii_json,
        in_url(NON_ALPHANUMERIC),
        in_url(UNRESERVED),
        in_url(PATH),
        // What `shlex.quote` makes of a quote, and what a notice makes of blanks.
        secret.replace('\'', r#"'"'"'"#),
        collapsed(secret),
    ];
    spelled.into_iter().map(Secret::new).collect()
}

/// JSON as Python writes it by default: whatever is not ASCII as an escape.
pub(crate) fn in_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// A text in one line: what is blank or a control character becomes single blanks.
pub(crate) fn collapsed(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(secrets: &[&str]) -> Masks {
        Masks::new(secrets.iter().map(|secret| Secret::new(*secret)))
    }

    #[test]
    fn own_credentials_are_hidden() {
        let masks = masks(&["hunter2", "hunter2-and-more", "ab", " "]);
        assert_eq!(masks.hide("x hunter2-and-more hunter2"), Some("x *** ***".to_owned()));
        assert_eq!(masks.hide("ab"), Some("***".to_owned()));
        assert_eq!(masks.hide("cab"), None);
    }

    #[test]
    fn what_may_be_a_key_is_not_shown_as_a_path() {
        for secret in ["SUAM4711CANARY", "eyJ0eXAiOiJKV1QifQ.e30.x", "a\nb", "-----BEGIN", "{}"] {
            assert!(looks_secret(secret), "{secret}");
        }
        for path in ["/run/seed", "seed.nk", "SUBJECTS.txt", "SU", "./SUAM4711CANARY"] {
            assert!(!looks_secret(path), "{path}");
        }
        assert_eq!(["seed.nk", "./seed.nk", "SUxq-4711"].map(shown_path), [MASK, "./seed.nk", MASK]);
    }

    #[test]
    fn in_whatever_spelling() {
        let masks = masks(&["a\"b:c/d-ö 'x", "two  blanks"]);
        for spelled in [
            r#"{"pass":"a\"b:c/d-ö 'x"}"#,
            r#"{"pass":"a\"b:c/d-\u00f6 'x"}"#,
            "a%22b%3Ac%2Fd%2D%C3%B6%20%27x",
            "a%22b%3Ac%2Fd-%C3%B6%20%27x",
            "a%22b%3Ac/d-%C3%B6%20%27x",
            r#"'a"b:c/d-ö '"'"'x'"#,
            "two blanks",
        ] {
            let hidden = masks.hide(spelled).unwrap_or_else(|| panic!("{spelled}"));
            assert!(hidden.contains(MASK) && !hidden.contains('x') && !hidden.contains("blanks"), "{hidden}");
        }
    }
}
