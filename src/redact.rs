//! What must not leave: our own credentials, and the secrets of the environment that `starting` carries.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Secret;

/// What takes the place of a secret.
pub const MASK: &str = "***";

/// What the status `starting` carries of the job's environment (option `status_env`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusEnv {
    /// All of it, with secrets masked.
    #[default]
    Redact,
    /// None of it.
    Omit,
    /// All of it, but for our own credentials.
    Full,
}

/// Our own credentials, to be masked wherever they occur.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// In every spelling, the longest first: one may be part of another.
    secrets: Vec<Secret>,
}

/// A secret of fewer bytes is in many words: it is masked only where it stands alone.
const SHORT: usize = 4;

impl Masks {
    /// Of all that the user gave us.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut masks = Self::default();
        masks.learn(secrets);
        masks
    }

    /// More of them.
    pub fn learn(&mut self, secrets: impl IntoIterator<Item = Secret>) {
        self.secrets.extend(secrets.into_iter().flat_map(|secret| spellings(secret.reveal().trim())));
        self.secrets.retain(|secret| !secret.reveal().is_empty());
        self.secrets.sort_by(|a, b| {
            let (a, b) = (a.reveal(), b.reveal());
            b.len().cmp(&a.len()).then_with(|| a.cmp(b))
        });
        self.secrets.dedup();
    }

    /// The text without our credentials; `None` if there are none in it.
    pub fn hide(&self, text: &str) -> Option<String> {
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
    pub fn hidden(&self, text: String) -> String {
        self.hide(&text).unwrap_or(text)
    }

    /// Is this one of them, and nothing else?
    pub fn is_secret(&self, text: &[u8]) -> bool {
        self.secrets.iter().any(|secret| secret.reveal().as_bytes() == text)
    }

    /// What must not be part of a text.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(Secret::reveal).filter(|secret| secret.len() >= SHORT)
    }
}

/// A secret as it was given, and as others write it: JSON (with and without `\u`), a URL, a shell, a log line.
fn spellings(secret: &str) -> Vec<Secret> {
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
    let in_json = serde_json::Value::from(secret).to_string();
    let in_json = in_json.get(1..in_json.len() - 1).unwrap_or_default();
    let escape = |unit: &mut u16| format!("\\u{unit:04x}");
    let ascii_json: String = in_json
        .chars()
        .map(|c| {
            if c.is_ascii() {
                c.to_string()
            } else {
                c.encode_utf16(&mut [0; 2]).iter_mut().map(escape).collect()
            }
        })
        .collect();
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

/// A text in one line: what is blank or a control character becomes single blanks.
pub fn collapsed(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// What a status loses on its way.
#[derive(Debug)]
pub struct Redaction<'a> {
    /// Our credentials.
    pub masks: &'a Masks,
    /// What is left of the environment.
    pub env: StatusEnv,
}

/// A part of a status: what its member is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The environment.
    Env,
    /// What must stay true, even if somebody's password is "running".
    Plain,
    /// Anything else.
    Other,
}

impl Section {
    /// The section of this name.
    pub fn of(name: &str) -> Self {
        match name {
            "env" => Self::Env,
            "status" | "runner_ident" => Self::Plain,
            _ => Self::Other,
        }
    }
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays, but for our credentials in it.
    Keep,
    /// Its value is masked.
    Mask,
    /// It goes.
    Omit,
}

impl Redaction<'_> {
    /// What becomes of a section.
    pub fn of_section(&self, section: Section) -> Fate {
        if section == Section::Env && self.env == StatusEnv::Omit { Fate::Omit } else { Fate::Keep }
    }

    /// What becomes of a variable of the environment.
    pub fn of_variable(&self, name: &str, value: &str) -> Fate {
        // A server may be given without a scheme: `me:secret@host`.
        let own = OWN.contains(&name) || (name == "RUNNER_NATS_SERVERS" && value.contains('@'));
        let telling = self.env == StatusEnv::Redact && (says_secret(name) || has_userinfo(value));
        if own || telling { Fate::Mask } else { Fate::Keep }
    }
}

/// Our own variables that are credentials, whatever this process's configuration made of them: the job's
/// environment may have others.
const OWN: &[&str] = &["RUNNER_NATS_PASSWORD", "RUNNER_NATS_TOKEN", "RUNNER_NATS_NKEYS_SEED"];

