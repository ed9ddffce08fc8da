"""What is larger than the server takes: cut to fit, never the connection, never much memory."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import body, events_of, free_port, python, wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Bus, Server

MARKER = re.compile(r"\.\.\. \[(\d+) bytes cut by ansible-runner-nats\]$")


def config(url: str, folder: Path, **options: Any) -> SimpleNamespace:
    options = {"servers": url, "reconnect_time_wait": 0.1, "flush_timeout": 20, **options}
    settings = {
        "nats_subject_id": "id",
        "nats_options": options,
        "nats_headers": {"team": "x" * 1000, "other": "ü" * 500},
    }
    return SimpleNamespace(settings=settings, ident="r", artifact_dir=str(folder))


def event(counter: int, size: int = 100) -> dict[str, Any]:
    return {"counter": counter, "uuid": "u", "event": "verbose", "stdout": "ü\n" * (size // 4)}


def wire_size(message: Msg) -> int:
    """Headers and payload, as the server counts them."""
    block = "NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in (message.headers or {}).items()) + "\r\n"
    return len(block.encode()) + len(message.data)


def check_cut(message: Msg, original: int, text: str, limit: int) -> None:
    """Fits as tightly as can be, says what went, and is whole otherwise."""
    assert message.headers is not None
    assert int(message.headers["Ansible-Runner-Truncated"]) == original
    assert limit - 100 < wire_size(message) <= limit
    found = MARKER.search(body(message)["stdout"])
    assert found
    kept = body(message)["stdout"][: found.start()]
    assert text.startswith(kept)
    assert len(kept.encode()) + int(found[1]) == len(text.encode())


def test_events_around_the_limit(server: Server, bus: Bus, tmp_path: Path) -> None:
    """To the byte: the largest that fits is whole, one byte more is cut."""
    run = config(server.url, tmp_path)
    event_handler(run, {"counter": 0, "uuid": "u", "stdout": ""})
    overhead = wire_size(bus.wait_for(bool)[0])
    for counter, size in enumerate([-1, 0, 1, 2, 100]):
        event_handler(run, {"counter": counter, "uuid": "u", "stdout": "x" * ((1 << 20) - overhead + size)})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()[1:]
    sizes = [wire_size(message) - (1 << 20) for message in messages[:5]]
    truncated = ["Ansible-Runner-Truncated" in (message.headers or {}) for message in messages[:5]]
    assert sizes[:2] == [-1, 0]
    assert all(-100 < size <= 0 for size in sizes[2:])
    assert truncated == [False, False, True, True, True]


def test_a_status_is_cut_like_an_event(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = config(server.url, tmp_path)
    command = ["play", *[f"argument {number} " + "x" * 100 for number in range(50_000)]]
    env = {f"VARIABLE_{number}": "y" * 50 for number in range(50_000)}
    status_handler(
        run, {"status": "starting", "runner_ident": "r", "command": command, "env": env, "cwd": "/"}
    )
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    first, last = bus.wait_for_end()
    assert first.headers is not None
    assert int(first.headers["Ansible-Runner-Truncated"]) > 9_000_000
    assert body(first)["status"] == "starting"
    assert body(first)["cwd"] == "/"
    assert body(last) == {"status": "successful", "runner_ident": "r"}


def test_what_cannot_be_cut_is_kept_on_disk(
    server: Server, bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(server.url, tmp_path)
    event_handler(run, event(1))
    flat = {f"key number {number}": number for number in range(100_000)}
    event_handler(run, {"counter": 2, "uuid": "u", **flat})
    event_handler(run, event(3))
    status_handler(run, {"status": "successful"})
    assert [data["counter"] for data in events_of(bus.wait_for_end())] == [1, 3]
    (line,) = (tmp_path / "nats-undelivered.jsonl").read_text().splitlines()
    assert json.loads(json.loads(line)["payload"]) == {"counter": 2, "uuid": "u", **flat}
    texts = [record.getMessage() for record in caplog.records]
    assert any("do not fit into the server's max_payload of 1048576 bytes" in text for text in texts)
    assert any("1 kept in" in text for text in texts)


def test_each_server_has_a_limit_of_its_own(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    """The same waiting events, first for a server that takes little, then for one that takes more."""
    small = start_server(config="max_payload: 20000")
    large = start_server(config="max_payload: 200000")
    run = config(f"{small.url},{large.url}", tmp_path, dont_randomize=True)
    first, second = connect(small).subscribe(), connect(large).subscribe()
    data = event(1, 100_000)
    original = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    event_handler(run, data)
    check_cut(first.wait_for(bool)[0], original, data["stdout"], 20_000)
    small.kill()
    event_handler(run, {**data, "counter": 2})
    event_handler(run, {**event(3, 500_000), "stdout": data["stdout"] * 5})
    status_handler(run, {"status": "successful"})
    whole, cut = [message for message in second.wait_for_end() if body(message).get("counter") in {2, 3}]
    assert body(whole) == {**data, "counter": 2}
    check_cut(
        cut,
        original + 4 * len(json.dumps(data["stdout"], ensure_ascii=False).encode()) - 8,
        data["stdout"] * 5,
        200_000,
    )


def test_a_limit_that_shrinks(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(config="max_payload: 200000")
    bus = connect(server).subscribe()
    run = config(server.url, tmp_path)
    data = event(1, 100_000)
    event_handler(run, data)
    bus.wait_for(bool)
    server.config = "max_payload: 20000"
    server.restart()
    wait_until(lambda: bus.client.is_connected)
    bus.run(bus.client.flush())
    for counter in range(2, 50):
        event_handler(run, {**data, "counter": counter})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert {data["counter"] for data in events_of(messages)} == set(range(1, 50))
    original = len(json.dumps({**data, "counter": 10}, ensure_ascii=False, separators=(",", ":")).encode())
    check_cut(messages[-2], original, data["stdout"], 20_000)


def test_a_limit_that_shrinks_under_our_feet(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    """The server's configuration is reloaded while we are connected."""
    import signal as signals

    server = start_server(config="max_payload: 200000")
    bus = connect(server).subscribe()
    run = config(server.url, tmp_path)
    data = event(1, 100_000)
    event_handler(run, data)
    bus.wait_for(bool)
    path = server.folder / "server.conf"
    path.write_text(path.read_text().replace("200000", "20000"))
    reload: signal.Signals = signals.SIGHUP
    server.signal(reload)
    wait_until(lambda: "Reloaded" in (server.folder / "log").read_text())
    for counter in range(2, 50):
        event_handler(run, {**data, "counter": counter})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert {data["counter"] for data in events_of(messages)} == set(range(1, 50))


