//! What is known of one run.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    News, OnHost, RECAP,
    card::Card,
    failure::{Failure, Fate, find_rescued},
    output::{Output, printed},
    payload::{Data, Payload, Res},
    recap::Recap,
    seen::{Hearing, Seen},
    status::Status,
    style::{harmless, without_colors},
    tasks::{Outcome, Task, Tasks, Told, Waiting, What},
};
use crate::{
    harmless::one_line,
    message::{KILLED, Kind, Own, Received, RunId, moment},
};

/// A run that says nothing for this long is silent, unless it gives signs of life at a pace of its own.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// How many failures of a run are kept.
const FAILURES: usize = 1_000;

/// The event that a task begins on a host.
const BEGINS: &str = "runner_on_start";

/// How it is known that the process of a run is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Whoever has taken up what was left of it has said so.
    Told,
    /// A stream has let go of its last sign of life at that time. It may only have had no connection.
    Silence(SystemTime),
}

/// A run.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Run {
    /// Whose run it is.
    pub(crate) subject_id: String,
    /// Its ident.
    pub(crate) ident: String,
    /// What tells it from other runs of that name, if its messages say so.
    pub(crate) identity: Option<RunId>,
    /// On whose behalf it runs, and where, if its card says so.
    pub(crate) actor: Option<String>,
    pub(crate) host: Option<String>,
    /// What else its card says.
    pub(crate) card: Card,
    /// What ansible-runner has called, as its first status says.
    pub(crate) command: Vec<String>,
    /// The playbook, or the module.
    pub(crate) playbook: String,
    /// What it is at.
    pub(crate) play: String,
    pub(crate) task: String,
    /// The counters of the events that say so, of the play and of the task.
    named_at: [u64; 2],
    status: Option<Status>,
    /// Its process is gone, and it had not ended.
    death: Option<Death>,
    nonce: Option<String>,
    /// An earlier run had the same name.
    pub(crate) is_again: bool,
    /// A later run has the same name.
    pub(crate) is_superseded: bool,
    /// How its tasks went: as ansible says, once it does.
    pub(crate) recap: Recap,
    pub(super) has_stats: bool,
    /// The same for each host.
    pub(super) recaps: BTreeMap<String, Recap>,
    /// Tasks that were started, and how many the last successful run of the same playbook had.
    pub(crate) task_count: u64,
    pub(crate) known_tasks: Option<u64>,
    /// The tasks, in order.
    pub(crate) tasks: Tasks,
    /// What went wrong, in order.
    pub(crate) failures: Vec<Failure>,
    /// When it began and ended, as far as messages say.
    pub(crate) started: Option<SystemTime>,
    pub(crate) ended: Option<SystemTime>,
    /// When the last message of it was made, and when it was heard by the reader's clock.
    pub(crate) last_event: Option<SystemTime>,
    pub(crate) heard: SystemTime,
    /// When its last event was: signs of life say that the process lives, and not that the job gets on.
    pub(crate) progressed: Option<SystemTime>,
    /// The last sign of life, and how long it is from one to the next.
    beat: Option<(u64, SystemTime)>,
    beats_every: Option<Duration>,
    /// When a stream has stored the first message of it.
    pub(crate) first_stored: Option<SystemTime>,
    /// It publishes only some of its events.
    selects: bool,
    /// Messages that were cut to fit.
    pub(crate) cut: u64,
    seen: Seen,
    /// What it printed last.
    pub(crate) output: Output,
    /// A stream was asked for all of it.
    pub(crate) is_fetched: bool,
}

impl Run {
    pub(super) fn new(subject_id: &str, ident: &str) -> Self {
        Self {
            subject_id: subject_id.to_owned(),
            ident: ident.to_owned(),
            identity: None,
            actor: None,
            host: None,
            card: Card::default(),
            command: Vec::new(),
            playbook: String::new(),
            play: String::new(),
            task: String::new(),
            named_at: [0; 2],
            status: None,
            death: None,
            nonce: None,
            is_again: false,
            is_superseded: false,
            recap: Recap::default(),
            has_stats: false,
            recaps: BTreeMap::new(),
            task_count: 0,
            known_tasks: None,
            tasks: Tasks::default(),
            failures: Vec::new(),
            started: None,
            ended: None,
            last_event: None,
            heard: SystemTime::UNIX_EPOCH,
            progressed: None,
            beat: None,
            beats_every: None,
            first_stored: None,
            selects: false,
            cut: 0,
            seen: Seen::default(),
            output: Output::default(),
            is_fetched: false,
        }
    }

