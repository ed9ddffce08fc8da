"""What it takes to read: `runs`, `logs`, `serve` on a stream of a million events, and `watch` under load.

make bench-reading [READING_ARGS="--events 100000"]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
from ansible_runner_nats import event_handler, status_handler

BIN = Path(sys.executable).parent
OURS = str(BIN / "ansible-runner-nats")
#: Events of a run.
EACH = 500


class Config(SimpleNamespace):
    """A configuration object as ansible-runner makes one."""


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server with the stream that we recommend, and its address."""
    config = folder / "server.conf"
    lines = [
        'listen: "127.0.0.1:-1"',
        f'ports_file_dir: "{folder}"',
        f'jetstream {{ store_dir: "{folder}/js" }}',
        "",
    ]
    config.write_text("\n".join(lines))
    server = subprocess.Popen([BIN / "nats-server", "-c", config], stderr=subprocess.DEVNULL)
    while not (ports := list(folder.glob("*.ports"))) or not ports[0].read_text().strip():
        time.sleep(0.05)
    url = ports[0].read_text().split('"nats":["')[1].split('"')[0]
    subprocess.run([OURS, "stream", "create", "-s", url], check=True, stdout=subprocess.DEVNULL)
    return server, url


def config(url: str, ident: str) -> Config:
    """A run's."""
    settings = {"nats_subject_id": "site-a", "nats_options": {"servers": url, "flush_timeout": 60}}
    return Config(settings=settings, ident=ident)


def event(ident: str, counter: int) -> dict[str, Any]:
    """A small event of a run, with a line of output: ten hosts, one after the other."""
    task, host = divmod(counter, 10)
    data = {
        "playbook": "site.yml",
        "play": "P",
        "task": f"task {task}",
        "task_uuid": f"{ident}-{task}",
        "host": f"web{host}",
        "res": {"changed": True},
    }
    return {
        "created": datetime.now(timezone.utc).isoformat(),
        "counter": counter, "uuid": f"{ident}-{counter}", "runner_ident": ident, "event": "runner_on_ok",
        "stdout": f"changed: [web{host}] {counter}", "start_line": counter, "end_line": counter + 1,
        "event_data": data,
    }  # fmt: skip


