"""ansible-runner's own test suite with the plugin: not enabled, enabled, without a server (`make peers`).

The suite is that of the version installed here; it comes from the source distribution on PyPI. The plugin
must not change the outcome of a single test. One that differs is run again alone: it may be flaky.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

from support import Bus, Server, clean_env, free_port

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache/peers"
VENV = CACHE / "venv"
PYTHON = VENV / "bin/python"

#: Of the suite's requirements: the rest is for its linters.
NEEDED = ("pytest", "cryptography")

#: How often a test is run alone that has not come out alike.
AGAIN = 3

COLUMNS = ("plugin", "passed", "failed", "skipped", "seconds", "messages in the stream")


def prepare(wheel: Path) -> Path:
    """An environment with the plugin and what the suite needs. Returns the suite's folder."""
    version = metadata.version("ansible-runner")
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    suite = CACHE / f"ansible_runner-{version}"
    if not suite.exists():
        source = ("--no-binary", "ansible-runner", "--no-deps", "--dest", CACHE)
        subprocess.run([sys.executable, *pip, "download", *source, f"ansible-runner=={version}"], check=True)
        with tarfile.open(CACHE / f"ansible_runner-{version}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data") if hasattr(
                tarfile, "data_filter"
            ) else archive.extractall(CACHE)
    if not (suite / "test").is_dir():
        sys.exit(f"the source distribution of ansible-runner {version} has no tests")
    lines = (suite / "test/requirements.txt").read_text().splitlines()
    # The last one: an old pytest-xdist takes it for granted.
    needed = [*(line for line in lines if line.startswith(NEEDED)), "py"]
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pins = [f"{name}=={metadata.version(name)}" for name in ("ansible-runner", "ansible-core")]
    subprocess.run([PYTHON, *pip, "install", *pins, *needed, wheel], check=True)
    return suite


class Suite:
    """The suite, and one way to have the plugin."""

    def __init__(self, folder: Path, name: str, options: dict[str, str]) -> None:
        self.folder = folder
        self.name = name
        self.options = options
        self.log = CACHE / f"{name}.log".replace(" ", "-")
        self.seconds = 0.0
        self.outcomes: dict[str, str] = {}

    def run(self, *arguments: str) -> dict[str, str]:
        """By test: how it came out."""
        with tempfile.TemporaryDirectory(prefix="peers-") as temporary, self.log.open("a") as log:
            # Not the developer's home, and short: there are sockets in it.
            home = Path(temporary, "home")
            home.mkdir()
            report = Path(temporary, "report.xml")
            path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
            own = {"PATH": path, "HOME": str(home), "TMPDIR": temporary, "VIRTUAL_ENV": str(VENV)}
            subprocess.run(
                [
                    *(PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "300", "--color", "no"),
                    *("-o", "junit_family=xunit1", f"--junitxml={report}"),
                    *arguments,
                ],
                cwd=self.folder, env=clean_env({**own, **self.options}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
            )  # fmt: skip
            if not report.exists():
                sys.exit(f"the suite has not run; see {self.log}")
            return dict(map(outcome, ET.parse(report).iter("testcase")))

    def run_all(self) -> None:
        started = time.monotonic()
        self.log.unlink(missing_ok=True)
        self.outcomes = self.run("-n", "2")
        self.seconds = time.monotonic() - started


def outcome(case: ET.Element) -> tuple[str, str]:
    """A test's address for pytest, and how it came out."""
    file = case.get("file", "")
    module = file.removesuffix(".py").replace("/", ".")
    classes = case.get("classname", "").removeprefix(module).strip(".")
    name = "::".join(filter(None, [file, *classes.split("."), case.get("name", "")]))
    for child in case:
        if child.tag in ("failure", "error"):
            return name, "failed"
        if child.tag == "skipped":
            return name, "skipped"
    return name, "passed"


def alone(test: str, suites: list[Suite]) -> tuple[bool, str]:
    """Whether a test that differed can come out alike when nothing else runs, and how it came out."""
    seen = {suite.name: [suite.run(test).get(test, "missing") for _ in range(AGAIN)] for suite in suites}
    alike = bool(set.intersection(*map(set, seen.values())))
    return alike, "; ".join(f"{name}: {', '.join(outcomes)}" for name, outcomes in seen.items())


def line(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="the plugin")
    folder = prepare(parser.parse_args().wheel.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary) / "nats", jetstream=True).start()
        bus = Bus(server.url)
        try:
            bus.add_stream()
            return compare(folder, server, bus)
        finally:
            bus.close()
            server.kill()


def compare(folder: Path, server: Server, bus: Bus) -> int:
    on = {"RUNNER_NATS_SUBJECT_ID": "peers", "RUNNER_NATS_SERVERS": server.url}
    off = {**on, "RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}", "RUNNER_NATS_FLUSH_TIMEOUT": "0.2"}
    suites = [
        Suite(folder, "not enabled", {}),
        Suite(folder, "enabled", on),
        Suite(folder, "no server", off),
    ]
    print(line([*COLUMNS]))
    print(line(["---"] * len(COLUMNS)))
    before = 0
    for suite in suites:
        suite.run_all()
        count = Counter(suite.outcomes.values())
        now = bus.stream_count()
        figures = [*(count[name] for name in COLUMNS[1:4]), round(suite.seconds), now - before]
        print(line([suite.name, *map(str, figures)]), flush=True)
        before = now
    tests = sorted(set().union(*(suite.outcomes for suite in suites)))
    by_test = {test: [suite.outcomes.get(test, "missing") for suite in suites] for test in tests}
    different = [test for test in tests if len(set(by_test[test])) > 1]
    for test in tests:
        if set(by_test[test]) == {"failed"}:
            print(f"failed, whatever the plugin does: {test}")
    status = 0
    for test in different:
        alike, seen = alone(test, suites)
        print(
            f"{'flaky' if alike else 'DIFFERENT'}: {test}: {', '.join(by_test[test])}; alone: {seen}",
            flush=True,
        )
        status |= not alike
    print(f"{len(tests)} tests, {len(different)} of them not alike in the first place")
    return status


if __name__ == "__main__":
    sys.exit(main())
