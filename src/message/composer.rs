//! The only constructor of messages: for the live run and for `replay`.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Kind, Message,
    cloudevent::CloudEvent,
    id::{Id, lengthen_id, message_id},
    subject::Template,
};

/// Makes the messages of one run.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    subject_id: String,
    template: Template,
    headers: Arc<[(String, String)]>,
    cloudevents: bool,
    /// The run's ident, and what belongs to it.
    ident: String,
    event: Arc<str>,
    status: Arc<str>,
    /// Subjects of events by name, if the template has `{name}`.
    named: HashMap<String, Arc<str>>,
    /// What all message ids of this ident begin with.
    id: Arc<str>,
    /// Memory for what is one message's own.
    own_id: String,
}

/// What one message is about.
#[derive(Debug)]
pub(crate) struct About<'a> {
    /// Event or status.
    pub(crate) kind: Kind,
    /// The event's name, or the status.
    pub(crate) name: &'a str,
    /// What tells this message from all others of the ident, the same each time it is sent.
    pub(crate) own_id: &'a [&'a str],
    /// When the event was, as ansible-runner writes it.
    pub(crate) created: Option<&'a str>,
}

impl Composer {
    /// For runs of `subject_id`, whose ident is `unknown` so far.
    pub(crate) fn new(
        subject_id: &str,
        template: Template,
        headers: Arc<[(String, String)]>,
        cloudevents: bool,
    ) -> Self {
        let mut composer = Self {
            subject_id: subject_id.to_owned(),
            template,
            headers,
            cloudevents,
            ident: String::new(),
            event: Arc::from(""),
            status: Arc::from(""),
            named: HashMap::new(),
            id: Arc::from(""),
            own_id: String::new(),
        };
        composer.address("unknown");
        composer
    }

    /// From now on messages are about `ident`.
    pub(crate) fn address(&mut self, ident: &str) {
        if ident == self.ident {
            return;
        }
        ident.clone_into(&mut self.ident);
        self.event = self.subject(Kind::Event, "");
        self.status = self.subject(Kind::Status, "");
        self.named.clear();
        self.id = message_id(&[&self.subject_id, ident]).into();
    }

    /// Whom messages are about.
    pub(crate) fn ident(&self) -> &str {
        &self.ident
    }

    /// The message, with `payload`.
    pub(crate) fn message(&mut self, about: &About<'_>, payload: Bytes) -> Message {
        self.own_id.clear();
        lengthen_id(&mut self.own_id, about.own_id);
        let id = Id::new(&self.id, &self.own_id);
        let headers = if self.cloudevents {
            CloudEvent {
                subject_id: &self.subject_id,
                ident: &self.ident,
                kind: about.kind,
                name: about.name,
                id: &id.to_text(),
            }
            .headers(&self.headers, about.created)
        } else {
            Arc::clone(&self.headers)
        };
        Message { subject: self.subject_of(about.kind, about.name), headers, id, payload }
    }

    fn subject_of(&mut self, kind: Kind, name: &str) -> Arc<str> {
        /// ansible-runner has about fifty short ones; others could make up new ones for ever.
        const MOST: usize = 200;
        const LONGEST: usize = 256;
        if !self.template.has_name() {
            return match kind {
                Kind::Event => Arc::clone(&self.event),
                Kind::Status => Arc::clone(&self.status),
                Kind::Heartbeat => self.subject(kind, name),
            };
        }
        if let Some(known) = self.named.get(name).filter(|_| kind == Kind::Event) {
            return Arc::clone(known);
        }
        let subject = self.subject(kind, name);
        if kind == Kind::Event && self.named.len() < MOST && name.len() <= LONGEST {
            self.named.insert(name.to_owned(), Arc::clone(&subject));
        }
        subject
    }

    fn subject(&self, kind: Kind, name: &str) -> Arc<str> {
        self.template.subject(&self.subject_id, &self.ident, kind, name)
    }
}
