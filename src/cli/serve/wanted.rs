//! Which runs are wanted: what the URL of the list says.

use std::time::SystemTime;

use serde::Deserialize;

use super::{book::Shared, url::with_query, view::place_in_time};
use crate::{
    cli::when,
    runs::{Run, Runs, Status},
};

/// As it stands in the URL; nothing is as good as what is not there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    /// Words, all of which are somewhere in the ident, the subject id, the playbook, the task, a host, a reason or the name of
    /// whom it runs for; `host:NAME` is in a host, `task:NAME` in a task, `for:NAME` in whom it runs for.
    pub(super) q: String,
    /// States or [`UNSUCCESSFUL`], with commas between.
    pub(super) state: String,
    /// Exactly this one.
    pub(super) playbook: String,
    /// Points in time as people write them.
    pub(super) since: String,
    pub(super) until: String,
    pub(super) page: String,
}

/// All that somebody should look at.
pub(super) const UNSUCCESSFUL: &str = "unsuccessful";

/// What one looks for, other than states.
pub(super) struct Filter<'a> {
    words: Vec<Word>,
    playbook: &'a str,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    /// What of it is not understood.
    pub(super) problems: Vec<String>,
}

enum Word {
    Anywhere(String),
    Host(String),
    Task(String),
    For(String),
}

impl Wanted {
    pub(super) fn filter(&self, now: SystemTime) -> Filter<'_> {
        let mut problems = Vec::new();
        let mut moment = |name: &str, text: &str| {
            let parsed = (!text.trim().is_empty()).then(|| when::parse(text))?;
            let when = parsed.map_err(|problem| problems.push(format!("{name} {text}: {problem}"))).ok()?;
            Some(when.at(now))
        };
        let (since, until) = (moment("since", &self.since), moment("until", &self.until));
        let words = self.q.split_whitespace().map(|word| {
            let word = word.to_lowercase();
            match word.split_once(':') {
                Some(("host", host)) => Word::Host(host.to_owned()),
                Some(("task", task)) => Word::Task(task.to_owned()),
                Some(("for", actor)) => Word::For(actor.to_owned()),
                _ => Word::Anywhere(word),
            }
        });
        let words = words.collect();
        Filter { words, playbook: &self.playbook, since, until, problems }
    }

    /// Is a run in this state wanted?
    pub(super) fn has_state(&self, state: Status) -> bool {
        self.state.is_empty() || self.state.split(',').any(|wanted| is_of(state, wanted))
    }

    /// These runs, the newest first.
    pub(super) fn of<'a>(&self, runs: &'a Runs, shared: &Shared, now: SystemTime) -> Vec<&'a Run> {
        let mut found = self.filter(now).of(runs, shared, now);
        found.retain(|run| self.has_state(shared.state(run, now)));
        found
    }

    /// The address of a page of them.
    pub(super) fn address(&self, page: usize) -> String {
        let Self { q, state, playbook, since, until, .. } = self;
        let page = if page == 0 { String::new() } else { (page + 1).to_string() };
        let pairs = [
            ("q", q.as_str()),
            ("state", state),
            ("playbook", playbook),
            ("since", since),
            ("until", until),
            ("page", &page),
        ];
        with_query("/", &pairs)
    }

    /// The same of these states; of all, if it is of these already.
    pub(super) fn toggled(&self, state: &str) -> Self {
        let state = if self.state == state { String::new() } else { state.to_owned() };
        Self { state, ..self.clone() }
    }
}

/// Is this state what a word for states means?
pub(super) fn is_of(state: Status, word: &str) -> bool {
    let goes_on = matches!(state, Status::Starting | Status::Running);
    match Status::parse(word) {
        // Nobody looks for what has not quite begun.
        Some(Status::Running) => goes_on,
        Some(wanted) => state == wanted,
        None => word == UNSUCCESSFUL && !goes_on && state != Status::Successful,
    }
}

/// The words for states, as they are offered.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    let running = Status::Running.as_str();
    let others = Status::ALL.into_iter().filter(move |state| !is_of(*state, running));
    [running, UNSUCCESSFUL].into_iter().chain(others.map(Status::as_str))
}

impl Filter<'_> {
    /// These runs, in whatever state, the newest first.
    pub(super) fn of<'a>(&self, runs: &'a Runs, shared: &Shared, now: SystemTime) -> Vec<&'a Run> {
        let wanted = runs.all().filter(|(_, run)| shared.is_recent(run, now) && self.has(run));
        let mut found: Vec<(u64, &Run)> = wanted.collect();
        found.sort_by_key(|(key, run)| std::cmp::Reverse((place_in_time(run), *key)));
        found.into_iter().map(|(_, run)| run).collect()
    }

    fn has(&self, run: &Run) -> bool {
        (self.playbook.is_empty() || run.playbook == self.playbook)
            && self
                .since
                .is_none_or(|since| !run.is_over() || run.last_event.is_none_or(|last| last >= since))
            && self.until.is_none_or(|until| run.started.is_none_or(|started| started <= until))
            && self.words.iter().all(|word| word.is_in(run))
    }
}

impl Word {
    fn is_in(&self, run: &Run) -> bool {
        let has = |text: &str, word: &str| text.to_lowercase().contains(word);
        match self {
            Self::Host(host) => run.tasks.hosts().any(|name| has(name, host)),
            Self::Task(task) => run.tasks.iter().any(|known| has(&known.name, task)),
            Self::For(actor) => run.actor.as_deref().is_some_and(|known| has(known, actor)),
            Self::Anywhere(word) => {
                let names = [&run.ident, &run.subject_id, &run.playbook, &run.task];
                names.into_iter().chain(&run.actor).any(|text| has(text, word))
                    || run.tasks.hosts().any(|name| has(name, word))
                    || run.failures.iter().any(|failure| has(&failure.task, word) || has(&failure.why, word))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_states() {
        let wanted = |state: &str| Wanted { state: state.to_owned(), ..Wanted::default() };
        for state in Status::ALL {
            assert!(wanted("").has_state(state));
            assert!(words().filter(|word| is_of(state, word)).count() >= 1, "{state:?}");
        }
        assert!(
            wanted(UNSUCCESSFUL).has_state(Status::Silent)
                && wanted("failed,silent").has_state(Status::Silent)
        );
        assert!(
            !wanted(UNSUCCESSFUL).has_state(Status::Running) && !wanted("failed").has_state(Status::Silent)
        );
        assert!(wanted("running").has_state(Status::Starting));
    }

    #[test]
    fn an_address_has_all_of_it_and_a_chip_is_a_switch() {
        let wanted = Wanted { q: "a b".into(), since: "24h".into(), ..Wanted::default() };
        let failed = wanted.toggled("failed");
        assert_eq!(failed.address(2), "/?q=a%20b&state=failed&since=24h&page=3");
        assert_eq!(failed.toggled("failed").address(0), wanted.address(0));
        assert_eq!(failed.toggled("silent").state, "silent");
    }

    #[test]
    fn a_time_that_is_none_is_told() {
        let wanted = Wanted { since: "soon".into(), until: "2h".into(), ..Wanted::default() };
        let filter = wanted.filter(SystemTime::now());
        assert_eq!((filter.problems.len(), filter.since, filter.until.is_some()), (1, None, true));
        assert!(filter.problems[0].starts_with("since soon: expected"));
    }
}