/// Does the name of a variable say that its value is secret?
fn says_secret(name: &str) -> bool {
    const TELLING: &[&str] = &[
        "PASS",
        "PWD",
        "TOKEN",
        "SECRET",
        "KEY",
        "CRED",
        "SEED",
        "API",
        "AUTH",
        "PRIVATE",
        "COOKIE",
        "JWT",
        "BEARER",
        "WEBHOOK",
        "SIGNATURE",
        "CONNECTION_STRING",
        "VAULT",
        "HEADERS",
    ];
    /// These tell something else.
    const HARMLESS: &[&str] = &[
        "PWD",
        "OLDPWD",
        "SSH_AUTH_SOCK",
        "XAUTHORITY",
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_AUTHOR_DATE",
        "ANSIBLE_HOST_KEY_CHECKING",
        "ANSIBLE_ASK_PASS",
        "ANSIBLE_ASK_VAULT_PASS",
        "ANSIBLE_BECOME_ASK_PASS",
        "ANSIBLE_PARAMIKO_HOST_KEY_AUTO_ADD",
        "ANSIBLE_SSH_HOST_KEY_CHECKING",
        "ANSIBLE_HOST_KEY_AUTO_ADD",
        "XKB_DEFAULT_LAYOUT",
        "KEYBOARD_LAYOUT",
    ];
    let name = name.to_uppercase();
    !HARMLESS.contains(&name.as_str()) && TELLING.iter().any(|part| name.contains(part))
}

/// Is there a URL with a user, or a user and a password, anywhere in the text?
fn has_userinfo(text: &str) -> bool {
    text.match_indices("://").any(|(at, separator)| {
        let rest = text.get(at + separator.len()..).unwrap_or_default();
        // A password that should have been percent-encoded may have a slash in it: up to the next blank.
        let url = rest.split(char::is_whitespace).next().unwrap_or_default();
        url.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(secrets: &[&str]) -> Masks {
        Masks::new(secrets.iter().map(|secret| Secret::new(*secret)))
    }

    #[test]
    fn names_that_say_secret() {
        for name in [
            "DB_PASSWORD",
            "passphrase",
            "MYSQL_PWD",
            "GH_TOKEN",
            "CLIENT_SECRET",
            "AWS_ACCESS_KEY_ID",
            "apikey",
            "GOOGLE_CREDENTIALS",
            "NKEY_SEED",
            "OPENAI_API",
            "Authorization",
            "SSH_PRIVATE",
            "SLACK_WEBHOOK_URL",
            "RUNNER_NATS_PASSWORD",
            "RUNNER_NATS_HEADERS",
        ] {
            assert!(says_secret(name), "{name}");
        }
        for name in
            ["PATH", "HOME", "LANG", "PWD", "SSH_AUTH_SOCK", "ANSIBLE_HOST_KEY_CHECKING", "ansible_ask_pass"]
        {
            assert!(!says_secret(name), "{name}");
        }
    }

    #[test]
    fn urls_with_a_password() {
        for url in [
            "postgres://u:p@h/d",
            "--db=redis://:p@h",
            "a https://token@h/x b",
            "nats://u:a/b@h",
            "x://u:p%40@h",
        ] {
            assert!(has_userinfo(url), "{url}");
        }
        for url in ["http://proxy:3128", "me@example.org", "http://h/ me@example.org", "://", ""] {
            assert!(!has_userinfo(url), "{url}");
        }
    }

    #[test]
    fn the_environment_in_each_mode() {
        let masks = masks(&["own-canary"]);
        for (name, value, redact, full) in [
            ("PATH", "/bin", Fate::Keep, Fate::Keep),
            ("DB_PASSWORD", "x1", Fate::Mask, Fate::Keep),
            ("URL", "a://u:p@h", Fate::Mask, Fate::Keep),
            ("RUNNER_NATS_TOKEN", "other", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "nats://u:p@h", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "u:p@h", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "nats://h", Fate::Keep, Fate::Keep),
        ] {
            for (env, fate) in [(StatusEnv::Redact, redact), (StatusEnv::Full, full)] {
                assert_eq!(
                    Redaction { masks: &masks, env }.of_variable(name, value),
                    fate,
                    "{name}={value} {env:?}"
                );
            }
        }
        let fates = [StatusEnv::Redact, StatusEnv::Omit, StatusEnv::Full]
            .map(|env| Redaction { masks: &masks, env }.of_section(Section::of("env")));
        assert_eq!(fates, [Fate::Keep, Fate::Omit, Fate::Keep]);
    }

    #[test]
    fn own_credentials_are_hidden() {
        let masks = masks(&["hunter2", "hunter2-and-more", "ab", " "]);
        assert_eq!(masks.hide("x hunter2-and-more hunter2"), Some("x *** ***".to_owned()));
        assert_eq!(masks.hide("ab"), Some("***".to_owned()));
        assert_eq!(masks.hide("cab"), None);
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