    /// The last status that ansible-runner told; `running` if none was heard.
    pub(crate) fn status(&self) -> Status {
        match (self.status, self.death) {
            (Some(status), _) if status.is_end() => status,
            (_, Some(_)) => Status::Killed,
            (status, None) => status.unwrap_or(Status::Running),
        }
    }

    /// Has it ended, by itself or not?
    pub(crate) fn is_over(&self) -> bool {
        self.status().is_end()
    }

    /// What to show: its status, or `silent` if it has said nothing for too long. `limit`: how long that is, if
    /// somebody says so.
    pub(crate) fn state(&self, now: SystemTime, limit: Option<Duration>) -> Status {
        if self.is_silent(now, limit) { Status::Silent } else { self.status() }
    }

    fn is_silent(&self, now: SystemTime, limit: Option<Duration>) -> bool {
        !self.is_over() && self.silent_in(now, limit).is_none()
    }

    /// How long until it counts as silent, if it goes on and says nothing more; `None`: it does already. `limit` as for
    /// [`Self::state`].
    pub(crate) fn silent_in(&self, now: SystemTime, limit: Option<Duration>) -> Option<Duration> {
        let limit = limit.unwrap_or_else(|| self.beats_every.map_or(SILENT_AFTER, |every| every * 2));
        limit.checked_sub(self.silence(now))
    }

    /// How long ago it was heard last.
    pub(crate) fn silence(&self, now: SystemTime) -> Duration {
        now.duration_since(self.heard).unwrap_or_default()
    }

    /// Was its first word heard? Else it is not known when it began, only that it was before.
    pub(crate) fn has_beginning(&self) -> bool {
        self.seen.from_start
    }

    /// How long it has taken, or takes so far; `None` if nobody knows when it began.
    pub(crate) fn duration(&self, now: SystemTime) -> Option<Duration> {
        if !self.has_beginning() {
            return None;
        }
        let end = if self.is_over() { self.ended? } else { now };
        Some(end.duration_since(self.started?).unwrap_or_default())
    }

    /// How long one of its tasks took, or takes so far.
    pub(crate) fn duration_of(&self, task: &Task, now: SystemTime) -> Option<Duration> {
        self.tasks.duration(task, self.end_or(now))
    }

    /// When it ended; `now`, if it goes on.
    pub(crate) fn end_or(&self, now: SystemTime) -> SystemTime {
        if self.is_over() { self.ended.or(self.last_event).unwrap_or(now) } else { now }
    }

