//! The one source of runs: messages in, state out. For `watch`, `runs`, `logs`, `wait` alike.
//!
//! Messages may come in any order and any number of times: what a stream has kept, what is heard live, and what is
//! fetched of a run that somebody looks at. A counter is counted once, what is older never replaces what is newer, and
//! every time that is shown is that of the event (`created`) or else the stream's, never the reader's.
//!
//! - `payload`: a message, as far as it is understood;
//! - `run`: what is known of one run;
//! - `seen`: which of its events were heard: repeats, and gaps;
//! - `status`: the states that it may be in;
//! - `tasks`: its tasks, on each host, and for whom it waits;
//! - `hosts`: how it went on each of them;
//! - `recap`, `failure`: how tasks went, and what went wrong;
//! - `compare`, `stats`: two runs side by side, and many together;
//! - `output`: what it printed;
//! - `printed`: what a single event did.

#[cfg(test)]
mod across_tests;
mod card;
mod compare;
mod failure;
mod hosts;
mod output;
mod payload;
mod printed;
#[cfg(test)]
mod reason_tests;
mod recap;
mod run;
mod seen;
mod stats;
mod status;
mod style;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

pub(crate) use self::{
    card::Card,
    compare::{Came, Change, Difference, differences},
    failure::{Failure, Fate},
    hosts::Host,
    output::{Piece, Printer},
    printed::{Origin, Printed},
    recap::Recap,
    run::Run,
    stats::{Gathering, HostStats, HostTotal, PlaybookTotal, TaskStats, TaskTotal, playbooks},
    status::Status,
    style::{Color, Look, harmless, pieces, without_colors},
    tasks::{Outcome, Step, Task, Waiting},
};
use self::{payload::Payload, seen::Hearing};
use crate::{
    harmless::one_line,
    message::{
        END_STATES, Kind, OPEN_STATES, Own, Owner, Received, RunId, Template, has_tokens, moment, split_id,
        with_safe_ident,
    },
};

/// How much of all runs' output is kept, in bytes.
const OUTPUT: usize = 64 << 20;

/// The word for how the tasks of a playbook went, as ansible counts them.
pub(crate) const RECAP: &str = "RECAP";

/// What happened, for a line of text.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// The run.
    pub(crate) run: RunKey,
    /// When, if that is known.
    pub(crate) when: Option<SystemTime>,
    /// What kind of thing happened.
    pub(crate) word: String,
    /// To whom, and how.
    pub(crate) text: String,
    /// The run is over.
    pub(crate) is_end: bool,
    /// Of an event.
    pub(crate) counter: Option<u64>,
    /// What it printed: see [`harmless`].
    pub(crate) printed: Option<String>,
    /// Of an event of a task on a host.
    pub(crate) on: Option<OnHost>,
}

/// What an event tells of a task on a host.
#[derive(Clone, Debug)]
pub(crate) struct OnHost {
    pub(crate) host: String,
    pub(crate) task: String,
    /// How it ended there. `None`: this is a part of it (an item of a loop, a difference, another try).
    pub(crate) outcome: Option<Outcome>,
    pub(crate) is_changed: bool,
}

impl OnHost {
    /// Did it go wrong there, whatever became of that?
    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Failed | Outcome::Unreachable | Outcome::Ignored))
    }
}

impl News {
    fn of(word: impl Into<String>, text: String) -> Self {
        let (word, is_end) = (word.into(), false);
        Self { run: 0, when: None, word, text, is_end, counter: None, printed: None, on: None }
    }
}

/// A run, among all that were heard of; rises.
pub(crate) type RunKey = u64;

/// All runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// Where messages are published: a message's subject says whose it is.
    template: Template,
    all: HashMap<RunKey, Run>,
    /// The last run of each name: the subject id and the ident.
    latest: HashMap<String, RunKey>,
    /// Runs whose messages say which run they are of, by name and identity.
    known: HashMap<(String, RunId), RunKey>,
    next: RunKey,
    /// So many are kept, if not all: the oldest that have ended go first.
    most: Option<usize>,
    /// Tasks of the last successful run of each playbook.
    tasks_of: HashMap<String, u64>,
    /// Of what was printed, all runs together.
    output: usize,
    /// What was heard, whatever it was.
    pub(crate) messages: u64,
    /// What came twice.
    pub(crate) repeats: u64,
    /// What was no message of ansible-runner's.
    pub(crate) foreign: u64,
}

