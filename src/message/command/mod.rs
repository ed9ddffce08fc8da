//! A command line without the secrets in it: the values of names and options that say so, in all the forms in which
//! ansible takes variables, and passwords in addresses. What is not secret stays readable.
//!
//! Ansible takes `-e` and `--extra-vars` with `name=value` (several of them, with a shell's quotes), with JSON and with
//! YAML in braces; a file (`@path`) stays. Nobody knows which program the command runs, so that all arguments are
//! looked through for all of it; and a shell's script (`sh -c`, which ansible-runner uses for an agent of ssh) for
//! command lines. Where it cannot be told how far a secret goes, more is masked rather than less.

mod pieces;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::Value;

use self::pieces::{in_pieces, pairs_in};
use super::{
    flow,
    forms::has_secret_form,
    shell::{self, Word, assignment, unquoted},
    telling::{
        address_with_password, is_name_char, is_password_name, name_before, name_says_secret,
        option_says_secret, says_secret,
    },
};
use crate::secret::MASK;

/// Texts in texts: a script, in it a variable, in that JSON, and so on. What is deeper is masked if it is suspicious.
const DEEPEST: usize = 6;

/// Reads a command line, argument by argument.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandLine {
    awaits: Awaits,
    /// A shell's name has come, and nothing but options since.
    shell: bool,
}

/// What the next argument is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Awaits {
    #[default]
    Anything,
    /// The value of a secret option, unless it is an option itself.
    Secret,
    /// The rest of `name=` or `name:`, unless it is something else.
    Rest,
    /// A shell's script.
    Script,
}

impl CommandLine {
    /// A longer argument is masked as a whole. Linux lets no program have one of more than half of this.
    pub(crate) const LONGEST: usize = 256 << 10;

    /// The argument without secrets; `None` if there are none in it.
    pub(super) fn argument(&mut self, argument: &str) -> Option<String> {
        if argument.len() > Self::LONGEST {
            *self = Self::default();
            return Some(MASK.to_owned());
        }
        self.word(argument, DEEPEST)
    }

    /// Something that is no text: is it the value of an option that is secret?
    pub(super) fn is_secret(&mut self) -> bool {
        matches!(std::mem::take(&mut self.awaits), Awaits::Secret | Awaits::Rest)
    }

    /// A whole command line as one text.
    pub(super) fn script(script: &str) -> Option<String> {
        if script.len() > Self::LONGEST {
            return Some(MASK.to_owned());
        }
        in_script(script, DEEPEST)
    }

    /// As [`Self::argument`], so many texts deep.
    pub(super) fn word(&mut self, word: &str, depth: usize) -> Option<String> {
        match std::mem::take(&mut self.awaits) {
            Awaits::Secret if !is_option(word) => return Some(MASK.to_owned()),
            Awaits::Rest if !begins_anew(word) => return Some(MASK.to_owned()),
            Awaits::Script => return in_script(word, depth),
            _ => {}
        }
        if word.eq_ignore_ascii_case("bearer") {
            self.awaits = Awaits::Rest;
            return None;
        }
        if self.is_script_next(word) {
            self.awaits = Awaits::Script;
            return None;
        }
        let variables = behind_flags(word);
        if variables.len() == word.len()
            && let Some(name) = word.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name))
            && let (name, value) =
                name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)))
            && is_name(name)
        {
            match value {
                Some(value) if option_says_secret(name, value) => return Some(with_mask(word, value)),
                // Of one letter it is what `-e=` is to argparse, or nothing.
                Some(value) if word.starts_with("--") => return instead(word, value, text(value, depth)),
                // `-p` is not an option for a secret, and `-pass` is.
                None if word.len() > 2 && option_says_secret(name, "") => {
                    self.awaits = Awaits::Secret;
                    return None;
                }
                _ => {}
            }
        }
        // A value may end in these, too: then the name is before it.
        if let Some(name) = variables.strip_suffix([':', '='])
            && let name = name.trim_end_matches(['"', '\'', '+', ':'])
            && !name.contains('=')
            && name_says_secret(name_before(name), "")
        {
            self.awaits = Awaits::Rest;
            return None;
        }
        instead(word, variables, text(variables, depth))
    }

    /// May this be a name with a value, and is not the value of what came before it?
    fn expects_assignment(&self, word: &str) -> bool {
        match self.awaits {
            Awaits::Anything => !word.starts_with('-'),
            Awaits::Rest => begins_anew(word) && !word.starts_with('-'),
            Awaits::Secret | Awaits::Script => false,
        }
    }

    /// Is this the option of a shell behind which the script comes?
    fn is_script_next(&mut self, word: &str) -> bool {
        const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh"];
        let name = word.rsplit('/').next().unwrap_or_default();
        let was_shell = std::mem::replace(&mut self.shell, SHELLS.contains(&name));
        if !was_shell || !word.starts_with('-') {
            return false;
        }
        self.shell = true;
        !word.starts_with("--") && word.ends_with('c')
    }
}

