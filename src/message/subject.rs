//! Subjects: where messages go.

use std::{borrow::Cow, sync::Arc};

use super::{Kind, start_of};

/// Where messages go by default.
pub(crate) const SUBJECT: &str = "pub.ansible.runner.{subject_id}.{runner_ident}.{kind}";

/// Where messages go (option `subject`): a subject with places for what tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    SubjectId,
    Ident,
    Kind,
    Name,
}

impl Default for Template {
    fn default() -> Self {
        let dot = || Part::Literal(".".to_owned());
        let start = Part::Literal("pub.ansible.runner.".to_owned());
        Self(vec![start, Part::SubjectId, dot(), Part::Ident, dot(), Part::Kind])
    }
}

impl Template {
    /// Reads `runs.{subject_id}.{runner_ident}.{kind}.{name}`. An error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const LONGEST: usize = 512;
        if text.len() > LONGEST {
            return Err("it is longer than 512 bytes");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, more)) = rest.split_once('{') {
            let (place, more) = more.split_once('}').ok_or("a { without its }")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match place {
                "subject_id" => Part::SubjectId,
                "runner_ident" => Part::Ident,
                "kind" => Part::Kind,
                "name" => Part::Name,
                _ => return Err("{} takes subject_id, runner_ident, kind or name"),
            });
            rest = more;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let template = Self(parts);
        let example = template.subject("x", "x", Kind::Event, "x");
        if !is_literal_subject(&example) || example.contains(['{', '}']) {
            return Err("an empty token, a blank or a wildcard is in it");
        }
        // What comes from the job must not choose the first token: there are subjects that do things.
        if matches!(template.0.first(), Some(Part::Ident | Part::Name)) {
            return Err("it begins with {runner_ident} or {name}; begin with something of your own");
        }
        if example.starts_with(['$', '_']) {
            return Err("subjects that begin with $ or _ are the server's and its clients' own");
        }
        Ok(template)
    }

    /// What it is made of.
    pub(super) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Does the subject depend on the name of the event or the status?
    pub(crate) fn has_name(&self) -> bool {
        self.0.contains(&Part::Name)
    }

    /// The subject of a message; `name` is that of the event, or the status.
    pub(crate) fn subject(&self, subject_id: &str, ident: &str, kind: Kind, name: &str) -> Arc<str> {
        /// A part may be there several times.
        const LONGEST: usize = 3 * LONGEST_TOKENS;
        let mut subject = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => subject.push_str(text),
                Part::SubjectId => subject.push_str(&tokens(subject_id)),
                Part::Ident => subject.push_str(&tokens(ident)),
                Part::Kind => subject.push_str(kind.as_str()),
                Part::Name => subject.push_str(&tokens(name)),
            }
        }
        if subject.len() > LONGEST {
            subject.truncate(start_of(&subject, LONGEST).len());
            if subject.ends_with('.') {
                subject.push('_');
            }
        }
        subject.into()
    }
}

impl Template {
    /// Could this be the subject of a message of this subject id, whatever its ident, kind and name?
    pub(crate) fn makes(&self, subject_id: &str, subject: &str) -> bool {
        let kinds = [Kind::Event, Kind::Status, Kind::Heartbeat].map(Kind::as_str);
        fits(&self.0, &tokens(subject_id), &kinds, subject)
    }
}

fn fits(parts: &[Part], subject_id: &str, kinds: &[&str], rest: &str) -> bool {
    let Some((part, parts)) = parts.split_first() else { return rest.is_empty() };
    let behind =
        |text: &str| rest.strip_prefix(text).is_some_and(|rest| fits(parts, subject_id, kinds, rest));
    match part {
        Part::Literal(text) => behind(text),
        Part::SubjectId => behind(subject_id),
        Part::Kind => kinds.iter().any(|kind| behind(kind)),
        // One or more tokens, or a part of one.
        Part::Ident | Part::Name => rest
            .char_indices()
            .map(|(at, c)| at + c.len_utf8())
            .any(|end| rest.get(end..).is_some_and(|rest| fits(parts, subject_id, kinds, rest))),
    }
}

/// Whose messages a subject is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner<'a> {
    /// Those of this subject id, as tokens of a subject.
    SubjectId(&'a str),
    /// Anybody's: the template has no subject id in it.
    Anybody,
    /// It is not what the template makes for such messages.
    Unknown,
}

impl Template {
    /// Whose message this is, by the subject alone, if it is of this ident, kind and name.
    pub(crate) fn owner<'a>(&self, subject: &'a str, ident: &str, kind: Kind, name: &str) -> Owner<'a> {
        let Some(place) = self.0.iter().position(|part| *part == Part::SubjectId) else {
            let is_it = *self.subject("", ident, kind, name) == *subject;
            return if is_it { Owner::Anybody } else { Owner::Unknown };
        };
        let (before, rest) = self.0.split_at(place);
        let before = Self(before.to_vec()).subject("", ident, kind, name);
        // What follows it ends the subject; a subject id that stands there several times is found at its first place.
        let Some(from_id) = subject.strip_prefix(&*before) else { return Owner::Unknown };
        let count = rest.iter().filter(|part| **part == Part::SubjectId).count();
        let others: Vec<Part> = rest.iter().filter(|part| **part != Part::SubjectId).cloned().collect();
        let fixed = Self(others).subject("", ident, kind, name).len();
        let length = from_id.len().saturating_sub(fixed).checked_div(count);
        let Some(id) = length.and_then(|length| from_id.get(..length)) else { return Owner::Unknown };
        if *self.subject(id, ident, kind, name) == *subject { Owner::SubjectId(id) } else { Owner::Unknown }
    }
}

/// Are these tokens in the subject, one after the other?
pub(crate) fn has_tokens(subject: &str, text: &str) -> bool {
    format!(".{subject}.").contains(&format!(".{}.", tokens(text)))
}

/// A subject in which the ident stands as it is (0.4.0 has it so, with blanks of Unicode's) as ours would be.
pub(crate) fn with_safe_ident<'a>(subject: &'a str, ident: &str) -> Cow<'a, str> {
    let safe = tokens(ident);
    if safe == ident {
        return Cow::Borrowed(subject);
    }
    let whole = format!("{subject}.").replacen(&format!(".{ident}."), &format!(".{safe}."), 1);
    Cow::Owned(whole.strip_suffix('.').map(ToOwned::to_owned).unwrap_or(whole))
}

/// Can messages be published to this subject, as NATS sees it?
pub(crate) fn is_literal_subject(text: &str) -> bool {
    text.split('.').all(|token| {
        !token.is_empty()
            && !token.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
    })
}

/// The most that a subject id or an ident takes of a subject, in bytes: nats-server's default
/// `max_control_line` is 4,096, and a longer subject ends the connection.
pub(crate) const LONGEST_TOKENS: usize = 1024;

/// A text as one or more tokens of a subject: its dots stay, what NATS forbids becomes `_`.
pub(super) fn tokens(text: &str) -> String {
    const LONGEST: usize = LONGEST_TOKENS;
    let mut safe = String::with_capacity(text.len().min(LONGEST));
    for token in text.split('.') {
        if !safe.is_empty() {
            if safe.len() + "._".len() > LONGEST {
                return safe;
            }
            safe.push('.');
        }
        if token.is_empty() {
            safe.push('_');
        }
        for c in token.chars() {
            if safe.len() + c.len_utf8() > LONGEST {
                // Not on a dot: the next token would be empty.
                return if safe.ends_with('.') { safe + "_" } else { safe };
            }
            let forbidden = c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
            safe.push(if forbidden { '_' } else { c });
        }
    }
    safe
}
