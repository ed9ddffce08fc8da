//! A command line without the secrets in it: the values of names and options that say so, in all the forms in which
//! ansible takes variables, and passwords in addresses. What is not secret stays readable.
//!
//! Ansible takes `-e` and `--extra-vars` with `name=value` (several of them, with a shell's quotes), with JSON and with
//! YAML in braces; a file (`@path`) stays. Nobody knows which program the command runs, so that all arguments are
//! looked through for all of it; and a shell's script (`sh -c`, which ansible-runner uses for an agent of ssh) for
//! command lines. Where it cannot be told how far a secret goes, more is masked rather than less.

use super::{
    flow,
    telling::{
        address_with_password, is_name_char, name_before, name_says_secret, option_says_secret, says_secret,
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

/// Where a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// Behind a secret may come more of it: `-e "password=a b"` is easily written.
    Variables,
    /// Words are words.
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
        words(script, Text::Script, DEEPEST)
    }

    /// As [`Self::argument`], so many texts deep.
    pub(super) fn word(&mut self, word: &str, depth: usize) -> Option<String> {
        match std::mem::take(&mut self.awaits) {
            Awaits::Secret if !is_option(word) => return Some(MASK.to_owned()),
            Awaits::Rest if !begins_anew(word) => return Some(MASK.to_owned()),
            Awaits::Script => return words(word, Text::Script, depth),
            _ => {}
        }
        if self.is_script_next(word) {
            self.awaits = Awaits::Script;
            return None;
        }
        if let Some(name) = word.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name))
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
        if let Some(name) = word.strip_suffix(':')
            && name_says_secret(name_before(name.trim_end_matches(['"', '\''])), "")
        {
            self.awaits = Awaits::Rest;
            return None;
        }
        if let Some(name) = word.strip_suffix('=')
            && name_says_secret(name_before(name.trim_end_matches(['+', ':'])), "")
        {
            self.awaits = Awaits::Rest;
            return None;
        }
        let variables = behind_flags(word);
        instead(word, variables, text(variables, depth))
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

/// An argument, or the value of one.
fn text(text: &str, depth: usize) -> Option<String> {
    let Some(depth) = depth.checked_sub(1) else {
        return is_suspicious(text).then(|| MASK.to_owned());
    };
    if text.starts_with('@') {
        return None;
    }
    let braces = match text.split_once('=') {
        Some((name, value)) if is_name(name) && !name_says_secret(name, value) => value,
        _ => text,
    };
    if flow::begins(braces) {
        return instead(text, braces, in_braces(braces, depth));
    }
    let is_single = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\');
    if text.chars().all(is_single) { single(text) } else { words(text, Text::Variables, depth) }
}

/// JSON or YAML, and perhaps more behind it.
fn in_braces(braces: &str, depth: usize) -> Option<String> {
    let Some((redacted, rest)) = flow::redact(braces, depth) else {
        // Broken: who knows where what ends.
        return is_suspicious(braces).then(|| MASK.to_owned());
    };
    let rest_redacted = text(rest, depth);
    if redacted.is_none() && rest_redacted.is_none() {
        return None;
    }
    let redacted = redacted.unwrap_or_else(|| braces.strip_suffix(rest).unwrap_or_default().to_owned());
    Some(redacted + rest_redacted.as_deref().unwrap_or(rest))
}

/// A text of several words.
fn words(text: &str, kind: Text, depth: usize) -> Option<String> {
    let Some(depth) = depth.checked_sub(1) else {
        return is_suspicious(text).then(|| MASK.to_owned());
    };
    let mut line = CommandLine::default();
    let mut redacted = String::with_capacity(text.len());
    let (mut is_changed, mut is_secret) = (false, false);
    let mut before = String::new();
    for Word { gap, raw, text: word } in split(text) {
        if is_secret && !begins_anew(&word) {
            continue;
        }
        is_secret = false;
        let equals = word.strip_prefix('=').filter(|_| name_says_secret(name_before(&before), ""));
        redacted.push_str(gap);
        // `name = value`, with blanks on one side or both.
        let other = match equals {
            Some("") => {
                line.awaits = Awaits::Rest;
                None
            }
            Some(_) => Some(format!("={MASK}")),
            // Its quotes have no end, or it is a template.
            None if word == text => single(&word),
            None => line.word(&word, depth),
        };
        match other {
            Some(other) => {
                is_changed = true;
                is_secret = kind == Text::Variables && other.ends_with(MASK);
                redacted.push_str(&quoted_as(raw, other));
            }
            None => redacted.push_str(raw),
        }
        before = word;
    }
    is_changed.then_some(redacted)
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
    if let Some((scheme, rest)) = word.split_once("://") {
        let (_, host) = rest.rsplit_once('@')?;
        return Some(format!("{scheme}://{MASK}@{host}"));
    }
    let address = match word.split_once('=') {
        Some((name, value)) if is_name(name) => value,
        _ => word,
    };
    let (user, host) = address_with_password(address)?;
    Some(with_mask(word, address).strip_suffix(MASK)?.to_owned() + &format!("{user}:{MASK}@{host}"))
}