/// What a command line gives to names, in the forms in which ansible takes variables, and behind options that are secret
/// (whose value has no name).
pub(super) fn values_in<'a>(arguments: impl Iterator<Item = &'a str>) -> Vec<(Option<String>, Value)> {
    let mut found = Vec::new();
    let mut before = "";
    for argument in arguments {
        // An option of one letter says nothing of its value.
        let option = std::mem::replace(&mut before, argument).strip_prefix("--").unwrap_or_default();
        let option = if option.contains('=') { "" } else { option };
        let (name, value) = match argument.strip_prefix("--").and_then(|rest| rest.split_once('=')) {
            Some((name, value)) => (name, value),
            None => (option, behind_flags(argument)),
        };
        if value.len() > CommandLine::LONGEST {
            continue;
        }
        // Whatever its option is called, a playbook is no secret.
        let is_file = [".yml", ".yaml"].iter().any(|end| value.ends_with(end));
        if is_password_name(name) && option_says_secret(name, value) && !value.starts_with('-') && !is_file {
            found.push((None, Value::from(value)));
        } else if flow::begins(value) {
            match serde_json::from_str(value) {
                Ok(json) => found.push((Some(String::new()), json)),
                Err(_) => {
                    found
                        .extend(flow::read(value).map(|(pieces, _)| pairs_in(&pieces)).into_iter().flatten());
                }
            }
        } else {
            let words = shell::variables(value).into_iter().flatten();
            for word in words {
                // As ansible takes it, and as a shell would.
                let meant =
                    assignment(word.raw).map(|(name, value)| (name.trim().to_owned(), unquoted(value)));
                let pairs = shell::given(word.raw).into_iter().chain(meant);
                found.extend(pairs.map(|(name, value)| (Some(name), Value::from(value))));
            }
        }
    }
    found
}

/// Is it an option, as far as argparse is concerned? A value does not begin with a dash there.
fn is_option(word: &str) -> bool {
    let rest = word.strip_prefix('-').unwrap_or_default();
    match rest.strip_prefix('-') {
        Some(name) => name.starts_with(|c: char| c.is_ascii_alphabetic()),
        None => {
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
                && (rest.len() == 1 || rest.chars().all(|c| c == 'v'))
        }
    }
}

/// Is it no more of the value before it, but an option, or a name with a value?
fn begins_anew(word: &str) -> bool {
    is_option(word) || word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_name_char)
}

/// What comes behind `-e`, be it in one word with other options of one letter (`-bKe name=value`), or with `=`.
fn behind_flags(word: &str) -> &str {
    const FLAGS: &[char] = &['b', 'C', 'D', 'h', 'J', 'k', 'K', 'v'];
    let variables =
        word.strip_prefix('-').and_then(|flags| flags.trim_start_matches(FLAGS).strip_prefix('e'));
    variables.map_or(word, |variables| variables.strip_prefix('=').unwrap_or(variables))
}

/// `whole`, which ends in `end`, with something else in its place.
fn instead(whole: &str, end: &str, other: Option<String>) -> Option<String> {
    Some(whole.strip_suffix(end).unwrap_or_default().to_owned() + &other?)
}

