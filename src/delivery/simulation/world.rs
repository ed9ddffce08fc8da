//! A simulated world in virtual time: the real machine and the real outbox, with jobs, a network and servers that are models.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    bus::{Bus, Published, Reply},
    script::{FAULTS_END, Script, Side, Step, Wanted},
};
use crate::{
    config::Delivery,
    delivery::{Action, Answer, Input, Machine, Says, Terms, Want, machine::HELD},
    fault,
    journal::Folder,
    message::Message,
    outbox::{Outbox, Places, Run},
};

/// Once all is well, all must be delivered within this time, in milliseconds.
const DELIVERED_WITHIN: u64 = 150_000;
/// What a thread may do in a simulated second without being busy for nothing, and what each message may cost on top.
const STEPS_A_SECOND: u64 = 800;
const STEPS_A_MESSAGE: u64 = 60;
/// A connection that failed is tried again after this time.
pub(super) const RECONNECT: u64 = 2_000;
/// What our inbox begins with.
pub(super) const INBOX: &str = "_INBOX";
const API: &str = "$JS.API";

/// What is on its way, or due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    Step(Step),
    /// All that is wrong ends.
    Heal,
    Dial,
    /// Another server was looked for.
    Looked(u64),
    ToServer(u64, Sent),
    /// A stream's answer, before it is on its way.
    Answer(u64, String, Back),
    ToUs(u64, String, Back),
    Gone(u64, String),
    /// Does the end of a run still wait?
    Ending(u64),
}

/// What we send.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Message(Published),
    Own { subject: String, reply: Option<String>, asked: Option<String> },
}

/// What comes back, to a subject.
#[derive(Clone, Debug)]
pub(super) enum Back {
    Echo,
    Nobody,
    Reply(Reply),
    Says(Says),
    Forbidden { publish: bool, subject: String },
    LameDuck,
}

pub(super) struct Job {
    pub(super) run: Arc<Run>,
    pub(super) pushed: usize,
    /// When its end began to wait.
    pub(super) ending: Option<u64>,
    pub(super) ended: bool,
    pub(super) folder: tempfile::TempDir,
}

pub(super) struct Link {
    pub(super) number: u64,
    pub(super) node: usize,
    /// When the last that is on its way arrives: nothing overtakes it.
    pub(super) to_server: u64,
    pub(super) to_us: u64,
    /// In which directions nothing gets through any more.
    pub(super) swallows: Vec<Side>,
    /// What waits in the socket of a server that is suspended.
    pub(super) backlog: Vec<Sent>,
    pub(super) is_hung_up: bool,
}

/// What came of a schedule.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) faults: usize,
    pub(super) accepted: u64,
    pub(super) stored: u64,
    pub(super) routed: u64,
    pub(super) kept: u64,
    pub(super) unheard: u64,
    pub(super) resent: u64,
    pub(super) log: Vec<String>,
}

pub(super) struct World<'a> {
    pub(super) script: &'a Script,
    pub(super) began: Instant,
    pub(super) now: u64,
    pub(super) order: u64,
    pub(super) due: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) things: HashMap<u64, Due>,
    pub(super) machine: Machine,
    pub(super) outbox: Outbox,
    pub(super) bus: Bus,
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) link: Option<Link>,
    pub(super) links: u64,
    pub(super) node: usize,
    pub(super) is_dialling: bool,
    /// The id of each number in the outbox.
    pub(super) ids: HashMap<u64, String>,
    pub(super) confirmed: HashSet<String>,
    pub(super) routed: HashSet<String>,
    /// The last marker that we sent.
    pub(super) marked: Option<u64>,
    pub(super) statuses: HashSet<String>,
    pub(super) sent_once: HashSet<String>,
    pub(super) is_well: bool,
    pub(super) largest: usize,
    pub(super) steps: u64,
    pub(super) report: Report,
    pub(super) talks: bool,
}

pub(super) type Checked = Result<(), String>;

