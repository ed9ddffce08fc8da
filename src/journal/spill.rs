//! A run's messages on disk, when memory or time runs out.
//!
//! Two files, one format (a [`Message::to_line`] each line): `nats-overflow.jsonl` takes what does not fit
//! into memory while the run goes on, and is read back in order; `nats-undelivered.jsonl` keeps what could
//! not be delivered when the run ended. Both have mode 0600 and are created exclusively: a symbolic link or
//! another run's file of that name is never written to, the next free name is taken instead.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    folder::Folder,
    progress::{note_progress, progress},
    spare::with_spare,
};
use crate::{
    error::Error,
    fault,
    files::{self, Use},
    message::{self, Message, buffer::can_have},
};

/// The spill files of one run.
#[derive(Debug)]
pub(crate) struct Spill {
    folder: Arc<Folder>,
    overflow: Option<Overflow>,
    undelivered: Option<Lines>,
    /// Files that there was no more room for.
    full: Vec<PathBuf>,
}

#[derive(Debug)]
struct Overflow {
    lines: Lines,
    reader: BufReader<Tail>,
    /// Lines written and not yet read back.
    unread: u64,
    /// Of these, what is to stay: it found no other place.
    kept: u64,
}

/// A file that lines are appended to.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
}

/// What [`Spill::close`] left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// The files that hold messages.
    pub files: Vec<PathBuf>,
    /// What went wrong on the way.
    pub error: Option<Error>,
}

impl Spill {
    /// Files will be made in the folder when they are needed.
    pub(crate) fn new(folder: Arc<Folder>) -> Self {
        Self { folder, overflow: None, undelivered: None, full: Vec::new() }
    }

    /// How many messages are on disk that come before any new one.
    pub(crate) fn unread(&self) -> u64 {
        self.overflow.as_ref().map_or(0, |overflow| overflow.unread)
    }

    /// Appends a message that does not fit into memory.
    pub(crate) fn push(&mut self, message: &Message) -> Result<(), Error> {
        let overflow = match &mut self.overflow {
            Some(overflow) => overflow,
            None => {
                let lines = Lines::create(&self.folder, OVERFLOW)?;
                let reader = lines.reader();
                self.overflow.insert(Overflow { lines, reader, unread: 0, kept: 0 })
            }
        };
        overflow.lines.append(message)?;
        overflow.unread += 1;
        Ok(())
    }

    /// Reads the oldest messages back, up to about `bytes` of memory. A damaged line is an error, and skipped;
    /// so is the rest of a file that cannot be read.
    pub(crate) fn pull(&mut self, bytes: usize) -> (Vec<Message>, Option<Error>) {
        let Some(overflow) = &mut self.overflow else { return (Vec::new(), None) };
        let mut messages = Vec::new();
        let mut error = None;
        let mut taken = 0;
        let mut line = Vec::new();
        while taken < bytes && overflow.unread > 0 {
            line.clear();
            match overflow.reader.read_until(b'\n', &mut line) {
                Ok(0) => {
                    error = Some(overflow.lines.error(io::ErrorKind::UnexpectedEof.into()));
                    overflow.unread = 0;
                }
                Ok(_) => {
                    overflow.unread -= 1;
                    match Message::from_line(&line) {
                        Some(message) => {
                            taken += message.size();
                            messages.push(message);
                        }
                        None => error = Some(overflow.lines.error(io::ErrorKind::InvalidData.into())),
                    }
                }
                Err(source) => {
                    error = Some(overflow.lines.error(source));
                    overflow.unread = 0;
                }
            }
        }
        if overflow.unread == 0 {
            // All of it is in memory again: the file has had its use. A damaged one is left to the user.
            if let Some(Overflow { lines, .. }) = self.overflow.take().filter(|_| error.is_none()) {
                let _ = std::fs::remove_file(&lines.path);
            }
        }
        (messages, error)
    }

