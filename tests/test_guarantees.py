"""docs/guarantees.md: each row names tests that are there, and what no other test shows is shown here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import topologies
from ansible_runner_nats import event_handler, report, status_handler
from nats.js.api import StreamConfig
from support import (
    Bus,
    Job,
    Server,
    cli,
    command,
    config,
    counters,
    event,
    kill_tree,
    of_run,
    statuses_of,
    wait_until,
)
from test_recovery import LONG, events_in, options, runs, short, start, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import RunnerConfig

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs/guarantees.md").read_text()

#: What each fault has to be told of.
COLUMNS = {"kept", "repeated", "lost", "told"}
ROW = re.compile(r"^\| ([A-Z]\d+) \|", re.MULTILINE)
COMMENT = re.compile(r"^<!-- tests\n(.*?)^-->$", re.DOTALL | re.MULTILINE)

ON = {"RUNNER_NATS_SUBJECT_ID": "id"}


def named() -> dict[str, dict[str, list[str]]]:
    """By row and column: the tests that the comments of the page name."""
    found: dict[str, dict[str, list[str]]] = {}
    for comment in COMMENT.findall(PAGE):
        for row, columns, tests in re.findall(
            r"^(\w+) ([a-z, ]+):\s+((?:[\w.:]+\s+)+?)(?=^\w+ |\Z)", comment, re.MULTILINE
        ):
            for column in columns.split(", "):
                found.setdefault(row, {})[column] = tests.split()
    return found


def test_each_cell_names_a_test_that_there_is() -> None:
    rows = [row for line in PAGE.splitlines() for row in ROW.findall(line) if line.count("|") > 5]
    assert len(rows) == len(set(rows)) > 20
    tests = named()
    assert sorted(tests) == sorted(rows)
    assert {row for row, columns in tests.items() if set(columns) != COLUMNS} == set()
    for name in {name for columns in tests.values() for names in columns.values() for name in names}:
        file, _, function = name.partition("::")
        assert re.search(rf"^def {function}\(", (HERE / file).read_text(), re.MULTILINE), name


def test_each_fault_says_where_it_is_told_and_what_to_do() -> None:
    answers = re.findall(r"^\| ([A-Z]\d(?:, [A-Z]\d)*) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    answered = [row for rows in answers for row in rows.split(", ")]
    assert sorted(answered) == sorted(named())


def killed(server: Server, bus: Bus, job: Job, env: dict[str, str]) -> int:
    """A job of which some events were stored is killed; says how many messages the stream has of it."""
    process = start(job, LONG, "killed", env)
    wait_until(lambda: len(events_in(job, "killed")) > 20, "some events")
    wait_until(lambda: len(of_run(bus.stream_messages(), "killed")) > 20, "the stream to have them")
    # What follows stays in memory.
    server.kill()
    seen = len(events_in(job, "killed"))
    kill_tree(process.pid)
    process.wait()
    assert seen > 20
    server.start()
    return len(of_run(bus.stream_messages(), "killed"))


def test_killed_and_the_spool_alone_is_left(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """As a pod whose private data directory is an empty volume."""
    server, bus = stored
    env = options(server, RUNNER_NATS_SPILL_DIR=str(tmp_path / "spool"))
    job = Job(tmp_path / "job")
    before = killed(server, bus, job, env)
    shutil.rmtree(job.folder)
    short(Job(tmp_path / "other"), "next", env)
    messages = bus.stream_messages()
    mine = [message for message in of_run(messages, "killed") if not message.subject.endswith(".heartbeat")]
    ids = [message.headers["Nats-Msg-Id"] for message in mine if message.headers]
    assert len(ids) == len(set(ids)) >= before
    assert [word["state"] for word in told(messages)] == ["killed"]
    assert {run["runner_ident"]: run["state"] for run in runs(server)}["killed"] == "killed"


def test_killed_and_nothing_is_left(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    before = killed(server, bus, job, options(server))
    shutil.rmtree(job.folder)
    short(Job(tmp_path / "other"), "next", options(server))
    messages = bus.stream_messages()
    assert (len(of_run(messages, "killed")), told(messages)) == (before, [])
    states = {run["runner_ident"]: run["state"] for run in runs(server, "--silent-after", "0s")}
    assert states == {"killed": "silent", "next": "successful"}


def test_killed_without_a_stream(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Nobody knows what was heard: a person has to say that the whole run is to be sent once more."""
    job = Job(tmp_path / "job")
    process = start(job, LONG, "killed", options(server))
    bus.wait_for(lambda messages: len(messages) > 20)
    kill_tree(process.pid)
    process.wait()
    said = short(job, "next", options(server))
    assert "run killed, which was killed, is not complete: no stream has its messages" in said
    assert told(bus.received) == []
    heard = len(of_run(bus.received, "killed"))
    done = command("replay", job.folder, "-s", server.url, env=ON)
    assert done.returncode == 0, done.stderr
    again = of_run(bus.wait_for(lambda messages: bool(told(messages))), "killed")[heard:]
    assert counters(again) == [event["counter"] for event in events_in(job, "killed")]


