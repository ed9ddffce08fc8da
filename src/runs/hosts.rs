//! How a run went on each host.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Recap, Run};

/// A host of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host<'a> {
    pub(crate) name: &'a str,
    /// Its results, as ansible's recap has them, or counted as ansible does until that has come.
    pub(crate) recap: Recap,
    /// For how long tasks were on it.
    pub(crate) busy: Duration,
}

impl Host<'_> {
    /// Did it fail, or was it lost, and nothing has rescued it?
    pub(crate) fn is_bad(&self) -> bool {
        self.recap.failed > 0 || self.recap.unreachable > 0
    }
}

impl Run {
    /// How it went on each host so far, by name. `now`: until then goes on what has not ended.
    pub(crate) fn hosts(&self, now: SystemTime) -> Vec<Host<'_>> {
        let mut busy: HashMap<&str, Duration> = HashMap::new();
        for step in self.tasks.iter().flat_map(|task| self.tasks.steps(task)) {
            *busy.entry(step.host).or_default() += step.duration().unwrap_or_default();
        }
        let end = self.end_or(now);
        for waiting in self.waiting() {
            let since = waiting.since.and_then(|since| end.duration_since(since).ok());
            *busy.entry(waiting.host).or_default() += since.unwrap_or_default();
        }
        let of = |name: &str| busy.get(name).copied().unwrap_or_default();
        self.recaps.iter().map(|(name, recap)| Host { name, recap: *recap, busy: of(name) }).collect()
    }
}
