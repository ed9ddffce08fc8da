"""`show`, `compare` and `stats`, held against what the artifacts of real jobs say.

The jobs have loops, a rescue, delegation, `free` and `serial`, hosts that cannot be reached, `-vvv`, and an
ident that is used again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import defaultdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from contract import problems_of_command
from support import PATIENCE, Bus, Job, Server, bin_dir, clean_env, cli, command, kill_tree, wait_until
from test_recovery import events_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOST = "lost ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=1 ansible_ssh_retries=0\n"

PLAYBOOKS = {
    "linear.yml": """
- hosts: all
  gather_facts: false
  tasks:
    - {name: say, ansible.builtin.debug: {msg: "{{ item }}"}, loop: [1, 2]}
    - {name: change, ansible.builtin.command: "true", delegate_to: one}
    - name: mended
      block:
        - {name: break, ansible.builtin.command: "false"}
      rescue:
        - {name: mend, ansible.builtin.debug: {msg: mended}}
    - {name: shrug, ansible.builtin.command: "false", ignore_errors: true}
    - name: items
      ansible.builtin.shell: test {{ item }} != b
      loop: [a, b]
      when: inventory_hostname == fails
    - {name: never, ansible.builtin.debug: {msg: x}, when: false}
""",
    "free.yml": """
- hosts: all
  gather_facts: false
  strategy: free
  tasks:
    - {name: take, ansible.builtin.command: "sleep {{ 0.2 if inventory_hostname == 'one' else 0.6 }}"}
    - {name: again, ansible.builtin.command: "true", changed_when: false}
""",
    "serial.yml": """
- hosts: all
  gather_facts: false
  serial: 1
  tasks:
    - {name: take, ansible.builtin.command: "sleep 0.2", notify: handle}
  handlers:
    - {name: handle, ansible.builtin.debug: {msg: handled}}
""",
}

#: Ident, playbook, arguments: one ident is used twice, and one run fails on a host.
RUNS = [
    ("linear-1", "linear.yml", "-e fails=nobody"),
    ("linear-2", "linear.yml", "-e fails=two -vvv"),
    ("linear-2", "linear.yml", "-e fails=one"),
    ("free", "free.yml", ""),
    ("serial", "serial.yml", ""),
]


class Artifacts:
    """The same answers, from nothing but the events that a job has left in its artifacts."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events
        self.data = [
            (event["event"], event["event_data"], event) for event in events if event.get("event_data")
        ]

    def recaps(self) -> dict[str, dict[str, int]]:
        """As ansible counts, host by host."""
        (stats,) = (data for name, data, _ in self.data if name == "playbook_on_stats")
        words = {"dark": "unreachable", "failures": "failed"}
        keys = ("ok", "changed", "dark", "failures", "skipped", "rescued", "ignored")
        hosts = {host for key in keys for host in stats[key]}
        return {
            host: {words.get(key, key): stats[key].get(host, 0) for key in keys} for host in sorted(hosts)
        }

    def steps(self) -> list[tuple[str, str, str, float]]:
        """Host, task, outcome and seconds of each result, in order."""
        begun: dict[tuple[str, str], datetime] = {}
        steps = []
        for name, data, event in self.data:
            key = (data.get("host", ""), data.get("task_uuid", ""))
            when = datetime.fromisoformat(event["created"])
            if name == "runner_on_start":
                begun[key] = when
            outcome = {
                "runner_on_ok": "ok", "runner_on_failed": "failed", "runner_on_skipped": "skipped",
                "runner_on_unreachable": "unreachable",
            }.get(name)  # fmt: skip
            if outcome is None:
                continue
            if outcome == "ok" and data["res"].get("changed") is True:
                outcome = "changed"
            if outcome == "failed" and data.get("ignore_errors"):
                outcome = "ignored"
            steps.append((data["host"], data["task"], outcome, (when - begun[key]).total_seconds()))
        return steps

    def busy(self) -> dict[str, float]:
        busy: dict[str, float] = defaultdict(float)
        for host, _, _, seconds in self.steps():
            busy[host] += seconds
        return dict(busy)

    def failed(self) -> list[tuple[str, str]]:
        """Host and task of each failure that counts: not ignored, not rescued."""
        rescued = {host: recap["rescued"] for host, recap in self.recaps().items()}
        found = []
        for host, task, outcome, _ in self.steps():
            if outcome in ("failed", "unreachable"):
                if outcome == "failed" and rescued.get(host, 0) > 0:
                    rescued[host] -= 1
                else:
                    found.append((host, task))
        return found


