//! Reads options, one by one: a variable of the environment wins over the setting, and that over a context.

use std::{path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use super::{
    context::{Context, Env},
    entry::{Opt, Shown, Takes},
    model::Setting,
    options,
    values::{as_bool, as_integer, as_number, as_text, as_texts, is_off, plain, shorten},
};
use crate::{
    error::Error,
    secret::{MASK, Secret, looks_secret, shown_path},
};

/// What becomes of a run whose guarded options cannot be used; a command that publishes nothing anyway leaves it out.
pub(crate) const NOTHING_IS_PUBLISHED: &str = "nothing is published";

/// What is read, and what was found on the way.
pub(super) struct Reader<'a> {
    /// The setting `nats_options`.
    pub(super) options: &'a Map<String, Value>,
    pub(super) env: Env<'a>,
    pub(super) context: Context,
    /// What is in force, option by option.
    pub(super) settings: Vec<Setting>,
    /// Lines for the user.
    pub(super) problems: Vec<String>,
    /// Nothing is to be published.
    pub(super) refused: bool,
    /// Every credential that was given.
    pub(super) secrets: Vec<Secret>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(options: &'a Map<String, Value>, env: Env<'a>) -> Self {
        Self {
            options,
            env,
            context: Context::default(),
            settings: Vec::new(),
            problems: Vec::new(),
            refused: false,
            secrets: Vec::new(),
        }
    }
}

