//! What ansible-runner calls, and what Python sees: the only room that knows pyo3.

mod card;
mod channel;
mod emitter;
mod encode;
mod process;
mod settings;

use std::{
    ffi::OsString,
    sync::{Mutex, PoisonError},
};

use pyo3::{
    exceptions::PyMemoryError,
    prelude::*,
    types::{PyBytes, PyDict},
};

pub(crate) use self::{emitter::Emitter, process::keep_reserve};
use self::{
    emitter::{LogLine, unless_interrupted},
    process::{Inside, Process},
};
use crate::{
    cli,
    error::Error,
    message::{Kind, Omit, Redaction, Sieve, buffer::Buffer},
    report,
};

/// JSON bytes of any Python object.
#[pyfunction(name = "encode")]
pub(crate) fn encode_to_bytes<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    to_bytes(value, Sieve::default(), encode::encode)
}

/// The same by the careful walk alone.
#[pyfunction(name = "encode_carefully")]
pub(crate) fn encode_carefully_to_bytes<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    to_bytes(value, Sieve::default(), encode::encode_carefully)
}

/// The same of a status, with what the environment and the command line have of secrets masked.
#[pyfunction(name = "encode_status")]
pub(crate) fn encode_status_to_bytes<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let (omit, redaction) = (Omit::default(), Redaction::default());
    to_bytes(value, Sieve::new(Kind::Status, &omit, &redaction), encode::encode)
}

fn to_bytes<'py>(
    value: &Bound<'py, PyAny>,
    sieve: Sieve<'_>,
    encode: impl Fn(&Bound<'py, PyAny>, &mut Buffer, Sieve<'_>) -> Result<(), Error>,
) -> PyResult<Bound<'py, PyBytes>> {
    /// As for a message, the memory is used again.
    static SPARE: Mutex<Option<Buffer>> = Mutex::new(None);
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut json = spare().take().unwrap_or_default();
    let encoded = encode(value, &mut json, sieve);
    let bytes = PyBytes::new(value.py(), json.text());
    json.clear();
    *spare() = Some(json);
    if let Some(interrupt) = encode::interrupt::take() {
        return Err(interrupt);
    }
    encoded.map(|()| bytes).map_err(|error| PyMemoryError::new_err(error.to_string()))
}

/// To be called in a forked child, before anything else of ours (`os.register_at_fork`).
#[pyfunction]
pub(crate) fn forked() {
    process::forked();
}

/// Where the last panic of this library happened, for a bug report.
#[pyfunction]
pub(crate) fn last_panic() -> String {
    report::last_panic()
}

/// Ends every run of this process that did not end by itself: see [`Process::shut_down`].
#[pyfunction]
pub(crate) fn shut_down(py: Python<'_>) -> Vec<LogLine> {
    // Whoever interrupts this wants to leave, and the process is about to: nothing more to raise.
    py.detach(Inside::wait_for_all);
    let (notices, _) = unless_interrupted(py, |interrupted| Process::current().shut_down(interrupted));
    notices.into_iter().map(|notice| (notice.level as u8, notice.text)).collect()
}

/// Runs the console script; returns its exit status.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| cli::main(args, cli::Readers { settings: settings::of_folder, given: settings::given_in }))
}

/// What the Python shim has to know before it may load this library, for the test that holds the two together: the
/// words that mean true, the states that end a run, and whether a setting of this value enables the plugin.
#[pyfunction]
pub(crate) fn shared_knowledge<'py>(
    py: Python<'py>,
    subject_id: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let known = PyDict::new(py);
    known.set_item("true", crate::config::TRUE)?;
    known.set_item("end_states", crate::message::END_STATES)?;
    known.set_item("enables", settings::enables(subject_id))?;
    Ok(known)
}
