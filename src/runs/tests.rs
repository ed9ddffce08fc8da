//! The one source of runs, message by message.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{recap::Recap, *};
use crate::message::in_utc;

const START: SystemTime = SystemTime::UNIX_EPOCH;

pub(super) fn at(seconds: u64) -> SystemTime {
    START + Duration::from_secs(seconds)
}

fn subject_of(payload: &Value) -> String {
    let kind = if payload.get("status").is_some() { "status" } else { "event" };
    format!("pub.ansible.runner.site.a.r.1.{kind}")
}

/// A source, and a stream that stores a message a second.
#[derive(Default)]
pub(super) struct Heard {
    runs: Runs,
    stored: u64,
}

impl Heard {
    pub(super) fn message(&mut self, id: &str, payload: &Value) -> Option<News> {
        self.stored += 1;
        let message = Received {
            subject: subject_of(payload),
            id: Some(id.to_owned()),
            payload: payload.to_string().into(),
            stored: Some(at(self.stored)),
            ..Received::default()
        };
        self.runs.hear(&message, at(self.stored))
    }

    pub(super) fn event(&mut self, counter: u64, event: &str, data: &Value) -> Option<News> {
        let payload = json!({
            "runner_ident": "r.1", "counter": counter, "event": event, "event_data": data, "stdout": format!("line {counter}"),
            "start_line": counter, "end_line": counter + 1,
        });
        self.message(&format!("site.a.r.1.{counter}.uuid-{counter}"), &payload)
    }

    pub(super) fn status(&mut self, nonce: char, status: &str) -> Option<News> {
        let nonce = nonce.to_string().repeat(16);
        let payload = json!({"runner_ident": "r.1", "status": status, "command": ["ansible-playbook", "-i", "x", "site.yml"]});
        self.message(&format!("site.a.r.1.status.{nonce}.1"), &payload)
    }

    pub(super) fn only(&self) -> &Run {
        assert_eq!(self.runs.all().count(), 1);
        self.runs.all().next().unwrap().1
    }
}

pub(super) fn with(more: &Value) -> Value {
    let mut data = json!({"playbook": "p.yml", "play": "P", "task": "T", "task_uuid": "t", "host": "h"});
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    data
}

#[test]
fn a_run_from_start_to_end() {
    let mut heard = Heard::default();
    let base = with(&json!({}));
    heard.event(1, "playbook_on_task_start", &base);
    heard.event(2, "runner_on_ok", &with(&json!({"res": {"changed": true}})));
    heard.event(3, "runner_on_ok", &with(&json!({"res": "... [9 bytes cut by ansible-runner-nats]"})));
    heard.event(4, "runner_on_failed", &with(&json!({"ignore_errors": true})));
    heard.event(5, "runner_on_failed", &with(&json!({"res": {"msg": "no\n\u{1b}[2J"}})));
    heard.event(6, "runner_on_unreachable", &with(&json!({"res": {"msg": ["a"]}})));
    heard.event(7, "runner_on_skipped", &base);
    assert!(heard.event(8, "runner_on_ok", &json!("cut")).is_some());
    assert!(heard.status('a', "successful").unwrap().is_end);
    let run = heard.only();
    assert_eq!(
        (run.subject_id.as_str(), run.ident.as_str(), run.status().as_str()),
        ("site.a", "r.1", "successful")
    );
    let counted = Recap { ok: 4, changed: 1, unreachable: 1, failed: 1, skipped: 1, rescued: 0, ignored: 1 };
    assert_eq!(run.recap, counted);
    assert_eq!((run.task_count, run.missing(), run.tasks.len()), (1, 0, 1));
    assert_eq!(run.duration_of(run.tasks.iter().next().unwrap(), at(99)), Some(Duration::from_secs(6)));
    assert_eq!((run.started, run.ended), (Some(at(1)), Some(at(9))));
    // Its first word was not heard: it began before.
    assert_eq!(run.duration(at(1000)), None);
    let why: Vec<(&str, Fate)> = run.failures.iter().map(|one| (one.why.as_str(), one.fate)).collect();
    assert_eq!(
        why,
        [("no reason was told", Fate::Ignored), ("no ^[[2J", Fate::Failed), ("[\"a\"]", Fate::Unreachable)]
    );
    assert_eq!(run.output.lines().collect::<Vec<_>>().len(), 8);
    // The next run of the playbook has something to go by.
    heard.status('b', "starting");
    heard.event(1, "playbook_on_task_start", &base);
    assert_eq!(heard.runs.all().count(), 1 + 1);
    let next = heard.runs.all().map(|(_, run)| run).find(|run| run.is_again).unwrap();
    assert_eq!((next.status().as_str(), next.playbook.as_str()), ("starting", "site.yml"));
}

