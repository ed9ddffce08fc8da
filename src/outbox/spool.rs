//! A spool (option `spill_dir`), and what in it is for us to send.

use std::path::{Path, PathBuf};

use super::record::Identity;
use crate::message::Template;

/// A spool, and whose messages we send from it.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    pub(super) path: PathBuf,
    /// Subject ids and templates of our runs: what these could not have made is not for us to send.
    ours: Vec<(String, Template)>,
}

impl Spool {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), ours: Vec::new() }
    }

    /// A run of ours uses it.
    pub(super) fn learn(&mut self, run: &Identity) {
        /// A service may have a subject id a tenant; the last ones must do.
        const MOST: usize = 1_000;
        let one = (run.subject_id.clone(), run.template.clone());
        if !self.ours.contains(&one) {
            self.ours.truncate(MOST - 1);
            self.ours.insert(0, one);
        }
    }

    /// Is this the subject id of a run of ours?
    pub(super) fn knows(&self, subject_id: &str) -> bool {
        self.ours.iter().any(|(known, _)| known == subject_id)
    }

    /// Could a run of ours have published to this subject?
    pub(super) fn makes(&self, subject: &str) -> bool {
        self.ours.iter().any(|(subject_id, template)| template.makes(subject_id, subject))
    }
}