    /// Keeps a message that will not be delivered by this run. A spool that is full is no reason to lose it: there may be
    /// room beside the artifacts.
    pub(crate) fn keep(&mut self, message: &Message) -> Result<(), Error> {
        let Err(error) = self.keep_there(message) else { return Ok(()) };
        let Some(other) = self.folder.other() else { return Err(error) };
        let kept = Lines::create_in(&other, UNDELIVERED).and_then(|mut lines| {
            lines.append(message)?;
            Ok(lines)
        });
        let Ok(lines) = kept else { return Err(error) };
        let full = self.undelivered.replace(lines);
        self.full.extend(full.and_then(Lines::unless_empty));
        Ok(())
    }

    fn keep_there(&mut self, message: &Message) -> Result<(), Error> {
        if let Some(lines) = &mut self.undelivered {
            return lines.append(message);
        }
        match (Lines::create(&self.folder, UNDELIVERED), &mut self.overflow) {
            (Ok(lines), _) => self.undelivered.insert(lines).append(message),
            // Where no other file can be had, this one is better than none.
            (Err(_), Some(overflow)) => {
                overflow.lines.append(message)?;
                overflow.unread += 1;
                overflow.kept += 1;
                Ok(())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The end of the run: what overflowed and was not read back is undelivered, too. Returns how many messages that were,
    /// and what is left on disk, where it stays when the power fails.
    pub(crate) fn close(&mut self) -> (u64, Leftovers) {
        let mut leftovers = Leftovers { files: std::mem::take(&mut self.full), error: None };
        let mut moved = 0;
        let overflow = self.overflow.take().map(|mut overflow| {
            moved = overflow.unread.saturating_sub(overflow.kept);
            let joined = self.join(&mut overflow);
            (overflow.lines, joined)
        });
        if let Some(lines) = self.undelivered.take() {
            leftovers.error = lines.file.sync_all().err().map(|source| lines.error(source));
            leftovers.files.extend(lines.unless_empty());
        }
        match overflow {
            Some((lines, Ok(true))) => drop(std::fs::remove_file(&lines.path)),
            // They stay in that file, in the same format.
            Some((lines, Ok(false))) => {
                let failed = lines.file.sync_all().err().map(|source| lines.error(source));
                leftovers.error = leftovers.error.or(failed);
                leftovers.files.push(lines.path);
            }
            Some((lines, Err(error))) => {
                leftovers.error = Some(error);
                leftovers.files.push(lines.path);
            }
            None => {}
        }
        for folder in leftovers.files.iter().filter_map(|file| file.parent()).collect::<HashSet<_>>() {
            // The names, too. Not all file systems can.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        (moved, leftovers)
    }

    /// Little that overflowed is copied behind what else is undelivered: then `true`. Much of it gets a name of its own,
    /// which is quick, and takes no more room.
    fn join(&mut self, overflow: &mut Overflow) -> Result<bool, Error> {
        const LITTLE: u64 = 4 << 20;
        if overflow.unread == 0 {
            return Ok(true);
        }
        let read = overflow.reader.get_ref().at - overflow.reader.buffer().len() as u64;
        let name = |overflow: &mut Overflow| {
            let named = overflow.lines.rename(UNDELIVERED);
            // What is before that was read back, and is confirmed or kept elsewhere.
            let noted = note_progress(&overflow.lines.path, &overflow.lines.file, read);
            named?;
            noted.map_err(|source| overflow.lines.error(source))?;
            Ok(false)
        };
        if overflow.lines.length - read > LITTLE {
            return name(overflow);
        }
        let (folder, undelivered) = (&self.folder, &mut self.undelivered);
        let copied = match undelivered {
            Some(lines) => Ok(lines),
            None => Lines::create(folder, UNDELIVERED).map(|lines| undelivered.insert(lines)),
        }
        .and_then(|lines| {
            let copied = io::copy(&mut overflow.reader, &mut &*lines.file);
            lines.settle(copied)
        });
        match copied {
            Ok(()) => Ok(true),
            // There is no room for a second copy.
            Err(_) => name(overflow),
        }
    }
}

/// The spill files in a folder, the oldest first.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let is_spill = |name: &str| {
        let stem = name.strip_suffix(".jsonl").unwrap_or_default();
        [OVERFLOW, UNDELIVERED].into_iter().any(|known| {
            stem.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_spill))
        .map(|entry| entry.path())
        .filter(|path| std::fs::symlink_metadata(path).is_ok_and(|about| about.is_file()))
        .collect();
    files.sort_by_cached_key(|path| age_of(path));
    files
}

/// What sorts the files of one run as it has written them: by number, and of one number what was held at the end before
/// what had overflowed.
fn age_of(path: &Path) -> (u64, bool, PathBuf) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    (number, name.starts_with(OVERFLOW), path.to_owned())
}

/// How many lines a file has that were not sent yet, as far as it can be read.
pub(crate) fn count_lines(path: &Path) -> u64 {
    let Ok(mut file) = files::open(path, Use::Read) else { return 0 };
    let sent = progress(path, &file);
    if file.seek(SeekFrom::Start(sent)).is_err() {
        return 0;
    }
    // In pieces: a line may have any length.
    let (mut reader, mut count, mut is_open) = (BufReader::new(file), 0, false);
    while let Ok(piece) = reader.fill_buf() {
        let Some(last) = piece.last() else { break };
        is_open = *last != b'\n';
        count += piece.split(|byte| *byte == b'\n').skip(1).count() as u64;
        let length = piece.len();
        reader.consume(length);
    }
    count + u64::from(is_open)
}

/// Where lines of a spill file go that are no messages.
pub(crate) const DAMAGED: &str = "nats-damaged.jsonl";

const OVERFLOW: &str = "nats-overflow";
const UNDELIVERED: &str = "nats-undelivered";

/// The names that a file may have, in the order in which they are tried: many runs may share a directory.
fn names<'a>(dir: &'a Path, stem: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    /// After so many, a name of its own.
    const NUMBERED: u32 = 100;
    (0..2 * NUMBERED).map(move |number| {
        dir.join(match number {
            0 => format!("{stem}.jsonl"),
            1..NUMBERED => format!("{stem}.{number}.jsonl"),
            _ => format!("{stem}.{}.jsonl", message::nonce()),
        })
    })
}

impl Lines {
    fn create(folder: &Folder, stem: &str) -> Result<Self, Error> {
        let dir =
            folder.get().map_err(|source| Error::Spill { path: format!("{stem}.jsonl").into(), source })?;
        Self::create_in(&dir, stem)
    }

