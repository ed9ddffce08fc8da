"""The commands of the README, one after the other, as a newcomer types them."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import PATIENCE, Job, Server, clean_env, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

#: What `make sdist`, tests/test_demo.py and the reader do.
ELSEWHERE = ("git clone", "make demo", "pip install .", "ansible-runner-nats notify")

#: What goes on until it is stopped.
ENDLESS = ("watch", "serve")
#: There is no run before this one to compare it with, and its disk is not full.
EXITS = {"watch": 130, "compare": 1, "grep": 1}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command that the README shows, without what it says about it."""
    lines = "".join(blocks("console")).splitlines()
    assert all(line.startswith("$ ") for line in lines)
    return [line[2:].split("  #")[0].strip() for line in lines]


def test_the_commands_do_what_they_say(
    tmp_path: Path, start_server: Callable[..., Server], monkeypatch: Any
) -> None:
    server = start_server(jetstream=True)
    monkeypatch.setenv("RUNNER_NATS_SERVERS", server.url)
    job = Job(tmp_path / "private_data_dir")
    (job.folder / "project/play.yml").rename(job.folder / "project/site.yml")
    env = clean_env(None)
    said: dict[str, str] = {}
    for command in commands():
        if command.startswith(ELSEWHERE):
            continue
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            # The server is the test's.
            env[name] = server.url if name == "RUNNER_NATS_SERVERS" else value
            continue
        word = command.split()[1]
        # Its own port may be somebody else's on this machine.
        listen = f" --listen 127.0.0.1:{free_port()}" if word == "serve" else ""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}{listen}"],
            cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if word in ENDLESS:
            assert process.stderr is not None
            # It says so when it has begun.
            assert process.stderr.readline()
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == EXITS.get(word, 0), (command, output, errors)
        said[word] = output
    assert "all is well" in said["check"]
    assert re.search(r"rollout-42 .*successful", said["runs"])
    # Colours are for a terminal.
    printed = re.sub(r"\x1b\[[0-9;]*m", "", said["run"])
    assert said["logs"].splitlines() == printed.splitlines()


def test_the_consumer_is_the_example() -> None:
    (quoted,) = blocks("python")
    assert quoted in (ROOT / "examples/consumers/ten_lines.py").read_text()
