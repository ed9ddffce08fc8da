//! What the way a stream is made means for the messages of a run.
//!
//! A stream that takes one message more is not good enough: the next job has many. So there must be room for a small
//! one.

use std::time::Duration;

use super::State;
use crate::nats::jetstream::{AccountInfo, StreamCluster, StreamConfig, StreamInfo, Usage};

/// Messages of a small job: some tasks on some hosts.
pub(in crate::nats) const SMALL_RUN: u64 = 100;
/// The same in bytes; everyday events have about 2 kB.
const SMALL_RUN_BYTES: u64 = 256 << 10;
/// An event as large as this is nothing special: a file's diff, what a module returns.
pub(super) const LARGE_MESSAGE: u64 = 64 << 10;
/// As nats-server has it if nobody says otherwise.
const USUAL_WINDOW: Duration = Duration::from_secs(120);
/// Who reads later should have more time than this.
const SHORT_LIFE: Duration = Duration::from_secs(3600);

/// Is this a problem, and what is it?
pub(in crate::nats) type Remark = (State, String);

/// Of whose messages a stream is to take.
#[derive(Clone, Copy, Debug)]
pub(in crate::nats) struct Load {
    /// The server's limit.
    pub(in crate::nats) max_payload: u64,
    /// Messages of a small run on one subject.
    pub(in crate::nats) per_subject: u64,
    /// The server is one of a cluster.
    pub(in crate::nats) is_cluster: bool,
    /// Runs give signs of life, which a stream could miss by itself.
    pub(in crate::nats) wants_ttl: bool,
}

/// What a stream's own limits mean for a run.
pub(in crate::nats) fn of_stream(
    name: &str,
    config: &StreamConfig,
    info: &StreamInfo,
    load: Load,
) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut problem = |text: String| remarks.push((State::Problem, format!("{name} {text}")));
    if config.no_ack {
        problem("does not acknowledge (no_ack): nothing can be confirmed".to_owned());
    }
    if config.sealed {
        problem("is sealed: it takes no message any more".to_owned());
    }
    if let Some(cluster) = info.cluster.as_ref().filter(|_| config.num_replicas > 1) {
        let (replicas, missing) = (config.num_replicas, cluster.missing().count() as u64);
        if cluster.leader.is_empty() {
            problem("has no leader: it takes no message until its replicas have elected one".to_owned());
        } else if missing * 2 >= replicas {
            problem(format!("misses {missing} of {replicas} replicas: without a majority it stores nothing"));
        }
    }
    let refuses_new = config.discard == "new";
    let state = &info.state;
    for (limit, used, needed, of) in [
        (config.max_msgs, state.messages, SMALL_RUN, "messages (max_msgs)"),
        (config.max_bytes, state.bytes, SMALL_RUN_BYTES, "bytes (max_bytes)"),
    ] {
        let Some(limit) = positive(limit) else { continue };
        if refuses_new {
            problem_of_room(limit, used, needed, of, &mut problem);
        } else if limit < needed {
            problem(format!("keeps the last {limit} {of} alone: what comes before is lost"));
        }
    }
    if let Some(limit) = positive(config.max_msgs_per_subject) {
        let of = "messages a subject (max_msgs_per_subject)";
        if refuses_new && config.discard_new_per_subject {
            problem_of_room(limit, state.counted(), load.per_subject, of, &mut problem);
        } else if limit == 1 && load.per_subject > 1 {
            problem(
                "keeps one message a subject (max_msgs_per_subject): all but the last one are lost"
                    .to_owned(),
            );
        } else if limit < load.per_subject {
            problem(format!("keeps the last {limit} {of} alone: what comes before is lost"));
        }
    }
    let max_size = positive(config.max_msg_size).filter(|size| *size < load.max_payload);
    if let Some(size) = max_size.filter(|size| *size < LARGE_MESSAGE) {
        problem(format!(
            "refuses messages of more than {size} bytes (max_msg_size), and events may well be larger"
        ));
    }
    let mut note = |text: String| remarks.push((State::Note, format!("{name} {text}")));
    if let Some(size) = max_size.filter(|size| *size >= LARGE_MESSAGE) {
        note(format!(
            "refuses messages of more than {size} bytes (max_msg_size); the server would take {}",
            load.max_payload
        ));
    }
    if let Some(limit) = positive(config.max_msgs_per_subject).filter(|limit| *limit >= load.per_subject) {
        note(format!(
            "has room for {limit} messages a subject (max_msgs_per_subject): longer runs lose some"
        ));
    }
    if refuses_new {
        note("refuses messages when it is full (discard new)".to_owned());
    }
    note_surprises(config, info, load, &mut note);
    remarks
}

