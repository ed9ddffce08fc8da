//! What a job printed, from its events, and in which order it is shown.

use std::collections::BTreeMap;

/// What an event printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// The event's counter.
    pub(crate) counter: u64,
    /// The number of its first line in all that the run printed, from 1 on, if the event says so.
    pub(crate) line: Option<u64>,
    /// With ansible's colours (SGR); every other control sequence is made harmless.
    pub(crate) text: &'a str,
}

/// The last lines that a run printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    lines: BTreeMap<(u64, u64), (Option<u64>, String)>,
    bytes: usize,
    /// Lines that are not kept any more.
    pub(super) dropped: bool,
}

/// Of one run this many lines are kept.
const LINES: usize = 10_000;

impl Output {
    /// `before`: the lines that were printed before it, as ansible-runner counts them (`start_line`).
    pub(super) fn add(&mut self, counter: u64, place: u64, before: Option<u64>, text: String) {
        self.bytes += text.len();
        let line = before.map(|before| before.saturating_add(1));
        if let Some((_, old)) = self.lines.insert((counter, place), (line, text)) {
            self.bytes = self.bytes.saturating_sub(old.len());
        }
        while self.lines.len() > LINES {
            if let Some((_, (_, text))) = self.lines.pop_first() {
                self.bytes = self.bytes.saturating_sub(text.len());
                self.dropped = true;
            }
        }
    }

    pub(super) fn size(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.dropped |= !self.lines.is_empty();
        self.lines.clear();
        self.bytes = 0;
    }

    /// Were there more lines?
    pub(crate) fn is_cut_off(&self) -> bool {
        self.dropped
    }

    /// What events from this counter on have printed, as far as it is kept.
    pub(crate) fn from(&self, counter: u64) -> impl Iterator<Item = Piece<'_>> {
        let kept = self.lines.range((counter, 0)..);
        kept.map(|((counter, _), (line, text))| Piece { counter: *counter, line: *line, text })
    }

    /// All that is kept, line by line.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.lines.values().flat_map(|(_, text)| text.split('\n'))
    }
}

/// What an event adds to the output, line end not included; `None` if it prints nothing. ansible-runner counts the lines
/// that an event has (`start_line`, `end_line`; `ansible_runner.utils.OutputEventFilter`), and an empty text of one line
/// is an empty line.
pub(super) fn printed(stdout: Option<&str>, start: Option<u64>, end: Option<u64>) -> Option<&str> {
    let text = stdout?;
    let has_lines = match (start, end) {
        (Some(start), Some(end)) => end > start,
        _ => !text.is_empty(),
    };
    has_lines.then_some(text)
}

/// Puts what events of a run have told in order: by counter, each once. A counter that does not come is waited for as long
/// as [`Printer::skip`] is not called.
#[derive(Debug)]
pub(crate) struct Printer<T> {
    /// By counter; in `runner_mode=subprocess` two events may have the same.
    waiting: BTreeMap<u64, Vec<T>>,
    /// The next counter.
    next: Option<u64>,
}

/// A counter that is overtaken by more than this does not come any more: the plugin's largest window.
const OVERTAKEN: usize = 4096;

impl<T> Default for Printer<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: None }
    }
}

impl<T> Printer<T> {
    /// From this counter on.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self { next: Some(first), ..Self::default() }
    }

    /// Takes what an event has told (`None`: nothing), and returns what is to be printed now.
    pub(crate) fn take(&mut self, counter: u64, told: Option<T>) -> Vec<T> {
        self.waiting.entry(counter).or_default().extend(told);
        if self.next.is_none_or(|next| next > counter) || self.waiting.len() > OVERTAKEN {
            self.next = self.waiting.first_key_value().map(|(counter, _)| *counter);
        }
        self.ready()
    }

    /// Waits no longer for counters that are not there: all that is.
    pub(crate) fn skip(&mut self) -> Vec<T> {
        let mut ready = Vec::new();
        while let Some((counter, _)) = self.waiting.first_key_value() {
            self.next = Some(*counter);
            ready.extend(self.ready());
        }
        ready
    }

    /// Was nothing taken so far?
    pub(crate) fn is_new(&self) -> bool {
        self.next.is_none() && self.waiting.is_empty()
    }

    /// Is something waiting for a counter that has not come?
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn ready(&mut self) -> Vec<T> {
        let mut ready = Vec::new();
        while let Some((counter, told)) = self.next.and_then(|next| self.waiting.remove_entry(&next)) {
            self.next = counter.checked_add(1);
            ready.extend(told);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_and_once() {
        let mut printer = Printer::starting_at(1);
        assert_eq!(printer.take(2, Some(2)), [0; 0]);
        assert_eq!(printer.take(3, None), [0; 0]);
        assert_eq!(printer.take(1, Some(1)), [1, 2]);
        assert!(!printer.is_waiting());
        printer.take(6, Some(6));
        // Two of one counter, while both wait.
        printer.take(6, Some(66));
        assert!(printer.is_waiting());
        assert_eq!(printer.skip(), [6, 66]);
        assert_eq!(printer.take(7, Some(7)), [7]);
        // Late is better than never.
        assert_eq!(printer.take(5, Some(5)), [5]);
        let mut unknown = Printer::default();
        assert_eq!(unknown.take(41, Some(41)), [41]);
        let mut far = Printer::starting_at(1);
        let count =
            (2..).take(OVERTAKEN + 1).map(|counter| far.take(counter, Some(counter)).len()).sum::<usize>();
        assert_eq!(count, OVERTAKEN + 1);
    }

    #[test]
    fn what_an_event_prints() {
        assert_eq!(printed(Some("a"), Some(3), Some(4)), Some("a"));
        assert_eq!(printed(Some(""), Some(3), Some(4)), Some(""));
        assert_eq!(printed(Some(""), Some(3), Some(3)), None);
        assert_eq!(printed(Some("a"), None, None), Some("a"));
        assert_eq!(printed(None, Some(3), Some(4)), None);
    }
}
