//! A run's identity: what tells it from all others, also from those of the same ident.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

/// The identity of a run. It sorts by the time when the run began (RFC 9562, version 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunId(Uuid);

impl RunId {
    /// Of a run that begins at this moment.
    pub(crate) fn new(now: SystemTime) -> Self {
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut random = [0; 10];
        if getrandom::fill(&mut random).is_err() {
            // No randomness to be had: still unique on this host.
            let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            let own = u64::from(nanos) << 32 | u64::from(std::process::id());
            random[2..].copy_from_slice(&own.to_be_bytes());
        }
        let millis = u64::try_from(millis).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// Of a run that has left its artifacts and no record: the same each time it is asked for (RFC 9562, version 5).
    /// `name` is what the run is called, `first` the uuid of its first event.
    pub(crate) fn of_artifacts(name: &str, first: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{name}\n{first}").as_bytes()))
    }

    /// The identity that a header or a record names; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// What statuses and signs of life have in their ids, which have no uuid of their own: 16 hexadecimal digits, the
    /// same for whoever knows the run.
    pub(crate) fn nonce(self) -> String {
        format!("{:016x}", self.0.as_u64_pair().1)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn later_runs_sort_behind_earlier_ones() {
        let at = |seconds| RunId::new(UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(at(1_700_000_000) < at(1_700_000_001));
        assert_ne!(at(1_700_000_000), at(1_700_000_000));
        let one = at(1_800_000_000);
        assert_eq!(RunId::parse(&one.to_string()), Some(one));
        assert_eq!((one.0.get_version_num(), one.nonce().len()), (7, 16));
    }

    #[test]
    fn artifacts_have_the_same_one_each_time() {
        let of = RunId::of_artifacts;
        assert_eq!(of("a.b", "u"), of("a.b", "u"));
        assert!(of("a.b", "u") != of("a.b", "v") && of("a.b", "u") != of("a.c", "u"));
        assert_eq!(RunId::parse("no"), None);
    }
}