/// What surprises later.
fn note_surprises(config: &StreamConfig, info: &StreamInfo, load: Load, note: &mut dyn FnMut(String)) {
    match config.retention.as_str() {
        "interest" if info.state.consumer_count == 0 => {
            note(NO_CONSUMER.to_owned());
        }
        "workqueue" => {
            note("gives each message to one reader, and then it is gone (retention workqueue)".to_owned());
        }
        _ => {}
    }
    let window = config.duplicate_window();
    if window < USUAL_WINDOW {
        note(format!(
            "drops repeats for {window:?} alone (duplicate_window): what is sent again later is there twice"
        ));
    }
    let age = config.max_age();
    if !age.is_zero() && age < SHORT_LIFE {
        note(format!("forgets messages after {age:?} (max_age)"));
    }
    if let Some(transform) = &config.subject_transform {
        note(format!(
            "stores {} as {} (subject_transform): who reads the stream must ask for that",
            transform.src, transform.dest
        ));
    }
    if config.num_replicas <= 1 {
        note(if load.is_cluster { ONE_OF_MANY.to_owned() } else { ONE.to_owned() });
    }
    if load.wants_ttl && !config.allow_msg_ttl {
        note(
            "does not miss signs of life by itself (allow_msg_ttl, nats-server 2.11 or later): a run that was killed is \
             silent until another run, or `replay`, says so"
                .to_owned(),
        );
    }
    for replica in info.cluster.iter().flat_map(StreamCluster::missing) {
        note(format!("misses its replica on {}, which is offline or cut off", replica.name));
    }
}

/// What one replica means.
const ONE: &str = "has one replica, on one server: what that acknowledged in the last minutes before a power cut may be gone \
                   (its sync_interval is 2 minutes by default); `replay` finds what is missing then";
const ONE_OF_MANY: &str = "has one replica: it goes with its server";

/// Said by a trace, or by the number of consumers.
pub(super) const NO_CONSUMER: &str =
    "keeps no message that no consumer waits for, and there is none (retention interest)";

fn problem_of_room(limit: u64, used: u64, needed: u64, of: &str, problem: &mut dyn FnMut(String)) {
    match limit.saturating_sub(used) {
        0 => problem(format!("is full: {used} of {limit} {of}, and it refuses new ones (discard new)")),
        room if room < needed => {
            problem(format!(
                "has room for {room} of {limit} {of} alone, and then refuses new ones (discard new)"
            ));
        }
        _ => {}
    }
}

/// What the account's limits mean for a run.
pub(super) fn of_account(account: &AccountInfo, config: &StreamConfig) -> Option<Remark> {
    let replicas = config.num_replicas.max(1);
    let tier = account.tiers.get(&format!("R{replicas}"));
    // The limits of a tier are for one replica, those of an account for all together.
    let (Usage { memory, storage, limits }, copies) = match tier {
        Some(tier) => (tier, replicas),
        None => (&account.all, 1),
    };
    let (used, limit, of) = if config.storage == "memory" {
        (*memory, limits.max_memory, "memory")
    } else {
        (*storage, limits.max_storage, "storage")
    };
    let limit = u64::try_from(limit).ok()?.saturating_mul(copies);
    let room = limit.saturating_sub(used);
    (room < SMALL_RUN_BYTES * replicas).then(|| {
        (
            State::Problem,
            format!("the account's {of} is full: {used} of {limit} bytes; its streams refuse messages"),
        )
    })
}

