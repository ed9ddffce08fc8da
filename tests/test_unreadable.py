"""Messages that a client library cannot read from the wire: readers go on, and tell them like any other."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support import Bus, Server, bin_dir, clean_env, command
from test_watch import publish, task

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What async-nats takes for the end of a subject, in messages that have headers.
BLANKS = {
    "no-break space": "\u00a0",
    "line separator": "\u2028",
    "ideographic space": "\u3000",
    "next line": "\u0085",
}


def odd(bus: Bus, ident: str, **data: Any) -> None:
    """A status as others publish it, with a header."""
    payload = json.dumps({"runner_ident": ident, **data}).encode()
    bus.send(f"pub.ansible.runner.id.{ident}.status", payload, {"X": "y"})


def runs(server: Server, *more: str) -> dict[str, str]:
    done = command("runs", "--json", "-s", server.url, *more, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    return {run["runner_ident"]: run["state"] for run in json.loads(done.stdout)}


@pytest.mark.parametrize("blank", BLANKS.values(), ids=BLANKS)
def test_a_subject_with_a_blank_in_it(stored: tuple[Server, Bus], blank: str) -> None:
    server, bus = stored
    publish(server, "before", task("a"))
    odd(bus, f"a{blank}b", status="successful")
    publish(server, "after", task("b"), "failed")
    odd(bus, f"a{blank}c", status="failed")
    found = runs(server)
    # What could be taken for the end of a line is written out in a name.
    assert {name.replace(f"<U+{ord(blank):04X}>", blank): state for name, state in found.items()} == {
        "before": "successful", f"a{blank}b": "successful", "after": "failed", f"a{blank}c": "failed"
    }  # fmt: skip
    # Also where it is the first that is asked for, and there are others.
    assert runs(server, "--since", "1h") == found
    printed = command("logs", "after", "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert printed.returncode == 0, printed.stderr
    # What was left is gone, or will be in ten seconds: not one consumer a connection.
    assert bus.run(bus.client.jetstream().stream_info("RUNS")).state.consumer_count < 10


def test_thousands_in_a_row_and_in_turn(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    for number in range(400):
        odd(bus, f"a\u00a0{number}", status="successful")
        odd(bus, f"n{number}", status="failed")
    found = runs(server)
    assert len(found) == 800
    # Two questions, each through some connections: not one consumer for each of hundreds.
    assert bus.run(bus.client.jetstream().stream_info("RUNS")).state.consumer_count < 20


def test_whoever_follows(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    for line in following(server, "watch"):
        if "connected" in line:
            publish(server, "one", task("a"))
        elif "one" in line and "successful" in line:
            odd(bus, "a\u00a0b", status="failed")
        elif "a\u00a0b" in line and "failed" in line:
            publish(server, "two", task("a"))
        elif "two" in line and "successful" in line:
            break
    info = bus.run(bus.client.jetstream().stream_info("RUNS"))
    assert info.state.consumer_count < 10


def following(server: Server, *arguments: str) -> Iterator[str]:
    """The lines of a command, as they come."""
    process = subprocess.Popen(
        [bin_dir() / "ansible-runner-nats", *arguments, "-s", server.url],
        env=clean_env({"RUNNER_NATS_SUBJECT_ID": "id"}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield from process.stdout
        pytest.fail("it has ended")
    finally:
        process.terminate()
        process.wait()


def test_without_permission_it_is_named(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    publish(server, "before", task("a"))
    server.reload(
        """
        authorization { users: [
          { user: reader, password: r, permissions: {
            publish: { allow: ["$JS.API.>", "_INBOX.>"], deny: ["$JS.API.STREAM.MSG.GET.>"] } } }
          { user: tester, password: t }
        ] }
        """
    )
    login = Bus(server.url, user="tester", password="t")
    odd(login, "a\u00a0b", status="successful")
    login.close()
    url = server.url.replace("nats://", "nats://reader:r@")
    done = command("runs", "-s", url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 1
    assert "stream RUNS: what comes behind message 3 cannot be read" in done.stderr
    assert "$JS.API.STREAM.MSG.GET.RUNS" in done.stderr
