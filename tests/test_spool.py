"""A `spill_dir` drains itself: what earlier runs left there is sent behind live messages, and removed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ansible_runner_nats import event_handler, status_handler
from support import (
    QUICK,
    Bus,
    Server,
    clean_env,
    command,
    config,
    counters,
    event,
    free_port,
    of_run,
    statuses_of,
    wait_until,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from proxy import Proxy

END = {"status": "successful"}


def leave(server: Server, spool: Path, ident: str, count: int, artifacts: Path) -> None:
    """A run while the server is away: all of it goes to the spool."""
    run = config(server.url, artifacts / ident, spill_dir=str(spool), **QUICK)
    run.ident = ident
    for counter in range(count):
        event_handler(run, event(counter))
    status_handler(run, END)


def run_once(server: Server, spool: Path, ident: str, artifacts: Path, count: int = 1) -> None:
    run = config(server.url, artifacts / ident, spill_dir=str(spool))
    run.ident = ident
    for counter in range(count):
        event_handler(run, event(counter))
    status_handler(run, END)


def undelivered(spool: Path) -> list[str]:
    """The files that are left; unlike a glob, this minds no folder that goes meanwhile."""
    return [name for _, _, names in os.walk(spool) for name in names if name.endswith(".jsonl")]


def test_what_earlier_runs_left(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    spool = tmp_path / "spool"
    server.kill()
    for number in range(3):
        leave(server, spool, f"lost{number}", 20, tmp_path)
    assert len(list(spool.iterdir())) == 3
    assert not any((tmp_path / f"lost{number}/nats-run.json").exists() for number in range(3))
    server.start()
    run_once(server, spool, "live", tmp_path)
    # Nobody calls `replay`.
    wait_until(lambda: list(spool.iterdir()) == [], "the spool to be empty")
    messages = bus.stream_messages()
    for number in range(3):
        mine = of_run(messages, f"lost{number}")
        assert counters(mine) == list(range(20))
        assert statuses_of(mine) == ["successful"]
    assert counters(of_run(messages, "live")) == [0]
    assert len(messages) == 3 * 21 + 2


def test_a_clean_run_leaves_nothing_there(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    spool = tmp_path / "spool"
    for number in range(3):
        run_once(server, spool, f"r{number}", tmp_path)
    wait_until(lambda: not spool.exists() or list(spool.iterdir()) == [])


def test_a_spool_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and the artifact directory is used instead."""
    (tmp_path / "file").write_text("")
    run = config(
        f"nats://127.0.0.1:{free_port()}", tmp_path / "a", spill_dir=str(tmp_path / "file/spool"), **QUICK
    )
    with caplog.at_level(logging.WARNING, "ansible-runner.nats"):
        for counter in range(5):
            event_handler(run, event(counter))
        status_handler(run, END)
    said = [text for record in caplog.records if "spill_dir" in (text := record.getMessage())]
    assert len(said) == 1
    assert "the artifact directory is used instead" in said[0]
    assert len((tmp_path / "a/nats-undelivered.jsonl").read_text().splitlines()) == 6


