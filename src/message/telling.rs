//! What says that something is secret: the name of a value, or the look of the value itself.

use super::{forms::has_secret_form, start_of};
use crate::secret::looks_secret;

/// Parts of names, anywhere in them.
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
    "CONNECTIONSTRING",
    "VAULT",
    "HEADERS",
    "SESSION",
    "DSN",
];

/// Words of names: in others these letters mean nothing (PATH, PATTERN).
const TELLING_WORDS: &[&str] = &["PAT", "PW", "PSW", "PSK", "PIN", "OTP", "SAS", "HOOK", "HOOKS"];

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
    "SESSION_MANAGER",
    "DESKTOP_SESSION",
    "GDMSESSION",
    "GNOME_DESKTOP_SESSION_ID",
    "KDE_FULL_SESSION",
    "KDE_SESSION_UID",
    "KDE_SESSION_VERSION",
    "TERM_SESSION_ID",
    "ITERM_SESSION_ID",
    "SECURITYSESSIONID",
    "SSH_SESSION_ID",
];

/// Of what tells of the session of a desktop.
const HARMLESS_STARTS: &[&str] = &["XDG_SESSION_", "DBUS_SESSION_BUS_"];

/// Options of ansible, podman and ssh, without separators: a path, a label, a question, or how rather than with what.
const HARMLESS_OPTIONS: &[&str] = &[
    "PRIVATEKEY",
    "VAULTID",
    "KEYRING",
    "APIVERSION",
    "ASKPASS",
    "ASKBECOMEPASS",
    "ASKVAULTPASS",
    "ASKVAULTPASSWORD",
    "ASKSUDOPASS",
    "ASKSUPASS",
];

/// The same in `NAME=value`, where `private_key` is a key.
const HARMLESS_NAMES: &[&str] = &[
    "ADDKEYSTOAGENT",
    "UPDATEHOSTKEYS",
    "HOSTKEYALIAS",
    "REKEYLIMIT",
    "NUMBEROFPASSWORDPROMPTS",
    "GSSAPIDELEGATECREDENTIALS",
    "GSSAPIKEYEXCHANGE",
];

/// Of names of paths, and of options of ssh.
const HARMLESS_ENDS: &[&str] = &[
    "FILE",
    "PATH",
    "DIR",
    "HOSTKEYCHECKING",
    "AUTHENTICATION",
    "AUTHENTICATIONS",
    "ALGORITHMS",
    "KEYTYPES",
];

/// How names of passwords end, without separators, wherever they stand: in a connection string, in an option.
const PASSWORDS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PWD",
    "PASSPHRASE",
    "PASS",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "ACCESSKEY",
    "ACCOUNTKEY",
    "PRIVATEKEY",
    "SECRETKEY",
    "PASSPHRASES",
    "PASSWORDS",
    "SECRETS",
    "TOKENS",
    "CREDENTIALS",
    "COOKIE",
    "PSK",
    "PSW",
];

/// Does the name of a variable say that its value is secret?
pub(super) fn says_secret(name: &str) -> bool {
    let name = name.to_uppercase().replace(['-', '.', ' '], "_");
    !HARMLESS.contains(&name.as_str())
        && !HARMLESS_STARTS.iter().any(|start| name.starts_with(start))
        && (TELLING.iter().any(|part| name.contains(part))
            || name.split('_').any(|word| TELLING_WORDS.contains(&word)))
}

/// Does the name of an option (`--NAME`) of a command line say so?
pub(super) fn option_says_secret(name: &str, value: &str) -> bool {
    is_secret_name(name, value)
        && (looks_secret(start_of(value, LOOKED_AT))
            || (!HARMLESS_OPTIONS.contains(&&*bare(name)) && !is_harmless_in_commands(name)))
}

/// Does a name with a value (`NAME=value`) in a command line say so?
pub(super) fn name_says_secret(name: &str, value: &str) -> bool {
    is_secret_name(name, value)
        && (looks_secret(start_of(value, LOOKED_AT)) || !is_harmless_in_commands(name))
}

/// Is it a name that nothing but a password, a key or a token has?
pub(super) fn is_password_name(name: &str) -> bool {
    let name = bare(name);
    PASSWORDS.iter().any(|end| name.ends_with(end))
}

/// So much of a value is looked at: who asks for each of many names in a long text would wait for ever.
const LOOKED_AT: usize = 256;

/// In a command `pwd` is a password, unless it is the working directory.
fn is_secret_name(name: &str, value: &str) -> bool {
    says_secret(name) || (name.eq_ignore_ascii_case("pwd") && !value.starts_with('/'))
}

fn is_harmless_in_commands(name: &str) -> bool {
    let name = bare(name);
    HARMLESS_NAMES.contains(&name.as_str()) || HARMLESS_ENDS.iter().any(|end| name.ends_with(end))
}

/// In upper case, without separators.
fn bare(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_uppercase()
}

/// Can it be part of a name?
pub(super) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The name at the end of a text.
pub(super) fn name_before(text: &str) -> &str {
    let start =
        text.rfind(|c| !is_name_char(c)).and_then(|at| Some(at + text.get(at..)?.chars().next()?.len_utf8()));
    text.get(start.unwrap_or(0)..).unwrap_or_default()
}

