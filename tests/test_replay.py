"""`ansible-runner-nats replay`: what is on disk arrives as it would have live, once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import (
    ME,
    PATIENCE,
    TESTER,
    Bus,
    Job,
    Server,
    bin_dir,
    body,
    clean_env,
    cli,
    command,
    config,
    counters,
    event,
    first_times,
    free_port,
    is_end,
    kill_tree,
    me_with,
    statuses_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg

ON = {"RUNNER_NATS_SUBJECT_ID": "id"}


def replay(*args: str | Path, server: Server, env: dict[str, str] | None = None) -> Any:
    return command("replay", *args, "-s", server.url, "--elsewhere", env={**ON, **(env or {})})


def spilled(folder: Path, count: int) -> Path:
    """A spill file of a run without a server."""
    run = config(f"nats://127.0.0.1:{free_port()}", folder, flush_timeout=0)
    for counter in range(count):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    return folder / "nats-undelivered.jsonl"


def ids(messages: list[Msg]) -> list[str]:
    return [message.headers["Nats-Msg-Id"] for message in messages if message.headers]


def test_a_real_job_without_a_server(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """The stream holds what a live run would have given: the lines of the spill file, in order."""
    server, bus = stored
    settings = {"nats_options": {"servers": f"nats://127.0.0.1:{free_port()}", "flush_timeout": 0.1}}
    job = Job(tmp_path / "job", settings)
    assert cli("run", job.folder, "-p", "play.yml", env=ON).returncode == 0
    lines = job.spilled()
    assert len(lines) == len(job.events()) + 3
    done = replay(job.folder, server=server)
    assert (done.returncode, done.stderr) == (0, "")
    confirmed = rf"artifacts/[-0-9a-f]+: {len(lines)} messages confirmed; nothing is left to send$"
    assert re.search(confirmed, done.stdout.strip())
    messages = bus.stream_messages()
    assert [(m.subject, m.data.decode(), m.headers) for m in messages] == [
        (line["subject"], line["payload"], dict(line["headers"])) for line in lines
    ]
    assert [body(m) for m in messages if m.subject.endswith(".event")] == job.events()
    assert statuses_of(messages) == ["starting", "running", "successful"]
    assert job.spilled() == []
    # Nothing is left to do, whoever asks.
    for path in (job.folder, next((job.folder / "artifacts").iterdir())):
        again = replay(path, server=server)
        assert (again.returncode, again.stderr) == (0, "")
        assert f"nothing to send: all {len(lines)} messages were confirmed" in again.stdout
    assert first_times(bus.stream_messages()) == [event["counter"] for event in job.events()]
    assert bus.stream_count() == len(lines)


SLOW = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.command: sleep 0.1
      loop: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    - ansible.builtin.command: sleep 60
"""


