//! docs/options.md and the options of the stub, as the table has them.

use std::{env, fmt::Write, fs, path::Path};

use serde_json::{Value, json};

use super::{
    entry::{FIRST, Opt, Place, Shown, TRUE, Takes},
    model::Setting,
    options::{
        CALLABLE, CONTEXT, FLUSH_TIMEOUT, GROUPS, INBOX_PREFIX, PASSWORD, SUBJECT_ID, TLS_CERT, TLS_KEY,
        USER, USER_CREDENTIALS, all,
    },
    tests::resolve_with,
};

/// What ruff allows in the stub, less its indent and quotes.
const WIDTH: usize = 100;

/// docs/options.md.
fn options_md() -> String {
    let mut text = String::from(
        "<!-- Made from src/config/options.rs by `make generated`: change it there. -->\n\
         # Options\n\n",
    );
    paragraph(
        &mut text,
        "",
        "Nearly each option has a key in the setting `nats_options` of `env/settings` (or a setting of its \
        own, where it says so) and an environment variable. The environment wins, option by option; an empty variable \
        or text counts as not set. True is `true`, `yes`, `y`, `1`, `on`, false is `false`, `no`, `n`, `0`, `off`, in upper \
        or lower case.",
    );
    paragraph(
        &mut text,
        "",
        "A value that cannot be read is named in a warning and the default is used. Options marked \
        **guarded** are different: to go on without them could send messages to the wrong server, or secrets to everybody. If \
        such a value cannot be read, nothing is published, and an error says so.",
    );
    paragraph(
        &mut text,
        "",
        "An unknown variable `RUNNER_NATS_...`, setting `nats_...` or key of `nats_options` is named in a warning, with the \
        most similar name that there is. If that option is guarded, and a letter or two are different or one name is a part \
        of the other (`RUNNER_NATS_OMITT`, `RUNNER_NATS_SERVER`, `nats_option`), nothing is published.",
    );
    paragraph(
        &mut text,
        "",
        "Where a path is expected, a value without a `/` is never shown in a message: it may be a mistyped seed.",
    );
    for (title, about, options) in GROUPS {
        let _ = write!(text, "## {title}\n\n");
        paragraph(&mut text, "", about);
        for opt in *options {
            option(&mut text, opt);
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn option(text: &mut String, opt: &Opt) {
    let _ = write!(text, "### `{}`\n\n", opt.key);
    paragraph(text, "", opt.about);
    let place = if opt.place == Place::Setting { "" } else { "nats_options." };
    let _ = writeln!(text, "- Setting: `{place}{}`", opt.key);
    if !opt.env.is_empty() {
        let variables: Vec<String> = opt.env.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "- Variable: {}", variables.join(", "));
    }
    match opt.takes {
        Takes::WithoutEffect(..) | Takes::CannotServe(_) => {}
        takes => {
            paragraph(text, "  ", &format!("- Takes: {}", takes.expected()));
            text.truncate(text.trim_end().len());
            text.push('\n');
            let default = takes.default();
            if !default.is_empty() && default != "none" {
                let _ = writeln!(text, "- Default: `{default}`");
            }
            example(text, opt);
        }
    }
    let guarded = if opt.guarded { ", guarded" } else { "" };
    let _ = write!(text, "- Since {}{guarded}\n\n", opt.since);
}

/// As it stands in `env/settings`, and in the environment.
fn example(text: &mut String, opt: &Opt) {
    let setting = format!("- Example: `{}: {}`", opt.key, yaml(&in_settings(opt)));
    let Some(name) = opt.env.first() else {
        let _ = writeln!(text, "{setting}");
        return;
    };
    let variable = format!("`{name}={}`", shell(opt.example));
    let gap = if setting.len() + variable.len() < WIDTH { " " } else { "\n  " };
    let _ = writeln!(text, "{setting} or{gap}{variable}");
}

/// The example as a value of `env/settings`.
fn in_settings(opt: &Opt) -> Value {
    let text = opt.example;
    let number = || serde_json::from_str(text).ok();
    match opt.takes {
        Takes::Flag(_) => Value::from(TRUE.contains(&text)),
        Takes::Seconds { .. } | Takes::Count { .. } => number().unwrap(),
        Takes::Texts(..) => text.split(',').collect(),
        Takes::Pairs => text.split(',').filter_map(|pair| pair.split_once('=')).collect(),
        Takes::Text(..) if opt.shown == Shown::Plain => number().unwrap_or_else(|| text.into()),
        _ => text.into(),
    }
}

/// On one line: JSON is YAML, and what is plain needs no quotes.
fn yaml(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./> $".contains(c));
            if is_plain && text.starts_with(|c: char| c.is_ascii_alphabetic() || "/_$".contains(c)) {
                text.clone()
            } else {
                value.to_string()
            }
        }
        Value::Array(all) => format!("[{}]", all.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        Value::Object(all) => {
            let pairs: Vec<String> =
                all.iter().map(|(key, value)| format!("{key}: {}", yaml(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

fn shell(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./,:=+@".contains(c));
    if is_plain { text.to_owned() } else { format!("'{text}'") }
}

/// Wrapped text; lines after the first are indented.
fn paragraph(text: &mut String, indent: &str, words: &str) {
    if words.is_empty() {
        return;
    }
    let mut length = 0;
    for word in words.split_whitespace() {
        if length > 0 && length + 1 + word.chars().count() > WIDTH {
            text.push('\n');
            text.push_str(indent);
            length = indent.len();
        } else if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word.chars().count();
    }
    text.push_str("\n\n");
}

/// `NatsOptions` of the stub `_native.pyi`.
fn stub() -> String {
    let mut text = String::from(
        "@type_check_only\nclass NatsOptions(TypedDict, total=False):\n    \"\"\"The setting ``nats_options`` \
         (made from src/config/options.rs: see there, or docs/options.md).\"\"\"\n",
    );
    for opt in all() {
        if opt.place != Place::NatsOptions {
            continue;
        }
        let kind = match opt.takes {
            Takes::Flag(_) => "bool | str".to_owned(),
            Takes::WithoutEffect(..) => "object".to_owned(),
            Takes::Text(..) if opt.key == USER_CREDENTIALS.key => {
                "str | PathLike[str] | Sequence[str | PathLike[str]] | UserString".to_owned()
            }
            Takes::Text(..) if is_callable(opt) => "str | int | Callable[[], str]".to_owned(),
            Takes::Text(..) if opt.key == INBOX_PREFIX.key => "str | bytes".to_owned(),
            Takes::Seconds { .. } => "float | str".to_owned(),
            Takes::Count { .. } => "int | str".to_owned(),
            Takes::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                format!("Literal[{}]", words.join(", "))
            }
            Takes::Texts(..) => "str | Sequence[str]".to_owned(),
            Takes::Path => "str | PathLike[str]".to_owned(),
            Takes::Text(_, default) if default.parse::<i64>().is_ok() => "int | str".to_owned(),
            Takes::Text(..) if opt.shown == Shown::Never => "str | int".to_owned(),
            Takes::Text(..) => "str".to_owned(),
            Takes::Pairs => "Mapping[str, str]".to_owned(),
            Takes::CannotServe(_) => continue,
        };
        let _ = writeln!(text, "\n    {}: {kind}\n    \"\"\"{}", opt.key, stub_text(opt));
    }
    // As ruff wants it behind a class.
    text.push('\n');
    text
}

fn stub_text(opt: &Opt) -> String {
    let mut text = String::new();
    paragraph(&mut text, "    ", &format!("    {}", opt.about.replace('`', "``")));
    // reStructuredText has no links of Markdown's kind.
    let text =
        text.trim().replace("[CloudEvent](https://cloudevents.io)", "CloudEvent (https://cloudevents.io)");
    if text.contains('\n') { format!("{text}\n    \"\"\"") } else { format!("{text}\"\"\"") }
}

/// Compares what is between two marks of a file (or all of it) with what should be there, or writes that with
/// `UPDATE_DOCS=1`.
pub(crate) fn hold(file: &str, marks: Option<(&str, &str)>, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let wanted = match marks {
        None => wanted.to_owned(),
        Some((begin, end)) => {
            let (before, rest) = text.split_once(begin).unwrap();
            let (_, after) = rest.split_once(end).unwrap();
            format!("{before}{begin}{wanted}{end}{after}")
        }
    };
    if text != wanted {
        let update = env::var_os("UPDATE_DOCS").is_some();
        assert!(update, "{file} is not what the table says: run `UPDATE_DOCS=1 cargo test`");
        fs::write(path, wanted).unwrap();
    }
}

#[test]
fn the_document_is_what_the_table_says() {
    let text = options_md();
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    hold("docs/options.md", None, &text);
}

#[test]
fn the_stub_is_what_the_table_says() {
    let marks = ("# -- options: begin\n", "# -- options: end\n");
    hold("python/ansible_runner_nats/_native.pyi", Some(marks), &stub());
}

/// May it be a function that gives the value?
fn is_callable(opt: &Opt) -> bool {
    CALLABLE.iter().any(|known| known.key == opt.key)
}

/// 0.4.0 handed all that it knew to nats-py; `flush_timeout` has another meaning now.
fn is_of_nats_py(opt: &Opt) -> bool {
    opt.place == Place::NatsOptions && (opt.since == FIRST || opt.key == FLUSH_TIMEOUT.key)
}

/// What became of the arguments of nats-py's `connect`, which 0.4.0 passed its options to.
fn of_nats_py() -> String {
    let mut text = String::from("\n| in `nats_options` | here |\n| --- | --- |\n");
    for opt in all().filter(|opt| is_of_nats_py(opt)) {
        let here = match opt.takes {
            Takes::WithoutEffect(why, _) => format!("without effect: {why}"),
            Takes::CannotServe(instead) => format!("**refused**: expected {instead}"),
            _ if is_callable(opt) => {
                "taken; a function is called once, when a run begins, not at each connect".to_owned()
            }
            _ => "taken".to_owned(),
        };
        let _ = writeln!(text, "| `{}` | {here} |", opt.key);
    }
    text + "\n"
}

#[test]
fn what_became_of_the_options_of_nats_py() {
    let marks = ("<!-- options of nats-py: made by `make generated` -->\n", "<!-- end -->\n");
    hold("docs/upgrading.md", Some(marks), &of_nats_py());
}

#[test]
fn every_option_is_there_once_and_says_what_it_is() {
    let mut names: Vec<&str> = Vec::new();
    for opt in all() {
        assert!(opt.about.ends_with('.') && opt.about.len() > 8, "{}", opt.key);
        assert!(opt.env.iter().all(|name| name.starts_with("RUNNER_")), "{}", opt.key);
        names.push(opt.key);
        names.extend(opt.env);
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn every_example_is_understood_and_is_no_default() {
    for opt in all() {
        if matches!(opt.takes, Takes::WithoutEffect(..) | Takes::CannotServe(_)) {
            assert_eq!(opt.example, "", "{}", opt.key);
            continue;
        }
        assert_ne!(opt.example, opt.takes.default(), "{}", opt.key);
        if opt.key == CONTEXT.key {
            // It would have to be there.
            continue;
        }
        let mut settings = json!({SUBJECT_ID.key: "id", "nats_options": {}});
        if let Some(other) = partner(opt) {
            settings["nats_options"][other.key] = in_settings(other);
        }
        for name in opt.env {
            understood(opt, &settings, &[(*name, opt.example)]);
        }
        match opt.place {
            Place::Setting => settings[opt.key] = in_settings(opt),
            _ => settings["nats_options"][opt.key] = in_settings(opt),
        }
        understood(opt, &settings, &[]);
    }
}

/// What has to be there, too.
fn partner(opt: &Opt) -> Option<&'static Opt> {
    let pairs = [(&USER, &PASSWORD), (&TLS_CERT, &TLS_KEY)];
    let all = pairs.into_iter().flat_map(|(one, other)| [(one, other), (other, one)]);
    all.into_iter().find(|(one, _)| one.key == opt.key).map(|(_, other)| other)
}

/// What it says there is taken, and nothing is said about it.
fn understood(opt: &Opt, settings: &Value, env: &[(&str, &str)]) {
    let found = resolve_with(settings, env);
    assert_eq!(found.problems, [""; 0], "{}", opt.key);
    assert!(found.config.is_some(), "{}", opt.key);
    let is_set = |setting: &&Setting| setting.option == opt.key && setting.source != "default";
    assert!(found.settings.iter().any(|setting| is_set(&setting)), "{}: {:?}", opt.key, found.settings);
}
