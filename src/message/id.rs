//! Message ids: unique per message, and the same each time it is sent.

use super::Kind;

/// A message id from parts that may hold anything: fit for a header line.
pub(super) fn message_id(parts: &[&str]) -> String {
    let (first, rest) = parts.split_first().unwrap_or((&"", &[]));
    let mut id = String::new();
    push_part(&mut id, first);
    longer_id(&id, rest)
}

/// A message id with more parts behind it.
pub(super) fn longer_id(id: &str, parts: &[&str]) -> String {
    let more = parts.iter().map(|part| part.len().min(LONGEST_PART) + 1).sum::<usize>();
    let mut longer = String::with_capacity(id.len() + more);
    longer.push_str(id);
    for part in parts {
        longer.push('.');
        push_part(&mut longer, part);
    }
    longer
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

/// The counter of the event that has this id; `None` for a status (`….status.NONCE.N`), or what is no id of ours.
pub(crate) fn counter_of(id: &str) -> Option<u64> {
    const NONCE: usize = 16;
    let mut parts = id.rsplit('.');
    let (_uuid, counter, before) = (parts.next()?, parts.next()?, parts.next()?);
    let is_status = before == Kind::Status.as_str() && counter.len() == NONCE;
    if is_status { None } else { counter.parse().ok() }
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