    /// For whom it waits: hosts that have begun with a task and have told nothing since, who has waited the longest first.
    /// Of a run that is over: for whom it waited in the end. Empty where that is not known.
    pub(crate) fn waiting(&self) -> Vec<Waiting<'_>> {
        let Some(since) = self.tasks.waits_since() else { return Vec::new() };
        if self.has_stats {
            // ansible's last word.
            return Vec::new();
        }
        let missing = if self.selects { None } else { self.seen.last_gap_after(since) };
        self.tasks.waiting(missing)
    }

    /// Events that did not arrive (yet). Of a run that publishes only some nobody can know.
    pub(crate) fn missing(&self) -> u64 {
        if self.selects { 0 } else { self.seen.missing() }
    }

    /// Of these, how many are between others that did.
    pub(crate) fn gaps(&self) -> u64 {
        if self.selects { 0 } else { self.seen.gaps() }
    }

    /// The first event that arrived.
    pub(crate) fn first_counter(&self) -> Option<u64> {
        self.seen.lowest
    }

    /// Does it publish only some of its events?
    pub(crate) fn selects(&self) -> bool {
        self.selects
    }

    /// How many events were heard.
    pub(super) fn event_count(&self) -> u64 {
        self.seen.count()
    }

    /// Was any event heard?
    pub(crate) fn has_events(&self) -> bool {
        self.seen.count() > 0
    }

    /// Does a message tell of an earlier run of the same name?
    pub(super) fn is_before(&self, message: &Received) -> bool {
        self.seen.from_start && self.first_stored > message.stored && message.stored.is_some()
    }

    /// Was it heard from its first event on?
    pub(crate) fn is_whole(&self) -> bool {
        self.is_fetched || self.seen.from_start
    }

    /// Was it heard of, but not from its first event on, while a stream has more of it?
    pub(crate) fn is_worth_reading(&self) -> bool {
        !self.is_fetched
            && self.first_stored.is_some()
            && (self.is_over() || self.has_events())
            && !self.seen.has_first()
    }

    pub(super) fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }

    pub(super) fn would_hear(&self, counter: u64, own: Option<Own<'_>>) -> Hearing {
        self.seen.hearing(counter, uuid_of(own))
    }

    /// Takes a message in; `None` if it was there before.
    pub(super) fn hear(
        &mut self,
        payload: &Payload<'_>,
        own: Option<Own<'_>>,
        message: &Received,
        now: SystemTime,
    ) -> Option<News> {
        let created = payload.created.as_deref().and_then(moment).map(|(_, when)| when);
        let when = created.or(message.said).or(message.stored);
        self.first_stored = [self.first_stored, message.stored].into_iter().flatten().min();
        self.selects |= message.selected;
        // What a stream has kept was said when it was stored.
        let heard = message.stored.map_or(now, |stored| stored.min(now));
        // A process that says something is not gone, whatever the stream was told to believe.
        if self.death.is_some_and(|death| matches!(death, Death::Silence(since) if created > Some(since))) {
            self.revive();
            self.ended = None;
        }
        // A status without a time of its own was said when it was stored: of the end that is late for a beginning.
        let has_time = created.is_some() || message.said.is_some();
        if (!self.is_over() || payload.counter.is_some() || has_time) && !payload.says_killed() {
            self.started = [self.started, when].into_iter().flatten().min();
        }
        let mut news = if payload.says_killed() {
            self.on_killed(Death::Told)?
        } else if let Some(number) = payload.heartbeat {
            self.on_heartbeat(number, created)
        } else if let Some(status) = payload.status.as_deref() {
            self.on_status(status, payload, own, when)?
        } else {
            self.on_event(payload, own, when)?
        };
        self.heard = self.heard.max(heard);
        self.cut += u64::from(message.cut);
        if !payload.says_killed() {
            self.last_event = self.last_event.max(when);
        }
        if let Some(card) = message.card.as_deref() {
            (self.actor, self.host, self.card) = Card::read(card);
        }
        news.when = when;
        self.explain();
        Some(news)
    }

    /// A run that failed though no task did has a reason all the same, and so has one that was not left to end.
    fn explain(&mut self) {
        let status = self.status();
        // Of a run whose events were not read nobody can say.
        if !status.is_failure() || !self.has_events() {
            return;
        }
        self.failures.retain(|failure| !failure.is_of_run());
        // Until ansible's recap: where something followed on the host, a failure may have been dealt with.
        let was_followed = |failure: &Failure| self.tasks.last_on(&failure.host) > Some(failure.counter);
        let ends_it = |failure: &Failure| failure.counts() && (self.has_stats || !was_followed(failure));
        let is_cut_short = matches!(status, Status::Timeout | Status::Killed);
        if !is_cut_short && self.failures.iter().any(ends_it) {
            return;
        }
        let counter = self.seen.highest.unwrap_or(0);
        let waiting = self.waiting();
        let waiting = waiting.split_first().map(|(Waiting { host, task, .. }, more)| match more.len() {
            0 => format!("it ended while {host} was at: {task}"),
            more => format!("it ended while {host} and {more} more were at: {task}"),
        });
        let reason = Failure::of_run(status, &self.task, waiting, self.output.lines().rev(), counter);
        self.failures.push(reason);
    }

    /// In the place of a task, where it is said why the run failed.
    pub(crate) fn who_failed(&self) -> &'static str {
        let has_failing_task = self.failures.iter().any(|failure| failure.counts() && !failure.is_of_run());
        if has_failing_task { "the run" } else { "no task did" }
    }

    /// It was not killed, whatever was said.
    fn revive(&mut self) {
        if self.death.take().is_some() {
            self.failures.retain(|failure| !failure.is_of_run());
        }
    }

    /// Somebody says that its process is gone.
    fn on_killed(&mut self, death: Death) -> Option<News> {
        let was_over = self.is_over();
        self.death = Some(death);
        self.ended = self.ended.or(self.last_event);
        (!was_over).then(|| News { is_end: true, ..News::of(KILLED, String::new()) })
    }

    /// A stream has let go of its last sign of life.
    pub(super) fn on_marker(&mut self, stored: Option<SystemTime>) -> Option<News> {
        let since = stored.unwrap_or(self.heard);
        // What it said after that was heard already.
        if self.is_over() || self.last_event > Some(since) {
            return None;
        }
        let news = self.on_killed(Death::Silence(since));
        news.map(|news| News { when: stored, ..news })
    }

    fn on_heartbeat(&mut self, number: u64, created: Option<SystemTime>) -> News {
        if let Some(created) = created {
            if let Some((before, then)) = self.beat
                && let Some(beats) = number.checked_sub(before).and_then(|beats| u32::try_from(beats).ok())
                && beats > 0
                && let Ok(passed) = created.duration_since(then)
            {
                self.beats_every = Some(passed / beats);
            }
            // Of a single one it can be told by the time since the run began.
            if let (None, Some(started)) = (self.beats_every, self.started)
                && let (Ok(passed), Ok(beats @ 1..)) =
                    (created.duration_since(started), u32::try_from(number))
            {
                self.beats_every = Some(passed / beats);
            }
            self.beat = Some((number, created));
        }
        News::of(Kind::Heartbeat.as_str(), String::new())
    }

    fn on_status(
        &mut self,
        status: &str,
        payload: &Payload<'_>,
        own: Option<Own<'_>>,
        when: Option<SystemTime>,
    ) -> Option<News> {
        let status = Status::parse(status)?;
        let nonce = match own {
            Some(Own::Other { nonce, .. }) => Some(nonce),
            _ => None,
        };
        if status == Status::Starting {
            self.seen.from_start = true;
            // What the command says, whatever came first.
            self.command = payload.command().iter().map(|word| one_line(word)).collect();
            if let Some(job) = payload.job() {
                self.playbook = one_line(&job);
            }
        }
        if let Some(nonce) = nonce {
            self.nonce.get_or_insert_with(|| nonce.to_owned());
        }
        // A repeat, or one that comes late. What ended first has ended it.
        if self.status.is_some_and(|known| known >= status || known.is_end()) {
            return None;
        }
        self.status = Some(status);
        let is_end = status.is_end();
        if is_end {
            self.ended = when.or(self.last_event);
            self.revive();
        }
        Some(News { is_end, ..News::of(status.as_str(), String::new()) })
    }

    fn on_event(
        &mut self,
        payload: &Payload<'_>,
        own: Option<Own<'_>>,
        when: Option<SystemTime>,
    ) -> Option<News> {
        let counter = payload.counter?;
        let hearing = self.seen.hear(counter, uuid_of(own));
        if hearing == Hearing::Repeat {
            return None;
        }
        self.progressed = self.progressed.max(when);
        let name = payload.event.as_deref().unwrap_or_default();
        let data = payload.data();
        let result = data.res();
        if let Some(playbook) = data.playbook.as_deref().filter(|_| self.playbook.is_empty()) {
            self.playbook = one_line(playbook);
        }
        // What it is at is said by the last event that names it.
        let [play_at, task_at] = self.named_at;
        if let Some(play) = data.play.as_deref().filter(|_| counter >= play_at) {
            self.play = one_line(play);
            self.named_at[0] = counter;
        }
        if let Some(task) = data.task.as_deref().filter(|_| counter >= task_at) {
            self.task = one_line(task);
            self.named_at[1] = counter;
        }
        let (outcome, failure) = self.count(name, counter, payload, &data, &result, when);
        let text = printed(payload.stdout.as_deref(), payload.start_line, payload.end_line).map(harmless);
        if let Some(text) = &text {
            let lane = u64::from(hearing == Hearing::Another);
            self.output.add(counter, lane, payload.start_line, text.clone());
        }
        let mut news = self.describe(name, &data, &result, failure.as_ref());
        news.counter = Some(counter);
        news.printed = text;
        news.on = data.host.as_deref().filter(|_| name != BEGINS).map(|host| OnHost {
            host: one_line(host),
            task: one_line(data.task.as_deref().unwrap_or_default()),
            outcome,
            is_changed: result.changed == Some(true),
        });
        if news.text.is_empty() {
            let line =
                payload.stdout.as_deref().unwrap_or_default().lines().find(|line| !line.trim().is_empty());
            news.text = one_line(&without_colors(line.unwrap_or_default()));
        }
        if let Some(failure) = failure {
            let place = self.failures.partition_point(|known| known.counter <= counter);
            self.failures.insert(place, failure);
            if self.failures.len() > FAILURES {
                // What was ignored can be spared best.
                let spare = self.failures.iter().position(|failure| !failure.counts()).unwrap_or(FAILURES);
                self.failures.remove(spare);
            }
            self.find_rescued();
        }
        if self.is_over() {
            self.ended = self.ended.max(when);
        }
        Some(news)
    }

    /// Which failures a `rescue` has dealt with, if ansible's recap says so already.
    fn find_rescued(&mut self) {
        for failure in self.failures.iter_mut().filter(|failure| failure.fate == Fate::Rescued) {
            failure.fate = Fate::Failed;
        }
        // Who was rescued ansible says in the end.
        if self.has_stats {
            let tasks = &self.tasks;
            find_rescued(&mut self.failures, &self.recaps, |host| tasks.last_on(host));
        }
    }

    /// What an event says of tasks and their results: how one ended, and what went wrong if it did.
    fn count(
        &mut self,
        name: &str,
        counter: u64,
        payload: &Payload<'_>,
        data: &Data<'_>,
        result: &Res,
        when: Option<SystemTime>,
    ) -> (Option<Outcome>, Option<Failure>) {
        if name == "playbook_on_stats" {
            self.has_stats = true;
            if let Some(stats) = payload.stats() {
                self.recaps = stats.by_host().map(|(host, recap)| (one_line(host), recap)).collect();
                self.recap = Recap::default();
                self.recaps.values().for_each(|recap| self.recap.add(recap));
                self.find_rescued();
            }
            return (None, None);
        }
        let is_start = name == "playbook_on_task_start";
        self.task_count += u64::from(is_start);
        let is_changed = result.changed == Some(true);
        let (outcome, fate) = match name {
            "runner_on_ok" if is_changed => (Some(Outcome::Changed), None),
            "runner_on_ok" => (Some(Outcome::Ok), None),
            "runner_on_skipped" => (Some(Outcome::Skipped), None),
            "runner_on_failed" if data.ignore_errors == Some(true) => {
                (Some(Outcome::Ignored), Some(Fate::Ignored))
            }
            "runner_on_failed" => (Some(Outcome::Failed), Some(Fate::Failed)),
            "runner_on_unreachable" => (Some(Outcome::Unreachable), Some(Fate::Unreachable)),
            _ => (None, None),
        };
        let counts = outcome.map(|outcome| outcome.counts(is_changed)).unwrap_or_default();
        if outcome.is_some() && !self.has_stats {
            self.recap.add(&counts);
            let host = one_line(data.host.as_deref().unwrap_or_default());
            self.recaps.entry(host).or_default().add(&counts);
        }
        if data.task_uuid.is_some() || is_start {
            let host = one_line(data.host.as_deref().unwrap_or_default());
            let what = match (name, outcome) {
                _ if is_start => What::Start,
                (BEGINS, _) => What::Begins(&host),
                (_, Some(outcome)) => What::Ends(&host, outcome),
                _ => What::Other,
            };
            let uuid = data.task_uuid.as_deref().unwrap_or_default();
            let name = one_line(data.task.as_deref().unwrap_or_default());
            self.tasks.hear(Told { counter, uuid, name: &name, when, what, counts: &counts });
        }
        let printed = payload.stdout.as_deref();
        (outcome, fate.map(|fate| Failure::new(counter, data, result, fate, printed)))
    }

    fn describe(&self, name: &str, data: &Data<'_>, result: &Res, failure: Option<&Failure>) -> News {
        let host = one_line(data.host.as_deref().unwrap_or_default());
        let task = one_line(data.task.as_deref().unwrap_or_default());
        let (word, text) = match (name, failure) {
            (_, Some(failure)) => {
                (failure.fate.as_str().to_owned(), format!("{host} · {task} · {}", failure.why))
            }
            ("playbook_on_play_start", _) => {
                ("PLAY".to_owned(), one_line(data.play.as_deref().unwrap_or_default()))
            }
            ("playbook_on_task_start", _) => ("TASK".to_owned(), task),
            ("playbook_on_stats", _) => (RECAP.to_owned(), self.recap.to_string()),
            (name, _) => {
                let short =
                    name.strip_prefix("runner_on_").or_else(|| name.strip_prefix("runner_")).unwrap_or(name);
                let short = if short == "ok" && result.changed == Some(true) { "changed" } else { short };
                let more = result.msg.as_ref().or(result.item.as_ref()).map(super::failure::plain);
                let parts = [host, task, one_line(&more.unwrap_or_default())];
                let parts: Vec<&str> =
                    parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
                (one_line(short), parts.join(" · "))
            }
        };
        News::of(word, text)
    }
}

fn uuid_of(own: Option<Own<'_>>) -> Option<&str> {
    match own {
        Some(Own::Event { uuid, .. }) => Some(uuid),
        _ => None,
    }
}
