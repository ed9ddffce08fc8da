"""The benchmark of ``make bench``: one table, everything measured in the same run on the same events.

Ours (the release wheel) beside 0.4.0, `json.dumps`, `orjson.dumps` and a plain Rust program on async-nats,
each plugin in a virtual environment of its own. Ratios are what counts: times depend on the machine. Writes
``target/bench.json``; ``--compare FILE`` shows what became of the figures of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = ROOT / ".cache/bench"
RESULT = ROOT / "target/bench.json"
BIN = Path(sys.executable).parent
#: Beside the plugin every environment has the same packages: what `import` finds is the same.
BASE = ("ansible-core", "ansible-runner", "nats-py", "orjson")
PIP = ("-m", "pip", "install", "-q")
#: How often what an import takes is measured: little, beside what the machine varies by.
IMPORTS = 41
#: Sets of events (`worker.SETS`), and what they are called here.
SETS = {"small": "1.2 kB", "everyday": "everyday", "all": "all"}


@dataclass
class Row:
    """A line of the table."""

    name: str
    ours: float
    other: float | None = None
    #: What `other` is.
    beside: str = ""
    unit: str = ""
    ratio: float | None = None
    #: `<=` or `>=`, and the bound.
    target: tuple[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; it is about the ratio, or about our own figure where there is none."""
        if self.target is None:
            return None
        value = self.ours if self.ratio is None else self.ratio
        return value <= self.target[1] if self.target[0] == "<=" else value >= self.target[1]


@dataclass
class Bench:
    """The environments, and the rows so far."""

    wheel: Path
    rounds: int
    folder: Path
    pythons: dict[str, Path] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the environments that are missing, and put the wheel into ours."""
        for name, more in {"none": (), "old": ("ansible-runner-nats==0.4.0",), "ours": ()}.items():
            home = CACHE / name
            self.pythons[name] = home / "bin/python"
            if not (home / "complete").exists():
                venv.create(home, with_pip=True, clear=True)
                subprocess.run([str(self.pythons[name]), *PIP, *BASE, *more], check=True)
                (home / "complete").touch()
        install = [*PIP, "--no-deps", "--force-reinstall", str(self.wheel)]
        subprocess.run([str(self.pythons["ours"]), *install], check=True)

    def measure(self, who: str, name: str, **arguments: Any) -> Any:
        """One measurement in a process of its own."""
        done = subprocess.run(
            [self.pythons[who], HERE / "worker.py", name, json.dumps(arguments)],
            env={**os.environ, "BENCH_FOLDER": str(self.folder)},
            stdout=subprocess.PIPE,
            # What 0.4.0 leaves behind at its end.
            stderr=subprocess.DEVNULL if who == "old" else None,
            check=True,
        )
        found = json.loads(done.stdout)
        self.raw.setdefault(name, []).append({"who": who, **arguments, "found": found})
        return found

    def add(self, row: Row) -> None:
        """Keep a row, and say that there is one."""
        self.rows.append(row)
        print(f"  {show(row)}", flush=True)

    def ratio(
        self, name: str, ours: float, other: float, beside: str, target: Any = None, **more: Any
    ) -> None:
        """Ours against another, such that `target` reads as in the issue."""
        value = other / ours if more.pop("inverse", False) else ours / other
        self.add(Row(name, ours, other, beside, ratio=value, target=target, **more))


@contextmanager
def nats_server(folder: Path, *, stream: bool) -> Iterator[str]:
    """A server of our own on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    store = Path(tempfile.mkdtemp(dir=folder))
    command = [str(BIN / "nats-server"), "-a", "127.0.0.1", "-p", str(port)]
    if stream:
        command += ["-js", "-sd", str(store)]
    with (
        (folder / "server.log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            for _ in range(500):
                time.sleep(0.02)
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
            if stream:
                make = "import asyncio,nats,sys\nasync def main():\n c = await nats.connect(sys.argv[1])\n"
                make += " await c.jetstream().add_stream(name='RUNS', subjects=['pub.>'])\n await c.close()\n"
                url = f"nats://127.0.0.1:{port}"
                subprocess.run([sys.executable, "-c", make + "asyncio.run(main())", url], check=True)
            # With no stream nobody listens here, and `auto` would wait for somebody.
            os.environ["RUNNER_NATS_DELIVERY"] = "auto" if stream else "core"
            yield f"nats://127.0.0.1:{port}"
        finally:
            os.environ.pop("RUNNER_NATS_DELIVERY", None)
            server.kill()
            server.wait()
            shutil.rmtree(store)


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ item }} is fine"
      loop: "{{ range(990) | list }}"