/// Is there a name anywhere that says secret, or an address with a user?
fn is_suspicious(text: &str) -> bool {
    text.contains('@') || text.split(|c| !is_name_char(c)).any(says_secret)
}

/// A word as a shell reads it.
struct Word<'a> {
    /// What is blank before it.
    gap: &'a str,
    /// As it is written.
    raw: &'a str,
    /// Without quotes.
    text: String,
}

/// The words of a text, as a shell has them. A quote without an end is a character like any other; what ansible's
/// templates have in braces is no word of its own.
fn split(text: &str) -> impl Iterator<Item = Word<'_>> {
    let mut rest = text;
    // Those that have no end from here on: nobody looks for it again.
    let mut endless: Vec<&str> = Vec::new();
    std::iter::from_fn(move || {
        let trimmed = rest.trim_start();
        let gap = rest.strip_suffix(trimmed).unwrap_or_default();
        if trimmed.is_empty() {
            return None;
        }
        rest = trimmed;
        let mut word = String::new();
        while let Some(c) = rest.chars().next().filter(|c| !c.is_whitespace()) {
            let after = rest.get(c.len_utf8()..).unwrap_or_default();
            let bracket = match c {
                '\'' => Some(("'", "'")),
                '"' => Some(("\"", "\"")),
                '{' if after.starts_with('{') => Some(("{{", "}}")),
                _ => None,
            };
            if let Some((open, close)) = bracket
                && !endless.contains(&close)
            {
                let inside = rest.get(open.len()..).unwrap_or_default();
                if let Some(end) = end_of(inside, close) {
                    let (inside, behind) =
                        (inside.get(..end).unwrap_or_default(), inside.get(end + close.len()..));
                    match c {
                        '{' => word.extend(["{{", inside, "}}"]),
                        '"' => word.push_str(&unescaped(inside)),
                        _ => word.push_str(inside),
                    }
                    rest = behind.unwrap_or_default();
                    continue;
                }
                endless.push(close);
            }
            rest = after;
            match after.chars().next() {
                Some(next) if c == '\\' => {
                    word.push(next);
                    rest = after.get(next.len_utf8()..).unwrap_or_default();
                }
                _ => word.push(c),
            }
        }
        let raw = trimmed.strip_suffix(rest).unwrap_or_default();
        Some(Word { gap, raw, text: word })
    })
}

/// Where something ends; in double quotes a backslash hides an end.
fn end_of(inside: &str, close: &str) -> Option<usize> {
    if close != "\"" {
        return inside.find(close);
    }
    let mut is_hidden = false;
    inside.char_indices().find_map(|(at, c)| {
        let was_hidden = is_hidden;
        is_hidden = c == '\\' && !was_hidden;
        (c == '"' && !was_hidden).then_some(at)
    })
}

/// The inside of double quotes.
fn unescaped(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut chars = inside.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some('"' | '\\' | '$' | '`') if c == '\\' => text.extend(chars.next()),
            _ => text.push(c),
        }
    }
    text
}

