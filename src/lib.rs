//! Publishes ansible-runner's events and status updates to NATS: the native part of the Python package
//! `ansible_runner_nats`.
//!
//! A message's way: `Emitter` (encode, address) → `Outbox` (ours until confirmed) → `Courier` (thread)
//! → `Session` (one connection) → NATS.

pub mod cli;
pub mod config;
pub mod courier;
#[cfg(feature = "python")]
pub mod emitter;
#[cfg(feature = "python")]
pub mod encode;
pub mod error;
pub mod message;
pub mod outbox;
pub mod pool;
pub mod process;
pub mod report;
pub mod session;
pub mod spill;

/// The Python module `ansible_runner_nats._native`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _native {
    use std::ffi::OsString;

    use pyo3::{prelude::*, types::PyBytes};

    #[pymodule_export]
    use crate::emitter::{Emitter, shut_down};

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// JSON bytes of any Python object.
    #[pyfunction]
    fn encode<'py>(value: &Bound<'py, PyAny>) -> Bound<'py, PyBytes> {
        let mut json = Vec::new();
        crate::encode::encode(value, &mut json);
        PyBytes::new(value.py(), &json)
    }

    /// Runs the console script; returns its exit status.
    #[pyfunction]
    fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
        py.detach(|| crate::cli::main(args))
    }
}
