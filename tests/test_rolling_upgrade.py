"""docs/rolling-upgrade.md: what other versions have left, and a process that lives across an upgrade."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Bus, Server, clean_env, command, counters, of_run, wait_until
from test_spool import leave, run_once, undelivered

if TYPE_CHECKING:
    from collections.abc import Callable

Record = dict[str, Any]

COUNT = 5


def of_the_first_version(record: Record) -> Record:
    """Without all that came later."""
    later = ("run_id", "card", "pid_namespace", "streams", "unheard", "recovered", "stored", "routed")
    return {**{name: value for name, value in record.items() if name not in later}, "version": 1}


def with_more_in_it(record: Record) -> Record:
    """Of a newer version that an older one can read."""
    more = {"plugin": "9.0.0", "colour": "green", "later": {"list": [1, 2]}}
    return {**record, **more}


def of_another_format(record: Record) -> Record:
    return {**record, "version": record["version"] + 1, "plugin": "9.0.0"}


def left_by(change: Callable[[Record], Record], server: Server, spool: Path, artifacts: Path) -> Path:
    """What a run of another version has left; its record."""
    server.kill()
    leave(server, spool, "other", COUNT, artifacts)
    (path,) = spool.glob("*/nats-run.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    server.start()
    return path


def is_left_alone(server: Server, bus: Bus, spool: Path, artifacts: Path) -> None:
    """A run takes up what is behind it in the spool, and not that."""
    server.kill()
    leave(server, spool, "same", COUNT, artifacts)
    server.start()
    run_once(server, spool, "ours", artifacts)
    wait_until(lambda: len(undelivered(spool)) == 1, "the rest of the spool to be sent")
    messages = bus.stream_messages()
    assert counters(of_run(messages, "same")) == list(range(COUNT))
    assert of_run(messages, "other") == []


@pytest.mark.parametrize("change", [of_the_first_version, with_more_in_it])
def test_what_another_version_left_is_taken_up(
    stored: tuple[Server, Bus], tmp_path: Path, change: Callable[[Record], Record]
) -> None:
    server, bus = stored
    spool = tmp_path / "spool"
    left_by(change, server, spool, tmp_path)
    run_once(server, spool, "ours", tmp_path)
    wait_until(lambda: undelivered(spool) == [], "the spool to be empty")
    assert counters(of_run(bus.stream_messages(), "other")) == list(range(COUNT))


def test_a_record_of_a_newer_format_is_left_alone(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    spool = tmp_path / "spool"
    path = left_by(of_another_format, server, spool, tmp_path)
    before = path.read_text()
    is_left_alone(server, bus, spool, tmp_path)
    assert path.read_text() == before
    done = command("replay", spool, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, "of a newer version" in done.stderr) == (1, True), done.stderr
    assert path.read_text() == before


def on_another_host(record: Record) -> Record:
    return {**record, "host": "other.example"}


def to_other_servers(record: Record) -> Record:
    servers = ["nats://elsewhere:4222", *record["destination"]["servers"]]
    return {**record, "destination": {**record["destination"], "servers": servers}}


def of_another_login(record: Record) -> Record:
    return {**record, "destination": {**record["destination"], "login": "user other"}}


@pytest.mark.parametrize(
    ("change", "more"),
    [(on_another_host, []), (to_other_servers, ["--elsewhere"]), (of_another_login, ["--elsewhere"])],
)
def test_what_strands_a_spool(
    stored: tuple[Server, Bus], tmp_path: Path, change: Callable[[Record], Record], more: list[str]
) -> None:
    """No run takes it up; a person sends it."""
    server, bus = stored
    spool = tmp_path / "spool"
    left_by(change, server, spool, tmp_path)
    is_left_alone(server, bus, spool, tmp_path)
    done = command("replay", spool, *more, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    assert counters(of_run(bus.stream_messages(), "other")) == list(range(COUNT))


#: Runs a job for each line that it reads, and says when it is done.
SERVICE = """
import sys, types
sys.path.insert(0, sys.argv[1])
import ansible_runner_nats
assert ansible_runner_nats.__file__.startswith(sys.argv[1])
for line in sys.stdin:
    ident = line.strip()
    settings = {'nats_subject_id': 'id', 'nats_options': {'servers': sys.argv[2]}}
    config = types.SimpleNamespace(settings=settings, ident=ident, artifact_dir=None)
    ansible_runner_nats.status_handler(config, {'status': 'starting'})
    for counter in range(5):
        ansible_runner_nats.event_handler(config, {'counter': counter, 'uuid': 'u', 'event': 'verbose'})
    ansible_runner_nats.status_handler(config, {'status': 'successful'})
    print('ran', ident, flush=True)
"""


class Service:
    """A process that runs jobs, with an installation of the plugin of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.package = folder / "site/ansible_runner_nats"
        self.installed = importlib.util.find_spec("ansible_runner_nats")
        self.install()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, self.package.parent, url],
            env=clean_env(None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def install(self) -> None:
        """As pip does it: what is there goes, and new files take its place."""
        shutil.rmtree(self.package, ignore_errors=True)
        assert self.installed is not None
        assert self.installed.origin is not None
        shutil.copytree(Path(self.installed.origin).parent, self.package)

    def run(self, ident: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(ident, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == f"ran {ident}\n"

    def end(self) -> str:
        _, errors = self.process.communicate()
        assert self.process.returncode == 0
        return errors


def test_a_service_that_has_published_goes_on(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    service = Service(tmp_path, server.url)
    service.run("before")
    service.install()
    # What is on the disk now would not do; what is loaded does.
    for library in service.package.glob("_native*.so"):
        library.write_bytes(b"not a library")
    service.run("after")
    assert service.end() == ""
    messages = bus.stream_messages()
    assert counters(of_run(messages, "before")) == counters(of_run(messages, "after")) == list(range(COUNT))


def test_a_service_that_has_not_may_find_another_library(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    service = Service(tmp_path, server.url)
    for library in service.package.glob("_native*.so"):
        library.unlink()
    (service.package / "_native.py").write_text(
        "SHELTER, forked = 'nats-spool', print\nclass Emitter: pass\n"
    )
    service.run("first")
    errors = service.end()
    assert "internal error: TypeError" in errors
    assert bus.stream_count() == 0
