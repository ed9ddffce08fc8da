//! Files that hold credentials: read at each connect, so that they may be renewed while a job runs.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::config::{Auth, Secret};

/// The text of a credentials file. Errors if it is not a regular file, or far too large for one.
pub fn read(path: &Path) -> io::Result<Secret> {
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
pub fn secrets_of(auth: &Auth) -> Vec<Secret> {
    match auth {
        Auth::User(_, secret) | Auth::Token(secret) | Auth::Seed(secret) => vec![secret.clone()],
        Auth::Creds(text) => secret_lines(text),
        Auth::CredsFile(path) | Auth::SeedFile(path) => lines_of(path),
    }
}

/// What must not be seen of a file that holds a key, as far as it can be read.
pub fn lines_of(path: &Path) -> Vec<Secret> {
    read(path).map(|text| secret_lines(&text)).unwrap_or_default()
}

/// The nkey seed in a text: by itself, or in a frame of dashes.
pub fn seed_in(text: &Secret) -> Option<Secret> {
    let lines = text.reveal().lines().map(str::trim);
    lines.into_iter().find(|line| nkeys::KeyPair::from_seed(line).is_ok()).map(Secret::new)
}

fn secret_lines(text: &Secret) -> Vec<Secret> {
    text.reveal().lines().map(str::trim).filter(|line| is_secret(line)).map(Secret::new).collect()
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