"""

JOB = """
import resource, sys, time, ansible_runner
folder, url = sys.argv[1:]
settings = {'nats_subject_id': 'bench', 'nats_options': {'servers': [url]}}
began = time.perf_counter()
run = ansible_runner.run(private_data_dir=folder, playbook='play.yml', settings=settings, quiet=True)
assert run.status == 'successful'
wall = time.perf_counter() - began
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(wall, sum(one.ru_utime + one.ru_stime for one in used), len(list(run.events)))
"""


def bench_job(bench: Bench) -> None:
    """The wall time of a real job, with and without the plugin, in turns."""
    times: dict[str, list[float]] = {"none": [], "ours": [], "old": []}
    cpu: dict[str, list[float]] = {name: [] for name in times}
    events = 0
    with nats_server(bench.folder, stream=True) as url:
        for turn in range(2 * bench.rounds + 1):
            order = list(times)
            for who in order[turn % 3 :] + order[: turn % 3]:
                python = bench.pythons[who]
                folder = Path(tempfile.mkdtemp(dir=bench.folder))
                (folder / "project").mkdir()
                (folder / "inventory").mkdir()
                (folder / "project/play.yml").write_text(PLAYBOOK)
                (folder / "inventory/hosts").write_text(
                    "".join(f"{host} ansible_connection=local\n" for host in ("one", "two"))
                )
                env = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
                done = subprocess.run(
                    [python, "-c", JOB, folder, url], env=env, stdout=subprocess.PIPE, check=True
                )
                seconds, used, count = done.stdout.split()
                times[who].append(float(seconds))
                cpu[who].append(float(used))
                events = int(count)
                shutil.rmtree(folder)
    bench.raw["job"] = {"events": events, **times, "cpu": cpu}
    # Pairs of neighbours: what the machine does slowly, it does to both.
    for who, label, target in (("ours", "ours", ("<=", 1.01)), ("old", "0.4.0", None)):
        ratio = statistics.median(a / b for a, b in zip(times[who], times["none"]))
        mine, other = statistics.median(times[who]), statistics.median(times["none"])
        name = f"wall time of a job of {events} events, {label}"
        bench.add(Row(name, mine, other, "without", "s", ratio, target))
        # Of ansible-runner and all that it started: less at the mercy of the machine than the wall clock.
        mine, other = statistics.median(cpu[who]), statistics.median(cpu["none"])
        bench.add(Row(f"CPU of that job, {label}", mine, other, "without", "s", mine / other))


def bench_end(bench: Bench) -> None:
    """How long the end of a run takes."""
    for kind in ("core", "jetstream"):
        with nats_server(bench.folder, stream=kind == "jetstream") as url:
            found = bench.measure("ours", "end", url=url, rounds=100)
        bench.add(Row(f"end of the run, {kind}: p50", found["p50"], unit="ms", target=("<=", 0.002)))
        bench.add(Row(f"end of the run, {kind}: p99", found["p99"], unit="ms"))


def median_of(bench: Bench, who: str, times: int, **arguments: Any) -> dict[str, float]:
    """The run of `throughput` with the median rate."""
    found = [bench.measure(who, "throughput", **arguments) for _ in range(times)]
    median: dict[str, float] = sorted(found, key=lambda one: one["seconds"])[times // 2]
    return {**median, "rate": median["events"] / median["seconds"]}


def plain(bench: Bench, url: str, which: str, rounds: int, *more: str) -> tuple[float, float]:
    """Events per second of the plain Rust program, and the CPU seconds that one takes."""
    rates, cpu = [], []
    for _ in range(3):
        found = run_plain(bench, url, which, rounds, *more)
        rates.append(float(found["events"] / found["seconds"]))
        cpu.append(float(found["background_cpu"] / found["events"]))
    bench.raw.setdefault("plain", []).append({"which": which, "rates": rates, "cpu": cpu})
    return statistics.median(rates), statistics.median(cpu)


def run_plain(bench: Bench, url: str, which: str, rounds: int, *more: str) -> dict[str, float]:
    """What the plain Rust program says of one go."""
    text = bench.folder / "plain.jsonl"
    least, most = worker.SETS[which]
    with lzma.open(HERE / "corpus.jsonl.xz", "rt", encoding="utf-8") as corpus:
        text.write_text("".join(line for line in corpus if least <= len(line) <= most))
    command = [str(ROOT / "target/release/examples/plain"), url, str(text), str(rounds), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def bench_throughput(bench: Bench) -> None:
    """Events per second until confirmed, and the CPU that they cost."""
    targets = {"core": {"small": 12, "everyday": 12}, "jetstream": {"small": 6, "everyday": 8}}
    for which, events in SETS.items():
        rounds = bench.rounds * (1 if which == "all" else 10)
        arguments = {"which": which, "rounds": rounds}
        slow = {"which": which, "rounds": max(1, rounds // 10)}
        with nats_server(bench.folder, stream=False) as url:
            core = median_of(bench, "ours", 3, url=url, **arguments)
            # As many events, whatever the set: its CPU time is counted in hundredths of a second.
            bare, bare_cpu = plain(bench, url, which, rounds * (60 if which == "small" else 4))
            old = median_of(bench, "old", 3, url=url, **slow)
        with nats_server(bench.folder, stream=True) as url:
            stored = median_of(bench, "ours", 3, url=url, **arguments)
            most, _ = plain(bench, url, which, max(1, rounds // 2), "stored")
        for kind, run in (("core", core), ("jetstream", stored)):
            target = targets[kind].get(which)
            name = f"confirmed, {kind}, {events} events"
            beside = "0.4.0"
            bench.ratio(name, run["rate"], old["rate"], beside, target and (">=", target), unit="k/s")
        bench.ratio(f"confirmed, core, {events} events", core["rate"], bare, "plain async-nats", unit="k/s")
        name = f"confirmed, jetstream, {events} events"
        bench.ratio(name, stored["rate"], most, "plain async-nats", unit="k/s")
        for thread in ("job", "background"):
            for kind, run in (("core", core), ("jetstream", stored)):
                mine = run[f"{thread}_cpu"] / run["events"]
                other = old[f"{thread}_cpu"] / old["events"]
                name = f"CPU per event, {kind}, {events} events: {thread}"
                target = 25 if thread == "background" and which != "all" else None
                bench.ratio(name, mine, other, "0.4.0", target and (">=", target), unit="µs", inverse=True)
        mine = core["background_cpu"] / core["events"]
        name = f"CPU per event, core, {events} events: background"
        bench.ratio(name, mine, bare_cpu, "plain async-nats", unit="µs")


def bench_limit(bench: Bench) -> None:
    """What this machine could do at most: the proof where events per second miss their target.

    As if `orjson` encoded, at its best, the plain program sent, nothing else cost anything, and both cores
    never rested: by the CPU of these and of the server.
    """
    for which in ("small", "everyday"):
        slow = {"which": which, "rounds": max(1, bench.rounds // 2)}
        with nats_server(bench.folder, stream=False) as url:
            old = median_of(bench, "old", 3, url=url, **slow)
        encoding = bench.measure("ours", "encode", rounds=bench.rounds * 8, which=which)["orjson"]
        for kind, more, events in (("core", (), 600_000), ("jetstream", ("stored",), 200_000)):
            with nats_server(bench.folder, stream=bool(more)) as url:
                before = children_cpu()
                sent = run_plain(bench, url, which, -(-events // len(worker.lines(which))), *more)["events"]
            used = encoding + (children_cpu() - before) / sent
            most = min(2, os.cpu_count() or 1) / used
            name = f"the most that two cores can do, {kind}, {SETS[which]} events"
            bench.ratio(name, most, old["rate"], "0.4.0", unit="k/s")


def children_cpu() -> float:
    """CPU seconds of the processes that we started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bench_encode(bench: Bench) -> None:
    """What the encoder alone takes."""
    for which, events in SETS.items():
        found = bench.measure("ours", "encode", rounds=bench.rounds * 8, which=which)
        target = None if which == "all" else ("<=", 1.5)
        bench.ratio(
            f"encode alone, {events} events",
            found["encode"],
            found["orjson"],
            "orjson.dumps",
            target,
            unit="µs",
        )


