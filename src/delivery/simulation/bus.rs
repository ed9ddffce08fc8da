//! What is behind the connection, as a model: servers, streams, subscribers, and what they got.

use std::collections::{HashMap, HashSet};

use super::script::{Api, Setup, Step, Stream, Takes};

/// When we know at the latest that a message was denied, in milliseconds; we are told when we do.
const UNTIL_WE_KNOW: u64 = 4_000;
/// A stream that says nothing gets no more of a run after a second, and what is on its way then.
const UNTIL_WE_HOLD: u64 = 1_400;

/// An acknowledgement that comes later than this is not waited for, unless a stream is known to be there.
const GRACE: u64 = 250;

/// What nobody has heard for this long is set aside: the run's other subjects go on.
const ASIDE: u64 = 500;
/// It is tried again so often, and its answer takes a while: until then those may come first.
const UNTIL_TRIED: u64 = 1_300;

/// A run of which something was denied.
#[derive(Clone, Copy, Debug)]
struct Denied {
    since: u64,
    /// What was sent up to then may come first.
    until: u64,
}

/// A message as a server gets it.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) id: String,
    pub(super) size: usize,
    /// When we sent it, in milliseconds.
    pub(super) sent: u64,
}

/// What comes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing is answered.
    Nothing,
    /// The server answers at once.
    Nobody,
    /// A stream answers, after this time.
    Answer(Reply, u64),
    /// The server says that we may not.
    Forbidden,
    /// The server hangs up.
    TooLarge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Stored,
    Busy,
    Full,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own, and they come together")]
pub(super) struct Node {
    pub(super) is_down: bool,
    pub(super) is_suspended: bool,
    pub(super) is_lame: bool,
    is_isolated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    There,
    Away,
    Mute,
}

#[derive(Debug)]
struct Kept {
    setup: Stream,
    exists: bool,
    leader: Leader,
    busy: usize,
    count: usize,
    /// When each id was stored last.
    ids: HashMap<String, u64>,
}

impl Kept {
    fn takes(&self, subject: &str) -> bool {
        is_taken(self.setup.takes, subject)
    }
}

fn is_taken(takes: Takes, subject: &str) -> bool {
    match takes {
        Takes::All => true,
        Takes::Events => kind_of(subject) == "event",
        Takes::Statuses => kind_of(subject) == "status",
    }
}

fn kind_of(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or_default()
}

/// All that is behind the connection.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) nodes: Vec<Node>,
    streams: Vec<Kept>,
    pub(super) has_subscriber: bool,
    pub(super) api: Api,
    forbidden: Option<Takes>,
    /// What servers say that they take, and what they do take.
    pub(super) max_payload: usize,
    limit: usize,
    lost_acks: usize,
    delayed: u64,
    doubles: bool,
    /// What streams have stored, in order: number of the stream, id.
    pub(super) stored: Vec<(usize, String)>,
    pub(super) ever_stored: HashSet<String>,
    /// What subscribers got, in order.
    pub(super) heard: Vec<String>,
    pub(super) ever_heard: HashSet<String>,
    /// What a stream got whose leader says nothing: it has an interest, so that the server does not say no.
    pub(super) swallowed: HashSet<String>,
    /// Subjects that a stream, which still exists, has stored messages of and has acknowledged.
    pub(super) known: HashSet<String>,
    /// Runs with a message that was denied while later ones were under way already: whether these arrive first is not
    /// ours to say.
    denied: HashMap<String, Denied>,
    /// What a stream has refused.
    refused: HashSet<String>,
    pub(super) excused: HashSet<String>,
}

