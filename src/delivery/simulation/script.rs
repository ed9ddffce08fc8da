//! What happens in a simulation, and when: made from a seed, kept as text, and made shorter where it fails.

use std::ops::RangeInclusive;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// A schedule: how things are, and what happens to them. Times are milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) steps: Vec<(u64, Step)>,
}

/// How things are in the beginning.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Setup {
    pub(super) delivery: Wanted,
    pub(super) servers: usize,
    /// The servers say that they have JetStream.
    pub(super) jetstream: bool,
    pub(super) window: usize,
    /// What memory may hold, in bytes.
    pub(super) pending: usize,
    pub(super) max_payload: usize,
    /// From here to the server, and back again.
    pub(super) latency: u64,
    /// Bytes per millisecond; 0: no limit.
    pub(super) bandwidth: u64,
    pub(super) streams: Vec<Stream>,
    pub(super) has_subscriber: bool,
    pub(super) api: Api,
    /// May we publish to our inbox, and subscribe to it?
    pub(super) inbox: Inbox,
    /// How long the end of a run waits.
    pub(super) flush_timeout: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Wanted {
    Auto,
    Jetstream,
    Core,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Stream {
    pub(super) takes: Takes,
    /// The API does not see it: it is behind a mapping, an import or a leaf node.
    pub(super) is_hidden: bool,
    pub(super) no_ack: bool,
    /// How long its acknowledgement takes.
    pub(super) latency: u64,
    pub(super) duplicate_window: u64,
    /// It refuses what comes after so many.
    pub(super) max_msgs: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Takes {
    All,
    Events,
    Statuses,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Api {
    Answers,
    Silent,
    /// It has no leader.
    NotNow,
    /// Nobody answers for it.
    Nobody,
    Forbidden,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Inbox {
    Open,
    /// We may not publish there.
    Deaf,
    /// We may not even subscribe.
    Closed,
}

/// What happens.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Step {
    /// A run has an event of this size.
    Event(u64, usize),
    /// A run has another status.
    Status(u64),
    /// A run ends.
    End(u64),
    /// The connection breaks.
    Cut,
    /// From now on nothing gets through any more, in this direction.
    Swallow(Side),
    Kill(usize),
    Start(usize),
    /// `SIGSTOP` and `SIGCONT`.
    Suspend(usize),
    Resume(usize),
    LameDuck(usize),
    /// A server is cut off from its cluster, or is not any more.
    Isolate(usize),
    Rejoin(usize),
    /// A stream has no leader: nobody answers.
    Leaderless(usize),
    /// A stream's leader gets messages and says nothing.
    Mute(usize),
    Lead(usize),
    Delete(usize),
    Make(usize),
    /// A stream's next answers are that it cannot store it now.
    Busy(usize, usize),
    /// The next acknowledgements get lost, or come this much later, or twice.
    LoseAcks(usize),
    DelayAcks(u64),
    DoubleAcks(bool),
    Subscribe,
    Unsubscribe,
    Api(Api),
    Forbid(Takes),
    Allow,
    MaxPayload(usize),
    /// The account takes less than the server says.
    Limit(usize),
    DiskFull(bool),
    /// The courier's thread panics.
    Panic,
    /// The server answers what was never sent, or never asked for.
    Lie,
}

/// A direction.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Side {
    ToServer,
    ToUs,
}

impl Step {
    /// Is it something that the job does?
    pub(super) fn is_of_the_job(self) -> bool {
        matches!(self, Self::Event(..) | Self::Status(_) | Self::End(_))
    }
}

/// When the last fault is over at the latest.
pub(super) const FAULTS_END: u64 = 30_000;

impl Script {
    /// The schedule of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let setup = setup(&mut rng);
        let mut steps = Vec::new();
        for run in 0..*pick(&mut rng, &[1, 2, 2, 3, 4]) {
            job(&mut rng, run, &setup, &mut steps);
        }
        for _ in 0..rng.usize(0..=7) {
            fault(&mut rng, &setup, &mut steps);
        }
        steps.sort_by_key(|(at, _)| *at);
        Self { seed, setup, steps }
    }

    /// Shorter ones, the shortest first: without a part of the steps, or simpler.
    pub(super) fn shorter(&self) -> Vec<Self> {
        let mut shorter = Vec::new();
        let mut part = self.steps.len() / 2;
        while part > 0 {
            for from in (0..self.steps.len()).step_by(part) {
                let mut script = self.clone();
                script.steps.drain(from..(from + part).min(self.steps.len()));
                shorter.push(script);
            }
            part /= 2;
        }
        let simpler: [fn(&mut Setup); 5] = [
            |setup| setup.bandwidth = 0,
            |setup| setup.latency = 1,
            |setup| setup.pending = 1 << 20,
            |setup| setup.window = 256,
            |setup| setup.streams.iter_mut().for_each(|stream| stream.latency = 1),
        ];
        for simplify in simpler {
            let mut script = self.clone();
            simplify(&mut script.setup);
            if serde_json::to_string(&script.setup).unwrap() != serde_json::to_string(&self.setup).unwrap() {
                shorter.push(script);
            }
        }
        shorter
    }
}

fn setup(rng: &mut Rng) -> Setup {
    let delivery = *pick(rng, &[Wanted::Auto, Wanted::Auto, Wanted::Auto, Wanted::Jetstream, Wanted::Core]);
    let streams = match rng.u8(0..10) {
        0..=1 => Vec::new(),
        2..=7 => vec![stream(rng, Takes::All)],
        8 => vec![stream(rng, Takes::Events)],
        _ => vec![stream(rng, Takes::Events), stream(rng, Takes::Statuses)],
    };
    Setup {
        delivery,
        servers: rng.usize(1..=3),
        jetstream: rng.u8(0..4) > 0,
        window: *pick(rng, &[1, 3, 16, 256, 1024]),
        pending: *pick(rng, &[4_000, 20_000, 1 << 20, 1 << 20, 1 << 26, 1 << 26]),
        max_payload: *pick(rng, &[1_000, 8_000, 1 << 20]),
        latency: *pick(rng, &[1, 1, 1, 5, 40, 150]),
        bandwidth: *pick(rng, &[0, 0, 0, 100]),
        streams,
        has_subscriber: rng.u8(0..3) == 0,
        api: *pick(
            rng,
            &[Api::Answers, Api::Answers, Api::Answers, Api::Silent, Api::Nobody, Api::Forbidden],
        ),
        inbox: *pick(
            rng,
            &[Inbox::Open; 16].iter().copied().chain([Inbox::Deaf, Inbox::Closed]).collect::<Vec<_>>(),
        ),
        flush_timeout: *pick(rng, &[300_000, 300_000, 5_000]),
    }
}

fn stream(rng: &mut Rng, takes: Takes) -> Stream {
    Stream {
        takes,
        is_hidden: rng.u8(0..3) == 0,
        no_ack: rng.u8(0..20) == 0,
        latency: *pick(rng, &[0, 1, 1, 3, 20, 100]),
        duplicate_window: *pick(rng, &[120_000, 120_000, 500]),
        max_msgs: if rng.u8(0..15) == 0 { rng.usize(1..20) } else { usize::MAX },
    }
}

fn job(rng: &mut Rng, run: u64, setup: &Setup, steps: &mut Vec<(u64, Step)>) {
    let begin = if rng.bool() { 0 } else { rng.u64(0..20_000) };
    let end = begin + rng.u64(0..25_000);
    steps.push((begin, Step::Status(run)));
    steps.push((begin, Step::Status(run)));
    let largest = if rng.u8(0..8) == 0 { 2 * setup.max_payload.min(20_000) } else { 900 };
    for _ in 0..rng.u64(0..30) {
        let at = rng.u64(begin..=end);
        // Ansible's events come in bursts.
        for _ in 0..*pick(rng, &[1, 1, 1, 3, 12]) {
            steps.push((at, Step::Event(run, rng.usize(10..=largest.max(10)))));
        }
    }
    // Some end long after all is well again.
    let late = if rng.bool() { FAULTS_END + 12_000 } else { 0 };
    steps.push((late.max(end + 1), Step::End(run)));
}

fn fault(rng: &mut Rng, setup: &Setup, steps: &mut Vec<(u64, Step)>) {
    let at = rng.u64(0..FAULTS_END - 12_000);
    let (short, long) = (at + rng.u64(1..2_500), at + rng.u64(2_500..12_000));
    let until = if rng.bool() { short } else { long };
    let server = rng.usize(0..setup.servers);
    let stream = rng.usize(0..setup.streams.len().max(1));
    let mut add = |at: u64, step: Step| steps.push((at, step));
    let streams_are_there = !setup.streams.is_empty();
    match rng.u8(0..27) {
        3 => {
            add(at, Step::Swallow(*pick(rng, &[Side::ToServer, Side::ToUs])));
            add(long, Step::Cut);
        }
        4..=5 => {
            add(at, Step::Kill(server));
            add(until, Step::Start(server));
        }
        6 => (0..setup.servers).for_each(|server| {
            add(at, Step::Kill(server));
            add(until, Step::Start(server));
        }),
        7 => {
            add(at, Step::Suspend(server));
            add(until, Step::Resume(server));
        }
        8 => {
            add(at, Step::LameDuck(server));
            add(long, Step::Kill(server));
            add(long + 500, Step::Start(server));
        }
        9 => {
            add(at, Step::Isolate(server));
            add(until, Step::Rejoin(server));
        }
        10..=12 if streams_are_there => {
            add(at, Step::Leaderless(stream));
            add(until, Step::Lead(stream));
        }
        13 if streams_are_there => {
            add(at, Step::Mute(stream));
            add(until.max(at + 1_000), Step::Lead(stream));
        }
        14 if streams_are_there => {
            add(at, Step::Delete(stream));
            add(until, Step::Make(stream));
        }
        15 if streams_are_there => add(at, Step::Busy(stream, rng.usize(1..30))),
        16 => add(at, Step::LoseAcks(rng.usize(1..10))),
        17 => {
            add(at, Step::DelayAcks(rng.u64(1..3_000)));
            add(until, Step::DelayAcks(0));
        }
        18 => add(at, Step::DoubleAcks(true)),
        19..=20 => {
            let steps = [Step::Subscribe, Step::Unsubscribe];
            let (first, second) =
                if setup.has_subscriber { (steps[1], steps[0]) } else { (steps[0], steps[1]) };
            add(at, first);
            if rng.bool() {
                add(until, second);
            }
        }
        21 => {
            add(at, Step::Api(*pick(rng, &[Api::Silent, Api::NotNow, Api::Nobody, Api::Forbidden])));
            add(until, Step::Api(setup.api));
        }
        22 => {
            add(at, Step::Forbid(*pick(rng, &[Takes::All, Takes::Events, Takes::Statuses])));
            add(until, Step::Allow);
        }
        23 => {
            let size = rng.usize(600..2_000);
            if rng.bool() {
                add(at, Step::MaxPayload(size));
                add(at + 1, Step::Cut);
            } else {
                add(at, Step::Limit(size));
            }
        }
        24 => {
            add(at, Step::DiskFull(true));
            add(until, Step::DiskFull(false));
        }
        25 => add(at, Step::Panic),
        26 => (0..5).for_each(|often| add(at + often * 50, Step::Lie)),
        _ => add(at, Step::Cut),
    }
}

fn pick<'a, T>(rng: &mut Rng, all: &'a [T]) -> &'a T {
    let range: RangeInclusive<usize> = 0..=all.len() - 1;
    &all[rng.usize(range)]
}
