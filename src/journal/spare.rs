//! A descriptor for the file that must be written when there are no others.

use std::{
    fs::File,
    io,
    sync::{Mutex, PoisonError},
};

/// Given up when there is no other: the job or we ourselves (the connection, records) may have used them up.
static SPARE: Mutex<Option<File>> = Mutex::new(None);

/// A run begins: there shall be a spare descriptor.
pub(crate) fn keep_spare() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.is_none() {
        *spare = File::open("/dev/null").ok();
    }
}

/// Opens a file, with the spare descriptor if need be.
pub(crate) fn with_spare(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    match open() {
        Err(error) if are_used_up(&error) => {
            let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).take();
            if spare.is_none() {
                return Err(error);
            }
            drop(spare);
            open()
        }
        opened => opened,
    }
}

/// Are there no descriptors left?
pub(crate) fn are_used_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
