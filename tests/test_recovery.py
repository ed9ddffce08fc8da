"""The next run completes the story of one that was killed: nobody calls a command."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import SubjectTransform
from proxy import Proxy
from support import (
    PATIENCE,
    Bus,
    Job,
    Server,
    bin_dir,
    body,
    clean_env,
    cli,
    command,
    counters,
    kill_tree,
    of_run,
    statuses_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg

RUN = "Ansible-Runner-Run"

LONG = """
- hosts: all
  gather_facts: false
  tasks:
    - name: say
      ansible.builtin.debug:
        msg: "{{ item }}"
      loop: "{{ range(60) | list }}"
    - name: wait
      ansible.builtin.pause:
        seconds: 60
"""

SHORT = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: short
"""


def options(server: Server, **more: str) -> dict[str, str]:
    return {
        "RUNNER_NATS_SUBJECT_ID": "id",
        "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_RECONNECT_TIME_WAIT": "0.1",
        # What earlier runs have left is waited for no longer at the end of a process.
        "RUNNER_NATS_FLUSH_TIMEOUT": "20",
        **more,
    }


def start(job: Job, playbook: str, ident: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    (job.folder / "project/long.yml").write_text(playbook)
    return subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", job.folder, "-p", "long.yml", "--ident", ident],
        env=clean_env(env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def short(job: Job, ident: str, env: dict[str, str]) -> str:
    (job.folder / "project/short.yml").write_text(SHORT)
    done = cli("run", job.folder, "-p", "short.yml", "--ident", ident, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def events_in(job: Job, ident: str) -> list[dict[str, Any]]:
    files = (job.folder / f"artifacts/{ident}/job_events").glob("*.json")
    found = []
    for path in files:
        if not path.name.endswith("-partial.json"):
            try:
                found.append(json.loads(path.read_text()))
            except ValueError:
                continue  # half written
    return sorted(found, key=lambda event: int(event["counter"]))


def told(messages: list[Msg]) -> list[dict[str, Any]]:
    """What is said of runs that were killed."""
    return [body(message) for message in messages if message.subject.endswith(".heartbeat")]


def runs(server: Server, *more: str) -> list[dict[str, Any]]:
    done = command("runs", "--json", "-s", server.url, *more, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("spool", [False, True])
def test_a_killed_job(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, *, spool: bool
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    # The stream knows no repeats after that: whoever repeats something is found out.
    bus.add_stream(duplicate_window=0.1)
    job = Job(tmp_path / "job")
    more = {"RUNNER_NATS_SPILL_DIR": str(tmp_path / "spool")} if spool else {}
    process = start(job, LONG, "killed", options(server, **more))
    wait_until(lambda: len(events_in(job, "killed")) > 40, "some events")
    kill_tree(process.pid)
    process.wait()
    stored = of_run(bus.stream_messages(), "killed")
    before, newest = len(stored), max(counters(stored))
    record = next(path for path in tmp_path.rglob("nats-run*.json"))
    assert json.loads(record.read_text())["state"] == "running"
    # The plugin is told of an event before ansible-runner writes its file: the kill came between the two.
    for path in (job.folder / "artifacts/killed/job_events").glob(f"{newest}-*.json"):
        path.unlink()
    events = events_in(job, "killed")
    # As if the stream had missed some of it.
    gone = [5, before // 2, before - 1]

    async def delete() -> None:
        for number in gone:
            await bus.client.jetstream().delete_msg("RUNS", number)

    bus.run(delete())
    # A server that begins anew knows no ids but of what it has.
    server.restart()
    bus = connect(server)
    short(job, "next", options(server, **more))
    messages = bus.stream_messages()
    mine = [message for message in of_run(messages, "killed") if not message.subject.endswith(".heartbeat")]
    found = sorted(counters(mine))
    assert found == sorted({newest, *(event["counter"] for event in events)})
    assert sorted(statuses_of(mine)) == ["running", "starting"]
    (word,) = told(messages)
    assert word == {
        "state": "killed", "runner_ident": "killed", "host": os.uname().nodename,
        "pid": word["pid"], "events": found[-1],
    }  # fmt: skip
    assert len({message.headers[RUN] for message in mine if message.headers}) == 1
    assert len(statuses_of(of_run(messages, "next"))) == 3
    if spool:
        assert list((tmp_path / "spool").iterdir()) == []
    else:
        after = json.loads(record.read_text())
        assert (after["state"], after["undelivered"], after["lost"]) == ("killed", 0, 0)
        assert after["accepted"] == after["confirmed"] == after["stored"] == len(mine)
        assert after["recovered"] == len(gone) + len(mine) - before
    # Once.
    short(job, "third", options(server, **more))
    assert len(of_run(bus.stream_messages(), "killed")) == len(mine) + 1
    states = {run["runner_ident"]: run for run in runs(server)}
    assert {ident: run["state"] for ident, run in states.items()} == {
        "killed": "killed", "next": "successful", "third": "successful",
    }  # fmt: skip
    assert states["killed"]["run_id"] == mine[0].headers[RUN]  # type: ignore[index]
    assert [run["runner_ident"] for run in runs(server, "--state", "killed")] == ["killed"]
    done = command("wait", "killed", "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 3, done.stderr


def test_what_a_run_could_not_deliver_is_taken_up_from_beside_its_artifacts(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    """Without a spool: the next run of the same private data directory sends it."""
    server, bus = stored
    job = Job(tmp_path / "job")
    server.kill()
    said = short(job, "lost", options(server, RUNNER_NATS_FLUSH_TIMEOUT="0.2"))
    assert "kept in" in said
    server.start()
    short(job, "next", options(server))
    messages = bus.stream_messages()
    assert sorted(counters(of_run(messages, "lost"))) == [
        event["counter"] for event in events_in(job, "lost")
    ]
    assert statuses_of(of_run(messages, "lost")) == ["starting", "running", "successful"]
    folder = job.folder / "artifacts/lost"
    assert list(folder.glob("nats-*.jsonl")) == []
    record = json.loads((folder / "nats-run.json").read_text())
    assert (record["undelivered"], record["files"]) == (0, [])
    assert record["recovered"] == record["confirmed"] == record["stored"] == record["accepted"] > 0
    done = command("replay", job.folder, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, done.stdout.count("nothing to send")) == (0, 2), done


def test_rotated_artifacts_lose_nothing(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    server.kill()
    (job.folder / "project/short.yml").write_text(SHORT)
    code = f"""
import ansible_runner
for ident in ("a", "b", "c"):
    ansible_runner.run(
        private_data_dir={str(job.folder)!r}, playbook="short.yml", ident=ident,
        rotate_artifacts=1, quiet=True)
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env=clean_env(options(server, RUNNER_NATS_FLUSH_TIMEOUT="0.2")),
        check=True,
        timeout=PATIENCE * 2,
    )
    assert len(list((job.folder / "artifacts").iterdir())) == 1
    server.start()
    done = command("replay", job.folder, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    messages = bus.stream_messages()
    for ident in ("a", "b", "c"):
        assert statuses_of(of_run(messages, ident)) == ["starting", "running", "successful"], ident
    assert list((job.folder / "nats-spool").iterdir()) == []


def seeds() -> list[int]:
    return list(range(int(os.environ.get("RECOVERY_SEEDS", "3"))))


@pytest.mark.parametrize("seed", seeds())
def test_killed_at_any_time(stored: tuple[Server, Bus], tmp_path: Path, seed: int) -> None:
    """The job, and perhaps the server, with -9 at a random instant; then one more run."""
    server, bus = stored
    chance = random.Random(seed)
    job = Job(tmp_path / "job")
    more = {"RUNNER_NATS_SPILL_DIR": str(tmp_path / "spool")} if chance.random() < 0.5 else {}
    nats = chance.choice(["there", "away", "killed with it"])
    if nats == "away":
        server.kill()
    process = start(job, LONG, "killed", options(server, **more))
    wait_until((job.folder / "artifacts/killed/job_events").is_dir, "the job")
    time.sleep(chance.random() * 2)
    kill_tree(process.pid)
    if nats == "killed with it":
        server.kill()
    process.wait()
    recorded = list(tmp_path.rglob("nats-run.json"))
    if nats != "there":
        server.start()
    short(job, "next", options(server, **more))
    messages = bus.stream_messages()
    mine = of_run(messages, "killed")
    expected = [event["counter"] for event in events_in(job, "killed")]
    found = sorted(counters(mine))
    # The plugin is told of an event before ansible-runner writes its file.
    assert found[: len(expected)] == expected, (nats, more)
    assert len(set(found)) == len(found) <= len(expected) + 1, (nats, more)
    if recorded:
        assert [word["state"] for word in told(messages)] == ["killed"], (nats, more)
    else:
        # Killed before anything of it was sent: its record comes first.
        assert (mine, expected) == ([], []), (nats, more)


def test_a_run_that_goes_on_is_left_alone(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    process = start(job, LONG, "live", options(server))
    try:
        wait_until(lambda: len(events_in(job, "live")) > 5, "some events")
        process.send_signal(signal.SIGSTOP)
        short(job, "next", options(server))
        assert told(bus.stream_messages()) == []
    finally:
        process.send_signal(signal.SIGCONT)
        kill_tree(process.pid)
        process.wait()


@pytest.mark.parametrize("seed", seeds())
def test_a_store_that_was_put_back(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, seed: int
) -> None:
    """A backup, or a power cut: what the stream had acknowledged is gone. `replay` sends exactly that."""
    chance = random.Random(seed)
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    job = Job(tmp_path / "job")
    # A spool keeps no records of what was delivered: these go to the artifacts.
    more = options(server, **({"RUNNER_NATS_SPILL_DIR": str(tmp_path / "spool")} if seed % 2 else {}))
    for number in range(chance.randrange(2)):
        short(job, f"before{number}", more)
    process = subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", job.folder, "-p", "play.yml", "--ident", "run"],
        env=clean_env(more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until((job.folder / "artifacts/run/job_events").is_dir, "the job")
    time.sleep(chance.random() * 1.5)
    # The store as it is just now, whatever is being written.
    server.signal(signal.SIGSTOP)
    backup = tmp_path / "backup"
    shutil.copytree(server.folder / "js", backup)
    server.signal(signal.SIGCONT)
    assert process.wait(PATIENCE) == 0
    short(job, "after", more)
    whole = {message.headers["Nats-Msg-Id"] for message in bus.stream_messages() if message.headers}
    server.kill()
    shutil.rmtree(server.folder / "js")
    shutil.copytree(backup, server.folder / "js")
    server.start()
    left = {message.headers["Nats-Msg-Id"] for message in bus.stream_messages() if message.headers}
    if chance.random() < 0.5:
        # Others have been stored in their place since.
        short(Job(tmp_path / "other"), "other", more)
    done = command("replay", job.folder, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    mine = [message for message in bus.stream_messages() if ".other." not in message.subject]
    found = [message.headers["Nats-Msg-Id"] for message in mine if message.headers]
    assert sorted(found) == sorted(whole)
    confirmed = sum(int(number) for number in re.findall(r"(\d+) messages confirmed", done.stdout))
    assert confirmed == len(whole - left), done.stdout
    again = command("replay", job.folder, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (again.returncode, "messages confirmed" in again.stdout) == (0, False), again.stdout
    assert len(bus.stream_messages()) == len(found) + sum(
        1 for message in bus.stream_messages() if ".other." in message.subject
    )


def test_what_a_stream_has_lost_comes_back_under_the_runs_own_identity(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    """Its record is gone: what the stream has left says which run it is."""
    server, bus = stored
    job = Job(tmp_path / "job")
    env = options(server, RUNNER_NATS_SPILL_DIR=str(tmp_path / "spool"))
    # What a stream lacks before its first message it has let go.
    bus.send("pub.ansible.runner.id.other.status", b'{"status": "running"}', {"Nats-Msg-Id": "x", RUN: "x"})
    short(job, "whole", env)
    before = bus.stream_messages()
    js = bus.client.jetstream()
    # The statuses, and every second event.
    for number, message in enumerate(before, 1):
        if "whole" in message.subject and (number % 2 or message.subject.endswith(".status")):
            assert bus.run(js.delete_msg("RUNS", number))
    # Without a record a run is left alone unless it is named.
    (job.folder / "artifacts/whole/nats-run.json").unlink()
    assert "no record of it" in command("replay", job.folder, env=env).stdout
    assert bus.stream_count() < len(before)
    named = job.folder / "artifacts/whole"
    done = command("replay", named, env=env)
    # The stream drops what it still knows, and confirms it all the same.
    assert (done.returncode, bus.stream_count() < len(before)) == (1, True)
    assert "are not in the stream, which has dropped them as repeats" in done.stderr
    config = bus.run(js.stream_info("RUNS")).config
    bus.run(js.update_stream(config, duplicate_window=0.1))
    wait_until(lambda: command("replay", named, env=env).returncode == 0, "a window that is over")
    after = bus.stream_messages()

    def said(messages: list[Msg]) -> set[tuple[str, str]]:
        return {
            (message.headers["Nats-Msg-Id"], message.headers[RUN]) for message in messages if message.headers
        }

    assert said(after) == said(before)
    assert len(after) == len(before)
    assert [run["state"] for run in runs(server) if run["runner_ident"] == "whole"] == ["successful"]


def test_the_record_of_a_spool_goes_to_the_artifacts(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """When all is delivered: by the run, or by a later one; and it is of the last run of that ident."""
    server, _ = stored
    spool = tmp_path / "spool"
    env = options(server, RUNNER_NATS_SPILL_DIR=str(spool))
    job = Job(tmp_path / "job")
    path = job.folder / "artifacts/nightly/nats-run.json"

    def kept() -> dict[str, Any]:
        record: dict[str, Any] = json.loads(path.read_text())
        assert list(job.folder.rglob("nats-run*.json")) == [path]
        assert record["confirmed"] == record["accepted"] > 0
        return record

    short(job, "nightly", env)
    first = kept()
    # Nobody takes it for the one that goes on, or whose messages wait.
    server.kill()
    short(job, "nightly", {**env, "RUNNER_NATS_FLUSH_TIMEOUT": "0.1"})
    assert not path.exists()
    (waiting,) = spool.glob("*/nats-run.json")
    second = json.loads(waiting.read_text())
    assert second["run_id"] != first["run_id"]
    server.start()
    short(Job(tmp_path / "other"), "other", env)
    wait_until(lambda: list(spool.iterdir()) == [], "the spool to be empty")
    assert kept()["run_id"] == second["run_id"]
    # A job that has no artifacts any more leaves nothing.
    server.kill()
    short(job, "gone", {**env, "RUNNER_NATS_FLUSH_TIMEOUT": "0.1"})
    shutil.rmtree(job.folder / "artifacts/gone")
    server.start()
    short(Job(tmp_path / "other"), "other", env)
    wait_until(lambda: list(spool.iterdir()) == [], "the spool to be empty")
    assert not (job.folder / "artifacts/gone").exists()


def test_another_server_than_the_record_says(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    meant, other = start_server(jetstream=True), start_server(jetstream=True)
    for server in (meant, other):
        connect(server).add_stream()
    job = Job(tmp_path / "job")
    meant.kill()
    short(job, "lost", options(meant, RUNNER_NATS_FLUSH_TIMEOUT="0.2"))
    before = job.spilled()
    on = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_SERVERS": other.url}
    done = command("replay", job.folder, env=on)
    assert done.returncode == 1
    assert f"were to go to {meant.url}, and the options say {other.url}" in done.stderr
    assert "--elsewhere" in done.stderr
    assert (job.spilled(), connect(other).stream_count()) == (before, 0)
    # Where none is named the record's own are taken.
    meant.start()
    done = command("replay", job.folder, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, done.stderr) == (0, "")
    assert connect(meant).stream_count() == len(before)
    # Nor is the other one told that nothing is missing there.
    assert command("replay", job.folder, env=on).returncode == 1
    done = command("replay", job.folder, "--elsewhere", env=on)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_ends_nothing(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    server.kill()
    for number in range(6):
        short(job, f"run{number}", options(server, RUNNER_NATS_FLUSH_TIMEOUT="0.1"))
    server.start()
    replay = subprocess.Popen(
        [bin_dir() / "ansible-runner-nats", "replay", job.folder],
        env=clean_env({"RUNNER_NATS_SUBJECT_ID": "id"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert replay.stdout is not None
    with replay.stdout:
        replay.stdout.readline()
    assert replay.wait(PATIENCE) == 0
    assert job.spilled() == []
    assert statuses_of(bus.stream_messages()).count("successful") == 6


def test_a_copy_is_no_spool(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    short(job, "run", options(server))
    copy = job.copy(tmp_path / "copy")
    count = bus.stream_count()
    done = command("replay", copy.folder, "--all", env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, done.stderr) == (0, ""), done
    assert (copy.folder / "artifacts/run/nats-run.json").exists()
    assert bus.stream_count() == count


def test_the_server_itself_tells_of_a_killed_run(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    on = {"RUNNER_NATS_SUBJECT_ID": "id"}
    assert command("stream", "create", "-s", server.url, env=on).returncode == 0
    more = options(server, RUNNER_NATS_HEARTBEAT="0.3")
    job = Job(tmp_path / "job")
    # One that ends leaves no marker.
    short(job, "ended", more)
    process = start(job, LONG, "killed", more)

    def beats(ident: str) -> list[Msg]:
        found = bus.stream_messages()
        return [message for message in found if message.subject == f"pub.ansible.runner.id.{ident}.heartbeat"]

    def has_time_to_live() -> bool:
        found = [message.headers or {} for message in beats("killed") if message.data]
        # The server raises it to how long its markers stay.
        return len(found) > 2 and {headers.get("Nats-TTL") for headers in found} == {"15"}

    # The first ones may come before it is known what the stream allows.
    wait_until(has_time_to_live, "signs of life")
    kill_tree(process.pid)
    process.wait()
    (marker,) = wait_until(
        lambda: [message for message in beats("killed") if not message.data], "the server's word"
    )
    assert marker.headers is not None
    assert marker.headers["Nats-Marker-Reason"] == "MaxAge"
    states = {run["runner_ident"]: run["state"] for run in runs(server)}
    assert states == {"ended": "successful", "killed": "killed"}
    assert command("wait", "killed", "-s", server.url, env=on).returncode == 3
    server.restart()
    bus = connect(server)
    (last,) = beats("ended")
    assert body(last)["status"] == "successful"
    assert last.headers is not None
    assert "Nats-TTL" not in last.headers


def test_a_runner_that_is_over_gives_no_sign_of_life(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """`run_async`, the job's own event handler raises, and the service keeps the Runner."""
    server, bus = stored
    job = Job(tmp_path / "job")
    code = f"""
import ansible_runner, time
def handler(event):
    raise RuntimeError("no")
thread, runner = ansible_runner.run_async(
    private_data_dir={str(job.folder)!r}, playbook="play.yml", ident="run", quiet=True, event_handler=handler)
thread.join()
print("over", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_env(options(server, RUNNER_NATS_HEARTBEAT="0.2")),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"over\n"
        time.sleep(0.5)
        before = len(told(bus.stream_messages()))
        time.sleep(1)
        assert len(told(bus.stream_messages())) == before
    finally:
        process.kill()
        process.communicate()


def test_a_stream_that_stores_under_other_subjects(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    transform = SubjectTransform(src="pub.ansible.runner.*.*.>", dest="stored.{{wildcard(2)}}.$1.>")
    bus.add_stream(subject_transform=transform, duplicate_window=0.1)
    job = Job(tmp_path / "job")
    short(job, "run", options(server))
    count = bus.stream_count()
    assert count > 5
    time.sleep(0.2)
    done = command("replay", job.folder, "--all", env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, bus.stream_count()) == (0, count), done
    assert f"{count} were in the stream already" in done.stdout


SPOOLING = """
import socket, sys, types
from ansible_runner_nats import _native, event_handler, status_handler
options = {'servers': URL, 'spill_dir': SPOOL, 'reconnect_time_wait': 0.1, 'flush_timeout': SECONDS}
for number in range(3):
    ident = f'{NAME}-{number}'
    settings = {'nats_subject_id': 'id', 'nats_options': options}
    config = types.SimpleNamespace(settings=settings, ident=ident, artifact_dir=f'{FOLDER}/{ident}')
    event_handler(config, {'counter': 1, 'uuid': ident, 'event': 'verbose', 'stdout': 'x' * 1000})
    for counter in range(2, 200):
        event_handler(config, {'counter': counter, 'uuid': ident, 'event': 'verbose', 'stdout': 'x' * 1000})
    status_handler(config, {'status': 'successful'})
    print(ident, flush=True)
"""


def test_many_processes_and_one_spool(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """Half of them are killed while they drain what others have left."""
    server, bus = stored
    chance = random.Random(1)
    spool = tmp_path / "spool"

    def code(name: str, seconds: float = 20) -> str:
        text = SPOOLING.replace("SECONDS", str(seconds))
        names = {"URL": server.url, "SPOOL": str(spool), "NAME": name, "FOLDER": str(tmp_path)}
        for word, value in names.items():
            text = text.replace(f"{{{word}}}", value).replace(word, repr(value))
        return text

    server.kill()
    for number in range(4):
        left = subprocess.run(
            [sys.executable, "-c", code(f"left{number}", 0.1)],
            env=clean_env(None), capture_output=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        assert b"kept in" in left.stderr
    server.start()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code(f"live{number}")],
            env=clean_env(None), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number in range(10)
    ]  # fmt: skip
    for process in processes[::2]:
        time.sleep(chance.random() / 5)
        process.kill()
    for process in processes:
        process.wait(PATIENCE)
    last = subprocess.run(
        [sys.executable, "-c", code("last")], env=clean_env(None), capture_output=True, check=True,
        timeout=PATIENCE * 2,
    )  # fmt: skip
    ids = [message.headers["Nats-Msg-Id"] for message in bus.stream_messages() if message.headers]
    assert len(set(ids)) == len(ids)
    for number in range(4):
        for run in range(3):
            mine = [one for one in ids if one.startswith(f"id.left{number}-{run}.")]
            assert len(mine) == 200, (number, run)
    # Of one that was killed while it made or removed its folder that may be left, for an hour.
    assert [path for path in spool.rglob("[!.]*") if path.is_file()] == [], last.stderr


KILLED = """
import os, pathlib, signal, time, types
from ansible_runner_nats import event_handler
settings = {'nats_subject_id': 'id', 'nats_options': {'servers': URL, 'spill_dir': SPOOL}}
config = types.SimpleNamespace(settings=settings, ident=f'killed-{os.getpid()}', artifact_dir=None)
event_handler(config, {'counter': 1, 'uuid': 'u', 'event': 'verbose'})
while not list(pathlib.Path(SPOOL).glob(f'{config.ident}-*/nats-run.json')):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


LAST = """
import sys, types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': URL, 'spill_dir': SPOOL, 'flush_timeout': 20}
settings = {'nats_subject_id': 'id', 'nats_options': options}
config = types.SimpleNamespace(settings=settings, ident='last', artifact_dir=None)
event_handler(config, {'counter': 1, 'uuid': 'u', 'event': 'verbose'})
status_handler(config, {'status': 'successful'})
sys.stdin.read()
"""


def test_the_end_of_a_process_keeps_nothing_of_what_it_completes(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    """It waits for the answer to what it has sent; what is not confirmed is where it was before."""
    server, bus = stored
    spool = tmp_path / "spool"
    proxy = Proxy(server.port)
    with contextlib.closing(proxy):

        def start(code: str) -> subprocess.Popen[str]:
            code = code.replace("URL", repr(proxy.url)).replace("SPOOL", repr(str(spool)))
            return subprocess.Popen(
                [sys.executable, "-c", code], env=clean_env(None), stdin=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

        # None of them gets as far as to complete another one.
        proxy.refuse = True
        for _ in range(3):
            with start(KILLED) as killed:
                assert killed.wait(PATIENCE) == -signal.SIGKILL
        proxy.refuse = False
        bus.subscribe("pub.ansible.runner.id.*.heartbeat")
        proxy.delay = 0.3
        with start(LAST) as last:
            # Its own run is over. That the last one was killed is at the server, and the answer on its way.
            bus.wait_for(lambda messages: len(told(messages)) == 3)
            _, said = last.communicate(timeout=PATIENCE)
        assert last.returncode == 0
        assert "kept in" not in said
    assert len(told(bus.stream_messages())) == 3
    assert [path for path in spool.rglob("[!.]*") if path.is_file()] == []


def test_only_a_run_of_the_same_subject_id_completes_it(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """Another one may leave less out."""
    server, bus = stored
    job = Job(tmp_path / "job")
    careful = options(server, RUNNER_NATS_SUBJECT_ID="careful", RUNNER_NATS_OMIT="stdout,event_data.res")
    process = start(job, LONG, "killed", careful)
    wait_until(lambda: len(events_in(job, "killed")) > 20, "some events")
    server.kill()
    wait_until(lambda: len(events_in(job, "killed")) > 30, "more events")
    kill_tree(process.pid)
    process.wait()
    server.start()
    short(job, "other", options(server))
    assert told(bus.stream_messages()) == []
    short(job, "next", careful)
    messages = bus.stream_messages()
    assert [word["state"] for word in told(messages)] == ["killed"]
    events = [body(message) for message in of_run(messages, "killed") if message.subject.endswith(".event")]
    assert len(events) > 30
    assert not any("stdout" in event for event in events)