    fn create_in(dir: &Path, stem: &str) -> Result<Self, Error> {
        for path in names(dir, stem) {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create_new(true).mode(0o600);
            match with_spare(|| options.open(&path)) {
                Ok(file) => {
                    // For whoever wants to replay it: it is still being written. Not all file systems can.
                    let _ = file.try_lock();
                    return Ok(Self { path, file: Arc::new(file), length: 0 });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Spill { path, source }),
            }
        }
        Err(Error::Spill { path: dir.to_owned(), source: io::ErrorKind::AlreadyExists.into() })
    }

    /// Gives the file another name, which nobody has; returns it.
    fn rename(&mut self, stem: &str) -> Result<PathBuf, Error> {
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        for path in names(&dir, stem) {
            // Unlike a rename it fails where there is something.
            match std::fs::hard_link(&self.path, &path) {
                Ok(()) => {
                    let _ = std::fs::remove_file(&self.path);
                    self.path.clone_from(&path);
                    return Ok(path);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(self.error(source)),
            }
        }
        Err(self.error(io::ErrorKind::AlreadyExists.into()))
    }

    /// The file's path; one without a line goes instead.
    fn unless_empty(self) -> Option<PathBuf> {
        if self.length > 0 {
            return Some(self.path);
        }
        let _ = std::fs::remove_file(&self.path);
        None
    }

    /// Reads the same file, whatever somebody may have put in the place of its name.
    fn reader(&self) -> BufReader<Tail> {
        BufReader::new(Tail { file: Arc::clone(&self.file), at: 0 })
    }

    fn append(&mut self, message: &Message) -> Result<(), Error> {
        /// A larger message is written piece by piece.
        const BUFFER: usize = 64 << 10;
        let written = fault::error_at("spill.write").and_then(|()| {
            let mut out = BufWriter::with_capacity(affordable(BUFFER.min(2 * message.size())), &*self.file);
            message.write_line(&mut out)?;
            out.flush()?;
            Ok(self.file.metadata()?.len() - self.length)
        });
        self.settle(written)
    }

    /// Counts what was written; after an error (disk full) takes back the half line.
    fn settle(&mut self, written: io::Result<u64>) -> Result<(), Error> {
        match written {
            Ok(bytes) => {
                self.length += bytes;
                Ok(())
            }
            Err(source) => {
                let _ = self.file.set_len(self.length);
                let _ = (&*self.file).seek(SeekFrom::End(0));
                Err(self.error(source))
            }
        }
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Spill { path: self.path.clone(), source }
    }
}

/// Memory is what there is none of when most is written here: without it, more slowly.
fn affordable(size: usize) -> usize {
    if can_have(size) { size } else { 0 }
}

/// Reads a file that is being appended to, at a position of its own.
#[derive(Debug)]
struct Tail {
    file: Arc<File>,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn spill_in(dir: &Path) -> Spill {
        Spill::new(Arc::new(Folder::of(Some(dir.to_owned()))))
    }

