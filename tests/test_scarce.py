"""Little memory, few descriptors, no further thread: the job goes on, and every message is accounted for."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support import QUICK, body, clean_env, events_of, free_port, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Bus, Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

#: What all jobs here begin with. Loaded is what a service has loaded long before resources run out.
BEGIN = """
import encodings.idna, json, os, re, resource, time, types
import ansible_runner_nats._native
from ansible_runner_nats import event_handler, report, status_handler
class Config(types.SimpleNamespace): pass
def config(ident):
    # In a project of its own: the next job would send what this one has left.
    settings = {'nats_subject_id': 'id', 'nats_options': {'servers': URL, **OPTIONS}}
    return Config(settings=settings, ident=ident, artifact_dir=os.path.join(FOLDER, ident, ident))
def limit(name, soft):
    resource.setrlimit(getattr(resource, name), (soft, resource.getrlimit(getattr(resource, name))[1]))
def event(ident, counter, stdout='x' * 1000):
    return {'counter': counter, 'uuid': 'u', 'runner_ident': ident, 'stdout': stdout}
def end(config):
    status_handler(config, {'status': 'successful', 'runner_ident': config.ident})
"""


def job(script: str, url: str, folder: Path, options: dict[str, Any], **values: object) -> str:
    names = {"URL": url, "FOLDER": str(folder), "OPTIONS": {**QUICK, **options}, **values}
    return re.sub(r"\b(" + "|".join(names) + r")\b", lambda name: repr(names[name[0]]), BEGIN + script)


def reports(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What the job, which is fine, printed about its runs."""
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for report in found:
        assert report["accepted"] == report["confirmed"] + report["undelivered"] + report["lost"], report
    return found


def kept(folder: Path) -> list[tuple[str, int]]:
    """What is on disk: run and counter; the status of its end has none."""
    lines = [line for path in folder.rglob("nats-*.jsonl") for line in path.read_text().splitlines()]
    return sorted(map(which, (json.loads(json.loads(line)["payload"]) for line in lines)))


def which(data: dict[str, Any]) -> tuple[str, int]:
    return data["runner_ident"], data.get("counter", -1)


MEMORY = """
job = config(str(ROOM))
events, left = [], (ROOM << 20) // 2 + (4 << 20)
long, short = 'x' * 100_000, 'x' * 1000
while left > 0:
    events.append(event(job.ident, len(events), short if len(events) % 100 else long))
    left -= len(events[-1]['stdout'])
todo = iter(events)
if BEGUN:
    event_handler(job, next(todo))
    time.sleep(0.3)
size = int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10
limit('RLIMIT_AS', size + (ROOM << 20) // 2)
for one in todo:
    event_handler(job, one)
end(job)
# Whoever looks at the outcome needs memory, too.
limit('RLIMIT_AS', resource.RLIM_INFINITY)
print(json.dumps([{**report(job), 'published': len(events) + 1}]))
"""


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("there", [False, True], ids=["away", "there"])
def test_little_memory(server: Server, bus: Bus, tmp_path: Path, *, there: bool, begun: bool) -> None:
    """The address space ends while the job publishes: the job goes on, and no message is unaccounted for."""
    url = server.url if there else f"nats://127.0.0.1:{free_port()}"
    # More than all events take: it is memory that is full, not the queue.
    options = {"pending_size": 64 << 20, "flush_timeout": 0.3}
    # In halves of a megabyte: with each limit another allocation is the first that fails.
    rooms = (0, 1, 2, 4, 7, 10, 24)
    scripts = {room: job(MEMORY, url, tmp_path, options, ROOM=room, BEGUN=begun) for room in rooms}
    jobs = {room: python(script) for room, script in scripts.items()}
    assert {room: done.stderr[-500:] for room, done in jobs.items() if done.returncode != 0} == {}
    found = {str(room): reports(done)[0] for room, done in jobs.items()}
    on_disk = {ident: kept(tmp_path / ident) for ident in found}
    for ident, report in found.items():
        assert report["accepted"] == report["published"]
        assert len(set(on_disk[ident])) == len(on_disk[ident]) == report["undelivered"]
    # What is kept may have arrived as well, and what was sent again comes twice: each message counts once.
    accounted = {one for some in on_disk.values() for one in some}
    looked_at = 0

    def are_all_accounted(messages: list[Msg]) -> bool:
        nonlocal looked_at
        accounted.update(which(body(message)) for message in messages[looked_at:])
        looked_at = len(messages)
        counts = Counter(ident for ident, _ in accounted)
        return all(counts[ident] >= one["accepted"] - one["lost"] for ident, one in found.items())

    bus.wait_for(are_all_accounted)


