//! Secrets by value: what a run itself was given under a secret name is masked in all that it publishes, whatever prints it.
//!
//! `setup` publishes the whole environment as facts, a template's diff shows a password, a task's output repeats a token:
//! none of these has a name beside it. Looked for in the finished JSON, in one pass, in every spelling that it may have there.

use std::{collections::BTreeSet, fmt};

use aho_corasick::{AhoCorasick, MatchKind, packed};
use serde_json::Value;

use super::{
    END_STATES, OPEN_STATES,
    buffer::{Buffer, OutOfMemory},
    command::values_in,
    forms::has_secret_form,
    json::Writer,
    shell::{script as script_words, unquoted},
    telling::{is_password_name, name_says_secret},
};
use crate::secret::{MASK, Masks, in_ascii, spellings};

/// A shorter value is in many words.
const SHORTEST: usize = 8;

/// Under a name that says less (`API_MODE`, `SESSION_TYPE`) a value is a secret only if it looks random.
const SHORTEST_RANDOM: usize = 12;

/// No more of a run's values are looked for.
const MOST: usize = 500;

/// What people write where a password belongs, and what else stands in such places: masked everywhere it would hide what
/// everybody may read.
const COMMON: &[&str] = &[
    "password",
    "passw0rd",
    "passphrase",
    "changeme",
    "change-me",
    "username",
    "localhost",
    "undefined",
    "disabled",
    "required",
    "optional",
    "automatic",
    "kerberos",
    "production",
    "development",
    "administrator",
    "playbook",
    "playbook_on_start",
    "runner_on_ok",
    "runner_on_start",
    "runner_on_failed",
    "event_data",
    "runner_ident",
];

/// The secrets of a run.
#[derive(Clone, Default)]
pub(crate) struct Values {
    secrets: BTreeSet<String>,
    /// Finds what may be one of them, many bytes at a time; empty if there is no such way.
    cores: Vec<packed::Searcher>,
    automaton: Option<AhoCorasick>,
}

/// A searcher of cores is fast for so many.
const AT_ONCE: usize = 32;
/// And so many searchers are faster than the automaton.
const SEARCHERS: usize = 4;
/// A shorter core is in many words.
const SHORTEST_CORE: usize = 4;

impl Values {
    /// Our own credentials are secrets of the run, too: it was given them.
    pub(crate) fn new(own: &Masks) -> Self {
        let mut values = Self::default();
        for secret in own.parts() {
            values.add(secret);
        }
        values
    }

