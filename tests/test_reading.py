"""How readers read a stream: whatever it is like, through few consumers, and each message once."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from serving import Serve
from support import PATIENCE, Bus, Server, bin_dir, clean_env, command, config, event, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nats.aio.msg import Msg

EVENTS = 5
IDENT = "r"
OURS = "pub.ansible.runner.>"


def ask(bus: Bus, subject: str, asked: object = "") -> Any:
    """An answer of the JetStream API."""
    payload = json.dumps(asked).encode() if asked else b""
    answer = json.loads(bus.run(bus.client.request(f"$JS.API.{subject}", payload, timeout=PATIENCE)).data)
    assert "error" not in answer, answer
    return answer


def make(bus: Bus, name: str, **settings: Any) -> None:
    ask(bus, f"STREAM.CREATE.{name}", {"name": name, "storage": "file", **settings})


def consumers(bus: Bus, name: str) -> int:
    count = ask(bus, f"STREAM.INFO.{name}")["state"]["consumer_count"]
    assert isinstance(count, int)
    return count


def publish(server: Server, end: str | None = "successful") -> Any:
    """A run; ``end=None``: it goes on."""
    run = config(server.url, None)
    for status in ("starting", "running"):
        status_handler(run, {"status": status, "runner_ident": IDENT})
    for counter in range(1, EVENTS + 1):
        event_handler(run, {**event(counter), "runner_ident": IDENT, "stdout": f"line {counter}"})
    if end is not None:
        status_handler(run, {"status": end, "runner_ident": IDENT})
    return run


LIMITS = {"max_ack_pending": 10, "inactive_threshold": 5_000_000_000}
SOURCE = {"subjects": [OURS]}

#: The stream that takes what runs publish, the one that is read, and whether it has to be named.
STREAMS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bool]] = {
    "plain": (SOURCE, None, False),
    "named": (SOURCE, None, True),
    "limits for consumers": ({**SOURCE, "consumer_limits": LIMITS}, None, False),
    "limits for consumers, named": ({**SOURCE, "consumer_limits": LIMITS}, None, True),
    "few consumers": ({**SOURCE, "max_consumers": 2}, None, False),
    "a mirror": (SOURCE, {"mirror": {"name": "RUNS"}}, True),
    "a mirror with limits": (SOURCE, {"mirror": {"name": "RUNS"}, "consumer_limits": LIMITS}, True),
    "from another": (SOURCE, {"sources": [{"name": "RUNS"}]}, True),
    "a part of another": (SOURCE, {"sources": [{"name": "RUNS", "filter_subject": OURS}]}, True),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_that_make_it_hard(
    kind: str, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    source, copy, is_named = STREAMS[kind]
    server = start_server(jetstream=True)
    bus = connect(server)
    make(bus, "RUNS", **source)
    read = "RUNS"
    if copy:
        read = "COPY"
        make(bus, read, **copy)
    options = ["-s", server.url, *(["-o", f"stream={read}"] if is_named else [])]
    run = publish(server, None)
    wait_until(lambda: bus.stream_count(read) == EVENTS + 2, f"{read} to have what has come so far")
    logs = subprocess.Popen(
        [bin_dir() / "ansible-runner-nats", "logs", "-f", IDENT, *options],
        env=clean_env(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert logs.stdout is not None
    assert logs.stderr is not None
    # It is live when this has come.
    assert logs.stdout.readline() == "line 1\n"
    event_handler(run, {**event(EVENTS + 1), "runner_ident": IDENT, "stdout": f"line {EVENTS + 1}"})
    status_handler(run, {"status": "failed", "runner_ident": IDENT})
    rest, said = logs.stdout.read(), logs.stderr.read()
    logs.communicate(timeout=PATIENCE)
    assert (logs.returncode, said) == (3, "")
    assert rest.splitlines() == [f"line {number}" for number in range(2, EVENTS + 2)]
    # The mirror may have less than its origin for a moment.
    wait_until(lambda: bus.stream_count(read) == EVENTS + 4, f"{read} to have all")
    [listed] = json.loads(command("runs", "--json", *options).stdout)
    assert (listed["runner_ident"], listed["state"]) == (IDENT, "failed")
    done = command("logs", IDENT, *options)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, EVENTS + 1)
    assert command("wait", IDENT, *options).returncode == 3
    watched = command("watch", "--json", "--from-stream", "--runs", "1", *options)
    assert (watched.returncode, len(watched.stdout.splitlines())) == (0, EVENTS + 4), watched.stderr
    with Serve(server, *options[2:]) as serve:
        wait_until(lambda: IDENT in serve.get("/api/runs").text, "the run on the page")


def test_a_stream_that_is_named_and_not_there(stored: tuple[Server, Bus]) -> None:
    """No waiting mends it."""
    server, _ = stored
    for args in (["runs"], ["logs", "-f", IDENT], ["wait", IDENT], ["watch", "--plain", "--from-stream"]):
        done = command(*args, "-s", server.url, "-o", "stream=NONE")
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "stream NONE (option stream): stream not found" in done.stderr


@contextlib.contextmanager
def made_consumers(bus: Bus) -> Iterator[list[Msg]]:
    """What the server tells of each consumer that is made."""
    yield bus.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").received


def test_few_consumers_for_many_runs(stored: tuple[Server, Bus]) -> None:
    """Hundreds of runs go on: they are not asked about one by one, and nothing is left behind."""
    server, bus = stored
    many = [{"status": "running", "runner_ident": f"r{number}"} for number in range(300)]
    bus.send_all("pub.ansible.runner.site-a.{runner_ident}.status", many)
    others = [{"status": "running", "runner_ident": f"s{number}"} for number in range(50)]
    bus.send_all("pub.ansible.runner.site-b.{runner_ident}.status", others)
    with made_consumers(bus) as made:
        done = command("runs", "--json", "-s", server.url, "--subject-id", "site-a")
        assert len(json.loads(done.stdout)) == 300
        bus.run(bus.client.flush())
        assert 0 < len(made) < 50
    assert consumers(bus, "RUNS") == 0


def test_each_message_once(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    """Several consumers, each with a place of its own: a server that goes and comes makes no difference."""
    server = start_server(jetstream=True)
    bus = connect(server)
    make(bus, "RUNS", subjects=["runs.>"])
    template = "runs.{kind}.{runner_ident}.x"
    idents = ["a", "b.b", "c.c.c"]

    def send(count: int) -> None:
        for ident in idents:
            lines = [{"runner_ident": ident, "said": f"{ident} {number}"} for number in range(count)]
            bus.send_all("runs.event.{runner_ident}.x", lines)

    send(20)
    watch = subprocess.Popen(
        [bin_dir() / "ansible-runner-nats", "watch", "--json", "--from-stream", "-s", server.url,
         "-o", f"subject={template}", "-o", "reconnect_time_wait=0.1"],
        env=clean_env(None), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert watch.stdout is not None
    try:
        first = [watch.stdout.readline() for _ in range(60)]
        server.kill()
        server.start()
        wait_until(lambda: bus.client.is_connected, "the tests' client to be back")
        send(10)
        second = [watch.stdout.readline() for _ in range(30)]
        send(1)
        third = [watch.stdout.readline() for _ in range(3)]
    finally:
        watch.kill()
        watch.communicate()
    for lines, count in ((first, 20), (second, 10), (third, 1)):
        said = [json.loads(line)["said"] for line in lines]
        assert sorted(said) == sorted(f"{ident} {number}" for ident in idents for number in range(count))
        for ident in idents:
            own = [one for one in said if one.startswith(f"{ident} ")]
            assert own == [f"{ident} {number}" for number in range(count)]


def test_a_consumer_that_is_deleted(stored: tuple[Server, Bus]) -> None:
    """Whoever reads makes another one, and goes on where it was."""
    server, bus = stored
    run = publish(server, None)
    watch = subprocess.Popen(
        [bin_dir() / "ansible-runner-nats", "watch", "--json", "--from-stream", "-s", server.url],
        env=clean_env(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watch.stdout is not None
    try:
        lines = [watch.stdout.readline() for _ in range(EVENTS + 2)]
        [name] = ask(bus, "CONSUMER.NAMES.RUNS")["consumers"]
        assert name.startswith("ansible-runner-nats-")
        assert ask(bus, f"CONSUMER.DELETE.RUNS.{name}")["success"]
        event_handler(run, {**event(EVENTS + 1), "runner_ident": IDENT})
        lines.append(watch.stdout.readline())
    finally:
        watch.terminate()
        _, said = watch.communicate(timeout=PATIENCE)
    assert len(set(lines)) == EVENTS + 3
    # There was no need to connect anew.
    assert said.count("connected to ") == len(said.splitlines()) == 1