impl Bus {
    pub(super) fn new(setup: &Setup) -> Self {
        let kept = |stream: &Stream| Kept {
            setup: stream.clone(),
            exists: true,
            leader: Leader::There,
            busy: 0,
            count: 0,
            ids: HashMap::new(),
        };
        Self {
            nodes: (0..setup.servers).map(|_| Node::default()).collect(),
            streams: setup.streams.iter().map(kept).collect(),
            has_subscriber: setup.has_subscriber,
            api: setup.api,
            forbidden: None,
            max_payload: setup.max_payload,
            limit: setup.max_payload,
            lost_acks: 0,
            delayed: 0,
            doubles: false,
            stored: Vec::new(),
            ever_stored: HashSet::new(),
            heard: Vec::new(),
            ever_heard: HashSet::new(),
            swallowed: HashSet::new(),
            known: HashSet::new(),
            denied: HashMap::new(),
            refused: HashSet::new(),
            excused: HashSet::new(),
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Kill(node) => self.nodes[node].is_down = true,
            // What a server that was only suspended has got does not vanish.
            Step::Start(node) if !self.nodes[node].is_down => {}
            Step::Start(node) => {
                self.nodes[node] = Node { is_isolated: self.nodes[node].is_isolated, ..Node::default() }
            }
            Step::Suspend(node) => self.nodes[node].is_suspended = true,
            Step::Resume(node) => self.nodes[node].is_suspended = false,
            Step::LameDuck(node) => self.nodes[node].is_lame = true,
            Step::Isolate(node) => self.nodes[node].is_isolated = true,
            Step::Rejoin(node) => self.nodes[node].is_isolated = false,
            Step::Leaderless(stream) => self.streams[stream].leader = Leader::Away,
            Step::Mute(stream) => self.streams[stream].leader = Leader::Mute,
            Step::Lead(stream) => self.streams[stream].leader = Leader::There,
            Step::Delete(stream) => {
                self.streams[stream].exists = false;
                let takes = self.streams[stream].setup.takes;
                self.known.retain(|subject| !is_taken(takes, subject));
            }
            Step::Make(stream) => {
                let kept = &mut self.streams[stream];
                (kept.exists, kept.count) = (true, 0);
                kept.ids.clear();
            }
            Step::Busy(stream, times) => self.streams[stream].busy = times,
            Step::LoseAcks(count) => self.lost_acks = count,
            Step::DelayAcks(by) => self.delayed = by,
            Step::DoubleAcks(doubles) => self.doubles = doubles,
            Step::Subscribe => self.has_subscriber = true,
            Step::Unsubscribe => self.has_subscriber = false,
            Step::Api(api) => self.api = api,
            Step::Forbid(takes) => self.forbidden = Some(takes),
            Step::Allow => self.forbidden = None,
            Step::MaxPayload(size) => {
                self.max_payload = size;
                self.limit = self.limit.min(size);
            }
            Step::Limit(size) => self.limit = size,
            _ => {}
        }
    }

    /// All that was wrong is well again; who listens stays as it is.
    pub(super) fn heal(&mut self, setup: &Setup) {
        self.nodes = (0..setup.servers).map(|_| Node::default()).collect();
        for stream in &mut self.streams {
            stream.leader = Leader::There;
            stream.busy = 0;
            stream.exists = true;
        }
        self.api = setup.api;
        self.forbidden = None;
        (self.lost_acks, self.delayed) = (0, 0);
    }

    /// A node gets a message. Returns what comes of it, and whether its answer is doubled.
    pub(super) fn publish(&mut self, node: usize, message: &Published, now: u64) -> (Outcome, bool) {
        if message.size > self.limit {
            return (Outcome::TooLarge, false);
        }
        if self.forbidden.is_some_and(|takes| is_taken(takes, &message.subject)) {
            // The word of it may be lost on its way to us: then we do not know at all.
            deny(&mut self.denied, run_of(&message.id), now, u64::MAX);
            return (Outcome::Forbidden, false);
        }
        let is_alone = self.nodes[node].is_isolated;
        let run = run_of(&message.id).to_owned();
        let mut is_wanted = false;
        if self.has_subscriber && !is_alone {
            is_wanted = true;
            if self.denied.get(&run).is_some_and(|denied| message.sent <= denied.until) {
                self.excused.insert(run.clone());
            }
            // What a stream has or has refused already, and the subscriber was not there for, comes late.
            if !self.ever_stored.contains(&message.id) && !self.refused.contains(&message.id) {
                self.heard.push(message.id.clone());
            }
            self.ever_heard.insert(message.id.clone());
        }
        let streams = self.streams.iter_mut().enumerate();
        let mut taking =
            streams.filter(|(_, stream)| stream.exists && !is_alone && stream.takes(&message.subject));
        if let Some((number, stream)) = taking.next() {
            match stream.leader {
                // A subscriber keeps the server from saying no: that is noticed after a while.
                Leader::Away if is_wanted => {
                    deny(&mut self.denied, &run, now, UNTIL_WE_HOLD);
                    if !self.known.contains(&message.subject) {
                        // We cannot know of it yet: other subjects of the run may come first.
                        self.excused.insert(run.clone());
                    }
                }
                Leader::Away => {}
                Leader::Mute => {
                    self.swallowed.insert(message.id.clone());
                    deny(&mut self.denied, &run, now, UNTIL_WE_HOLD);
                    if !self.known.contains(&message.subject) {
                        // We cannot know of it yet: other subjects of the run may come first.
                        self.excused.insert(run);
                    }
                    return (Outcome::Nothing, false);
                }
                Leader::There => {
                    let mut reply = Reply::Stored;
                    let is_repeat = stream
                        .ids
                        .get(&message.id)
                        .is_some_and(|stored| now - stored < stream.setup.duplicate_window);
                    if stream.busy > 0 {
                        stream.busy -= 1;
                        reply = Reply::Busy;
                    } else if !is_repeat && stream.count >= stream.setup.max_msgs {
                        reply = Reply::Full;
                    } else if !is_repeat {
                        stream.count += 1;
                        stream.ids.insert(message.id.clone(), now);
                        self.stored.push((number, message.id.clone()));
                        self.ever_stored.insert(message.id.clone());
                    }
                    if reply == Reply::Stored
                        && self.denied.get(&run).is_some_and(|denied| message.sent <= denied.until)
                    {
                        self.excused.insert(run.clone());
                    }
                    if reply != Reply::Stored {
                        self.swallowed.insert(message.id.clone());
                    }
                    if reply == Reply::Full {
                        self.refused.insert(message.id.clone());
                    }
                    if reply == Reply::Busy {
                        deny(&mut self.denied, &run, now, UNTIL_WE_KNOW);
                    }
                    if stream.setup.no_ack || message.reply.is_none() {
                        return (Outcome::Nothing, false);
                    }
                    if self.lost_acks > 0 {
                        self.lost_acks -= 1;
                        // As if nobody had heard it: later ones may come first.
                        self.excused.insert(run);
                        return (Outcome::Nothing, false);
                    }
                    let after = stream.setup.latency + self.delayed;
                    if after > GRACE && stream.setup.is_hidden && !self.known.contains(&message.subject) {
                        // As if nobody had heard it, as far as we can know.
                        self.excused.insert(run);
                    }
                    return (Outcome::Answer(reply, after), self.doubles);
                }
            }
        }
        if is_wanted || message.reply.is_none() {
            return (Outcome::Nothing, false);
        }
        deny(&mut self.denied, &run, now, UNTIL_WE_KNOW);
        (Outcome::Nobody, false)
    }

