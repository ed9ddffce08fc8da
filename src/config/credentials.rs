//! Ways to authenticate, and the files that hold credentials: read at each connect, so that they may be renewed while a job
//! runs.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::secret::{MASK, Secret, shown_path};

/// How to authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Auth {
    /// User and password.
    User(String, Secret),
    /// A token.
    Token(Secret),
    /// The content of a `.creds` file.
    Creds(Secret),
    /// Path of a `.creds` file, read anew at each connect so that it may be renewed.
    CredsFile(PathBuf),
    /// Paths of the JWT's file and the seed's, as nats-py takes them, read anew at each connect.
    CredsFiles(PathBuf, PathBuf),
    /// Path of an nkey seed file, read anew at each connect.
    SeedFile(PathBuf),
    /// The nkey seed itself.
    Seed(Secret),
}

impl Auth {
    /// Does a file hold it?
    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Self::CredsFile(_) | Self::CredsFiles(..) | Self::SeedFile(_))
    }

    /// What a user calls this way to authenticate.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::User(..) => "user and password",
            Self::Token(_) => "token",
            Self::CredsFile(_) | Self::CredsFiles(..) | Self::Creds(_) => "user_credentials",
            Self::SeedFile(_) | Self::Seed(_) => "nkeys_seed",
        }
    }
}

impl fmt::Display for Auth {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user, _) => write!(f, "user {user}, password {MASK}"),
            Self::Token(_) => write!(f, "token {MASK}"),
            Self::Creds(_) => write!(f, "creds {MASK}"),
            Self::Seed(_) => write!(f, "nkey {MASK}"),
            Self::CredsFile(path) => write!(f, "creds {}", shown_path(&path.to_string_lossy())),
            Self::CredsFiles(jwt, seed) => {
                let shown = |path: &Path| shown_path(&path.to_string_lossy()).to_owned();
                write!(f, "creds {}, {}", shown(jwt), shown(seed))
            }
            Self::SeedFile(path) => write!(f, "nkey {}", shown_path(&path.to_string_lossy())),
        }
    }
}

pub(super) fn is_seed(text: &str) -> bool {
    nkeys::KeyPair::from_seed(text.trim()).is_ok()
}

/// The text of a credentials file. Errors if it is not a regular file, or far too large for one.
pub(crate) fn read(path: &Path) -> io::Result<Secret> {
    /// Real ones have about a kilobyte.
    const MOST: u64 = 1 << 20;
    // Opening a FIFO would wait for ever otherwise.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if about.len() > MOST {
        return Err(io::Error::other("too large for a credentials file"));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    Ok(Secret::new(text))
}

/// What must not be seen of a way to authenticate: the file's content too, as far as it can be read.
pub(crate) fn secrets_of(auth: &Auth) -> Vec<Secret> {
    match auth {
        Auth::User(_, secret) | Auth::Token(secret) | Auth::Seed(secret) => vec![secret.clone()],
        Auth::Creds(text) => secret_lines(text),
        Auth::CredsFile(path) | Auth::SeedFile(path) => lines_of(path),
        Auth::CredsFiles(jwt, seed) => [lines_of(jwt), lines_of(seed)].concat(),
    }
}

/// What must not be seen of a file that holds a key, as far as it can be read.
pub(super) fn lines_of(path: &Path) -> Vec<Secret> {
    read(path).map(|text| secret_lines(&text)).unwrap_or_default()
}

/// The nkey seed in a text: by itself, or in a frame of dashes.
pub(crate) fn seed_in(text: &Secret) -> Option<Secret> {
    lines_in(text).find(|line| nkeys::KeyPair::from_seed(line).is_ok()).map(Secret::new)
}

/// The user's JWT in a text: by itself, or in a frame of dashes. Like [`seed_in`], this minds neither blanks around
/// it, nor how lines end, nor a byte order mark, as nats-py and the `nats` command do not.
pub(crate) fn jwt_in(text: &Secret) -> Option<Secret> {
    // The header of each begins with `{"`.
    let is_jwt = |line: &&str| line.starts_with("eyJ") && line.split('.').count() == 3;
    lines_in(text).find(is_jwt).map(Secret::new)
}

fn lines_in(text: &Secret) -> impl Iterator<Item = &str> {
    text.reveal().trim_start_matches('\u{feff}').lines().map(str::trim)
}

/// Is this what a `.creds` file holds?
pub(super) fn is_creds(text: &str) -> bool {
    let text = Secret::new(text);
    jwt_in(&text).is_some() && seed_in(&text).is_some()
}

fn secret_lines(text: &Secret) -> Vec<Secret> {
    lines_in(text).filter(|line| is_secret(line)).map(Secret::new).collect()
}

/// A line of a `.creds` or seed file that is a JWT or a seed: not a fence, not a word of advice.
fn is_secret(line: &str) -> bool {
    const SHORTEST: usize = 16;
    line.len() >= SHORTEST && !line.starts_with(['-', '*', '#']) && !line.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn seeds_and_tokens_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.creds");
        let lines = "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.e30.abc\n------END NATS USER JWT------\n\n\
                     *** IMPORTANT: this is a secret ***\n-----BEGIN USER NKEY SEED-----\n  SUACSSL3UAHUDXKFSNVUZ  \n";
        fs::write(&path, lines).unwrap();
        let secrets = secrets_of(&Auth::CredsFile(path));
        let texts: Vec<&str> = secrets.iter().map(Secret::reveal).collect();
        assert_eq!(texts, ["eyJ0eXAiOiJKV1QifQ.e30.abc", "SUACSSL3UAHUDXKFSNVUZ"]);
        assert!(secrets_of(&Auth::SeedFile(dir.path().to_owned())).is_empty());
    }
}
