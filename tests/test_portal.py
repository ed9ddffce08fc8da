"""examples/consumers/portal.py, which docs/portal.md explains: the same rows, however messages come."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import Bus, Job, Server, cli, free_port
from test_recipes import CONSUMERS, FOREIGN, PLAYBOOK, one_line, run

if TYPE_CHECKING:
    from nats.aio.msg import Msg

PAGE = Path(__file__).parent.parent / "docs/portal.md"

Row = tuple[Any, ...]


def portal(server: Server, database: Path, durable: str = "portal") -> None:
    arguments = ("--once", "--server", server.url, "--database", str(database), "--durable", durable)
    done = run(CONSUMERS / "portal.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def rows(database: Path, query: str) -> list[Row]:
    with closing(sqlite3.connect(database)) as opened:
        return sorted(opened.execute(query).fetchall())


RUNS = "SELECT site, ident, state, began IS NOT NULL, ended IS NOT NULL FROM runs"
FAILED = "SELECT site, ident, host, task FROM failures"


def rollout(folder: Path, server: Server, site: str, ident: str, *hosts: str) -> None:
    """A job that fails on the host ``two``, if that is among its hosts."""
    job = Job(folder, playbook=PLAYBOOK)
    env = {"RUNNER_NATS_SUBJECT_ID": site, "RUNNER_NATS_SERVERS": server.url}
    limit = ",".join(hosts)
    done = cli("run", job.folder, "-p", "play.yml", "--ident", ident, "--limit", limit, "-q", env=env)
    assert done.returncode == (2 if "two" in hosts else 0), done.stderr


def test_sites_and_runs_are_told_apart(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    rollout(tmp_path / "a", server, "north.1", "v2.0", "one", "two")
    rollout(tmp_path / "b", server, "south", "v2.0", "one")
    # The same ident again: another run.
    rollout(tmp_path / "a", server, "north.1", "v2.0", "one")
    bus.send("pub.ansible.runner.south.broken.status", b"no JSON")
    bus.send("pub.ansible.runner.south.unknown.status", b'{"status": "error"}')
    database = tmp_path / "portal.sqlite"
    done = run(CONSUMERS / "portal.py", "--once", "--server", server.url, "--database", str(database))
    assert done.returncode == 0
    assert "left out, on pub.ansible.runner.south.broken.status" in done.stderr
    assert rows(database, RUNS) == [
        ("north.1", "v2.0", "failed", 1, 1),
        ("north.1", "v2.0", "successful", 1, 1),
        ("south", "unknown", "error", 0, 0),
        ("south", "v2.0", "successful", 1, 1),
    ]
    assert rows(database, FAILED) == [("north.1", "v2.0", "two", "break")]


def shuffled(bus: Bus, messages: list[Msg]) -> None:
    """The same messages once more, in the opposite order: the stream knows no repeat of them."""
    for message in reversed(messages):
        bus.send(message.subject, message.data, dict(message.headers or {}))


def test_repeats_and_another_order_change_nothing(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    rollout(tmp_path / "a", server, "north", "v2", "one", "two")
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    portal(server, first)
    expected = rows(first, "SELECT * FROM runs"), rows(first, "SELECT * FROM failures")
    assert len(expected[1]) == 1
    # All of it again, by a consumer that begins at the beginning.
    portal(server, first, "again")
    assert (rows(first, "SELECT * FROM runs"), rows(first, "SELECT * FROM failures")) == expected
    messages = bus.stream_messages()
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.add_stream()
    shuffled(bus, messages)
    portal(server, second)
    assert (rows(second, "SELECT * FROM runs"), rows(second, "SELECT * FROM failures")) == expected


def test_a_killed_run_and_one_that_was_only_cut_off(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    for ident, states in (("gone", ["starting", "killed"]), ("back", ["running", "killed", "successful"])):
        for state in states:
            is_word = state == "killed"
            message = {"state" if is_word else "status": state, "runner_ident": ident}
            kind = "heartbeat" if is_word else "status"
            bus.send(f"pub.ansible.runner.south.{ident}.{kind}", json.dumps(message).encode())
    bus.send("pub.ansible.runner.south.back.heartbeat", b"", {"Nats-Marker-Reason": "MaxAge"})
    database = tmp_path / "portal.sqlite"
    portal(server, database)
    assert [row[:3] for row in rows(database, RUNS)] == [
        ("south", "back", "successful"),
        ("south", "gone", "killed"),
    ]


def test_messages_that_are_none_of_ours(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """Whoever may publish there can send anything: it is named, and what comes behind it is written down."""
    server, bus = stored
    odd = (
        b'{"event": "runner_on_failed", "event_data": {"host": {}, "task": [1]}, "counter": 1, "created": {}}'
    )
    large = b'{"event": "runner_on_failed", "event_data": {}, "counter": 1' + b"0" * 30 + b"}"
    half = b'{"status": "failed", "runner_ident": "\\ud800"}'
    for kind in ("event", "status", "heartbeat", "other"):
        for data in (*FOREIGN, odd, large, half):
            bus.send(f"pub.ansible.runner.north.rollout.{kind}", data)
    rollout(tmp_path / "job", server, "north", "rollout", "one", "two")
    database = tmp_path / "portal.sqlite"
    done = run(CONSUMERS / "portal.py", "--once", "--server", server.url, "--database", str(database))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stderr.count("left out, on pub.ansible.runner.north.rollout.") > len(FOREIGN)
    assert ("north", "rollout", "failed", 1, 1) in rows(database, RUNS)
    assert ("north", "rollout", "two", "break") in rows(database, FAILED)


def test_a_server_that_is_away(tmp_path: Path) -> None:
    port = free_port()
    database = str(tmp_path / "portal.sqlite")
    done = run(CONSUMERS / "portal.py", "--server", f"nats://127.0.0.1:{port}", "--database", database)
    assert str(port) in one_line(done, CONSUMERS / "portal.py")


def test_the_page_says_what_the_program_does() -> None:
    program = (CONSUMERS / "portal.py").read_text()
    for line in (
        'tokens = message.subject.split(".")[3:-1]',
        'site = ".".join(tokens[: -(ident.count(".") + 1)])',
    ):
        assert line in PAGE.read_text()
        assert line in program