impl Runs {
    /// Of messages that are published to such subjects.
    pub(crate) fn of(template: &Template) -> Self {
        Self { template: template.clone(), ..Self::default() }
    }

    /// Keeps so many at most: for who reads on and on.
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { most: Some(most), ..self }
    }

    /// Takes a message in, heard at `now` by the reader's clock. `None`: it is none of ansible-runner's, or a repeat.
    pub(crate) fn hear(&mut self, message: &Received, now: SystemTime) -> Option<News> {
        self.messages += 1;
        if message.is_marker {
            return self.hear_marker(message);
        }
        let parsed = serde_json::from_slice::<Payload<'_>>(&message.payload).ok();
        let Some(payload) = parsed.filter(is_ours) else {
            // Somebody else's, or `check`'s.
            self.foreign += 1;
            return None;
        };
        let own = message.id.as_deref().and_then(split_id);
        let Some(name) = name_of(&self.template, &message.subject, own.map(|(name, _)| name), &payload)
        else {
            self.foreign += 1;
            return None;
        };
        let last = self.latest.get(&name.whole).and_then(|id| self.all.get(id));
        if message.run.is_none() && last.is_some_and(|run| run.is_before(message)) {
            // Of an earlier run of that name, of which nobody asked.
            return None;
        }
        let run_id = match message.run {
            Some(identity) => self.run_with(&name, identity, &payload, own.map(|(_, own)| own)),
            None => self.run_of(&name, &payload, own.map(|(_, own)| own)),
        };
        let run = self.all.get_mut(&run_id)?;
        let known = run.playbook.is_empty();
        let before = run.output.size();
        let news = run.hear(&payload, own.map(|(_, own)| own), message, now);
        self.output = self.output + run.output.size() - before.min(self.output);
        if known && !run.playbook.is_empty() {
            run.known_tasks = self.tasks_of.get(&run.playbook).copied();
        }
        if news.as_ref().is_some_and(|news| news.is_end)
            && run.status() == Status::Successful
            // Of one that was not heard from its beginning they are too few.
            && run.has_beginning()
            && run.task_count > 0
            && !run.playbook.is_empty()
        {
            self.tasks_of.insert(run.playbook.clone(), run.task_count);
        }
        self.forget();
        if news.is_none() {
            self.repeats += 1;
        }
        news.map(|news| News { run: run_id, ..news })
    }

    /// The subject id of a message; `None`: it is none of ansible-runner's.
    pub(super) fn whose(&self, message: &Received) -> Option<String> {
        let payload = serde_json::from_slice::<Payload<'_>>(&message.payload).ok().filter(is_ours)?;
        let claimed = message.id.as_deref().and_then(split_id).map(|(name, _)| name);
        Some(name_of(&self.template, &message.subject, claimed, &payload)?.subject_id)
    }

    /// A stream has let go of a run's last sign of life, and no other has come: its process is gone. The marker is on the
    /// subject of the signs of life, and has no payload.
    fn hear_marker(&mut self, message: &Received) -> Option<News> {
        let template = &self.template;
        let is_its = |run: &Run| {
            let kind = Kind::Heartbeat;
            *template.subject(&run.subject_id, &run.ident, kind, kind.as_str()) == *message.subject
        };
        let id = self.latest.values().copied().find(|id| self.all.get(id).is_some_and(is_its))?;
        let news = self.all.get_mut(&id)?.on_marker(message.stored);
        news.map(|news| News { run: id, ..news })
    }

    /// The run of this name and identity.
    fn run_with(
        &mut self,
        name: &Name,
        identity: RunId,
        payload: &Payload<'_>,
        own: Option<Own<'_>>,
    ) -> RunKey {
        let key = (name.whole.clone(), identity);
        if let Some(id) = self.known.get(&key).filter(|id| self.all.contains_key(id)) {
            return *id;
        }
        let last = self.latest.get(&name.whole).copied();
        // What was heard of it so far may have come without that header: from an older version, or by another way.
        if let Some(run) = last.and_then(|id| self.all.get_mut(&id))
            && run.identity.is_none()
            && !run.is_over()
            && !is_another_run(run, payload, own)
        {
            run.identity = Some(identity);
            let id = last.unwrap_or_default();
            self.known.insert(key, id);
            return id;
        }
        let before = last.and_then(|id| self.all.get(&id)).and_then(|run| run.identity);
        let id = self.add(name, Some(identity));
        self.known.insert(key, id);
        // It may be an earlier one that is heard of late: identities sort by time.
        let (earlier, later) = match last.filter(|_| before > Some(identity)) {
            Some(last) => (Some(id), last),
            None => (last, id),
        };
        self.latest.insert(name.whole.clone(), later);
        if let Some(run) = earlier.and_then(|earlier| self.all.get_mut(&earlier)) {
            run.is_superseded = true;
        }
        id
    }

    fn add(&mut self, name: &Name, identity: Option<RunId>) -> RunKey {
        let id = self.next;
        self.next += 1;
        let mut run = Run::new(&name.subject_id, &name.ident);
        run.identity = identity;
        run.is_again = self.latest.insert(name.whole.clone(), id).is_some();
        self.all.insert(id, run);
        id
    }

    /// The run that a message belongs to: the last one of its name, unless it tells of a new one.
    fn run_of(&mut self, name: &Name, payload: &Payload<'_>, own: Option<Own<'_>>) -> RunKey {
        let last = self.latest.get(&name.whole).copied();
        if let Some(id) = last
            && let Some(run) = self.all.get(&id)
            && !is_another_run(run, payload, own)
        {
            return id;
        }
        self.add(name, None)
    }

    fn forget(&mut self) {
        if self.most.is_some_and(|most| self.all.len() > most) {
            let oldest = self.all.iter().min_by_key(|(id, run)| (!run.is_over(), **id));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.take(id);
            }
        }
        if self.output > OUTPUT {
            // Of the run that was heard the longest ago.
            let quiet = self.all.values_mut().filter(|run| run.output.size() > 0).min_by_key(|run| run.heard);
            if let Some(run) = quiet {
                self.output = self.output.saturating_sub(run.output.size());
                run.output.clear();
            }
        }
    }

    /// Lets go of what a run has printed: whoever has handed it on needs no memory for it.
    pub(crate) fn forget_output(&mut self, id: RunKey) {
        if let Some(run) = self.all.get_mut(&id) {
            self.output = self.output.saturating_sub(run.output.size());
            run.output.clear();
        }
    }

    /// Takes in runs that were heard of elsewhere, if nothing is known of them here.
    pub(crate) fn take_in(&mut self, others: Self, is_wanted: impl Fn(&Run) -> bool) {
        for (_, run) in others.all.into_iter().filter(|(_, run)| is_wanted(run)) {
            let whole = format!("{}.{}", run.subject_id, run.ident);
            let is_known = match run.identity {
                Some(identity) => self.known.contains_key(&(whole.clone(), identity)),
                None => self.latest.contains_key(&whole),
            };
            if is_known {
                continue;
            }
            let id = self.next;
            self.next += 1;
            if let Some(identity) = run.identity {
                self.known.insert((whole.clone(), identity), id);
            }
            self.latest.entry(whole).or_insert(id);
            self.all.insert(id, run);
        }
    }

    /// All runs, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (RunKey, &Run)> {
        self.all.iter().map(|(id, run)| (*id, run))
    }

    /// One run.
    pub(crate) fn get(&self, id: RunKey) -> Option<&Run> {
        self.all.get(&id)
    }

    /// Gives a run away, and forgets it.
    pub(crate) fn take(&mut self, id: RunKey) -> Option<Run> {
        let run = self.all.remove(&id)?;
        self.output = self.output.saturating_sub(run.output.size());
        self.latest.retain(|_, last| *last != id);
        self.known.retain(|_, known| *known != id);
        Some(run)
    }

    /// All that is to be known of this run was asked for.
    pub(crate) fn is_being_fetched(&mut self, id: RunKey) {
        if let Some(run) = self.all.get_mut(&id) {
            run.is_fetched = true;
        }
    }
}

