//! Messages in flight.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{message::Head, outbox::Proof};

/// A stream that has not acknowledged a message for this long gets no further one: its leader may be gone, and
/// the next one would store what comes later before what is sent again. Electing one takes 4 s or more.
pub(super) const HOLD: Duration = Duration::from_secs(1);

/// A slow link transfers so many bytes a second at least.
const SLOWEST: u64 = 1 << 20;

/// Messages in flight, unconfirmed, of the present attempt.
#[derive(Default)]
pub(super) struct Flights {
    /// Messages from number `base` on; `None`: confirmed, or never sent.
    slots: VecDeque<Option<Flight>>,
    base: u64,
    count: usize,
    pub(super) bytes: usize,
}

pub(super) struct Flight {
    /// What the message shares with others; its subject is asked for.
    pub(super) head: Arc<Head>,
    pub(super) bytes: usize,
    /// Bytes on the wire, headers included: what a server's limits are about.
    pub(super) wire_size: usize,
    pub(super) proof: Proof,
    pub(super) sent: Instant,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a message; numbers rise from one call to the next.
    pub(super) fn add(&mut self, seq: u64, flight: Flight) {
        if self.slots.is_empty() {
            self.base = seq;
        }
        while self.base + (self.slots.len() as u64) < seq {
            self.slots.push_back(None);
        }
        self.bytes += flight.bytes;
        self.count += 1;
        self.slots.push_back(Some(flight));
    }

    /// How many messages there are from the oldest in flight to the youngest, those between that are confirmed
    /// included.
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn largest(&self) -> Option<usize> {
        self.slots.iter().flatten().map(|flight| flight.wire_size).max()
    }

    fn slot(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.base)?).ok()
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Flight> {
        self.slots.get(self.slot(seq)?)?.as_ref()
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Flight> {
        let slot = self.slot(seq)?;
        let flight = self.slots.get_mut(slot)?.take()?;
        self.bytes -= flight.bytes;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        Some(flight)
    }

    /// The marker behind `seq` came back: the server has routed all that was waiting for it.
    pub(super) fn echoed(&mut self, seq: u64) -> Vec<u64> {
        let all = self.slot(seq).map_or(0, |slot| slot.saturating_add(1));
        self.remove_where(all, |flight| flight.proof == Proof::Routed)
    }

    pub(super) fn of_subject(&mut self, subject: &str) -> Vec<u64> {
        self.remove_where(usize::MAX, |flight| &*flight.head.subject == subject)
    }

    fn remove_where(&mut self, first: usize, is_it: impl Fn(&Flight) -> bool) -> Vec<u64> {
        let flights = (self.base..).zip(&self.slots).take(first);
        let found = flights.filter(|(_, flight)| flight.as_ref().is_some_and(&is_it)).map(|(seq, _)| seq);
        let seqs: Vec<u64> = found.collect();
        for seq in &seqs {
            self.remove(*seq);
        }
        seqs
    }

    /// Does any message on this subject wait for a stream?
    pub(super) fn any_stored(&self, subject: &str) -> bool {
        self.slots
            .iter()
            .flatten()
            .any(|flight| flight.proof == Proof::Stored && &*flight.head.subject == subject)
    }

    fn oldest(&self) -> Option<&Flight> {
        self.slots.front().and_then(Option::as_ref)
    }

    /// The oldest message in flight, if it waits for a stream.
    pub(super) fn oldest_stored(&self) -> Option<(u64, &Flight)> {
        self.oldest().filter(|flight| flight.proof == Proof::Stored).map(|flight| (self.base, flight))
    }

    /// Does a stream owe us an answer for too long to send more?
    pub(super) fn are_held(&self) -> bool {
        self.oldest_stored().is_some_and(|(_, flight)| flight.sent.elapsed() > HOLD)
    }

    /// When to lose patience with the oldest message: a stream may lose one message and confirm all others.
    pub(super) fn stalls_at(&self, stall: Duration) -> Instant {
        let transfer = Duration::from_secs(self.bytes as u64 / SLOWEST);
        self.oldest().map_or_else(Instant::now, |flight| flight.sent) + stall + transfer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(subject: &str, proof: Proof) -> Flight {
        let head = crate::message::Message::alone(subject, Vec::new(), "", "").head;
        Flight { head, bytes: 10, wire_size: 10, proof, sent: Instant::now() }
    }

    #[test]
    fn a_marker_confirms_what_went_before_it_and_waited_for_it() {
        let mut flights = Flights::default();
        for (seq, proof) in [(1, Proof::Routed), (2, Proof::Stored), (3, Proof::Routed), (4, Proof::Routed)] {
            flights.add(seq, flight("s", proof));
        }
        assert_eq!(flights.echoed(3), [1, 3]);
        assert_eq!(flights.echoed(3), Vec::<u64>::new());
        assert_eq!((flights.len(), flights.bytes), (2, 20));
        assert_eq!(flights.of_subject("s"), [2, 4]);
        assert_eq!(flights.bytes, 0);
    }

    #[test]
    fn numbers_may_be_missing() {
        let mut flights = Flights::default();
        for seq in [7, 9, 12] {
            flights.add(seq, flight("s", Proof::Stored));
        }
        assert!(flights.remove(8).is_none() && flights.remove(3).is_none() && flights.remove(99).is_none());
        assert!(flights.get(9).is_some() && flights.remove(9).is_some() && flights.remove(7).is_some());
        assert_eq!((flights.len(), flights.bytes, flights.base), (1, 10, 12));
        assert!(flights.remove(12).is_some());
        flights.add(20, flight("s", Proof::Routed));
        assert_eq!(flights.echoed(19), Vec::<u64>::new());
        assert_eq!(flights.echoed(25), [20]);
    }
}
