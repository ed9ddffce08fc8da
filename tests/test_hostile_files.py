"""What somebody else may have put into a spool, or into artifacts, is not believed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import (
    Bus,
    Job,
    Server,
    clean_env,
    cli,
    command,
    config,
    counters,
    event,
    of_run,
    python,
    wait_until,
)
from test_spool import run_once, undelivered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOBODY = 65_534


LEAVE = """
import types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': '{server.url}', 'spill_dir': '{spool}', 'flush_timeout': 0.1}}
config = types.SimpleNamespace(
    settings={{'nats_subject_id': 'id', 'nats_options': options}}, ident='lost', artifact_dir='{folder}/lost')
for counter in range(20):
    event_handler(config, {{'counter': counter, 'uuid': f'u{{counter}}', 'event': 'verbose'}})
status_handler(config, {{'status': 'successful'}})
"""


@pytest.fixture
def left(stored: tuple[Server, Bus], tmp_path: Path) -> tuple[Server, Bus, Path]:
    """A spool with what a run has left."""
    server, bus = stored
    spool = tmp_path / "spool"
    server.kill()
    # Not by this process: it would go on trying.
    done = python(LEAVE.format(server=server, spool=str(spool), folder=tmp_path))
    assert done.returncode == 0, done.stderr
    server.start()
    return server, bus, spool


def a_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def a_fifo(place: Path, victim: Path) -> None:
    del victim
    os.mkfifo(place)


def endless(place: Path, victim: Path) -> None:
    del victim
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [a_link, a_fifo, endless])
def test_how_far_it_was_sent_stands_elsewhere(
    left: tuple[Server, Bus, Path], tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    """Nothing is written through a link, and nothing waits: all of it is sent."""
    server, bus, spool = left
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder,) = spool.iterdir()
    put(folder / ".nats-undelivered.jsonl.sent", victim)
    run_once(server, spool, "live", tmp_path)
    wait_until(lambda: undelivered(spool) == [], "the spool to be drained")
    assert victim.read_text() == "precious"
    assert counters(of_run(bus.stream_messages(), "lost")) == list(range(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_a_folder_of_somebody_else(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    server, bus, spool = left
    (folder,) = spool.iterdir()
    os.chown(folder, NOBODY, NOBODY)
    run_once(server, spool, "live", tmp_path)
    wait_until(lambda: len(of_run(bus.stream_messages(), "live")) == 2)
    run_once(server, spool, "live2", tmp_path)
    wait_until(lambda: len(of_run(bus.stream_messages(), "live2")) == 2)
    assert of_run(bus.stream_messages(), "lost") == []
    assert undelivered(spool) != []


def test_a_record_without_end(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    """A sparse file of 3 GB: its folder is left alone, and costs nothing."""
    server, bus, spool = left
    (folder,) = spool.iterdir()
    with (folder / "nats-run.json").open("r+b") as record:
        record.truncate(3 << 30)
    run_once(server, spool, "live", tmp_path)
    wait_until(lambda: len(of_run(bus.stream_messages(), "live")) == 2)
    assert of_run(bus.stream_messages(), "lost") == []


@pytest.mark.parametrize("put", [a_link, a_fifo, endless])
@pytest.mark.parametrize("name", ["command", "status"])
def test_artifacts_that_lead_elsewhere(
    stored: tuple[Server, Bus], tmp_path: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    """A container had the folder mounted: what `replay` publishes of it is in it."""
    server, bus = stored
    job = Job(tmp_path / "job")
    done = cli("run", job.folder, "-p", "play.yml", "--ident", "r", env=clean_env(None))
    assert done.returncode == 0
    artifacts = job.folder / "artifacts/r"
    victim = tmp_path / "victim"
    victim.write_text(json.dumps({"command": ["canary"], "cwd": "canary"}))
    (artifacts / name).unlink()
    put(artifacts / name, victim)
    done = command("replay", artifacts, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert "canary" not in done.stdout + done.stderr
    messages = bus.stream_messages()
    assert len(messages) > 0
    assert not any(b"canary" in message.data for message in messages)


def test_a_linked_folder_of_events(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    job = Job(tmp_path / "job")
    cli("run", job.folder, "-p", "play.yml", "--ident", "r", env=clean_env(None))
    artifacts = job.folder / "artifacts/r"
    (artifacts / "job_events").rename(tmp_path / "elsewhere")
    (artifacts / "job_events").symlink_to(tmp_path / "elsewhere")
    done = command("replay", artifacts, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 1
    assert "job_events: a link is not followed" in done.stdout + done.stderr
    assert bus.stream_count() == 0


def spill_of(spool: Path) -> Path:
    (path,) = spool.glob("*/nats-undelivered.jsonl")
    return path


def drain(server: Server, bus: Bus, spool: Path, tmp_path: Path, lost: int) -> str:
    """What a live run says that finds the spool; so many of the lost messages are in the stream then."""
    done = python(DRAIN.format(server=server, spool=str(spool), folder=tmp_path, lost=lost))
    assert done.returncode == 0, done.stderr
    assert len(of_run(bus.stream_messages(), "lost")) == lost
    return done.stderr


DRAIN = """
import logging, time, types
from ansible_runner_nats import event_handler, report, status_handler
logging.basicConfig()
options = {{'servers': '{server.url}', 'spill_dir': '{spool}', 'flush_timeout': 20}}
config = types.SimpleNamespace(
    settings={{'nats_subject_id': 'id', 'nats_options': options}}, ident='live', artifact_dir='{folder}/live')