impl<'a> World<'a> {
    pub(super) fn new(script: &'a Script, talks: bool) -> Self {
        let setup = &script.setup;
        let terms = Terms {
            delivery: match setup.delivery {
                Wanted::Auto => Delivery::Auto,
                Wanted::Jetstream => Delivery::Jetstream,
                Wanted::Core => Delivery::Core,
            },
            window: setup.window,
            stream: None,
            api: API.to_owned(),
            inbox_prefix: INBOX.to_owned(),
            connect_timeout: Duration::from_secs(2),
            reconnect_time_wait: Duration::from_millis(RECONNECT),
            held: setup.pending / HELD,
        };
        let mut world = Self {
            script,
            began: Instant::now(),
            now: 0,
            order: 0,
            due: BinaryHeap::new(),
            things: HashMap::new(),
            machine: Machine::new(terms),
            outbox: Outbox::new(setup.pending),
            bus: Bus::new(setup),
            jobs: HashMap::new(),
            link: None,
            links: 0,
            node: 0,
            is_dialling: false,
            ids: HashMap::new(),
            confirmed: HashSet::new(),
            routed: HashSet::new(),
            marked: None,
            statuses: HashSet::new(),
            sent_once: HashSet::new(),
            is_well: false,
            largest: 0,
            steps: 0,
            report: Report::default(),
            talks,
        };
        for (at, step) in &script.steps {
            world.at(*at, Due::Step(*step));
        }
        world.at(FAULTS_END, Due::Heal);
        world.at(0, Due::Dial);
        world.is_dialling = true;
        world
    }

    /// Lets the schedule happen, and says what was wrong.
    pub(super) fn run(mut self) -> Result<Report, (String, Report)> {
        let checked = self.all();
        fault::disk_is_full(false);
        match checked.and_then(|()| self.check_fates()) {
            Ok(()) => Ok(self.report),
            Err(wrong) => Err((wrong, self.report)),
        }
    }

    fn all(&mut self) -> Checked {
        let last_step = self.script.steps.iter().map(|(at, _)| *at).max().unwrap_or(0);
        let limit = last_step.max(FAULTS_END) + DELIVERED_WITHIN + self.takes();
        loop {
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            let wakes = self.machine.wakes_at(self.instant()).map(|at| self.millis(at));
            let wakes = wakes.map(|at| at.max(self.now));
            let Some(at) = next.into_iter().chain(wakes).min() else { return Ok(()) };
            let is_time = next.is_none_or(|next| wakes.is_some_and(|wakes| wakes < next));
            self.now = self.now.max(at);
            self.steps += 1;
            let messages = self.jobs.values().map(|job| job.pushed as u64).sum::<u64>();
            let most = (self.now / 1_000 + 2) * STEPS_A_SECOND + messages * STEPS_A_MESSAGE;
            if self.steps > most {
                return Err(format!("busy for nothing: {} steps", self.steps));
            }
            if is_time {
                self.tell(Input::Time)?;
            } else if let Some(Reverse((_, order))) = self.due.pop()
                && let Some(due) = self.things.remove(&order)
            {
                self.happen(due)?;
            }
            self.fill()?;
            self.check_window()?;
            if self.is_well && self.jobs.values().all(|job| job.ended) {
                return Ok(());
            }
            if self.now > limit {
                return if self.jobs.keys().all(|run| self.is_hopeless(*run)) {
                    Ok(())
                } else {
                    Err(self.what_is_left())
                };
            }
        }
    }

    /// What a slow link takes for all of it, in milliseconds.
    fn takes(&self) -> u64 {
        let setup = &self.script.setup;
        let stream = setup.streams.iter().map(|stream| stream.latency).max().unwrap_or(0);
        let sizes = self.script.steps.iter().filter_map(|(_, step)| match step {
            Step::Event(_, size) => Some(*size as u64 + 500),
            Step::Status(_) | Step::End(_) => Some(600),
            _ => None,
        });
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        let trips = count / setup.window as u64 * (2 * setup.latency + stream);
        2 * (trips + bytes.checked_div(setup.bandwidth).unwrap_or(0))
    }

    pub(super) fn what_is_left(&self) -> String {
        let left: Vec<String> = (0..)
            .map_while(|seq| self.ids.get(&seq))
            .filter(|id| !self.confirmed.contains(*id))
            .take(5)
            .cloned()
            .collect();
        format!("all is well, and not all is delivered: {left:?}; {:?}", self.machine)
    }

