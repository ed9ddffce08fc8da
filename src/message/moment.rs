//! Moments: as ansible-runner writes them, and as we do.

use std::time::SystemTime;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A moment as ansible-runner writes it (`created`): RFC 3339, and older versions leave out that it is UTC. The text as
/// the standard wants it, and what it means.
pub(crate) fn moment(created: &str) -> Option<(String, SystemTime)> {
    const LONGEST: usize = 64;
    [created.to_owned(), format!("{created}Z")].into_iter().find_map(|text| {
        let parsed = OffsetDateTime::parse(&text, &Rfc3339).ok().filter(|_| text.len() <= LONGEST)?;
        Some((text, parsed.into()))
    })
}

/// A moment for people and scripts, to the second: `2026-11-24T03:12:09Z`.
pub(crate) fn in_utc(when: SystemTime) -> String {
    let whole = OffsetDateTime::from(when).replace_nanosecond(0);
    whole.ok().and_then(|when| when.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A moment in RFC 3339, in UTC and to the millisecond.
pub(crate) fn to_millis(when: SystemTime) -> String {
    let when = OffsetDateTime::from(when);
    let millis = u32::from(when.millisecond()) * 1_000_000;
    when.replace_nanosecond(millis).unwrap_or(when).format(&Rfc3339).unwrap_or_default()
}
