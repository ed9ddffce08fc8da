"""docs/investigating.md: its commands find what they are said to find, in two real runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import PATIENCE, Bus, Job, Server, clean_env, cli

if TYPE_CHECKING:
    from collections.abc import Callable

    Shell = Callable[[str], subprocess.CompletedProcess[str]]

PAGE = (Path(__file__).parent.parent / "docs/investigating.md").read_text()
(COMPARE_OUTPUT,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
*CALLS, BRING_BACK = re.findall(r"^\$ (ansible-runner-nats .*)$", PAGE, re.MULTILINE)

#: One task that goes on web1 as the variable says, and one that both runs have.
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: stay
      ansible.builtin.debug:
        msg: the same
    - name: write
      ansible.builtin.command: echo {{ word }}
      when: inventory_hostname in ['web1', 'db1']
"""


@pytest.fixture
def shell(stored: tuple[Server, Bus], tmp_path: Path) -> Shell:
    """Runs a script of the page where there are two runs: the first one without web1."""
    server, _ = stored
    env = {"RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": server.url}
    job = Job(tmp_path / "job", playbook=PLAYBOOK)
    job.set_hosts("web1", "web2", "db1")
    for ident, limit, word in (("rollout-41", "web2,db1", "old"), ("rollout-42", "all", "new")):
        cmdline = f"--limit {limit} -e word={word}"
        done = cli("run", job.folder, "-p", "play.yml", "--ident", ident, "--cmdline", cmdline, "-q", env=env)
        assert done.returncode == 0, done.stdout + done.stderr

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", script.replace("/srv/jobs/rollout", str(job.folder))],
            cwd=tmp_path, env=clean_env(env), capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    return shell


def test_each_command(shell: Shell) -> None:
    said = {call.removeprefix("ansible-runner-nats "): shell(call) for call in CALLS}
    assert len(said) == len(CALLS) == 9
    # Something is otherwise, and web1 did not fail.
    ones = {call for call, done in said.items() if done.returncode == 1}
    assert ones == {call for call in said if call.startswith(("compare", "grep 'fatal"))}, said
    assert {done.returncode for call, done in said.items() if call not in ones} == {0}, said

    def lines(start: str) -> list[str]:
        (text,) = [done.stdout for call, done in said.items() if call.startswith(start)]
        return text.splitlines()

    assert {line.split()[0] for line in lines("stats hosts")} >= {"db1", "web1", "web2"}
    assert lines("grep -l")[0].split()[1] == "rollout-42"
    assert not any("rollout-41" in line for line in lines("grep -l"))
    assert any("changed: [web1]" in line for line in lines("logs rollout-42 --host web1 --changed"))
    assert not any("db1" in line or "stay" in line for line in lines("logs rollout-42 --host web1 --changed"))
    assert any(
        line.startswith("write: new") and "web1" in line for line in lines("compare rollout-42 rollout-41")
    )


def test_a_good_run_that_the_stream_has_let_go(shell: Shell, stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    stream = bus.client.jetstream()
    bus.run(stream.purge_stream("RUNS", subject="pub.ansible.runner.site-a.rollout-41.>"))
    # It was longer ago than the duplicate window: a server that begins anew knows no ids but of what it has.
    server.restart()
    compare = "ansible-runner-nats compare rollout-42"
    assert "no successful run of play.yml is known before rollout-42" in shell(compare).stderr
    assert shell(BRING_BACK).returncode == 0
    assert shell(compare).stdout == shell(f"{compare} rollout-41").stdout != ""


def test_what_was_printed(shell: Shell) -> None:
    done = shell(COMPARE_OUTPUT)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("+") and "changed: [web1]" in line for line in lines)
    assert not any(line.startswith("-") and "web1" in line for line in lines)
    same = COMPARE_OUTPUT.replace("rollout-42", "rollout-41")
    assert (shell(same).returncode, shell(same).stdout) == (0, "")