SHAPES = {
    "one string": "event({'stdout': 'ü' * 100_000_000})",
    "many strings": "event({'res': ['ü' * 50_000 for _ in range(2000)]})",
    "short strings": "event({'res': ['x' * 70 for _ in range(2_700_000)]})",
    "numbers": "event({'res': [12345678] * 22_000_000})",
    "lists": "event({f'k{n}': [12345678] * 220_000 for n in range(100)})",
    "bytes": "event({'stdout': b'\\xff' * 66_000_000})",
    "status": "status({'status': 'starting', 'command': ['a'], 'env': {}, 'cwd': 'ü' * 100_000_000})",
    "status of many": "status({'command': ['x' * 70 for _ in range(2_700_000)]})",
}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_event_of_two_hundred_megabytes(
    server: Server, bus: Bus, tmp_path: Path, *, shape: str, there: bool
) -> None:
    """The process grows by its encoded size and a bit, whether somebody takes it or not."""
    url = server.url if there else f"nats://127.0.0.1:{free_port()}"
    code = f"""
import re, types
from ansible_runner_nats import event_handler, status_handler
options = {{'servers': {url!r}, 'flush_timeout': {20 if there else 1}}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, ident='r', artifact_dir={str(tmp_path)!r})
event_handler(config, {{'counter': 1, 'uuid': 'u'}})
def event(data):
    return event_handler, {{'counter': 2, 'uuid': 'u', **data}}
def status(data):
    return status_handler, data
handler, data = {SHAPES[shape]}
def peak():
    # Not ru_maxrss, which begins with the parent's.
    return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024
before = peak()
handler(config, data)
event_handler(config, {{'counter': 3, 'uuid': 'u'}})
status_handler(config, {{'status': 'successful'}})
print(peak() - before)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    print(f"grew by {grown >> 20} MiB")
    assert grown < 200_000_000 + (32 << 20)
    if there:
        assert [body(message).get("counter") for message in bus.wait_for_end()] == [
            1,
            None if shape.startswith("status") else 2,
            3,
            None,
        ]
        cut = bus.received[1]
        assert cut.headers is not None
        assert int(cut.headers["Ansible-Runner-Truncated"]) > 190_000_000
    else:
        paths = list(tmp_path.glob("*.jsonl"))
        assert sum(len(path.read_bytes().splitlines()) for path in paths) == 4
        assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