impl Reader<'_> {
    /// A variable that is set to something.
    pub(super) fn var(&self, name: &str) -> Option<String> {
        self.env.get(name).filter(|value| !value.is_empty())
    }

    /// The raw value and the name under which the user set it.
    pub(super) fn raw(&self, opt: &Opt) -> Option<(String, Value)> {
        let from_env =
            opt.env.iter().find_map(|name| Some(((*name).to_owned(), Value::String(self.var(name)?))));
        let from_settings = || match self.options.get(opt.key) {
            None | Some(Value::Null) => None,
            // As an empty variable.
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => Some((format!("nats_options.{}", opt.key), value.clone())),
        };
        from_env.or_else(from_settings).or_else(|| {
            let (_, field, value) = self.context.options.iter().find(|(key, ..)| *key == opt.key)?;
            Some((format!("context {}: {field}", self.context.name), value.clone()))
        })
    }

    /// Did the user say it here, and not only in a context?
    pub(super) fn is_explicit(&self, opt: &Opt) -> bool {
        self.options.get(opt.key).is_some_and(|value| !value.is_null() && value != "")
            || opt.env.iter().any(|name| self.var(name).is_some())
    }

    /// Reads the context, if one is named; what is said explicitly beats it.
    pub(super) fn context(&mut self) {
        let parse = |value: &Value| as_text(value).filter(|name| name.len() <= 1024 && !looks_secret(name));
        let Some(name) = self.read(&options::CONTEXT, parse) else { return };
        self.shown(options::CONTEXT.key, name.clone());
        let auth_is_explicit = options::AUTH.iter().any(|opt| self.is_explicit(opt));
        let context = match Context::load(&name, self.env, !auth_is_explicit) {
            Ok(context) => context,
            Err(reason) => {
                self.refused = true;
                return self.say(format!("context {}: {reason}; {NOTHING_IS_PUBLISHED}", shorten(&name)));
            }
        };
        for field in &context.not_served {
            self.say(format!("context {name}: {} has no effect here", shorten(field)));
        }
        self.secrets.extend(context.secrets.iter().cloned());
        self.context = context;
        // Certificate and key belong together.
        let pair = [&options::TLS_CERT, &options::TLS_KEY];
        if pair.iter().any(|opt| self.is_explicit(opt)) {
            self.context.options.retain(|(key, ..)| pair.iter().all(|opt| opt.key != *key));
        }
    }

    /// What the user gave for an option, overridden or not.
    pub(super) fn all_given(&self, opt: &Opt) -> Vec<Value> {
        let from_env = opt.env.iter().filter_map(|name| self.var(name)).map(Value::String);
        let from_context = self.context.options.iter().filter(|(key, ..)| *key == opt.key);
        from_env
            .chain(self.options.get(opt.key).cloned())
            .chain(from_context.map(|(_, _, value)| value.clone()))
            .collect()
    }

    /// The option as `parse` understands it; `None` if it is not set, or not understood (which is told).
    pub(super) fn read<T>(&mut self, opt: &Opt, parse: impl Fn(&Value) -> Option<T>) -> Option<T> {
        self.read_as(opt, &opt.takes.expected(), parse)
    }

    /// As [`Self::read`], with words of its own for what is expected.
    pub(super) fn read_as<T>(
        &mut self,
        opt: &Opt,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let default = opt.takes.default();
        let given = self.raw(opt).map(|(name, value)| (parse(&value), name, value));
        match &given {
            Some((Some(_), name, value)) => {
                let shown = if opt.shown == Shown::Plain { plain(value) } else { MASK.to_owned() };
                self.in_force(opt.key, shown, name);
            }
            Some((None, name, value)) => {
                self.complain(opt, name, value, expected);
                self.in_force(opt.key, default, "default");
            }
            None => self.in_force(opt.key, default, "default"),
        }
        given?.0
    }

    /// Notes what is in force; the last word counts.
    pub(super) fn in_force(&mut self, option: &'static str, value: impl Into<String>, source: &str) {
        let setting = Setting { option, value: value.into(), source: source.to_owned() };
        match self.settings.iter_mut().find(|known| known.option == option) {
            Some(known) => *known = setting,
            None => self.settings.push(setting),
        }
    }

    /// Notes another form of what is in force: one that may be seen, or what another option makes of it.
    pub(super) fn shown(&mut self, option: &str, value: String) {
        if let Some(known) = self.settings.iter_mut().find(|known| known.option == option) {
            known.value = value;
        }
    }

    pub(super) fn complain(&mut self, opt: &Opt, name: &str, value: &Value, expected: &str) {
        // What is no path may be the content of the file.
        let may_be_content = matches!(opt.takes, Takes::Path) && shown_path(&plain(value)) == MASK;
        let is_plain = opt.shown == Shown::Plain && !may_be_content;
        let shown = if is_plain { shorten(&value.to_string()) } else { MASK.to_owned() };
        let consequence = if opt.guarded {
            self.refused = true;
            NOTHING_IS_PUBLISHED.to_owned()
        } else {
            format!("using {}", opt.takes.default())
        };
        self.say(
            Error::Option { name: name.to_owned(), shown, expected: expected.to_owned(), consequence }
                .to_string(),
        );
    }

    pub(super) fn refuse(&mut self, name: &str, expected: &str) {
        self.refused = true;
        self.say(format!("{name}: expected {expected}; {NOTHING_IS_PUBLISHED}"));
    }

    /// One of two that belong together is missing.
    pub(super) fn refuse_half(&mut self, opt: &Opt, expected: &str, missing: &Opt) {
        let variable = missing.env.first().copied().unwrap_or_default();
        self.refuse(opt.key, &format!("{expected} ({variable} or nats_options.{})", missing.key));
    }

    /// Keeps a line for the user; no endless list of them.
    pub(super) fn say(&mut self, problem: String) {
        const MOST: usize = 50;
        match self.problems.len() {
            0..MOST if !self.problems.contains(&problem) => self.problems.push(problem),
            MOST => self.problems.push("there are more problems with the options than these".to_owned()),
            _ => {}
        }
    }

    pub(super) fn path(&mut self, opt: &Opt) -> Option<PathBuf> {
        const MOST: usize = 4096;
        let parse = |value: &Value| {
            let fits = |path: &String| path.len() < MOST && !path.is_empty() && !path.contains('\0');
            as_text(value).filter(|path| fits(path) && !looks_secret(path))
        };
        let path = self.read(opt, parse)?;
        self.shown(opt.key, shown_path(&path).to_owned());
        Some(PathBuf::from(path))
    }

    /// A list, or text with commas.
    pub(super) fn list<T>(&mut self, opt: &Opt, parse: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        const MOST: usize = 16 << 10;
        let parse = |value: &Value| {
            let items = as_texts(value)?;
            let size: usize = items.iter().map(String::len).sum();
            if size <= MOST { parse(&items) } else { None }
        };
        self.read(opt, parse)
    }

    /// One of the option's words, by its place in the table.
    pub(super) fn word<T: Copy>(&mut self, opt: &Opt, meanings: &[T]) -> Option<T> {
        let Takes::Word(words) = opt.takes else { return None };
        let parse = |value: &Value| {
            let text = as_text(value)?.trim().to_ascii_lowercase();
            meanings.get(words.iter().position(|word| *word == text)?).copied()
        };
        self.read(opt, parse).or_else(|| meanings.first().copied())
    }

    pub(super) fn flag(&mut self, opt: &Opt) -> bool {
        let default = matches!(opt.takes, Takes::Flag(true));
        self.read(opt, as_bool).unwrap_or(default)
    }

    pub(super) fn seconds(&mut self, opt: &Opt) -> Duration {
        /// `Duration` overflows far above; ten years is "for ever" for a job.
        const MOST: f64 = 315_360_000.0;
        let Takes::Seconds { default, least } = opt.takes else { return Duration::ZERO };
        let parse = |value: &Value| {
            let seconds = as_number(value)?;
            (least..=MOST).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
        };
        self.read(opt, parse).unwrap_or_else(|| Duration::from_secs_f64(default))
    }

    pub(super) fn count<T: TryFrom<u64> + Default>(&mut self, opt: &Opt) -> T {
        let Takes::Count { default, least, most } = opt.takes else { return T::default() };
        let parse = |value: &Value| {
            u64::try_from(as_integer(value)?).ok().filter(|number| (least..=most).contains(number))
        };
        let number = self.read(opt, parse).unwrap_or(default);
        T::try_from(number).unwrap_or_default()
    }

    /// Options of nats-py that this client does not need, or cannot follow.
    pub(super) fn unusable(&mut self) {
        for opt in options::all() {
            match opt.takes {
                Takes::WithoutEffect(why, idle) => {
                    if let Some((name, value)) = self.raw(opt)
                        && !is_off(&value)
                        && as_bool(&value) != Some(false)
                        && as_text(&value).is_none_or(|text| text != idle)
                    {
                        self.say(format!("{name}: has no effect here: {why}"));
                    }
                }
                Takes::CannotServe(instead) => {
                    if let Some((name, _)) = self.raw(opt).filter(|(_, value)| !is_off(value)) {
                        self.refuse(&name, instead);
                    }
                }
                _ => {}
            }
        }
    }
}
