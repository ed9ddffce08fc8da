"""docs/investigating.md: its shell scripts find what they say they find, in two real runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import PATIENCE, Bus, Job, Server, clean_env, cli

if TYPE_CHECKING:
    from collections.abc import Callable

    Shell = Callable[[str], subprocess.CompletedProcess[str]]

PAGE = (Path(__file__).parent.parent / "docs/investigating.md").read_text()
FIND_HOST, COMPARE_OUTPUT, COMPARE_CHANGES = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

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
    inventory = job.folder / "inventory/hosts"
    (one, *_) = inventory.read_text().splitlines()
    inventory.write_text("\n".join(one.replace("one ", f"{name} ", 1) for name in ("web1", "web2", "db1")))
    for ident, limit, word in (("rollout-41", "web2,db1", "old"), ("rollout-42", "all", "new")):
        cmdline = f"--limit {limit} -e word={word}"
        done = cli("run", job.folder, "-p", "play.yml", "--ident", ident, "--cmdline", cmdline, "-q", env=env)
        assert done.returncode == 0, done.stdout + done.stderr

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path, env=clean_env(env), capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    return shell


@pytest.mark.skipif(shutil.which("jq") is None, reason="the script needs jq")
def test_the_runs_of_a_host(shell: Shell, tmp_path: Path) -> None:
    done = shell(FIND_HOST)
    (found,) = tmp_path.glob("web1-*.txt")
    assert (done.returncode, done.stdout) == (0, f"{found.name}\n"), done.stderr
    text = found.read_text()
    assert "write" in text
    assert "changed: [web1]" in text
    # The task that changed nothing, and the other hosts, are left out.
    assert "stay" not in text
    assert "db1" not in text


@pytest.mark.parametrize("script", [COMPARE_OUTPUT, COMPARE_CHANGES], ids=["output", "changes"])
def test_what_differed(shell: Shell, script: str) -> None:
    done = shell(script)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("+") and "changed: [web1]" in line for line in lines)
    assert not any(line.startswith("-") and "web1" in line for line in lines)
    same = script.replace("rollout-42", "rollout-41")
    assert (shell(same).returncode, shell(same).stdout) == (0, "")