event_handler(config, {{'counter': 1, 'uuid': 'u', 'event': 'verbose'}})
# The spool is behind what is live.
time.sleep(2)
status_handler(config, {{'status': 'successful'}})
"""


def test_damaged_lines_stay_and_are_told(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    server, bus, spool = left
    path = spill_of(spool)
    lines = path.read_text().splitlines()
    bad = [lines[3][:40], '{"of": "another version"}', lines[4].replace('"pub.ansible', '"pub..ansible')]
    path.write_text("\n".join([*lines[:5], *bad, *lines[5:]]) + "\n" + lines[7][:50])
    said = drain(server, bus, spool, tmp_path, 21)
    assert "4 lines are no messages; they are kept in nats-damaged.jsonl" in said
    kept = path.with_name("nats-damaged.jsonl")
    assert kept.read_text().splitlines() == [*bad, lines[7][:50]]
    assert not path.exists()
    record = json.loads(path.with_name("nats-run.json").read_text())
    assert (record["undelivered"], record["files"]) == (4, [str(kept)])


@pytest.mark.parametrize("subject", ["$JS.API.STREAM.DELETE.RUNS", "_INBOX.x", "$SYS.REQ.SERVER.PING"])
def test_nothing_is_sent_to_a_subject_of_the_servers(
    left: tuple[Server, Bus, Path], tmp_path: Path, subject: str
) -> None:
    server, bus, spool = left
    path = spill_of(spool)
    line = {"subject": subject, "headers": [["Nats-Msg-Id", "x"]], "payload": "{}"}
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    bus.subscribe(subject)
    assert "1 lines are no messages" in drain(server, bus, spool, tmp_path, 21)
    assert [message for message in bus.received if message.subject == subject] == []
    assert json.loads(path.with_name("nats-damaged.jsonl").read_text()) == line
    # Nor by a person.
    path.write_text(json.dumps(line) + "\n")
    done = command("replay", path, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 1
    assert [message for message in bus.received if message.subject == subject] == []
    assert json.loads(path.read_text()) == line


def test_what_no_run_here_could_have_published_is_left(
    left: tuple[Server, Bus, Path], tmp_path: Path
) -> None:
    """Another subject id: that of another service, or of somebody who would like to speak for it."""
    server, bus, spool = left
    path = spill_of(spool)
    lines = path.read_text().splitlines()
    line = lines[0].replace("pub.ansible.runner.id.", "pub.ansible.runner.other.")
    path.write_text("\n".join([*lines[:5], line, *lines[5:]]) + "\n")
    said = drain(server, bus, spool, tmp_path, 5)
    assert "is for a subject that no run here could have made" in said
    assert path.exists()
    assert not any("other" in message.subject for message in bus.stream_messages())


def test_a_run_of_another_subject_id_is_left(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    """Its record says whose it is: some other service of this user takes it up."""
    server, bus, spool = left
    record = spill_of(spool).with_name("nats-run.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "subject_id": "other"}))
    assert drain(server, bus, spool, tmp_path, 0) == ""
    assert spill_of(spool).exists()


def test_a_line_without_end(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    server, bus, spool = left
    path = spill_of(spool)
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    done = python(
        "import re\n" + DRAIN.format(server=server, spool=str(spool), folder=tmp_path, lost=0)
        + "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) // 1024)"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a line of more than 128 MiB" in done.stderr
    assert int(done.stdout) < 700
    assert len(of_run(bus.stream_messages(), "lost")) == 21
    assert path.stat().st_size == 3 << 30


@pytest.mark.parametrize("change", ["older", "newer", "damaged"])
def test_a_record_of_another_version(left: tuple[Server, Bus, Path], tmp_path: Path, change: str) -> None:
    server, bus, spool = left
    path = spill_of(spool).with_name("nats-run.json")
    record = json.loads(path.read_text())
    if change == "older":
        for field in ("unheard", "routed", "waited", "resent", "problem"):
            del record[field]
    elif change == "newer":
        record.update(version=2, run_id="x")
    text = json.dumps(record)[: 50 if change == "damaged" else None]
    path.write_text(text)
    drain(server, bus, spool, tmp_path, 21 if change == "older" else 0)
    assert path.exists() == (change != "older")
    if change != "older":
        assert path.read_text() == text
        done = command("replay", spool, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
        assert done.returncode == 1
        assert "it is damaged, of a newer version, or somebody else's" in done.stderr
        assert undelivered(spool) != []


def test_a_record_that_cannot_be_read_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    record = folder / "nats-run.json"
    record.write_text('{"version": 2}')
    run = config(server.url, folder)
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    assert record.read_text() == '{"version": 2}'
    assert json.loads((folder / "nats-run.1.json").read_text())["state"] == "ended"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_roots_replay_of_a_spool_for_everybody(left: tuple[Server, Bus, Path], tmp_path: Path) -> None:
    server, bus, spool = left
    spool.chmod(0o1777)
    (folder,) = spool.iterdir()
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    done = command("replay", spool, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert "left alone: it belongs to somebody else" in done.stdout
    assert bus.stream_messages() == []
    # In a folder of his own he is meant.
    os.chown(spool, NOBODY, NOBODY)
    done = command("replay", spool, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    assert len(bus.stream_messages()) == 21
    del tmp_path


@pytest.mark.parametrize(
    ("mode", "around", "owner", "said"),
    [
        (0o700, 0o755, 0, None),
        (0o1777, 0o755, 0, "others can write to"),
        (0o777, 0o755, 0, "others can write to"),
        (0o700, 0o777, 0, "others can write to"),
        (0o700, 0o1777, 0, None),
        (0o700, 0o755, NOBODY, f"belongs to user {NOBODY}"),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_check_looks_who_else_could_write_there(
    stored: tuple[Server, Bus], tmp_path: Path, mode: int, around: int, owner: int, said: str | None
) -> None:
    server, _ = stored
    outer = tmp_path / "outer"
    spool = outer / "spool"
    spool.mkdir(parents=True)
    outer.chmod(around)
    spool.chmod(mode)
    os.chown(spool, owner, owner)
    env = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_SPILL_DIR": str(spool)}
    done = command("check", "-s", server.url, env=env)
    assert done.returncode == (0 if said is None else 1), done.stdout
    assert said is None or said in done.stdout
