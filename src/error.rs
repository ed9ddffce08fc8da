//! Everything that can go wrong, in the words a user reads.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::secret::{MASK, shown_path};

/// The one error type of this crate. No message ever carries a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An option's value cannot be read.
    #[error("{name}={shown}: expected {expected}; {consequence}")]
    Option {
        /// The variable or setting as the user wrote it.
        name: String,
        /// The value, or a mask if it is a secret.
        shown: String,
        /// What would have been understood.
        expected: String,
        /// What happens now.
        consequence: String,
    },
    /// No such server, or it does not talk to us.
    #[error("{server}: {reason}")]
    Connect {
        /// The server's URL without credentials.
        server: String,
        /// What the operating system or the server said.
        reason: String,
    },
    /// A name is looked up by a thread of its own, and none can be started.
    #[error("{server}: no thread for the name look-up can be started: {source}; its address would need none")]
    LookUp {
        /// The server's URL without credentials.
        server: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server answered, but not in time.
    #[error("{server}: no answer from a NATS server within {} s (connect_timeout)", .timeout.as_secs_f64())]
    ConnectTimeout {
        /// The server's URL without credentials.
        server: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// The server refused our credentials.
    #[error("{server}: the server refused the credentials ({method}): {reason}")]
    Refused {
        /// The server's URL without credentials.
        server: String,
        /// How we authenticated, e.g. `user and password`.
        method: &'static str,
        /// The server's own words.
        reason: String,
    },
    /// There is no TLS with this server, or none that can be trusted.
    #[error("{server}: TLS: {reason}; nothing was sent")]
    Tls {
        /// The server's URL without credentials.
        server: String,
        /// What is wrong, and with which option it is mended.
        reason: String,
    },
    /// A credentials or seed file cannot be used.
    #[error("{option}: cannot use {}: {reason}", shown(.path))]
    Credentials {
        /// The option that named the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not; never the content.
        reason: String,
    },
    /// The spill file cannot be written or read.
    #[error("spill file {path}: {source}")]
    Spill {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The spool cannot be used.
    #[error("spill_dir cannot be used, the artifact directory is used instead: {path}: {source}")]
    Spool {
        /// The run's folder in it.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something in a spool is not sent by itself.
    #[error("{path}: {reason}")]
    LeftBehind {
        /// The file that has it.
        path: PathBuf,
        /// What it is, and what to do about it.
        reason: String,
    },
    /// A message takes more memory than there is.
    #[error("not enough memory for a message of more than {size} bytes")]
    Memory {
        /// How far it got.
        size: usize,
    },
    /// A message that no server would take, and that cannot be shortened.
    #[error("a message of {size} bytes cannot be cut to {limit} bytes")]
    TooLarge {
        /// The size of the payload, in bytes.
        size: usize,
        /// The size that the server takes, in bytes.
        limit: usize,
    },
    /// The background thread cannot be started.
    #[error("cannot start the background thread: {0}")]
    Thread(io::Error),
}

/// A damaged key in the place of a path is not shown as a path that does not exist.
fn shown(path: &Path) -> String {
    match shown_path(&path.to_string_lossy()) {
        MASK => format!("{MASK} (no path with a / in it, so it is not shown)"),
        path => path.to_owned(),
    }
}

impl Error {
    /// Is it about the connection, and no waiting mends it?
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Credentials { .. } | Self::Tls { .. })
    }

    /// What stays the same while the same thing is wrong; the message may vary with each attempt.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Connect { server, .. } => format!("connect {server}"),
            Self::Tls { server, reason } => format!("TLS {server} {reason}"),
            Self::ConnectTimeout { server, .. } => format!("timeout {server}"),
            Self::Refused { server, .. } => format!("refused {server}"),
            Self::Option { .. } | Self::Credentials { .. } | Self::Spill { .. } | Self::Thread(_) => {
                self.to_string()
            }
            Self::Spool { .. } => "spool".to_owned(),
            Self::LeftBehind { path, .. } => format!("left behind {}", path.display()),
            Self::LookUp { server, .. } => format!("look up {server}"),
            // The size differs each time.
            Self::TooLarge { .. } => "too large".to_owned(),
            Self::Memory { .. } => "memory".to_owned(),
        }
    }
}
