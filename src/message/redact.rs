//! What of a status must not leave: our own credentials, and the secrets of the environment and the command line that
//! `starting` carries.

use super::telling::{has_secret, says_secret};
use crate::secret::{Masks, looks_secret};

/// What the status `starting` carries of the job's environment and command line (option `status_env`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StatusEnv {
    /// All of it, with secrets masked.
    #[default]
    Redact,
    /// None of the environment; the command line as with `Redact`.
    Omit,
    /// All of it, but for our own credentials.
    Full,
}

/// What a status loses on its way.
#[derive(Clone, Debug, Default)]
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
    /// The command line.
    Command,
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
            "command" => Self::Command,
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
    /// It is a part of the command line: see [`super::Sieve::argument`].
    Argument,
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

    /// Does a status hide nothing but our own credentials?
    pub(crate) fn is_full(&self) -> bool {
        self.env == StatusEnv::Full
    }

    /// What becomes of a section.
    pub(crate) fn of_section(&self, section: Section) -> Fate {
        match (section, self.env) {
            (Section::Env, StatusEnv::Omit) => Fate::Omit,
            (Section::Command, StatusEnv::Redact | StatusEnv::Omit) => Fate::Argument,
            _ => Fate::Keep,
        }
    }

    /// What becomes of a variable of the environment.
    pub(crate) fn of_variable(&self, name: &str, value: &str) -> Fate {
        // A server may be given without a scheme: `me:secret@host`.
        let tells = || value.contains('@') || looks_secret(value);
        let own = self.secret.contains(&name) || (self.telling.contains(&name) && tells());
        let says_so = self.env == StatusEnv::Redact && (says_secret(name) || has_secret(value));
        if own || says_so { Fate::Mask } else { Fate::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("DB", "Server=h;pwd=x", Fate::Mask, Fate::Keep),
            ("DB", "u:p@tcp(h)/d", Fate::Mask, Fate::Keep),
            ("XDG_SESSION_TYPE", "tty", Fate::Keep, Fate::Keep),
            ("RUNNER_NATS_TOKEN", "other", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "nats://u:p@h", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "u:p@h", Fate::Mask, Fate::Mask),
            ("RUNNER_NATS_SERVERS", "nats://h", Fate::Keep, Fate::Keep),
        ] {
            for (env, fate) in [(StatusEnv::Redact, redact), (StatusEnv::Full, full)] {
                assert_eq!(redaction(env).of_variable(name, value), fate, "{name}={value} {env:?}");
            }
        }
        let fates = |section| {
            [StatusEnv::Redact, StatusEnv::Omit, StatusEnv::Full]
                .map(|env| redaction(env).of_section(Section::of(section)))
        };
        assert_eq!(fates("env"), [Fate::Keep, Fate::Omit, Fate::Keep]);
        assert_eq!(fates("command"), [Fate::Argument, Fate::Argument, Fate::Keep]);
    }
}
