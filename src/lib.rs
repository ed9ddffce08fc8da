//! Publishes ansible-runner's events and status updates to NATS: the native part of the Python package
//! `ansible_runner_nats`.
//!
//! A message's way: `Emitter` (encode, address) → `Outbox` (ours until confirmed) → `Courier` (thread)
//! → `Session` (one connection) → NATS.

pub mod cli;
pub mod cloudevent;
pub mod config;
pub mod context;
pub mod courier;
pub mod credentials;
pub mod cut;
#[cfg(feature = "python")]
pub mod emitter;
#[cfg(feature = "python")]
pub mod encode;
pub mod error;
pub mod fault;
pub mod json;
pub mod link;
pub mod listen;
pub mod message;
pub mod outbox;
pub mod pool;
pub mod probe;
pub mod process;
pub mod redact;
pub mod report;
pub mod select;
pub mod session;
pub mod spill;
pub mod tls;

/// The Python module `ansible_runner_nats._native`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _native {
    use std::ffi::OsString;

    use pyo3::{exceptions::PyMemoryError, prelude::*, types::PyBytes};

    #[pymodule_export]
    use crate::emitter::{Emitter, forked, last_panic, shut_down};

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    #[expect(clippy::unnecessary_wraps, reason = "the signature that pyo3 wants")]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::report::quiet_panics();
        Ok(())
    }

    /// JSON bytes of any Python object.
    #[pyfunction]
    fn encode<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let mut json = crate::json::Buffer::default();
        crate::encode::encode(value, &mut json, crate::encode::Without::default())
            .map_err(|error| PyMemoryError::new_err(error.to_string()))?;
        Ok(PyBytes::new(value.py(), json.text()))
    }

    /// Runs the console script; returns its exit status.
    #[pyfunction]
    fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
        py.detach(|| crate::cli::main(args))
    }
}
