//! A message as a reader gets it.

use std::time::SystemTime;

use bytes::Bytes;

use super::{CARD, MARKER, MSG_ID, RUN, RunId, SELECTED, TIME, TRUNCATED, moment};

/// A message as a reader gets it, live or from a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Where it was published: the server has let its publisher do that, and vouches for nothing else.
    pub(crate) subject: String,
    /// Its header `Nats-Msg-Id`.
    pub(crate) id: Option<String>,
    /// Its run's identity ([`super::RUN`]).
    pub(crate) run: Option<RunId>,
    /// When it was said ([`super::TIME`]).
    pub(crate) said: Option<SystemTime>,
    /// Who runs what where ([`super::CARD`]).
    pub(crate) card: Option<String>,
    /// The stream itself has put it in the place of a message whose time was over ([`super::MARKER`]).
    pub(crate) is_marker: bool,
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
            run: header(RUN).as_deref().and_then(RunId::parse),
            said: header(TIME).and_then(|text| moment(&text)).map(|(_, said)| said),
            card: header(CARD),
            is_marker: header(MARKER).as_deref() == Some("MaxAge"),
            selected: header(SELECTED).is_some(),
            cut: header(TRUNCATED).is_some(),
            payload,
            stored,
        }
    }
}
