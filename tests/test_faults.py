"""Nothing is lost: what production does to a connection, and where the messages are afterwards."""

from __future__ import annotations

import logging
import random
import re
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import QUICK, body, config, counters, event, free_port, is_end, python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Bus, Server


@pytest.mark.parametrize("delivery", ["auto", "core"])
def test_killed_and_restarted_three_times(
    tmp_path: Path,
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    caplog: pytest.LogCaptureFixture,
    delivery: str,
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    total = 20_000
    run = config(server.url, tmp_path / "artifacts", delivery=delivery)
    kills = sorted(chance.sample(range(total), 3))
    longest = 0.0
    restarting: list[threading.Thread] = []
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        for counter in range(total):
            if counter in kills:
                for thread in restarting:
                    thread.join()
                server.kill()
                restarting.append(threading.Thread(target=server.start))
                restarting[-1].start()
            began = time.perf_counter()
            event_handler(run, event(counter))
            longest = max(longest, time.perf_counter() - began)
            if counter % 10 == 0:
                # At full speed all would be queued before the first kill: about 4,000 a second.
                time.sleep(0.0025)
        for thread in restarting:
            thread.join()
        status_handler(run, {"status": "successful"})
    print(f"longest call {longest * 1e3:.1f} ms; {caplog.records[-1].getMessage()}")
    bus = connect(server)
    # `core` proves that all was routed: the stream may still be storing the last of it.
    wait_until(lambda: bus.stream_count() > total, "the stream to hold all")
    messages = bus.stream_messages()
    assert counters(messages) == list(range(total))
    assert is_end(messages[-1])


def test_stopped_and_continued(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    run = config(server.url, tmp_path / "artifacts")
    for counter in range(1000):
        event_handler(run, event(counter))
    server.signal(signal.SIGSTOP)
    for counter in range(1000, 2000):
        event_handler(run, event(counter))
    threading.Timer(10, server.signal, [signal.SIGCONT]).start()
    status_handler(run, {"status": "successful"})
    messages = connect(server).stream_messages()
    assert counters(messages) == list(range(2000))
    assert is_end(messages[-1])


def test_three_hundred_thousand_at_full_speed(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    total = 300_000
    run = config(server.url, tmp_path / "artifacts", flush_timeout=60)
    for counter in range(total):
        event_handler(run, {"counter": counter, "uuid": "u", "stdout": "x"})
    status_handler(run, {"status": "successful"})
    assert bus.stream_count() == total + 1


def test_there_three_seconds_later(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    server.kill()
    run = config(server.url, tmp_path / "artifacts")
    for counter in range(1000):
        event_handler(run, event(counter))
    threading.Timer(3, server.start).start()
    status_handler(run, {"status": "successful"})
    assert counters(connect(server).stream_messages()) == list(range(1000))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_memory_is_bounded_and_the_rest_comes_from_disk_in_order(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    server.kill()
    run = config(server.url, tmp_path / "artifacts", pending_size=100_000)
    for counter in range(5000):
        event_handler(run, event(counter))
    assert (tmp_path / "artifacts/nats-overflow.jsonl").stat().st_size > 4_000_000
    server.start()
    for counter in range(5000, 6000):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    messages = connect(server).stream_messages()
    assert counters(messages) == list(range(6000))
    assert is_end(messages[-1])
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("stop", [{"allow_reconnect": False}, {"max_reconnect_attempts": 1}])
def test_giving_up_keeps_everything(tmp_path: Path, stop: dict[str, Any]) -> None:
    """Even without an end state: the process's end finds what a courier without a thread still holds."""
    options = {**QUICK, "servers": f"nats://127.0.0.1:{free_port()}", **stop}
    code = f"""
import time, types
from ansible_runner_nats import event_handler
settings = {{'nats_subject_id': 'id', 'nats_options': {options!r}}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(tmp_path)!r})
for n in range(100):
    event_handler(config, {{'counter': n, 'uuid': 'u', 'runner_ident': 'r'}})
time.sleep(1)
"""
    done = python(code)
    assert "100 kept in" in done.stderr
    assert len((tmp_path / "nats-undelivered.jsonl").read_text().splitlines()) == 100


CHILDREN = """
import multiprocessing, os, types
from ansible_runner_nats import event_handler, status_handler

def work(name, config, ends):
    for n in range(100):
        event_handler(config, {'counter': n, 'uuid': 'u', 'runner_ident': name})
    if ends:
        status_handler(config, {'status': 'successful', 'runner_ident': name})

settings = {'nats_subject_id': 'id', 'nats_options': {'servers': URL}}
parent = types.SimpleNamespace(settings=settings)
event_handler(parent, {'counter': 0, 'uuid': 'u', 'runner_ident': 'parent'})
"""


def has(subject: str, count: int, messages: list[Msg]) -> bool:
    return [message.subject for message in messages].count(subject) >= count


FORKS = {
    # Inherits the run that its parent has begun, and leaves through os._exit.
    "multiprocessing": """
context = multiprocessing.get_context('fork')
children = [context.Process(target=work, args=(f'c{n}', parent, False)) for n in range(5)]
for child in children: child.start()
for child in children: child.join()
""",
    "fork": """
for n in range(5):
    if os.fork() == 0:
        work(f'c{n}', types.SimpleNamespace(settings=settings), True)
        os._exit(0)
for n in range(5): os.wait()
""",
}


@pytest.mark.parametrize("way", FORKS)
def test_forked_children(server: Server, bus: Bus, way: str) -> None:
    code = CHILDREN.replace("URL", repr(server.url)) + FORKS[way]
    code += "work('parent', parent, True)\n"
    done = python(code, env={"PYTHONWARNINGS": "ignore"})
    assert (done.returncode, done.stderr) == (0, "")
    for name, count in [(f"c{n}", 100) for n in range(5)] + [("parent", 101)]:
        subject = f"pub.ansible.runner.id.{name}.event"
        messages = bus.wait_for(partial(has, subject, count))
        numbers = [body(m)["counter"] for m in messages if m.subject == subject]
        assert numbers[-100:] == list(range(100))


@pytest.mark.parametrize("ident", ["r", 'quo"te', "back\\\\slash", "in\u200bvisible"])
def test_publishing_is_forbidden(tmp_path: Path, start_server: Callable[..., Server], ident: str) -> None:
    user = '{user: "me", password: "p", permissions: {publish: ["_INBOX.>"]}}'
    server = start_server(config=f"authorization {{ users: [ {user} ] }}")
    code = f"""
import types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': {server.url!r}, 'user': 'me', 'password': 'p', 'flush_timeout': 2}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(tmp_path)!r}, ident={ident!r})
for n in range(500):
    event_handler(config, {{'counter': n, 'uuid': 'u'}})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code)
    assert done.returncode == 0
    assert f"does not let this user publish to pub.ansible.runner.id.{ident}.event" in done.stderr
    assert "501 kept in" in done.stderr
    assert len((tmp_path / "nats-undelivered.jsonl").read_text().splitlines()) == 501


def test_the_inbox_is_forbidden(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    user = '{user: "me", password: "p", permissions: {publish: ["pub.>"], subscribe: ["none"]}}'
    tester = '{user: "tester", password: "t"}'
    server = start_server(
        config=f"authorization {{ users: [ {user}, {tester} ] }}",
        credentials={"user": "tester", "password": "t"},
    )
    bus = connect(server).subscribe()
    code = f"""
import types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': {server.url!r}, 'user': 'me', 'password': 'p'}}
config = types.SimpleNamespace(settings={{'nats_subject_id': 'id', 'nats_options': options}}, ident='r')
for n in range(500):
    event_handler(config, {{'counter': n, 'uuid': 'u'}})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code)
    assert counters(bus.wait_for_end()) == list(range(500))
    assert re.search("inbox.*nothing can be confirmed", done.stderr), done.stderr
    assert "501 sent without confirmation" in done.stderr


def test_a_full_stream(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(max_msgs=100, discard="new")
    run = config(server.url, tmp_path / "artifacts")
    for counter in range(300):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    assert counters(bus.stream_messages()) == list(range(100))
    kept = (tmp_path / "artifacts/nats-undelivered.jsonl").read_text().splitlines()
    assert len(kept) == 201


@pytest.mark.parametrize("delivery", ["jetstream", "auto"])
def test_a_stream_that_is_deleted(
    tmp_path: Path,
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    delivery: str,
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    run = config(server.url, tmp_path / "artifacts", delivery=delivery)
    event_handler(run, event(0))
    wait_until(lambda: bus.stream_count() == 1)
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.subscribe()
    for counter in range(1, 100):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    if delivery == "auto":
        assert sorted(set(counters(bus.wait_for_end()))) == list(range(1, 100))
        assert not list(tmp_path.rglob("*.jsonl"))
    else:
        kept = (tmp_path / "artifacts/nats-undelivered.jsonl").read_text().splitlines()
        assert len(kept) == 100


def test_an_oversize_event_is_cut_and_harms_nobody(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = config(server.url, tmp_path / "artifacts")
    event_handler(run, event(1))
    big = {**event(2), "stdout": "ü" * 3_000_000}
    event_handler(run, big)
    event_handler(run, event(3))
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert counters(messages) == [1, 2, 3]
    cut = messages[1]
    assert cut.headers is not None
    assert int(cut.headers["Ansible-Runner-Truncated"]) > 6_000_000
    assert re.search(r"\.\.\. \[\d+ bytes cut by ansible-runner-nats\]$", body(cut)["stdout"])
