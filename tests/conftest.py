from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import PATIENCE, Bus, Server, clean_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


#: Set in the environment of everything that a test starts: how it is found again (on Linux).
MARK = "ANSIBLE_RUNNER_NATS_TEST"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the developer has set is no part of a test, and it takes away every process that it started."""
    for name in list(os.environ):
        if name.startswith("RUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", clean_env({})["PATH"])
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(tmp_path / "ansible-tmp"))
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    mark = f"{MARK}={tmp_path}".encode()

    def left() -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Who has exited has no environment any more.
                if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    deadline = time.monotonic() + PATIENCE
    while (running := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert running == {}


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**options: object) -> Server:
        server = Server(tmp_path / f"nats-{len(servers)}", **options)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """A plain server."""
    return start_server()


@pytest.fixture
def connect() -> Iterator[Callable[..., Bus]]:
    buses: list[Bus] = []

    def connect(server: Server) -> Bus:
        bus = Bus(server.url, **server.credentials)
        buses.append(bus)
        return bus

    yield connect
    for bus in buses:
        bus.close()


@pytest.fixture
def bus(server: Server, connect: Callable[..., Bus]) -> Bus:
    """A subscriber to everything on the plain server."""
    return connect(server).subscribe()
