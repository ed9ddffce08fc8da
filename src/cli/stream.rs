//! `stream`: is there a stream for runs, and is it as it should be? `stream create` makes it.

use std::{io, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Exit,
    options::Options,
    terminal::{Tone, complain, json_text, printable, stdout},
};
use crate::nats::{
    Compared, DUPLICATE_WINDOW, Look, MAX_AGE, MAX_BYTES, Made, NAME, Recommended, State, block_on, create,
    look,
};

/// Compare the streams that take our messages with the one that we recommend.
///
/// Changes nothing. Exit status: 0 a stream takes them and would lose none, 1 there is none, or it would lose some.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(CreateArguments),
}

/// Make the stream that we recommend.
///
/// If there is one of that name already, it is not changed: the differences are shown. Exit status: 0 it is there and as
/// asked for, 1 it is not.
#[derive(Debug, Args)]
struct CreateArguments {
    /// Its name
    #[arg(long, default_value = NAME, value_parser = name)]
    name: String,
    /// On how many servers it is [default: 3 in a cluster, otherwise 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5))]
    replicas: Option<u64>,
    /// How long messages stay
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = humantime::parse_duration)]
    max_age: Duration,
    /// How much is kept at most
    #[arg(long, value_name = "SIZE", default_value = "10GB", value_parser = bytes)]
    max_bytes: u64,
    /// How long repeats are known; longer than an outage
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    duplicate_window: Duration,
    /// Show what would be asked of the server, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: Options,
}

fn name(text: &str) -> Result<String, String> {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if text.is_empty() || text.contains(is_odd) {
        return Err("the name of a stream has no blank, no dot, *, > or slash".to_owned());
    }
    Ok(text.to_owned())
}

/// `10GB`, `512MiB`, `1000`.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let given = text.trim();
    let unit = UNITS.iter().find(|(unit, _)| given.to_lowercase().ends_with(&unit.to_lowercase()));
    let (unit, factor) = unit.copied().unwrap_or(("", 1));
    let number = given.get(..given.len() - unit.len()).unwrap_or_default().trim().parse::<u64>().ok();
    let size = number.and_then(|number| number.checked_mul(factor)).filter(|size| *size > 0);
    size.ok_or_else(|| "expected a size such as 10GB or 512MiB".to_owned())
}

/// What is told of the streams, for scripts.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    streams: &'a [Look],
}

pub(super) fn run(arguments: &Arguments) -> io::Result<Exit> {
    match &arguments.command {
        Some(Command::Create(arguments)) => make(arguments),
        None => compare(arguments),
    }
}

fn compare(arguments: &Arguments) -> io::Result<Exit> {
    let Some(config) = arguments.options.config("stream") else { return Ok(Exit::Problem) };
    let wanted = Recommended {
        name: NAME.to_owned(),
        subjects: config.subject.filters(None, None, None),
        replicas: 1,
        max_age: MAX_AGE,
        max_bytes: MAX_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        has_ttl: true,
    };
    let looks = match block_on(look(&config.connection, &wanted))? {
        Ok((looks, _)) => looks,
        Err(reason) => {
            complain(&printable(&config.hidden(reason)));
            return Ok(Exit::Problem);
        }
    };
    let is_fine = !looks.is_empty() && !looks.iter().any(Look::would_lose);
    if arguments.json {
        let json = json_text(&Report { ok: is_fine, streams: &looks })?;
        stdout(|out| writeln!(out, "{json}"))?;
    } else if looks.is_empty() {
        let subjects = wanted.subjects.join(", ");
        stdout(|out| {
            writeln!(out, "no stream takes {subjects}: messages go to whoever listens, and are not kept")?;
            writeln!(out, "make one: ansible-runner-nats stream create")
        })?;
    } else {
        looks.iter().try_for_each(show)?;
    }
    Ok(if is_fine { Exit::Success } else { Exit::Problem })
}

fn show(look: &Look) -> io::Result<()> {
    stdout(|out| {
        writeln!(out, "{}", Tone::Strong.paint(&format!("stream {}", printable(&look.name))))?;
        for row in &look.settings {
            writeln!(out, "{}", line(row))?;
        }
        for finding in &look.findings {
            let word = match finding.state {
                State::Ok => Tone::Good.paint("ok       "),
                State::Note => Tone::Odd.paint("note     "),
                State::Problem => Tone::Bad.paint("problem  "),
            };
            writeln!(out, "{word} {}", printable(&finding.text))?;
        }
        Ok(())
    })
}

fn line(row: &Compared) -> String {
    let Compared { setting, is, recommended, agrees, why } = row;
    let is = printable(is);
    if *agrees {
        return format!("{} {setting:20} {is}", Tone::Good.paint("ok       "));
    }
    let word = Tone::Odd.paint("different");
    format!("{word} {setting:20} {is}; recommended: {}; {why}", printable(recommended))
}

fn make(arguments: &CreateArguments) -> io::Result<Exit> {
    let Some(config) = arguments.options.config("stream") else { return Ok(Exit::Problem) };
    let mut wanted = Recommended {
        name: arguments.name.clone(),
        subjects: config.subject.filters(None, None, None),
        replicas: arguments.replicas.unwrap_or(1),
        max_age: arguments.max_age,
        max_bytes: arguments.max_bytes,
        duplicate_window: arguments.duplicate_window,
        has_ttl: true,
    };
    let made = block_on(async {
        if arguments.replicas.is_none() {
            let (_, is_cluster) = look(&config.connection, &wanted).await?;
            wanted.replicas = if is_cluster { 3 } else { 1 };
        }
        create(&config.connection, &wanted, arguments.dry_run).await
    })?;
    let name = &wanted.name;
    match made {
        Ok(Made::New) => {
            stdout(|out| writeln!(out, "stream {name} made: it takes {}", wanted.subjects.join(", ")))?;
            Ok(Exit::Success)
        }
        Ok(Made::Equal) => {
            stdout(|out| writeln!(out, "stream {name} is there already, and as it should be"))?;
            Ok(Exit::Success)
        }
        Ok(Made::Would(request)) => {
            stdout(|out| writeln!(out, "{request}"))?;
            Ok(Exit::Success)
        }
        Ok(Made::Different(rows)) => {
            stdout(|out| {
                writeln!(out, "stream {name} is there already and different; nothing was changed")?;
                rows.iter().try_for_each(|row| {
                    let row = Compared { agrees: false, ..row.clone() };
                    writeln!(out, "{}", line(&row))
                })
            })?;
            Ok(Exit::Problem)
        }
        Err(reason) => {
            complain(&printable(&config.hidden(reason)));
            Ok(Exit::Problem)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("10GB", Ok(10_000_000_000)),
            ("512 MiB", Ok(512 << 20)),
            ("1kb", Ok(1000)),
            ("1000", Ok(1000)),
            ("7B", Ok(7)),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
        for odd in ["", "GB", "-1", "0", "1.5GB", "99999999TB", "ten"] {
            assert!(bytes(odd).is_err(), "{odd}");
        }
        assert!(name("RUNS").is_ok() && name("A.B").is_err() && name("").is_err());
    }
}
