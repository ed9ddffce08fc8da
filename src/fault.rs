//! Failures on demand: how the tests prove that no fault of ours reaches the job.
//!
//! Compiled in with the cargo feature `faults` only, which no release has. The variable
//! `ANSIBLE_RUNNER_NATS_FAULT` names a place and what happens there: `place=error`, `place=panic`; with `@N`
//! behind it, at the Nth time alone, with `@N-M` from the Nth to the Mth.

/// A place where a test can make something fail.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn at(_place: &str) -> std::io::Result<()> {
    Ok(())
}

/// A place where a test can make something fail.
///
/// # Panics
/// If the variable says so.
#[cfg(feature = "faults")]
pub fn at(place: &str) -> std::io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static TIMES: AtomicU64 = AtomicU64::new(0);
    let Ok(fault) = std::env::var("ANSIBLE_RUNNER_NATS_FAULT") else { return Ok(()) };
    let (wanted, kind) = fault.split_once('=').unwrap_or((&fault, ""));
    if wanted != place {
        return Ok(());
    }
    let (kind, number) = kind.split_once('@').unwrap_or((kind, ""));
    let time = TIMES.fetch_add(1, Relaxed) + 1;
    let (first, last) = number.split_once('-').unwrap_or((number, number));
    if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>())
        && !(first..=last).contains(&time)
    {
        return Ok(());
    }
    assert!(kind != "panic", "canary in what a panic quotes: fault at {place}");
    Err(std::io::Error::other(format!("fault at {place}")))
}
