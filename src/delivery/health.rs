//! The states of a connection and of the streams behind it, and how they change.

use std::time::Instant;

/// The connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// There is none.
    #[default]
    Away,
    /// Our first word is under way to ourselves: it proves that confirmations can come back.
    Greeting {
        /// When to give it up.
        until: Instant,
    },
    /// Messages go through it.
    Up,
    /// They do, until another server is found.
    Leaving(Leaving),
    /// It is not used any more.
    Over,
}

/// Why a server is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It said that it will go. It serves us until then.
    LameDuck,
    /// It has had no stream for us for too long: it may be cut off from its cluster.
    NoStream,
}

impl Link {
    /// The next state.
    ///
    /// What is not in the table is a bug of ours; a release goes on with the new state, as it is the one that was seen.
    pub(super) fn become_(&mut self, next: Self) {
        debug_assert!(self.may_become(&next), "{self:?} -> {next:?}");
        *self = next;
    }

    fn may_become(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            // A new connection, or the end; whatever the last one was at.
            (_, Self::Greeting { .. } | Self::Over)
                | (Self::Greeting { .. }, Self::Up)
                | (Self::Up, Self::Leaving(_))
                // A stream is there again; what will go does not stay.
                | (Self::Leaving(Leaving::NoStream), Self::Up | Self::Leaving(Leaving::LameDuck))
        )
    }

    /// Is our first word still under way?
    pub(super) fn is_greeting(&self) -> bool {
        matches!(self, Self::Greeting { .. })
    }

    /// May messages be sent?
    pub(super) fn carries(&self) -> bool {
        matches!(self, Self::Up | Self::Leaving(_))
    }
}

/// The streams that take our messages, as far as they show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Streams {
    /// None is missing.
    #[default]
    Well,
    /// One that should be there is not, and nothing was stored since.
    Missing {
        /// Since when.
        since: Instant,
    },
}

impl Streams {
    /// A stream that should be there is not. Since when is that so?
    pub(super) fn miss(&mut self, now: Instant) -> Instant {
        match self {
            Self::Missing { since } => *since,
            Self::Well => {
                *self = Self::Missing { since: now };
                now
            }
        }
    }

    /// A message was stored: `true` if one was missing until now.
    pub(super) fn store(&mut self) -> bool {
        std::mem::take(self) != Self::Well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_connection_may_go() {
        let until = Instant::now();
        let states = [
            Link::Away,
            Link::Greeting { until },
            Link::Up,
            Link::Leaving(Leaving::LameDuck),
            Link::Leaving(Leaving::NoStream),
            Link::Over,
        ];
        let allowed: Vec<Vec<usize>> = states
            .iter()
            .map(|from| (0..states.len()).filter(|to| from.may_become(&states[*to])).collect())
            .collect();
        // From each to these: a greeting and the end are always possible.
        assert_eq!(
            allowed,
            [vec![1, 5], vec![1, 2, 5], vec![1, 3, 4, 5], vec![1, 5], vec![1, 2, 3, 5], vec![1, 5]]
        );
    }

    #[test]
    fn a_stream_is_missing_since_it_was_missed_first() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        assert!(!streams.store());
        assert_eq!(streams.miss(now), now);
        assert_eq!(streams.miss(now + std::time::Duration::from_secs(1)), now);
        assert!(streams.store() && !streams.store());
    }
}
