"""Nothing is lost: bad networks, clusters, many runs, and processes that end in bad ways."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, handlers, report, status_handler
from cluster import Cluster
from jwt_auth import Authority
from support import (
    PATIENCE,
    Bus,
    Job,
    Server,
    bin_dir,
    body,
    clean_env,
    config,
    counters,
    event,
    first_times,
    free_port,
    is_end,
    python,
    wait_until,
)

import nats

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy import Proxy
    from support import RunnerConfig


def connected_times(proxy: Proxy, count: int) -> bool:
    return proxy.connections > count


def test_a_subscriber_while_our_connection_is_cut_fifty_times(
    proxied: tuple[Server, Proxy], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Once with real parts; `make simulate` cuts in each mode, and swallows in each direction."""
    server, proxy = proxied
    bus = connect(server).subscribe()
    run = config(proxy.url, tmp_path, reconnect_time_wait=0.01)
    total = 10_000
    for counter in range(total):
        event_handler(run, event(counter))
        if counter % 200 == 100:
            # Wait until we are connected (again), then cut in the middle of a message.
            wait_until(partial(connected_times, proxy, counter // 200))
            proxy.cut(after_bytes=777)
        if counter % 10 == 0:
            time.sleep(0.001)
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert proxy.connections > 50
    assert first_times(messages) == list(range(total))


def test_a_network_that_swallows_one_direction(
    proxied: tuple[Server, Proxy], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server, proxy = proxied
    connect(server).add_stream()
    run = config(proxy.url, tmp_path)
    event_handler(run, event(0))
    wait_until(lambda: connect(server).stream_count() == 1)
    proxy.mute = True
    for counter in range(1, 500):
        event_handler(run, event(counter))
    # Noticed by the silence: nothing closes the connection.
    threading.Timer(7, setattr, [proxy, "mute", False]).start()
    status_handler(run, {"status": "successful"})
    messages = connect(server).stream_messages()
    assert counters(messages) == list(range(500))
    assert is_end(messages[-1])


def test_a_slow_network(proxied: tuple[Server, Proxy], connect: Callable[..., Bus], tmp_path: Path) -> None:
    server, proxy = proxied
    connect(server).add_stream()
    proxy.delay = 0.2
    run = config(proxy.url, tmp_path)
    for counter in range(2000):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    assert counters(connect(server).stream_messages()) == list(range(2000))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("delivery", "window"), [("jetstream", 256), ("auto", 1)])
def test_a_cluster_whose_nodes_go(
    start_server: Callable[..., Server], tmp_path: Path, delivery: str, window: int
) -> None:
    """One URL is given; that node is killed, the stream's leader twice, and all leave as lame ducks.

    A leader that hands its office over may lose messages in flight while the next one stores those behind
    them: what docs/messages.md says of the order.
    """
    cluster = Cluster(start_server)
    cluster.add_stream()
    options = {"delivery": delivery, "flusher_queue_size": window, "flush_timeout": 60}
    run = config(cluster.nodes[0].url, tmp_path / "artifacts", **options)
    sent = 0

    def publish(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            event_handler(run, event(sent))
            sent += 1
            time.sleep(0.0005)

    publish(500)
    for victim in ("nats-0", "leader", "leader"):
        node = cluster.node(cluster.leader() if victim == "leader" else victim)
        node.kill()
        publish(2000)
        node.start()
        cluster.leader()
        publish(500)
    for node in cluster.nodes:
        node.signal(signal.SIGUSR2)
        publish(1000)
        node.restart()
        cluster.leader()
    status_handler(run, {"status": "successful"})
    messages = cluster.messages()
    order = first_times(messages)
    assert sorted(order) == list(range(sent))
    assert all(abs(place - counter) < window for place, counter in enumerate(order))
    assert len(counters(messages)) == sent
    assert sum(map(is_end, messages)) == 1


def test_a_million_events_without_a_server(tmp_path: Path) -> None:
    code = f"""
import resource, types
from ansible_runner_nats import event_handler
options = {{'servers': 'nats://127.0.0.1:{free_port()}', 'pending_size': 16 << 20, 'flush_timeout': 0}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(tmp_path)!r}, ident='r')
event_handler(config, {{'counter': 0, 'uuid': 'u'}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(1, 1_000_000):
    event_handler(config, {{'counter': n, 'uuid': 'u'}})
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
assert grown < (16 << 20) + (24 << 20), grown
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "1000000 kept in" in done.stderr
    # What was in memory, and behind it what had overflowed, which is not copied.
    following = 0
    for name in ("nats-undelivered.jsonl", "nats-undelivered.1.jsonl"):
        with (tmp_path / name).open("rb") as lines:
            for line in lines:
                assert json.loads(json.loads(line)["payload"])["counter"] == following
                following += 1
    assert following == 1_000_000


COUNT = """
import os, threading, types
from ansible_runner_nats import event_handler, status_handler
settings = {'nats_subject_id': 'id', 'nats_options': {'servers': URL}}

def run(name):
    config = types.SimpleNamespace(settings=settings, ident=name)
    status_handler(config, {'status': 'starting'})
    for n in range(20):
        event_handler(config, {'counter': n, 'uuid': 'u'})
    status_handler(config, {'status': 'successful'})

def tasks():
    return len(os.listdir('/proc/self/task'))

def descriptors():
    return len(os.listdir('/proc/self/fd'))

def memory():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_two_hundred_runs_in_threads(server: Server, bus: Bus) -> None:
    code = (
        COUNT.replace("URL", repr(server.url))
        + """
barrier = threading.Barrier(201)
def wait_and_run(name):
    config = types.SimpleNamespace(settings=settings, ident=name)
    for n in range(20):
        event_handler(config, {'counter': n, 'uuid': 'u'})
    barrier.wait()
    barrier.wait()
    status_handler(config, {'status': 'successful'})
threads = [threading.Thread(target=wait_and_run, args=(f't{n}',)) for n in range(200)]
for thread in threads: thread.start()
barrier.wait()
assert tasks() - 201 <= 2, tasks()
barrier.wait()
for thread in threads: thread.join()
"""
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    bus.wait_for_end(200)
    for number in range(200):
        subject = f"pub.ansible.runner.id.t{number}.event"
        assert [body(m)["counter"] for m in bus.received if m.subject == subject] == list(range(20))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_thousand_runs_one_after_the_other(server: Server, bus: Bus) -> None:
    code = (
        COUNT.replace("URL", repr(server.url))
        + """
for n in range(1000): run(f'warm{n}')
before = tasks(), descriptors(), memory()
held = [before[2]]
for turn in range(4):
    for n in range(1000): run(f'r{turn}.{n}')
    after = tasks(), descriptors()
    assert after <= before[:2], (before, after)
    held.append(memory())
# Load decides how much is held at a time, and when the allocator wants more.
# A leak grows with each thousand runs.
grown = [later - earlier for earlier, later in zip(held, held[1:])]
assert min(grown) < 350_000, (held, grown)
"""
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    bus.wait_for_end(5000)


def test_sigterm_to_the_command_line(tmp_path: Path, server: Server, bus: Bus) -> None:
    # What ansible-playbook has forked outlives it: it waits for the end of the task.
    enough = tmp_path / "enough"
    wait = f"until [ -e {enough} ]; do sleep 0.1; done"
    slow = f"- hosts: all\n  gather_facts: false\n  tasks: [{{ansible.builtin.shell: '{wait}'}}]\n"
    job = Job(tmp_path / "job", playbook=slow)
    env = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_SERVERS": server.url}
    runner = subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", job.folder, "-p", "play.yml"],
        env=clean_env(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    bus.wait_for(lambda messages: any(m.subject.endswith(".event") for m in messages))
    runner.send_signal(signal.SIGTERM)
    _, errors = runner.communicate(timeout=PATIENCE)
    assert errors == b""
    messages = bus.wait_for_end()
    assert body(messages[-1])["status"] == "canceled"
    assert [body(m) for m in messages if m.subject.endswith(".event")] == job.events()
    enough.touch()


def test_credentials_that_expire_and_are_renewed(
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = Authority()
    own = tmp_path / "tester.creds"
    own.write_text(authority.creds("tester"))
    server = start_server(config=authority.server_config(), credentials={"user_credentials": str(own)})
    bus = connect(server).subscribe()
    creds = tmp_path / "me.creds"
    creds.write_text(authority.creds("me", expires=time.time() + 3))
    run = config(server.url, tmp_path / "artifacts", user_credentials=str(creds))
    event_handler(run, event(0))
    bus.wait_for(lambda messages: len(messages) == 1)
    creds.write_text(authority.creds("me"))
    deadline = time.monotonic() + 6
    counter = 1
    while time.monotonic() < deadline:
        event_handler(run, event(counter))
        counter += 1
        time.sleep(0.01)
    status_handler(run, {"status": "successful"})
    assert first_times(bus.wait_for_end()) == list(range(counter))
    # The server said why it hung up.
    assert any("expired" in record.getMessage().lower() for record in caplog.records)


def test_a_message_that_the_stream_does_not_take_holds_up_nobody(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(max_msg_size=5000)
    run = config(server.url, tmp_path)
    for counter in range(100):
        event_handler(run, {**event(counter), "stdout": "x" * (10_000 if counter == 50 else 10)})
    status_handler(run, {"status": "successful"})
    assert counters(bus.stream_messages()) == [n for n in range(100) if n != 50]
    assert len((tmp_path / "nats-undelivered.jsonl").read_text().splitlines()) == 1


def test_one_unavailable_stream_does_not_hold_up_the_others(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(subjects=["pub.ansible.runner.id.good.>"])
    lost = config(server.url, tmp_path / "lost", delivery="jetstream", flush_timeout=3)
    lost.ident = "bad"
    good = config(server.url, tmp_path / "good", delivery="jetstream", flush_timeout=3)
    good.ident = "good"
    for counter in range(200):
        event_handler(lost, event(counter))
        event_handler(good, event(counter))
    status_handler(good, {"status": "successful"})
    status_handler(lost, {"status": "successful"})
    assert counters(bus.stream_messages()) == list(range(200))
    assert len((tmp_path / "lost/nats-undelivered.jsonl").read_text().splitlines()) == 201
    assert not list((tmp_path / "good").rglob("*.jsonl"))


def test_a_full_disk(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")
    code = f"""
import types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': 'nats://127.0.0.1:{free_port()}', 'pending_size': 20_000, 'flush_timeout': 0}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(disk)!r}, ident='r')
for n in range(1000):
    event_handler(config, {{'counter': n, 'uuid': 'u', 'stdout': 'x' * 500}})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code)
    assert done.returncode == 0
    assert "No space left on device" in done.stderr
    kept = [line for path in disk.glob("*.jsonl") for line in path.read_text().splitlines()]
    report = done.stderr.splitlines()[-1]
    lost = int(report.split(" LOST")[0].rsplit(" ", 1)[1])
    assert len(kept) + lost == 1001, report


def publish_until_stored(run: RunnerConfig, first: int) -> None:
    """A stream was made: some time messages are confirmed by it."""
    numbers = itertools.count(first)

    def is_stored() -> bool:
        event_handler(run, event(next(numbers)))
        known = report(run)
        assert known is not None
        return known["stored"] > 0

    wait_until(is_stored, "a message that the stream has stored")


def test_a_stream_that_is_made_while_a_run_goes_on(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """Within one session: nothing breaks that would make us ask."""
    server = start_server(jetstream=True)
    bus = connect(server).subscribe()
    run = config(server.url, tmp_path)
    event_handler(run, event(0))

    def is_routed() -> bool:
        known = report(run)
        assert known is not None
        return known["routed"] == 1

    # Until then it may still be found that there is a stream.
    wait_until(is_routed, "the echo to have proved it")
    bus.add_stream()
    publish_until_stored(run, 1)
    status_handler(run, {"status": "successful"})
    after = report(run)
    assert after is not None
    assert (after["delivery"], after["undelivered"], after["resent"]) == ("jetstream", 0, 0)
    assert after["stored"] < after["confirmed"] == after["accepted"]
    assert is_end(bus.stream_messages()[-1])


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_jetstream_that_is_turned_on_while_a_run_goes_on(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, how: str
) -> None:
    server = start_server()
    bus = connect(server).subscribe()
    run = config(server.url, tmp_path)
    event_handler(run, event(0))
    bus.wait_for(lambda messages: counters(messages) == [0])
    server.jetstream = True
    if how == "restart":
        server.restart()
    else:
        server.reload("")
    wait_until(lambda: made_a_stream(bus), "JetStream")
    publish_until_stored(run, 1)
    status_handler(run, {"status": "successful"})
    after = report(run)
    assert after is not None
    assert (after["delivery"], after["undelivered"], after["lost"]) == ("jetstream", 0, 0)
    assert is_end(bus.stream_messages()[-1])


def made_a_stream(bus: Bus) -> bool:
    with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
        bus.add_stream()
        return True
    return False


@pytest.mark.parametrize("name", ["RUNS", "OTHER"])
def test_the_expected_stream(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, name: str
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream("RUNS")
    run = config(server.url, tmp_path, stream=name)
    for counter in range(100):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    if name == "RUNS":
        assert counters(bus.stream_messages()) == list(range(100))
    else:
        assert bus.stream_count() == 0
        assert len((tmp_path / "nats-undelivered.jsonl").read_text().splitlines()) == 101


def test_pings_notice_a_silent_server_before_anything_is_sent(
    server: Server, bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(server.url, tmp_path, ping_interval=0.2, max_outstanding_pings=2, flush_timeout=0)
    event_handler(run, event(0))
    emitter = handlers._emitters[id(run)][1]
    bus.wait_for(lambda messages: len(messages) == 1)
    server.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: tell(emitter, caplog))
    finally:
        server.signal(signal.SIGCONT)
    status_handler(run, {"status": "successful"})


def tell(emitter: Any, caplog: pytest.LogCaptureFixture) -> bool:
    """Collect what the background has to say without giving it anything to send."""
    handlers._tell(emitter.notices())
    return any("lost: connection closed" in record.getMessage() for record in caplog.records)


def test_an_artifact_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file, where a directory belongs")
    code = f"""
import types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': 'nats://127.0.0.1:{free_port()}', 'pending_size': 20_000, 'flush_timeout': 0}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(tmp_path / "artifacts")!r}, ident='r')
for n in range(1000):
    event_handler(config, {{'counter': n, 'uuid': 'u'}})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code)
    assert done.returncode == 0
    assert "1001 LOST" in done.stderr.splitlines()[-1]
    assert "events are LOST" in done.stderr
    assert "File exists" in done.stderr
