//! A connection that asks, tries, and gets answers.

use std::{str::FromStr, time::Duration};

use async_nats::{
    Event, HeaderMap, HeaderName, HeaderValue, Subscriber, client::traits::Publisher,
    message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    delivery::Ack,
    message::{EXPECTED_STREAM, Message},
    nats::{
        jetstream::{self, NOT_THIS_STREAM, Trace, TraceEvent, read_ack},
        link::{Link, Violation, hung_up},
    },
};

pub(super) const NO_ANSWER: &str = "no answer";
const CLOSED: &str = "connection closed";

/// Where a user asks what he may do.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// The name of a stream that nobody has.
const NO_STREAM: &str = "ansible-runner-nats-check";

/// A stream that has got a message acknowledges it within this time, or a session would begin to doubt it.
const ACKNOWLEDGES: Duration = Duration::from_secs(1);

/// A connection that asks and gets answers.
pub(super) struct Dialogue {
    pub(super) link: Link,
    inbox: String,
    inbound: Subscriber,
    asked: u64,
    /// Do answers come back to the inbox?
    pub(super) is_heard: bool,
    limit: Duration,
}

/// What would become of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// This stream would have stored it, and would have said so.
    Well { stream: String, has_reader: bool },
    /// The stream answers, but whether it would store the message could not be tried.
    Answers { stream: String },
    /// A stream refuses it for good.
    Refused { stream: String, code: u64, reason: String },
    /// A stream cannot take it at present.
    NotNow(String),
    /// A stream has got it, and says nothing.
    Silent { stream: String },
    /// Subscribers would have got it, and no stream.
    Subscribers,
    /// Nobody would have got it.
    Nobody,
    /// It could not be tried: why.
    Untried(String),
}

/// What came back of a message.
#[derive(Default)]
struct Return {
    answer: Option<async_nats::Message>,
    trace: Option<TraceEvent>,
    /// The servers have told all there is to tell.
    is_traced: bool,
    /// A server on the way did not get it: why.
    not_passed_on: Option<String>,
}

impl Dialogue {
    /// Listens to an inbox of its own.
    pub(super) async fn open(link: Link, inbox: String, limit: Duration) -> Result<Self, String> {
        let inbound = link.client.subscribe(format!("{inbox}.>")).await.map_err(|error| error.to_string())?;
        Ok(Self { link, inbox, inbound, asked: 0, is_heard: false, limit })
    }

    pub(super) async fn ask<T: for<'a> Deserialize<'a>>(
        &mut self,
        question: jetstream::Question,
    ) -> Result<T, String> {
        let answer = self.question(question).await?;
        if jetstream::is_unanswered(&answer) {
            return Err("nobody answers for it".to_owned());
        }
        serde_json::from_slice(&answer.payload).map_err(|_| "an answer that we do not understand".to_owned())
    }

    /// Asks, and gets the answer as it is.
    pub(super) async fn question(
        &mut self,
        (subject, request): jetstream::Question,
    ) -> Result<async_nats::Message, String> {
        let reply = self.next_inbox();
        self.publish(&subject, Some(reply.clone()), request.into(), None).await?;
        self.wait_for(&reply).await
    }

    /// Publishes to our own inbox and waits for it.
    pub(super) async fn echo(&mut self) -> Result<(), String> {
        // Its own each time: that of a round which was refused may still come.
        let subject = self.next_inbox();
        self.publish(&subject, None, Bytes::new(), None).await?;
        self.wait_for(&subject).await.map(drop)
    }

    /// Publishes what no stream takes, and, if the server traces, nobody gets; an error if the server forbids it.
    pub(super) async fn may_publish(&mut self, subject: &str) -> Result<(), String> {
        let mut headers = self.untouchable();
        headers.insert(EXPECTED_STREAM, NO_STREAM);
        self.publish(subject, None, Bytes::from_static(b"{\"status\":\"check\"}"), Some(headers)).await?;
        self.is_refused(subject).await.map_or(Ok(()), Err)
    }

    /// Listens, and no more; an error if the server forbids it.
    pub(super) async fn may_subscribe(&mut self, subject: &str) -> Result<(), String> {
        let subscribed = self.link.client.subscribe(subject.to_owned()).await;
        let _subscribed = subscribed.map_err(|error| error.to_string())?;
        self.is_refused(subject).await.map_or(Ok(()), Err)
    }

    /// What the server has against this subject, which we have just used. It answers in the order in which it is asked: when
    /// our own message comes back, or is refused, nothing more will be said of what came before.
    async fn is_refused(&mut self, subject: &str) -> Option<String> {
        let last = self.next_inbox();
        self.publish(&last, None, Bytes::new(), None).await.ok()?;
        let limit = self.limit;
        let waiting = async {
            loop {
                match self.next().await {
                    Err(reason) if reason.ends_with(subject) => return Some(reason),
                    Err(reason) if reason.ends_with(&last) || reason == CLOSED => return None,
                    Ok(message) if message.subject.as_str() == last => return None,
                    // What is left of earlier questions.
                    Ok(_) | Err(_) => {}
                }
            }
        };
        timeout(limit, waiting).await.ok().flatten()
    }

