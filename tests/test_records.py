"""What is on disk says what became of a run: the record, after every kind of end."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from contract import ROOT
from support import (
    PATIENCE,
    QUICK,
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
    free_port,
    python,
    statuses_of,
    wait_until,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ON = {"RUNNER_NATS_SUBJECT_ID": "id"}


def nobody() -> dict[str, str]:
    """Nobody listens at the server's address."""
    url = f"nats://127.0.0.1:{free_port()}"
    return {**ON, "RUNNER_NATS_SERVERS": url, "RUNNER_NATS_FLUSH_TIMEOUT": "0.1"}


END = {"status": "successful"}


def record_of(folder: Path, name: str = "nats-run.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text())
    return value


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_while_a_run_goes_on_and_when_it_has_ended(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = config(server.url, tmp_path)
    event_handler(run, event(1))
    path = tmp_path / "nats-run.json"
    wait_until(path.exists, "the record")
    assert path.stat().st_mode & 0o777 == 0o600
    begun = record_of(tmp_path)
    assert (begun["version"], begun["subject_id"], begun["runner_ident"]) == (2, "id", "r")
    assert (begun["state"], begun["pid"], begun["host"]) == ("running", os.getpid(), os.uname().nodename)
    assert (begun["destination"], begun["artifact_dir"]) == (
        {"servers": [server.url], "login": None}, str(tmp_path),
    )  # fmt: skip
    assert is_locked(path)
    status_handler(run, END)
    bus.wait_for_end()
    ended = record_of(tmp_path)
    assert ended == json.loads(json.dumps(report(run)))
    assert (ended["state"], ended["accepted"], ended["confirmed"], ended["undelivered"]) == ("ended", 2, 2, 0)
    assert begun["started"] == ended["started"] <= ended["ended"]
    assert not is_locked(path)
    assert [file.name for file in tmp_path.glob("*nats*") if file.is_file()] == ["nats-run.json"]


def test_a_real_job(server: Server, bus: Bus, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "x", env=ON).returncode == 0
    bus.wait_for_end()
    record = record_of(job.folder / "artifacts/x")
    assert (record["state"], record["confirmed"], record["runner_ident"]) == (
        "ended", len(job.events()) + 3, "x",
    )  # fmt: skip


def test_a_run_that_nobody_took_and_one_that_was_lost(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    kept = config(url, tmp_path / "kept", **QUICK)
    for run in (kept,):
        event_handler(run, event(7))
        status_handler(run, END)
    record = record_of(tmp_path / "kept")
    assert (record["undelivered"], record["lost"], record["unconfirmed_counters"]) == (2, 0, [])
    assert record["files"] == [str(tmp_path / "kept/nats-undelivered.jsonl")]
    assert "cannot connect" in record["problem"]
    # No directory, no room in memory: lost, and the report says which events.
    lost = config(url, tmp_path / "x", pending_size=0, **QUICK)
    lost.artifact_dir = "/proc/no/such/place"
    for counter in (3, 4, 5, 9):
        event_handler(lost, event(counter))
    status_handler(lost, END)
    after = report(lost)
    assert after is not None
    assert (after["lost"], after["undelivered"]) == (5, 0)
    assert after["unconfirmed_counters"] == [(3, 5), (9, 9)]


def test_a_full_disk(tmp_path: Path) -> None:
    """What the disk took is in the file, what it did not is named by its counters; `replay` sends both."""
    code = f"""
import types
from ansible_runner_nats import event_handler, status_handler, report
options = {{'servers': 'nats://127.0.0.1:{free_port()}', 'flush_timeout': 0.2}}
config = types.SimpleNamespace(
    settings={{'nats_subject_id': 'id', 'nats_options': options}}, ident='r', artifact_dir={str(tmp_path)!r})
for n in range(100):
    event_handler(config, {{'counter': n, 'uuid': 'u', 'event': 'verbose', 'stdout': 'x' * 1000}})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code, {"ANSIBLE_RUNNER_NATS_FAULT": "spill.write=error@31-60"})
    assert "LOST" in done.stderr
    record = record_of(tmp_path)
    assert (record["undelivered"], record["lost"]) == (71, 30)
    assert record["unconfirmed_counters"] == [[30, 59]]


KILLED = """
import os, signal, sys, types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': URL, **MORE}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
for n in range(50):
    event_handler(config, {'counter': n, 'uuid': 'u', 'event': 'verbose'})
print('ready', flush=True)
sys.stdin.read()
"""


def begin(url: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    code = (
        KILLED.replace("URL", repr(url)).replace("FOLDER", repr(str(folder))).replace("MORE", repr(options))
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_env(None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_is_killed(server: Server, tmp_path: Path) -> None:
    process = begin(server.url, tmp_path)
    path = tmp_path / "nats-run.json"
    wait_until(path.exists, "the record")
    assert is_locked(path)
    left = command("replay", tmp_path, "--elsewhere", "-s", server.url, env=ON)
    assert left.returncode == 0
    assert f"left alone: the run goes on (process {process.pid}" in left.stdout
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert record_of(tmp_path)["state"] == "running"
    assert not is_locked(path)


def test_a_configuration_object_that_goes_away(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Nobody ended the run, and nobody killed it."""
    run = config(server.url, tmp_path)
    event_handler(run, event(1))
    bus.wait_for(lambda messages: len(messages) == 1)
    del run
    wait_until(lambda: (tmp_path / "nats-run.json").exists() and record_of(tmp_path)["state"] == "ended")
    assert record_of(tmp_path)["confirmed"] == 1


def test_a_child_has_a_record_of_its_own(server: Server, bus: Bus, tmp_path: Path) -> None:
    code = f"""
import os, types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': {server.url!r}}}
config = types.SimpleNamespace(
    settings={{'nats_subject_id': 'id', 'nats_options': options}}, ident='r', artifact_dir={str(tmp_path)!r})
event_handler(config, {{'counter': 1, 'uuid': 'u'}})
while not os.path.exists({str(tmp_path / "nats-run.json")!r}):
    pass
pid = os.fork()
if pid != 0:
    # A record of which nothing is left would make room for the child's.
    os.waitpid(pid, 0)
event_handler(config, {{'counter': 2, 'uuid': str(pid == 0)}})
status_handler(config, {{'status': 'successful'}})
if pid == 0:
    os._exit(0)
"""
    assert python(code).returncode == 0
    bus.wait_for_end(2)
    confirmed = sorted(
        record_of(tmp_path, file.name)["confirmed"] for file in tmp_path.glob("nats-run*.json")
    )
    assert confirmed == [2, 3]


def test_nowhere_to_write(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Nothing else changes."""
    (tmp_path / "file").write_text("")
    run = config(server.url, tmp_path / "file/artifacts")
    event_handler(run, event(1))
    status_handler(run, END)
    assert counters(bus.wait_for_end()) == [1]
    after = report(run)
    assert after is not None
    assert (after["confirmed"], after["lost"]) == (2, 0)


def test_an_ident_used_again_keeps_what_the_first_run_left(server: Server, bus: Bus, tmp_path: Path) -> None:
    lost = config(f"nats://127.0.0.1:{free_port()}", tmp_path, **QUICK)
    event_handler(lost, event(1))
    status_handler(lost, END)
    for _ in range(2):
        good = config(server.url, tmp_path)
        event_handler(good, event(2))
        status_handler(good, END)
    bus.wait_for_end(2)
    assert record_of(tmp_path)["undelivered"] == 2
    assert record_of(tmp_path, "nats-run.1.json")["confirmed"] == 2
    assert not (tmp_path / "nats-run.2.json").exists()


# -- replay goes by them


@pytest.fixture
def stored(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> tuple[Server, Bus]:
    server = start_server(jetstream=True)
    bus = connect(server)
    # A repeat would be stored again.
    bus.add_stream(duplicate_window=0.1)
    return server, bus


def replay(*args: str | Path, server: Server) -> Any:
    return command("replay", *args, "--elsewhere", "-s", server.url, env=ON)


def test_four_delivered_runs_one_undelivered_one_unpublished(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    """The duplicate window is over: what is sent twice is there twice."""
    server, bus = stored
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url, "flush_timeout": 5}})
    for number in range(4):
        assert cli("run", job.folder, "-p", "play.yml", "--ident", f"good{number}", env=ON).returncode == 0
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "lost", env=nobody()).returncode == 0
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "off").returncode == 0
    before = bus.stream_count()
    each = before // 4
    dry = replay("--dry-run", job.folder, server=server)
    assert (dry.returncode, dry.stderr, bus.stream_count()) == (0, "", before)
    assert f"{each} undelivered, 0 lost" in dry.stdout
    done = replay(job.folder, server=server)
    assert (done.returncode, done.stderr) == (0, "")
    assert bus.stream_count() == before + each
    assert done.stdout.count(f"nothing to send: all {each} messages were confirmed") == 4
    assert "artifacts/off: left alone: there is no record of it" in done.stdout
    assert replay(job.folder, server=server).returncode == 0
    assert bus.stream_count() == before + each


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_killed_and_the_window_is_over(
    stored: tuple[Server, Bus],
    connect: Callable[..., Bus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    relative: bool,
) -> None:
    """The stream is asked what it holds: what is missing is sent, statuses with ids of their own included."""
    server, bus = stored
    monkeypatch.chdir(tmp_path)
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "x", env=ON).returncode == 0
    folder = job.folder / "artifacts/x"
    total = bus.stream_count()
    # As if it had been killed, and the stream had missed some of it.
    record = record_of(folder)
    (folder / "nats-run.json").write_text(json.dumps({**record, "state": "running", "ended": None}))
    gone = [3, 5, total - 1, total]

    async def delete() -> None:
        for seq in gone:
            await bus.client.jetstream().delete_msg("RUNS", seq)

    bus.run(delete())
    named = job.folder.relative_to(tmp_path) if relative else job.folder
    done = replay(named, server=server)
    assert (done.returncode, done.stderr) == (0, ""), done
    # And the word that it was killed.
    assert f"{len(gone)} messages confirmed, {total - len(gone)} were in the stream already" in done.stdout
    messages = connect(server).stream_messages()
    (word,) = [message for message in messages if message.subject.endswith(".heartbeat")]
    assert body(word)["state"] == "killed"
    messages.remove(word)
    assert sorted(counters(messages)) == list(range(1, len(job.events()) + 1))
    assert sorted(statuses_of(messages)) == ["running", "starting", "successful"]
    again = replay(named, server=server)
    assert "nothing to send" in again.stdout
    assert connect(server).stream_count() == total + 1


def test_after_a_full_disk_once_is_enough(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """The file and what was lost beside it, in one go and in the order of the counters; no empty status."""
    server, bus = stored
    job = Job(tmp_path / "job")
    fault = {"RUNNER_NATS_PENDING_SIZE": "0", "ANSIBLE_RUNNER_NATS_FAULT": "spill.write=error@8-14"}
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "x", env={**nobody(), **fault}).returncode == 0
    folder = job.folder / "artifacts/x"
    (folder / "status").write_text("")
    record = record_of(folder)
    assert record["lost"] > 0
    done = replay(job.folder, server=server)
    assert (done.returncode, done.stderr) == (0, "")
    messages = bus.stream_messages()
    assert counters(messages) == list(range(1, len(job.events()) + 1))
    assert "" not in statuses_of(messages)
    assert job.spilled() == []
    assert record_of(folder)["lost"] == 0


def test_worker_and_processor(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """What the worker could not deliver comes to the processor with the artifacts, and is found there."""
    server, bus = stored
    job = Job(tmp_path / "job")
    runner = bin_dir() / "ansible-runner"
    options: dict[str, Any] = {"capture_output": True, "timeout": PATIENCE}
    sent = subprocess.run(
        [runner, "transmit", job.folder, "-p", "play.yml"], env=clean_env(None), check=True, **options
    )
    worked = subprocess.run(
        [runner, "worker"], input=sent.stdout, env=clean_env(nobody()), check=True, **options
    )
    said = worked.stderr.decode()
    assert "sends it to its processor with the artifacts" in said
    target = tmp_path / "processed"
    subprocess.run(
        [runner, "process", target], input=worked.stdout, env=clean_env(None), check=True, **options
    )
    assert (target / "artifacts/nats-undelivered.jsonl").exists()
    done = replay(target, server=server)
    assert (done.returncode, done.stderr) == (0, "")
    messages = bus.stream_messages()
    processed = Job.__new__(Job)
    processed.folder = target
    assert counters(messages) == [event["counter"] for event in processed.events()]
    assert statuses_of(messages) == ["starting", "running", "successful"]
    assert not (target / "artifacts/nats-undelivered.jsonl").exists()
    assert replay(target, server=server).returncode == 0
    assert bus.stream_count() == len(messages)


def test_the_monitor_of_the_docs(server: Server, bus: Bus, tmp_path: Path) -> None:
    """docs/operations.md: it says no when something is missing, and yes when nothing is."""
    text = (ROOT / "docs/operations.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]

    def monitor() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, tmp_path],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    good = config(server.url, tmp_path / "good")
    status_handler(good, END)
    bus.wait_for_end()
    assert (monitor().returncode, monitor().stdout) == (0, "")
    bad = config(f"nats://127.0.0.1:{free_port()}", tmp_path / "bad", **QUICK)
    status_handler(bad, END)
    told = monitor()
    assert told.returncode == 1
    assert told.stdout.startswith(f"{tmp_path / 'bad/nats-run.json'}: 1 undelivered: cannot connect")
    (tmp_path / "bad/nats-run.json").unlink()
    (tmp_path / "killed").mkdir()
    process = begin(server.url, tmp_path / "killed")
    path = tmp_path / "killed/nats-run.json"
    wait_until(path.exists, "the record")
    # It goes on.
    assert (monitor().returncode, monitor().stdout) == (0, "")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    told = monitor()
    assert (told.returncode, told.stdout) == (1, f"{path}: killed: None\n")


def test_the_stub_and_the_page_know_every_field(server: Server, tmp_path: Path) -> None:
    run = config(server.url, tmp_path, delivery="core")
    event_handler(run, event(0))
    status_handler(run, {"status": "successful"})
    known = report(run)
    stub = ast.parse((ROOT / "python/ansible_runner_nats/_native.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    fields = [node.target.id for node in classes["RunReport"].body if is_field(node)]  # type: ignore[attr-defined]
    assert known is not None
    assert sorted(fields) == sorted(known)
    page = (ROOT / "docs/operations.md").read_text()
    assert [field for field in known if f"`{field}`" not in page] == []


def is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign)
