//! Message ids: unique per message, and the same each time it is sent.

use super::Kind;

/// A message id from parts that may hold anything: fit for a header line.
pub(super) fn message_id(parts: &[&str]) -> String {
    let (first, rest) = parts.split_first().unwrap_or((&"", &[]));
    let mut id = String::new();
    push_part(&mut id, first);
    lengthen_id(&mut id, rest);
    id
}

/// Puts more parts behind a message id.
pub(super) fn lengthen_id(id: &mut String, parts: &[&str]) {
    for part in parts {
        id.push('.');
        push_part(id, part);
    }
}

/// The most that a part of an id takes, in bytes. A limit for the whole would cost its end, which makes it unique.
const LONGEST_PART: usize = 256;

fn push_part(id: &mut String, part: &str) {
    if part.len() <= LONGEST_PART && part.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id.push_str(part);
    }
    let end = id.len() + LONGEST_PART;
    for c in part.chars() {
        if id.len() + c.len_utf8() > end {
            break;
        }
        id.push(if c.is_control() { '_' } else { c });
    }
}

/// The most hexadecimal digits of a [`nonce`].
const NONCE: usize = 16;

/// What statuses that `replay` has made up have in the place of a nonce.
pub(crate) const REPLAYED: &str = "replay";

/// What an id says of its message, behind the subject id and the ident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own<'a> {
    /// `….COUNTER.UUID`
    Event {
        /// The event's counter.
        counter: u64,
        /// The event's uuid.
        uuid: &'a str,
    },
    /// `….status.NONCE.N` or `….heartbeat.NONCE.N`
    Other {
        /// What it is.
        kind: Kind,
        /// What tells its run from others of the same ident.
        nonce: &'a str,
        /// Which one of its run it is; the last one if that is not known.
        number: u64,
    },
}

/// An id of ours: what its run is called (`{subject_id}.{runner_ident}`), and the rest.
pub(crate) fn split_id(id: &str) -> Option<(&str, Own<'_>)> {
    let (rest, last) = id.rsplit_once('.')?;
    let (rest, middle) = rest.rsplit_once('.')?;
    if (middle.len() == NONCE || middle == REPLAYED)
        && let Some((run, kind)) = rest.rsplit_once('.')
        && let Some(kind) = Kind::parse(kind).filter(|kind| *kind != Kind::Event)
    {
        // Earlier versions of `replay` gave statuses their names in the place of a number.
        let number = match last {
            "starting" => 1,
            "running" => 2,
            last => last.parse().unwrap_or(u64::MAX),
        };
        return Some((run, Own::Other { kind, nonce: middle, number }));
    }
    Some((rest, Own::Event { counter: middle.parse().ok()?, uuid: last }))
}

/// The counter of the event that has this id; `None` for other messages, or what is no id of ours.
pub(crate) fn counter_of(id: &str) -> Option<u64> {
    match split_id(id)? {
        (_, Own::Event { counter, .. }) => Some(counter),
        (_, Own::Other { .. }) => None,
    }
}

/// A text that no other process and no other call has: 16 hexadecimal digits from the operating system.
pub(crate) fn nonce() -> String {
    let number = getrandom::u64().unwrap_or_else(|_| {
        // No randomness to be had: still unique on this host.
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        u64::from(std::process::id()) << 32 | u64::from(now)
    });
    format!("{number:016x}")
}
