"""Which messages go where, and what is in them: `subject`, `events`, `omit`, `cloudevents`, trace context."""

from __future__ import annotations

import datetime
import urllib.parse
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from contract import HEADERS, PAYLOADS, problems
from support import Bus, Job, Server, body, cli, events_of, statuses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg


def run(job: Job, server: Server, env: dict[str, str] | None = None) -> None:
    on = {"RUNNER_NATS_SUBJECT_ID": "site.a", "RUNNER_NATS_SERVERS": server.url}
    done = cli("run", job.folder, "-p", "play.yml", "--ident", "run 1", env={**on, **(env or {})})
    assert (done.returncode, done.stderr) == (0, "")


def end_of(messages: list[Msg]) -> bool:
    return any(body(message).get("status") == "successful" for message in messages)


def test_a_subject_with_the_name_of_the_event(
    server: Server, connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """A consumer subscribes to failures alone, and gets nothing else."""
    everything = connect(server).subscribe("runs.>")
    failures = connect(server).subscribe("runs.*.*.*.event.runner_on_failed")
    template = "runs.{subject_id}.{runner_ident}.{kind}.{name}"
    job = Job(tmp_path / "job", {"nats_options": {"subject": template}})
    run(job, server)
    messages = everything.wait_for(end_of)
    for message in messages:
        data = body(message)
        kind, name = ("event", data["event"]) if "event" in data else ("status", data["status"])
        assert message.subject == f"runs.site.a.run_1.{kind}.{name}"
    assert [body(m) for m in messages if ".event." in m.subject] == job.events()
    failed = [event for event in job.events() if event["event"] == "runner_on_failed"]
    assert failed
    assert [body(message) for message in failures.received] == failed


def test_a_subject_without_places(server: Server, connect: Callable[..., Bus], tmp_path: Path) -> None:
    bus = connect(server).subscribe("just.one")
    job = Job(tmp_path / "job")
    run(job, server, {"RUNNER_NATS_SUBJECT": "just.one"})
    messages = bus.wait_for(end_of)
    assert [body(message) for message in messages if "counter" in body(message)] == job.events()


def test_a_stream_gets_the_subjects_of_a_template(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream(subjects=["runs.>"])
    options = {"subject": "runs.{runner_ident}.{name}.{kind}", "delivery": "jetstream"}
    job = Job(tmp_path / "job", {"nats_options": options})
    run(job, server)
    messages = connect(server).stream_messages()
    assert [body(message) for message in messages if message.subject.endswith(".event")] == job.events()


@pytest.mark.parametrize(
    ("patterns", "is_wanted"),
    [
        ("runner_*,!runner_item_*", lambda name: name.startswith("runner_") and "item" not in name),
        ("!verbose, !*_item_*", lambda name: name != "verbose" and "_item_" not in name),
        (["playbook_on_stats"], lambda name: name == "playbook_on_stats"),
        ("no_such_*", lambda _: False),
    ],
)
def test_events(
    server: Server, bus: Bus, tmp_path: Path, patterns: Any, is_wanted: Callable[[str], bool]
) -> None:
    """Events by name; statuses always."""
    job = Job(tmp_path / "job", {"nats_options": {"events": patterns}})
    run(job, server)
    messages = bus.wait_for_end()
    assert statuses_of(messages) == ["starting", "running", "successful"]
    wanted = [event for event in job.events() if is_wanted(event["event"])]
    assert [body(m) for m in messages if m.subject.endswith(".event")] == wanted
    assert len(wanted) < len(job.events())


@pytest.mark.parametrize(
    ("patterns", "unknown"),
    [
        ("runner_on_failled,playbook_on_stats", "runner_on_failled; did you mean runner_on_failed?"),
        (["playbook_on_stats", "no_such_event"], "no_such_event"),
        ("playbook_*, !playbook_on_starts", "playbook_on_starts; did you mean playbook_on_start?"),
    ],
)
def test_an_event_that_there_is_not(
    server: Server, bus: Bus, tmp_path: Path, patterns: Any, unknown: str
) -> None:
    """It is told, and what was asked for is published."""
    job = Job(tmp_path / "job", {"nats_options": {"events": patterns}})
    on = {"RUNNER_NATS_SUBJECT_ID": "site.a", "RUNNER_NATS_SERVERS": server.url}
    done = cli("run", job.folder, "-p", "play.yml", env=on)
    line = f"ansible-runner-nats: nats_options.events: ansible-runner has no event {unknown}\n"
    assert (done.returncode, done.stderr) == (0, line)
    names = [event["event"] for event in events_of(bus.wait_for_end())]
    assert "playbook_on_stats" in names
    assert "runner_on_ok" not in names


def test_omit(server: Server, bus: Bus, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    run(job, server, {"RUNNER_NATS_OMIT": "event_data.res, stdout,env,event_data.no.such"})
    messages = bus.wait_for_end()
    expected = []
    for event in job.events():
        event.pop("stdout")
        event["event_data"].pop("res", None)
        expected.append(event)
    assert [body(m) for m in messages if m.subject.endswith(".event")] == expected
    statuses = [body(m) for m in messages if m.subject.endswith(".status")]
    assert set(statuses[0]) == {"status", "runner_ident", "command", "cwd"}


def test_omit_looks_through_lists(server: Server, bus: Bus) -> None:
    options = {"servers": server.url, "omit": ["a.b", "list.x", "list.y.z", "n.7"]}
    settings = {"nats_subject_id": "id", "nats_options": options}
    config = SimpleNamespace(settings=settings, ident="r", artifact_dir=None)
    event_handler(config, {
        "a": {"b": 1, "c": {"b": 2}}, "b": 3, "a.b": 4, "n": {7: 1, 8: 2},
        "list": [{"x": 1, "y": [{"z": 1, "k": 2}]}, [{"x": 5}], "x"],
    })  # fmt: skip
    status_handler(config, {"status": "successful"})
    assert events_of(bus.wait_for_end()) == [
        {"a": {"c": {"b": 2}}, "b": 3, "a.b": 4, "n": {"8": 2}, "list": [{"y": [{"k": 2}]}, [{}], "x"]}
    ]


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_cloudevents_and_trace_context(server: Server, bus: Bus, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"cloudevents": True}, "nats_headers": {"team": "a b"}})
    run(job, server, {"TRACEPARENT": PARENT, "TRACESTATE": "vendor=1"})
    messages = bus.wait_for_end()
    assert len(messages) == len(job.events()) + 3
    for message in messages:
        headers, data = message.headers, body(message)
        assert headers is not None
        decoded = {k: urllib.parse.unquote(v) for k, v in headers.items() if k.startswith("ce-")}
        assert decoded.pop("ce-id") == headers["Nats-Msg-Id"]
        kind, name = ("event", data["event"]) if "event" in data else ("status", data["status"])
        if kind == "event":
            time = datetime.datetime.fromisoformat(decoded.pop("ce-time"))
            assert time == datetime.datetime.fromisoformat(data["created"])
            assert time.utcoffset() is not None
        else:
            assert decoded.pop("ce-time") == headers["Ansible-Runner-Time"]
        assert decoded == {
            "ce-specversion": "1.0",
            "ce-source": "/ansible-runner/site.a",
            "ce-type": f"com.ansible.runner.{kind}.{name}",
            "ce-subject": "run 1",
            "ce-datacontenttype": "application/json",
            "ce-traceparent": PARENT,
            "ce-tracestate": "vendor=1",
        }
        assert headers["ce-subject"] == "run%201"
        assert (headers["traceparent"], headers["tracestate"]) == (PARENT, "vendor=1")
        assert headers["team"] == "a b"
        assert not problems(headers, HEADERS[kind])
        assert not problems(data, PAYLOADS[kind])
    ids = {message.headers["ce-id"] for message in messages if message.headers}
    assert len(ids) == len(messages)


@pytest.mark.parametrize("parent", ["00-0-0-01", "x", PARENT.upper(), PARENT + "\n", "ff" + PARENT[2:], "é"])
def test_what_is_no_trace_context_is_not_passed_on(
    server: Server, bus: Bus, monkeypatch: pytest.MonkeyPatch, parent: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACEPARENT", parent)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    settings = {"nats_subject_id": "id", "nats_options": {"servers": server.url}}
    status_handler(SimpleNamespace(settings=settings, ident="r"), {"status": "successful"})
    headers = bus.wait_for_end()[0].headers
    assert headers is not None
    assert set(headers) == {"Nats-Msg-Id", "Ansible-Runner-Run", "Ansible-Runner-Time"}
    assert any("TRACEPARENT: no trace context" in record.getMessage() for record in caplog.records)


def test_a_header_of_the_users_own_wins(server: Server, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    settings = {
        "nats_subject_id": "id",
        "nats_options": {"servers": server.url, "cloudevents": "yes"},
        "nats_headers": {"Traceparent": "mine", "ce-source": "urn:mine"},
    }
    status_handler(SimpleNamespace(settings=settings, ident="r"), {"status": "successful"})
    headers = bus.wait_for_end()[0].headers
    assert headers is not None
    assert (headers["Traceparent"], headers["ce-source"]) == ("mine", "urn:mine")
    assert "traceparent" not in headers