/// Does the value of a variable have a secret in it: one that is known by its form, `password=…;`, `"pwd": …`, a URL or an
/// address with a password?
pub(super) fn has_secret(value: &str) -> bool {
    let value = value.trim_end();
    let is_named = |(at, sign): (usize, &str)| {
        let (before, after) = (value.get(..at).unwrap_or_default(), value.get(at + 1..).unwrap_or_default());
        let name = bare(name_before(before.trim_end_matches([' ', '"', '\'', '\\'])));
        // Not of `a:b`: that is no name and its value.
        let has_value = !after.is_empty() && (sign == "=" || after.starts_with([' ', '"', '\'']));
        has_value && PASSWORDS.iter().any(|end| name.ends_with(end))
    };
    has_secret_form(value)
        || has_userinfo(value)
        || value.split_whitespace().any(|word| address_with_password(word).is_some())
        || value.match_indices(['=', ':']).any(is_named)
}

/// Is there a URL with a user, or a user and a password, anywhere in the text?
pub(super) fn has_userinfo(text: &str) -> bool {
    // A password that should have been percent-encoded may have a slash in it: up to the next blank.
    let mut words = text.split(char::is_whitespace);
    words.any(|word| word.split_once("://").is_some_and(|(_, rest)| rest.contains('@')))
}

/// `user:password@host` without a scheme, as drivers of databases take it: what is before and behind the password.
pub(super) fn address_with_password(word: &str) -> Option<(&str, &str)> {
    let (before, host) = word.rsplit_once('@')?;
    let (user, password) = before.split_once(':')?;
    let is_user = |c: char| is_name_char(c) || matches!(c, '%' | '+');
    let is_address = user.chars().all(is_user)
        && user != "mailto"
        && !password.is_empty()
        && !password.starts_with("//")
        && !host.is_empty()
        // The digest of a container's image.
        && !host.starts_with("sha256:");
    is_address.then_some((user, host))
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
            "GH_PAT",
            "PAT",
            "azure-devops-ext-pat",
            "SESSION",
            "PHP_SESSION_ID",
            "SENTRY_DSN",
            "COOKIE",
            "ansible_become_pass",
            "connection-string",
            "DB_PW",
            "DB_PSW",
            "WIFI_PSK",
            "SLACK_HOOK",
        ] {
            assert!(says_secret(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "PWD",
            "SSH_AUTH_SOCK",
            "ANSIBLE_HOST_KEY_CHECKING",
            "ansible_ask_pass",
            "PATTERN",
            "COMPAT",
            "LD_LIBRARY_PATH",
            "SESSION_MANAGER",
            "XDG_SESSION_ID",
            "XDG_SESSION_TYPE",
            "XDG_SESSION_DESKTOP",
            "DBUS_SESSION_BUS_ADDRESS",
            "DESKTOP_SESSION",
        ] {
            assert!(!says_secret(name), "{name}");
        }
    }

    #[test]
    fn options_of_paths_and_questions_stay() {
        for name in ["vault-password", "vault-pass", "token", "api-key", "become-password", "PASSWORD"] {
            assert!(option_says_secret(name, "x"), "{name}");
        }
        for name in [
            "vault-password-file",
            "become-password-file",
            "vault-pass-file",
            "private-key",
            "key-file",
            "authfile",
            "vault-id",
            "ask-vault-pass",
            "ask-become-pass",
            "ask-pass",
            "extra-vars",
            "api-version",
        ] {
            assert!(!option_says_secret(name, "x"), "{name}");
        }
        assert!(option_says_secret("private-key", "-----BEGIN PRIVATE KEY-----"));
        assert!(name_says_secret("private_key", "x") && name_says_secret("ansible_ssh_pass", "x"));
        for name in
            ["StrictHostKeyChecking", "PasswordAuthentication", "ansible_ssh_private_key_file", "user"]
        {
            assert!(!name_says_secret(name, "x"), "{name}");
        }
    }

    #[test]
    fn values_with_a_password() {
        for value in [
            "postgres://u:p@h/d",
            "--db=redis://:p@h",
            "a https://token@h/x b",
            "nats://u:a/b@h",
            "x://u:p%40@h",
            "Server=db;User Id=sa;Password=x y;",
            "Server=db;pwd = x",
            "host=h password=x dbname=d",
            "AccountName=a;AccountKey=abc==",
            r#"{"db_password": "x"}"#,
            "{'user': 'u', 'passwd': 'x'}",
            "u:p@tcp(127.0.0.1:3306)/db",
            "AKIAIOSFODNN7EXAMPLE",
            "-e u:p@h:1521/x",
        ] {
            assert!(has_secret(value), "{value}");
        }
        for value in [
            "http://proxy:3128",
            "me@example.org",
            "http://h/ me@example.org",
            "://",
            "",
            "/usr/bin:/opt/python@3.11/bin:/bin",
            "local/host:@/tmp/.ICE-unix/1,unix/host:/tmp/.ICE-unix/1",
            "-o StrictHostKeyChecking=no -o PasswordAuthentication=no",
            "rs=0:di=01;34:ln=01;36",
            "registry.example.org/ee:1.0@sha256:abc",
            "unix:path=/run/user/1000/bus",
            "password=",
            "@im=ibus",
        ] {
            assert!(!has_secret(value), "{value}");
        }
    }
}
