//! Processes, as records name them: by host, number, and the namespace that the number is of.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// The namespace that this process's number is of (`pid_namespaces(7)`): containers of one host may share its name and its
/// files, and count processes on their own. `None` where there is no such thing.
pub(super) fn namespace() -> Option<String> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// Can it be seen here whether a process exists?
pub(super) fn are_seen() -> bool {
    Path::new("/proc/self").exists()
}

/// Is there a process of this number?
pub(super) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Is there a process of this number that was there at that time, so that it is not a later one which has got the number
/// again?
pub(super) fn was_there(pid: u32, then: SystemTime) -> bool {
    /// What the clocks that are compared may differ by.
    const SLACK: Duration = Duration::from_secs(2);
    began(pid).is_some_and(|began| began <= then + SLACK)
}

/// When a process began (proc(5): the 22nd field, in ticks since the machine's start).
fn began(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may have anything in it, and ends with the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    let after_start = Duration::from_millis(ticks * 1000 / per_second.max(1));
    SystemTime::now().checked_sub(Duration::try_from_secs_f64(uptime).ok()?)?.checked_add(after_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_was_there_just_now_and_not_long_ago() {
        let (pid, now) = (std::process::id(), SystemTime::now());
        assert!(are_seen() && exists(pid) && was_there(pid, now));
        let long_ago = now.checked_sub(Duration::from_secs(86_400 * 3_650)).unwrap();
        assert!(!was_there(pid, long_ago) && !was_there(u32::MAX, now));
        assert!(namespace().unwrap().starts_with("pid:["));
    }
}
