//! How the tasks of a run went, counted as ansible does.

use std::fmt;

/// The results of tasks on hosts, as in the last lines that ansible prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Recap {
    /// Those with a change and those ignored included, as ansible counts.
    pub(crate) ok: u64,
    pub(crate) changed: u64,
    pub(crate) unreachable: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) rescued: u64,
    pub(crate) ignored: u64,
}

impl Recap {
    pub(super) fn add(&mut self, more: &Self) {
        let Self { ok, changed, unreachable, failed, skipped, rescued, ignored } = more;
        let add = |sum: &mut u64, more: &u64| *sum = sum.saturating_add(*more);
        add(&mut self.ok, ok);
        add(&mut self.changed, changed);
        add(&mut self.unreachable, unreachable);
        add(&mut self.failed, failed);
        add(&mut self.skipped, skipped);
        add(&mut self.rescued, rescued);
        add(&mut self.ignored, ignored);
    }

    /// Names and numbers, in ansible's order.
    pub(crate) fn parts(&self) -> [(&'static str, u64); 7] {
        [
            ("ok", self.ok),
            ("changed", self.changed),
            ("unreachable", self.unreachable),
            ("failed", self.failed),
            ("skipped", self.skipped),
            ("rescued", self.rescued),
            ("ignored", self.ignored),
        ]
    }
}

impl fmt::Display for Recap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, number)) in self.parts().into_iter().enumerate() {
            write!(f, "{}{name}={number}", if place > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}
