from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from proxy import Proxy
from support import MARK, PATIENCE, Bus, Server, clean_env, kill_started_by, started_by, temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the developer has set is no part of a test, and it takes away every process that it started."""
    for name in list(os.environ):
        if name.startswith("RUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", clean_env({})["PATH"])
    # After pytest has made its own folder.
    monkeypatch.setattr("tempfile.tempdir", str(temporary()))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(tmp_path / "ansible-tmp"))
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    deadline = time.monotonic() + PATIENCE
    while (running := started_by(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_started_by(tmp_path)
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


@pytest.fixture
def proxied(start_server: Callable[..., Server]) -> Iterator[tuple[Server, Proxy]]:
    server = start_server(jetstream=True)
    proxy = Proxy(server.port)
    yield server, proxy
    proxy.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A folder of a file system that is as large as one says."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
        if done.returncode:
            pytest.skip("only root may mount, and not everywhere")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def stored(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> tuple[Server, Bus]:
    """A server with a stream that takes all our messages."""
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    return server, bus
