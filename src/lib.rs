//! Publishes ansible-runner's events and status updates to NATS: the native part of the Python package
//! `ansible_runner_nats`.
//!
//! # The house
//!
//! | room | what it knows |
//! | --- | --- |
//! | `plugin` | what ansible-runner calls: Python's objects become messages. Alone knows pyo3 |
//! | `cli` | the console script, a folder a command. Alone knows clap and terminals |
//! | `nats` | the courier's thread, the driver, what JetStream says. Alone knows async-nats and rustls |
//! | `recovery` | what earlier runs have left, and what of it is missing: for the courier and for `replay` |
//! | `delivery` | the machine that delivers: what is sent when, what an answer proves. No I/O, no clock, no thread |
//! | `runs` | the one source of runs for the commands: messages in, state out. No I/O |
//! | `outbox` | messages that are ours until confirmed. Knows no network |
//! | `journal` | what a run leaves on disk: its record, and messages that could not be delivered. Knows their formats |
//! | `config` | settings, environment and contexts become a `Config`; the one table of options |
//! | `message` | one message: subject, id, headers, payload, what is left out. No I/O, no options |
//! | `report` | what is said to people: notices, counters, the line at the end of a run |
//! | `files` | the guarded way to a file that somebody else may have written |
//! | `harmless` | what a terminal would obey is shown instead |
//! | `secret`, `error`, `fault` | what must not be seen; what can go wrong; failures on demand |
//!
//! A message's way: `plugin::Emitter` (encode, address) → `outbox::Outbox` → `nats::Courier` (thread) → `nats::driver`
//! (one connection, as `delivery::Machine` says) → NATS. There is no way back but the confirmation.
//!
//! **The rule**: arrows only go down. `plugin` and `cli` use `nats` and what is below it, and ignore each other; `nats`
//! uses `recovery` and `delivery`, these `outbox` and `config`, that `journal`; these, and `runs`, use `message`, `report`
//! and `files`; those `harmless`, `secret`, `error`, `fault`. The test `tests/rooms.rs` reads every `use` and holds the code to it.
//!
//! Where a change goes: a new option into `config/options.rs`, an error code of JetStream into `nats/jetstream.rs`, a
//! command into a folder of `cli`.

// Without Python nobody calls what only the plugin uses; the build with Python finds what is dead.
#![cfg_attr(not(feature = "python"), allow(dead_code, unused_imports))]

mod cli;
mod config;
mod delivery;
mod error;
mod fault;
mod files;
mod harmless;
mod journal;
mod message;
mod nats;
mod outbox;
#[cfg(feature = "python")]
mod plugin;
mod recovery;
mod report;
mod runs;
mod secret;

/// For the fuzz targets, and for nobody else.
#[doc(hidden)]
pub mod fuzzing;

/// The Python module `ansible_runner_nats._native`.
#[cfg(feature = "python")]
// Without a GIL a forked child could find our locks taken: a free-threaded interpreter switches it on for us.
#[pyo3::pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::plugin::{
        Emitter, encode_carefully_to_bytes, encode_status_to_bytes, encode_to_bytes, forked, last_panic,
        main, shared_knowledge, shut_down,
    };

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("PACKAGE_VERSION");

    /// What a spool in a private data directory is called.
    #[pymodule_export]
    const SHELTER: &str = crate::journal::SHELTER;

    #[pymodule_init]
    #[expect(clippy::unnecessary_wraps, reason = "the signature that pyo3 wants")]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::report::quiet_panics();
        crate::plugin::keep_reserve();
        Ok(())
    }
}
