//! What must not leave: our own credentials, and the secrets of the environment that `starting` carries.

use serde_json::{Map, Value};

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
    /// The longest first: one may be part of another.
    secrets: Vec<Secret>,
}

impl Masks {
    /// Of all that the user gave us, as it was given and as it stands in JSON and in a URL.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let spellings = |secret: Secret| {
            let text = secret.reveal().trim();
            let in_json = Value::from(text).to_string();
            let in_url = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
            let in_json = in_json.get(1..in_json.len() - 1).unwrap_or_default();
            [text, in_json, &in_url.to_string()].map(Secret::new)
        };
        let mut secrets: Vec<Secret> =
            secrets.into_iter().flat_map(spellings).filter(|secret| !secret.reveal().is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
        secrets.dedup();
        Self { secrets }
    }

    /// The text without our credentials; `None` if there are none in it.
    pub fn hide(&self, text: &str) -> Option<String> {
        // One of three letters is in many words: it is masked only where it stands alone.
        const SHORT: usize = 4;
        let mut hidden: Option<String> = None;
        for secret in &self.secrets {
            let now = hidden.as_deref().unwrap_or(text);
            let secret = secret.reveal();
            if now == secret {
                return Some(MASK.to_owned());
            }
            if secret.len() >= SHORT && now.contains(secret) {
                hidden = Some(now.replace(secret, MASK));
            }
        }
        hidden
    }

    /// A status without secrets. What is no JSON object is returned as it is.
    pub fn redact(&self, status: Vec<u8>, env: StatusEnv) -> Vec<u8> {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(&status) else { return status };
        match (env, members.get_mut("env")) {
            (StatusEnv::Omit, _) => drop(members.shift_remove("env")),
            (_, Some(Value::Object(vars))) => redact_env(vars, env),
            _ => {}
        }
        for (name, value) in &mut members {
            // What these say must stay true, even if somebody's password is "running".
            if !matches!(name.as_str(), "status" | "runner_ident") {
                self.hide_in(value);
            }
        }
        // Writing strings and numbers that were just read cannot fail.
        serde_json::to_vec(&members).unwrap_or(status)
    }

    fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(hidden) = self.hide(text) {
                    *text = hidden;
                }
            }
            Value::Number(number) => {
                if self.hide(&number.to_string()).is_some_and(|hidden| hidden == MASK) {
                    *value = MASK.into();
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_in(item)),
            Value::Object(members) => {
                let telling: Vec<String> =
                    members.keys().filter(|key| self.hide(key).is_some()).cloned().collect();
                for key in telling {
                    if let (Some(hidden), Some(value)) = (self.hide(&key), members.shift_remove(&key)) {
                        members.insert(hidden, value);
                    }
                }
                members.values_mut().for_each(|member| self.hide_in(member));
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// Our own variables that are credentials, whatever this process's configuration made of them: the job's
/// environment may have others.
const OWN: &[&str] = &["RUNNER_NATS_PASSWORD", "RUNNER_NATS_TOKEN", "RUNNER_NATS_NKEYS_SEED"];

fn redact_env(vars: &mut Map<String, Value>, mode: StatusEnv) {
    for (name, value) in vars {
        let text = value.as_str().unwrap_or_default();
        let own = OWN.contains(&name.as_str()) || (name == "RUNNER_NATS_SERVERS" && has_userinfo(text));
        if own || (mode == StatusEnv::Redact && (says_secret(name) || has_userinfo(text))) {
            *value = MASK.into();
        }
    }
}

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
    use serde_json::json;

    fn masks(secrets: &[&str]) -> Masks {
        Masks::new(secrets.iter().map(|secret| Secret::new(*secret)))
    }

    fn redacted(status: &Value, env: StatusEnv, secrets: &[&str]) -> Value {
        let status = serde_json::to_vec(status).unwrap();
        serde_json::from_slice(&masks(secrets).redact(status, env)).unwrap()
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
        let env = json!({"PATH": "/bin", "DB_PASSWORD": "x1", "URL": "a://u:p@h", "RUNNER_NATS_TOKEN": "other",
                         "RUNNER_NATS_SERVERS": "nats://u:p@h", "NOTE": "own-canary!", "NUMBER": 5});
        let status = json!({"status": "starting", "command": ["play", "-e", "x=own-canary"], "env": env,
                            "cwd": "/"});
        let mode = |mode| redacted(&status, mode, &["own-canary"]);
        let full = mode(StatusEnv::Full);
        assert_eq!(
            full["env"],
            json!({"PATH": "/bin", "DB_PASSWORD": "x1", "URL": "a://u:p@h", "RUNNER_NATS_TOKEN": "***",
                                       "RUNNER_NATS_SERVERS": "***", "NOTE": "***!", "NUMBER": 5})
        );
        assert_eq!(full["command"], json!(["play", "-e", "x=***"]));
        let redact = mode(StatusEnv::Redact);
        assert_eq!(
            (&redact["env"]["DB_PASSWORD"], &redact["env"]["URL"], &redact["env"]["PATH"]),
            (&json!("***"), &json!("***"), &json!("/bin"))
        );
        let omit = mode(StatusEnv::Omit);
        assert!(omit.get("env").is_none());
        assert_eq!(omit["command"], json!(["play", "-e", "x=***"]));
    }

    #[test]
    fn what_a_status_says_stays_and_numbers_are_exact() {
        let status = br#"{"status":"running","runner_ident":"running","n":1e+400,"big":123456789012345678901234567890,"pin":4711}"#;
        let out = masks(&["running", "4711"]).redact(status.to_vec(), StatusEnv::Redact);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            r#"{"status":"running","runner_ident":"running","n":1e+400,"big":123456789012345678901234567890,"pin":"***"}"#
        );
    }

    #[test]
    fn own_credentials_are_hidden_in_values_and_names() {
        let masks = masks(&["hunter2", "hunter2-and-more", "ab", " "]);
        assert_eq!(masks.hide("x hunter2-and-more hunter2"), Some("x *** ***".to_owned()));
        let spelled = self::masks(&["a\"b:c/d"]);
        assert_eq!(
            spelled.hide(r#"{"pass":"a\"b:c/d"} a%22b%3Ac%2Fd"#),
            Some(r#"{"pass":"***"} ***"#.to_owned())
        );
        assert_eq!(masks.hide("ab"), Some("***".to_owned()));
        assert_eq!(masks.hide("cab"), None);
        let status = json!({"env": {"A_hunter2": "1", "B": ["hunter2"]}});
        assert_eq!(
            redacted(&status, StatusEnv::Full, &["hunter2"])["env"],
            json!({"A_***": "1", "B": ["***"]}).clone()
        );
    }

    #[test]
    fn what_is_no_status_stays() {
        assert_eq!(masks(&["x"]).redact(b"[1".to_vec(), StatusEnv::Omit), b"[1");
    }
}
