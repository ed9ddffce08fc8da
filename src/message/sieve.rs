//! What of a message's data goes out: the fields that the user leaves out, and what a status hides.
//!
//! The walk over Python's objects (`plugin::encode`) and `replay`, which has the same data as JSON, ask the same
//! questions here, so that both publish the same.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    Kind,
    command::CommandLine,
    redact::{Fate, Redaction, Section},
    select::{Member, Omit},
    telling::{is_name_char, name_says_secret},
};
use crate::secret::{MASK, Masks};

/// What is looked at on the way out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sieve<'a> {
    redaction: Option<&'a Redaction>,
    omit: Option<&'a Omit>,
}

/// Where in the data a value is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// In the option `omit`.
    omit: Option<usize>,
    section: Section,
    /// Containers around it.
    level: usize,
}

impl<'a> Sieve<'a> {
    /// For messages of this kind. Only statuses are redacted: events are what the job says.
    pub(crate) fn new(kind: Kind, omit: &'a Omit, redaction: &'a Redaction) -> Self {
        Self { redaction: (kind == Kind::Status).then_some(redaction), omit: Some(omit) }
    }

    /// Where the data begins.
    pub(crate) fn root(&self) -> Spot {
        Spot { omit: self.omit.and_then(Omit::root), section: Section::Other, level: 0 }
    }

    /// Does all data go out as it is?
    #[allow(dead_code, reason = "the plain walk's question, which not every build has")]
    pub(crate) fn keeps_all(&self) -> bool {
        self.redaction.is_none() && self.omit.is_none_or(|omit| omit.root().is_none())
    }

    /// May anything happen to the members of an object there? If not, nobody needs to ask.
    pub(crate) fn looks_into(&self, object: Spot) -> bool {
        object.omit.is_some() || self.redaction.is_some()
    }

    /// What becomes of the member `key` of an object, whose value may be a `text`; and where that is. The text may be
    /// large: it is asked for only where it matters.
    pub(crate) fn member<'t>(
        &self,
        object: Spot,
        key: &str,
        text: impl Fn() -> Option<Cow<'t, str>>,
    ) -> (Fate, Spot) {
        let mut spot = Spot { omit: None, section: object.section, level: object.level + 1 };
        match self.omit.zip(object.omit).and_then(|(omit, place)| omit.member(place, key)) {
            Some(Member::Gone) => return (Fate::Omit, spot),
            Some(Member::Partly(below)) => spot.omit = Some(below),
            None => {}
        }
        let Some(redaction) = self.redaction else { return (Fate::Keep, spot) };
        if spot.level == 1 {
            spot.section = Section::of(key);
            let fate = redaction.of_section(spot.section);
            if spot.section == Section::Command && fate == Fate::Keep {
                spot.section = Section::Other;
            }
            return (fate, spot);
        }
        let is_name = || key.chars().all(is_name_char);
        if spot.section == Section::Command && is_name() && name_says_secret(key, &text().unwrap_or_default())
        {
            return (Fate::Mask, spot);
        }
        if spot.level == 2 && spot.section == Section::Env {
            return (redaction.of_variable(key, &text().unwrap_or_default()), spot);
        }
        (spot.fate(), spot)
    }

    /// Where the items of a list are: paths of `omit` go on in each of them.
    pub(crate) fn item(list: Spot) -> Spot {
        Spot { level: list.level + 1, ..list }
    }

    /// Where a member without a name is.
    pub(crate) fn nameless(object: Spot) -> Spot {
        Spot { omit: None, ..Self::item(object) }
    }

    /// What takes the place of a part of the command line, a text or (`None`) something else, behind what `line` has
    /// read. `None`: it stays as it is, and what is in it is looked at.
    pub(crate) fn argument(&self, spot: Spot, line: &mut CommandLine, text: Option<&str>) -> Option<String> {
        let is_whole = spot.level == 1;
        if is_whole {
            *line = CommandLine::default();
        }
        let Some(text) = text else { return line.is_secret().then(|| MASK.to_owned()) };
        let redact = |line: &mut CommandLine, text: &str| {
            if is_whole { CommandLine::script(text) } else { line.argument(text) }
        };
        let hide = |text: &str| self.masks(spot)?.hide(text);
        let Some(hidden) = hide(text) else { return redact(line, text) };
        // Our credential may be half a word of theirs, and the other way round: one must not spoil the other.
        let hidden = redact(&mut line.clone(), &hidden).unwrap_or(hidden);
        let redacted = redact(line, text).map_or_else(|| hidden.clone(), |text| hide(&text).unwrap_or(text));
        Some(if hidden == redacted { hidden } else { MASK.to_owned() })
    }

    /// What hides our credentials there.
    pub(crate) fn masks(&self, spot: Spot) -> Option<&'a Masks> {
        self.redaction.filter(|_| spot.section != Section::Plain).map(|redaction| &redaction.masks)
    }

    /// Does everything go out as it is?
    pub(crate) fn is_open(&self) -> bool {
        !self.looks_into(self.root())
    }

    /// Takes out of JSON what does not go out.
    pub(crate) fn sift(&self, value: &mut Value) {
        self.sift_at(value, self.root(), &mut CommandLine::default());
    }

    fn sift_at(&self, value: &mut Value, spot: Spot, line: &mut CommandLine) {
        let hidden = |text: &str| self.masks(spot).and_then(|masks| masks.hide(text));
        match value {
            Value::String(text) => {
                if let Some(hidden) = hidden(text) {
                    *text = hidden;
                }
            }
            // A number may be somebody's password.
            Value::Number(number) => {
                if self.masks(spot).is_some_and(|masks| masks.is_secret(number.to_string().as_bytes())) {
                    *value = Value::from(MASK);
                }
            }
            Value::Array(items) => {
                let below = Self::item(spot);
                for item in items {
                    self.sift_part(item, below.fate(), below, line);
                }
            }
            Value::Object(members) if self.looks_into(spot) => {
                let mut left = Map::new();
                for (key, mut member) in std::mem::take(members) {
                    let (fate, below) = self.member(spot, &key, || member.as_str().map(Cow::Borrowed));
                    if fate == Fate::Omit {
                        continue;
                    }
                    self.sift_part(&mut member, fate, below, line);
                    let hidden = self.masks(below).and_then(|masks| masks.hide(&key));
                    left.insert(hidden.unwrap_or(key), member);
                }
                *members = left;
            }
            Value::Object(_) | Value::Null | Value::Bool(_) => {}
        }
    }

    fn sift_part(&self, value: &mut Value, fate: Fate, spot: Spot, line: &mut CommandLine) {
        let other = match fate {
            Fate::Omit | Fate::Keep => None,
            Fate::Mask => Some(MASK.to_owned()),
            Fate::Argument => self.argument(spot, line, value.as_str()),
        };
        match other {
            Some(other) => *value = Value::from(other),
            None => self.sift_at(value, spot, line),
        }
    }
}

