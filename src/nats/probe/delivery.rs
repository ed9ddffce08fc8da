//! What would become of the messages of a run, kind by kind: decided as a session does, and tried as far as that
//! leaves nothing behind.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Probe, State,
    dialogue::{Dialogue, NO_ANSWER, Tried},
    limits::{self, LARGE_MESSAGE, Load, SMALL_RUN},
};
use crate::{
    config::Delivery,
    message::{About, END_STATES, EXPECTED_STREAM, KINDS, Kind, Message, OPEN_STATES, nonce},
    nats::jetstream::{self, AccountInfo, Captured, NOT_THIS_STREAM, StreamInfo},
};

/// So many kinds of events are tried, if the subject depends on the name.
const MOST_SUBJECTS: usize = 12;
/// What a sample is around its filling, in bytes, and some to spare.
const FRAME: usize = 512;

/// What it means that no stream takes messages.
const MISSED: &str = "who does not listen at that moment misses them";

/// What the API says of the stream that takes a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Captured,
    NotCaptured,
    /// We may not ask.
    Forbidden,
    /// It cannot be told at present.
    NotNow,
    /// Nobody answers for the JetStream that the user insists on.
    NotYet,
}

impl Found {
    /// `is_expected`: the server says that it has JetStream.
    fn new(answer: &Captured, is_expected: bool, delivery: Delivery) -> Self {
        match answer {
            Captured::By(_) => Self::Captured,
            // It has JetStream and does not answer for it yet, or it is another domain's.
            Captured::Nobody if is_expected && delivery == Delivery::Jetstream => Self::NotYet,
            Captured::No | Captured::Nobody => Self::NotCaptured,
            Captured::NotNow(_) => Self::NotNow,
        }
    }
}

/// All messages of a kind that go to one subject.
struct Lane {
    kind: Kind,
    subject: Arc<str>,
    /// As a run would send it.
    sample: Message,
    /// Of a small run.
    messages: u64,
}

impl Lane {
    fn name(&self) -> String {
        format!("{} messages", self.kind.as_str())
    }
}

/// What carries the messages of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A stream acknowledges.
    Stream,
    /// The server's echo, as no stream takes them, or none is to be asked.
    Echo,
    /// The same, as we may not ask for a stream.
    Blind,
    /// A stream is asked for, and there is none.
    NoStream,
    /// Neither a stream nor a subscriber.
    Unheard,
    /// None; it was said why.
    Nothing,
}

/// What is known about the streams.
#[derive(Default)]
struct Known {
    /// The API is silent, or must not be asked: why.
    silence: Option<String>,
    /// Streams that were looked at, and whether there was a problem with it.
    streams: HashMap<String, bool>,
    account: Option<AccountInfo>,
}

impl Known {
    fn is_bad(&self, stream: &str) -> bool {
        self.streams.get(stream) == Some(&true)
    }
}