class Site:
    """A server whose stream has these runs, and what they have left."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "nats", jetstream=True).start()
        self.bus = Bus(self.server.url)
        self.bus.add_stream()
        self.runs: list[tuple[str, str, Artifacts]] = []
        for number, (ident, playbook, arguments) in enumerate(RUNS):
            job = Job(folder / str(number))
            (job.folder / "project" / playbook).write_text(PLAYBOOKS[playbook])
            hosts = job.folder / "inventory/hosts"
            hosts.write_text(hosts.read_text() + LOST)
            env = {
                "RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": self.server.url,
                "RUNNER_NATS_ACTOR": "jane",
            }  # fmt: skip
            more = ("--cmdline", arguments) if arguments else ()
            cli("run", job.folder, "-p", playbook, "--ident", ident, "-q", *more, env=env)
            self.runs.append((ident, playbook, Artifacts(job.events())))

    def json(self, *args: str, code: int = 0) -> Any:
        done = command(*args, "--json", "-s", self.server.url)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        self.bus.close()
        self.server.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("across"))
    yield site
    site.close()


def identities(site: Site) -> list[str]:
    """Of the runs, in the order in which they began."""
    runs = site.json("runs")
    return [run["run_id"] for run in sorted(runs, key=lambda run: run["run_id"])]


def test_show(site: Site) -> None:
    for identity, (ident, playbook, artifacts) in zip(identities(site), site.runs):
        shown = site.json("show", identity)
        assert problems_of_command("show", shown) == []
        assert (shown["runner_ident"], shown["playbook"], shown["actor"]) == (ident, playbook, "jane")
        assert shown["state"] == "failed"
        assert {host["host"]: host["recap"] for host in shown["hosts"]} == artifacts.recaps()
        busy = {host["host"]: host["seconds"] for host in shown["hosts"]}
        assert busy == pytest.approx(artifacts.busy(), abs=0.0015)
        found = [
            (one["host"], one["task"])
            for one in shown["failures"]
            if one["fate"] in ("failed", "unreachable")
        ]
        assert found == artifacts.failed()
        assert (shown["waiting"], shown["missing"]) == ([], 0)
        total = {key: sum(recap[key] for recap in artifacts.recaps().values()) for key in shown["recap"]}
        assert shown["recap"] == total
        assert shown["command"][0].endswith("ansible-playbook")
        assert shown["card"]["pid"] > 0


HANGS = """
- hosts: all
  gather_facts: false
  strategy: STRATEGY
  tasks:
    - {name: first, ansible.builtin.command: "true"}
    - {name: take, ansible.builtin.command: "sleep {{ 90 if inventory_hostname == 'two' else 0 }}"}
    - {name: last, ansible.builtin.command: "true"}
