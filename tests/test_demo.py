"""The demo ends by itself, tells the truth, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, clean_env

DEMO = Path(__file__).parent.parent / "examples/demo/demo.py"


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DEMO],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_env(None),
    )  # fmt: skip


def port_of(output: str) -> int:
    found = re.search(r"listens at nats://127\.0\.0\.1:(\d+)", output)
    assert found is not None, output
    return int(found[1])


def assert_gone(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_every_message_arrives() -> None:
    demo = start()
    output, errors = demo.communicate(timeout=PATIENCE * 2)
    assert (demo.returncode, errors) == (0, "")
    assert output.endswith("every message arrived\n")
    for word in (
        "rollout-42 RUN starting",
        "changed ",
        "failed ",
        "skipped ",
        "RECAP",
        "こんにちは",
        "successful",
    ):
        assert word in output
    assert "\x1b" not in output
    assert_gone(port_of(output))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_what_it_started(number: signal.Signals) -> None:
    demo = start()
    assert demo.stdout is not None
    output = ""
    while "TASK" not in output:
        line = demo.stdout.readline()
        assert line, output
        output += line
    demo.send_signal(number)
    rest, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130, errors
    assert rest.endswith("stopped\n")
    assert_gone(port_of(output))
