"""Real parts for the tests: a NATS server, a subscriber, and private data directories for ansible-runner."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from nats.js.api import StreamConfig

import nats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

T = TypeVar("T")

#: How long anything that should happen may take on a busy machine.
PATIENCE = 30.0

#: A secret that must not be seen anywhere.
CANARY = "canary-4711"

#: A server with users, and the one that the tests' own client is.
USERS = 'authorization { users: [ {user: "me", password: "pä:ss"}, {user: "tester", password: "t"} ] }'
TESTER = {"user": "tester", "password": "t"}

#: The environment of a user whom :func:`me_with` knows.
ME = {"RUNNER_NATS_USERNAME": "me", "RUNNER_NATS_PASSWORD": "p"}

#: A run's settings that make failures fast.
QUICK = {"connect_timeout": 1, "reconnect_time_wait": 0.1, "flush_timeout": 1}


def me_with(permissions: str) -> str:
    """A server's configuration with a user who may do that and no more, and the tests' own client."""
    me = f'{{user: "me", password: "p", permissions: {permissions}}}'
    return f'authorization {{ users: [ {me}, {{user: "tester", password: "t"}} ] }}'


def bin_dir() -> Path:
    """Where this environment's programs are."""
    return Path(sys.executable).parent


def _ports() -> Iterator[int]:
    """Ports that the kernel gives to nobody by itself: a server that is away has its own when it comes back.

    Each worker of pytest-xdist has others, and begins anywhere: somebody else may run these tests, too.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    ports = range(10_000 + worker, 32_000, 16)
    first = random.randrange(len(ports))
    yield from itertools.cycle([*ports[first:], *ports[:first]])


_PORTS = _ports()


def free_port() -> int:
    """A port that nobody listens on, and nobody else takes meanwhile."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


