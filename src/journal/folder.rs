//! Where a run's files are: its spill files, and its record.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::spare::are_used_up;
use crate::{error::Error, fault, message};

/// A spool in the private data directory, for runs whose artifact directories ansible-runner itself will remove
/// (`rotate_artifacts`).
pub(crate) const SHELTER: &str = "nats-spool";

/// The folder of one run: made when it is needed, and the same from then on.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// The run's own folder in the spool (option `spill_dir`).
    spool: Option<PathBuf>,
    /// ansible-runner's artifact directory.
    artifacts: Option<PathBuf>,
    chosen: Mutex<Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    folder: Option<PathBuf>,
    /// The spool cannot be used: said once.
    complaint: Option<Error>,
    is_spool_given_up: bool,
}

impl Folder {
    /// In `spill_dir`, a folder for this run alone; else, or where that cannot be used, the artifact directory.
    pub(crate) fn new(spill_dir: Option<&Path>, artifacts: Option<PathBuf>, ident: &str) -> Self {
        let spool = spill_dir.map(|spool| spool.join(format!("{}-{}", file_name(ident), message::nonce())));
        Self { spool, artifacts, chosen: Mutex::default() }
    }

    /// This folder and no other.
    pub(crate) fn of(folder: Option<PathBuf>) -> Self {
        Self { artifacts: folder, ..Self::default() }
    }

    /// The folder, made if need be.
    pub(crate) fn get(&self) -> io::Result<PathBuf> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &chosen.folder {
            return Ok(folder.clone());
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !chosen.is_spool_given_up) {
            match make(spool) {
                Ok(()) => return Ok(chosen.folder.insert(spool.clone()).clone()),
                Err(source) => {
                    chosen.is_spool_given_up = true;
                    chosen.complaint = Some(Error::Spool { path: spool.clone(), source });
                }
            }
        }
        let Some(artifacts) = &self.artifacts else {
            return Err(io::Error::other("this run has no artifact directory, and spill_dir is not set"));
        };
        make(artifacts)?;
        Ok(chosen.folder.insert(artifacts.clone()).clone())
    }

    /// Where else there may be room: the artifact directory, if the folder is another one.
    pub(crate) fn other(&self) -> Option<PathBuf> {
        let artifacts = self.artifacts.as_ref()?;
        let is_other = self.in_spool().is_some();
        (is_other && make(artifacts).is_ok()).then(|| artifacts.clone())
    }

    /// What is to be said about the spool, once.
    pub(crate) fn complaint(&self) -> Option<Error> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).complaint.take()
    }

    /// The spool.
    pub(crate) fn spool(&self) -> Option<&Path> {
        self.spool.as_deref().and_then(Path::parent)
    }

    /// ansible-runner's artifact directory.
    pub(crate) fn artifacts(&self) -> Option<&Path> {
        self.artifacts.as_deref()
    }

    /// Is it to be in the spool?
    pub(crate) fn is_spool(&self) -> bool {
        self.spool.is_some()
    }

    /// The run's folder in the spool, if that is where its files are.
    pub(crate) fn in_spool(&self) -> Option<PathBuf> {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        chosen.folder.clone().filter(|folder| Some(folder) == self.spool.as_ref())
    }
}

/// ansible-runner makes the artifact directory with this mode, too, and does not mind if it is there.
fn make(folder: &Path) -> io::Result<()> {
    fault::error_at("spill.create")?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // It may be there and belong to somebody else: who cannot write should know now.
    let probe = folder.join(format!(".nats-{}", message::nonce()));
    match std::fs::File::create_new(&probe) {
        Ok(_) => std::fs::remove_file(&probe),
        // That says nothing of the folder; the spare one is for the file itself.
        Err(error) if are_used_up(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An ident as the name of a folder: short, in it, and not hidden.
fn file_name(ident: &str) -> String {
    const LONGEST: usize = 100;
    let safe = |c: char| if c.is_alphanumeric() || "-_.@".contains(c) { c } else { '_' };
    let name: String = message::start_of(ident, LONGEST).chars().map(safe).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn a_folder_a_run_in_the_spool() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |ident: &str| Folder::new(Some(&dir.path().join("spool")), None, ident);
        let (one, other) = (folder("../x y").get().unwrap(), folder("../x y").get().unwrap());
        assert!(one != other && one.is_dir() && other.is_dir());
        assert_eq!(one.parent(), Some(dir.path().join("spool").as_path()));
        assert!(one.file_name().unwrap().to_str().unwrap().starts_with("_x_y-"), "{one:?}");
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_spool_that_cannot_be_used_is_said_once_and_the_artifacts_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let artifacts = dir.path().join("artifacts");
        let folder = Folder::new(Some(&dir.path().join("file/spool")), Some(artifacts.clone()), "i");
        assert_eq!(folder.get().unwrap(), artifacts);
        assert!(folder.complaint().is_some() && folder.complaint().is_none());
        assert_eq!((folder.get().unwrap(), folder.in_spool()), (artifacts, None));
    }

    #[test]
    fn without_a_directory_it_says_so() {
        let error = Folder::of(None).get().unwrap_err().to_string();
        assert!(error.contains("spill_dir is not set"), "{error}");
    }
}