MANY = """
limit('RLIMIT_NOFILE', 1024)
jobs = [config(f'r{n}') for n in range(400)]
for counter in range(10):
    for job in jobs:
        event_handler(job, event(job.ident, counter))
    if counter == 0:
        # The background makes the files of runs that have begun.
        time.sleep(0.5)
free = []
try:
    while True:
        free.append(os.dup(0))
except OSError:
    for one in free:
        os.close(one)
for job in jobs:
    end(job)
print(json.dumps([{**report(job), 'free': len(free)} for job in jobs]))
"""


def test_descriptors_of_many_runs(tmp_path: Path) -> None:
    """An outage, and memory is full: what 400 runs hold open leaves the job enough for its own files."""
    options = {"pending_size": 10_000, "flush_timeout": 0}
    found = reports(python(job(MANY, f"nats://127.0.0.1:{free_port()}", tmp_path, options)))
    assert found[0]["free"] >= 100
    assert [report["lost"] for report in found] == [0] * 400
    assert kept(tmp_path) == sorted((f"r{n}", counter) for n in range(400) for counter in range(-1, 10))


FEW = """
limit('RLIMIT_NOFILE', 64)
job, held = config('r'), []
def leave(left):
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        for _ in range(left):
            os.close(held.pop())
if not BEGUN:
    leave(LEFT)
for counter in range(50):
    event_handler(job, event('r', counter))
# Whatever the background holds, it holds it now.
time.sleep(0.4)
if BEGUN:
    leave(LEFT)
end(job)
print(json.dumps([report(job)]))
"""


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
def test_few_descriptors(tmp_path: Path, *, full: bool, begun: bool) -> None:
    """What the end of a run has to write is not lost because we hold the last descriptors ourselves."""
    options = {"flush_timeout": 0.1, "pending_size": 10_000 if full else 1 << 20}
    # With none before the first message there is no way (test_no_way_out.py). What has overflown and what is
    # in memory may take a file each.
    least = 0 if begun else 1 + full
    found = {}
    # The kernel accepts for it, and it says nothing: the background holds a socket all the time.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        for left in range(least, 6):
            script = job(FEW, url, tmp_path / str(left), options, LEFT=left, BEGUN=begun)
            (report,) = reports(python(script))
            found[left] = (report["lost"], len(kept(tmp_path / str(left))))
    assert found == dict.fromkeys(range(least, 6), (0, 51))


NO_THREAD = """
if os.getuid() == 0:
    # The limit is not for root.
    os.setgid(65534); os.setuid(65534)
job = config('r')
event_handler(job, event('r', 0))
# The background thread is there, and its first look-up is over.
time.sleep(0.5)
before = resource.getrlimit(resource.RLIMIT_NPROC)[0]
limit('RLIMIT_NPROC', 1)
time.sleep(1.5)
for counter in range(1, 20):
    event_handler(job, event('r', counter))
print('limited', flush=True)
input()
limit('RLIMIT_NPROC', before)
end(job)
print(json.dumps([report(job)]))
"""


def test_no_thread_for_a_look_up(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    """A server's name cannot be looked up while no thread can be started: said as such, and tried again."""
    server = start_server()
    server.kill()
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.owner() != "root":
            break
        folder.chmod(folder.stat().st_mode | 0o011)
    script = job(NO_THREAD, f"nats://localhost:{server.port}", tmp_path, {"flush_timeout": 20})
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env({}),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "limited\n"
        server.start()
        bus = connect(server).subscribe()
        out, err = process.communicate("\n")
    (report,) = reports(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    assert "internal error" not in err
    assert re.search("thread.*name look-up|name look-up.*thread", err), err
    assert report["accepted"] == report["confirmed"] == 21
    assert [data["counter"] for data in events_of(bus.wait_for_end())] == list(range(20))
