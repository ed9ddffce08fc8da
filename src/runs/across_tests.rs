//! Runs side by side and all together, without a stream.

use serde_json::json;

use super::{
    tests::{Heard, at},
    *,
};
use crate::message::{Received, RunId, in_utc};

const RECAP_EVENT: &str = "playbook_on_stats";

/// A run that began at this second, of which each step is a task, a host, the event that ended it, and how many seconds it
/// took.
fn run(began: u64, steps: &[(&str, &str, &str, u64)]) -> Run {
    let mut heard = Heard::default();
    let mut counter = 0;
    let mut second = began;
    let mut event = |heard: &mut Heard, second: u64, word: &str, data: serde_json::Value| {
        counter += 1;
        let payload = json!({
            "runner_ident": "r.1", "counter": counter, "event": word, "event_data": data, "created": in_utc(at(second)),
        });
        heard.message(&format!("site.a.r.1.{counter}.uuid-{counter}"), &payload);
    };
    for (task, host, end, took) in steps {
        let data = json!({"playbook": "p.yml", "task": task, "task_uuid": task, "host": host, "res": {}});
        event(&mut heard, second, "runner_on_start", data.clone());
        second += took;
        event(&mut heard, second, end, data);
    }
    let failures: serde_json::Map<_, _> = steps
        .iter()
        .filter(|(_, _, end, _)| *end == "runner_on_failed")
        .map(|(_, host, ..)| ((*host).to_owned(), json!(1)))
        .collect();
    let ok: serde_json::Map<_, _> =
        steps.iter().map(|(_, host, ..)| ((*host).to_owned(), json!(1))).collect();
    event(&mut heard, second, RECAP_EVENT, json!({"ok": ok, "failures": failures}));
    let is_bad = steps.iter().any(|(_, _, end, _)| *end == "runner_on_failed");
    heard.status('a', if is_bad { "failed" } else { "successful" });
    let mut run = heard.only().clone();
    run.started = Some(at(began));
    run.card.revision = Some("0123abcd".to_owned());
    run
}

const OK: &str = "runner_on_ok";
const FAILED: &str = "runner_on_failed";

#[test]
fn what_is_otherwise_in_a_run() {
    let b = run(10, &[("t", "h", OK, 2), ("u", "h", OK, 2), ("v", "h", OK, 2), ("v", "h", OK, 2)]);
    let a = run(90, &[("t", "h", FAILED, 2), ("u", "h", OK, 5), ("v", "h", OK, 3), ("w", "h", OK, 1)]);
    let found = |a: &Run, b: &Run| -> Vec<(String, &'static str)> {
        differences(a, b).iter().map(|one| (one.task.to_owned(), one.change.as_str())).collect()
    };
    let expected = [("t", "outcome"), ("u", "slower"), ("w", "new"), ("v", "gone")];
    assert_eq!(found(&a, &b), expected.map(|(task, change)| (task.to_owned(), change)));
    assert_eq!(found(&b, &b), []);
    // The other way round what took less is no news.
    let expected = [("t", "outcome"), ("v", "new"), ("w", "gone")];
    assert_eq!(found(&b, &a), expected.map(|(task, change)| (task.to_owned(), change)));
    // Twice as long is not enough where it is less than a second more.
    let (quick, slow) = (run(1, &[("t", "h", OK, 0)]), run(1, &[("t", "h", OK, 1)]));
    assert_eq!(found(&slow, &quick), []);
}

#[test]
fn hosts_that_fail_and_are_well_again() {
    let rows = |runs: &[Run]| {
        let mut stats = HostStats::default();
        for run in runs {
            stats.add(run, at(999));
        }
        let rows = stats.rows().into_iter();
        rows.map(|(host, total)| (host, total.runs, total.failed, total.flaky)).collect::<Vec<_>>()
    };
    let good = |began| run(began, &[("t", "h", OK, 1), ("t", "other", OK, 1)]);
    let bad = |began| run(began, &[("t", "h", FAILED, 1), ("t", "other", OK, 1)]);
    let row = |host: &str, runs, failed, flaky| (host.to_owned(), runs, failed, flaky);
    // In whatever order they are heard of.
    let runs = [good(50), bad(40), good(30), bad(20), good(10)];
    assert_eq!(rows(&runs), [row("h", 5, 2, 2), row("other", 5, 0, 0)]);
    // Another site's host of that name is another host.
    let mut elsewhere = good(30);
    "elsewhere".clone_into(&mut elsewhere.subject_id);
    assert_eq!(rows(&[bad(20), elsewhere]), [row("h", 2, 1, 0), row("other", 2, 0, 0)]);
    // It failed for good.
    assert_eq!(rows(&[good(10), bad(20), bad(30)]), [row("h", 3, 2, 0), row("other", 3, 0, 0)]);
    // Something was changed between the two, or nobody knows.
    for revision in [Some("4567cdef".to_owned()), None] {
        let mut mended = good(20);
        mended.card.revision = revision;
        assert_eq!(rows(&[bad(10), mended])[0], row("h", 2, 1, 0));
    }
}