    /// What this user may do, if he may ask.
    pub(super) async fn rights(&mut self) -> Option<Rights> {
        let question = (USER_INFO.to_owned(), String::new());
        self.ask::<UserInfo>(question).await.ok().map(|info| info.data.permissions)
    }

    /// Does this server trace messages that nobody is to get?
    fn traces(&self) -> bool {
        let version = self.link.client.server_info().version;
        let mut numbers = version.split('.').map(str::parse::<u64>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return false };
        (major, minor) >= Trace::SINCE
    }

    /// Headers of a message that reaches the streams and goes no further: nothing is stored, no subscriber gets it. An
    /// earlier server does not know them.
    fn untouchable(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.traces() && self.is_heard {
            headers.insert(Trace::DESTINATION, format!("{}.trace.{}", self.inbox, self.asked).as_str());
            headers.insert(Trace::ONLY, "true");
        }
        headers
    }

    /// Tries what would become of a message. First one that names another stream: the refusal proves that the stream
    /// lives, that we may publish to it, and that its answers come back; and the trace, that this server keeps what is
    /// only to be traced from being stored. Then the message itself, only traced: the stream goes through all that it
    /// checks but its own limits and the account's.
    pub(super) async fn try_out(&mut self, message: &Message) -> Result<Tried, String> {
        if !self.traces() {
            let version = self.link.client.server_info().version;
            let (major, minor) = Trace::SINCE;
            return Ok(Tried::Untried(format!(
                "this takes nats-server {major}.{minor}, and this one is {version}"
            )));
        }
        let refused = self.trial(message, Some(NO_STREAM), true).await?;
        let traced = refused.trace.as_ref().map(|event| event.stream.clone());
        let Some(answer) = refused.answer else {
            return Ok(match (traced, refused.not_passed_on) {
                (Some(stream), _) => Tried::Silent { stream },
                (None, Some(reason)) => Tried::Untried(reason),
                (None, None) if refused.is_traced => Tried::Subscribers,
                (None, None) => Tried::NotNow(NO_ANSWER.to_owned()),
            });
        };
        if jetstream::is_unanswered(&answer) {
            return Ok(Tried::Nobody);
        }
        let stream = jetstream::answering_stream(&answer).or(traced).unwrap_or_default();
        match read_ack(&answer) {
            Some(Ack::Refused { code: NOT_THIS_STREAM, .. }) => {}
            Some(Ack::Refused { code, reason }) => return Ok(Tried::Refused { stream, code, reason }),
            Some(Ack::NotNow(reason)) => return Ok(Tried::NotNow(reason)),
            Some(Ack::Nobody) => return Ok(Tried::Nobody),
            Some(Ack::Stored) | None => {
                return Ok(Tried::Untried("its answers cannot be trusted".to_owned()));
            }
        }
        if refused.trace.is_none() {
            return Ok(Tried::Answers { stream });
        }
        let real = self.trial(message, None, false).await?;
        match (real.answer.as_ref().and_then(read_ack), real.trace) {
            (Some(Ack::Refused { code, reason }), _) => Ok(Tried::Refused { stream, code, reason }),
            (Some(Ack::NotNow(reason)), _) | (None, Some(TraceEvent { error: Some(reason), .. })) => {
                Ok(Tried::NotNow(reason))
            }
            (_, Some(event)) => Ok(Tried::Well { stream, has_reader: !event.nointerest }),
            (_, None) => Ok(Tried::Answers { stream }),
        }
    }