def wait_until(condition: Callable[[], T], what: str = "the condition", patience: float = PATIENCE) -> T:
    """Wait for a condition that nothing announces."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    message = f"waited {patience} s for {what}"
    raise AssertionError(message)


@dataclass
class Server:
    """A nats-server process on a port and in a folder of its own."""

    folder: Path
    jetstream: bool = False
    #: More of the configuration file.
    config: str = ""
    #: What a client of the tests needs to get in.
    credentials: dict[str, Any] = field(default_factory=dict)
    #: Whether it speaks first; with `handshake_first` it waits for TLS.
    greets: bool = True
    host: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    def start(self) -> Server:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        config = self._configure()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [bin_dir() / "nats-server", "-c", config], stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, "nats-server to answer")
        return self

    def reload(self, config: str) -> None:
        """Change the configuration of the running server."""
        self.config = config
        self._configure()
        self.signal(signal.SIGHUP)

    def _configure(self) -> Path:
        config = self.folder / "server.conf"
        lines = [f'listen: "{self.host}:{self.port}"', f'server_name: "{self.folder.name}"', self.config]
        if self.jetstream:
            lines.append(f'jetstream {{ store_dir: "{self.folder / "js"}" }}')
        config.write_text("\n".join(lines))
        return config

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host.strip("[]"), self.port), 1) as sock,
        ):
            return not self.greets or sock.recv(4) == b"INFO"
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()


class Bus:
    """A NATS client of the tests, in a thread of its own, that can be called like any other object."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.received: list[Msg] = []
        self.arrived = threading.Condition()
        self.client: Client = self.run(nats.connect(url, max_reconnect_attempts=-1, **options))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def subscribe(self, subject: str = "pub.>") -> Bus:
        """Collect what comes on ``subject``; returns when the server knows."""

        async def collect(message: Msg) -> None:
            with self.arrived:
                self.received.append(message)
                self.arrived.notify_all()

        async def subscribe() -> None:
            await self.client.subscribe(subject, cb=collect, pending_bytes_limit=-1, pending_msgs_limit=-1)
            await self.client.flush()

        self.run(subscribe())
        return self

    def wait_for(self, enough: Callable[[list[Msg]], bool]) -> list[Msg]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: enough(self.received), PATIENCE), (
                f"got {len(self.received)} messages, last: {self.received[-1:]}"
            )
            return list(self.received)

    def wait_for_end(self, runs: int = 1) -> list[Msg]:
        """Everything up to the status that ends the run."""
        return self.wait_for(lambda messages: sum(map(is_end, messages)) >= runs)

    def add_stream(self, name: str = "RUNS", subjects: Iterable[str] = ("pub.>",), **config: Any) -> None:
        stream = StreamConfig(name=name, subjects=list(subjects), **config)
        self.run(self.client.jetstream(timeout=2).add_stream(stream))

    def send(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish something; the server has it when this returns."""

        async def send() -> None:
            await self.client.publish(subject, data, headers=headers)
            await self.client.flush()

        self.run(send())

    def send_all(self, subject: str, messages: Iterable[dict[str, Any]]) -> None:
        """Publish many as fast as a stream takes them, events with ids as in runs of ``id``.

        ``{runner_ident}`` in the subject is each message's own.
        """

        async def send() -> None:
            js = self.client.jetstream(timeout=PATIENCE)
            for number, message in enumerate(messages, 1):
                data = json.dumps(message).encode()
                place = subject.format(**message)
                own = [message.get(key) for key in ("runner_ident", "counter", "uuid")]
                headers = {"Nats-Msg-Id": "id.{}.{}.{}".format(*own)} if all(own) else None
                if number % 500 == 0:
                    # What comes too fast for a stream is lost.
                    await js.publish(place, data, headers=headers)
                else:
                    await self.client.publish(place, data, headers=headers)
            await self.client.flush()

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(PATIENCE * 4)

    def stream_count(self, name: str = "RUNS") -> int:
        info = self.run(self.client.jetstream(timeout=PATIENCE).stream_info(name))
        return info.state.messages

    def stream_subjects(self, name: str = "RUNS") -> dict[str, int]:
        """How many messages there are on each subject of a stream."""
        js = self.client.jetstream(timeout=PATIENCE)
        return dict(self.run(js.stream_info(name, subjects_filter=">")).state.subjects or {})

    def stream_messages(self, name: str = "RUNS", patience: float = PATIENCE) -> list[Msg]:
        """All messages of a stream, in its order; each comes within ``patience`` seconds."""
        count = self.stream_count(name)

        async def read() -> list[Msg]:
            messages: list[Msg] = []
            js = self.client.jetstream(timeout=patience)
            subscription = await js.subscribe(">", stream=name, ordered_consumer=True)
            while len(messages) < count:
                messages.append(await subscription.next_msg(patience))
            await subscription.unsubscribe()
            return messages

        return self.run(read()) if count else []

    def close(self) -> None:
        async def end() -> None:
            await self.client.close()
            # One that still waits for a server would be garbage with a warning.
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        with contextlib.suppress(Exception):
            self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


def body(message: Msg) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(message.data)
    return value


def is_end(message: Msg) -> bool:
    ends = ("successful", "failed", "canceled", "timeout", "error")
    return message.subject.endswith(".status") and body(message).get("status") in ends


def events_of(messages: Iterable[Msg]) -> list[dict[str, Any]]:
    return [body(message) for message in messages if message.subject.endswith(".event")]


def statuses_of(messages: Iterable[Msg]) -> list[Any]:
    return [body(message).get("status") for message in messages if message.subject.endswith(".status")]


def of_run(messages: Iterable[Msg], ident: str) -> list[Msg]:
    """The messages of this run, by the default subject and a subject id without dots."""
    return [message for message in messages if message.subject.split(".")[4] == ident]


def counters(messages: list[Any]) -> list[int]:
    return [data["counter"] for data in events_of(messages)]


def first_times(messages: list[Msg]) -> list[int]:
    """The counters in order of arrival, without the repeats that carry a known id."""
    seen: dict[str, int] = {}
    for message in messages:
        if message.subject.endswith(".event"):
            assert message.headers is not None
            seen.setdefault(message.headers["Nats-Msg-Id"], body(message)["counter"])
    return list(seen.values())


class RunnerConfig(SimpleNamespace):
    """Unlike its base class, but like ansible-runner's, one can be watched (``weakref``)."""


def config(url: str, artifact_dir: Path | None, **options: Any) -> RunnerConfig:
    """A configuration object as ansible-runner makes one."""
    options = {"servers": url, "reconnect_time_wait": 0.2, "flush_timeout": 20, **options}
    settings = {"nats_subject_id": "id", "nats_options": options}
    folder = None if artifact_dir is None else str(artifact_dir)
    return RunnerConfig(settings=settings, ident="r", artifact_dir=folder)


def event(counter: int) -> dict[str, Any]:
    return {"counter": counter, "uuid": f"u{counter}", "event": "verbose", "stdout": "x" * 1000}


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: say
      ansible.builtin.debug:
        msg: "héllo {{ item }}"
      loop: [1, 2, 3]
    - name: try
      block:
        - name: break
          ansible.builtin.command: "false"
      rescue:
        - name: mend
          ansible.builtin.command: "true"
"""


@dataclass
class Job:
    """A private data directory with a small playbook."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    playbook: str = PLAYBOOK

    def __post_init__(self) -> None:
        for name in ("project", "inventory", "env"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "project/play.yml").write_text(self.playbook)
        python = f"ansible_python_interpreter={sys.executable} ansible_connection=local"
        (self.folder / "inventory/hosts").write_text(f"one {python}\ntwo {python}\n")
        (self.folder / "env/settings").write_text(json.dumps(self.settings))

    def set_hosts(self, *names: str) -> None:
        """These hosts instead, all of them this one."""
        inventory = self.folder / "inventory/hosts"
        (one, *_) = inventory.read_text().splitlines()
        inventory.write_text("\n".join(one.replace("one ", f"{name} ", 1) for name in names))

    def events(self) -> list[dict[str, Any]]:
        """What the job wrote to ``job_events``, in order, of all its runs."""
        files = self.folder.glob("artifacts/**/job_events/*.json")
        events = [json.loads(path.read_text()) for path in files if not path.name.endswith("-partial.json")]
        return sorted(events, key=lambda event: event["counter"])

    def spilled(self) -> list[dict[str, Any]]:
        """The lines of all spill files below this folder."""
        files = sorted(self.folder.rglob("nats-*.jsonl"))
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    def copy(self, folder: Path) -> Job:
        shutil.copytree(self.folder, folder)
        return Job(folder, self.settings, self.playbook)


#: A run (`IDENT ARTIFACTS`), set up by the environment: of ident `killed`, it is once its event is confirmed.
RUN_OF_ONE_EVENT = """
import os, signal, sys, types
from ansible_runner_nats import event_handler, report, status_handler
ident = sys.argv[1]
config = types.SimpleNamespace(settings={}, ident=ident, artifact_dir=sys.argv[2] + '/' + ident)
event_handler(config, {'counter': 1, 'uuid': 'u1', 'event': 'verbose', 'runner_ident': ident})
while ident == 'killed':
    if report(config)['confirmed']:
        os.kill(os.getpid(), signal.SIGKILL)
status_handler(config, {'status': 'successful', 'runner_ident': ident})
"""


#: Set to a test's folder in the environment of all that it starts: how that is found again (on Linux).
MARK = "ANSIBLE_RUNNER_NATS_TEST"


def started_by(folder: Path) -> dict[int, str]:
    """The processes that the test with this folder has started and that still run, and what they are."""
    mark = f"{MARK}={folder}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        # Who has exited has no environment any more.
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def kill_started_by(folder: Path) -> None:
    """Kill whatever a test has started, however it was lost sight of."""
    for pid in started_by(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(pid: int) -> list[int]:
    """A process and all below it, whatever session they made themselves (Linux)."""
    below = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [pid, *(one for child in below for one in processes_of(child))]


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started, the youngest last: none can start another one."""
    for one in processes_of(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def cli(
    *args: str | Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The real ``ansible-runner`` command."""
    return subprocess.run(
        [bin_dir() / "ansible-runner", *args],
        env=clean_env(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE * 3,
        **options,
    )


def python(code: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs ``code``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean_env(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE * 3,
        **options,
    )


def temporary() -> Path:
    """What counts as the folder for temporary files.

    The tests' own folders are in the real one, and are to count as folders that last.
    """
    folder = Path(sys.prefix) / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


def clean_env(more: dict[str, str] | None) -> dict[str, str]:
    """This process's environment without options of ours."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    base["PATH"] = f"{bin_dir()}{os.pathsep}{base['PATH']}"
    base["TMPDIR"] = str(temporary())
    return {**base, **(more or {})}


def command(
    *args: str | Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Our own command, ``ansible-runner-nats``."""
    return subprocess.run(
        [bin_dir() / "ansible-runner-nats", *args],
        env=clean_env(env), capture_output=True, text=True, check=False, timeout=PATIENCE, **options,
    )  # fmt: skip


@contextlib.contextmanager
def talking_nonsense(reply: bytes | None) -> Iterator[int]:
    """A TCP server that is no NATS server: says ``reply`` and nothing more (``None``: nothing at all)."""
    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    sockets.append(connection)
                    if reply is not None:
                        connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    for connection in sockets:
        connection.close()
