"""What `serve` takes while people look: 20 browsers on the page of a busy run, then on the list of runs.

Each does what the page's script does: it listens to `/api/events`, and when something has changed it looks,
once a second at most, and says which parts it has. make bench-page [PAGE_ARGS="--clients 50"]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import reading
from ansible_runner_nats import event_handler, status_handler

if TYPE_CHECKING:
    import subprocess

PART = re.compile(r'<\w+ id="([^"]*)"[^>]*data-version="([^"]*)"')


class Browser:
    """One that looks at a page."""

    def __init__(self, port: int, path: str) -> None:
        """Of the `serve` on this port."""
        self.port, self.path = port, path
        #: What it has, part by part.
        self.parts: dict[str, str] = {}
        self.bytes = self.looks = 0

    async def get(self, path: str, *headers: str) -> bytes:
        """What is there, unpacked."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.0", "Host: localhost", "Accept-Encoding: gzip", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        answer = await reader.read()
        writer.close()
        self.bytes += len(answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        return gzip.decompress(body) if b"gzip" in head else body

    async def look(self) -> None:
        """Bring the page up to date."""
        known = " ".join(f"{part}={version}" for part, version in self.parts.items())
        text = await self.get(self.path, *([f"Known-Parts: {known}"] if self.parts else []))
        self.parts.update(PART.findall(text.decode()))
        self.looks += 1

    async def listen(self, changed: asyncio.Event) -> None:
        """Hear what changes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
        with contextlib.closing(writer):
            while news := await reader.read(1 << 16):
                self.bytes += len(news)
                changed.set()

    async def stay(self, until: float) -> None:
        """Look until then, when something has changed."""
        await self.look()
        changed = asyncio.Event()
        listening = asyncio.create_task(self.listen(changed))
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), 5)
            changed.clear()
            await asyncio.sleep(1)
            await self.look()
        listening.cancel()


def publish(url: str, rate: int, stop: threading.Event) -> None:
    """A run that says something all the time."""
    run = reading.config(url, "busy")
    command = ["ansible-playbook", "site.yml"]
    status_handler(run, {"status": "starting", "runner_ident": "busy", "command": command})
    began, counter = time.monotonic(), 0
    while not stop.is_set():
        counter += 1
        event_handler(run, reading.event("busy", counter))
        time.sleep(max(0.0, began + counter / rate - time.monotonic()))
    status_handler(run, {"status": "successful", "runner_ident": "busy"})


async def watched(serve: subprocess.Popen[str], port: int, path: str, clients: int, seconds: float) -> str:
    """What it takes while so many look."""
    before, began = reading.cpu_of(serve.pid), time.monotonic()
    browsers = [Browser(port, path) for _ in range(clients)]
    await asyncio.gather(*(browser.stay(began + seconds) for browser in browsers))
    passed = time.monotonic() - began
    share = (reading.cpu_of(serve.pid) - before) / passed
    rate = sum(browser.bytes for browser in browsers) / passed / 1000
    looks = sum(browser.looks for browser in browsers) / passed
    return f"{share:.1%} of a core, {rate:.0f} kB/s for all of them, {looks:.0f} looks a second"


def main() -> None:
    """Fill a stream, serve, look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3_000)
    parser.add_argument("--rate", type=int, default=20, help="events a second of the busy run")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ansible-runner-nats-page-") as name:
        server, url = reading.start_server(Path(name))
        reading.fill(url, arguments.runs * reading.EACH)
        serve, port = reading.start_serve(url)
        assert serve.stderr is not None
        while " read in " not in serve.stderr.readline():
            pass
        threading.Thread(target=serve.stderr.read, daemon=True).start()
        stop = threading.Event()
        publisher = threading.Thread(target=publish, args=(url, arguments.rate, stop))
        publisher.start()
        try:
            time.sleep(2)
            for path in ("/runs/site-a/busy", "/"):
                began = time.perf_counter()
                first = asyncio.run(Browser(port, path).get(path))
                took = (time.perf_counter() - began) * 1000
                print(f"{path}: the first answer is {len(first) / 1000:.0f} kB, after {took:.1f} ms")
                found = watched(serve, port, path, arguments.clients, arguments.seconds)
                print(f"{path}: {arguments.clients} browsers: {asyncio.run(found)}", flush=True)
        finally:
            stop.set()
            publisher.join()
            for process in (serve, server):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
