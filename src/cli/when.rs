//! Points in time as people write them.

use std::time::{Duration, SystemTime};

use time::{
    Date, OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};

use crate::{
    message::moment,
    nats::{Start, before},
};

/// A point in time. An age counts from the server's now, which is not known while the command line is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Ago(Duration),
    At(SystemTime),
}

impl When {
    pub(super) fn at(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(age) => before(now, age),
            Self::At(when) => when,
        }
    }

    /// To read from then on.
    pub(super) fn start(self) -> Start {
        match self {
            Self::Ago(age) => Start::Ago(age),
            Self::At(when) => Start::Since(when),
        }
    }
}

/// How far back: an age (`90s`, `24h`, `7d`), a day or a time of it in UTC (`2026-11-29`, `2026-11-29T03:00`), RFC 3339,
/// `today` or `yesterday`, which begin at midnight in UTC.
pub(super) fn parse(text: &str) -> Result<When, String> {
    let text = text.trim();
    let age = humantime::parse_duration(text).ok().map(When::Ago);
    age.or_else(|| at(text, SystemTime::now()).map(When::At)).ok_or_else(|| {
        "expected an age such as 90s, 24h or 7d, a day such as 2026-11-29, a time such as \
                        2026-11-29T03:00 (UTC), today or yesterday"
            .to_owned()
    })
}

fn at(text: &str, now: SystemTime) -> Option<SystemTime> {
    const DAY: Duration = Duration::from_secs(86_400);
    const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
    const MINUTE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    const SECOND: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let midnight = || SystemTime::from(OffsetDateTime::from(now).replace_time(time::Time::MIDNIGHT));
    match text {
        "now" => return Some(now),
        "today" => return Some(midnight()),
        "yesterday" => return midnight().checked_sub(DAY),
        _ => {}
    }
    let text = &text.replacen(' ', "T", usize::from(text.as_bytes().get(10) == Some(&b' ')));
    if let Ok(day) = Date::parse(text, DATE) {
        return Some(day.midnight().assume_utc().into());
    }
    let local = [MINUTE, SECOND].into_iter().find_map(|format| PrimitiveDateTime::parse(text, format).ok());
    local.map(|time| time.assume_utc().into()).or_else(|| moment(text).map(|(_, when)| when))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::in_utc;

    #[test]
    fn as_people_write_them() {
        let (_, now) = moment("2026-11-29T12:34:56Z").unwrap();
        for (text, expected) in [
            ("today", "2026-11-29T00:00:00Z"),
            ("yesterday", "2026-11-28T00:00:00Z"),
            ("now", "2026-11-29T12:34:56Z"),
            ("2026-11-29", "2026-11-29T00:00:00Z"),
            ("2026-11-29T03:00", "2026-11-29T03:00:00Z"),
            ("2026-11-29 03:00", "2026-11-29T03:00:00Z"),
            ("2026-11-29T03:00:07", "2026-11-29T03:00:07Z"),
            ("2026-11-29T03:00:07+02:00", "2026-11-29T01:00:07Z"),
        ] {
            assert_eq!(at(text, now).map(in_utc).as_deref(), Some(expected), "{text}");
        }
        for (text, expected) in [
            ("90s", "2026-11-29T12:33:26Z"),
            ("30m", "2026-11-29T12:04:56Z"),
            ("7d", "2026-11-22T12:34:56Z"),
            ("30days", "2026-10-30T12:34:56Z"),
            ("99999999d", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse(text).map(|when| in_utc(when.at(now))).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "soon", "2026-13-01", "-1h", "29.11.2026"] {
            assert_eq!(at(text, now), None, "{text}");
        }
    }
}
