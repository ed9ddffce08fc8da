//! The machine that delivers: what is sent when, what an answer proves, when to wait, to send again, to keep on disk, to
//! leave a server.
//!
//! It has no I/O, no clock, no thread, and is not async: [`Machine::on`] is told what happened and when, and notes what is
//! to be done ([`Action`]). `nats/driver.rs` does it. Hence a whole cluster can be simulated in a millisecond
//! (`simulation`).
//!
//! - `machine`: what it is told, and what it answers;
//! - `send`, `receive`: what is sent when, and what an answer means;
//! - `proof`: how a message is proved (strategies), and what is known of a subject;
//! - `course`: what a run waits for, while it does;
//! - `health`: the states of a connection and of the streams;
//! - `flights`, `inbox`: what is under way, and how answers are told apart.

mod course;
mod flights;
mod health;
mod inbox;
mod machine;
mod proof;
mod receive;
mod send;
#[cfg(test)]
mod simulation;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub(crate) use self::{
    inbox::{Answer, Inbox},
    machine::{Machine, Terms},
};
use crate::{
    message::Message,
    outbox::{Proof, Sending},
};

/// A server or its network lost a message if nothing came back for this long.
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// Messages between two looks at what came back.
pub(crate) const BATCH: usize = 256;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// There is a connection.
    Connected(Server),
    /// The next messages of the outbox, as asked for ([`Want::Next`]).
    Taken(Vec<Sending>),
    /// Messages of [`Want::Again`] that are still unconfirmed.
    TakenAgain(Vec<Sending>),
    /// Something came to our inbox.
    Heard(Heard),
    /// The server does not let us publish to a subject, or (`publish` is false) subscribe.
    Forbidden {
        /// To publish; otherwise, to subscribe.
        publish: bool,
        /// The subject.
        subject: String,
    },
    /// The server announced that it will go.
    LameDuck,
    /// What was asked to be written ([`Action::Flush`]) was, or (`false`) the server does not read it.
    Flushed(bool),
    /// The time that was asked for has come.
    Time,
    /// Another server was found, as asked for ([`Action::Look`]): it will take us.
    Found,
    /// Nothing is left to do, and no run is left that could bring something.
    Rest,
    /// The connection is gone, and why.
    Gone(String),
}

/// What is known of a server when the connection is there.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Tells this connection's inbox from those of others.
    pub(crate) nonce: String,
    /// The most that a message may take, in bytes.
    pub(crate) max_payload: usize,
    /// It says that it has JetStream. One without may still reach that of others (as a leaf node does).
    pub(crate) jetstream: bool,
    /// There are other servers to go to.
    pub(crate) has_others: bool,
}

/// What came to our inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Our own first word.
    Hello,
    /// The answer to a message.
    Ack {
        /// Which sending of it ([`Answer::Ack`]).
        ordinal: u64,
        /// The message.
        seq: u64,
        /// What it says.
        ack: Ack,
    },
    /// Our own marker: the server has got all that was sent before it.
    Marker(u64),
    /// What the JetStream API says of a subject.
    Api {
        /// The question's number.
        question: u64,
        /// Its answer.
        says: Says,
    },
}

/// The answer to a message that was published with a reply subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// A stream stored it, now or an earlier copy of it.
    Stored,
    /// The server: neither a stream nor a subscriber wants it (503, no responders).
    Nobody,
    /// A stream: try again.
    NotNow(String),
    /// A stream, for good: this message will not be stored.
    Refused {
        /// The API's `err_code`.
        code: u64,
        /// The server's words.
        reason: String,
    },
}

/// What the JetStream API says of a subject. It is asked for words and for patience, never for a proof: it does not see
/// streams behind account mappings, imports and leaf nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// A stream takes it.
    Yes,
    /// None that this account sees does.
    No,
    /// Nobody answers for JetStream.
    Nobody,
    /// It cannot say now.
    NotNow,
    /// It has not answered in time.
    Nothing,
}

/// Which messages the machine wants from the outbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// These once more; what is not there any more is left out.
    Again(Vec<u64>),
    /// The next ones.
    Next {
        /// So many at most.
        most: usize,
        /// And about so many bytes.
        bytes: usize,
    },
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Action {
    /// Publish a message of the outbox.
    Send {
        /// Its number in the outbox.
        seq: u64,
        /// The message.
        message: Message,
        /// Where answers are to go.
        reply: Option<String>,
        /// The stream that must take it.
        stream: Option<Arc<str>>,
    },
    /// Publish something of our own.
    Say {
        /// Where to.
        subject: String,
        /// Where the answer is to go.
        reply: Option<String>,
        /// What.
        payload: Bytes,
    },
    /// See to it that all that was published is written: answered by [`Input::Flushed`].
    Flush,
    /// These have arrived.
    Confirm(Vec<(u64, Proof)>),
    /// Nobody has heard these (or, `false`, that is to be found out anew).
    Unheard(Vec<u64>, bool),
    /// This message goes to disk.
    Reject {
        /// Its number.
        seq: u64,
        /// What stays the same while the same thing is wrong.
        cause: String,
        /// Why.
        reason: String,
    },
    /// The outbox is to begin anew with the oldest message that is not confirmed.
    Rewind,
    /// Something is to be told to people.
    Tell(Tell),
    /// Look for another server, and go on meanwhile: answered by [`Input::Found`].
    Look,
    /// The connection is not used any more.
    End(End),
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Something is wrong, until [`Tell::Mended`].
    Problem {
        /// What stays the same while the same thing is wrong.
        cause: String,
        /// In words.
        text: String,
    },
    /// What was wrong is not any more.
    Mended,
}

/// Why a connection is not used any more, and what that says of its server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Why.
    pub(crate) why: Why,
    /// The server was of no use: it is not to be asked again without a pause.
    pub(crate) is_useless: bool,
}

/// Why a connection is not used any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing to do and no run left.
    Idle,
    /// It broke, or the server went silent.
    Lost(String),
    /// Our first word did not come back in time.
    NoHello,
    /// It is fine, but another server, which was found meanwhile, may know better: why.
    Elsewhere(String),
    /// The server announced that it will go, and another one was found meanwhile.
    LameDuck,
    /// A message within the server's `max_payload` was too large all the same: accounts have limits of their own,
    /// which nobody tells.
    Oversize {
        /// What the largest one in flight took, in bytes, headers included.
        size: usize,
        /// Messages are cut to this from now on, in bytes.
        limit: usize,
    },
}