    fn message(n: u32) -> Message {
        Message::alone("s", Vec::new(), &n.to_string(), format!("{{\"n\":{n}}}"))
    }

    fn ids(messages: &[Message]) -> Vec<u32> {
        messages.iter().map(|message| message.id().parse().unwrap()).collect()
    }

    fn lines(path: &Path) -> Vec<Message> {
        let text = std::fs::read(path).unwrap();
        text.split_inclusive(|b| *b == b'\n').map(|line| Message::from_line(line).unwrap()).collect()
    }

    #[test]
    fn overflow_comes_back_in_order_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = spill_in(dir.path());
        assert!(spill.unread() == 0);
        for n in 0..10 {
            spill.push(&message(n)).unwrap();
        }
        let (first, error) = spill.pull(1);
        assert!(error.is_none() && spill.unread() > 0);
        spill.push(&message(10)).unwrap();
        let (rest, _) = spill.pull(usize::MAX);
        assert_eq!([ids(&first), ids(&rest)].concat(), (0..11).collect::<Vec<_>>());
        assert!(spill.unread() == 0);
        assert!(spill.close().1.files.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn at_the_end_one_private_file_holds_all_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("made/on/demand");
        let mut spill = spill_in(&target);
        for n in 2..6 {
            spill.push(&message(n)).unwrap();
        }
        let (pulled, _) = spill.pull(1);
        for old in [message(0), message(1)].iter().chain(&pulled) {
            spill.keep(old).unwrap();
        }
        let (moved, leftovers) = spill.close();
        assert_eq!((moved, &leftovers.files), (3, &vec![target.join("nats-undelivered.jsonl")]));
        assert_eq!(ids(&lines(&leftovers.files[0])), [0, 1, 2, 3, 4, 5]);
        assert_eq!(std::fs::metadata(&leftovers.files[0]).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);
    }

    #[test]
    fn neither_links_nor_the_files_of_others_are_touched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join("nats-undelivered.jsonl")).unwrap();
        let mut spill = spill_in(dir.path());
        spill.keep(&message(1)).unwrap();
        assert_eq!(spill.close().1.files, [dir.path().join("nats-undelivered.1.jsonl")]);
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn any_number_of_runs_may_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..10_000 {
            let name = if number == 0 { String::new() } else { format!(".{number}") };
            File::create(dir.path().join(format!("nats-undelivered{name}.jsonl"))).unwrap();
        }
        let mut spill = spill_in(dir.path());
        spill.keep(&message(1)).unwrap();
        assert_eq!(ids(&lines(&spill.close().1.files[0])), [1]);
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        // /dev/full answers every write as a full disk does.
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut lines = Lines { path: "/dev/full".into(), file: Arc::new(file), length: 0 };
        let error = lines.append(&message(1)).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(lines.length, 0);
    }
}
