//! What of a status must not leave: our own credentials, and the secrets of the environment that `starting` carries.

use crate::secret::{Masks, looks_secret};

/// What the status `starting` carries of the job's environment (option `status_env`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StatusEnv {
    /// All of it, with secrets masked.
    #[default]
    Redact,
    /// None of it.
    Omit,
    /// All of it, but for our own credentials.
    Full,
}

/// What a status loses on its way.
#[derive(Clone, Debug)]
pub(crate) struct Redaction {
    /// Our credentials.
    pub(crate) masks: Masks,
    env: StatusEnv,
    /// Our own variables that are credentials, whatever this process's configuration made of them: the job's
    /// environment may have others.
    secret: Vec<&'static str>,
    /// Our own variables that may have one in them.
    telling: Vec<&'static str>,
}

/// A part of a status: what its member is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// The environment.
    Env,
    /// What must stay true, even if somebody's password is "running".
    Plain,
    /// Anything else.
    Other,
}

impl Section {
    /// The section of this name.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "env" => Self::Env,
            "status" | "runner_ident" => Self::Plain,
            _ => Self::Other,
        }
    }
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays, but for our credentials in it.
    Keep,
    /// Its value is masked.
    Mask,
    /// It goes.
    Omit,
}

impl Redaction {
    /// Hides `masks` everywhere, and of the environment what `env` says and our own variables: those that always
    /// hold a credential, and those that may.
    pub(crate) fn new(
        masks: Masks,
        env: StatusEnv,
        (secret, telling): (Vec<&'static str>, Vec<&'static str>),
    ) -> Self {
        Self { masks, env, secret, telling }
    }

    /// What becomes of a section.
    pub(crate) fn of_section(&self, section: Section) -> Fate {
        if section == Section::Env && self.env == StatusEnv::Omit { Fate::Omit } else { Fate::Keep }
    }

    /// What becomes of a variable of the environment.
    pub(crate) fn of_variable(&self, name: &str, value: &str) -> Fate {
        // A server may be given without a scheme: `me:secret@host`.
        let tells = || value.contains('@') || looks_secret(value);
        let own = self.secret.contains(&name) || (self.telling.contains(&name) && tells());
        let says_so = self.env == StatusEnv::Redact && (says_secret(name) || has_userinfo(value));
        if own || says_so { Fate::Mask } else { Fate::Keep }
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
        let redaction = |env| {
            let masks = Masks::new([crate::secret::Secret::new("own-canary")]);
            Redaction::new(masks, env, (vec!["RUNNER_NATS_TOKEN"], vec!["RUNNER_NATS_SERVERS"]))
        };
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
                assert_eq!(redaction(env).of_variable(name, value), fate, "{name}={value} {env:?}");
            }
        }
        let fates = [StatusEnv::Redact, StatusEnv::Omit, StatusEnv::Full]
            .map(|env| redaction(env).of_section(Section::of("env")));
        assert_eq!(fates, [Fate::Keep, Fate::Omit, Fate::Keep]);
    }
}
