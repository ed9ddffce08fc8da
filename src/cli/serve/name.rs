//! How a run is named in an address.

use serde::Deserialize;

use super::url::{in_url, with_query};
use crate::{message::to_millis, runs::Run};

/// Which run is meant, as a path says it: the last one of a name, unless its id is there, too.
#[derive(Debug, Deserialize)]
pub(super) struct Name {
    subject_id: String,
    pub(super) ident: String,
    #[serde(default)]
    pub(super) run_id: Option<String>,
}

impl Name {
    /// As the run has it.
    pub(super) fn subject_id(&self) -> &str {
        if self.subject_id == "-" { "" } else { &self.subject_id }
    }
}

/// The address of a run's page, by its identity or, of one without, by when it began: what a link leads to must not become
/// another run when the ident is used again.
pub(in crate::cli) fn address_of(run: &Run) -> String {
    let id = run_id(run).map(|id| format!("/{}", in_url(&id))).unwrap_or_default();
    format!("{}{id}", name_address(run))
}

/// The address of the last run of that name.
pub(super) fn name_address(run: &Run) -> String {
    let subject_id = if run.subject_id.is_empty() { "-" } else { &run.subject_id };
    format!("/runs/{}/{}", in_url(subject_id), in_url(&run.ident))
}

/// Where a run's page has the line of an event.
pub(super) fn line_address(address: &str, counter: u64) -> String {
    format!("{address}?line={counter}#e{counter}")
}

/// Where a run's page has what is about a host.
pub(super) fn of_host(address: &str, host: &str) -> String {
    with_query(address, &[("q", &format!("host:{host}"))]) + "#output"
}

/// What tells a run from others of its name.
pub(super) fn run_id(run: &Run) -> Option<String> {
    run.identity.map(|identity| identity.to_string()).or_else(|| run.started.map(to_millis))
}
