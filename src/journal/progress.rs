//! How far a spill file was sent: in a file beside it, which holds for that very file and for none that is put in its
//! place.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::files;

/// Where it stands how far a file was sent.
fn progress_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.sent"))
}

/// Up to here all of the file is confirmed, in bytes.
pub(crate) fn progress(path: &Path, file: &File) -> u64 {
    let read = || {
        let text = files::read(&progress_of(path), 100).ok()?;
        let (done, inode) = std::str::from_utf8(&text).ok()?.trim().split_once(' ')?;
        let about = file.metadata().ok()?;
        let is_it = inode.parse() == Ok(about.ino());
        is_it.then(|| done.parse().ok()).flatten().map(|done: u64| done.min(about.len()))
    };
    read().unwrap_or(0)
}

/// All before here is confirmed: whoever takes the file up after us begins here.
pub(crate) fn note_progress(path: &Path, file: &File, done: u64) -> io::Result<()> {
    let inode = file.metadata()?.ino();
    files::replace(&progress_of(path), format!("{done} {inode}").as_bytes(), |_| {}).map(drop)
}

/// Begins anew.
pub(crate) fn forget_progress(path: &Path) {
    let _ = fs::remove_file(progress_of(path));
}

/// Does the name still lead to this file? Whoever had it before us may have sent and removed it while we waited for its
/// lock.
pub(crate) fn is_still(path: &Path, file: &File) -> bool {
    let is_it = || {
        let (named, open) = (fs::symlink_metadata(path).ok()?, file.metadata().ok()?);
        Some((named.dev(), named.ino()) == (open.dev(), open.ino()))
    };
    is_it().unwrap_or(false)
}