/// A word in quotes, if it was and needs them.
fn quoted_as(raw: &str, word: String) -> String {
    let is_plain = |c: char| is_name_char(c) || matches!(c, '=' | '/' | ':' | ',' | '@' | '%' | '+' | '*');
    if !raw.contains(['\'', '"', '\\']) || word.chars().all(is_plain) {
        return word;
    }
    // In `name='a b'` people look for the name.
    let (name, value) = match word.split_once('=') {
        Some((name, value)) if is_name(name) => (format!("{name}="), value),
        _ => (String::new(), word.as_str()),
    };
    format!("{name}'{}'", value.replace('\'', r#"'"'"'"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = CommandLine::LONGEST;

    fn redacted(arguments: &[&str]) -> Vec<String> {
        let mut line = CommandLine::default();
        arguments
            .iter()
            .map(|argument| line.argument(argument).unwrap_or_else(|| (*argument).to_owned()))
            .collect()
    }

    /// One argument behind `-e`.
    fn variables(text: &str) -> String {
        redacted(&["-e", text]).remove(1)
    }

    #[test]
    fn variables_in_every_form() {
        for (given, expected) in [
            ("db_password=x", "db_password=***"),
            ("user=joe db_password=x port=1", "user=joe db_password=*** port=1"),
            ("db_password='a b' user=joe", "db_password=*** user=joe"),
            (r#"db_password="a b" user=joe"#, "db_password=*** user=joe"),
            (r#"db_password="a \" b" user=joe"#, "db_password=*** user=joe"),
            (r"db_password=a\ b user=joe", "db_password=*** user=joe"),
            ("'db_password=a b' user=joe", "db_password=*** user=joe"),
            ("db_password=a b c user=joe", "db_password=*** user=joe"),
            ("db_password=a=b;c&d,e", "db_password=***"),
            ("db_password = x user=joe", "db_password = *** user=joe"),
            ("db_password =x user=joe", "db_password =*** user=joe"),
            ("db_password= x user=joe", "db_password= *** user=joe"),
            ("db_password= user=joe", "db_password= user=joe"),
            ("db_password: x", "db_password: ***"),
            ("db_password={{ 'a' ~ 'b' }} user=joe", "db_password=*** user=joe"),
            ("ansible_become_pass=x", "ansible_become_pass=***"),
            ("msg=\"it's my password=x y\" a=b", "msg='it'\"'\"'s my password=***' a=b"),
            ("msg=it's db_password=x", "msg=it's db_password=***"),
            (
                r#"{"db_password": "x", "n": {"api_token": "y", "b": [1, 2]}}"#,
                r#"{"db_password": "***", "n": {"api_token": "***", "b": [1, 2]}}"#,
            ),
            ("{db_password: x, user: joe}", r#"{db_password: "***", user: joe}"#),
            (r#"cfg={"password": "a b", "c": 1} user=joe"#, r#"cfg={"password": "***", "c": 1} user=joe"#),
            ("@/etc/passwords=1", "@/etc/passwords=1"),
            ("url=postgres://u:p@h/d", "url=postgres://***@h/d"),
            ("dsn_=1", "dsn_=***"),
            ("db=u:p@q@tcp(h:3306)/d", "db=u:***@tcp(h:3306)/d"),
            (
                "c=\"Server=h;User Password=a b;Database=d\" user=joe",
                "c='Server=h;User Password=***' user=joe",
            ),
            ("Server=h;Password=a b;Database=d", "Server=h;Password=***"),
            ("https://h/?a=b&token=x&c=d", "https://h/?a=b&token=***"),
            ("ansible_ssh_private_key_file=/k user=joe", "ansible_ssh_private_key_file=/k user=joe"),
            ("{{ x }} db_password=x", "{{ x }} db_password=***"),
            ("{\"db_password\": \"x\"", "***"),
            ("{\"user\": \"joe\"", "{\"user\": \"joe\""),
            ("grün=ö пароль=x", "grün=ö пароль=x"),
            ("", ""),
            ("=", "="),
            ("=x", "=x"),
        ] {
            assert_eq!(variables(given), expected, "{given}");
        }
    }

    #[test]
    fn options_in_every_form() {
        for (given, expected) in [
            (&["-edb_password=x"][..], &["-edb_password=***"][..]),
            (&["-e=db_password=x"], &["-e=db_password=***"]),
            (&["-vvKe", "db_password=x"], &["-vvKe", "db_password=***"]),
            (&["-vedb_password=x y"], &["-vedb_password=***"]),
            (&[r#"-e{"db_password": "x", "a": 1}"#], &[r#"-e{"db_password": "***", "a": 1}"#]),
            (&["--extra-vars", "db_password=x"], &["--extra-vars", "db_password=***"]),
            (&["--extra-vars=db_password=x a=b"], &["--extra-vars=db_password=*** a=b"]),
            (&["--extra={db_password: x}"], &["--extra={db_password: \"***\"}"]),
            (&["--extra-vars=@secrets.yml"], &["--extra-vars=@secrets.yml"]),
            (&["--vault-password=x y"], &["--vault-password=***"]),
            (&["--vault-pass", "x", "play.yml"], &["--vault-pass", "***", "play.yml"]),
            (&["--vault-password-file", "/v", "a"], &["--vault-password-file", "/v", "a"]),
            (&["--become-password-file=/v"], &["--become-password-file=/v"]),
            (&["--private-key", "/k"], &["--private-key", "/k"]),
            (&["--private-key=~/.ssh/key"], &["--private-key=~/.ssh/key"]),
            (&["--token", "-x-"], &["--token", "***"]),
            (&["--my-pass-flag", "--become", "-K", "x"], &["--my-pass-flag", "--become", "-K", "x"]),
            (&["--ask-pass", "play.yml"], &["--ask-pass", "play.yml"]),
            (&["-password", "x"], &["-password", "***"]),
            (&["-p", "x"], &["-p", "x"]),
            (
                &["--ssh-common-args=-o StrictHostKeyChecking=no -o ProxyCommand=\"ssh u@h\""],
                &["--ssh-common-args=-o StrictHostKeyChecking=no -o ProxyCommand=\"ssh u@h\""],
            ),
            (
                &["-a", "mysql --password=x -e 'show tables'"],
                &["-a", "mysql --password=*** -e 'show tables'"],
            ),
            (&["-a", "mysql --password x db"], &["-a", "mysql --password ***"]),
            (&["-a", "name=joe password=x state=present"], &["-a", "name=joe password=*** state=present"]),
            (&["-H", "Authorization: Bearer x"], &["-H", "Authorization: ***"]),
            (&["-i", "h1,h2", "-l", "a:b", "site.yml"], &["-i", "h1,h2", "-l", "a:b", "site.yml"]),
            (&["-v", "/a:/b:Z", "q.io/ee:1@sha256:ab"], &["-v", "/a:/b:Z", "q.io/ee:1@sha256:ab"]),
            (&["git+ssh://git@h/r", "u@h"], &["git+ssh://***@h/r", "u@h"]),
        ] {
            assert_eq!(redacted(given), expected, "{given:?}");
        }
    }

    #[test]
    fn scripts() {
        for (given, expected) in [
            (
                "ssh-add /k && ansible-playbook -e db_password=x -e 'a=b c=d' site.yml",
                "ssh-add /k && ansible-playbook -e db_password=*** -e 'a=b c=d' site.yml",
            ),
            (
                r#"ansible-playbook -e '{"db_password": "it'"'"'s", "user": "joe"}' --vault-pass x site.yml"#,
                r#"ansible-playbook -e '{"db_password": "***", "user": "joe"}' --vault-pass *** site.yml"#,
            ),
            ("DB_PASSWORD=x ansible all -m ping", "DB_PASSWORD=*** ansible all -m ping"),
        ] {
            assert_eq!(redacted(&["ssh-agent", "sh", "-c", given]), ["ssh-agent", "sh", "-c", expected]);
            assert_eq!(redacted(&["/bin/bash", "-e", "-lc", given])[3], expected);
            assert_eq!(CommandLine::script(given).as_deref(), Some(expected));
            // In a container, in a script.
            let quoted = format!("sh -c '{}'", given.replace('\'', r#"'"'"'"#));
            assert!(!redacted(&["sh", "-c", &quoted])[2].contains("=x"));
        }
        assert_eq!(CommandLine::script("ansible-playbook -i 'a b' site.yml"), None);
    }

    #[test]
    fn what_is_long_or_deep_is_masked() {
        assert_eq!(redacted(&[&"x".repeat(LONGEST + 1)]), [MASK]);
        assert_eq!(CommandLine::script(&"x".repeat(LONGEST + 1)).as_deref(), Some(MASK));
        let mut deep = "db_password=canary".to_owned();
        for _ in 0..20 {
            deep = serde_json::json!({ "a": deep }).to_string();
            assert!(!variables(&deep).contains("canary"), "{deep}");
        }
        for open in ["'", "\"", "{{", "{", "[", "{a: ", "{\"a\": \"", "a:", "://", "=", "\\", "a=\"'", "@:"] {
            let start = std::time::Instant::now();
            let long = open.repeat(LONGEST / open.len());
            redacted(&["-e", &long, "-e", &format!("{{{long}")]);
            assert!(start.elapsed().as_secs() < 5, "{open}");
        }
    }

    #[test]
    fn what_is_no_text() {
        let mut line = CommandLine::default();
        line.argument("--password");
        assert!(line.is_secret() && !line.is_secret());
    }
}