impl Spot {
    /// What becomes of what has no name there.
    pub(crate) fn fate(self) -> Fate {
        if self.section == Section::Command { Fate::Argument } else { Fate::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::StatusEnv,
        secret::{Masks, Secret},
    };
    use serde_json::json;

    fn sifted(kind: Kind, omit: &[&str], data: &Value) -> Value {
        let redaction = Redaction::new(
            Masks::new(["canary", "4711"].map(Secret::new)),
            StatusEnv::Redact,
            (vec!["RUNNER_NATS_TOKEN"], vec!["RUNNER_NATS_SERVERS"]),
        );
        let paths: Vec<String> = omit.iter().map(|path| (*path).to_owned()).collect();
        let omit = Omit::parse(&paths).unwrap();
        let mut data = data.clone();
        Sieve::new(kind, &omit, &redaction).sift(&mut data);
        data
    }

    #[test]
    fn a_status_without_our_credentials_be_they_text_number_or_key() {
        let data = json!({"status": "canary", "command": ["-e", "x=canary", 4711, 47110], "cwd": "/",
            "env": {"DB_PASSWORD": "x", "canary": "y", "RUNNER_NATS_TOKEN": 1, "PATH": "/bin"}});
        assert_eq!(
            sifted(Kind::Status, &[], &data),
            json!({"status": "canary", "command": ["-e", "x=***", "***", 47110], "cwd": "/",
                "env": {"DB_PASSWORD": "***", "***": "y", "RUNNER_NATS_TOKEN": "***", "PATH": "/bin"}})
        );
        // Events are what the job says.
        assert_eq!(sifted(Kind::Event, &[], &data), data);
    }

    #[test]
    fn the_command_line_without_secrets() {
        for (command, expected) in [
            (
                json!(["ansible-playbook", "-e", "db_password=x user=joe", "--vault-pass", 7, "a.yml"]),
                json!(["ansible-playbook", "-e", "db_password=*** user=joe", "--vault-pass", "***", "a.yml"]),
            ),
            (
                json!("ansible-playbook -e db_password=x a.yml"),
                json!("ansible-playbook -e db_password=*** a.yml"),
            ),
            (
                json!([["--token", "x"], {"a": ["password=x", 4711], "token": ["x"]}]),
                json!([["--token", "***"], {"a": ["password=***", "***"], "token": "***"}]),
            ),
            // Ours and theirs in one: `canary` is our own.
            (json!(["-e", "db_password=canary a=canary"]), json!(["-e", "db_password=*** a=***"])),
            (json!(null), json!(null)),
        ] {
            let data = |command: Value| json!({"status": "starting", "command": command, "cwd": "/"});
            assert_eq!(sifted(Kind::Status, &[], &data(command)), data(expected));
        }
    }

    #[test]
    fn a_credential_of_ours_that_is_half_a_word_of_theirs() {
        let redaction = |own: &str| {
            Redaction::new(Masks::new([Secret::new(own)]), StatusEnv::Redact, (Vec::new(), Vec::new()))
        };
        for own in ["password", "a b password=x-canary", "rd=x-can"] {
            let (redaction, omit) = (redaction(own), Omit::default());
            let mut data = json!({"command": ["-e", "a b password=x-canary", "c=d"]});
            Sieve::new(Kind::Status, &omit, &redaction).sift(&mut data);
            let text = data.to_string();
            assert!(!text.contains("canary") && !text.contains("x-can") && text.contains("c=d"), "{text}");
        }
    }

    #[test]
    fn fields_that_are_left_out_in_each_item_of_a_list() {
        let data = json!({"a": 1, "b": [{"c": 2, "d": 3}, [{"c": 4}]], "c": 5});
        assert_eq!(sifted(Kind::Event, &["a", "b.c"], &data), json!({"b": [{"d": 3}, [{}]], "c": 5}));
        assert_eq!(sifted(Kind::Status, &["b.d", "c"], &data), json!({"a": 1, "b": [{"c": 2}, [{"c": 4}]]}));
    }
}
