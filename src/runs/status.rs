//! What state a run is in: one list of the words, their order, and what each means.

use crate::message::{END_STATES, KILLED, OPEN_STATES};

/// A run's state, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Starting,
    Running,
    /// It has not ended, and says nothing any more.
    Silent,
    Successful,
    Failed,
    Canceled,
    Timeout,
    Error,
    /// Its process is gone, and it had not ended.
    Killed,
}

impl Status {
    /// All, in the order in which a run may come to them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Starting,
        Self::Running,
        Self::Silent,
        Self::Successful,
        Self::Failed,
        Self::Canceled,
        Self::Timeout,
        Self::Error,
        Self::Killed,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        let [starting, running] = OPEN_STATES;
        let [successful, failed, canceled, timeout, error] = END_STATES;
        match self {
            Self::Starting => starting,
            Self::Running => running,
            Self::Silent => "silent",
            Self::Successful => successful,
            Self::Failed => failed,
            Self::Canceled => canceled,
            Self::Timeout => timeout,
            Self::Error => error,
            Self::Killed => KILLED,
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Is it over?
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Self::Starting | Self::Running | Self::Silent)
    }

    /// Has something gone wrong of which people want to know why?
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Timeout | Self::Error | Self::Killed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_word_of_its_own_and_the_words_are_ansible_runners() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("silent"), Some(Status::Silent));
        assert!(END_STATES.iter().all(|word| Status::parse(word).is_some_and(Status::is_end)));
        assert!(OPEN_STATES.iter().all(|word| Status::parse(word).is_some_and(|status| !status.is_end())));
        assert_eq!(Status::parse("gone"), None);
    }
}
