//! The options of each command in docs/commands.md and docs/serve.md, as the command line has them.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::Arguments;
use crate::config::document::hold;

/// What a help text says itself about a default that is no fixed value.
const DEFAULT: &str = " [default: ";

/// A page, and the commands whose options it has.
const PAGES: &[(&str, &[&str])] = &[
    (
        "docs/commands.md",
        &[
            "check",
            "stream",
            "stream create",
            "runs",
            "logs",
            "wait",
            "show",
            "compare",
            "stats hosts",
            "grep",
            "watch",
            "notify",
            "replay",
        ],
    ),
    ("docs/serve.md", &["serve"]),
];

#[test]
fn the_pages_have_the_options_of_all_commands() {
    let mut whole = Arguments::command();
    whole.build();
    let common = common(&whole);
    hold("docs/commands.md", Some((&mark("all commands"), END)), &table(&common));
    let mut told = Vec::new();
    for (page, commands) in PAGES {
        for name in *commands {
            let command = find(&whole, name);
            let own: Vec<&Arg> = command
                .get_arguments()
                .filter(|arg| common.iter().all(|one| one.get_id() != arg.get_id()))
                .collect();
            hold(page, Some((&mark(name), END)), &table(&own));
            told.push(*name);
        }
    }
    for command in whole.get_subcommands().map(Command::get_name).filter(|name| *name != "help") {
        assert!(command == "completions" || told.iter().any(|name| name.starts_with(command)), "{command}");
    }
}

const END: &str = "<!-- end -->\n";

fn mark(command: &str) -> String {
    format!("<!-- options of {command}: made by `make generated` -->\n")
}

fn find<'a>(whole: &'a Command, name: &str) -> &'a Command {
    name.split(' ').fold(whole, |command, word| command.find_subcommand(word).unwrap())
}

/// What each command takes.
fn common(whole: &Command) -> Vec<&Arg> {
    let [runs, wait] = ["runs", "wait"].map(|name| find(whole, name));
    let of_both = |arg: &&Arg| wait.get_arguments().any(|other| other.get_id() == arg.get_id());
    let about_runs = ["subject_id", "help"];
    runs.get_arguments().filter(of_both).filter(|arg| !about_runs.contains(&arg.get_id().as_str())).collect()
}

fn table(args: &[&Arg]) -> String {
    let mut text = String::from("\n| option | default | |\n| --- | --- | --- |\n");
    for arg in args.iter().filter(|arg| arg.get_id() != "help") {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (about, default) = match help.split_once(DEFAULT) {
            Some((about, default)) => (about.to_owned(), default.trim_end_matches(']').to_owned()),
            None => (help, fixed_default(arg)),
        };
        let row = format!("| `{}` | {default} | {} |", usage(arg), about.replace('|', "\\|"));
        assert!(row.chars().count() <= 120, "{row}: say it in fewer words");
        let _ = writeln!(text, "{row}");
    }
    text + "\n"
}

fn fixed_default(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if values.is_empty() || !arg.get_action().takes_values() {
        String::new()
    } else {
        format!("`{}`", values.join(","))
    }
}

/// As it is typed.
fn usage(arg: &Arg) -> String {
    let value: Vec<&str> =
        arg.get_value_names().into_iter().flatten().map(clap::builder::Str::as_str).collect();
    let value = value.join(" ");
    if arg.is_positional() {
        let several = if arg.get_num_args().is_some_and(|count| count.max_values() > 1) { "..." } else { "" };
        return if arg.is_required_set() { value + several } else { format!("[{value}]{several}") };
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let names = names.join("`, `");
    if arg.get_action().takes_values() { format!("{names} {value}") } else { names }
}
