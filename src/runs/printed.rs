//! What one event has printed, read without keeping anything of its run.

use std::borrow::Cow;

use serde_json::from_slice;

use super::{Name, name_of, output::printed, payload::Payload, style::without_colors};
use crate::{
    harmless::{is_odd, one_line},
    message::{Received, RunId, Template, moment, split_id},
};

/// An event that prints something.
pub(crate) struct Printed<'a> {
    message: &'a Received,
    payload: Payload<'a>,
}

/// Where an event belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) subject_id: String,
    pub(crate) ident: String,
    /// Of its run, if its messages say so.
    pub(crate) identity: Option<RunId>,
    pub(crate) counter: u64,
    /// The host and the task that it is about, if it is about any.
    pub(crate) host: Option<String>,
    pub(crate) task: Option<String>,
    /// When it was made, as the event has it.
    pub(crate) created: Option<String>,
}

impl<'a> Printed<'a> {
    /// The event in a message; `None` if it is none, or prints nothing.
    pub(crate) fn read(message: &'a Received) -> Option<Self> {
        let payload: Payload<'a> = from_slice(&message.payload).ok()?;
        let prints = payload.counter.is_some() && text_of(&payload).is_some_and(|text| !text.is_empty());
        prints.then_some(Self { message, payload })
    }

    /// Its text without colours, line by line.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        let text = text_of(&self.payload).unwrap_or_default();
        if text.contains(|c| is_odd(c) && c != '\n') { without_colors(text).into() } else { text.into() }
    }

    /// Whose it is, where `template` says where messages are published; `None` if that does not bear out what it says.
    pub(crate) fn origin(&self, template: &Template) -> Option<Origin> {
        let claimed = self.message.id.as_deref().and_then(split_id).map(|(name, _)| name);
        let Name { subject_id, ident, .. } =
            name_of(template, &self.message.subject, claimed, &self.payload)?;
        let data = self.payload.data();
        let named = |name: Option<String>| name.map(|name| one_line(&name)).filter(|name| !name.is_empty());
        Some(Origin {
            subject_id,
            ident,
            identity: self.message.run,
            counter: self.payload.counter?,
            host: named(data.host),
            task: named(data.task),
            created: self.payload.created.as_deref().and_then(moment).map(|(text, _)| text),
        })
    }
}

fn text_of<'a>(payload: &'a Payload<'_>) -> Option<&'a str> {
    printed(payload.stdout.as_deref(), payload.start_line, payload.end_line)
}
