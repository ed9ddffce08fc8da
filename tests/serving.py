"""A real `ansible-runner-nats serve`, and those who ask it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import pytest
from support import PATIENCE, bin_dir, clean_env, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from support import Server

#: Set by `.ci/run`, which installs all that tests can use: there nothing is skipped.
ALL_IS_THERE = "ANSIBLE_RUNNER_NATS_ALL_IS_THERE"


def needed(program: str) -> str:
    """A program of the distribution's; a test that needs it is skipped without it, and fails in CI."""
    found = shutil.which(program)
    if found is None:
        assert not os.environ.get(ALL_IS_THERE), f"{program} is not installed"
        pytest.skip(f"{program} is not installed")
    return found


def task(name: str, host: str = "h", *, ends: bool = True, **res: Any) -> list[dict[str, Any]]:
    """A task on a host, as ansible tells of it. `res`: its result; without an end the host is still at it."""
    data = {"playbook": "site.yml", "play": "P", "task": name, "task_uuid": f"uuid of {name}"}
    there = {**data, "host": host}
    event = "runner_on_failed" if res.pop("fails", False) else "runner_on_ok"
    begun: list[dict[str, Any]] = [
        {"event": "playbook_on_task_start", "event_data": data, "stdout": f"TASK [{name}]"},
        {"event": "runner_on_start", "event_data": there},
    ]
    end = {"event": event, "event_data": {**there, "res": res}, "stdout": f"{event}: [{host}]"}
    return [*begun, end] if ends else begun


def printing(count: int, first: int = 1) -> list[dict[str, Any]]:
    """Events that print a line each."""
    return [{"event": "verbose", "stdout": f"line {n}"} for n in range(first, first + count)]


@dataclass
class Answer:
    status: int
    headers: Message
    text: str


class Listener:
    """Somebody who listens to `/api/events`."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.file: IO[bytes] = self.socket.makefile("rb")
        assert b"200" in self.file.readline()
        while self.file.readline().startswith((b"retry", b"data")) is False:
            pass

    def next_event(self) -> dict[str, Any]:
        while True:
            line = self.file.readline()
            assert line, "the connection was closed"
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line[6:])
                return event

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Serve:
    """The command, on a port of its own."""

    def __init__(self, server: Server, *args: str, url: str | None = None) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        listen = () if "--listen" in args else ("--listen", "127.0.0.1:0")
        self.process = subprocess.Popen(
            [bin_dir() / "ansible-runner-nats", "serve", *listen, *args, "-s", url or server.url],
            env=clean_env(None), stdout=subprocess.DEVNULL, stderr=self.errors,
        )  # fmt: skip
        self.port = 0

    def __enter__(self) -> Serve:  # noqa: PYI034 - Python 3.9 has no Self
        wait_until(lambda: self._says("serving on http://.*/\n"), "the address")
        self.port = int(re.findall(r"serving on http://\S+:(\d+)/", self.said())[0])
        wait_until(lambda: self._says(" read in |from now on"), "its history")
        return self

    def _says(self, pattern: str) -> bool:
        found = re.search(pattern, self.said()) is not None
        assert found or self.process.poll() is None, self.said()
        return found

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        self.errors.close()

    def said(self) -> str:
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode()

    def end(self, number: signal.Signals) -> int:
        """The exit status after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def memory(self) -> int:
        """Bytes in memory."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:  # noqa: PTH123
            found = re.search(r"VmRSS:\s+(\d+) kB", file.read())
        assert found is not None
        return int(found[1]) * 1024

    def request(self, method: str, path: str, body: bytes = b"", **headers: Any) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": "localhost", **headers}.items():
                connection.putheader(name, value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            # What never ends is not read.
            is_endless = answer.headers.get("Content-Type") == "text/event-stream"
            data = b"" if is_endless else answer.read()
            is_packed = answer.headers.get("Content-Encoding") == "gzip"
            text = (gzip.decompress(data) if is_packed else data).decode()
            return Answer(answer.status, answer.headers, text)
        finally:
            connection.close()

    def get(self, path: str, **headers: Any) -> Answer:
        return self.request("GET", path, **headers)

    def raw(self, request: bytes) -> int | None:
        """The status that something else than a request gets; `None`: the connection is closed."""
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        with sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request)
            found = re.match(rb"HTTP/1.1 (\d+)", sock.recv(4096))
            return int(found[1]) if found else None
        return None

    def raw_bytes(self, path: str, headers: str) -> bytes:
        """An answer as it comes, head and all."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
            sock.sendall(head.encode())
            answer = b""
            while piece := sock.recv(1 << 16):
                answer += piece
            return answer

    def json(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status == 200, answer
        return json.loads(answer.text)

    def wait_for_run(self, ident: str, state: str) -> list[dict[str, Any]]:
        """All runs, when this one is in this state."""

        def runs() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.json("/api/runs")
            is_there = any(run["runner_ident"] == ident and run["state"] == state for run in found)
            return found if is_there else []

        return wait_until(runs, f"{ident} to be {state}")

    def address(self, ident: str) -> str:
        """The address of a run's page, as the list has it."""
        found = re.search(rf'href="(/runs/[^"]*/{re.escape(ident)}/[^"]*)"', self.get("/").text)
        assert found is not None
        return found[1]

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        listener = Listener(self.port)
        try:
            yield listener
        finally:
            listener.close()
