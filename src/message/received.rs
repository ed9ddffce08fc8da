//! A message as a reader gets it.

use std::time::SystemTime;

use bytes::Bytes;

use super::{MSG_ID, SELECTED, TRUNCATED};

/// A message as a reader gets it, live or from a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Where it was published: the server has let its publisher do that, and vouches for nothing else.
    pub(crate) subject: String,
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

impl Received {
    /// With what its headers say.
    pub(crate) fn new(
        subject: String,
        payload: Bytes,
        stored: Option<SystemTime>,
        header: impl Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            subject,
            id: header(MSG_ID),
            selected: header(SELECTED).is_some(),
            cut: header(TRUNCATED).is_some(),
            payload,
            stored,
        }
    }
}
