//! A message as a reader gets it.

use std::time::SystemTime;

use bytes::Bytes;

/// A message as a reader gets it, live or from a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Its header `Nats-Msg-Id`.
    pub(crate) id: Option<String>,
    /// Its run publishes only some of its events ([`super::SELECTED`]).
    pub(crate) selected: bool,
    /// It was cut to fit ([`super::TRUNCATED`]).
    pub(crate) cut: bool,
    /// JSON, if it is one of ours.
    pub(crate) payload: Bytes,
    /// When a stream has stored it.
    pub(crate) stored: Option<SystemTime>,
}