FILLS = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: first}
    - name: fill
      ansible.builtin.shell: dd if=/dev/zero of=FILL bs=64k; true
    - ansible.builtin.debug: {msg: never}
"""


def test_the_artifacts_have_no_room(stored: tuple[Server, Bus], small_disk: Callable[[str], Path]) -> None:
    """ansible-runner cannot go on; what it has handed over is there all the same, and why it broke off."""
    server, bus = stored
    disk = small_disk("4m")
    job = Job(disk / "job", playbook=FILLS.replace("FILL", str(disk / "fill")))
    done = cli("run", job.folder, "-p", "play.yml", "--ident", "full", env=options(server))
    assert "OSError: [Errno 28] No space left on device" in done.stderr
    (disk / "fill").unlink()
    mine = of_run(bus.stream_messages(), "full")
    filed = [event["counter"] for event in events_in(job, "full")]
    # Those after the last one that could be written, too: none is missing.
    assert counters(mine) == list(range(1, len(counters(mine)) + 1))
    assert len(counters(mine)) > len(filed) > 0
    short(job, "next", options(server))
    assert {run["runner_ident"]: run["state"] for run in runs(server)} == {
        "full": "killed",
        "next": "successful",
    }
    shown = command("show", "full", "-s", server.url, env=ON)
    assert "its process was killed at: fill" in shown.stdout
    assert "OSError: [Errno 28] No space left on device" in shown.stdout
    # The stream has more than the files.
    assert len(of_run(bus.stream_messages(), "full")) == len(mine) + 1


def test_a_stream_that_was_made_again(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    short(job, "before", options(server))
    whole = len(bus.stream_messages())
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.add_stream()
    short(job, "after", options(server))
    assert of_run(bus.stream_messages(), "before") == []
    done = command("replay", job.folder, "-s", server.url, env=ON)
    assert done.returncode == 0, done.stderr
    messages = bus.stream_messages()
    assert len(of_run(messages, "before")) == len(of_run(messages, "after")) == whole
    ids = [message.headers["Nats-Msg-Id"] for message in messages if message.headers]
    assert len(ids) == len(set(ids)) == 2 * whole


@pytest.mark.parametrize("spool", [False, True], ids=["artifacts", "spool"])
def test_a_stream_that_was_full(
    server_of_streams: tuple[Server, Bus], tmp_path: Path, *, spool: bool
) -> None:
    """What it has refused is in a file, and is sent when there is room."""
    server, bus = server_of_streams
    bus.add_stream(max_msgs=3, discard="new")
    env = options(server, **({"RUNNER_NATS_SPILL_DIR": str(tmp_path / "spool")} if spool else {}))
    job = Job(tmp_path / "job")
    assert "kept in" in short(job, "refused", env)
    roomy = StreamConfig(name="RUNS", subjects=["pub.>"], discard="new")  # type: ignore[arg-type]
    bus.run(bus.client.jetstream().update_stream(roomy))
    short(job, "next", env)
    mine = of_run(bus.stream_messages(), "refused")
    assert sorted(counters(mine)) == [event["counter"] for event in events_in(job, "refused")]
    assert sorted(statuses_of(mine)) == ["running", "starting", "successful"]


@pytest.fixture
def server_of_streams(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> tuple[Server, Bus]:
    """A server that has none yet."""
    server = start_server(jetstream=True)
    return server, connect(server)


def fates(run: RunnerConfig) -> tuple[int, int]:
    known = report(run)
    assert known is not None
    return known["routed"], known["undelivered"]


def test_a_subscriber_that_is_away_while_another_listens(
    server: Server, bus: Bus, connect: Callable[..., Bus], tmp_path: Path
) -> None:
    run = config(server.url, tmp_path)
    event_handler(run, event(0))
    wait_until(lambda: fates(run) == (1, 0), "the first one to be confirmed")
    late = connect(server).subscribe()
    bus.send("pub.probe", b"")
    late.wait_for(bool)
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    assert counters(late.wait_for_end()) == [1]
    assert sorted(set(counters(bus.wait_for_end()))) == [0, 1]
    assert fates(run) == (3, 0)


def test_an_imported_stream_that_is_away_while_somebody_listens(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    topology = topologies.stream_import(start_server)
    listener = Bus(topology.url).subscribe("pub.>")
    try:
        topology.take_away()
        run = config(topology.url, tmp_path)
        event_handler(run, event(0))
        status_handler(run, {"status": "successful"})
        listener.wait_for_end()
        assert fates(run) == (2, 0)
        topology.bring_back()
        assert topology.count() == 0
        assert not list(tmp_path.rglob("*.jsonl"))
    finally:
        listener.close()
        topology.close()