/// A run's name.
struct Name {
    /// Both with a dot between them, as the subject has them: where one ends it does not say.
    whole: String,
    subject_id: String,
    ident: String,
}

/// Whose message it is: by its subject, as the server has checked that its publisher may publish there. Its header and its
/// payload are its publisher's word, and are believed as far as the subject bears them out. `None`: it does not.
///
/// `claimed` is the name in the message's id. The status `error` of `ansible-runner process` has no ident of its own.
fn name_of(template: &Template, subject: &str, claimed: Option<&str>, payload: &Payload<'_>) -> Option<Name> {
    let ident = payload.runner_ident.as_deref();
    let ident = ident.or_else(|| Some(claimed?.rsplit_once('.')?.1)).unwrap_or("unknown");
    let claimed = claimed.and_then(|whole| whole.strip_suffix(ident)?.strip_suffix('.'));
    let subject = &*with_safe_ident(subject, ident);
    let (kind, name) = match (&payload.status, &payload.heartbeat) {
        (Some(status), None) => (Kind::Status, status.as_str()),
        (_, Some(_)) => (Kind::Heartbeat, Kind::Heartbeat.as_str()),
        (None, None) if payload.says_killed() => (Kind::Heartbeat, Kind::Heartbeat.as_str()),
        (None, None) => (Kind::Event, payload.event.as_deref().unwrap_or_default()),
    };
    let is_borne_out = |claimed: &&str| *template.subject(claimed, ident, kind, name) == *subject;
    let subject_id = match claimed.filter(is_borne_out) {
        // As the plugin publishes it. It says how the subject id was spelt, too.
        Some(claimed) => claimed,
        None => match template.owner(subject, ident, kind, name) {
            Owner::SubjectId(id) => id,
            Owner::Anybody => "",
            // It was published with another template, or mapped on its way.
            Owner::Unknown if has_tokens(subject, ident) => {
                claimed.filter(|claimed| has_tokens(subject, claimed)).unwrap_or_default()
            }
            Owner::Unknown => return None,
        },
    };
    let (subject_id, ident) = (one_line(subject_id), one_line(ident));
    Some(Name { whole: format!("{subject_id}.{ident}"), subject_id, ident })
}