#[test]
fn how_long_tasks_take_over_all_runs() {
    let mut stats = TaskStats::default();
    for second in 1..=20 {
        stats.add(&run(1, &[("t", "h", if second > 18 { FAILED } else { OK }, second)]), at(999));
    }
    let rows = stats.rows();
    let total = TaskTotal {
        runs: 20,
        failures: 2,
        total: Duration::from_secs(210),
        p95: Some(Duration::from_secs(19)),
    };
    assert_eq!(rows, [("p.yml".to_owned(), "t".to_owned(), total)]);
}

#[test]
fn how_often_playbooks_fail() {
    let runs = [run(1, &[("t", "h", OK, 4)]), run(2, &[("t", "h", FAILED, 9)])];
    let rows = playbooks(runs.iter(), at(999));
    let (_, total) = &rows[0];
    assert_eq!((rows.len(), total.runs, total.failed), (1, 2, 1));
}

/// A message of a run of which there are many.
fn of_many(number: u64, id: &str, payload: &serde_json::Value) -> Received {
    let ident = format!("many-{number}");
    let mut payload = payload.clone();
    payload["runner_ident"] = json!(ident);
    let kind = if payload.get("status").is_some() { "status" } else { "event" };
    Received {
        subject: format!("pub.ansible.runner.site.{ident}.{kind}"),
        id: Some(format!("site.{ident}.{id}")),
        run: RunId::parse(&format!("00000000-0000-7000-8000-{number:012x}")),
        payload: payload.to_string().into(),
        stored: Some(at(number)),
        ..Received::default()
    }
}

#[test]
fn each_of_very_many_runs_is_handed_over_once() {
    const MANY: u64 = 1_200;
    let mut gathering = Gathering::into(Runs::default());
    let mut handed: HashMap<String, u64> = HashMap::new();
    let mut most = 0;
    let mut hear = |message: &Received| {
        if let Some(run) = gathering.hear(message, at(MANY)) {
            *handed.entry(run.ident).or_default() += 1;
        }
        most = most.max(gathering.rest().count());
    };
    let event = |counter: u64, word: &str| json!({"counter": counter, "event": word, "event_data": {"playbook": "p.yml"}});
    for number in 1..=MANY {
        hear(&of_many(number, "status.starting.n.1", &json!({"status": "starting"})));
        hear(&of_many(number, "1.uuid-1", &event(1, "playbook_on_start")));
        // Some end as they should, some publish only some of their events, some were killed.
        if number % 3 == 0 {
            hear(&of_many(number, "2.uuid-2", &event(2, RECAP_EVENT)));
        }
        if number % 3 < 2 {
            hear(&of_many(number, "status.successful.n.2", &json!({"status": "successful"})));
        }
        // What comes twice comes late.
        let late = number.saturating_sub(700).max(1);
        hear(&of_many(late, "1.uuid-1", &event(1, "playbook_on_start")));
    }
    assert!(most <= 501, "{most}");
    for run in gathering.rest() {
        *handed.entry(run.ident.clone()).or_default() += 1;
    }
    assert_eq!(handed.len(), 1_200);
    assert_eq!(handed.values().max(), Some(&1));
}

#[test]
fn a_copied_identity_hides_nobody() {
    let identity = Some(RunId::of_artifacts("a", ""));
    let message = |site: &str, id: &str, kind: &str, payload: serde_json::Value| Received {
        subject: format!("pub.ansible.runner.{site}.r.{kind}"),
        id: Some(format!("{site}.r.{id}")),
        payload: payload.to_string().into(),
        run: identity,
        ..Received::default()
    };
    let status = |word: &str| json!({"runner_ident": "r", "status": word});
    let whole = |site: &str| {
        let event =
            json!({"runner_ident": "r", "counter": 1, "event": RECAP_EVENT, "event_data": {"ok": {"h": 1}}});
        let nonce = "0123456789abcdef";
        vec![
            message(site, &format!("status.{nonce}.1"), "status", status("starting")),
            message(site, "1.uuid-1", "event", event),
            message(site, &format!("status.{nonce}.3"), "status", status("successful")),
        ]
    };
    let mut gathering = Gathering::into(Runs::default());
    let mut handed = Vec::new();
    for message in ["evil", "site", "evil"].into_iter().flat_map(whole) {
        handed.extend(gathering.hear(&message, at(9)).map(|run| run.subject_id));
    }
    assert_eq!(handed, ["evil", "site"]);
}
