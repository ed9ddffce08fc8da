//! Which events of a run were heard: repeats, and gaps.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What it means to hear an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// It was not heard before.
    New,
    /// It was.
    Repeat,
    /// Another event of the same counter was: in `runner_mode=subprocess`, standard output and standard error each
    /// count from 1.
    Another,
}

/// Counters that were heard, each with a trace of its event's uuid.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By counter; 0: not heard.
    first: Vec<u32>,
    /// Other events of the same counters.
    second: Vec<u32>,
    distinct: u64,
    pub(super) lowest: Option<u64>,
    pub(super) highest: Option<u64>,
    /// Everything from counter 1 on should be heard.
    pub(super) from_start: bool,
}

/// A run with more events than this counts them, and knows repeats of what is beyond no more.
const MOST: usize = 4 << 20;

impl Seen {
    pub(super) fn hearing(&self, counter: u64, uuid: Option<&str>) -> Hearing {
        let trace = trace_of(uuid);
        let at = |lane: &Vec<u32>| {
            let known = usize::try_from(counter).ok().and_then(|counter| lane.get(counter));
            known.copied().unwrap_or(0)
        };
        match (at(&self.first), at(&self.second)) {
            (0, _) if counter >= MOST as u64 && self.highest.is_some_and(|highest| highest >= counter) => {
                Hearing::Repeat
            }
            (0, _) => Hearing::New,
            (one, other) if one == trace || other == trace || uuid.is_none() => Hearing::Repeat,
            (_, 0) => Hearing::Another,
            _ => Hearing::Repeat,
        }
    }

    pub(super) fn hear(&mut self, counter: u64, uuid: Option<&str>) -> Hearing {
        let hearing = self.hearing(counter, uuid);
        let lane = match hearing {
            Hearing::Repeat => return hearing,
            Hearing::New => &mut self.first,
            Hearing::Another => &mut self.second,
        };
        if let Some(place) = usize::try_from(counter).ok().filter(|place| *place < MOST) {
            if lane.len() <= place {
                lane.resize(place + 1, 0);
            }
            if let Some(slot) = lane.get_mut(place) {
                *slot = trace_of(uuid);
            }
        }
        if hearing == Hearing::New {
            self.distinct += 1;
            self.lowest = Some(self.lowest.map_or(counter, |lowest| lowest.min(counter)));
            self.highest = Some(self.highest.map_or(counter, |highest| highest.max(counter)));
        }
        hearing
    }

    /// How many events did not arrive (yet).
    pub(super) fn missing(&self) -> u64 {
        let (Some(lowest), Some(highest)) = (self.lowest, self.highest) else { return 0 };
        let lowest = if self.from_start { lowest.min(1) } else { lowest };
        (highest - lowest).saturating_add(1).saturating_sub(self.distinct)
    }

    /// How many between those that arrived.
    pub(super) fn gaps(&self) -> u64 {
        let (Some(lowest), Some(highest)) = (self.lowest, self.highest) else { return 0 };
        (highest - lowest).saturating_add(1).saturating_sub(self.distinct)
    }

    /// The last counter above this one that was not heard though a higher one was.
    pub(super) fn last_gap_after(&self, counter: u64) -> Option<u64> {
        let highest = self.highest?.min(MOST as u64);
        let is_missing = |counter: &u64| {
            let place = usize::try_from(*counter).unwrap_or(usize::MAX);
            self.first.get(place).is_none_or(|trace| *trace == 0)
        };
        (counter.saturating_add(1)..highest).rev().find(is_missing)
    }

    /// Was the first event heard?
    pub(super) fn has_first(&self) -> bool {
        self.lowest.is_some_and(|lowest| lowest <= 1)
    }

    /// How many events were heard.
    pub(super) fn count(&self) -> u64 {
        self.distinct
    }
}

/// Never 0.
fn trace_of(uuid: Option<&str>) -> u32 {
    let mut hasher = DefaultHasher::new();
    uuid.hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).unwrap_or(0) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_seen_and_mended() {
        let mut seen = Seen::default();
        for (counter, hearing) in
            [(5, Hearing::New), (6, Hearing::New), (9, Hearing::New), (6, Hearing::Repeat)]
        {
            assert_eq!(seen.hear(counter, Some(&format!("u{counter}"))), hearing, "{counter}");
        }
        assert_eq!(seen.missing(), 2);
        seen.hear(8, Some("u8"));
        seen.hear(7, Some("u7"));
        assert_eq!((seen.missing(), seen.count()), (0, 5));
        // What came before is not missing, unless the run is known from its start.
        seen.from_start = true;
        assert_eq!(seen.missing(), 4);
        seen.hear(u64::MAX, Some("x"));
        assert!(seen.missing() > 1 << 60);
        assert_eq!(seen.hear(u64::MAX, Some("x")), Hearing::Repeat);
    }

    #[test]
    fn two_events_of_one_counter() {
        let mut seen = Seen::default();
        assert_eq!(seen.hear(1, Some("out")), Hearing::New);
        assert_eq!(seen.hear(1, Some("err")), Hearing::Another);
        assert_eq!(seen.hear(1, Some("err")), Hearing::Repeat);
        assert_eq!(seen.hear(1, None), Hearing::Repeat);
        assert_eq!((seen.missing(), seen.count()), (0, 1));
    }
}