impl Probe<'_> {
    /// All that is between our messages and their readers.
    pub(super) async fn deliveries(&mut self, dialogue: &mut Dialogue) {
        let lanes = self.publishing(dialogue).await;
        let mut known = Known::default();
        let mut ways = Vec::new();
        for lane in &lanes {
            ways.push(self.lane(dialogue, lane, &mut known).await);
        }
        self.no_stream(&lanes, &ways);
        self.unheard(&lanes, &ways);
        if self.problems == 0 {
            let ways: Vec<(Kind, Way)> = lanes.iter().map(|lane| lane.kind).zip(ways).collect();
            self.verdict(&ways, !known.streams.is_empty());
        }
    }

    /// May we publish? The server says what the user may do; one that we may not even ask gets a message that no
    /// stream takes. Returns what may be.
    async fn publishing(&mut self, dialogue: &mut Dialogue) -> Vec<Lane> {
        const STEP: &str = "publish";
        let rights = dialogue.rights().await;
        let mut open: Vec<Lane> = Vec::new();
        for kind in [Kind::Event, Kind::Status] {
            let mut subjects = Vec::new();
            let mut is_forbidden = false;
            let lanes = self.lanes(kind, dialogue);
            if lanes.is_empty() {
                self.note(
                    STEP,
                    "no event that ansible-runner has is selected (option events): only statuses are sent",
                );
            }
            for lane in lanes {
                let allowed = match &rights {
                    Some(rights) => rights.allow(&lane.subject),
                    None => dialogue.may_publish(&lane.subject).await.is_ok(),
                };
                if allowed {
                    subjects.push(Arc::clone(&lane.subject));
                    open.push(lane);
                } else if !is_forbidden {
                    is_forbidden = true;
                    self.problem(STEP, format!("this user may not publish to {}; allow it", lane.subject));
                }
            }
            let Some((first, others)) = subjects.split_first() else { continue };
            let more = match others.len() {
                0 => String::new(),
                count => format!(", and {count} more by {{name}}"),
            };
            self.ok(STEP, format!("{} messages to {first}{more}", kind.as_str()));
        }
        open
    }

    /// What a run would send of a kind: one lane a subject.
    fn lanes(&self, kind: Kind, dialogue: &Dialogue) -> Vec<Lane> {
        let has_name = self.config.subject.has_name();
        let names: Vec<&str> = match kind {
            Kind::Event => KINDS.iter().copied().filter(|name| self.config.events.contains(name)).collect(),
            Kind::Status => OPEN_STATES.into_iter().chain(END_STATES).collect(),
            Kind::Heartbeat => vec![kind.as_str()],
        };
        let messages = match kind {
            Kind::Event => SMALL_RUN,
            Kind::Status if has_name => 1,
            Kind::Status => OPEN_STATES.len() as u64 + 1,
            Kind::Heartbeat => 1,
        };
        let limit = dialogue.link.client.server_info().max_payload;
        let mut composer = self.config.composer();
        composer.address("check");
        let mut lanes: Vec<Lane> = Vec::new();
        for name in names.into_iter().take(if has_name { MOST_SUBJECTS } else { 1 }) {
            let about = About { kind, name, own_id: &["check", &nonce()], created: None, card: None };
            let mut sample = composer.message(&about, Bytes::new());
            // As the session adds it.
            if let Some(stream) = &self.config.connection.stream {
                sample = sample.with_header(EXPECTED_STREAM, stream);
            }
            // Of the size of a large event, as far as the server lets us.
            let size = usize::try_from(LARGE_MESSAGE).unwrap_or(usize::MAX).min(limit);
            let filling = size.saturating_sub(sample.wire_size() + FRAME);
            sample.payload =
                format!("{{\"status\":\"check\",\"filling\":\"{}\"}}", "x".repeat(filling)).into();
            let subject = Arc::clone(&sample.head.subject);
            if lanes.iter().all(|lane| lane.subject != subject) {
                lanes.push(Lane { kind, subject, sample, messages });
            }
        }
        lanes
    }

    /// What would carry these messages? What comes back of a trial decides, as in a run; the API is asked for words.
    async fn lane(&mut self, dialogue: &mut Dialogue, lane: &Lane, known: &mut Known) -> Way {
        let (found, names) = self.find_out(dialogue, lane, known).await;
        for name in &names {
            self.look_at(dialogue, name, lane, known).await;
        }
        if self.config.connection.delivery == Delivery::Core {
            if found == Found::NotCaptured {
                self.note("stream", format!("none takes {}: {MISSED}", lane.name()));
            }
            return Way::Echo;
        }
        if !self.is_the_right_one(&names) {
            return Way::Nothing;
        }
        let is_bad = names.iter().any(|name| known.is_bad(name));
        let (way, stream) = self.store(dialogue, lane, found, is_bad).await;
        if let Some(name) = stream {
            // It may be one that the API has not told us of.
            self.look_at(dialogue, &name, lane, known).await;
            if known.is_bad(&name) {
                return Way::Nothing;
            }
        }
        way
    }

    /// Each stream is looked at once.
    async fn look_at(&mut self, dialogue: &mut Dialogue, name: &str, lane: &Lane, known: &mut Known) {
        if !known.streams.contains_key(name) {
            let before = self.problems;
            self.stream(dialogue, name, lane, known).await;
            known.streams.insert(name.to_owned(), self.problems > before);
        }
    }

    /// A session keeps these messages on disk: it asks for a stream, and none takes them.
    fn no_stream(&mut self, lanes: &[Lane], ways: &[Way]) {
        let missing: Vec<&Lane> =
            lanes.iter().zip(ways).filter(|(_, way)| **way == Way::NoStream).map(|(lane, _)| lane).collect();
        let is_none = !missing.is_empty() && missing.len() == lanes.len();
        match &self.config.connection.stream {
            _ if missing.is_empty() => {}
            Some(stream) if is_none => {
                let text = format!("{stream} (option stream) does not take our subjects");
                self.problem("stream", text);
            }
            None if is_none => {
                self.problem("delivery", "jetstream is asked for, and no stream takes our subject; make one");
            }
            _ => {
                for lane in missing {
                    let text = format!(
                        "jetstream is asked for, and no stream takes {} ({}): they would go to a file",
                        lane.name(),
                        lane.subject
                    );
                    self.problem("delivery", text);
                }
            }
        }
    }

    /// A session holds these messages, and keeps them on disk in the end: neither a stream nor a subscriber has them.
    fn unheard(&mut self, lanes: &[Lane], ways: &[Way]) {
        let unheard = lanes.iter().zip(ways).filter(|(_, way)| **way == Way::Unheard);
        let subjects: Vec<&str> = unheard.map(|(lane, _)| &*lane.subject).collect();
        if !subjects.is_empty() {
            self.problem("delivery", format!(
                "unheard: nobody listens to {}, and no stream takes it: a job would keep its messages in a file; make a \
                 stream (ansible-runner-nats stream create), subscribe, or set delivery=core if that is meant",
                subjects.join(", ")
            ));
        }
    }

    /// Is it the stream that the user insists on? Nothing known is no objection.
    fn is_the_right_one(&mut self, names: &[String]) -> bool {
        let wanted = self.config.connection.stream.as_ref();
        let Some(wanted) = wanted.filter(|wanted| !names.is_empty() && !names.contains(wanted)) else {
            return true;
        };
        let text = format!("{wanted} (option stream) does not take our subjects");
        self.problem("stream", text);
        false
    }

    /// Asks the API, as a session does.
    async fn find_out(
        &mut self,
        dialogue: &mut Dialogue,
        lane: &Lane,
        known: &mut Known,
    ) -> (Found, Vec<String>) {
        const STEP: &str = "JetStream";
        let connection = &self.config.connection;
        let (api, delivery) = (connection.jetstream_api.clone(), connection.delivery);
        let is_expected = dialogue.link.client.server_info().jetstream;
        let answer = match &known.silence {
            Some(reason) => Err(reason.clone()),
            None => dialogue.question(jetstream::which_streams(&api, &lane.subject)).await,
        };
        let captured = match answer {
            Ok(answer) => Captured::read(&answer),
            Err(reason) => {
                let found = match (reason == NO_ANSWER, is_expected) {
                    (false, _) => Found::Forbidden,
                    (true, true) => Found::NotNow,
                    // A subscriber to everything keeps a server without from saying so.
                    (true, false) => Found::NotCaptured,
                };
                self.note(
                    STEP,
                    match found {
                        Found::NotNow => format!("does not answer which stream takes our messages ({api})"),
                        Found::NotCaptured => format!("nobody answers for it ({api})"),
                        _ => format!("cannot be asked ({api}): {reason}"),
                    },
                );
                known.silence = Some(reason);
                return (found, Vec::new());
            }
        };
        let found = Found::new(&captured, is_expected, delivery);
        match captured {
            Captured::By(names) => return (found, names),
            Captured::Nobody if found == Found::NotCaptured => {
                // A server without may still reach some elsewhere, but not if nobody answers.
                self.note(STEP, format!("nobody answers for it ({api})"));
            }
            Captured::NotNow(reason) => {
                self.note(STEP, format!("cannot say now which stream takes {}: {reason}", lane.subject));
            }
            Captured::Nobody | Captured::No => {}
        }
        (found, Vec::new())
    }

    /// What is known of a stream that takes our messages, and what that means for them.
    async fn stream(&mut self, dialogue: &mut Dialogue, name: &str, lane: &Lane, known: &mut Known) {
        const STEP: &str = "stream";
        let api = self.config.connection.jetstream_api.clone();
        let question = jetstream::about_stream(&api, name, Some(&lane.subject));
        let info: StreamInfo = match dialogue.ask(question).await {
            Ok(info) => info,
            Err(reason) => {
                self.ok(STEP, format!("{name} takes our messages"));
                self.note(STEP, format!("how {name} is made, and whether it is full, is not told: {reason}"));
                return;
            }
        };
        let Some(config) = &info.config else {
            let reason = info.refusal().unwrap_or("an answer that we do not understand");
            return self
                .note(STEP, format!("how {name} is made, and whether it is full, is not told: {reason}"));
        };
        let limit = |value: i64, unit: &str| {
            if value < 0 { String::new() } else { format!(", at most {value}{unit}") }
        };
        let (window, age) = (config.duplicate_window(), config.max_age());
        let age = if age.is_zero() { String::new() } else { format!(", at most {age:?} old") };
        let leader = info.cluster.as_ref().filter(|_| config.num_replicas > 1);
        let leader = leader.map_or(String::new(), |cluster| format!(", led by {}", cluster.leader));
        self.ok(STEP, format!(
            "{name} takes our messages: duplicate window {window:?}, {} messages and {} bytes in it{}{}{age}, {} \
             replicas{leader}",
            info.state.messages,
            info.state.bytes,
            limit(config.max_msgs, " messages"),
            limit(config.max_bytes, " bytes"),
            config.num_replicas,
        ));
        let server = dialogue.link.client.server_info();
        let load = Load {
            max_payload: server.max_payload as u64,
            per_subject: lane.messages,
            is_cluster: server.cluster.is_some(),
            wants_ttl: self.config.heartbeat.is_some(),
        };
        for (state, text) in limits::of_stream(name, config, &info, load) {
            self.remark(STEP, state, text);
        }
        if known.account.is_none() {
            match dialogue.ask(jetstream::about_account(&api)).await {
                Ok(account) => known.account = Some(account),
                Err(reason) => {
                    self.note("account", format!("whether its storage is full is not told: {reason}"));
                    known.account = Some(AccountInfo::default());
                }
            }
        }
        let remark = known.account.as_ref().and_then(|account| limits::of_account(account, config));
        if let Some((state, text)) = remark {
            self.remark("account", state, text);
        }
    }

    /// With `delivery=core` nobody asks the stream: what it does not take is no failure of a delivery.
    fn remark(&mut self, step: &'static str, state: State, text: String) {
        let is_asked = self.config.connection.delivery != Delivery::Core;
        self.tell(step, if is_asked { state } else { State::Note }, text);
    }

    /// Tries what would become of these messages, and says which stream has them. `is_bad`: we know already that it would
    /// not store them.
    async fn store(
        &mut self,
        dialogue: &mut Dialogue,
        lane: &Lane,
        found: Found,
        is_bad: bool,
    ) -> (Way, Option<String>) {
        const STEP: &str = "store";
        if !dialogue.is_heard {
            // That is the problem, and was said.
            return (Way::Nothing, None);
        }
        let name = lane.name();
        let tried = match dialogue.try_out(&lane.sample).await {
            Ok(tried) => tried,
            Err(reason) => {
                self.problem(STEP, format!("{name}: {reason}"));
                return (Way::Nothing, None);
            }
        };
        // One that has JetStream, and does not answer for it, is waited for.
        let is_expected = matches!(found, Found::Captured | Found::NotNow);
        let problem = match tried {
            Tried::Well { stream, has_reader } => {
                if !self.is_the_right_one(std::slice::from_ref(&stream)) {
                    return (Way::Nothing, None);
                }
                if !has_reader {
                    self.note("stream", format!("{stream} {}", limits::NO_CONSUMER));
                }
                if !is_bad {
                    self.ok(STEP, format!("{name}: {stream} takes a large one, and its answer comes back"));
                }
                return (Way::Stream, Some(stream));
            }
            Tried::Answers { stream } => {
                if !self.is_the_right_one(std::slice::from_ref(&stream)) {
                    return (Way::Nothing, None);
                }
                self.note(
                    STEP,
                    format!("{name}: {stream} answers; whether it would store them, only a real message could tell"),
                );
                return (Way::Stream, Some(stream));
            }
            Tried::Untried(reason) if found == Found::Captured => {
                let text =
                    format!("{name}: whether they would be stored was not tried ({reason}), only looked up");
                self.note(STEP, text);
                return (Way::Stream, None);
            }
            Tried::Untried(reason) => return (self.untried(lane, found, &reason), None),
            // Said already, and better.
            _ if is_bad => return (Way::Nothing, None),
            Tried::Refused { stream, code: NOT_THIS_STREAM, .. }
                if !self.is_the_right_one(std::slice::from_ref(&stream)) =>
            {
                return (Way::Nothing, None);
            }
            Tried::Refused { stream, code, reason } => format!("{stream} refuses them: {reason} ({code})"),
            Tried::NotNow(reason) => format!("no stream takes them now: {reason}; a job would wait for it"),
            Tried::Silent { stream } => format!("{stream} gets them, and does not acknowledge (no_ack?)"),
            Tried::Subscribers | Tried::Nobody if is_expected => format!(
                "none arrives at a stream (subject {}; is it mapped to another one?); a job would wait for it",
                lane.subject
            ),
            Tried::Subscribers | Tried::Nobody if self.waits_for_jetstream(found) => {
                return (Way::Nothing, None);
            }
            Tried::Subscribers | Tried::Nobody if self.config.connection.delivery == Delivery::Jetstream => {
                return (Way::NoStream, None);
            }
            Tried::Subscribers => {
                self.note("stream", format!("none takes {}: {MISSED}", lane.name()));
                return (Way::Echo, None);
            }
            Tried::Nobody => return (Way::Unheard, None),
        };
        self.problem(STEP, format!("{name}: {problem}"));
        (Way::Nothing, None)
    }

    /// A stream is asked for, and its JetStream does not answer: a job would wait for it.
    fn waits_for_jetstream(&mut self, found: Found) -> bool {
        if found == Found::NotYet {
            let api = &self.config.connection.jetstream_api;
            let text =
                format!("nobody answers for it ({api}), and a stream is asked for: a job would wait for it");
            self.problem("JetStream", text);
        }
        found == Found::NotYet
    }

    /// What becomes of these messages could not be tried, and the API names no stream for them.
    fn untried(&mut self, lane: &Lane, found: Found, reason: &str) -> Way {
        const STEP: &str = "store";
        let name = lane.name();
        if self.waits_for_jetstream(found) {
            return Way::Nothing;
        }
        match (self.config.connection.delivery, found) {
            (_, Found::NotNow) => {
                let text = format!("{name}: it cannot be told whether a stream takes them: {reason}");
                self.problem(STEP, text);
                Way::Nothing
            }
            (Delivery::Jetstream, Found::Forbidden) => {
                let text = format!("{name}: whether they would be stored was not tried ({reason})");
                self.note(STEP, text);
                Way::Stream
            }
            (Delivery::Jetstream, _) => Way::NoStream,
            (Delivery::Auto | Delivery::Core, Found::Forbidden) => Way::Blind,
            (Delivery::Auto | Delivery::Core, _) => {
                self.note("stream", format!("none takes {name}: {MISSED}"));
                self.note(
                    STEP,
                    format!("{name}: whether anybody listens was not tried ({reason}); what nobody hears ends in a file"),
                );
                Way::Echo
            }
        }
    }

    /// What delivers a run's messages, if there was no problem.
    fn verdict(&mut self, ways: &[(Kind, Way)], any_stream: bool) {
        const STEP: &str = "delivery";
        let all = |way: Way| ways.iter().all(|(_, is)| *is == way);
        if self.config.connection.delivery == Delivery::Core && any_stream {
            return self
                .note(STEP, "core: a stream takes our messages, but whether it stored them is not asked");
        }
        if all(Way::Stream) {
            return self.ok(STEP, "jetstream: a stream confirms");
        }
        if all(Way::Echo) {
            let why = match self.config.connection.delivery {
                Delivery::Core => "",
                Delivery::Auto | Delivery::Jetstream => " (no stream takes our subject)",
            };
            return self.ok(STEP, format!("core: the server's echo confirms{why}"));
        }
        if all(Way::Blind) {
            let text = "core: the server's echo confirms; whether a stream takes our subject, we may not ask, so a job \
                        does not either";
            return self.note(STEP, text);
        }
        for kind in [Kind::Event, Kind::Status] {
            let mut of_kind = ways.iter().filter(|(of, _)| *of == kind).map(|(_, way)| *way).peekable();
            if of_kind.peek().is_none() {
                continue;
            }
            let (mut stored, mut routed) = (false, false);
            for way in of_kind {
                stored |= way == Way::Stream;
                routed |= matches!(way, Way::Echo | Way::Blind);
            }
            let text = match (stored, routed) {
                (true, true) => "a stream confirms some, the server's echo the others",
                (true, false) => "jetstream: a stream confirms",
                _ => "core: the server's echo confirms (no stream takes them)",
            };
            self.ok(STEP, format!("{} messages: {text}", kind.as_str()));
        }
    }
}