#[test]
fn ansibles_own_recap_is_the_last_word() {
    let mut heard = Heard::default();
    heard.event(1, "runner_on_failed", &with(&json!({"res": {"msg": "first"}})));
    heard.event(2, "runner_on_failed", &with(&json!({"res": {"msg": "second"}})));
    heard.event(3, "runner_on_failed", &with(&json!({"host": "other", "res": {"msg": "third"}})));
    let stats = json!({
        "ok": {"h": 5, "other": 1}, "changed": {"h": 2}, "failures": {"h": 1}, "rescued": {"h": 1, "other": 1},
        "ignored": {"h": 3}, "dark": {}, "skipped": {}, "processed": {"h": 1},
    });
    let news = heard.event(4, "playbook_on_stats", &stats).unwrap();
    assert_eq!(news.text, "ok=6 changed=2 unreachable=0 failed=1 skipped=0 rescued=2 ignored=3");
    let fates: Vec<Fate> = heard.only().failures.iter().map(|one| one.fate).collect();
    assert_eq!(fates, [Fate::Rescued, Fate::Failed, Fate::Rescued]);
    // What comes late changes no number.
    heard.event(5, "runner_on_ok", &with(&json!({})));
    assert_eq!(heard.only().recap.ok, 6);
}

#[test]
fn messages_in_any_order() {
    let mut heard = Heard::default();
    for counter in [5_u64, 6, 2, 1, 4, 3, 6, 1] {
        let data = with(&json!({"task": format!("task {counter}"), "task_uuid": format!("t{counter}")}));
        heard.event(counter, "playbook_on_task_start", &data);
    }
    let run = heard.only();
    assert_eq!((run.task.as_str(), run.task_count, run.missing()), ("task 6", 6, 0));
    let names: Vec<&str> = run.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["task 1", "task 2", "task 3", "task 4", "task 5", "task 6"]);
    let lines: Vec<&str> = run.output.lines().collect();
    assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 5", "line 6"]);
    assert_eq!(heard.runs.repeats, 2);
}

#[test]
fn an_ident_that_is_used_again() {
    let mut heard = Heard::default();
    heard.status('a', "starting");
    heard.event(1, "verbose", &Value::Null);
    heard.status('a', "failed");
    // The same status once more, and the same first status: no other run.
    assert!(heard.status('a', "failed").is_none());
    assert!(heard.status('a', "starting").is_none());
    assert_eq!(heard.only().status().as_str(), "failed");
    heard.status('b', "starting");
    let mut states: Vec<&str> = heard.runs.all().map(|(_, run)| run.status().as_str()).collect();
    states.sort_unstable();
    assert_eq!(states, ["failed", "starting"]);
    // A message of the first one, fetched late, is none of the second.
    let early = Received {
        subject: "pub.ansible.runner.site.a.r.1.event".to_owned(),
        id: Some("site.a.r.1.2.u".to_owned()),
        payload: json!({"runner_ident": "r.1", "counter": 2}).to_string().into(),
        stored: Some(at(2)),
        ..Received::default()
    };
    assert!(heard.runs.hear(&early, at(9)).is_none());
    // A run that was killed before its end, and the next one.
    heard.event(1, "verbose", &json!({"second": true}));
    heard.status('c', "starting");
    assert_eq!(heard.runs.all().count(), 3);
}

#[test]
fn what_says_nothing_is_silent() {
    let mut heard = Heard::default();
    heard.status('a', "starting");
    heard.status('a', "running");
    let state = |heard: &Heard, now| heard.only().state(at(now), None).as_str();
    assert_eq!((state(&heard, 60), state(&heard, 63)), ("running", "silent"));
    assert_eq!(heard.only().state(at(5), Some(Duration::from_secs(2))).as_str(), "silent");
    // Two beats, ten seconds apart: two more may be missed.
    for (number, second) in [(1, 10), (3, 30)] {
        heard.stored = second;
        let created = in_utc(at(second));
        let beat = json!({"heartbeat": number, "runner_ident": "r.1", "created": created, "status": "running", "events": 0});
        let news =
            heard.message(&format!("site.a.r.1.heartbeat.{}.{number}", "d".repeat(16)), &beat).unwrap();
        assert!(!news.is_end);
    }
    assert_eq!((state(&heard, 51), state(&heard, 52)), ("running", "silent"));
    heard.status('a', "canceled");
    assert_eq!(state(&heard, 9000), "canceled");
}