fn with_mask(whole: &str, end: &str) -> String {
    whole.strip_suffix(end).unwrap_or_default().to_owned() + MASK
}

/// One text deeper; what is too deep is masked if it is suspicious.
fn deeper(text: &str, depth: usize, look: impl FnOnce(usize) -> Option<String>) -> Option<String> {
    match depth.checked_sub(1) {
        Some(depth) => look(depth),
        None => is_suspicious(text).then(|| MASK.to_owned()),
    }
}

/// An argument, or the value of one.
fn text(text: &str, depth: usize) -> Option<String> {
    deeper(text, depth, |depth| in_text(text, depth))
}

fn in_text(text: &str, depth: usize) -> Option<String> {
    if text.starts_with('@') {
        return None;
    }
    if text.trim_start().starts_with("-----BEGIN") {
        return Some(MASK.to_owned());
    }
    let braces = match text.split_once('=') {
        Some((name, value)) if is_name(name) && !name_says_secret(name, value) => value,
        _ => text,
    };
    if flow::begins(braces) {
        match in_braces(braces, depth) {
            Ok(redacted) => return instead(text, braces, redacted),
            // Ansible refuses the whole. Who knows where what ends, and what an escape would have said?
            Err(Broken) if braces == text => {
                return (is_suspicious(text) || text.contains('\\')).then(|| MASK.to_owned());
            }
            Err(Broken) => {}
        }
    }
    let is_single = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\');
    if text.chars().all(is_single) { single(text) } else { in_variables(text, depth) }
}

/// Braces that nobody closes, or what only YAML has.
struct Broken;

/// JSON or YAML, and perhaps more behind it.
fn in_braces(braces: &str, depth: usize) -> Result<Option<String>, Broken> {
    let (pieces, rest) = flow::read(braces).ok_or(Broken)?;
    let redacted = in_pieces(&pieces, depth);
    let rest_redacted = text(rest, depth);
    if redacted.is_none() && rest_redacted.is_none() {
        return Ok(None);
    }
    let redacted = redacted.unwrap_or_else(|| braces.strip_suffix(rest).unwrap_or_default().to_owned());
    Ok(Some(redacted + rest_redacted.as_deref().unwrap_or(rest)))
}

/// Names with values, and arguments of modules. Behind a secret may come more of it: `-e "password=a b"` is easily written.
fn in_variables(text: &str, depth: usize) -> Option<String> {
    deeper(text, depth, |depth| {
        let words = shell::variables(text);
        // Ansible would refuse it; what is in it is no less secret. And of one word alone it is not known what it is.
        let is_script = words.as_ref().is_none_or(|words| words.len() < 2 && assigned(text).is_none());
        if is_script {
            return in_words(shell::script(text), text, depth, true);
        }
        in_words(words.into_iter().flatten(), text, depth, true)
    })
}

/// A script for a shell.
fn in_script(text: &str, depth: usize) -> Option<String> {
    deeper(text, depth, |depth| in_words(shell::script(text), text, depth, false))
}

/// Name and value, if it is an assignment. What is in quotes as a whole is looked at without them.
fn assigned(word: &str) -> Option<(Cow<'_, str>, &str)> {
    let (name, value) = assignment(word)?;
    let is_one = !value.is_empty() && !name.contains(['"', '\'']);
    is_one.then_some((name, value))
}