    /// What the run was given: a secret whatever its name, if there is `None`.
    pub(crate) fn learn(&mut self, name: Option<&str>, value: &Value) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| self.learn(name.map(|_| key.as_str()), value));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(name, item)),
            Value::String(text) => self.learn_text(name, text),
            Value::Number(number) => self.learn_text(name, &number.to_string()),
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn learn_text(&mut self, name: Option<&str>, text: &str) {
        let is_secret = match name {
            None => true,
            Some(name) if is_password_name(name) && name_says_secret(name, text) => true,
            Some(name) => has_secret_form(text) || (name_says_secret(name, text) && looks_random(text)),
        };
        if is_secret {
            self.add(text);
        }
    }

    /// What the command line gives to secret names.
    fn learn_command<'a>(&mut self, arguments: impl Iterator<Item = &'a str>) {
        let arguments: Vec<&str> = arguments.collect();
        for (name, value) in values_in(arguments.iter().copied()) {
            self.learn(name.as_deref(), &value);
        }
        // With a key for ssh, ansible-runner has the command line in a script for a shell.
        let is_script = |argument: &&str| argument.contains("-e") && argument.contains(char::is_whitespace);
        for script in arguments.into_iter().filter(is_script) {
            let words = words_of(script);
            for (name, value) in values_in(words.iter().map(String::as_str)) {
                self.learn(name.as_deref(), &value);
            }
        }
    }

    /// What the status `starting` says of the run: its environment, and its command line as words or as one text.
    pub(crate) fn learn_starting(&mut self, env: &Value, command: &Value) {
        self.learn(Some(""), env);
        match command {
            Value::Array(words) => self.learn_command(words.iter().filter_map(Value::as_str)),
            Value::String(script) => self.learn_command(words_of(script).iter().map(String::as_str)),
            _ => {}
        }
    }

    fn add(&mut self, text: &str) {
        /// A line of a key is as good as the whole, and printed alone.
        const SHORTEST_LINE: usize = 20;
        let text = text.trim();
        let is_word = |word: &&str| word.eq_ignore_ascii_case(text);
        let is_common = COMMON.iter().chain(&END_STATES).chain(&OPEN_STATES).any(is_word);
        if text.len() < SHORTEST || is_common || self.secrets.len() >= MOST {
            return;
        }
        self.secrets.insert(text.to_owned());
        if text.contains('\n') {
            let lines = text
                .lines()
                .map(str::trim)
                .filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
            self.secrets.extend(lines.map(str::to_owned));
        }
        self.automaton = None;
    }

    /// Is nothing looked for?
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// All is learnt, for now. What is part of `ident` stays: people find the run by it.
    pub(crate) fn prepare(&mut self, ident: &str) {
        if self.automaton.is_some() || self.secrets.is_empty() {
            return;
        }
        let in_json = |text: &str| {
            let json = Value::from(text).to_string();
            json.get(1..json.len() - 1).unwrap_or_default().to_owned()
        };
        let patterns: BTreeSet<String> = self
            .secrets
            .iter()
            .filter(|secret| !ident.contains(secret.as_str()))
            .flat_map(|secret| spellings(secret))
            .map(|spelling| in_json(spelling.reveal()))
            // As ansible-runner writes its files.
            .flat_map(|json| [in_ascii(&json), json])
            .filter(|pattern| pattern.len() >= SHORTEST)
            .collect();
        self.automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok();
        self.cores = self.searchers().unwrap_or_default();
    }

    /// What finds the cores of all secrets. `None`: one of them has none, or they are too many.
    fn searchers(&self) -> Option<Vec<packed::Searcher>> {
        let cores: BTreeSet<&str> =
            self.secrets.iter().map(|secret| core_of(secret)).collect::<Option<_>>()?;
        let cores: Vec<&str> = cores.into_iter().collect();
        if cores.len() > AT_ONCE * SEARCHERS {
            return None;
        }
        cores.chunks(AT_ONCE).map(packed::Searcher::new).collect()
    }

    /// May there be one of them in the JSON?
    fn may_be_in(&self, json: &[u8]) -> bool {
        self.cores.is_empty() || self.cores.iter().any(|cores| cores.find(json).is_some())
    }

    /// Masks what is in the JSON.
    pub(crate) fn hide(&self, json: &mut Buffer) -> Result<(), OutOfMemory> {
        let Some(hidden) = self.hidden(json.text())? else { return Ok(()) };
        json.clear();
        Writer::new(json).raw(&hidden)
    }

    /// The same of a text.
    pub(crate) fn hide_in(&self, json: &str) -> Option<String> {
        String::from_utf8(self.hidden(json.as_bytes()).ok()??).ok()
    }

    fn hidden(&self, json: &[u8]) -> Result<Option<Vec<u8>>, OutOfMemory> {
        match &self.automaton {
            Some(automaton) if self.may_be_in(json) => hidden(automaton, json),
            _ => Ok(None),
        }
    }
}

/// The longest part of a secret that stands in every spelling as it is: letters and digits are never escaped.
fn core_of(secret: &str) -> Option<&str> {
    let parts = secret.split(|c: char| !c.is_ascii_alphanumeric());
    parts.max_by_key(|part| part.len()).filter(|core| core.len() >= SHORTEST_CORE)
}

fn words_of(script: &str) -> Vec<String> {
    script_words(script).map(|word| unquoted(word.raw)).collect()
}

/// The JSON with masks, if there is anything to mask. A number outside of strings becomes a string, or stays if it has more
/// digits than the secret.
fn hidden(automaton: &AhoCorasick, json: &[u8]) -> Result<Option<Vec<u8>>, OutOfMemory> {
    let mut all = automaton.find_iter(json).peekable();
    if all.peek().is_none() {
        return Ok(None);
    }
    let mut hidden = Vec::new();
    // A mask is shorter than what it hides: it takes no more than this.
    hidden.try_reserve_exact(json.len()).map_err(|_| OutOfMemory)?;
    let mut strings = Strings::default();
    let mut done = 0;
    for found in all {
        strings.go_on(json.get(strings.at..found.start()).unwrap_or_default());
        hidden.extend_from_slice(json.get(done..found.start()).unwrap_or_default());
        done = found.end();
        if strings.is_inside {
            hidden.extend_from_slice(MASK.as_bytes());
            strings.at = found.end();
            continue;
        }
        let of_number =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || b".eE+-".contains(byte));
        let before = found.start().checked_sub(1).and_then(|at| json.get(at));
        if of_number(before) || of_number(json.get(found.end())) {
            hidden.extend_from_slice(json.get(found.range()).unwrap_or_default());
        } else {
            for part in [b"\"", MASK.as_bytes(), b"\""] {
                hidden.extend_from_slice(part);
            }
        }
        strings.go_on(json.get(strings.at..found.end()).unwrap_or_default());
    }
    hidden.extend_from_slice(json.get(done..).unwrap_or_default());
    Ok(Some(hidden))
}

