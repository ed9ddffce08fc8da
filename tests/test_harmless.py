"""Whatever somebody publishes, a terminal that shows it obeys nothing of it."""

from __future__ import annotations

import json
import re
import unicodedata

import pexpect
import pytest
from support import Bus, Server, bin_dir, clean_env, wait_until
from test_watch import publish, task

#: Conceals, erases, renames the window, turns what follows around; ends in no reset.
HOSTILE = (
    "a\x1b[8mb\x1b[30;40mc\x1b[2Jd\x1b]0;title\x07e\x1bP+q\x1b\\f\x9b31mg\u202eh\u061ci\u2066j\rk"
    "\u200fl\u2028m\U000e0041n\x7fo\x1b[31mp"
)

#: What is left of colours: never a background, never concealed, never black.
COLORS = re.compile(r"\x1b\[(0|1|2|0;2|[01](;2)?;(3[1-7]|9[0-7])|1;30|3[1-7]|38;5;[0-9]+)?m")


@pytest.fixture
def published(stored: tuple[Server, Bus]) -> Server:
    server, _ = stored
    events = [*task(HOSTILE, host=HOSTILE, fails=True, msg=HOSTILE, stderr=HOSTILE)]
    publish(
        server,
        "x",
        [{**event, "stdout": HOSTILE, "start_line": 1, "end_line": 2} for event in events],
        "failed",
    )
    publish(server, HOSTILE, task("a"), "failed")
    return server


def on_a_terminal(server: Server, *arguments: str) -> str:
    """What a command writes to a terminal."""
    process = pexpect.spawn(
        str(bin_dir() / "ansible-runner-nats"), [*arguments, "-s", server.url],
        env=clean_env({"RUNNER_NATS_SUBJECT_ID": "id", "TERM": "xterm"}),
        encoding="utf-8", dimensions=(50, 200),
    )  # fmt: skip
    process.expect(pexpect.EOF)
    process.close()
    return str(process.before).replace("\r\n", "\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"], ["runs", "--json"], ["logs", "x"], ["logs", "x", "--json"], ["logs", "x", "--failed"],
        ["watch", "--plain", "--since", "1h", "--runs", "2"],
        ["watch", "--json", "--since", "1h", "--runs", "2"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_that_a_terminal_would_obey(published: Server, arguments: list[str]) -> None:
    shown = wait_until(lambda: on_a_terminal(published, *arguments))
    assert "title" in shown
    left = COLORS.sub("", shown)
    odd = {c for c in left if c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}}
    assert odd == set(), left
    # A colour ends with its line.
    for line in shown.split("\n"):
        found = COLORS.findall(line)
        assert (
            not found
            or line.rstrip().endswith("\x1b[0m")
            or COLORS.search(line[line.rfind("\x1b[0m") + 4 :]) is None
        )
    if "--json" in arguments and arguments[0] == "logs":
        assert [json.loads(line)["stdout"] for line in shown.splitlines()] == [HOSTILE] * 2
