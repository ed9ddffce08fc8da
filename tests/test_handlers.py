"""The shim: which run a message belongs to, where problems are shown, and that nothing gets out."""

from __future__ import annotations

import gc
import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, handlers, status_handler
from support import PATIENCE, QUICK, body, free_port, python, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support import Bus, Server


class Config:
    """What the handlers use of ``ansible_runner.RunnerConfig``."""

    def __init__(self, url: str, **attributes: Any) -> None:
        self.settings: dict[str, Any] = {"nats_subject_id": "id", "nats_options": {**QUICK, "servers": url}}
        vars(self).update(attributes)


def event(counter: int, **more: Any) -> dict[str, Any]:
    return {"counter": counter, "uuid": f"u{counter}", "event": "verbose", "runner_ident": "r", **more}


def end(**more: Any) -> dict[str, Any]:
    return {"status": "successful", "runner_ident": "r", **more}


def subjects(bus: Bus) -> list[str]:
    return [m.subject for m in bus.wait_for_end() if m.subject.startswith("pub.")]


def test_ident_from_data_config_last_seen_or_unknown(server: Server, bus: Bus) -> None:
    with_ident = Config(server.url, ident="from.config")
    event_handler(with_ident, {"counter": 1, "uuid": "a"})
    event_handler(with_ident, event(2, runner_ident="from data"))
    event_handler(with_ident, {"counter": 3, "uuid": "a"})
    status_handler(with_ident, {"status": "failed"})
    without = Config(server.url)
    event_handler(without, {"counter": 1, "uuid": "b"})
    event_handler(without, event(2, runner_ident="seen"))
    status_handler(without, {"status": "error"})
    bus.wait_for_end(2)
    assert [s.removeprefix("pub.ansible.runner.id.") for s in subjects(bus)] == [
        "from.config.event",
        "from_data.event",
        "from.config.event",
        "from.config.status",
        "unknown.event",
        "seen.event",
        "seen.status",
    ]


def test_ids_differ_between_messages_and_agree_between_repeats(server: Server, bus: Bus) -> None:
    for _ in range(2):
        config = Config(server.url)
        status_handler(config, {"status": "running", "runner_ident": "r"})
        event_handler(config, event(1))
        event_handler(config, event(1, uuid="other"))
        event_handler(config, {"event": "no counter, no uuid", "runner_ident": "r"})
        status_handler(config, end())
    ids = [m.headers["Nats-Msg-Id"] for m in bus.wait_for_end(2) if m.headers]
    assert len(ids) == 10
    assert ids[1:3] == ids[6:8] == ["id.r.1.u1", "id.r.1.other"]
    assert len(set(ids)) == 8


def test_one_configuration_after_the_other_at_the_same_address(server: Server, bus: Bus) -> None:
    """CPython gives a dead object's ``id`` to the next one: the runs must not be mixed up."""
    for number in range(20):
        config = Config(server.url, ident=f"run{number}")
        event_handler(config, {"counter": 1, "uuid": "x"})
        del config
        gc.collect()
    wait_until(lambda: len([m for m in bus.received if m.subject.startswith("pub.")]) == 20)
    idents = {m.subject.split(".")[4] for m in bus.received if m.subject.startswith("pub.")}
    assert idents == {f"run{number}" for number in range(20)}
    assert not handlers._emitters


