//! Why a run went wrong: of whatever modules, strategies and people bring, nothing real is hidden and nothing made up.

use serde_json::{Value, json};

use super::{
    tests::{Heard, with},
    *,
};

/// How a failure is told: host, task, fate, reason.
fn told(run: &Run) -> Vec<String> {
    let line = |one: &Failure| format!("{} · {} · {} · {}", one.host, one.task, one.fate.as_str(), one.why);
    run.failures.iter().map(line).collect()
}

/// A run of these events (name, host, task, and more of its data), which ended so.
fn run(events: &[(&str, &str, &str, Value)], status: &str) -> Run {
    let mut heard = Heard::default();
    for (counter, (name, host, task, more)) in (1..).zip(events) {
        let mut data = with(&json!({"host": host, "task": task, "task_uuid": task}));
        if *name == "playbook_on_stats" {
            data = json!({});
        }
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        heard.event(counter, name, &data);
    }
    heard.status('a', status);
    heard.only().clone()
}

const OK: &str = "runner_on_ok";
const FAILED: &str = "runner_on_failed";
const LOST: &str = "runner_on_unreachable";
const RECAP: &str = "playbook_on_stats";

fn because(msg: &str) -> Value {
    json!({"res": {"msg": msg}})
}

#[test]
fn one_field_that_is_something_else_costs_no_other() {
    // As `dnf` has `results`; a number for a truth, a list for a text.
    let res =
        json!({"res": {"changed": 1, "msg": "no such package", "results": ["a", "b"], "reason": {"x": 1}}});
    let failed = run(&[(FAILED, "h", "t", res.clone())], "failed");
    assert_eq!(told(&failed), ["h · t · failed · no such package"]);
    let changed = run(&[(OK, "h", "t", res)], "successful");
    assert_eq!((changed.recap.ok, changed.recap.changed), (1, 1));
    let odd =
        run(&[(FAILED, "h", "t", json!({"play": 7, "ignore_errors": "no", "res": {"msg": "m"}}))], "failed");
    assert_eq!(told(&odd), ["h · t · failed · m"]);
}

#[test]
fn what_was_rescued_and_what_was_not() {
    let stats = |rescued: u64| json!({"failures": {"h": 1}, "rescued": {"h": rescued}, "ok": {"h": 1}});
    let of = |events: &[(&str, &str, &str, Value)]| told(&run(events, "failed"));
    // A rescue, and what failed last.
    let events = [
        (FAILED, "h", "block", because("a")),
        (OK, "h", "mend", json!({})),
        (FAILED, "h", "real", because("b")),
        (RECAP, "", "", stats(1)),
    ];
    assert_eq!(of(&events), ["h · block · rescued · a", "h · real · failed · b"]);
    // An `always` with a rescue of its own came after the real one: the numbers do not tell which it was.
    let events = [
        (FAILED, "h", "real", because("a")),
        (FAILED, "h", "cleanup", because("b")),
        (OK, "h", "mend", json!({})),
        (RECAP, "", "", stats(1)),
    ];
    assert_eq!(of(&events), ["h · real · failed · a", "h · cleanup · failed · b"]);
    let events = [
        (LOST, "h", "t", because("away")),
        (OK, "h", "u", json!({})),
        (RECAP, "", "", json!({"ok": {"h": 1}, "ignored": {"h": 1}})),
    ];
    assert_eq!(told(&run(&events, "successful")), ["h · t · ignored · away"]);
}

#[test]
fn a_run_that_was_cut_short_says_so() {
    let rescued = [(FAILED, "h", "block", because("a")), (OK, "h", "mend", json!({}))];
    let reason = |events: &[(&str, &str, &str, Value)], status: &str| {
        let run = run(events, status);
        run.failures.iter().filter(|one| one.is_of_run()).map(|one| one.why.clone()).collect::<Vec<_>>()
    };
    assert_eq!(reason(&rescued, "timeout"), ["it ran out of time at: mend"]);
    assert_eq!(reason(&rescued, "successful"), Vec::<String>::new());
    // Its ansible-playbook was killed: what failed had been dealt with.
    assert_eq!(reason(&rescued, "failed").len(), 1);
    // Nothing followed: that is why.
    assert_eq!(reason(rescued.get(..1).unwrap(), "failed"), Vec::<String>::new());
    let run = run(&rescued, "timeout");
    assert_eq!(run.who_failed(), "the run");
}

