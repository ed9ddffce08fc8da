//! Spill files: what is in them, and what is left of them.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    files::{self, Use},
    journal::{forget_progress, is_still, progress},
    message::Message,
};

/// A spill file that is ours as long as we hold its lock.
#[derive(Debug)]
pub(crate) struct SpillFile {
    pub(crate) path: PathBuf,
    file: File,
    /// Up to here all of it was sent, and confirmed.
    done: u64,
    /// Lines that are no messages.
    pub(crate) bad: u64,
}

/// A message in a file: where its line is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    length: usize,
}

impl SpillFile {
    /// Opens and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = files::open(path, Use::Take).map_err(|error| error.to_string())?;
        if file.try_lock().is_err() || !is_still(path, &file) {
            return Err(
                "is still being written by a run, or sent by somebody else; it is left alone".to_owned()
            );
        }
        Ok(Self { path: path.to_owned(), done: progress(path, &file), file, bad: 0 })
    }

    /// Every message in it that can be sent, and where it stands; counts what is none.
    pub(super) fn messages(&mut self) -> io::Result<Vec<(Message, Span)>> {
        self.bad = 0;
        let mut found = Vec::new();
        for line in self.lines()? {
            let (line, span) = line?;
            match readable(&line) {
                // The payload is read again when it is sent: there may be more of it than memory.
                Some(mut message) => {
                    message.payload = bytes::Bytes::new();
                    found.push((message, span));
                }
                None => self.bad += 1,
            }
        }
        Ok(found)
    }

    /// The message at this place.
    pub(super) fn read(&self, span: Span) -> Option<Message> {
        use std::os::unix::fs::FileExt;
        let mut line = vec![0; span.length];
        self.file.read_exact_at(&mut line, span.start).ok()?;
        readable(&line)
    }

    /// Leaves in it what is no message, behind what is in `rest` files and what is at `spans`; if nothing is left, the
    /// file goes. Returns whether it did.
    pub(super) fn shrink(&self, rest: &[PathBuf], spans: &[Span]) -> io::Result<bool> {
        let temporary = self.path.with_extension("jsonl.rest");
        let _ = fs::remove_file(&temporary);
        let mut kept = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        for path in rest {
            io::copy(&mut files::open(path, Use::Read)?, &mut kept)?;
        }
        for Span { start, length } in spans {
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(*start))?;
            io::copy(&mut file.take(*length as u64), &mut kept)?;
        }
        for line in self.lines()? {
            let (line, _) = line?;
            if readable(&line).is_none() {
                kept.write_all(&line)?;
            }
        }
        kept.sync_all()?;
        // What it says is not true of the new file.
        forget_progress(&self.path);
        if kept.metadata()?.len() == 0 {
            fs::remove_file(&temporary)?;
            fs::remove_file(&self.path)?;
            return Ok(true);
        }
        fs::rename(&temporary, &self.path)?;
        Ok(false)
    }

    /// Its lines from where it was sent to, each with its end.
    fn lines(&self) -> io::Result<impl Iterator<Item = io::Result<(Vec<u8>, Span)>> + use<>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(self.done))?;
        let mut reader = BufReader::new(file);
        let mut start = self.done;
        Ok(std::iter::from_fn(move || {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => None,
                Ok(length) => {
                    let span = Span { start, length };
                    start += length as u64;
                    Some(Ok((line, span)))
                }
                Err(error) => Some(Err(error)),
            }
        }))
    }
}

/// The message in a line, if it is one that can be sent.
fn readable(line: &[u8]) -> Option<Message> {
    Message::from_line(line).filter(Message::is_sendable)
}
