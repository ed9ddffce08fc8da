//! Failures on demand: how the tests prove that no fault of ours reaches the job.
//!
//! Compiled in with the cargo feature `faults` only, which no release has. The variable
//! `ANSIBLE_RUNNER_NATS_FAULT` names a place and what happens there: `place=error`, `place=panic`; with `@N`
//! behind it, at the Nth time alone, with `@N-M` from the Nth to the Mth.

/// A place where a test can make something panic.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn panic_at(_place: &str) {}

/// A place where a test can make something fail.
#[cfg(not(any(test, feature = "faults")))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it may fail")]
pub(crate) fn error_at(_place: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
thread_local! {
    static DISK_IS_FULL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on, or no more, this thread finds no room on any disk.
#[cfg(test)]
pub(crate) fn disk_is_full(is_full: bool) {
    DISK_IS_FULL.set(is_full);
}

/// A place where a test can make something fail.
#[cfg(all(test, not(feature = "faults")))]
pub(crate) fn error_at(place: &str) -> std::io::Result<()> {
    if place.starts_with("spill.") && DISK_IS_FULL.get() {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// A place where a test can make something panic.
///
/// # Panics
/// If the variable says so.
#[cfg(feature = "faults")]
pub(crate) fn panic_at(place: &str) {
    assert!(!is_due(place, "panic"), "canary in what a panic quotes: fault at {place}");
}

/// A place where a test can make something fail.
#[cfg(feature = "faults")]
pub(crate) fn error_at(place: &str) -> std::io::Result<()> {
    if is_due(place, "error") {
        return Err(std::io::Error::other(format!("fault at {place}")));
    }
    Ok(())
}

#[cfg(feature = "faults")]
fn is_due(place: &str, kind: &str) -> bool {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static TIMES: AtomicU64 = AtomicU64::new(0);
    let Ok(fault) = std::env::var("ANSIBLE_RUNNER_NATS_FAULT") else { return false };
    let (wanted, what) = fault.split_once('=').unwrap_or((&fault, ""));
    let (what, number) = what.split_once('@').unwrap_or((what, ""));
    if wanted != place || what != kind {
        return false;
    }
    let time = TIMES.fetch_add(1, Relaxed) + 1;
    let (first, last) = number.split_once('-').unwrap_or((number, number));
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&time),
        // No number: each time.
        _ => true,
    }
}