/// Is it a message as the plugin publishes it?
fn is_ours(payload: &Payload<'_>) -> bool {
    let is_known = |status: &str| END_STATES.contains(&status) || OPEN_STATES.contains(&status);
    payload.status.as_deref().map_or(payload.counter.is_some() || payload.says_killed(), is_known)
}

/// Does a message tell of a run with the same name as this one, that began later?
fn is_another_run(run: &Run, payload: &Payload<'_>, own: Option<Own<'_>>) -> bool {
    match (payload.status.as_deref(), payload.counter) {
        (Some("starting"), _) => {
            let nonce = match own {
                Some(Own::Other { kind: Kind::Status, nonce, .. }) => Some(nonce),
                _ => None,
            };
            let is_repeat = nonce.is_some() && nonce == run.nonce();
            !is_repeat && (run.is_over() || run.has_events())
        }
        // Its beginning was missed. (What was made before the end is of this run, however late it is read.)
        (None, Some(counter)) if run.is_over() => {
            let created = payload.created.as_deref().and_then(moment).map(|(_, when)| when);
            run.would_hear(counter, own) == Hearing::Another && counter <= 1 && created > run.ended
        }
        _ => false,
    }
}

/// How long ago, for people: `59s`, `12m03s`, `3h04m`, `2d03h`.
pub(crate) fn in_short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The same, but below a minute to the tenth of a second: `0.3s`.
pub(crate) fn precisely(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        _ => in_short(duration),
    }
}