def fill(url: str, events: int) -> None:
    """Publish so many events, run by run."""
    for number in range(events // EACH):
        ident = f"run-{number}"
        run = config(url, ident)
        status_handler(
            run, {"status": "starting", "runner_ident": ident, "command": ["ansible-playbook", "site.yml"]}
        )
        status_handler(run, {"status": "running", "runner_ident": ident})
        for counter in range(1, EACH + 1):
            event_handler(run, event(ident, counter))
        recap = {"ok": {f"web{number}": EACH // 10 for number in range(10)}}
        last = {**event(ident, EACH + 1), "event": "playbook_on_stats", "stdout": "", "event_data": recap}
        event_handler(run, last)
        status_handler(run, {"status": "successful", "runner_ident": ident})


def timed(*command: str) -> str:
    """What a command took: seconds in all and to its first line, lines printed, and its memory at most."""
    began = time.perf_counter()
    lines, first = 0, None
    with subprocess.Popen([OURS, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            first = first or time.perf_counter() - began
            lines += 1
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    seconds = time.perf_counter() - began
    to_first = f", the first after {first:.2f} s" if first else ""
    return f"{seconds:6.2f} s, {lines} lines{to_first}, {usage.ru_maxrss / 1000:.0f} MB"


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch_under_load(url: str, *, runs: int, rate: int, seconds: int) -> str:
    """`watch` on a terminal while runs publish: its share of a core, and whether it missed anything."""
    environment = {**os.environ, "TERM": "xterm-256color"}
    watch = pexpect.spawn(OURS, ["watch", "-s", url], env=environment, dimensions=(60, 200))
    time.sleep(2)
    drawn: list[tuple[float, bytes]] = []

    def drain() -> None:
        with contextlib.suppress(pexpect.EOF, OSError, ValueError):
            while True:
                with contextlib.suppress(pexpect.TIMEOUT):
                    drawn.append((time.perf_counter(), watch.read_nonblocking(1 << 20, timeout=1)))

    threading.Thread(target=drain, daemon=True).start()
    open_runs = [config(url, f"load-{number}") for number in range(runs)]
    before, began, sent = cpu_of(watch.pid or 0), time.perf_counter(), 0
    keys: list[float] = []
    while (passed := time.perf_counter() - began) < seconds:
        while sent < rate * (time.perf_counter() - began):
            number = sent % runs
            event_handler(open_runs[number], event(f"load-{number}", sent // runs + 1))
            sent += 1
        if passed > len(keys):
            keys.append(time.perf_counter())
            watch.send("j")
        time.sleep(0.002)
    share = (cpu_of(watch.pid or 0) - before) / passed
    for number, run in enumerate(open_runs):
        status_handler(run, {"status": "successful", "runner_ident": f"load-{number}"})
    time.sleep(2)
    answers = [min((at for at, _ in drawn if at > key), default=key + 99) - key for key in keys]
    slowest = max(answers)
    shown = b"".join(data for _, data in drawn)
    memory = Path(f"/proc/{watch.pid}/statm").read_text().split()[1]
    watch.close(force=True)
    missing = "nothing missing" if b"missing" not in shown else "events are MISSING"
    megabytes = int(memory) * os.sysconf("SC_PAGESIZE") / 1e6
    return (
        f"watch: {runs} runs at {sent / passed:,.0f} events/s: {share:.0%} of a core, {megabytes:.0f} MB, "
        f"keys answered within {slowest * 1000:.0f} ms, {missing}"
    )


def start_serve(url: str) -> tuple[subprocess.Popen[str], int]:
    """The page, and its port."""
    command = [OURS, "serve", "--listen", "127.0.0.1:0", "-s", url]
    serve = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert serve.stderr is not None
    return serve, int(serve.stderr.readline().strip().rstrip("/").rsplit(":", 1)[1])


def serve_history(url: str) -> str:
    """`serve` at its start: how long it reads, and how quick the page is meanwhile and then."""
    serve, port = start_serve(url)
    with serve:
        assert serve.stderr is not None
        said: list[str] = []
        reader = threading.Thread(target=said.extend, args=(serve.stderr,), daemon=True)
        reader.start()
        began, times = time.perf_counter(), []

        def look(path: str) -> float:
            before = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path)
            assert connection.getresponse().read()
            connection.close()
            return time.perf_counter() - before

        while not any(" read in " in line for line in said):
            times.append(look("/"))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        then = max(look("/") for _ in range(20))
        memory = (
            int(Path(f"/proc/{serve.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        )
        serve.terminate()
        reader.join()
    progress = sum("so far" in line for line in said)
    return (
        f"serve: all read in {seconds:.1f} s, progress told {progress} times, {memory:.0f} MB; "
        f"the page within {max(times) * 1000:.0f} ms meanwhile, {then * 1000:.0f} ms then"
    )


def main() -> None:
    """Fill a stream, read it, watch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ansible-runner-nats-reading-") as name:
        server, url = start_server(Path(name))
        try:
            began = time.perf_counter()
            fill(url, arguments.events)
            print(f"{arguments.events:,} events in {time.perf_counter() - began:.0f} s", flush=True)
            middle = f"run-{arguments.events // EACH // 2}"
            for command in (
                ["runs"],
                ["runs", "-n", "5"],
                ["logs", middle],
                ["logs", "--latest"],
                ["wait", middle],
                ["show", middle],
                ["compare", middle, "run-0"],
                ["grep", "] 250$"],
                ["stats", "hosts"],
                ["stats", "tasks"],
                ["stats", "playbooks"],
            ):
                print(f"{' '.join(command):24} {timed(*command, '-s', url)}", flush=True)
            print(serve_history(url), flush=True)
            print(watch_under_load(url, runs=300, rate=arguments.rate, seconds=15))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
