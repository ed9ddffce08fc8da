//! The console script `ansible-runner-nats`.

use std::ffi::OsString;

use clap::Parser;

/// Publishes ansible-runner's events and status updates to NATS.
///
/// The plugin itself needs no command: set RUNNER_NATS_SUBJECT_ID and run ansible-runner.
#[derive(Debug, Parser)]
#[command(name = "ansible-runner-nats", version, arg_required_else_help = true)]
struct Arguments {}

/// Runs the command line `args` (program name first). Returns the exit status.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    match Arguments::try_parse_from(args) {
        Ok(Arguments {}) => 0,
        Err(error) => {
            // A closed pipe is no reason to complain.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2)
        }
    }
}
