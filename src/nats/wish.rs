//! What a reader wishes to hear, and what he is told.

use std::time::{Duration, SystemTime};

use crate::message::Received;

/// What to listen to.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Filters that do not overlap.
    pub(crate) subjects: Vec<String>,
    /// Where to begin.
    pub(crate) from: Start,
    /// Go on when all has been told that streams had kept.
    pub(crate) follow: bool,
    /// Before all else, what streams have kept of these in so long.
    pub(crate) before: Option<(Vec<String>, Duration)>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what comes from now on; no stream is needed.
    Now,
    /// With the first message that a stream has.
    First,
    /// With a stream's messages since this time.
    Since(SystemTime),
    /// With those of so long, by the server's clock.
    Ago(Duration),
    /// With the last message of each subject.
    Last,
}

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// There is a connection now, and whoever reads this misses nothing that is published after it.
    Connected {
        /// The server's name and address.
        server: String,
        /// The streams that are read.
        streams: Vec<String>,
        /// What time it was for the server then; `None`: it was not asked, as no stream is read.
        now: Option<SystemTime>,
    },
    /// All that streams had kept has been told.
    CaughtUp,
    /// There is no connection any more, or none yet, and why. It is tried again.
    Lost(String),
    /// Why this is the end; no waiting mends it.
    Failed(String),
    /// The same: a stream is needed, and none takes the subjects.
    NoStream,
    /// A message.
    Message(Received),
}
