"""docs/oncall.md: its commands, one after the other: after a good run, a bad one, and one that hangs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import PATIENCE, Bus, Job, Server, bin_dir, clean_env, cli, kill_tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parent.parent / "docs/oncall.md").read_text()
#: What the page calls, but for `notify`, which goes on until it is stopped (tests/test_notify.py).
CALLS = [call for call in re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE) if " notify " not in call]

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Restart the application
      ansible.builtin.shell: |
        {{ 'echo cannot bind >&2; exit 1' if broken | default('') == inventory_hostname else 'true' }}
    - name: Wait for the application
      ansible.builtin.command: sleep {{ 90 if hangs | default('') == inventory_hostname else 0 }}
"""

#: What each call comes to: how it begins, its exit status, and what it says (a pattern).
EXPECTED = [
    ("ansible-runner-nats runs --since 12h", 0, r"rollout-43 +\S+ +running(.|\n)*rollout-42 +\S+ +failed"),
    ("ansible-runner-nats show rollout-42", 0, r"for +jane.doe(.|\n)*process \d+(.|\n)*web2 · Restart "),
    ("ansible-runner-nats runs --playbook site.yml --since 30d", 0, "rollout-41"),
    ("ansible-runner-nats grep 'cannot bind' --since 30d -l", 0, r"^\S+Z  rollout-42  [0-9a-f-]{13}\n$"),
    ("ansible-runner-nats stats hosts --since 30d --playbook site.yml", 0, r"HOST(.|\n)*web2 +3 +1 "),
    ("ansible-runner-nats compare rollout-42", 1, r"Restart the application: failed, it was changed: web2"),
    ("ansible-runner-nats show rollout-43", 0, r"It waits for:\n  db1 · Wait for the application · for "),
    ("ansible-runner-nats stats tasks -n 2", 0, r"Wait for the application +site.yml +3 "),
    ("ps -ww --ppid PID -o pid,args", 0, r"(?m)^ *CHILD .*ansible-playbook .*site\.yml$"),
    ("kill CHILD", 0, ""),
    ("ansible-runner-nats logs rollout-43 --tail 5 --timestamps", 0, r"^20\S+Z"),
    ("ps -ww -o pid,etime,args -p PID", None, ""),
    ("pgrep -af ansible-playbook", None, ""),
    ("ansible-runner-nats replay FOLDER", 0, ""),
    ("ansible-runner-nats check FOLDER", 0, "all is well"),
    ("ansible-runner-nats stream", 0, "RUNS"),
    ('ansible-runner-nats logs -f rollout-44; echo "ended with $?"', 0, r"PLAY RECAP(.|\n)*ended with 0\n$"),
    ("ansible-runner-nats wait rollout-44 --timeout 1h || page-somebody-else", 0, "^$"),
]  # fmt: skip


class Night:
    """The jobs, and the shell of whoever is on call."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.env = {
            "RUNNER_NATS_SUBJECT_ID": "site-a",
            "RUNNER_NATS_SERVERS": server.url,
            "RUNNER_NATS_ACTOR": "jane.doe",
            # A narrow terminal: `ps` cuts at its width, and a run's command is long.
            "COLUMNS": "40",
        }
        self.job = Job(folder / "job")
        (self.job.folder / "project/site.yml").write_text(PLAYBOOK)
        self.job.set_hosts("web1", "web2", "db1")
        self.run("rollout-41", 0)
        self.run("rollout-42", 2, "-e broken=web2")
        self.forget_cmdline()
        where, which = str(self.job.folder), ["-p", "site.yml", "--ident", "rollout-43"]
        self.third = subprocess.Popen(
            [str(bin_dir() / "ansible-runner"), "run", where, *which, "--cmdline", "-e hangs=db1"],
            env=clean_env(self.env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, ident: str, status: int, *cmdline: str) -> None:
        more = ("--cmdline", *cmdline) if cmdline else ()
        self.forget_cmdline()
        done = cli("run", self.job.folder, "-p", "site.yml", "--ident", ident, "-q", *more, env=self.env)
        assert done.returncode == status, done.stdout + done.stderr

    def forget_cmdline(self) -> None:
        """Of the run before: ansible-runner keeps it, and prefers it to what it is told."""
        (self.job.folder / "env/cmdline").unlink(missing_ok=True)

    def start(self, script: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", script],
            env=clean_env(self.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def says(self, script: str) -> tuple[int, str, str]:
        with self.start(script) as shell:
            said, errors = shell.communicate(timeout=PATIENCE * 2)
            return shell.returncode, said, errors

    def recorded_pid(self) -> int:
        record = json.loads((self.job.folder / "artifacts/rollout-43/nats-run.json").read_text())
        pid: int = record["pid"]
        return pid


@pytest.fixture
def night(stored: tuple[Server, Bus], tmp_path: Path) -> Iterator[Night]:
    night = Night(stored[0], tmp_path)
    yield night
    kill_tree(night.third.pid)
    night.third.wait()


def test_the_night(night: Night) -> None:
    wait_until(
        lambda: "It waits for:\n  db1" in night.says("ansible-runner-nats show rollout-43")[1],
        "the third run to hang",
    )
    pid = night.recorded_pid()
    assert pid == night.third.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {"943": str(pid), "951": child, "/srv/jobs/rollout": str(night.job.folder)}
    followers = []
    assert len(CALLS) == len(EXPECTED)
    for call, (meant, status, pattern) in zip(CALLS, EXPECTED):
        for word, value in names.items():
            call = call.replace(word, value)  # noqa: PLW2901
        for word, value in (("PID", str(pid)), ("CHILD", child), ("FOLDER", str(night.job.folder))):
            meant = meant.replace(word, value)  # noqa: PLW2901
            pattern = pattern.replace(word, value)  # noqa: PLW2901
        assert call == meant
        if "rollout-44" in call:
            # It may be called before the run begins.
            followers.append((night.start(call), status, pattern))
            continue
        code, said, errors = night.says(call)
        assert status in (code, None), (call, said, errors)
        assert re.search(pattern, said), (call, said, errors)
        if call.startswith("kill"):
            # The run ends as failed, and says so.
            # (ansible-runner itself exits with 0 then.)
            night.third.wait(PATIENCE)
            assert night.says("ansible-runner-nats wait rollout-43")[0] == 3
    night.run("rollout-44", 0)
    for shell, status, pattern in followers:
        said, errors = shell.communicate(timeout=PATIENCE)
        assert shell.returncode == status, errors
        assert re.search(pattern, said), (said, errors)