    /// Sends a message that is only traced, and collects what comes back. `answered`: a stream will answer, whatever
    /// it thinks of the message; else only if it has something against it.
    async fn trial(
        &mut self,
        message: &Message,
        stream: Option<&str>,
        answered: bool,
    ) -> Result<Return, String> {
        let reply = self.next_inbox();
        let mut headers = HeaderMap::new();
        for (name, value) in message.all_headers() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
        let trace = format!("{}.trace.{}", self.inbox, self.asked);
        headers.insert(Trace::DESTINATION, trace.as_str());
        headers.insert(Trace::ONLY, "true");
        if let Some(stream) = stream {
            headers.insert(EXPECTED_STREAM, stream);
        }
        self.publish(&message.head.subject, Some(reply.clone()), message.payload.clone(), Some(headers))
            .await?;
        let mut back = Return::default();
        let mut deadline = Instant::now() + self.limit;
        // Servers that have told, and that have something to tell; the first one's own account may come last.
        let (mut told_by, mut servers, mut is_over) = (0, 1, false);
        let mut is_first_known = false;
        while !is_over {
            let Ok(incoming) = timeout_at(deadline, self.next()).await else { break };
            let incoming = incoming?;
            if incoming.subject.as_str() == reply {
                back.answer = Some(incoming);
            } else if incoming.subject.as_str() == trace {
                let told: Trace = serde_json::from_slice(&incoming.payload).unwrap_or_default();
                told_by += 1;
                servers += told.hops;
                is_first_known |= told.is_first();
                back.is_traced = is_first_known && told_by >= servers;
                back.not_passed_on = back.not_passed_on.take().or(told.not_passed_on());
                back.trace = back.trace.take().or(told.stream());
                // Answer and trace come from the same place, at the same time.
                deadline = deadline.min(Instant::now() + ACKNOWLEDGES);
            }
            is_over = match (&back.answer, &back.trace) {
                (Some(answer), _) if jetstream::is_unanswered(answer) => true,
                (Some(_), Some(_)) => true,
                (None, Some(event)) => !answered && event.error.is_none(),
                (None, None) => back.is_traced,
                (Some(_), None) => false,
            };
        }
        Ok(back)
    }

    fn next_inbox(&mut self) -> String {
        self.asked += 1;
        format!("{}.{}", self.inbox, self.asked)
    }

    async fn publish(
        &self,
        subject: &str,
        reply: Option<String>,
        payload: Bytes,
        headers: Option<HeaderMap>,
    ) -> Result<(), String> {
        let message =
            OutboundMessage { subject: subject.into(), reply: reply.map(Into::into), payload, headers };
        self.link.client.publish_message(message).await.map_err(|error| error.to_string())
    }

    /// What comes to this subject of our inbox.
    async fn wait_for(&mut self, subject: &str) -> Result<async_nats::Message, String> {
        let limit = self.limit;
        let waiting = async {
            loop {
                let message = self.next().await?;
                if message.subject.as_str() == subject {
                    return Ok(message);
                }
            }
        };
        timeout(limit, waiting).await.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()))
    }

    /// What comes next to our inbox; an error is what the server has against what we do.
    async fn next(&mut self) -> Result<async_nats::Message, String> {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.link.events.recv() => {
                    if let Some(refusal) = refusal(&event) {
                        return Err(refusal);
                    }
                }
                () = hung_up(&mut self.link.gone) => return Err(CLOSED.to_owned()),
                message = self.inbound.next() => {
                    let Some(message) = message else { return Err(CLOSED.to_owned()) };
                    // A refusal came before it, but on another way: let async-nats' event task speak first.
                    tokio::task::yield_now().await;
                    while let Ok(event) = self.link.events.try_recv() {
                        if let Some(refusal) = refusal(&event) {
                            return Err(refusal);
                        }
                    }
                    return Ok(message);
                }
            }
        }
    }
}

/// What the server refuses, if that is what it says.
fn refusal(event: &Event) -> Option<String> {
    let Event::ServerError(error) = event else { return None };
    Some(match Violation::parse(&error.to_string()) {
        Some(Violation { publish: true, subject }) => format!("this user may not publish to {subject}"),
        Some(Violation { subject, .. }) => format!("this user may not subscribe to {subject}"),
        None => error.to_string(),
    })
}

/// The answer to `$SYS.REQ.USER.INFO`.
#[derive(Deserialize)]
struct UserInfo {
    data: UserData,
}

#[derive(Deserialize)]
struct UserData {
    #[serde(default)]
    permissions: Rights,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Rights {
    publish: Option<Lists>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

impl Rights {
    pub(super) fn allow(&self, subject: &str) -> bool {
        let Some(Lists { allow, deny }) = &self.publish else { return true };
        let any = |patterns: &Option<Vec<String>>| {
            patterns.iter().flatten().any(|pattern| matches(pattern, subject))
        };
        allow.as_ref().is_none_or(|_| any(allow)) && !any(deny)
    }
}

/// Does a subject match a pattern with `*` and `>`?
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_patterns() {
        for (pattern, subject, expected) in [
            ("pub.>", "pub.a.b", true),
            ("pub.>", "pub", false),
            (">", "a", true),
            ("pub.*.b", "pub.a.b", true),
            ("pub.*", "pub.a.b", false),
            ("pub.a.b", "pub.a", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
        let rights = |allow: &[&str], deny: &[&str]| {
            let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
            Rights { publish: Some(Lists { allow: list(allow), deny: list(deny) }) }
        };
        assert!(rights(&["pub.>"], &[]).allow("pub.a"));
        assert!(!rights(&["pub.>"], &["pub.a"]).allow("pub.a") && !rights(&[], &[]).allow("pub.a"));
        assert!(Rights::default().allow("pub.a"));
    }
}