/// The words of a text. `goes_on`: what follows a secret may be more of it.
fn in_words<'t>(
    words: impl Iterator<Item = Word<'t>>,
    text: &str,
    depth: usize,
    goes_on: bool,
) -> Option<String> {
    let mut line = CommandLine::default();
    let mut redacted = String::with_capacity(text.len());
    let (mut is_changed, mut is_secret) = (false, false);
    let mut before = "";
    for Word { gap, raw } in words {
        // For a shell a blank behind a backslash is none.
        let is_hidden = before.ends_with('\\');
        let name = name_before(before.trim_end_matches(['"', '\'']));
        before = raw;
        if is_secret && (is_hidden || !begins_anew(raw)) {
            continue;
        }
        is_secret = false;
        redacted.push_str(gap);
        let equals = raw.strip_prefix('=').filter(|_| name_says_secret(name, ""));
        let other = match (equals, assigned(raw).filter(|_| line.expects_assignment(raw))) {
            // `name = value`, with blanks on one side or both.
            (Some(""), _) => {
                line.awaits = Awaits::Rest;
                None
            }
            (Some(_), _) => Some(format!("={MASK}")),
            (None, Some((name, value))) => {
                line = CommandLine::default();
                in_assignment(raw, &name, value, depth)
            }
            (None, None) => {
                let meant = unquoted(raw);
                let whole = assigned(&meant).filter(|_| goes_on && raw.starts_with(['"', '\'']));
                let other = match whole {
                    Some((name, value)) if is_secret_assignment(&name, value) => {
                        Some(with_mask(&meant, value))
                    }
                    // Its quotes have no end, or it is a template.
                    _ if meant == text => single(raw),
                    _ => line.word(&meant, depth),
                };
                other.map(|other| quoted_as(raw, other))
            }
        };
        if let Some(other) = &other {
            is_changed = true;
            is_secret = goes_on && other.ends_with(MASK);
        }
        redacted.push_str(other.as_deref().unwrap_or(raw));
    }
    is_changed.then_some(redacted)
}

/// A word that gives a name a value.
fn in_assignment(word: &str, name: &str, value: &str, depth: usize) -> Option<String> {
    let meant = unquoted(value);
    if is_secret_assignment(name, &meant) {
        return Some(with_mask(word, value));
    }
    let other = text(&meant, depth)?;
    let other = if needs_quotes(value, &other) { shell::quoted(&other) } else { other };
    instead(word, value, Some(other))
}

fn is_secret_assignment(name: &str, value: &str) -> bool {
    let is_behind = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '+' | ':');
    let name = name_before(name.trim_end_matches(is_behind));
    name_says_secret(name.trim_start_matches('-'), value)
}

/// One word, without quotes.
fn single(word: &str) -> Option<String> {
    for (at, _) in word.match_indices('=') {
        let (before, after) = (word.get(..at).unwrap_or_default(), word.get(at + 1..).unwrap_or_default());
        let name = name_before(before.trim_end_matches(['+', ':', '"', '\'']));
        // What follows may be more of it: nobody knows what ends a value there (`;`, `&`, `,`).
        if !after.is_empty() && name_says_secret(name.trim_start_matches('-'), after) {
            return Some(with_mask(word, after));
        }
    }
    let value = match word.split_once('=') {
        Some((name, value)) if is_name(name) => value,
        _ => word,
    };
    if has_secret_form(value) {
        return Some(with_mask(word, value));
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let (_, host) = rest.rsplit_once('@')?;
        return Some(format!("{scheme}://{MASK}@{host}"));
    }
    let (user, host) = address_with_password(value)?;
    Some(with_mask(word, value).strip_suffix(MASK)?.to_owned() + &format!("{user}:{MASK}@{host}"))
}

/// Is there a name anywhere that says secret, or an address with a user?
fn is_suspicious(text: &str) -> bool {
    text.contains('@') || text.split(|c| !is_name_char(c)).any(says_secret)
}

/// Was it in quotes, and does it need them?
fn needs_quotes(raw: &str, text: &str) -> bool {
    let is_plain = |c: char| is_name_char(c) || matches!(c, '=' | '/' | ':' | ',' | '@' | '%' | '+' | '*');
    raw.contains(['\'', '"', '\\']) && !text.chars().all(is_plain)
}

/// A word as it was written: in quotes, if need be, behind the name that people look for.
fn quoted_as(raw: &str, word: String) -> String {
    match word.split_once('=') {
        _ if !needs_quotes(raw, &word) => word,
        Some((name, value)) if is_name(name) => format!("{name}={}", shell::quoted(value)),
        _ => shell::quoted(&word),
    }
}