def test_ansible_runner_is_killed(
    stored: tuple[Server, Bus], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Half of it is in the stream; its artifacts have all."""
    server, bus = stored
    live = connect(server).subscribe()
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}}, playbook=SLOW)
    runner = subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", job.folder, "-p", "play.yml"],
        env=clean_env(ON), stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    live.wait_for(lambda messages: len(messages) > 6)
    # The rest is lost on the way.
    server.kill()
    arrived = len(live.received)
    wait_until(lambda: len(job.events()) > arrived)
    kill_tree(runner.pid)
    runner.wait()
    events = job.events()
    server.start()
    half = len(counters(bus.stream_messages()))
    assert 0 < half < len(events)
    done = replay(job.folder, server=server)
    assert done.returncode == 0, done.stderr
    messages = connect(server).stream_messages()
    assert counters(messages) == [event["counter"] for event in events]
    assert [body(m) for m in messages if m.subject.endswith(".event")] == events
    assert set(statuses_of(messages)) == {"starting", "running"}
    # Once more: nothing new but what has no id of its own.
    before = len(messages)
    assert replay(job.folder, server=server).returncode == 0
    assert connect(server).stream_count() == before


def test_secrets_stay_where_they_are(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    (job.folder / "env/envvars").write_text(json.dumps({"DB_PASSWORD": "canary-1", "PLAIN": "own-canary-2"}))
    assert cli("run", job.folder, "-p", "play.yml").returncode == 0
    env = {"RUNNER_NATS_OMIT": "event_data.res,stdout", "RUNNER_NATS_EVENTS": "!verbose"}
    # It was not published: nobody says that it should be.
    left = replay(job.folder, server=server, env=env)
    assert (left.returncode, bus.stream_count()) == (0, 0)
    assert "left alone: there is no record of it" in left.stdout
    args = ("--all", "-o", "user=u", "-o", "password=own-canary-2")
    done = replay(job.folder, *args, server=server, env=env)
    assert done.returncode == 0, done.stderr
    messages = bus.stream_messages()
    assert statuses_of(messages) == ["starting", "running", "successful"]
    assert not any(b"canary" in message.data for message in messages)
    expected = []
    for data in job.events():
        data.pop("stdout")
        if "event_data" in data:
            data["event_data"].pop("res", None)
        if data["event"] != "verbose":
            expected.append(data)
    assert [body(m) for m in messages if m.subject.endswith(".event")] == expected


def test_dry_run(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    path = spilled(tmp_path, 30)
    before = path.read_bytes()
    done = replay("--dry-run", path, server=server)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"30 messages +\d+ bytes  pub.ansible.runner.id.r.event", done.stdout)
    assert server.url in done.stdout
    assert (path.read_bytes(), bus.stream_count()) == (before, 0)


def test_interrupted_and_run_again(
    stored: tuple[Server, Bus], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server, bus = stored
    live = connect(server).subscribe()
    path = spilled(tmp_path, 200)
    command: list[str | Path] = [
        bin_dir() / "ansible-runner-nats",
        "replay",
        path,
        "--elsewhere",
        "-s",
        server.url,
        "--rate",
        "100/s",
    ]
    began = time.monotonic()
    first = subprocess.Popen(
        command, env=clean_env(ON), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    live.wait_for(lambda messages: len(messages) >= 20)
    assert time.monotonic() - began > 0.15
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
    assert "interrupted" in errors
    done = int(re.search(r"(\d+) messages confirmed", output)[1])  # type: ignore[index]
    left = path.read_text().splitlines()
    assert 20 <= done < 201
    assert done + len(left) == 201
    assert path.stat().st_mode & 0o777 == 0o600
    # Nothing else is left behind.
    assert list(tmp_path.glob("nats-u*")) == [path]
    assert replay(path, server=server).returncode == 0
    messages = bus.stream_messages()
    assert counters(messages) == list(range(200))
    assert is_end(messages[-1])
    assert not path.exists()


def test_a_file_that_is_being_written(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    run = config(f"nats://127.0.0.1:{free_port()}", tmp_path, pending_size=0, flush_timeout=0)
    event_handler(run, event(0))
    path = tmp_path / "nats-overflow.jsonl"
    before = path.read_bytes()
    done = replay(path, server=server)
    assert done.returncode == 1
    assert "is still being written by a run, or sent by somebody else" in done.stderr
    assert (path.read_bytes(), bus.stream_count()) == (before, 0)
    status_handler(run, {"status": "successful"})
    assert replay(tmp_path / "nats-undelivered.jsonl", server=server).returncode == 0
    assert bus.stream_count() == 2


GARBAGE = [
    b"\n",
    b"garbage\n",
    b'{"subject":"a"}\n',
    b"\xff\xfe\n",
    b'{"subject":"a b","headers":[["Nats-Msg-Id","x"]],"payload":"{}"}\n',
]


def test_garbage_between_messages(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    path = spilled(tmp_path, 10)
    lines = path.read_bytes().splitlines(keepends=True)
    half = lines.pop()[:50]
    path.write_bytes(b"".join([*lines[:5], *GARBAGE, *lines[5:], half]))
    done = replay(path, server=server)
    assert done.returncode == 1
    assert f"{len(GARBAGE) + 1} lines are no messages; they stay there" in done.stderr
    assert counters(bus.stream_messages()) == list(range(10))
    assert path.read_bytes() == b"".join([*GARBAGE, half])
    # They are no reason to send the others again, or to touch them.
    again = replay(path, server=server)
    assert again.returncode == 1
    assert path.read_bytes() == b"".join([*GARBAGE, half])


@pytest.mark.parametrize("content", ["", "not\nours\n", "{}"])
def test_foreign_files(stored: tuple[Server, Bus], tmp_path: Path, content: str) -> None:
    server, _ = stored
    path = tmp_path / "notes.txt"
    path.write_text(content)
    done = replay(path, server=server)
    if content:
        assert done.returncode == 1
        assert "is no spill file of this plugin" in done.stderr
        assert path.read_text() == content


def test_paths_that_hold_nothing(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    (tmp_path / "empty").mkdir()
    # A spool that was drained is a good one.
    done = replay(tmp_path / "empty", server=server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to send: it is empty" in done.stdout
    (tmp_path / "other/folder").mkdir(parents=True)
    (tmp_path / "other/folder/file").write_text("")
    for path, expected in (
        ("other", "no spill file, artifact directory"),
        ("absent", "no such file or directory"),
    ):
        done = replay(tmp_path / path, server=server)
        assert done.returncode == 1
        assert expected in done.stderr


def test_events_that_cannot_be_read(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "x").returncode == 0
    total = len(job.events())
    folder = job.folder / "artifacts/x/job_events"
    broken = next(folder.glob("3-*.json"))
    broken.write_text(broken.read_text()[:40])
    (folder / "9-partial.json").write_text("{")
    done = replay(job.folder / "artifacts/x", server=server)
    assert done.returncode == 1
    assert f"{broken.name}: no event (half written?)" in done.stderr
    assert counters(bus.stream_messages()) == [n for n in range(1, total + 1) if n != 3]


def test_nobody_there(tmp_path: Path) -> None:
    path = spilled(tmp_path, 20)
    before = path.read_bytes()
    done = command(
        "replay",
        path,
        "--elsewhere",
        "-s",
        f"nats://127.0.0.1:{free_port()}",
        "-o",
        "flush_timeout=0.3",
        env=ON,
    )
    assert done.returncode == 1
    assert "cannot connect to" in done.stderr
    assert "giving up" in done.stderr
    assert path.read_bytes() == before


def test_messages_that_are_refused(
    stored: tuple[Server, Bus], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """They stay; the others go."""
    server, bus = stored
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.add_stream(max_msg_size=500)
    path = spilled(tmp_path, 3)
    done = replay(path, server=server)
    assert done.returncode == 1
    assert "1 messages confirmed; 3 lines are left in it" in done.stdout
    assert [json.loads(json.loads(line)["payload"])["counter"] for line in path.read_text().splitlines()] == [
        0,
        1,
        2,
    ]
    assert statuses_of(connect(server).stream_messages()) == ["successful"]


def test_a_stream_that_must_not_be_read(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """The server says nothing at all to who may not ask for messages: no reason to wait for ever."""
    permissions = '{publish: {deny: "$JS.API.CONSUMER.MSG.NEXT.>"}, subscribe: ">"}'
    server = start_server(jetstream=True, config=me_with(permissions), credentials=TESTER)
    bus = Bus(server.url, **TESTER)
    bus.add_stream()
    path = spilled(tmp_path / "artifacts", 2)
    subject = json.loads(path.read_text().splitlines()[0])["subject"]
    # Something that there is to read.
    bus.send(subject, b"{}", {"Nats-Msg-Id": "foreign"})
    env = {**ME, "RUNNER_NATS_CONNECT_TIMEOUT": "0.3"}
    done = replay(path, server=server, env=env)
    assert "allow this user to publish to $JS.API.CONSUMER.MSG.NEXT.RUNS.*" in done.stderr
    # What can be done without knowing is done: the stream drops repeats.
    assert done.returncode == 0
    assert counters(bus.stream_messages()[1:]) == [0, 1]
    bus.close()


@pytest.mark.parametrize("more", [{}, {"omit": "event_data.left"}], ids=["as it is", "with omit"])
def test_what_is_no_json_in_the_artifacts(
    stored: tuple[Server, Bus], tmp_path: Path, more: dict[str, Any]
) -> None:
    """ansible-runner writes NaN and lone surrogates: `replay` publishes what the live run would have."""
    server, bus = stored
    res = {
        "nan": float("nan"),
        "inf": [float("-inf"), 1],
        "text": "\udcfc \ud83d\ude80 NaN",
        "rocket": "\U0001f680",
    }
    data = {
        "counter": 1,
        "uuid": "u",
        "runner_ident": "r",
        "event": "runner_on_ok",
        "event_data": {"res": res},
    }
    run = config(server.url, None, **more)
    run.ident = "live"
    event_handler(run, {**data, "runner_ident": "live"})
    status_handler(run, {"status": "successful", "runner_ident": "live"})
    events = tmp_path / "r/job_events"
    events.mkdir(parents=True)
    # As ansible_runner.runner.Runner.event_callback does.
    (events / "1-u.json").write_text(json.dumps(data))
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id",
        **{f"RUNNER_NATS_{key.upper()}": value for key, value in more.items()},
    }
    done = replay(tmp_path / "r", "--all", server=server, env=env)
    assert done.returncode == 0, done.stderr
    live, replayed = (
        next(
            body(message) for message in bus.stream_messages() if message.subject.endswith(f".{ident}.event")
        )
        for ident in ("live", "r")
    )
    assert replayed["event_data"] == live["event_data"]
    assert live["event_data"]["res"]["nan"] is None