    pub(super) fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros().div_ceil(1_000))
            .unwrap_or(u64::MAX)
    }

    pub(super) fn at(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.due.push(Reverse((at, self.order)));
        self.things.insert(self.order, due);
    }

    pub(super) fn log(&mut self, text: impl FnOnce() -> String) {
        if self.talks {
            let text = format!("{:>6} {}", self.now, text());
            self.report.log.push(text);
        }
    }

    fn happen(&mut self, due: Due) -> Checked {
        match due {
            Due::Step(step) => self.step(step),
            Due::Heal => {
                self.is_well = true;
                self.bus.heal(&self.script.setup);
                self.resume(self.links);
                fault::disk_is_full(false);
                if let Some(link) = &mut self.link
                    && !link.swallows.is_empty()
                {
                    let number = link.number;
                    self.at(self.now, Due::Gone(number, "connection reset".to_owned()));
                }
                Ok(())
            }
            Due::Dial => self.dial(),
            Due::Looked(number) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    if self.another_node().is_some() {
                        return self.tell(Input::Found);
                    }
                    self.at(self.now + 500, Due::Looked(number));
                }
                Ok(())
            }
            Due::ToServer(number, sent) => {
                self.arrive(number, sent);
                Ok(())
            }
            Due::Answer(number, subject, back) => {
                self.send_back(number, subject, back);
                Ok(())
            }
            Due::ToUs(number, subject, back) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    self.hear(&subject, back)
                } else {
                    Ok(())
                }
            }
            Due::Gone(number, reason) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    self.link = None;
                    self.log(|| format!("gone: {reason}"));
                    self.tell(Input::Gone(reason))?;
                }
                Ok(())
            }
            Due::Ending(run) => self.ending(run),
        }
    }

    fn step(&mut self, step: Step) -> Checked {
        self.report.faults += usize::from(!step.is_of_the_job());
        if !step.is_of_the_job() {
            self.log(|| format!("{step:?}"));
        }
        match step {
            Step::Event(run, size) => self.push(run, "event", size),
            Step::Status(run) => self.push(run, "status", 60),
            Step::End(run) => {
                self.push(run, "status", 60)?;
                if let Some(job) = self.jobs.get_mut(&run) {
                    job.ending = Some(self.now);
                }
                self.at(self.now, Due::Ending(run));
                Ok(())
            }
            Step::Cut => {
                self.hang_up("connection reset");
                Ok(())
            }
            Step::Lie => self.lie(),
            Step::Swallow(side) => {
                if let Some(link) = &mut self.link {
                    link.swallows.push(side);
                }
                Ok(())
            }
            Step::DiskFull(is_full) => {
                fault::disk_is_full(is_full);
                Ok(())
            }
            Step::Panic => {
                // What was to be done is not done, and the runtime goes with its connection.
                let _ = self.machine.after_panic();
                self.link = None;
                self.dial_later(1_000);
                Ok(())
            }
            step => {
                self.bus.step(step);
                let link = self.link.as_ref().map(|link| (link.number, link.node));
                if let Some((number, node)) = link {
                    match step {
                        Step::Kill(killed) if killed == node => self.hang_up("connection reset"),
                        Step::Resume(resumed) if resumed == node => self.resume(number),
                        Step::LameDuck(lame) if lame == node => {
                            self.send_back(number, String::new(), Back::LameDuck);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    fn push(&mut self, run: u64, kind: &str, size: usize) -> Checked {
        if !self.jobs.contains_key(&run) {
            let folder = tempfile::tempdir_in(memory_disk()).map_err(|error| error.to_string())?;
            let opened = Run::unrecorded(
                &run.to_string(),
                Folder::of(Some(folder.path().to_owned())),
                Duration::from_millis(self.script.setup.flush_timeout),
            );
            self.outbox.open(&opened);
            self.jobs.insert(run, Job { run: opened, pushed: 0, ending: None, ended: false, folder });
        }
        let Some(job) = self.jobs.get_mut(&run) else { return Ok(()) };
        let id = format!("r{run}.{}", job.pushed);
        job.pushed += 1;
        let payload = serde_json::json!({ "kind": kind, "filling": "x".repeat(size) }).to_string();
        let message = Message::alone(&format!("pub.s.r{run}.{kind}"), Vec::new(), &id, payload);
        let is_essential = kind == "status";
        if is_essential {
            self.statuses.insert(message.id());
        }
        let _ = self.outbox.push(&Arc::clone(&job.run), message, is_essential);
        // One message is taken back from disk however large it is, and one more fits by a byte; statuses are kept even where
        // there is no room at all.
        self.largest = self.largest.max(size + 1_000);
        let most = self.script.setup.pending + 2 * self.largest + 2_000 * self.jobs.len();
        if self.outbox.bytes() > most {
            return Err(format!("{} bytes are held where {most} may be", self.outbox.bytes()));
        }
        Ok(())
    }

    /// Does the end of a run still wait? As the courier decides it.
    fn ending(&mut self, number: u64) -> Checked {
        let Some(job) = self.jobs.get(&number).filter(|job| !job.ended) else { return Ok(()) };
        let run = Arc::clone(&job.run);
        let waited = self.now - job.ending.unwrap_or(self.now);
        let is_settled = self.outbox.wait_settled(&run, Instant::now());
        let is_over =
            is_settled || waited >= self.script.setup.flush_timeout || (run.is_unheard() && waited >= 1_000);
        if !is_over {
            self.at(self.now + 100, Due::Ending(number));
            return Ok(());
        }
        let was_unheard = run.is_unheard();
        let leftovers = self.outbox.settle(&run);
        self.outbox.close(&run);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.ended = true;
        }
        self.log(|| format!("run {number} ends after {waited} ms; unheard: {was_unheard}; {leftovers:?}"));
        let unheard = run.so_far().unheard;
        if (was_unheard || unheard > 0) && self.could_be_heard(number) {
            return Err(format!("run {number} ended, {unheard} unheard, and there is somebody who listens"));
        }
        // Once all is well, nothing but what nobody hears or takes need be left.
        if self.is_well && !is_settled && !was_unheard && !self.is_hopeless(number) {
            return Err(format!(
                "run {number} ended after {waited} ms with messages left: {}",
                self.what_is_left()
            ));
        }
        Ok(())
    }

    /// The machine is told something, and what it says is done.
    pub(super) fn tell(&mut self, input: Input) -> Checked {
        self.machine.on(self.instant(), input);
        self.perform()
    }

    fn fill(&mut self) -> Checked {
        let _ = self.outbox.refill();
        while let Some(want) = self.machine.wants(self.instant()) {
            match want {
                Want::Again(seqs) => {
                    let batch = self.outbox.take_again(&seqs);
                    self.tell(Input::TakenAgain(batch))?;
                }
                Want::Next { most, bytes } => {
                    let batch = self.outbox.take(most, bytes);
                    if batch.is_empty() {
                        break;
                    }
                    for sending in &batch {
                        self.ids.insert(sending.seq, sending.message.id());
                    }
                    self.tell(Input::Taken(batch))?;
                }
            }
        }
        self.perform()
    }

    fn perform(&mut self) -> Checked {
        let now = self.instant();
        let mut sent = Vec::new();
        while let Some(action) = self.machine.action() {
            match action {
                Action::Send { seq, message, reply, .. } => {
                    sent.push(seq);
                    let id = message.id();
                    self.log(|| format!("send {seq} {id} to {}, answer to {reply:?}", message.head.subject));
                    self.sent_once.insert(id.clone());
                    self.put(Sent::Message(Published {
                        subject: message.head.subject.to_string(),
                        reply,
                        id,
                        size: message.wire_size(),
                        sent: self.now,
                    }));
                }
                Action::Say { subject, reply, payload } => {
                    if let Answer::Marker(ordinal) = self.machine.inbox().understand(&subject) {
                        self.marked = Some(ordinal);
                    }
                    let asked = serde_json::from_slice::<serde_json::Value>(&payload).ok();
                    let asked = asked.and_then(|asked| Some(asked.get("subject")?.as_str()?.to_owned()));
                    self.put(Sent::Own { subject, reply, asked });
                }
                Action::Flush => self.machine.on(now, Input::Flushed(self.link.is_some())),
                Action::Confirm(proofs) => {
                    self.outbox.mark_sent(&std::mem::take(&mut sent));
                    self.log(|| format!("confirm {proofs:?}"));
                    for (seq, proof) in &proofs {
                        self.check_proof(*seq, *proof)?;
                    }
                    self.outbox.confirm(&proofs, &Places::new(), now);
                }
                Action::Unheard(seqs, unheard) => {
                    self.log(|| format!("unheard {unheard} {seqs:?}"));
                    self.outbox.mark_unheard(&seqs, unheard);
                }
                Action::Reject { seq, reason, .. } => {
                    self.log(|| format!("rejected {seq}: {reason}"));
                    let _ = self.outbox.reject(seq, "refused");
                }
                Action::Rewind => self.outbox.rewind(now),
                Action::Tell(tell) => self.log(|| format!("{tell:?}")),
                Action::Look => {
                    let number = self.links;
                    self.at(self.now + 20, Due::Looked(number));
                }
                Action::End(end) => self.end(&end),
            }
        }
        self.outbox.mark_sent(&sent);
        Ok(())
    }
}

/// Files that are no disk's business.
fn memory_disk() -> &'static Path {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared } else { Path::new("/tmp") }
}
