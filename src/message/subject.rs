//! Subjects: where messages go.

use std::sync::Arc;

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
