"""Servers that lie, flood or babble: no crash, no growth, nothing counted as delivered that was not."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
from ansible_runner_nats import event_handler, status_handler
from hostile_server import INFO, Connection, HostileServer
from support import PATIENCE, config, event, python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support import Bus, Server

RUN = """
import re, sys, types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': URL, 'connect_timeout': 1, 'reconnect_time_wait': 0.1, 'flush_timeout': 3, **MORE}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) // 1024
from ansible_runner_nats import _native
before = peak()
for n in range(50):
    event_handler(config, {'counter': n, 'uuid': 'u'})
status_handler(config, {'status': 'successful'})
print(peak() - before)
"""


def run(url: str, folder: Path, more: dict[str, object] | None = None) -> tuple[str, int, int]:
    """What was said, how many messages are on disk, and by how many MiB the process grew."""
    code = (
        RUN.replace("URL", repr(url)).replace("FOLDER", repr(str(folder))).replace("MORE", repr(more or {}))
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "panicked" not in done.stderr
    assert all(line.startswith("ansible-runner-nats: ") for line in done.stderr.splitlines())
    kept = sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))
    return done.stderr, kept, int(done.stdout)


GARBAGE = {
    "no JSON": b"INFO {\r\n",
    "not an object": b"INFO []\r\n",
    "empty": b"INFO \r\n",
    "wrong types": b'INFO {"max_payload":"big","server_id":7}\r\n',
    "negative payload": b'INFO {"server_id":"x","version":"2","max_payload":-1,"headers":true}\r\n',
    "no UTF-8": b'INFO {"server_id":"\xff\xfe"}\r\n',
    "deep": b"INFO " + b"[" * 100_000 + b"\r\n",
    "nul": b"\0" * 1000 + b"\r\n",
    "another protocol": b"HTTP/1.1 302 Found\r\nLocation: nats://127.0.0.1:1\r\n\r\n",
    "an error at once": b"-ERR 'go \r away\x1b[2J'\r\n",
    "a message at once": b"MSG a 1 0\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_greeting_of_garbage(tmp_path: Path, garbage: str) -> None:
    with HostileServer(lambda connection: connection.send(GARBAGE[garbage])) as server:
        said, kept, grown = run(server.url, tmp_path)
    assert f"cannot connect to {server.url}: " in said
    assert "\x1b" not in said
    assert kept == 51
    assert grown < 32


def forever(data: bytes) -> Callable[[Connection], None]:
    def behave(connection: Connection) -> None:
        connection.greet()
        for piece in itertools.repeat(data):
            connection.send(piece)

    return behave


def first(head: bytes, data: bytes) -> Callable[[Connection], None]:
    def behave(connection: Connection) -> None:
        connection.greet()
        connection.send(head)
        for piece in itertools.repeat(data):
            connection.send(piece)

    return behave


BLOCK = b"x" * 65_536


def violations_of_others(connection: Connection) -> None:
    """Each about another subject, which we never used."""
    connection.greet()
    for number in itertools.count():
        subject = b"a.%d." % number + b"x" * 20_000
        connection.send(b"-ERR 'Permissions Violation for Publish to \"" + subject + b"\"'\r\n")


def not_now_and_much_else(connection: Connection) -> None:
    """A stream that has no leader, and large messages to our inbox while we wait for one."""
    connection.greet()
    for line in connection.lines():
        if b".a.0.0" in line:
            connection.deliver(connection.inbox + b".a.0.0", NOT_NOW)
            for number in range(1, 2000):
                connection.deliver(connection.inbox + b".a.7.%d" % number, b"x" * 900_000)


NOT_NOW = b'{"error":{"code":503,"err_code":10008,"description":"no leader"}}'

FLOODS = {
    "a line without end": first(b"-ERR ", BLOCK),
    "a huge message": first(b"MSG a 1 9000000000\r\n", BLOCK),
    "huge headers": first(b"HMSG a 1 8000000000 9000000000\r\n", BLOCK),
    "greetings": forever(INFO * 100),
    "errors": forever(b"-ERR 'no'\r\n" * 1000),
    "violations of others": violations_of_others,
    "violations": forever(b"-ERR 'Permissions Violation for Publish to \"a.b\"'\r\n" * 1000),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood(tmp_path: Path, flood: str) -> None:
    with HostileServer(FLOODS[flood]) as server:
        said, kept, grown = run(server.url, tmp_path)
    assert kept == 51, said
    assert "0 messages confirmed" in said
    # async-nats reads up to 128 times before anybody else has a turn. Unwatched it is a gigabyte in a second.
    assert grown < 128


#: What the process itself grows by, in MiB.
OWN = 64


def of_one_turn(size: int) -> int:
    """MiB that may lie in memory at once.

    A turn of async-nats is 128 reads, and each takes no more than the buffer has room for, which is about a
    message. A server that is quick enough fills it each time.
    """
    return 128 * size // 1_048_576 + OWN


def test_a_flood_while_we_wait_for_the_stream(tmp_path: Path) -> None:
    with HostileServer(not_now_and_much_else) as server:
        said, kept, grown = run(server.url, tmp_path, {"stream": "RUNS", "flush_timeout": 1})
    assert kept == 51, said
    assert grown < of_one_turn(900_000)


def closes_when_asked(connection: Connection) -> None:
    """Accepts us, and leaves at the first message that is not the hello: one of ours, which is sent again."""
    connection.greet()
    for line in connection.lines():
        if b"PUB" in line:
            connection.hang_up()
            return


def leaves_at_once(connection: Connection) -> None:
    info = json.loads(INFO.removeprefix(b"INFO "))
    connection.greet()
    connection.send(b"INFO " + json.dumps({**info, "ldm": True}).encode() + b"\r\n")


def cannot_say(connection: Connection) -> None:
    """Answers the question for streams with an error, at once."""
    connection.greet()
    for line in connection.lines():
        if b"STREAM.NAMES" in line:
            connection.deliver(line.split()[2], NOT_NOW)


@pytest.mark.parametrize("behave", [closes_when_asked, leaves_at_once, cannot_say])
def test_no_storm_of_connections(tmp_path: Path, behave: Callable[[Connection], None]) -> None:
    """A server that is of no use is asked again after a pause, not at once for ever."""
    with HostileServer(behave) as server:
        said, kept, _ = run(server.url, tmp_path, {"reconnect_time_wait": 0.5})
        # In three seconds: one at once, then one after each pause (and one a session's end).
        assert 1 <= server.accepted <= 8
    assert kept == 51, said
    assert ("sent again" in said) is (behave is closes_when_asked)


def test_a_server_that_has_no_stream_is_left_for_one_that_has(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    """As a node does that is cut off from its cluster, but not from us."""
    other = start_server(jetstream=True)
    bus = connect(other)
    bus.add_stream()
    with HostileServer(cannot_say) as server:
        options: dict[str, object] = {"dont_randomize": True, "flush_timeout": 20}
        said, kept, _ = run(f"{server.url},{other.url}", tmp_path, options)
    assert (kept, bus.stream_count()) == (0, 51), said


@pytest.mark.parametrize("size", [1_000_000, 4_000_000])
def test_large_messages_to_our_inbox(tmp_path: Path, size: int) -> None:
    """Without end, and read: nothing of them is kept."""
    sent = 0

    def behave(connection: Connection) -> None:
        nonlocal sent
        connection.greet()
        for number in itertools.count():
            connection.deliver(connection.inbox + b".a.0.%d" % number, b"x" * size)
            sent += size

    with HostileServer(behave) as server:
        for seconds in (1, 4, 16):
            sent = 0
            folder = tmp_path / str(seconds)
            said, kept, grown = run(server.url, folder, {"flush_timeout": seconds})
            assert kept == 51, said
            assert grown < of_one_turn(size)
            # Of less than that nothing could be said: a busy machine sends little in a second.
            if sent > 2 * of_one_turn(size) * 1_048_576:
                break
    assert grown < sent / 1_048_576 / 2


def answering(subjects: list[bytes], payload: bytes) -> Callable[[Connection], None]:
    """Answers whatever is published, but not as asked."""

    def behave(connection: Connection) -> None:
        connection.greet()
        for _ in connection.lines():
            for subject in subjects:
                connection.deliver(connection.inbox + subject, payload)

    return behave


STORED = b'{"stream":"S","seq":7}'
FAR = [b".a.0.%d" % number for number in range(1000, 1100)]

LIES = {
    "acks of what was never sent": (FAR, STORED),
    "numbers that are none": (
        [b".a.0.x", b".a.-1.0", b".a.0.99999999999999999999999", b".a", b".a.0", b"."],
        STORED,
    ),
    "markers of what was never sent": ([b".m.%d" % number for number in range(1000, 1100)], b""),
    "markers that are none": ([b".m.0.0", b".m.18446744073709551615", b".m.x", b".m."], b""),
    "answers to nothing": ([b".q.99", b".hello", b".x.0.0"], STORED),
    "acks that say nothing": ([b".a.0.%d" % number for number in range(60)], b"{}"),
    "acks that are garbage": ([b".a.0.%d" % number for number in range(60)], b"\xff\0["),
    "acks of nothing stored": ([b".a.0.%d" % number for number in range(60)], b'{"stream":"S","seq":0}'),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("delivery", ["core", "jetstream", "auto"])
def test_lies_confirm_nothing(tmp_path: Path, lie: str, delivery: str) -> None:
    with HostileServer(answering(*LIES[lie])) as server:
        said, kept, grown = run(server.url, tmp_path, {"delivery": delivery, "flush_timeout": 1})
    assert kept == 51, said
    assert "0 messages confirmed" in said
    assert grown < 64


def test_acks_nobody_asked_for(tmp_path: Path) -> None:
    """With ``core`` we ask for no acks: one that comes all the same is no proof."""
    subjects = [b".a.0.%d" % number for number in range(60)]
    with HostileServer(answering(subjects, STORED)) as server:
        said, kept, _ = run(server.url, tmp_path, {"delivery": "core", "flush_timeout": 1})
    assert kept == 51, said


def test_a_stream_that_is_just_coming_back(tmp_path: Path) -> None:
    """The first message of each attempt finds no stream, what comes after it does: no order of ours."""
    stored: list[int] = []
    denied = 0

    def behave(connection: Connection) -> None:
        nonlocal denied
        connection.greet()
        for number, reply in connection.messages():
            if denied < 3 and number == 0:
                denied += 1
                connection.deny(reply)
            else:
                stored.append(number)
                connection.deliver(reply, STORED)

    with HostileServer(behave) as server:
        said, kept, _ = run(server.url, tmp_path, {"delivery": "jetstream"})
    assert (kept, denied) == (0, 3), said
    assert stored == list(range(51))


def test_a_stream_that_owes_an_answer_gets_no_more(tmp_path: Path) -> None:
    """Its leader may be gone with the message, and the next one is not to store the later ones first."""
    swallowed = threading.Event()
    stored: list[int] = []

    def behave(connection: Connection) -> None:
        connection.greet()
        for number, reply in connection.messages():
            if number == 2 and not swallowed.is_set():
                swallowed.set()
                continue
            stored.append(number)
            connection.deliver(reply, STORED)

    with HostileServer(behave) as server:
        run = config(server.url, tmp_path, delivery="jetstream", flush_timeout=60)
        for counter in range(2):
            event_handler(run, event(counter))
        assert wait_until(lambda: stored == [0, 1])
        event_handler(run, event(2))
        assert swallowed.wait(PATIENCE)
        # No leader is elected sooner.
        time.sleep(2)
        event_handler(run, event(3))
        status_handler(run, {"status": "successful"})
    assert stored == list(range(5))


def redirecting(urls: list[str]) -> Callable[[Connection], None]:
    def behave(connection: Connection) -> None:
        info = json.loads(INFO.removeprefix(b"INFO "))
        connection.send(b"INFO " + json.dumps({**info, "connect_urls": urls}).encode() + b"\r\n")
        for line in connection.lines():
            if b".hello" in line:
                connection.deliver(connection.inbox + b".hello")
                connection.sock.close()
                return

    return behave


def test_redirects(tmp_path: Path) -> None:
    """Odd addresses are not learnt, endless ones not kept, and a redirect confirms nothing."""
    seen: list[bytes] = []

    def listen(connection: Connection) -> None:
        connection.send(INFO)
        seen.extend(itertools.islice(connection.lines(), 1))

    with HostileServer(listen) as other:
        port = other.url.rsplit(":", 1)[1]
        urls = ["user:pw@127.0.0.1:1", "127.0.0.1:1/../x", "::", "", "x" * 100_000, f"127.0.0.1:{port}"]
        urls += [f"127.0.0.{number % 250}:1" for number in range(20_000)]
        with HostileServer(redirecting(urls)) as server:
            said, kept, grown = run(server.url, tmp_path)
    assert kept == 51, said
    assert grown < 64
    # A server of the cluster, as far as we can know: it is asked, and gets nothing but a greeting.
    assert all(line.startswith((b"CONNECT", b"PING")) for line in seen)


COMMAND = """
import os, re, signal, sys, threading
from ansible_runner_nats import _native
def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) // 1024
before = peak()
arguments = ARGUMENTS
stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
timer = threading.Timer(20 if arguments[0] in ('check', 'stream') else 3, stop)
timer.start()
status = _native.main(['ansible-runner-nats', *arguments])
timer.cancel()
print('\\n', status, peak() - before)
"""


@pytest.mark.parametrize("flood", ["a huge message", "a line without end", "errors"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["check"], ["stream"], ["runs"], ["logs", "x"], ["wait", "x"], ["watch"], ["replay", "."],
        ["serve", "--listen", "127.0.0.1:0"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_commands_and_a_flood(tmp_path: Path, arguments: list[str], flood: str) -> None:
    """Whatever a server sends, a command keeps to its memory, and says what is wrong if it ends."""
    kept_run(tmp_path)
    with HostileServer(FLOODS[flood]) as server:
        env = {"RUNNER_NATS_SERVERS": server.url, "RUNNER_NATS_SUBJECT_ID": "id"}
        done = python(COMMAND.replace("ARGUMENTS", repr(arguments)), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status, grown = done.stdout.splitlines()[-1].split()
    # `serve` goes on until it is told to stop.
    assert (status == "0") == (arguments[0] == "serve")
    assert int(grown) < 128


def kept_run(folder: Path) -> None:
    """What `replay` could send."""
    run = config("nats://127.0.0.1:1", folder, flush_timeout=0)
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    assert (folder / "nats-undelivered.jsonl").exists()