def bench_calls(bench: Bench) -> None:
    """What the job's thread pays per event."""
    beside_orjson = {"small": 2.5, "everyday": 2.0, "all": 1.5}
    beside_old = {"small": 15, "everyday": 9}
    for load, idle in (("busy", False), ("idle", True)):
        for which, events in SETS.items():
            if idle and which != "everyday":
                continue
            rounds = 3 if idle else bench.rounds * 2
            arguments = {"rounds": rounds, "idle": idle, "which": which}
            with nats_server(bench.folder, stream=False) as url:
                ours = bench.measure("ours", "calls", url=url, **arguments)
                old = bench.measure("old", "calls", url=url, **{**arguments, "rounds": min(rounds, 4)})
            name = f"handler call, courier {load}, {events} events"
            for figure in ("mean", "p50", "p99", "max"):
                target = None if idle or figure != "mean" else ("<=", beside_orjson[which])
                mine = ours["plugin"][figure]
                bench.ratio(
                    f"{name}: {figure}", mine, ours["orjson"][figure], "orjson.dumps", target, unit="µs"
                )
            mine = ours["plugin"]["mean"]
            bench.ratio(f"{name}: mean", mine, ours["kept"]["mean"], "orjson, kept", unit="µs")
            bench.ratio(f"{name}: mean", mine, ours["json"]["mean"], "json.dumps", unit="µs")
            target = None if idle or which not in beside_old else (">=", beside_old[which])
            bench.ratio(
                f"{name}: mean", mine, old["plugin"]["mean"], "0.4.0", target, unit="µs", inverse=True
            )


