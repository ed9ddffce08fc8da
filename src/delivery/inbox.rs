//! Our inbox: where confirmations come back, and how they are told apart by their subject.

/// `PREFIX.NONCE`, and what the server lets us do with it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    subject: String,
    /// May we publish to our inbox, and hear from it?
    pub(super) echoes: bool,
    /// May we at least hear from our inbox?
    pub(super) acks: bool,
}

/// What came to the inbox, by its subject. Each sending of a message has a number of its own, the *ordinal*, which rises:
/// a late answer to what was sent again since is told apart, and a marker proves what was sent before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Our own first word.
    Hello,
    /// The answer to message `seq`, sent as number `ordinal`.
    Ack { ordinal: u64, seq: u64 },
    /// The marker behind what was sent as number `ordinal`.
    Marker(u64),
    /// The answer to a question about streams.
    Question(u64),
    /// The answer to a question about one stream.
    About(u64),
    /// Nothing of ours.
    Other,
}

impl Inbox {
    pub(super) fn new(prefix: &str, nonce: &str) -> Self {
        Self { subject: format!("{prefix}.{nonce}"), echoes: true, acks: true }
    }

    /// What to subscribe to.
    pub(crate) fn all(&self) -> String {
        format!("{}.>", self.subject)
    }

    pub(super) fn hello(&self) -> String {
        format!("{}.hello", self.subject)
    }

    pub(super) fn ack(&self, ordinal: u64, seq: u64) -> String {
        format!("{}.a.{ordinal}.{seq}", self.subject)
    }

    pub(super) fn marker(&self, ordinal: u64) -> String {
        format!("{}.m.{ordinal}", self.subject)
    }

    pub(super) fn question(&self, number: u64) -> String {
        format!("{}.q.{number}", self.subject)
    }

    /// Where the answer goes to question `number` about one stream.
    pub(crate) fn about(&self, number: u64) -> String {
        format!("{}.s.{number}", self.subject)
    }

    /// Is a subject one of ours?
    pub(super) fn has(&self, subject: &str) -> bool {
        subject.starts_with(&self.subject)
    }

    /// What the user allows, or should.
    pub(super) fn prefix(&self) -> &str {
        self.subject.rsplit_once('.').map_or("", |(prefix, _)| prefix)
    }

    pub(crate) fn understand(&self, subject: &str) -> Answer {
        let Some(rest) = subject.strip_prefix(&self.subject) else { return Answer::Other };
        let mut tokens = rest.split('.').skip(1);
        let kind = tokens.next();
        let mut number = || tokens.next().and_then(|token| token.parse::<u64>().ok());
        match (kind, number(), number()) {
            (Some("hello"), None, None) => Answer::Hello,
            (Some("a"), Some(ordinal), Some(seq)) => Answer::Ack { ordinal, seq },
            (Some("m"), Some(ordinal), None) => Answer::Marker(ordinal),
            (Some("q"), Some(number), None) => Answer::Question(number),
            (Some("s"), Some(number), None) => Answer::About(number),
            _ => Answer::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_is_told_apart() {
        let inbox = Inbox::new("_INBOX.mine", "n1");
        assert_eq!((inbox.all().as_str(), inbox.prefix()), ("_INBOX.mine.n1.>", "_INBOX.mine"));
        assert_eq!(inbox.understand(&inbox.hello()), Answer::Hello);
        assert_eq!(inbox.understand(&inbox.ack(3, 4)), Answer::Ack { ordinal: 3, seq: 4 });
        assert_eq!(inbox.understand(&inbox.marker(3)), Answer::Marker(3));
        assert_eq!(inbox.understand(&inbox.question(9)), Answer::Question(9));
        assert_eq!(inbox.understand(&inbox.about(9)), Answer::About(9));
        for other in
            ["_INBOX.mine.n2.a.1.2", "_INBOX.mine.n1", "_INBOX.mine.n1.a.1", "_INBOX.mine.n1.m.x", ""]
        {
            assert_eq!(inbox.understand(other), Answer::Other, "{other}");
        }
    }
}