#[test]
fn an_end_is_one_end_however_often_it_is_heard() {
    let mut heard = Heard::default();
    let ends = ["running", "failed", "failed", "running", "failed"]
        .map(|name| heard.status('a', name).is_some_and(|news| news.is_end));
    assert_eq!(ends, [false, true, false, false, false]);
}

#[test]
fn the_end_of_a_run_without_an_ident() {
    let mut heard = Heard::default();
    heard.event(1, "verbose", &Value::Null);
    let id = format!("site.a.r.1.status.{}.3", "a".repeat(16));
    let news = heard.message(&id, &json!({"status": "error", "job_explanation": "x"})).unwrap();
    assert!(news.is_end);
    assert_eq!(heard.only().status().as_str(), "error");
}

#[test]
fn a_run_that_publishes_only_some_events_misses_none() {
    let mut runs = Runs::default();
    for counter in [1, 9] {
        let payload = json!({"runner_ident": "r", "counter": counter}).to_string().into();
        let (subject, id) = ("pub.ansible.runner.a.r.event".to_owned(), Some(format!("a.r.{counter}.u")));
        runs.hear(&Received { subject, id, payload, selected: true, ..Received::default() }, START);
    }
    assert_eq!(runs.all().next().unwrap().1.missing(), 0);
}

#[test]
fn a_message_of_others_changes_no_run_of_ours() {
    let mut heard = Heard::default();
    heard.event(1, "verbose", &Value::Null);
    for foreign in [json!({"runner_ident": "r.1"}), json!({"runner_ident": "r.1", "status": "check"})] {
        assert!(heard.message("site.a.r.1.x", &foreign).is_none());
    }
    for payload in
        ["", "{}", "[]", "7", "{\"status\":7}", "\u{0}", "{\"runner_ident\":\"x\"}", "{\"status\":\"check\"}"]
    {
        let message = Received { payload: payload.into(), ..Received::default() };
        assert!(heard.runs.hear(&message, START).is_none(), "{payload}");
    }
    assert_eq!((heard.only().status().as_str(), heard.runs.foreign), ("running", 10));
}

#[test]
fn what_is_read_late_is_of_the_run_that_it_was_made_in() {
    // In `runner_mode=subprocess` standard output and standard error each count from 1.
    for (second, runs) in [(11, 1), (30, 2)] {
        let mut heard = Heard::default();
        heard.status('a', "starting");
        heard.stored = 20;
        heard.status('a', "successful");
        for (uuid, second) in [("one", 10), ("other", second)] {
            heard.stored = second;
            let created = in_utc(at(second));
            let payload =
                json!({"runner_ident": "r.1", "counter": 1, "created": created, "event": "verbose"});
            heard.message(&format!("site.a.r.1.1.{uuid}"), &payload);
        }
        // Made after the end, it is of another run of that name, whose statuses nobody heard.
        assert_eq!(heard.runs.all().count(), runs, "{second}");
    }
}

