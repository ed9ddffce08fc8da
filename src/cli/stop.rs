//! Why a command ends before it has done what it was asked for: handed up with `?`, and said in one place.

use std::io;

use super::{Exit, terminal::complain};

/// Why a command ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// There is a problem, and what it is.
    Problem(String),
    /// There is one, and it was said.
    Said,
    /// No stream takes the subjects.
    NoStream,
    /// Ctrl-C, or SIGTERM.
    Interrupted,
    /// Nothing came until then.
    TimedOut,
    /// Its output cannot be written, or the system does not give what it takes.
    System(io::Error),
}

const NEEDS_STREAM: &str = "no stream takes what runs publish, and what they have done is only known where one keeps it: \
                            `ansible-runner-nats stream create` makes one (or name one that has it: -o stream=NAME)";

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<serde_json::Error> for Stop {
    fn from(error: serde_json::Error) -> Self {
        Self::System(error.into())
    }
}

impl Stop {
    /// Says why, if it was not said, and how the command ends.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Problem(text) => {
                complain(&text);
                Exit::Problem
            }
            Self::Said => Exit::Problem,
            Self::NoStream => {
                complain(NEEDS_STREAM);
                Exit::Problem
            }
            Self::Interrupted => Exit::Interrupted,
            Self::TimedOut => Exit::NotEnded,
            // Whoever read our output has seen enough.
            Self::System(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
            Self::System(error) => {
                complain(&format!("cannot write: {error}"));
                Exit::Problem
            }
        }
    }
}
