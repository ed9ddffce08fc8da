//! Where streams have stored a run's messages: what a later look at the stream is compared with.

use std::{collections::HashMap, sync::Arc};

use crate::journal::Acknowledged;

/// Where a stream has stored a message: what its acknowledgement says.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The stream.
    pub stream: Arc<str>,
    /// When that was made (RFC 3339), if it is known already.
    pub created: Option<Arc<str>>,
    /// The message's number in it.
    pub number: u64,
    /// It is that of an earlier copy.
    pub is_repeat: bool,
}

/// The places of messages that were acknowledged just now, by their numbers in the outbox.
pub(crate) type Places = HashMap<u64, Place>;

/// The streams that have stored messages of a run, while it goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Vec<Acknowledged>);

impl Streams {
    /// A message was stored there. Acknowledgements come in the order in which a stream numbers.
    pub(crate) fn note(&mut self, place: &Place) {
        /// Events and statuses may be in streams of their own; more are of no interest.
        const MOST: usize = 8;
        let count = self.0.len();
        match self.0.iter_mut().find(|known| known.name == *place.stream) {
            Some(known) if place.number >= known.last_sequence => known.last_sequence = place.number,
            Some(known) => known.went_back |= !place.is_repeat,
            None if count < MOST => self.0.push(Acknowledged {
                name: place.stream.to_string(),
                created: place.created.as_deref().map(ToOwned::to_owned),
                last_sequence: place.number,
                went_back: false,
            }),
            None => {}
        }
    }

    /// Messages were stored there, too.
    pub(crate) fn join(&mut self, others: &[Acknowledged]) {
        for Acknowledged { name, created, last_sequence, went_back } in others {
            let created = created.as_deref().map(Into::into);
            let place =
                Place { stream: name.as_str().into(), created, number: *last_sequence, is_repeat: true };
            self.note(&place);
            if let Some(known) = self.0.iter_mut().find(|known| known.name == *name) {
                known.went_back |= went_back;
            }
        }
    }

    /// A stream was made at this time. Another time than before: it was made anew.
    pub(super) fn made(&mut self, stream: &str, created: &str) {
        for known in self.0.iter_mut().filter(|known| known.name == stream) {
            match &known.created {
                Some(before) if before != created => known.went_back = true,
                Some(_) => {}
                None => known.created = Some(created.to_owned()),
            }
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<Acknowledged> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_run_from_two_sides() {
        let known = |name: &str, last_sequence: u64, went_back: bool| Acknowledged {
            name: name.into(),
            created: Some("then".into()),
            last_sequence,
            went_back,
        };
        let mut streams = Streams::default();
        streams.join(&[known("A", 7, false), known("B", 3, true)]);
        streams.join(&[known("A", 5, false), known("B", 9, false), known("C", 1, false)]);
        assert_eq!(streams.to_vec(), [known("A", 7, false), known("B", 9, true), known("C", 1, false)]);
        streams.join(&[known("A", 8, true)]);
        assert_eq!(streams.to_vec().first(), Some(&known("A", 8, true)));
    }

    fn place(number: u64, is_repeat: bool) -> Place {
        Place { stream: "S".into(), created: None, number, is_repeat }
    }

    #[test]
    fn numbers_that_go_back_are_seen_and_repeats_are_no_such() {
        for (numbers, went_back) in [
            (vec![(1, false), (2, false), (7, false)], false),
            (vec![(1, false), (7, false), (3, true), (8, false)], false),
            (vec![(6, false), (7, false), (3, false), (4, false), (9, false)], true),
        ] {
            let mut streams = Streams::default();
            let most = numbers.iter().map(|(number, _)| *number).max();
            for (number, repeat) in numbers {
                streams.note(&place(number, repeat));
            }
            let [stream] = &streams.to_vec()[..] else { panic!() };
            assert_eq!((Some(stream.last_sequence), stream.went_back), (most, went_back));
        }
    }

    #[test]
    fn a_stream_that_is_made_anew() {
        let mut streams = Streams::default();
        streams.note(&place(1, false));
        for (created, went_back) in [("a", false), ("a", false), ("b", true)] {
            streams.made("S", created);
            streams.made("other", "c");
            assert_eq!(
                (streams.to_vec()[0].created.as_deref(), streams.to_vec()[0].went_back),
                (Some("a"), went_back)
            );
        }
    }
}