"""


@pytest.mark.parametrize("strategy", ["linear", "free"])
def test_for_whom_a_run_waits(start_server: Callable[..., Server], tmp_path: Path, strategy: str) -> None:
    """A host that has begun with a task and has told no result, in the artifacts as in what is shown."""
    server = start_server(jetstream=True)
    assert command("stream", "create", "-s", server.url).returncode == 0
    job = Job(tmp_path / "job")
    (job.folder / "project/hangs.yml").write_text(HANGS.replace("STRATEGY", strategy))
    ident = f"hangs-{strategy}"
    env = {"RUNNER_NATS_SUBJECT_ID": "site-b", "RUNNER_NATS_SERVERS": server.url}
    process = subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", job.folder, "-p", "hangs.yml", "--ident", ident],
        env=clean_env(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def waiting() -> set[tuple[str, str]]:
        ends = {"runner_on_ok", "runner_on_failed", "runner_on_skipped", "runner_on_unreachable"}
        open_tasks: dict[str, str] = {}
        for event in events_in(job, ident):
            data = event.get("event_data", {})
            if event.get("event") == "runner_on_start":
                open_tasks[data["host"]] = data["task"]
            elif event.get("event") in ends:
                open_tasks.pop(data["host"], None)
        return set(open_tasks.items())

    try:
        wait_until(lambda: waiting() == {("two", "take")}, "one host to be waited for")
        began = datetime.now(timezone.utc)

        def shown() -> list[dict[str, Any]]:
            done = command("show", ident, "--json", "-s", server.url)
            return json.loads(done.stdout)["waiting"] if done.returncode == 0 else []

        wait_until(lambda: {(one["host"], one["task"]) for one in shown()} == waiting(), "what is shown")
        [one] = [one for one in shown() if one["host"] == "two"]
        assert 0 <= one["seconds"] < (datetime.now(timezone.utc) - began).total_seconds() + PATIENCE
        text = command("show", ident, "-s", server.url).stdout.split("It waits for:")[1]
        assert "two · take" in text
    finally:
        kill_tree(process.pid)
        process.wait()


def test_show_for_people(site: Site) -> None:
    done = command("show", "linear-2", "-s", site.server.url)
    assert done.returncode == 0
    assert "several runs of this ident" in done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "linear-2 of site-a: failed"
    assert any(line.startswith("  failed: one · items · ") for line in lines)
    assert any(line.startswith("  for        jane") for line in lines)
    done = command("show", "nothing", "-s", site.server.url)
    assert (done.returncode, done.stdout, "nothing" in done.stderr) == (1, "", True)


def differences(a: Artifacts, b: Artifacts) -> list[tuple[str, str, str]]:
    """Host, task and change, as the artifacts have it."""

    def numbered(artifacts: Artifacts) -> dict[tuple[str, str, int], tuple[str, float]]:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        found = {}
        for host, task, outcome, seconds in artifacts.steps():
            found[host, task, counts[host, task]] = (outcome, seconds)
            counts[host, task] += 1
        return found

    of_a, of_b = numbered(a), numbered(b)
    found = []
    for key in [*of_a, *(key for key in of_b if key not in of_a)]:
        if key not in of_b:
            change = "new"
        elif key not in of_a:
            change = "gone"
        elif of_a[key][0] != of_b[key][0]:
            change = "outcome"
        elif of_a[key][1] > max(2 * of_b[key][1], of_b[key][1] + 1):
            change = "slower"
        else:
            continue
        found.append((key[0], key[1], change))
    return found


def test_compare(site: Site) -> None:
    known = identities(site)
    for a, b in ((0, 1), (1, 2), (3, 4), (4, 0)):
        expected = differences(site.runs[a][2], site.runs[b][2])
        compared = site.json("compare", known[a], known[b], code=1)
        assert problems_of_command("compare", compared) == []
        assert (compared["a"]["run_id"], compared["b"]["run_id"]) == (known[a], known[b])
        found = [(one["host"], one["task"], one["change"]) for one in compared["differences"]]
        assert sorted(found) == sorted(expected)
    assert site.json("compare", known[0], known[0])["differences"] == []
    done = command("compare", "linear-1", known[1], "-s", site.server.url)
    assert done.returncode == 1
    assert "items: skipped, it was failed: two" in done.stdout.splitlines()
    # None of them was successful: there is nothing to compare with by itself.
    done = command("compare", "linear-2", "-s", site.server.url)
    assert (done.returncode, "no successful run of linear.yml" in done.stderr) == (1, True)


def test_stats_of_hosts(site: Site) -> None:
    rows = site.json("stats", "hosts")
    assert problems_of_command("stats-hosts", rows) == []
    expected: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _, _, artifacts in site.runs:
        for host, recap in artifacts.recaps().items():
            expected[host]["runs"] += 1
            expected[host]["failed"] += recap["failed"] > 0
            expected[host]["unreachable"] += recap["unreachable"] > 0
        for host, seconds in artifacts.busy().items():
            expected[host]["seconds"] += seconds
    found = {
        row["host"]: {key: row[key] for key in ("runs", "failed", "unreachable", "seconds")} for row in rows
    }
    assert found == {host: pytest.approx(dict(row), abs=0.01) for host, row in expected.items()}
    # The worst first.
    assert rows[0]["host"] == "lost"
    assert site.json("stats", "hosts", "-n", "1") == rows[:1]
    assert site.json("stats", "hosts", "--since", "0s") == []


def test_stats_of_tasks(site: Site) -> None:
    rows = site.json("stats", "tasks")
    assert problems_of_command("stats-tasks", rows) == []
    runs: dict[tuple[str, str], int] = defaultdict(int)
    failures: dict[tuple[str, str], int] = defaultdict(int)
    for _, playbook, artifacts in site.runs:
        started = {data["task"] for name, data, _ in artifacts.data if name == "playbook_on_task_start"}
        started |= {
            data["task"] for name, data, _ in artifacts.data if name == "playbook_on_handler_task_start"
        }
        for task in started | {task for _, task, _, _ in artifacts.steps()}:
            runs[playbook, task] += 1
        for _, task, outcome, _ in artifacts.steps():
            failures[playbook, task] += outcome in ("failed", "unreachable")
    assert {(row["playbook"], row["task"]): row["runs"] for row in rows} == dict(runs)
    assert {(row["playbook"], row["task"]): row["failures"] for row in rows if row["failures"]} == {
        key: count for key, count in failures.items() if count
    }
    # Of a task that is on one host at a time the time is the sum of its steps.
    (took,) = (row["seconds"] for row in rows if (row["playbook"], row["task"]) == ("serial.yml", "take"))
    steps = [step for step in site.runs[4][2].steps() if step[1] == "take"]
    assert took == pytest.approx(sum(step[3] for step in steps), abs=0.01)
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)


def test_stats_of_playbooks(site: Site) -> None:
    rows = site.json("stats", "playbooks")
    assert problems_of_command("stats-playbooks", rows) == []
    took: dict[str, list[float]] = defaultdict(list)
    for run in site.json("runs"):
        took[run["playbook"]].append(run["duration"])
    assert {row["playbook"]: (row["runs"], row["failed"]) for row in rows} == {
        playbook: (len(all_of_it), len(all_of_it)) for playbook, all_of_it in took.items()
    }
    medians = {playbook: statistics.median_low(all_of_it) for playbook, all_of_it in took.items()}
    assert {row["playbook"]: row["median"] for row in rows} == pytest.approx(medians)
    assert {row["playbook"] for row in site.json("stats", "playbooks", "--playbook", "f*")} == {"free.yml"}
    lines = command("stats", "playbooks", "-s", site.server.url).stdout.splitlines()
    assert lines[0].split() == ["PLAYBOOK", "RUNS", "FAILED", "TOTAL", "MEDIAN", "P95"]
    assert lines[1].split()[:3] == ["linear.yml", "3", "3"]


def test_what_cannot_be_told(start_server: Any) -> None:
    server = start_server(jetstream=True)
    for args in (
        ["show", "x"],
        ["compare", "x"],
        ["stats", "hosts"],
        ["stats", "tasks"],
        ["stats", "playbooks"],
    ):
        done = command(*args, "-s", server.url)
        assert (done.returncode, "no stream takes" in done.stderr) == (1, True), args