#[test]
fn whose_a_message_is_says_its_subject() {
    let name = |template: &str, subject: &str, id: Option<&str>, payload: &Value| {
        let mut runs = Runs::of(&Template::parse(template).unwrap());
        let message = Received {
            subject: subject.to_owned(),
            id: id.map(str::to_owned),
            payload: payload.to_string().into(),
            ..Received::default()
        };
        runs.hear(&message, START);
        runs.all().next().map(|(_, run)| format!("{}|{}", run.subject_id, run.ident))
    };
    let nonce = "0123456789abcdef";
    let (a, b) = (format!("site-a.deploy.status.{nonce}.3"), format!("site b.deploy.status.{nonce}.3"));
    let ended = json!({"status": "successful", "runner_ident": "deploy"});
    let default = crate::message::SUBJECT;
    for (template, subject, id, payload, expected) in [
        // A header that claims another site.
        (default, "pub.ansible.runner.site-b.deploy.status", Some(&a), &ended, Some("site-b|deploy")),
        // The same, where the subject could be read in two ways.
        (
            default,
            "pub.ansible.runner.site-b.site-a.deploy.status",
            Some(&a),
            &ended,
            Some("site-b.site-a|deploy"),
        ),
        // A payload that claims another ident.
        (default, "pub.ansible.runner.site-b.other.status", Some(&a), &ended, None),
        (default, "pub.ansible.runner.site-b.deploy.event", Some(&a), &ended, Some("|deploy")),
        // How it was spelt.
        (default, "pub.ansible.runner.site_b.deploy.status", Some(&b), &ended, Some("site b|deploy")),
        // 0.4.0 has no ids.
        (default, "pub.ansible.runner.site-a.deploy.status", None, &ended, Some("site-a|deploy")),
        // Mapped on its way, or another template.
        (default, "imported.site-a.deploy", Some(&a), &ended, Some("site-a|deploy")),
        (default, "imported.site-b.deploy", Some(&a), &ended, Some("|deploy")),
        (
            "runs.{subject_id}.{kind}.{name}.{subject_id}",
            "runs.b.status.successful.b",
            Some(&a),
            &ended,
            Some("b|deploy"),
        ),
        // The subject says nothing.
        ("runs.{kind}", "runs.status", Some(&a), &ended, Some("site-a|deploy")),
    ] {
        let found = name(template, subject, id.map(String::as_str), payload);
        assert_eq!(found.as_deref(), expected, "{subject}");
    }
}

/// A run of which each event is a word, a task's number and a host, told second by second.
fn played(events: &[(u64, &str, &str, &str)]) -> Run {
    let mut heard = Heard::default();
    for (counter, (second, word, task, host)) in (1_u64..).zip(events) {
        if word.is_empty() {
            continue;
        }
        let data = json!({"task": format!("task {task}"), "task_uuid": task, "host": host, "res": {}});
        let payload = json!({
            "runner_ident": "r.1", "counter": counter, "event": word, "event_data": data, "created": in_utc(at(*second)),
        });
        heard.message(&format!("site.a.r.1.{counter}.uuid-{counter}"), &payload);
    }
    heard.only().clone()
}

const TASK: &str = "playbook_on_task_start";
const BEGINS: &str = "runner_on_start";
const OK: &str = "runner_on_ok";

#[test]
fn for_whom_a_run_waits() {
    let waiting = |events: &[(u64, &str, &str, &str)]| -> Vec<(String, String, Option<SystemTime>)> {
        let run = played(events);
        run.waiting().iter().map(|one| (one.host.to_owned(), one.task.to_owned(), one.since)).collect()
    };
    let hung = [(1, TASK, "1", ""), (1, BEGINS, "1", "a"), (2, BEGINS, "1", "b"), (3, OK, "1", "a")];
    assert_eq!(waiting(&hung), [("b".to_owned(), "task 1".to_owned(), Some(at(2)))]);
    // Nobody: it has ended there, or the host is at something else.
    assert_eq!(waiting(&[&hung[..], &[(9, OK, "1", "b")]].concat()), []);
    assert_eq!(waiting(&[&hung[..], &[(9, OK, "2", "b")]].concat()), []);
    // With the strategy `free` each host is at a task of its own; who waits the longest comes first.
    let free = [(1, BEGINS, "1", "b"), (2, BEGINS, "1", "a"), (3, OK, "1", "b"), (4, BEGINS, "2", "b")];
    let names: Vec<String> = waiting(&free).into_iter().map(|(host, task, _)| host + " " + &task).collect();
    assert_eq!(names, ["a task 1", "b task 2"]);
    // The result may be among what is missing: nobody knows. What is missing before it says nothing.
    assert_eq!(waiting(&[&hung[..], &[(4, "", "", ""), (5, "verbose", "", "")]].concat()), []);
    assert_eq!(waiting(&[&[(0, "verbose", "", ""), (0, "", "", "")], &hung[..]].concat()).len(), 1);
    // ansible's last word.
    assert_eq!(waiting(&[&hung[..], &[(5, "playbook_on_stats", "", "")]].concat()), []);
}