/// Whether a place in JSON is inside of a string.
#[derive(Default)]
struct Strings {
    at: usize,
    is_inside: bool,
    is_escaped: bool,
}

impl Strings {
    fn go_on(&mut self, json: &[u8]) {
        self.at += json.len();
        for byte in json {
            match byte {
                _ if std::mem::take(&mut self.is_escaped) => {}
                b'\\' => self.is_escaped = self.is_inside,
                b'"' => self.is_inside = !self.is_inside,
                _ => {}
            }
        }
    }
}

/// No word, no path and no address.
fn looks_random(text: &str) -> bool {
    let has = |of: fn(&u8) -> bool| text.as_bytes().iter().any(of);
    text.len() >= SHORTEST_RANDOM
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && !text.starts_with(['/', '~', '.'])
        && !text.contains([' ', '\n'])
        && !text.contains("://")
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({})", self.secrets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(given: &Value) -> Values {
        let mut values = Values::default();
        values.learn(Some(""), given);
        values.prepare("run-1");
        values
    }

    fn hide(values: &Values, json: &Value) -> Value {
        let text = json.to_string();
        serde_json::from_str(&values.hide_in(&text).unwrap_or(text)).unwrap()
    }

    #[test]
    fn wherever_it_occurs() {
        let values = values(
            &json!({ "db_password": "p\"w\\x ö/1", "n": [{ "api_token": "tok-tok-tok" }], "user": "joe-joe-joe" }),
        );
        let printed = json!({ "a": "p\"w\\x ö/1" }).to_string();
        let event = json!({ "stdout": format!("it is {printed} and tok-tok-tok"), "user": "joe-joe-joe", "tok-tok-tok": [1] });
        assert_eq!(
            hide(&values, &event),
            json!({ "stdout": "it is {\"a\":\"***\"} and ***", "user": "joe-joe-joe", "***": [1] })
        );
    }

    #[test]
    fn numbers_stay_json() {
        let values = values(&json!({ "db_password": 12_345_678 }));
        let event =
            json!({ "a": 12_345_678, "b": 123_456_789, "c": "12345678", "d": [12_345_678, -12_345_678] });
        let hidden = hide(&values, &event);
        assert_eq!(hidden, json!({ "a": "***", "b": 123_456_789, "c": "***", "d": ["***", -12_345_678] }));
    }

    #[test]
    fn what_is_no_secret_stays() {
        for given in [
            json!({ "password": "password" }),
            json!({ "db_password": "short" }),
            json!({ "db_password": "runner_on_ok" }),
            json!({ "db_password": "run-1" }),
            json!({ "auth_method": "kerberos-and-more" }),
            json!({ "vault_addr": "https://vault.example.org:8200" }),
            json!({ "ssh_private_key_file": "/home/joe/.ssh/id_ed25519" }),
            json!({ "user": "joe-joe-joe-1" }),
        ] {
            let text = given.as_object().unwrap().values().next().unwrap().clone();
            assert_eq!(hide(&values(&given), &text), text, "{given}");
        }
    }

    #[test]
    fn keys_line_by_line() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nBG5vbmUAAAAEbm9uZQAAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        let mut values = Values::default();
        values.learn(None, &json!(key));
        values.prepare("");
        assert_eq!(hide(&values, &json!("BG5vbmUAAAAEbm9uZQAAAAAA")), json!("***"));
        assert_eq!(
            hide(&values, &json!("-----BEGIN OPENSSH PRIVATE KEY-----")),
            json!("-----BEGIN OPENSSH PRIVATE KEY-----")
        );
    }

    #[test]
    fn of_a_command_line() {
        let mut values = Values::default();
        let arguments = [
            "ansible-playbook",
            "-e",
            "user=joe-joe-joe db_password='a b c=d e' x=1",
            "-e",
            r#"{"api_token": "tok\u0061n-tok", "n": {"my_secret": "sec-sec-sec"}}"#,
            "--vault-password",
            "vault-vault",
            "--extra-vars=ansible_become_pass=become-become",
            "{password: yaml-yaml}",
            "-e",
            "{db_password: flow-flow}",
            "ssh-add /k && ansible-playbook -e '{\"db_password\": \"in a \\\"script\\\"\"}' -e \"my_token='tok in script'\"",
        ];
        values.learn_command(arguments.into_iter());
        values.prepare("");
        for secret in [
            "in a \"script\"",
            "tok in script",
            "a b c=d e",
            "tokan-tok",
            "sec-sec-sec",
            "vault-vault",
            "become-become",
            "flow-flow",
        ] {
            assert_eq!(hide(&values, &json!(secret)), json!("***"), "{secret}");
        }
        assert_eq!(hide(&values, &json!("joe-joe-joe")), json!("joe-joe-joe"));
    }
}
