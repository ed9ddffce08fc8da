"""One measurement a process, with whichever plugin is installed beside this interpreter.

``bench.py`` calls ``python worker.py NAME ARGUMENTS-AS-JSON`` and reads one JSON object from standard output.
All times are in seconds, all sizes in bytes.
"""

from __future__ import annotations

import collections
import functools
import json
import lzma
import os
import re
import statistics
import sys
import time
import types
from pathlib import Path
from secrets import token_hex
from typing import Any, Callable

CORPUS = Path(__file__).with_name("corpus.jsonl.xz")
#: The events that are measured, by the length of their JSON: all, those that jobs have every day, and small
#: ones alone (1.2 kB on average), of which there are few: each is taken many times.
SETS = {"all": (0, 1 << 30), "everyday": (0, 100_000), "small": (900, 1_700)}
#: Events of the corpus.
MANY = 250

clock = time.perf_counter


def lines(which: str = "all") -> list[str]:
    """The events of a set, one a line."""
    least, most = SETS[which]
    with lzma.open(CORPUS, "rt", encoding="utf-8") as file:
        found = [line for line in file if least <= len(line) <= most]
    return found * -(-MANY // len(found))


def fresh(corpus: list[str], rounds: int) -> list[dict[str, Any]]:
    """New dicts, as ansible-runner reads them: nothing of them is cached, no two have the same id."""
    events: list[dict[str, Any]] = []
    for number in range(rounds):
        for line in corpus:
            event = json.loads(line)
            # Whoever gives it another beginning has an id that no other event of the run has.
            event["uuid"] = f"{number:08x}{event['uuid'][8:24]}{len(events):012x}"
            events.append(event)
    return events


def summary(times: list[float]) -> dict[str, float]:
    """What the table shows of many times."""
    ordered = sorted(times)
    return {
        "mean": statistics.fmean(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[len(ordered) * 99 // 100],
        "max": ordered[-1],
    }


def clock_cost() -> float:
    """What two looks at the clock take."""
    return min(statistics.median([-(clock() - clock()) for _ in range(1000)]) for _ in range(5))


class Run:
    """A run of the installed plugin, as ansible-runner sees it."""

    def __init__(self, url: str, number: int = 0, secrets: int = 0, **options: Any) -> None:
        """Begin it, and give it time to connect; it is given so many secrets."""
        import ansible_runner_nats  # noqa: PLC0415 - its import is measured elsewhere

        self.plugin: Any = ansible_runner_nats
        self.old = ansible_runner_nats.__version__ == "0.4.0"
        self.ident = f"{os.getpid()}-{number}"
        ours = {"flush_timeout": 60, "pending_size": 1 << 31, **options}
        self.config = types.SimpleNamespace(
            settings={
                "nats_subject_id": "bench",
                "nats_options": {"servers": [url], **({} if self.old else ours)},
            },
            ident=self.ident,
            artifact_dir=os.environ["BENCH_FOLDER"],
            passwords={str(n): token_hex(10) for n in range(secrets)},
        )
        self.status("starting")
        if self.old:
            handlers = sys.modules["ansible_runner_nats.handlers"]
            self.thread = handlers.thread_registry[self.ident]
            service = handlers.service_registry[self.ident]
            while not service.client.is_connected:
                time.sleep(0.001)
        else:
            time.sleep(0.1)

    def status(self, status: str) -> None:
        """A change of the run's state."""
        self.plugin.status_handler(self.config, {"status": status, "runner_ident": self.ident})

    def prepare(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Make the events this run's."""
        for event in events:
            event["runner_ident"] = self.ident
        return events

    def finish(self) -> None:
        """End the run; 0.4.0 has sent what it will send when its thread has ended."""
        self.status("successful")
        if self.old:
            self.thread.join()


def encode(rounds: int, which: str) -> dict[str, float]:
    """What the encoder alone takes, beside `orjson.dumps` of equal dicts: the median of many turns."""
    import orjson  # noqa: PLC0415 - only here
    from ansible_runner_nats import _native  # noqa: PLC0415

    corpus = lines(which)
    functions: dict[str, Callable[[Any], Any]] = {"encode": _native.encode, "orjson": orjson.dumps}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        names = list(functions)
        for name in names[number % 2 :] + names[: number % 2]:
            events, function = fresh(corpus, 1), functions[name]
            before = clock()
            for event in events:
                function(event)
            times[name].append((clock() - before) / len(events))
    return {name: statistics.median(taken) for name, taken in times.items()}


def calls(url: str, rounds: int, *, idle: bool, which: str) -> dict[str, Any]:
    """What one call costs the job's thread, beside `json.dumps` and `orjson.dumps` of equal dicts.

    Idle: with a pause before each call, as in a real job; then whatever is called finds cold caches.
    """
    import orjson  # noqa: PLC0415 - only here

    run = Run(url)
    corpus = lines(which)
    functions: dict[str, Callable[[Any], Any]] = {
        "plugin": functools.partial(run.plugin.event_handler, run.config),
        "orjson": orjson.dumps,
        "json": json.dumps,
    }
    names = list(functions)
    times: dict[str, list[float]] = {name: [] for name in names}
    cost = clock_cost()
    for number in range(rounds):
        # Interleaved, each time in another order: whatever the machine does, it does to all of them.
        for name in names[number % 3 :] + names[: number % 3]:
            events = run.prepare(fresh(corpus, 1))
            taken, function = times[name], functions[name]
            for event in events:
                event["uuid"] = f"{number:08x}{event['uuid'][8:]}"
                if idle:
                    time.sleep(0.02)
                before = clock()
                function(event)
                taken.append(clock() - before - cost)
    run.finish()
    # What the caches make of bytes that are kept for a while, as they must be until the server has them. By
    # itself: it would spoil the caches of the others.
    kept: collections.deque[bytes] = collections.deque(maxlen=1500)
    taken = times["kept"] = []
    for _ in range(rounds):
        for event in run.prepare(fresh(corpus, 1)):
            if idle:
                time.sleep(0.02)
            before = clock()
            kept.append(orjson.dumps(event))
            taken.append(clock() - before - cost)
    return {name: summary(taken) for name, taken in times.items()}


def masking(url: str, rounds: int, which: str) -> dict[str, Any]:
    """What one call costs a run that was given secrets, beside one that was given none."""
    runs = {"without": Run(url), "with": Run(url, 1, secrets=12)}
    corpus = lines(which)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs)
        for name in names[number % 2 :] + names[: number % 2]:
            run, taken = runs[name], times[name]
            handler, config = run.plugin.event_handler, run.config
            for event in run.prepare(fresh(corpus, 1)):
                event["uuid"] = f"{number:08x}{event['uuid'][8:]}"
                before = clock()
                handler(config, event)
                taken.append(clock() - before)
    for run in runs.values():
        run.finish()
    return {name: summary(taken) for name, taken in times.items()}


def throughput(url: str, rounds: int, which: str, **options: Any) -> dict[str, float]:
    """As many events as possible, until all are confirmed.

    A few sets of the corpus again and again: an event that ansible-runner has just read is in the cache too,
    and so are the bytes that the plain Rust program sends.
    """
    run = Run(url, **options)
    events = run.prepare(fresh(lines(which), 4))
    handler, config = run.plugin.event_handler, run.config
    began, thread, process = clock(), time.thread_time(), time.process_time()
    for number in range(rounds):
        for event in events:
            event["uuid"] = f"{number:08x}{event['uuid'][8:]}"
            handler(config, event)
    accepted = clock()
    job = time.thread_time() - thread
    run.finish()
    ended = clock()
    in_all = time.process_time() - process
    return {
        "events": len(events) * rounds,
        "seconds": ended - began,
        "accepted": accepted - began,
        "job_cpu": job,
        "background_cpu": in_all - (time.thread_time() - thread),
    }


def end(url: str, rounds: int) -> dict[str, float]:
    """From the last event to the end of `status_handler('successful')`."""
    times = []
    for number in range(rounds):
        run = Run(url, number)
        for event in run.prepare(fresh(lines("everyday")[:20], 1)):
            time.sleep(0.002)
            run.plugin.event_handler(run.config, event)
        before = clock()
        run.finish()
        times.append(clock() - before)
    return summary(times)


def growth(url: str, sizes: list[int]) -> dict[str, Any]:
    """Cost of a call by the size of the event."""
    import orjson  # noqa: PLC0415 - only here

    run = Run(url)
    line = min(lines(), key=len)
    text = "2026-11-24T06:05:04.037Z INFO worker-7 handled /var/spool/7919 in 31 ms\n"
    cost = clock_cost()
    found: dict[str, Any] = {}
    for size in sizes:
        times, orjson_times, copies = [], [], []
        for number in range(max(60, min(3000, 60_000_000 // size))):
            event, twin = json.loads(line), json.loads(line)
            for data in (event, twin):
                data["stdout"] = (text * (size // len(text) + 1))[:size]
                data["uuid"] = f"{size}-{number}"
            before = clock()
            run.plugin.event_handler(run.config, event)
            middle = clock()
            orjson.dumps(twin)
            after = clock()
            times.append(middle - before - cost)
            orjson_times.append(after - middle - cost)
            # What the machine's caches make of it: the text alone, into new memory.
            whole = bytes(event["stdout"], "ascii")
            before = clock()
            bytearray(whole)
            copies.append(clock() - before - cost)
            if number % 20 == 0:
                time.sleep(0.01)
        found[str(size)] = {
            "plugin": summary(times),
            "orjson": summary(orjson_times),
            "copy": summary(copies),
        }
    run.finish()
    return found


def memory(field: str) -> int:
    """A figure of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def imports(url: str | None) -> dict[str, float]:
    """What `import ansible_runner` takes; with a server, and the first status of a run that is enabled."""
    before = clock()
    import ansible_runner  # noqa: F401, PLC0415

    seconds, size = clock() - before, memory("VmRSS")
    if url is None:
        return {"seconds": seconds, "memory": size}
    Run(url).finish()
    return {"seconds": seconds, "memory": memory("VmRSS")}


def queue(url: str, events: int) -> dict[str, float]:
    """How much the process grows with so many events that cannot be delivered."""
    limit = 64 << 20
    run = Run(url, pending_size=limit, flush_timeout=0.1)
    corpus = lines("everyday")
    before = memory("VmRSS")
    handler, config = run.plugin.event_handler, run.config
    size = 0
    for number in range(events):
        line = corpus[number % len(corpus)]
        size += len(line)
        event = json.loads(line)
        event["uuid"] = str(number)
        handler(config, event)
    grown = memory("VmHWM") - before
    run.finish()
    return {"grown": grown, "payload": size, "limit": limit}


def runs(url: str, count: int, events: int) -> dict[str, float]:
    """Many runs at once in one process."""
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    all_runs = [Run(url, number) for number in range(count)]
    corpus = lines("everyday")
    prepared = fresh(corpus, events // len(corpus) + 1)[:events]
    for number, event in enumerate(prepared):
        event["runner_ident"] = all_runs[number % count].ident
    began = clock()
    for number, event in enumerate(prepared):
        run = all_runs[number % count]
        run.plugin.event_handler(run.config, event)
    most = len(list(tasks.iterdir())) - before
    for run in all_runs:
        run.finish()
    return {
        "seconds": clock() - began,
        "events": len(prepared),
        "threads": most,
    }


def main() -> None:
    """Do one measurement."""
    name, arguments = sys.argv[1:]
    measure: dict[str, Callable[..., Any]] = {
        f.__name__: f for f in (encode, calls, masking, throughput, end, growth, imports, queue, runs)
    }
    print(json.dumps(measure[name](**json.loads(arguments))))


if __name__ == "__main__":
    main()