    /// We know now that a message of this run was denied.
    pub(super) fn denial_is_known(&mut self, run: &str, now: u64) {
        if let Some(Denied { since, until }) = self.denied.get_mut(run) {
            let is_aside = now.saturating_sub(*since) >= ASIDE;
            *until = (*until).min(if is_aside { now + UNTIL_TRIED } else { now });
        }
    }

    /// We have heard a stream's acknowledgement for a message on this subject; but that of a stream which was deleted
    /// since says nothing of the one that was made anew.
    pub(super) fn know(&mut self, subject: String, id: &str) {
        let has_it = |stream: &Kept| stream.exists && stream.takes(&subject) && stream.ids.contains_key(id);
        if self.streams.iter().any(has_it) {
            self.known.insert(subject);
        }
    }

    /// Is there a stream for this subject, as far as the API sees?
    pub(super) fn sees(&self, subject: &str) -> bool {
        self.streams.iter().any(|stream| stream.exists && !stream.setup.is_hidden && stream.takes(subject))
    }

    /// Has anything behind the server got it?
    pub(super) fn is_wanted(&self, id: &str) -> bool {
        [&self.ever_heard, &self.ever_stored, &self.swallowed].iter().any(|got| got.contains(id))
    }

    pub(super) fn has_stream(&self, subject: &str) -> bool {
        self.streams.iter().any(|stream| stream.exists && stream.takes(subject))
    }

    /// Is there a stream that acknowledges?
    pub(super) fn has_leader(&self, subject: &str) -> bool {
        let there = |stream: &&Kept| stream.exists && stream.leader == Leader::There && !stream.setup.no_ack;
        self.streams.iter().filter(there).any(|stream| stream.takes(subject))
    }

    pub(super) fn is_isolated(&self, node: usize) -> bool {
        self.nodes[node].is_isolated
    }
}

/// What is sent before we can know of it may arrive first.
fn deny(denied: &mut HashMap<String, Denied>, run: &str, now: u64, until_we_know: u64) {
    let until = now.saturating_add(until_we_know);
    let denied = denied.entry(run.to_owned()).or_insert(Denied { since: now, until });
    // It is the same silence as long as no more than one try of it was in between.
    if now > denied.until.saturating_add(UNTIL_TRIED) {
        denied.since = now;
    }
    denied.until = until;
}

/// The run of a message, by its id.
pub(super) fn run_of(id: &str) -> &str {
    id.split('.').next().unwrap_or_default()
}

/// Its place in the run.
pub(super) fn place_of(id: &str) -> usize {
    id.split('.').nth(1).and_then(|place| place.parse().ok()).unwrap_or_default()
}
