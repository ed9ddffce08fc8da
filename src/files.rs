//! The guarded way to a file that somebody else may have written: in a spool of several users, or in artifacts that a
//! container had mounted.
//!
//! A run's folder is opened first, and what is in it from there, name by name: no link leads somewhere else, whatever is put
//! in a name's place meanwhile. What is opened is a plain file of somebody whom we trust and nothing else: no FIFO keeps us
//! waiting, no device goes on for ever. What is read has a bound.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path},
    time::SystemTime,
};

use rustix::fs::{CWD, Mode, OFlags, openat};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To be read.
    Read,
    /// To be read, and locked by whoever will remove it.
    Take,
    /// To be written at its end; it is made if need be.
    Append,
}

impl Use {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Take => OFlags::RDWR | OFlags::APPEND,
            Self::Append => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        }
    }
}

/// The folder of a run.
#[derive(Debug)]
pub(crate) struct Guarded {
    folder: OwnedFd,
    /// Whose files we open: those of whoever the folder belongs to, who is one of these.
    owners: [u32; 3],
}

impl Guarded {
    /// Opens a folder, which is not a link, and belongs to this process's user, to root, or to whoever the folder around it
    /// belongs to (which the user has named, and trusts).
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let around = folder.join("..");
        let around = fs::metadata(around)?.uid();
        let owners = [0, rustix::process::geteuid().as_raw(), around];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let guarded = Self { folder: openat(CWD, folder, flags, Mode::empty())?, owners };
        guarded.check_owner(&File::from(guarded.folder.try_clone()?).metadata()?)?;
        Ok(guarded)
    }

    fn check_owner(&self, about: &Metadata) -> io::Result<()> {
        if self.owners.contains(&about.uid()) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"))
    }

    /// Opens a plain file in the folder, or in one below it.
    pub(crate) fn file(&self, name: &Path, wish: Use) -> io::Result<File> {
        let always = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut around: Option<OwnedFd> = None;
        let mut names = name.components().peekable();
        while let Some(component) = names.next() {
            let Component::Normal(component) = component else { break };
            let folder = around.as_ref().unwrap_or(&self.folder);
            if names.peek().is_some() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | always;
                around = Some(openat(folder, component, flags, Mode::empty())?);
                continue;
            }
            let flags = wish.flags() | OFlags::NONBLOCK | OFlags::NOCTTY | always;
            let file = File::from(openat(folder, component, flags, Mode::RUSR | Mode::WUSR)?);
            let about = file.metadata()?;
            if !about.is_file() {
                return Err(io::Error::other("not a plain file"));
            }
            self.check_owner(&about)?;
            return Ok(file);
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// When a plain file was written.
    pub(crate) fn written(&self, name: &Path) -> io::Result<SystemTime> {
        self.file(name, Use::Read)?.metadata()?.modified()
    }

    /// The content of a plain file, if it has no more than so many bytes.
    pub(crate) fn read(&self, name: &Path, most: u64) -> io::Result<Vec<u8>> {
        read_open(&self.file(name, Use::Read)?, most)
    }
}

/// Opens a plain file by the way over its folder.
pub(crate) fn open(path: &Path, wish: Use) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Guarded::open(folder)?.file(Path::new(path.file_name().unwrap_or_default()), wish)
}

/// The content of a plain file, if it has no more than so many bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path, Use::Read)?, most)
}

/// The same of a file that is open already, from where it is.
pub(crate) fn read_open(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(content)
}

/// Puts a file with this content in the place of whatever was there; nothing is written through a link. `prepare` has it
/// before anybody else can see it.
pub(crate) fn replace(path: &Path, content: &[u8], prepare: impl FnOnce(&File)) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    let temporary = path.with_file_name(format!(".{name}.{number:016x}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    prepare(&file);
    let written = file.write_all(content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| file)
}

/// Is it a folder, and not a link to one?
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// Does it belong to this process's user, or to root?
pub(crate) fn is_ours(about: &Metadata) -> bool {
    about.uid() == 0 || about.uid() == rustix::process::geteuid().as_raw()
}

/// Is its group this process's own?
pub(crate) fn is_of_our_group(about: &Metadata) -> bool {
    about.gid() == rustix::process::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_files_are_read_and_nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        for path in [&link, &fifo, &dir.path().to_owned(), &"/dev/zero".into()] {
            assert!(read(path, 100).is_err(), "{path:?}");
        }
        assert!(open(&link, Use::Append).is_err());
        assert_eq!(read(&victim, 8).unwrap(), b"precious");
        assert!(read(&victim, 7).is_err());
        replace(&link, b"new", |_| {}).unwrap();
        assert_eq!(
            (read(&victim, 8).unwrap(), read(&link, 8).unwrap()),
            (b"precious".to_vec(), b"new".to_vec())
        );
        assert!(!is_folder(&link) && is_folder(dir.path()));
        assert!(is_ours(&fs::metadata(&victim).unwrap()));
    }

    #[test]
    fn no_link_at_any_step_below_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (run, elsewhere) = (dir.path().join("run"), dir.path().join("elsewhere"));
        for folder in [&run, &elsewhere] {
            fs::create_dir_all(folder.join("job_events")).unwrap();
            fs::write(folder.join("job_events/1.json"), "x").unwrap();
        }
        let name = Path::new("job_events/1.json");
        assert_eq!(Guarded::open(&run).unwrap().read(name, 9).unwrap(), b"x");
        let link = dir.path().join("link");
        symlink(&run, &link).unwrap();
        assert!(Guarded::open(&link).is_err());
        fs::remove_dir_all(run.join("job_events")).unwrap();
        symlink(elsewhere.join("job_events"), run.join("job_events")).unwrap();
        assert!(Guarded::open(&run).unwrap().read(name, 9).is_err());
        for odd in ["..", "/etc/passwd", "../elsewhere/job_events/1.json", ""] {
            assert!(Guarded::open(&run).unwrap().read(Path::new(odd), 9999).is_err(), "{odd}");
        }
    }
}
