//! Messages in flight.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::proof::Proving;
use crate::message::Head;

/// A slow link transfers so many bytes a second at least.
const SLOWEST: u64 = 1 << 20;

/// Messages in flight, unconfirmed, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// What was sent as number `base` and after it; `None`: answered, or taken back.
    slots: VecDeque<Option<Flight>>,
    base: u64,
    count: usize,
    pub(super) bytes: usize,
}

/// The subjects of the last messages that nothing waits for any more: an answer may still come.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    /// By their numbers in the outbox, in the order in which they were confirmed: a late answer may be that to any copy.
    last: VecDeque<(u64, Arc<str>)>,
}

impl Subjects {
    pub(super) fn add(&mut self, seq: u64, subject: &Arc<str>) {
        /// An answer that comes later than this many others is not understood any more; one that comes sooner will do.
        const MOST: usize = 1_024;
        if self.last.len() >= MOST {
            self.last.pop_front();
        }
        self.last.push_back((seq, Arc::clone(subject)));
    }

    /// The subject of the message with this number.
    pub(super) fn subject(&self, seq: u64) -> Option<Arc<str>> {
        self.last.iter().find(|(known, _)| *known == seq).map(|(_, subject)| Arc::clone(subject))
    }
}

/// A message in flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// What it was sent as.
    pub(super) ordinal: u64,
    /// Its number in the outbox.
    pub(super) seq: u64,
    /// Its run's number.
    pub(super) run: u64,
    /// What the message shares with others; its subject is asked for.
    pub(super) head: Arc<Head>,
    /// Of its payload.
    pub(super) bytes: usize,
    /// What it takes in memory.
    pub(super) size: usize,
    /// Bytes on the wire, headers included: what a server's limits are about.
    pub(super) wire_size: usize,
    pub(super) proving: Proving,
    /// An earlier process has seen a stream take its run's messages.
    pub(super) was_stored: bool,
    pub(super) sent: Instant,
}

impl Flight {
    pub(super) fn subject(&self) -> &Arc<str> {
        &self.head.subject
    }

    /// When to lose patience with a link on which this much is under way.
    pub(super) fn stalls_at(&self, stall: Duration, bytes: usize) -> Instant {
        self.sent + stall + Duration::from_secs(bytes as u64 / SLOWEST)
    }
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number that the next message is sent as.
    pub(super) fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    pub(super) fn add(&mut self, flight: Flight) {
        self.bytes += flight.bytes;
        self.count += 1;
        self.slots.push_back(Some(flight));
    }

    /// The next number is used for something that others look after.
    pub(super) fn skip(&mut self) {
        self.slots.push_back(None);
        self.trim();
    }

    /// Nothing is in flight any more; numbers go on to rise.
    pub(super) fn clear(&mut self) {
        *self = Self { base: self.next(), ..Self::default() };
    }

    /// How many there are from the oldest in flight to the youngest, those between that are answered included.
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn oldest(&self) -> Option<&Flight> {
        self.slots.front().and_then(Option::as_ref)
    }

    /// What the oldest was sent as.
    pub(super) fn oldest_ordinal(&self) -> u64 {
        self.base
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.slots.iter().flatten()
    }

    /// A stream takes this subject: what is under way waits for it, too.
    pub(super) fn wait_for_stream(&mut self, subject: &str) {
        for flight in self.slots.iter_mut().flatten() {
            if flight.proving == Proving::Echo && &*flight.head.subject == subject {
                flight.proving = Proving::Ack;
            }
        }
    }

    /// Takes out what was sent as this number, if it is this message.
    pub(super) fn remove(&mut self, ordinal: u64, seq: u64) -> Option<Flight> {
        let slot = usize::try_from(ordinal.checked_sub(self.base)?).ok()?;
        let flight = self.slots.get_mut(slot)?.take_if(|flight| flight.seq == seq)?;
        self.bytes -= flight.bytes;
        self.count -= 1;
        self.trim();
        Some(flight)
    }

    /// Takes out what was sent up to this number, and is as asked for.
    pub(super) fn remove_up_to(&mut self, ordinal: u64, is_it: impl Fn(&Flight) -> bool) -> Vec<Flight> {
        let Some(last) = ordinal.checked_sub(self.base) else { return Vec::new() };
        let count = usize::try_from(last).map_or(usize::MAX, |last| last.saturating_add(1));
        let mut removed = Vec::new();
        for slot in self.slots.iter_mut().take(count) {
            if let Some(flight) = slot.take_if(|flight| is_it(flight)) {
                self.bytes -= flight.bytes;
                self.count -= 1;
                removed.push(flight);
            }
        }
        self.trim();
        removed
    }

    /// The same, whenever it was sent.
    pub(super) fn remove_where(&mut self, is_it: impl Fn(&Flight) -> bool) -> Vec<Flight> {
        self.remove_up_to(u64::MAX, is_it)
    }

    fn trim(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(seq: u64, proving: Proving) -> Flight {
        let head = crate::message::Message::alone("s", Vec::new(), "", "").head;
        Flight {
            ordinal: 0,
            seq,
            run: 0,
            head,
            bytes: 10,
            size: 10,
            wire_size: 10,
            proving,
            was_stored: false,
            sent: Instant::now(),
        }
    }

    fn seqs(flights: &[Flight]) -> Vec<u64> {
        flights.iter().map(|flight| flight.seq).collect()
    }

    #[test]
    fn what_was_sent_before_a_marker() {
        let mut flights = Flights::default();
        // Sent again out of turn: order is that of sending.
        for (seq, proving) in [(8, Proving::Echo), (9, Proving::Ack), (2, Proving::Echo), (11, Proving::Echo)]
        {
            flights.add(flight(seq, proving));
        }
        let echo = |flight: &Flight| flight.proving == Proving::Echo;
        assert_eq!(seqs(&flights.remove_up_to(2, echo)), [8, 2]);
        assert_eq!(seqs(&flights.remove_up_to(2, echo)), [0; 0]);
        assert_eq!((flights.len(), flights.bytes, flights.span(), flights.oldest_ordinal()), (2, 20, 3, 1));
        assert_eq!(seqs(&flights.remove_where(|_| true)), [9, 11]);
        assert_eq!((flights.len(), flights.bytes, flights.span(), flights.next()), (0, 0, 0, 4));
    }

    #[test]
    fn only_what_was_sent_as_that_number() {
        let mut flights = Flights::default();
        flights.skip();
        assert_eq!((flights.span(), flights.next()), (0, 1));
        flights.add(flight(7, Proving::Ack));
        flights.skip();
        flights.add(flight(8, Proving::Ack));
        for (ordinal, seq) in [(0, 7), (1, 8), (2, 8), (3, 7), (9, 7), (u64::MAX, 7)] {
            assert!(flights.remove(ordinal, seq).is_none(), "{ordinal} {seq}");
        }
        assert!(flights.remove(3, 8).is_some() && flights.remove(3, 8).is_none());
        flights.clear();
        assert_eq!((flights.len(), flights.bytes, flights.next()), (0, 0, 4));
        assert!(flights.remove(1, 7).is_none());
    }
}
