"""What the machine that delivers promises, once with real parts; the rest is simulated (`make simulate`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from support import (
    PATIENCE,
    Bus,
    Server,
    body,
    clean_env,
    config,
    counters,
    event,
    first_times,
    free_port,
    statuses_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A job in a process of its own, that publishes as long as a file is there.
JOB = """
import os, sys, time, types
from ansible_runner_nats import event_handler, report, status_handler
class Config(types.SimpleNamespace): pass
options = {'servers': URL, 'reconnect_time_wait': 0.2, 'flush_timeout': 20, **OPTIONS}
config = Config(settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
status_handler(config, {'status': 'starting'})
counter = 0
while os.path.exists(GO):
    event_handler(config, {'counter': counter, 'uuid': str(counter), 'stdout': 'x' * 500})
    counter += 1
    time.sleep(0.001)
status_handler(config, {'status': 'successful'})
print(counter, report(config)['resent'])
"""


def job(url: str, folder: Path, go: Path, **options: object) -> subprocess.Popen[str]:
    script = JOB.replace("URL", repr(url)).replace("FOLDER", repr(str(folder))).replace("GO", repr(str(go)))
    script = script.replace("OPTIONS", repr(options))
    go.touch()
    return subprocess.Popen(
        [sys.executable, "-c", script], env=clean_env(None), stdout=subprocess.PIPE, text=True
    )


def test_suspended_for_longer_than_the_duplicate_window(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """A laptop that was closed: acknowledgements that wait in the socket are in time."""
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(duplicate_window=1)
    go = tmp_path / "go"
    with job(server.url, tmp_path / "artifacts", go) as process:
        wait_until(lambda: bus.stream_count() > 500, "the job to be at it")
        for _ in range(3):
            os.kill(process.pid, signal.SIGSTOP)
            # Longer than the window, and than we wait for an acknowledgement.
            time.sleep(4)
            os.kill(process.pid, signal.SIGCONT)
            before = bus.stream_count()
            wait_until(lambda before=before: bus.stream_count() > before + 200, "the job to go on")  # type: ignore[misc]
        go.unlink()
        sent, resent = map(int, process.communicate(timeout=PATIENCE)[0].split())
    assert counters(bus.stream_messages()) == list(range(sent))
    assert resent == 0


@pytest.fixture
def silent() -> Iterator[Callable[[], str]]:
    """Servers that accept a connection and say nothing, as behind a firewall."""
    sockets: list[socket.socket] = []

    def silent() -> str:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        return f"nats://127.0.0.1:{sockets[-1].getsockname()[1]}"

    yield silent
    for one in sockets:
        one.close()


def test_a_good_server_among_silent_ones(
    stored: tuple[Server, Bus], silent: Callable[[], str], tmp_path: Path
) -> None:
    """A short job need not wait for one after the other: each has half a second for itself."""
    server, bus = stored
    dead = [f"nats://127.0.0.1:{free_port()}" for _ in range(2)]
    servers = [silent(), silent(), *dead, silent(), silent(), server.url]
    run = config(",".join(servers), tmp_path, connect_timeout=10, flush_timeout=8, dont_randomize=True)
    event_handler(run, event(0))
    status_handler(run, {"status": "successful"})
    # Four times half a second, and not four times ten.
    assert bus.stream_count() == 2
    known = report(run)
    assert known is not None
    assert (known["stored"], known["undelivered"]) == (2, 0)


@pytest.mark.parametrize("others", [0, 1])
def test_lame_duck(server: Server, bus: Bus, tmp_path: Path, others: int) -> None:
    """It serves until it goes: who has nowhere to go, or only to one that is dead, stays as long as that."""
    servers = [server.url, *(f"nats://127.0.0.1:{free_port()}" for _ in range(others))]
    run = config(",".join(servers), tmp_path, dont_randomize=True)
    event_handler(run, event(0))
    bus.wait_for(lambda messages: len(messages) == 1)
    # It says so at once, and goes after ten seconds at the earliest.
    server.signal(signal.SIGUSR2)
    wait_until(lambda: "Entering lame duck mode" in (server.folder / "log").read_text(), "the lame duck")
    for counter in range(1, 20):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    assert first_times(bus.wait_for_end()) == list(range(20))
    known = report(run)
    assert known is not None
    assert (known["routed"], known["undelivered"], known["resent"]) == (21, 0, 0)


def test_lame_duck_with_another_server(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    servers = [start_server(), start_server()]
    heard = [connect(server).subscribe() for server in servers]
    urls = ",".join(server.url for server in servers)
    run = config(urls, tmp_path, dont_randomize=True)
    event_handler(run, event(0))
    heard[0].wait_for(lambda messages: len(messages) == 1)
    servers[0].signal(signal.SIGUSR2)

    def has_moved() -> bool:
        event_handler(run, event(1))
        return bool(heard[1].received)

    wait_until(has_moved, "the run to move")
    assert servers[0].process is not None
    assert servers[0].process.poll() is None
    status_handler(run, {"status": "successful"})
    known = report(run)
    assert known is not None
    assert (known["undelivered"], known["lost"]) == (0, 0)


def test_whoever_comes_later_hears_it_from_its_beginning(
    server: Server, connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Nobody heard it, so it was not confirmed."""
    run = config(server.url, tmp_path)
    status_handler(run, {"status": "starting"})
    for counter in range(50):
        event_handler(run, event(counter))

    def unheard() -> int:
        known = report(run)
        return known["unheard"] if known else 0

    wait_until(lambda: unheard() == 51, "all of it to be unheard")
    known = report(run)
    assert known is not None
    assert known["confirmed"] == 0
    bus = connect(server).subscribe()
    messages = bus.wait_for(lambda messages: len(messages) >= 51)
    assert statuses_of(messages[:1]) == ["starting"]
    assert counters(messages) == list(range(50))
    event_handler(run, event(50))
    status_handler(run, {"status": "successful"})
    assert counters(bus.wait_for_end()) == list(range(51))
    known = report(run)
    assert known is not None
    assert (known["routed"], known["unheard"], known["undelivered"], known["lost"]) == (53, 0, 0, 0)


def test_nobody_hears_a_run_until_its_end(server: Server, tmp_path: Path) -> None:
    """It is kept on disk, and its end does not wait for longer than a second."""
    run = config(server.url, tmp_path, flush_timeout=20)
    for counter in range(50):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    known = report(run)
    assert known is not None
    fates = [known[fate] for fate in ("confirmed", "undelivered", "unheard", "lost")]
    assert fates == [0, 51, 51, 0]
    assert known["problem"] is not None
    assert "nobody listens" in known["problem"]
    # Not a bound of ours: a fifth of what it would have waited for a stream.
    assert known["waited"] < 4
    assert len((tmp_path / "nats-undelivered.jsonl").read_text().splitlines()) == 51
    # `core` is fire and forget, as 0.4.0 was.
    fire = config(server.url, tmp_path / "core", delivery="core")
    event_handler(fire, event(0))
    status_handler(fire, {"status": "successful"})
    known = report(fire)
    assert known is not None
    assert (known["routed"], known["undelivered"]) == (2, 0)


def test_one_whom_nobody_hears_holds_up_no_other(
    server: Server, connect: Callable[..., Bus], tmp_path: Path
) -> None:
    bus = connect(server).subscribe("pub.ansible.runner.id.good.>")
    options = {"servers": server.url, "pending_size": 200_000}
    unheard = config(server.url, tmp_path / "unheard", **options)
    unheard.ident = "bad"
    good = config(server.url, tmp_path / "good", **options)
    good.ident = "good"
    # More than memory may hold.
    for counter in range(500):
        event_handler(unheard, event(counter))
    for counter in range(500):
        event_handler(good, event(counter))
    status_handler(good, {"status": "successful"})
    assert counters(bus.wait_for_end()) == list(range(500))
    status_handler(unheard, {"status": "successful"})
    lines = [
        line for path in (tmp_path / "unheard").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(lines) == 501
    assert not list((tmp_path / "good").glob("*.jsonl"))


def test_a_subscriber_that_answers_is_no_stream(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Each message can be answered now: whatever somebody says to it proves nothing, and does no harm."""

    async def answer() -> None:
        async def reply(message: object) -> None:
            await message.respond(b"+OK")  # type: ignore[attr-defined]

        await bus.client.subscribe("pub.>", cb=reply)
        await bus.client.flush()

    bus.run(answer())
    run = config(server.url, tmp_path)
    for counter in range(20):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    known = report(run)
    assert known is not None
    assert (known["stored"], known["routed"], known["resent"]) == (0, 21, 0)
    assert {body(message)["counter"] for message in bus.received[:20]} == set(range(20))


def test_an_earlier_run_has_seen_a_stream(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """A new process, the stream is away, but a subscriber keeps the server from saying so: it waits."""
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    go = tmp_path / "go"
    with job(server.url, tmp_path / "artifacts/first", go, delivery="auto") as process:
        wait_until(lambda: bus.stream_count() > 1, "the first job")
        go.unlink()
        process.communicate(timeout=PATIENCE)
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.subscribe("pub.>")
    go.touch()
    with job(server.url, tmp_path / "artifacts/second", go) as process:
        # It is routed to the subscriber at once; a stream was there, so that this is not enough.
        bus.wait_for(lambda messages: len(messages) > 1)
        time.sleep(1)
        bus.add_stream()
        wait_until(lambda: bus.stream_count() > 100, "the second job")
        go.unlink()
        sent = int(process.communicate(timeout=PATIENCE)[0].split()[0])
    assert counters(bus.stream_messages()) == list(range(sent))