def bench_masking(bench: Bench) -> None:
    """What it costs to look for a run's secrets in all that it publishes."""
    for which in SETS:
        with nats_server(bench.folder, stream=False) as url:
            found = bench.measure("ours", "masking", url=url, rounds=bench.rounds * 2, which=which)
        bench.ratio(
            f"handler call, 12 secrets, {which} events: p50",
            found["with"]["p50"],
            found["without"]["p50"],
            "without secrets",
            ("<=", 1.1),
            unit="µs",
        )


def bench_growth(bench: Bench) -> None:
    """Whether the cost is linear in the size."""
    sizes = [100, 1_000, 10_000, 100_000, 1_000_000]
    with nats_server(bench.folder, stream=False) as url:
        found = bench.measure("ours", "growth", url=url, sizes=sizes)
    for size in sizes:
        one = found[str(size)]
        bench.ratio(
            f"handler call, {size} B: p50",
            one["plugin"]["p50"],
            one["orjson"]["p50"],
            "orjson.dumps",
            unit="µs",
        )
    # Linear: ten times the size, at most ten times the cost (and a tenth for the machine's sake).
    costs = [found[str(size)]["plugin"]["p50"] for size in sizes]
    worst = max(after / before for before, after in zip(costs, costs[1:]))
    copies = [found[str(size)]["copy"]["p50"] for size in sizes[-2:]]
    bench.add(Row("ten times the size: times the cost, at most", worst, target=("<=", 11)))
    bench.add(Row("the same for a plain copy of the last step", copies[1] / copies[0]))


def bench_import(bench: Bench) -> None:
    """What the plugin adds to `import ansible_runner`."""
    found: dict[str, list[dict[str, float]]] = {}
    cases = {"none": ("none", False), "ours": ("ours", False), "old": ("old", False), "on": ("ours", True)}
    with nats_server(bench.folder, stream=False) as url:
        for _ in range(IMPORTS):
            for name, (who, enabled) in cases.items():
                one = bench.measure(who, "imports", url=url if enabled else None)
                found.setdefault(name, []).append(one)
    # Neighbours in time are compared: whatever the machine does slowly, it does to both.
    more = {
        name: {
            what: statistics.median(a[what] - b[what] for a, b in zip(found[name], found["none"]))
            for what in ("seconds", "memory")
        }
        for name in ("ours", "old", "on")
    }
    seconds, size = ("seconds", "ms", 0.0005), ("memory", "MB", 0.5e6)
    for what, unit, bound in (seconds, size):
        name = f"import ansible_runner, not enabled: {'time' if unit == 'ms' else 'memory'} added"
        other = more["old"][what]
        bench.add(Row(name, more["ours"][what], other, "0.4.0", unit=unit, target=("<=", bound)))
    bench.add(Row("the same and one enabled run: memory added", more["on"]["memory"], unit="MB"))


