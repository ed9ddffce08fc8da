//! Ctrl-C and exit (`KeyboardInterrupt`, `SystemExit`) in Python code that the walk calls, such as a `__str__`: the walk goes
//! on, and whoever called it raises the exception when the message is on its way.

use std::cell::Cell;

use pyo3::{exceptions::PyException, prelude::*};

thread_local! {
    /// The first one since [`take`].
    static NOTED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// What an error means to the walk: nothing is there, or something else is done. But not all errors are about a value.
pub(super) trait Noted<T> {
    /// The value, if there is one. An interrupt is noted.
    fn noted(self) -> Option<T>;
}

impl<T> Noted<T> for PyResult<T> {
    fn noted(self) -> Option<T> {
        self.inspect_err(|error| {
            Python::attach(|py| {
                if !error.is_instance_of::<PyException>(py) {
                    let first = NOTED.take().unwrap_or_else(|| error.clone_ref(py));
                    NOTED.set(Some(first));
                }
            });
        })
        .ok()
    }
}

/// The interrupt that came meanwhile, if any.
pub(in crate::plugin) fn take() -> Option<PyErr> {
    NOTED.take()
}