def test_only_this_hosts_and_only_where_it_was_to_go(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """Two hosts with one spool on shared storage; and a run that was for other servers."""
    server, bus = stored
    spool = tmp_path / "spool"
    server.kill()
    for ident in ("ours", "theirs", "elsewhere"):
        leave(server, spool, ident, 5, tmp_path)
    for path in spool.glob("*/nats-run.json"):
        record = json.loads(path.read_text())
        if record["runner_ident"] == "theirs":
            record["host"] = "other.example"
        if record["runner_ident"] == "elsewhere":
            record["destination"]["servers"] = ["nats://elsewhere:4222"]
        path.write_text(json.dumps(record))
    server.start()
    run_once(server, spool, "live", tmp_path)
    wait_until(lambda: bus.stream_count() == 6 + 2)
    run_once(server, spool, "live2", tmp_path)
    wait_until(lambda: bus.stream_count() == 6 + 4)
    assert sorted(path.name.split("-")[0] for path in spool.iterdir()) == ["elsewhere", "theirs"]
    # A person may say so.
    done = command("replay", spool, "--elsewhere", "-s", server.url, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert bus.stream_count() == 6 + 4 + 12
    assert list(spool.iterdir()) == []


def test_what_no_server_takes_stays(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    spool = tmp_path / "spool"
    server.kill()
    leave(server, spool, "big", 3, tmp_path)
    leave(server, spool, "small", 0, tmp_path)
    server.start()

    async def shrink() -> None:
        info = await bus.client.jetstream().stream_info("RUNS")
        await bus.client.jetstream().update_stream(info.config.evolve(max_msg_size=900))

    wait_until(lambda: bus.client.is_connected)
    bus.run(shrink())
    run_once(server, spool, "live", tmp_path, count=0)
    wait_until(lambda: len(of_run(bus.stream_messages(), "small")) == 1)
    wait_until(lambda: len(of_run(bus.stream_messages(), "big")) == 1)
    folder = next(path for path in spool.iterdir() if path.name.startswith("big"))

    def left() -> Any:
        record = json.loads((folder / "nats-run.json").read_text())
        return record if [str(path) for path in folder.glob("*.jsonl")] == record["files"] else None

    record = wait_until(lambda: (found := left()) and found["undelivered"] == 3 and found)
    assert len((folder / record["files"][0]).read_text().splitlines()) == 3


DRAIN = """
import os, sys, types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': URL, 'spill_dir': SPOOL}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='live', artifact_dir=FOLDER)
event_handler(config, {'counter': 1, 'uuid': 'u', 'event': 'verbose'})
sys.stdin.read()
"""


def test_what_nobody_hears_holds_up_nothing(
    server: Server, connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Neither what else is in the spool, nor the end of the thread; the next run tries once more."""
    spool = tmp_path / "spool"
    server.kill()
    for ident in ("a-bad", "b-good"):
        leave(server, spool, ident, 20, tmp_path)
    server.start()
    bus = connect(server)
    bus.subscribe("pub.ansible.runner.id.b-good.>").subscribe("pub.ansible.runner.id.live.>")
    run_once(server, spool, "live", tmp_path)
    bus.wait_for(lambda messages: len(of_run(messages, "b-good")) == 21)
    wait_until(lambda: len(undelivered(spool)) == 1, "what was heard to go")
    assert of_run(bus.received, "a-bad") == []
    bus.subscribe("pub.ansible.runner.id.a-bad.>")
    run_once(server, spool, "live", tmp_path)
    messages = bus.wait_for(lambda messages: len(of_run(messages, "a-bad")) >= 21)
    assert counters(of_run(messages, "a-bad")) == list(range(20))
    wait_until(lambda: list(spool.iterdir()) == [], "the spool to be empty")


def test_killed_while_it_drains(
    proxied: tuple[Server, Proxy], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Thirty thousand messages, kill -9 in the middle of it, twice: everything once, no file left."""
    server, proxy = proxied
    bus = connect(server)
    bus.add_stream()
    spool, total = tmp_path / "spool", 30_000
    proxy.refuse = True
    run = config(proxy.url, tmp_path / "a", spill_dir=str(spool), **QUICK)
    run.ident = "lost"
    for counter in range(total):
        event_handler(run, {"counter": counter, "uuid": "u", "event": "verbose"})
    status_handler(run, END)
    # Few at once, and through this process: however slow it is, it sees some before all are through.
    proxy.refuse, proxy.delay = False, 0.001
    few = {"flusher_queue_size": 500}
    code = DRAIN.replace("URL", repr(proxy.url)).replace("SPOOL", f"{str(spool)!r}, **{few}")
    code = code.replace("FOLDER", repr(str(tmp_path / "b")))
    arrived = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], env=clean_env(None), stdin=subprocess.PIPE)
        wait_until(lambda before=arrived: bus.stream_count() > before + 2_000)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        arrived = bus.stream_count()
    # A live run is not delayed: all of it is there before the rest of the spool.
    run = config(proxy.url, tmp_path / "c", spill_dir=str(spool), **few)
    run.ident = "late"
    event_handler(run, event(1))
    wait_until(lambda: bus.stream_count() > arrived + 2_000)
    for counter in range(2, 102):
        event_handler(run, event(counter))
    status_handler(run, END)
    assert bus.stream_count() < total
    proxy.delay = 0
    # Every id is unique: fewer would be lost, more would be repeated.
    whole = {
        "pub.ansible.runner.id.lost.event": total,
        "pub.ansible.runner.id.lost.status": 1,
        "pub.ansible.runner.id.live.event": 1,
        # Both that were killed are told.
        "pub.ansible.runner.id.live.heartbeat": 2,
        "pub.ansible.runner.id.late.event": 101,
        "pub.ansible.runner.id.late.status": 1,
    }
    wait_until(lambda: not undelivered(spool) and bus.stream_subjects() == whole, "the spool to be empty")


def test_two_processes_drain_one_spool(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    spool = tmp_path / "spool"
    server.kill()
    for number in range(20):
        leave(server, spool, f"lost{number}", 50, tmp_path)
    server.start()
    code = DRAIN.replace("URL", repr(server.url)).replace("SPOOL", repr(str(spool)))
    code = code.replace("FOLDER", repr(str(tmp_path / "b")))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=clean_env(None), stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    wait_until(lambda: not undelivered(spool), "the spool to be empty")
    for process in processes:
        process.communicate()
    messages = bus.stream_messages()
    for number in range(20):
        assert counters(of_run(messages, f"lost{number}")) == list(range(50))
    assert list(spool.iterdir()) == []