def test_configurations_without_weak_references_or_attributes(server: Server, bus: Bus) -> None:
    class Slotted:
        __slots__ = ("settings",)
        settings: Any

    slotted = Slotted()
    slotted.settings = Config(server.url).settings
    status_handler(slotted, end())
    status_handler(SimpleNamespace(settings=Config(server.url).settings), end())
    bus.wait_for_end(2)
    status_handler(object(), end())
    status_handler(SimpleNamespace(settings=None), end())
    status_handler(SimpleNamespace(settings=42), end())


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"runner_ident": object(), "counter": object(), "uuid": object()},
        {"runner_ident": "\ud800", "counter": "1\r\n2", "uuid": "\0"},
        {"status": ["unhashable"]},
        {1: 2, None: {3}},
    ],
)
def test_nothing_gets_out(
    server: Server, bus: Bus, data: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(server.url)
    event_handler(config, data)
    status_handler(config, data)
    status_handler(config, end())
    assert len(subjects(bus)) == 3
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_failure_of_ours_is_contained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Panic(BaseException):
        __module__ = "pyo3_runtime"

    monkeypatch.setattr(handlers, "_contained", set())
    for failure in (OSError("disk"), Panic("canary in what a panic quotes"), OSError("disk")):

        def fail(*_: Any, failure: BaseException = failure) -> None:
            raise failure

        monkeypatch.setattr(handlers, "_emitter", fail)
        event_handler(Config("nats://127.0.0.1:1"), event(1))
    # Once a cause, not once an event.
    assert [r.getMessage().strip() for r in caplog.records] == [
        "internal error: OSError: disk",
        "internal error in the native library at",
    ]


def test_ctrl_c_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(handlers, "_emitter", interrupt)
    with pytest.raises(KeyboardInterrupt):
        event_handler(Config("nats://127.0.0.1:1"), event(1))


def test_problems_go_to_a_handler_that_shows_them(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    config = Config(f"nats://127.0.0.1:{free_port()}")
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        status_handler(config, end())
    assert any("cannot connect" in record.getMessage() for record in caplog.records)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "import ansible_runner.output; ansible_runner.output.configure()",
        "logging.getLogger('ansible-runner').propagate = False",
        "logging.basicConfig(level=logging.CRITICAL)",
    ],
)
def test_problems_that_no_handler_shows_go_to_standard_error(setup: str, tmp_path: Path) -> None:
    code = f"""
import logging, types
{setup}
from ansible_runner_nats import status_handler
options = {{'servers': 'nats://127.0.0.1:{free_port()}', 'flush_timeout': 0.2}}
settings = {{'nats_subject_id': 'id', 'nats_options': options}}
config = types.SimpleNamespace(settings=settings, artifact_dir={str(tmp_path)!r})
status_handler(config, {{'status': 'successful'}})
"""
    done = python(code)
    assert done.returncode == 0
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["ansible-runner-nats"] * 2


def test_the_report_says_how_it_went(server: Server, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(server.url)
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        event_handler(config, event(1))
        status_handler(config, end())
    bus.wait_for_end()
    report = caplog.records[-1]
    assert report.levelno == logging.INFO
    assert report.getMessage().startswith(
        f"run r: 2 messages confirmed by nats-0 at {server.url} (core); waited"
    )


def test_verbose_tells_each_step(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(server.url)
    config.settings["nats_options"]["verbose"] = True
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        status_handler(config, end())
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == f"connecting to {server.url}"
    assert texts[1].startswith(f"connected to nats-0 at {server.url}, version ")


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 2)"])
def test_a_run_without_an_end_does_not_hang_and_is_delivered(server: Server, bus: Bus, ending: str) -> None:
    code = f"""
import types
from ansible_runner_nats import event_handler
options = {{'servers': '{server.url}'}}
config = types.SimpleNamespace(settings={{'nats_subject_id': 'id', 'nats_options': options}})
for n in range(500):
    event_handler(config, {{'counter': n, 'uuid': 'u', 'runner_ident': 'r'}})
{ending}
"""
    python(code)
    wait_until(lambda: len([m for m in bus.received if m.subject.startswith("pub.")]) == 500)
    assert [body(m)["counter"] for m in bus.received if m.subject.startswith("pub.")] == list(range(500))


def test_runs_in_threads_share_a_connection(server: Server, bus: Bus) -> None:
    barrier = threading.Barrier(20)

    def run(number: int) -> None:
        config = Config(server.url, ident=f"t{number}")
        barrier.wait(PATIENCE)
        for counter in range(50):
            event_handler(config, {"counter": counter, "uuid": "u"})
        status_handler(config, {"status": "successful"})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    bus.wait_for_end(20)
    for number in range(20):
        subject = f"pub.ansible.runner.id.t{number}.event"
        counters = [body(m)["counter"] for m in bus.received if m.subject == subject]
        assert counters == list(range(50))