#[test]
fn who_was_not_killed_has_no_reason_for_it() {
    let mut heard = Heard::default();
    heard.event(1, OK, &with(&json!({})));
    heard.message(
        "site.a.r.1.heartbeat.0123456789abcdef.0",
        &json!({"runner_ident": "r.1", "state": "killed"}),
    );
    assert_eq!(told(heard.only()), ["no host · no task · failed · its process was killed at: T"]);
    // It was only cut off, and says how it ended.
    heard.status('a', "successful");
    assert_eq!((heard.only().status(), told(heard.only())), (Status::Successful, Vec::new()));
}

#[test]
fn names_of_people_are_no_words_of_ours() {
    let run = run(&[(FAILED, "no host", "no task", because("a"))], "failed");
    assert_eq!(told(&run), ["no host · no task · failed · a"]);
}

#[test]
fn without_details_the_output_tells() {
    let mut heard = Heard::default();
    let payload = |stdout: &str| {
        json!({
            "runner_ident": "r.1", "counter": 1, "event": FAILED, "event_data": {}, "stdout": stdout, "start_line": 1, "end_line": 2,
        })
    };
    let stdout =
        "\u{1b}[0;31mfatal: [web1 -> db1]: FAILED! => {\"changed\": false, \"msg\": \"no room\"}\u{1b}[0m";
    heard.message("site.a.r.1.1.u", &payload(stdout));
    heard.message(
        "site.a.r.1.2.v",
        &json!({"runner_ident": "r.1", "counter": 2, "event": RECAP, "event_data": {}}),
    );
    heard.status('a', "failed");
    assert_eq!(told(heard.only()), ["web1 · ? · failed · no room"]);
    assert_eq!(heard.only().recap.failed, 1);
}

#[test]
fn the_real_one_is_not_lost_among_many_that_were_ignored() {
    let ignored = json!({"ignore_errors": true, "res": {"msg": "never mind"}});
    let mut events = vec![(FAILED, "h", "t", ignored); 1_500];
    events.insert(700, (FAILED, "h2", "the real one", because("broken")));
    let run = run(&events, "failed");
    assert_eq!(run.failures.len(), 1_000);
    let real: Vec<String> = told(&run).into_iter().filter(|line| !line.ends_with("never mind")).collect();
    assert_eq!(real, ["h2 · the real one · failed · broken"]);
}

#[test]
fn what_a_job_is_about() {
    let job = |command: Value| {
        let mut heard = Heard::default();
        let payload = json!({"runner_ident": "r.1", "status": "starting", "command": command});
        heard.message("site.a.r.1.status.0123456789abcdef.1", &payload);
        heard.only().playbook.clone()
    };
    for (command, expected) in [
        (json!(["ansible-playbook", "-i", "x", "site.yml"]), "site.yml"),
        (json!(["/usr/bin/ansible-playbook", "-e", "@vars.yml", "--inventory=inv.yml", "deploy"]), "deploy"),
        (json!(["ansible-playbook", "site.yml", "-i", "inv.yml", "-vvv"]), "site.yml"),
        (
            json!(["podman", "run", "ee.yml", "ansible-playbook", "--limit", "a.yml", "main.json"]),
            "main.json",
        ),
        (json!(["ansible", "-i", "x", "-m", "debug", "-a", "msg=see_site.yml", "all"]), "debug"),
        (json!(["ansible", "all", "--module-name=ping"]), "ping"),
        (json!(["ansible-playbook", "--version"]), ""),
        (json!([]), ""),
        (json!("odd"), ""),
    ] {
        assert_eq!(job(command.clone()), expected, "{command}");
    }
}
