//! The console script `ansible-runner-nats`.

mod check;
mod compare;
#[cfg(test)]
mod document;
mod grep;
mod logs;
mod notify;
mod options;
mod progress;
mod reading;
mod replay;
mod runs;
mod serve;
mod show;
mod stats;
mod stop;
mod stream;
mod terminal;
mod wait;
mod watch;
mod when;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use self::options::Readers;
use self::stop::Stop;
use crate::runs::Status;

/// How a command ended; the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Success = 0,
    /// There is a problem, and it was said.
    Problem = 1,
    /// The command line cannot be understood (clap's own).
    Usage = 2,
    /// The run that was waited for failed (`failed`, `error`).
    Failed = 3,
    /// It was canceled.
    Canceled = 4,
    /// It ran out of time.
    Timeout = 5,
    /// It has not ended.
    NotEnded = 6,
    /// Ctrl-C, as a shell has it.
    Interrupted = 130,
}

impl Exit {
    /// What it means to have waited for a run that ended with this status.
    fn of_status(status: Status) -> Self {
        match status {
            Status::Successful => Self::Success,
            Status::Canceled => Self::Canceled,
            Status::Timeout => Self::Timeout,
            _ => Self::Failed,
        }
    }

    /// A problem anywhere is a problem.
    fn worse(self, other: Self) -> Self {
        if self == Self::Success { other } else { self }
    }
}

/// What people do around the plugin that publishes ansible-runner's events to NATS.
///
/// The plugin itself needs no command: set RUNNER_NATS_SUBJECT_ID and run ansible-runner. These commands read the
/// same settings and variables as the plugin does.
#[derive(Debug, Parser)]
#[command(name = "ansible-runner-nats", version = env!("PACKAGE_VERSION"), arg_required_else_help = true, after_help = EXITS)]
struct Arguments {
    /// Colours: auto (on a terminal), always (for a pager such as less -R) or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: terminal::Colors,
    #[command(subcommand)]
    command: Command,
}

const EXITS: &str = "Exit status: 0 all is well, 1 a problem, 2 wrong usage, 130 interrupted (Ctrl-C). \
                     Of commands that wait for a run: 3 it failed, 4 it was canceled, 5 it ran out of time, 6 it has \
                     not ended.";

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
    Stream(stream::Arguments),
    Runs(runs::Arguments),
    Logs(logs::Arguments),
    Wait(wait::Arguments),
    Show(show::Arguments),
    Grep(grep::Arguments),
    Compare(compare::Arguments),
    Stats(stats::Arguments),
    Watch(watch::Arguments),
    Serve(serve::Arguments),
    Notify(notify::Arguments),
    Replay(replay::Arguments),
    /// Print a completion script for a shell.
    ///
    /// For bash: ansible-runner-nats completions bash > /etc/bash_completion.d/ansible-runner-nats
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// `clap_complete` 4.6 calls a command with `-` in its name by two names in what it makes for bash: one where it finds out
/// which command it is, and another where it says what that takes.
const WRONG_LABEL: &str = "ansible__subcmd__runner__subcmd__nats";
const LABEL: &str = "ansible__runner__nats";

/// Runs the command line `args` (program name first); `readers` reads a private data directory's. Returns the exit
/// status.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>, readers: Readers) -> u8 {
    options::read_with(readers);
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is no reason to complain.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8);
        }
    };
    arguments.color.choose();
    run(arguments.command).unwrap_or_else(Stop::exit) as u8
}

fn run(command: Command) -> Result<Exit, Stop> {
    match command {
        Command::Check(arguments) => Ok(check::run(&arguments)?),
        Command::Stream(arguments) => Ok(stream::run(&arguments)?),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Logs(arguments) => logs::run(&arguments),
        Command::Wait(arguments) => wait::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Grep(arguments) => grep::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Notify(arguments) => notify::run(&arguments),
        Command::Replay(arguments) => Ok(replay::run(&arguments)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ansible-runner-nats", &mut script);
            let script = String::from_utf8_lossy(&script).replace(WRONG_LABEL, LABEL);
            terminal::stdout(|out| out.write_all(script.as_bytes()))?;
            Ok(Exit::Success)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Arguments::command().debug_assert();
    }
}