#[test]
fn how_long_a_task_takes() {
    let took = |events: &[(u64, &str, &str, &str)], now: u64| -> Vec<Option<u64>> {
        let run = played(events);
        run.tasks.iter().map(|task| run.duration_of(task, at(now)).map(|time| time.as_secs())).collect()
    };
    // One of two hosts hangs.
    let hung = [(1, TASK, "1", ""), (1, BEGINS, "1", "a"), (1, BEGINS, "1", "b"), (5, OK, "1", "a")];
    assert_eq!(took(&hung, 109), [Some(108)]);
    // In batches (`serial`) it is one task, and what lies between them is another one's.
    let serial = [
        (0, TASK, "1", ""),
        (0, BEGINS, "1", "a"),
        (3, OK, "1", "a"),
        (3, TASK, "2", ""),
        (3, BEGINS, "2", "a"),
        (12, OK, "2", "a"),
        (12, TASK, "1", ""),
        (12, BEGINS, "1", "b"),
        (15, OK, "1", "b"),
    ];
    assert_eq!(took(&serial, 99), [Some(6), Some(9)]);
    // The same where nobody tells when it begins on a host.
    let untold: Vec<_> = serial
        .into_iter()
        .map(|(at, word, task, host)| if word == BEGINS { (at, "", "", "") } else { (at, word, task, host) })
        .collect();
    assert_eq!(took(&untold, 99), [Some(6), Some(9)]);
    // A handler that is notified again.
    let again = [(0, BEGINS, "1", "a"), (1, OK, "1", "a"), (5, BEGINS, "1", "a"), (7, OK, "1", "a")];
    assert_eq!(took(&again, 99), [Some(3)]);
    let run = played(&again);
    let steps = run.tasks.steps(run.tasks.iter().next().unwrap());
    assert_eq!(steps.iter().map(|step| step.duration().unwrap().as_secs()).collect::<Vec<_>>(), [1, 2]);
    assert!(steps.iter().all(|step| step.outcome == Some(Outcome::Ok)));
    // Nothing was heard of a host yet.
    assert_eq!(took(&[(1, TASK, "1", ""), (4, TASK, "2", "")], 9), [Some(0), Some(5)]);
}

/// The messages of a run, as they were published one second after the other.
fn published(run: crate::message::RunId, begin: u64, end: &Value) -> Vec<Received> {
    let base = with(&json!({"task_uuid": "t"}));
    let failed = |msg: &str| with(&json!({"res": {"msg": msg, "rc": 3}}));
    let counts = json!({"ok": {"h": 2}, "failures": {"h": 1}, "rescued": {"h": 1}});
    let events = [
        ("playbook_on_start", json!({"playbook": "p.yml"})),
        ("playbook_on_task_start", base.clone()),
        ("runner_on_ok", base.clone()),
        ("runner_on_failed", failed("mended")),
        ("playbook_on_task_start", with(&json!({"task": "U", "task_uuid": "u"}))),
        ("runner_on_start", with(&json!({"task": "U", "task_uuid": "u", "host": "hung"}))),
        ("runner_on_failed", failed("not mended")),
        ("playbook_on_stats", counts),
    ];
    let status = |status: &str| json!({"runner_ident": "r.1", "status": status, "command": ["ansible-playbook", "site.yml"]});
    let mut payloads = vec![status("starting"), status("running")];
    for (counter, (event, data)) in (1_u64..).zip(events) {
        payloads.push(json!({
            "runner_ident": "r.1", "counter": counter, "event": event, "event_data": data,
            "created": in_utc(at(begin + 1 + counter)), "stdout": format!("line {counter}"),
            "start_line": counter, "end_line": counter + 1,
        }));
    }
    payloads.push(end.clone());
    let messages = (0..).zip(payloads).map(|(number, payload)| {
        let own = match payload["counter"].as_u64() {
            Some(counter) => format!("{counter}.uuid-{begin}-{counter}"),
            None => format!("status.{}.{number}", run.nonce()),
        };
        let is_event = payload["counter"].is_u64();
        let kind = if payload["state"].is_string() {
            "heartbeat"
        } else if is_event {
            "event"
        } else {
            "status"
        };
        Received {
            subject: format!("pub.ansible.runner.site.a.r.1.{kind}"),
            id: Some(format!("site.a.r.1.{own}")),
            run: Some(run),
            said: (!is_event).then(|| at(begin + number)),
            payload: payload.to_string().into(),
            ..Received::default()
        }
    });
    messages.collect()
}