fn positive(limit: i64) -> Option<u64> {
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load =
        Load { max_payload: 1 << 20, per_subject: SMALL_RUN, is_cluster: false, wants_ttl: false };

    fn remarks(config: &str, state: &str, load: Load) -> Vec<(State, String)> {
        let text = format!(r#"{{"config":{config},"state":{state}}}"#);
        let info: StreamInfo = serde_json::from_str(&text).unwrap();
        of_stream("S", info.config.as_ref().unwrap(), &info, load)
    }

    #[test]
    fn what_a_run_would_meet() {
        let usual = r#""duplicate_window":120000000000,"num_replicas":1"#;
        for (config, state, problem, part) in [
            (r#""no_ack":true"#, "{}", true, "does not acknowledge"),
            (r#""sealed":true"#, "{}", true, "is sealed"),
            (
                r#""max_msgs":500,"discard":"new""#,
                r#"{"messages":500}"#,
                true,
                "is full: 500 of 500 messages",
            ),
            (r#""max_msgs":500,"discard":"new""#, r#"{"messages":450}"#, true, "has room for 50 of 500"),
            (
                r#""max_msgs":500,"discard":"new""#,
                r#"{"messages":3}"#,
                false,
                "when it is full (discard new)",
            ),
            (r#""max_msgs":10,"discard":"old""#, "{}", true, "keeps the last 10 messages"),
            (r#""max_bytes":1000"#, "{}", true, "keeps the last 1000 bytes"),
            (
                r#""max_bytes":1000000,"discard":"new""#,
                r#"{"bytes":999999}"#,
                true,
                "has room for 1 of 1000000 bytes",
            ),
            (r#""max_msgs_per_subject":1"#, "{}", true, "all but the last one"),
            (r#""max_msgs_per_subject":5"#, "{}", true, "keeps the last 5 messages a subject"),
            (r#""max_msgs_per_subject":5000"#, "{}", false, "longer runs lose some"),
            (
                r#""max_msgs_per_subject":200,"discard":"new","discard_new_per_subject":true"#,
                r#"{"subjects":{"a":200}}"#,
                true,
                "is full: 200 of 200 messages a subject",
            ),
            (r#""max_msg_size":1000"#, "{}", true, "more than 1000 bytes"),
            (r#""max_msg_size":100000"#, "{}", false, "the server would take 1048576"),
            (r#""retention":"interest""#, "{}", false, "no consumer waits for"),
            (r#""retention":"workqueue""#, "{}", false, "one reader"),
            (r#""max_age":60000000000"#, "{}", false, "after 60s (max_age)"),
            (r#""subject_transform":{"src":"a","dest":"b"}"#, "{}", false, "stores a as b"),
        ] {
            let found = remarks(&format!("{{{usual},{config}}}"), state, LOAD);
            let state = if problem { State::Problem } else { State::Note };
            assert!(
                found.iter().any(|(is, text)| *is == state && text.contains(part)),
                "{config}: {found:?}"
            );
            assert_eq!(found.iter().any(|(is, _)| *is == State::Problem), problem, "{config}: {found:?}");
        }
        for fine in
            ["", r#","max_msgs":1000,"max_bytes":1000000"#, r#","max_msg_size":1048576,"retention":"limits""#]
        {
            let three = usual.replace("num_replicas\":1", "num_replicas\":3");
            assert_eq!(remarks(&format!("{{{three}{fine}}}"), "{}", LOAD), [], "{fine}");
            let one = remarks(&format!("{{{usual}{fine}}}"), "{}", LOAD);
            assert!(matches!(&one[..], [(State::Note, text)] if text.contains("one replica")), "{one:?}");
        }
        let short = remarks(
            r#"{"duplicate_window":500000000,"num_replicas":1}"#,
            "{}",
            Load { is_cluster: true, ..LOAD },
        );
        assert_eq!(short.len(), 2, "{short:?}");
        let named = Load { per_subject: 1, ..LOAD };
        assert!(
            remarks(&format!(r#"{{{usual},"max_msgs_per_subject":1}}"#), "{}", named)
                .iter()
                .all(|(is, _)| *is == State::Note)
        );
    }

    #[test]
    fn a_majority_of_replicas() {
        let problem = |replicas: u64, leader: &str, missing: u64| {
            let others: Vec<String> = (1..replicas)
                .map(|number| format!(r#"{{"name":"n{number}","offline":{}}}"#, number <= missing))
                .collect();
            let info: StreamInfo = serde_json::from_str(&format!(
                r#"{{"config":{{"num_replicas":{replicas},"duplicate_window":120000000000}},
                    "cluster":{{"leader":"{leader}","replicas":[{}]}}}}"#,
                others.join(",")
            ))
            .unwrap();
            let remarks = of_stream("S", info.config.as_ref().unwrap(), &info, LOAD);
            let found: Vec<String> = remarks
                .into_iter()
                .filter(|(state, _)| *state == State::Problem)
                .map(|(_, text)| text)
                .collect();
            found.join("; ")
        };
        for (replicas, missing) in [(1, 0), (3, 0), (3, 1), (5, 2)] {
            assert_eq!(problem(replicas, "n0", missing), "", "{missing} of {replicas}");
        }
        for (replicas, missing) in [(2, 1), (3, 2), (5, 3)] {
            let said = problem(replicas, "n0", missing);
            assert!(said.starts_with(&format!("S misses {missing} of {replicas} replicas")), "{said}");
        }
        assert!(problem(3, "", 0).contains("has no leader"));
    }

    #[test]
    fn what_the_account_has_left() {
        let config = |replicas: u64| -> StreamConfig {
            serde_json::from_str(&format!(r#"{{"num_replicas":{replicas}}}"#)).unwrap()
        };
        let full = |account: &str, replicas: u64| {
            let account: AccountInfo = serde_json::from_str(account).unwrap();
            of_account(&account, &config(replicas)).is_some()
        };
        assert!(full(r#"{"storage":1000000,"limits":{"max_storage":1048576,"max_memory":-1}}"#, 1));
        assert!(!full(r#"{"storage":1000000,"limits":{"max_storage":-1,"max_memory":0}}"#, 1));
        assert!(!full(r#"{"storage":1000000}"#, 1) && !full("{}", 3));
        let tiers = r#"{"storage":0,"limits":{"max_storage":0},"tiers":{"R3":{"storage":3000000,"limits":{"max_storage":1048576}}}}"#;
        assert!(full(tiers, 3) && full(tiers, 1));
        assert!(!full(&tiers.replace("3000000", "30"), 3));
    }
}