def bench_queue(bench: Bench) -> None:
    """Memory with nobody to deliver to."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"nats://127.0.0.1:{nobody.getsockname()[1]}"
        found = bench.measure("ours", "queue", url=url, events=100_000)
    bench.add(Row("100,000 events queued: payload", found["payload"], unit="MB"))
    name, limit = "100,000 events queued: growth", found["limit"]
    bench.ratio(name, found["grown"], limit, "pending_size", ("<=", 1.15), unit="MB")


def bench_runs(bench: Bench) -> None:
    """Many runs at once."""
    with nats_server(bench.folder, stream=False) as url:
        for count in (1, 10, 100, 1000):
            found = bench.measure("ours", "runs", url=url, count=count, events=20_000)
            rate = found["events"] / found["seconds"]
            other = None
            if count <= 100:
                old = bench.measure("old", "runs", url=url, count=count, events=2_000)
                other = old["events"] / old["seconds"]
            name = f"{count} runs at once"
            ratio = rate / other if other else None
            bench.add(Row(name, rate, other, "0.4.0" if other else "", "k/s", ratio))
            target = ("<=", 2) if count == 1000 else None
            bench.add(Row(f"{name}: threads of ours", found["threads"], target=target))


def bench_size(bench: Bench) -> None:
    """What has to be downloaded."""
    for wheel in sorted(bench.wheel.parent.glob("*.whl")):
        tag = next(part for part in wheel.name.split("-") if part.startswith("cp"))
        bench.add(Row(f"wheel {tag}", wheel.stat().st_size, unit="MB"))


ROWS: dict[str, Callable[[Bench], None]] = {
    name.removeprefix("bench_"): function
    for name, function in dict(globals()).items()
    if name.startswith("bench_")
}

SCALE = {"µs": 1e6, "ms": 1e3, "s": 1, "MB": 1e-6, "k/s": 1e-3, "": 1}


def show(row: Row) -> str:
    """A row as text."""

    def figure(value: float | None) -> str:
        return "" if value is None else f"{value * SCALE[row.unit]:,.2f}"

    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    target = "" if row.target is None else f"{row.target[0]} {row.target[1] * SCALE[row.unit]:g}"
    if row.ratio is not None and row.target is not None:
        target = f"{row.target[0]} {row.target[1]:g}"
    verdict = {None: "", True: "met", False: "MISSED"}[row.met]
    columns = f"{row.name:58} {figure(row.ours):>12} {row.unit:4}{figure(row.other):>12} {row.beside:17}"
    return f"{columns}{ratio:>9}  {target:9} {verdict}".rstrip()


def compare(rows: list[Row], file: Path) -> None:
    """What became of the figures of an earlier run."""
    before = {(row["name"], row["beside"]): row for row in json.loads(file.read_text())["rows"]}
    print(f"\nbeside {file}: now / then")
    for row in rows:
        old = before.get((row.name, row.beside))
        if old and old["ours"]:
            ratios = "" if row.ratio is None else f"   ratio {old['ratio']:.2f} -> {row.ratio:.2f}"
            print(f"  {row.name:58} {row.ours / old['ours']:6.2f}{ratios}")


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=ROWS, action="append", help="these rows alone")
    parser.add_argument("--rounds", type=int, default=5, help="more is slower and steadier")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier bench.json")
    parser.add_argument("--wheel", type=Path, required=True, help="the release wheel to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(arguments.wheel.resolve(), arguments.rounds, Path(folder))
        bench.prepare()
        print("First what a user feels (a job, its end, how much gets through), then the ratios behind it.\n")
        head = Row("", 0)
        print(f"{head.name:60} {'ours':>12}     {'other':>12} {'':17}{'ratio':>9}  target")
        for name, function in ROWS.items():
            if not arguments.only or name in arguments.only:
                function(bench)
    rows = [{**vars(row), "met": row.met} for row in bench.rows]
    RESULT.write_text(json.dumps({"rows": rows, "raw": bench.raw}, indent=1))
    missed = sum(row.met is False for row in bench.rows)
    met = sum(row.met is True for row in bench.rows)
    print(f"{met} targets met, {missed} missed; all figures in {RESULT.relative_to(ROOT)}")
    if arguments.compare:
        compare(bench.rows, arguments.compare)
    return 0


if __name__ == "__main__":
    sys.exit(main())
