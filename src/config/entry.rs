//! What an option of the table is: its names, what it takes, its default, and what becomes of a value that cannot be read.

/// One option.
#[derive(Debug)]
pub(crate) struct Opt {
    /// The key in the setting `nats_options`, or the setting itself.
    pub(crate) key: &'static str,
    /// Where the key stands.
    pub(super) place: Place,
    /// The variables, the documented one first.
    pub(crate) env: &'static [&'static str],
    /// What is understood.
    pub(super) takes: Takes,
    /// Nothing is published if the value cannot be read, instead of the default being used: whoever leaves something
    /// out, sends it elsewhere or protects it may have a reason that a typing error must not defeat.
    pub(crate) guarded: bool,
    /// What of the value may be shown.
    pub(super) shown: Shown,
    /// The version of this package that knew it first.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documents"))]
    pub(super) since: &'static str,
    /// One or two sentences for the documents.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documents"))]
    pub(super) about: &'static str,
    /// A value that somebody might give it, as a variable has it; empty where nothing can be given.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documents"))]
    pub(super) example: &'static str,
}

impl Opt {
    /// With an example.
    pub(super) const fn like(self, example: &'static str) -> Self {
        Self { example, ..self }
    }
}

/// Where an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A setting of its own, beside `nats_options`.
    Setting,
    /// A key of the setting `nats_options`.
    NatsOptions,
    /// A field of a context alone.
    Context,
}

/// What an option takes, and its default.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// A truth.
    Flag(bool),
    /// A duration in seconds.
    Seconds { default: f64, least: f64 },
    /// A whole number.
    Count { default: u64, least: u64, most: u64 },
    /// One of these words, the first of which is the default.
    Word(&'static [&'static str]),
    /// A path.
    Path,
    /// Several texts: a list, or text with commas. What is expected, and the default.
    Texts(&'static str, &'static str),
    /// A text. What is expected, and the default.
    Text(&'static str, &'static str),
    /// A mapping of texts.
    Pairs,
    /// nats-py has it, this client does not need it: why; and the value that asks for nothing.
    WithoutEffect(&'static str, &'static str),
    /// nats-py takes a Python object there, and security depends on it: what to use instead.
    CannotServe(&'static str),
}

/// What of a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it.
    Plain,
    /// Only what was understood: a path or a URL may hold a secret by mistake.
    Understood,
    /// Nothing.
    Never,
}

/// What is understood as a truth: true and false, in any case.
pub(crate) const TRUE: &[&str] = &["true", "yes", "y", "1", "on"];
pub(crate) const FALSE: &[&str] = &["false", "no", "n", "0", "off"];

impl Takes {
    /// What would have been understood, in an error's words.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Flag(_) => format!("{} or {}", TRUE.join(", "), FALSE.join(", ")),
            Self::Seconds { least, .. } => format!("a number of seconds, at least {least}"),
            Self::Count { least, most, .. } => format!("a whole number from {least} to {most}"),
            Self::Word(words) => match words.split_last() {
                Some((last, words)) => format!("{} or {last}", words.join(", ")),
                None => String::new(),
            },
            Self::Path => "a path".to_owned(),
            Self::Texts(expected, _) | Self::Text(expected, _) => (*expected).to_owned(),
            Self::Pairs => "a mapping of names to values".to_owned(),
            Self::WithoutEffect(..) => "nothing".to_owned(),
            Self::CannotServe(instead) => (*instead).to_owned(),
        }
    }

    /// The default, as a user would write it; `none` or empty if there is none.
    pub(super) fn default(&self) -> String {
        match self {
            Self::Flag(default) => default.to_string(),
            Self::Seconds { default, .. } => default.to_string(),
            Self::Count { default, .. } => default.to_string(),
            Self::Word(words) => words.first().copied().unwrap_or_default().to_owned(),
            Self::Texts(_, default) | Self::Text(_, default) => (*default).to_owned(),
            Self::Path | Self::Pairs | Self::WithoutEffect(..) | Self::CannotServe(_) => "none".to_owned(),
        }
    }
}

/// An option of `nats_options` that costs nothing but its effect when it cannot be read.
pub(super) const fn tuning(
    key: &'static str,
    env: &'static [&'static str],
    since: &'static str,
    takes: Takes,
    about: &'static str,
) -> Opt {
    Opt {
        key,
        place: Place::NatsOptions,
        env,
        takes,
        guarded: false,
        shown: Shown::Plain,
        since,
        about,
        example: "",
    }
}

/// An option without which nothing is published when it cannot be read.
pub(super) const fn guarded(
    key: &'static str,
    env: &'static [&'static str],
    since: &'static str,
    takes: Takes,
    about: &'static str,
) -> Opt {
    Opt { guarded: true, ..tuning(key, env, since, takes, about) }
}

/// A guarded option whose value is shown only where it was understood.
pub(super) const fn careful(
    key: &'static str,
    env: &'static [&'static str],
    since: &'static str,
    takes: Takes,
    about: &'static str,
) -> Opt {
    Opt { shown: Shown::Understood, ..guarded(key, env, since, takes, about) }
}

/// A guarded option whose value is never shown.
pub(super) const fn secret(
    key: &'static str,
    env: &'static [&'static str],
    since: &'static str,
    takes: Takes,
    about: &'static str,
) -> Opt {
    Opt { shown: Shown::Never, ..guarded(key, env, since, takes, about) }
}

/// The versions that knew options first.
pub(super) const FIRST: &str = "0.4.0";
pub(super) const NOW: &str = "1.0.0";
