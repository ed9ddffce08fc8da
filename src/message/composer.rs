//! The only constructor of messages: for the live run and for `replay`.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    CARD, Head, Kind, Message, RUN, RunId, TIME,
    cloudevent::CloudEvent,
    id::{lengthen_id, message_id},
    subject::Template,
};

/// Makes the messages of one run.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    subject_id: String,
    template: Template,
    /// Those that all messages have: the user's, and the run's identity.
    headers: Arc<[(String, String)]>,
    cloudevents: bool,
    /// The run's ident, and what belongs to it.
    ident: String,
    event: Arc<Head>,
    status: Arc<Head>,
    /// Heads of events by name, if the template has `{name}`.
    named: HashMap<String, Arc<Head>>,
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
    /// When it was: of an event as ansible-runner writes it, of others in RFC 3339.
    pub(crate) created: Option<&'a str>,
    /// Who runs what where (`starting` alone): JSON.
    pub(crate) card: Option<&'a str>,
}

impl Composer {
    /// For runs of `subject_id`, whose ident is `unknown` so far.
    pub(crate) fn new(
        subject_id: &str,
        template: Template,
        headers: Arc<[(String, String)]>,
        cloudevents: bool,
    ) -> Self {
        let nothing = Arc::new(Head { subject: "".into(), headers: Arc::clone(&headers), id: "".into() });
        let mut composer = Self {
            subject_id: subject_id.to_owned(),
            template,
            headers,
            cloudevents,
            ident: String::new(),
            event: Arc::clone(&nothing),
            status: nothing,
            named: HashMap::new(),
            id: Arc::from(""),
            own_id: String::new(),
        };
        composer.address("unknown");
        composer
    }

    /// From now on messages are of this run.
    pub(crate) fn identify(&mut self, run: RunId) {
        let others = self.headers.iter().filter(|(name, _)| name != RUN).cloned();
        self.headers = others.chain([(RUN.to_owned(), run.to_string())]).collect();
        self.renew_heads();
    }

    /// From now on messages are about `ident`.
    pub(crate) fn address(&mut self, ident: &str) {
        if ident == self.ident {
            return;
        }
        ident.clone_into(&mut self.ident);
        self.id = message_id(&[&self.subject_id, ident]).into();
        self.renew_heads();
    }

    fn renew_heads(&mut self) {
        self.event = self.head(Kind::Event, "");
        self.status = self.head(Kind::Status, "");
        self.named.clear();
    }

    /// Whom messages are about.
    pub(crate) fn ident(&self) -> &str {
        &self.ident
    }

    /// The message, with `payload`.
    pub(crate) fn message(&mut self, about: &About<'_>, payload: Bytes) -> Message {
        self.own_id.clear();
        lengthen_id(&mut self.own_id, about.own_id);
        let head = self.head_of(about.kind, about.name);
        let mut message = Message::new(&head, &self.own_id, payload);
        if about.kind != Kind::Event {
            let own = [(TIME, about.created), (CARD, about.card)];
            let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
            let headers = self.headers.iter().cloned().chain(own).collect();
            Arc::make_mut(&mut message.head).headers = headers;
        }
        if self.cloudevents {
            let event = CloudEvent {
                subject_id: &self.subject_id,
                ident: &self.ident,
                kind: about.kind,
                name: about.name,
                id: &message.id(),
            };
            let headers = event.headers(&message.head.headers, about.created);
            Arc::make_mut(&mut message.head).headers = headers;
        }
        message
    }

    fn head_of(&mut self, kind: Kind, name: &str) -> Arc<Head> {
        /// ansible-runner has about fifty short ones; others could make up new ones for ever.
        const MOST: usize = 200;
        const LONGEST: usize = 256;
        if !self.template.has_name() {
            return match kind {
                Kind::Event => Arc::clone(&self.event),
                Kind::Status => Arc::clone(&self.status),
                Kind::Heartbeat => self.head(kind, name),
            };
        }
        if let Some(known) = self.named.get(name).filter(|_| kind == Kind::Event) {
            return Arc::clone(known);
        }
        let head = self.head(kind, name);
        if kind == Kind::Event && self.named.len() < MOST && name.len() <= LONGEST {
            self.named.insert(name.to_owned(), Arc::clone(&head));
        }
        head
    }

    fn head(&self, kind: Kind, name: &str) -> Arc<Head> {
        let subject = self.template.subject(&self.subject_id, &self.ident, kind, name);
        Arc::new(Head { subject, headers: Arc::clone(&self.headers), id: Arc::clone(&self.id) })
    }
}
