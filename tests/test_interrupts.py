"""Ctrl-C and exit in Python code that the walk over an event calls leave the handler, and nothing is lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import UserDict, UserList
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from ansible_runner_nats._native import encode
from support import config, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Once:
    """Raises the first time, and is a text then."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error: type[BaseException] | None = error

    def __str__(self) -> str:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return "text"


class OnceItems(UserDict[str, int]):
    """The same as a mapping, when it is asked for its items."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__({"a": 1})
        self.error: type[BaseException] | None = error

    def items(self) -> Any:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().items()


class OnceList(UserList[int]):
    """The same as a list, behind its first item."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__([1, 2, 3])
        self.error: type[BaseException] | None = error

    def __iter__(self) -> Iterator[int]:
        for item in self.data:
            if item == 2:
                error, self.error = self.error, None
                if error is not None:
                    raise error
            yield item


KINDS: list[tuple[Callable[[type[BaseException]], object], object]] = [
    (Once, "text"),
    (OnceItems, {"a": 1}),
    (OnceList, [1, 2, 3]),
]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize(("make", "meaning"), KINDS)
def test_it_leaves_the_handler_and_the_message_is_whole(
    tmp_path: Path, error: type[BaseException], make: Callable[[type[BaseException]], object], meaning: object
) -> None:
    run = config("nats://127.0.0.1:1", tmp_path, flush_timeout=0)
    event_handler(run, {"counter": 1, "uuid": "u"})
    with pytest.raises(error):
        event_handler(run, {"counter": 2, "uuid": "u", "value": [make(error)], "last": 1})
    event_handler(run, {"counter": 3, "uuid": "u"})
    with pytest.raises(error):
        status_handler(run, {"status": "running", "value": make(error)})
    status_handler(run, {"status": "failed"})
    lines = (tmp_path / "nats-undelivered.jsonl").read_text().splitlines()
    payloads = [json.loads(json.loads(line)["payload"]) for line in lines]
    assert [payload.get("counter") for payload in payloads] == [1, 2, 3, None, None]
    assert payloads[1] == {"counter": 2, "uuid": "u", "value": [meaning], "last": 1}
    assert payloads[3]["value"] == meaning
    told = report(run)
    assert told is not None
    assert (told["accepted"], told["undelivered"], told["lost"]) == (5, 5, 0)


def test_no_other_error_leaves_it(tmp_path: Path) -> None:
    run = config("nats://127.0.0.1:1", tmp_path, flush_timeout=0)
    for kind, _ in KINDS:
        event_handler(run, {"counter": 1, "uuid": "u", "value": kind(RuntimeError)})
    with pytest.raises(KeyboardInterrupt):
        encode(Once(KeyboardInterrupt))
    # It was that call's, and nobody else's.
    assert encode([1]) == b"[1]"
    status_handler(run, {"status": "failed"})


class Slow:
    """So much Python code that Ctrl-C comes in the midst of it."""

    def __str__(self) -> str:
        for _ in range(2000):
            pass
        return "slow"


def test_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    """Each that was sent leaves a handler or the loop around it; each event is there once."""
    run = config("nats://127.0.0.1:1", tmp_path, flush_timeout=0)
    main = threading.main_thread().ident
    assert main is not None
    count, seen, done = 60, 0, 0
    stop = threading.Event()

    def interrupt() -> None:
        # An event takes some milliseconds. Whoever interrupts it again and again gets what he wants.
        while not stop.wait(0.03):
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    data = [{"counter": n, "uuid": f"u{n}", "value": [Slow()] * 50} for n in range(count)]
    try:
        thread.start()
        while done < count:
            try:
                while done < count:
                    one = data[done]
                    done += 1
                    event_handler(run, one)
            except KeyboardInterrupt:  # noqa: PERF203
                seen += 1
    finally:
        while True:
            try:
                stop.set()
                thread.join()
                time.sleep(0.01)
                break
            except KeyboardInterrupt:
                seen += 1
    assert seen > 0
    status_handler(run, {"status": "failed"})
    lines = (tmp_path / "nats-undelivered.jsonl").read_text().splitlines()
    payloads = [json.loads(json.loads(line)["payload"]) for line in lines]
    counters = [payload["counter"] for payload in payloads if "counter" in payload]
    # One that was interrupted before it was handed over is nobody's; none is there twice, none is half.
    assert sorted(set(counters)) == sorted(counters)
    assert all(payload["value"] == ["slow"] * 50 for payload in payloads if "counter" in payload)
    told = report(run)
    assert told is not None
    assert (told["accepted"], told["lost"]) == (len(counters) + 1, 0)


AT_THE_END = """
import threading, time, types
from ansible_runner_nats import event_handler
class Slow:
    def __str__(self):
        time.sleep(0.05)
        return 'slow'
options = {'servers': 'nats://127.0.0.1:1', 'flush_timeout': 0}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
def publish():
    counter = 0
    while True:
        counter += 1
        event_handler(config, {'counter': counter, 'uuid': 'u', 'value': [Slow(), Slow()]})
threading.Thread(target=publish, daemon=True).start()
time.sleep(0.3)
"""


def test_the_interpreters_end_while_a_daemon_thread_publishes(tmp_path: Path) -> None:
    """It may be in the midst of somebody's ``__str__``: no abort."""
    for number in range(5):
        done = python(AT_THE_END.replace("FOLDER", repr(str(tmp_path / str(number)))))
        assert (done.returncode, "fatal" in done.stderr.lower()) == (0, False), done.stderr
