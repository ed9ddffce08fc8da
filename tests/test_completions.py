"""What real shells complete when somebody presses TAB."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pexpect
import pytest
from serving import needed
from support import bin_dir, clean_env, command

if TYPE_CHECKING:
    from pathlib import Path

#: What is written before TAB is pressed, and what must be offered.
LINES = {
    "ru": ["runs"],
    "runs --st": ["--state"],
    "runs --state ca": ["canceled"],
    "runs --state s": ["silent", "starting", "successful"],
    "stream cr": ["create"],
    "stream create --repl": ["--replicas"],
    "logs --fol": ["--follow"],
    "completions z": ["zsh"],
}

#: What clap_complete does not know of a shell: values of what is no option.
NOT_YET = {"fish": {"completions z"}}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(tmp_path: Path, shell: str) -> None:
    program = needed(shell)
    done = command("completions", shell)
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / "script"
    script.write_text(done.stdout)
    env = clean_env({"PATH": f"{bin_dir()}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"})
    for line, offered in LINES.items():
        if line in NOT_YET.get(shell, ()):
            continue
        shown = asked(program, shell, script, f"ansible-runner-nats {line}", env)
        assert all(word in shown for word in offered), (line, shown)


def asked(program: str, shell: str, script: Path, line: str, env: dict[str, str]) -> set[str]:
    """The words that the shell shows or fills in."""
    if shell == "fish":
        output, status = pexpect.run(
            f"{program} -c 'source {script}; complete -C \"{line}\"'", env=env, withexitstatus=True
        )
        assert status == 0, output
        return {word.partition("\t")[0] for word in output.decode().splitlines()}
    start = {
        "bash": (["--norc", "--noprofile", "-i"], "bind 'set bell-style none'; PS1='READY> '"),
        "zsh": (
            ["-f", "-i"],
            "autoload -U compinit; compinit -u -D; unsetopt PROMPT_SP; PS1='READY> '",
        ),
    }
    args, setup = start[shell]
    child = pexpect.spawn(program, args, env=env, encoding="utf-8", dimensions=(50, 200), timeout=30)
    try:
        child.sendline(f"{setup}; source {script}; echo SET''UP")
        child.expect("SETUP\r?\n")
        child.expect("READY> ")
        # The second one shows what there is, where there are several.
        child.send(f"{line}\t\t")
        # What is typed now comes behind all of it.
        child.send("\x15echo DO''NE\r")
        child.expect("DONE\r?\n")
        return set(re.findall(r"[\w-]+", child.before or ""))
    finally:
        child.close(force=True)