/// What is told of each run.
fn stories(runs: &Runs) -> Vec<String> {
    let mut stories: Vec<String> = runs
        .all()
        .map(|(_, run)| {
            let Run { identity, playbook, play, task, recap, task_count, started, ended, last_event, .. } = run;
            let failures: Vec<_> = run.failures.iter().map(|one| (&one.host, &one.task, one.fate, &one.why)).collect();
            let output: Vec<&str> = run.output.lines().collect();
            let tasks: Vec<_> = run
                .tasks
                .iter()
                .map(|task| (&task.name, task.began, task.last, run.tasks.steps(task), run.duration_of(task, at(9_000))))
                .collect();
            format!(
                "{identity:?} {} {:?} {playbook} {play} {task} {recap} {task_count} {started:?} {ended:?} {last_event:?} {} \
                 {failures:?} {output:?} {tasks:?}",
                run.status().as_str(),
                run.waiting(),
                run.missing(),
            )
        })
        .collect();
    stories.sort();
    stories
}

#[test]
fn in_whatever_order_messages_come_the_story_is_the_same() {
    let of = crate::message::RunId::of_artifacts;
    let killed = json!({"state": "killed", "runner_ident": "r.1", "host": "h", "pid": 1, "events": 8});
    let end = |status: &str| json!({"runner_ident": "r.1", "status": status});
    // An ident that is used again, also while the first run goes on.
    let all: Vec<Received> = [
        (of("a", ""), 100, end("failed")),
        (of("b", ""), 104, killed),
        (of("c", ""), 900, end("successful")),
    ]
    .into_iter()
    .flat_map(|(run, begin, end)| published(run, begin, &end))
    .collect();
    let hear = |messages: &[Received], stored: bool| {
        let mut runs = Runs::default();
        for (number, message) in (0..).zip(messages) {
            let stored = stored.then(|| at(5_000 + number));
            runs.hear(&Received { stored, ..message.clone() }, at(10_000));
        }
        stories(&runs)
    };
    let expected = hear(&all, false);
    assert_eq!(expected.len(), 3);
    assert!(expected.iter().all(|one| one.contains("site.yml") && one.contains("Rescued")), "{expected:#?}");
    for seed in 0..100 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut some = all.clone();
        for _ in 0..chance.usize(..20) {
            some.push(all[chance.usize(..all.len())].clone());
        }
        chance.shuffle(&mut some);
        assert_eq!(hear(&some, chance.bool()), expected, "seed {seed}");
    }
}

#[test]
fn of_what_was_cut_nothing_else_is_told() {
    let of = crate::message::RunId::of_artifacts;
    let end = json!({"runner_ident": "r.1", "status": "timeout"});
    let all = published(of("a", ""), 100, &end);
    let told = |messages: &[Received]| {
        let mut runs = Runs::default();
        for message in messages {
            runs.hear(message, at(10_000));
        }
        runs.all().next().map(|(_, run)| run.clone())
    };
    let whole = told(&all).unwrap();
    let tasks = |run: &Run| -> Vec<String> { run.tasks.iter().map(|task| task.name.clone()).collect() };
    let is_among = |some: &[String], all: &[String]| some.iter().all(|one| all.contains(one));
    let output = |run: &Run| -> Vec<String> { run.output.lines().map(ToOwned::to_owned).collect() };
    let failures = |run: &Run| -> Vec<String> {
        let of_tasks = run.failures.iter().filter(|failure| !failure.is_of_run());
        of_tasks.map(|one| format!("{} {} {}", one.host, one.task, one.why)).collect()
    };
    for seed in 0..500 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let some: Vec<Received> = all.iter().filter(|_| chance.u8(..4) > 0).cloned().collect();
        let Some(run) = told(&some) else { continue };
        assert!(run.status() == whole.status() || !run.is_over(), "seed {seed}: {:?}", run.status());
        assert!(run.duration(at(9_000)).is_none_or(|_| run.started == whole.started), "seed {seed}");
        assert!(is_among(&tasks(&run), &tasks(&whole)), "seed {seed}");
        assert!(is_among(&output(&run), &output(&whole)), "seed {seed}");
        assert!(is_among(&failures(&run), &failures(&whole)), "seed {seed}");
        // Whoever has told how it ended is not waited for, though that was not heard.
        let waiting: Vec<&str> = run.waiting().iter().map(|one| one.host).collect();
        assert!(waiting.is_empty() || waiting == ["hung"], "seed {seed}: {waiting:?}");
    }
}
