"""The demo of `make demo`: a real playbook, a real nats-server, and `ansible-runner-nats watch`.

Starts a server on a free port, runs the playbook next to this file through ansible-runner with the plugin
enabled, lets `watch` print the messages as they arrive, and compares what came with what ansible-runner
counted itself. Exit status: 0 if every message arrived, 1 if not.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import nats

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
SUBJECT_ID = "demo"
IDENT = "rollout-42"
STARTUP_SECONDS = 15
GRACE_SECONDS = 1
END_STATES = ("successful", "failed", "canceled", "timeout", "error")


def paint(text: str, color: str) -> str:
    """Colour for terminals only (see https://no-color.org)."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{color}m{text}\x1b[0m"
    return text


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def prepare(folder: Path) -> None:
    """A private data directory for ansible-runner."""
    (folder / "project").mkdir(parents=True)
    (folder / "inventory").mkdir()
    shutil.copy(HERE / "project.yml", folder / "project/play.yml")
    groups = {"web": ["web1", "web2", "web3"], "db": ["db1"]}
    lines = [f"[{group}]\n" + "\n".join(hosts) for group, hosts in groups.items()]
    shared = [
        "ansible_connection=local",
        f"ansible_python_interpreter={sys.executable}",
        f"demo_dir={folder}",
    ]
    (folder / "inventory/hosts").write_text("\n".join([*lines, "[all:vars]", *shared, ""]))


async def connect(url: str) -> Client:
    """Connects as soon as the server is there."""

    async def not_yet(_: Exception) -> None:
        """The server needs a moment to start: no reason to print a traceback."""

    for _ in range(STARTUP_SECONDS * 10):
        with suppress(OSError, nats.errors.Error):
            return await nats.connect(url, allow_reconnect=False, error_cb=not_yet)
        await asyncio.sleep(0.1)
    message = f"no nats-server at {url} after {STARTUP_SECONDS} s"
    raise SystemExit(message)


async def watch(client: Client, job: asyncio.subprocess.Process) -> Counter[str]:
    """Counts what arrives until the run's last status, or until the job has ended without one."""
    inbox: asyncio.Queue[Msg] = asyncio.Queue()
    await client.subscribe(f"pub.ansible.runner.{SUBJECT_ID}.>", cb=inbox.put)
    await client.flush()
    received: Counter[str] = Counter()
    ended = asyncio.create_task(job.wait())
    while True:
        arriving = asyncio.create_task(inbox.get())
        await asyncio.wait({arriving, ended}, return_when=asyncio.FIRST_COMPLETED)
        # What was sent before the job ended may still be on its way.
        await asyncio.wait({arriving}, timeout=GRACE_SECONDS if ended.done() else None)
        if not arriving.done():
            return received
        message = arriving.result()
        received[message.subject.rsplit(".", 1)[1]] += 1
        data = json.loads(message.data)
        if message.subject.endswith(".status") and data["status"] in END_STATES:
            await ended
            return received


async def demo(folder: Path) -> int:
    """Runs it all; returns the exit status."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    job_folder = folder / "job"
    prepare(job_folder)
    server = await asyncio.create_subprocess_exec(
        BIN / "nats-server", "-a", "127.0.0.1", "-p", str(port), "-l", folder / "nats.log"
    )
    job = watcher = None
    try:
        client = await connect(url)
        subject = f"pub.ansible.runner.{SUBJECT_ID}.>"
        print(f"nats-server listens at {url}")
        print(f"$ ansible-runner-nats watch --plain --runs 1 -s {url} '{subject}'\n", flush=True)
        watcher = await asyncio.create_subprocess_exec(
            BIN / "ansible-runner-nats", "watch", "--plain", "--runs", "1", "-s", url, subject,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert watcher.stderr is not None
        await watcher.stderr.readline()  # it is connected
        # The subscription comes first: the job waits for one line on its standard input.
        job = await asyncio.create_subprocess_exec(
            "sh", "-c", 'read -r _; exec "$@"', "sh",
            BIN / "ansible-runner", "run", job_folder, "-p", "play.yml", "--ident", IDENT, "--quiet",
            stdin=subprocess.PIPE,
            env={
                **os.environ,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "RUNNER_NATS_SUBJECT_ID": SUBJECT_ID,
                "RUNNER_NATS_SERVERS": url,
                # The demo's folder goes with it: a service names one that lasts.
                "RUNNER_NATS_SPILL_DIR": str(folder / "spool"),
            },
        )  # fmt: skip
        watching = asyncio.create_task(watch(client, job))
        await asyncio.sleep(0)
        await client.flush()
        assert job.stdin is not None
        job.stdin.write(b"go\n")
        job.stdin.close()
        received = await watching
        await client.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(watcher.wait(), GRACE_SECONDS)
        return summary(job_folder, received, job.returncode)
    finally:
        for process in filter(None, (job, watcher, server)):
            if process.returncode is None:
                process.terminate()
                await process.wait()


def summary(job_folder: Path, received: Counter[str], job_status: int | None) -> int:
    """What was sent (as ansible-runner's own files tell), what came, what is missing."""
    sent = {
        "event": len(list(job_folder.glob(f"artifacts/{IDENT}/job_events/*.json"))),
        # `starting`, `running` and the end.
        "status": 3,
    }
    print(f"\n{'':12} {'sent':>6} {'received':>9} {'lost':>6}")
    lost = 0
    for kind, plural in (("event", "events"), ("status", "statuses")):
        missing = sent[kind] - received[kind]
        lost += abs(missing)
        print(f"{plural:12} {sent[kind]:>6} {received[kind]:>9} {missing:>6}")
    if job_status != 0:
        print(paint(f"the job ended with exit status {job_status}", "31"))
        return 1
    if lost or not sent["event"]:
        print(paint("not every message arrived", "31"))
        return 1
    print(paint("every message arrived", "32"))
    return 0


async def main() -> int:
    """Runs the demo in a folder that is gone afterwards; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix="ansible-runner-nats-demo-"))
    try:
        return await demo(folder)
    finally:
        # A playbook that was stopped may write a last file.
        for _ in range(3):
            shutil.rmtree(folder, ignore_errors=True)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except asyncio.CancelledError:
        print("\nstopped")
        sys.exit(130)
