"""What Python and Rust both know, they know alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import _native, handlers, report
from support import QUICK, config, event, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from support import Bus, Server


class Odd:
    """Neither JSON nor a path."""


@pytest.mark.parametrize(
    "subject_id",
    [
        None, "", "id", "0", "false", 0, 1, -1, 0.0, 0.5, True, False, [], ["a"], {}, {"a": 1}, (), b"",
        Odd(),
    ],
    ids=lambda value: f"{type(value).__name__} {value!s:.6}",
)  # fmt: skip
def test_what_enables(subject_id: Any) -> None:
    settings = {"nats_subject_id": subject_id}
    enabled = handlers._is_enabled(SimpleNamespace(settings=settings))
    assert _native.shared_knowledge(subject_id)["enables"] == enabled
    # Enabled and not understood is said; off is off, without a word.
    lines = [text for _, text in _native.Emitter(settings).notices()]
    understood = isinstance(subject_id, (str, int, float))
    expected = [] if understood or not enabled else ["nats_subject_id: expected text; nothing is published"]
    assert lines == expected


def test_end_states_and_truth() -> None:
    known = _native.shared_knowledge(None)
    assert set(known["end_states"]) == handlers.END_STATES
    for word in [*known["true"], "true ", "Yes", "no", "false", "0", "", "maybe"]:
        asks = handlers._asks_for_required(SimpleNamespace(settings={"nats_options": {"required": word}}))
        assert asks == (word.strip().lower() in known["true"]), word


def test_the_report_of_a_run(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = config(server.url, tmp_path / "artifacts")
    assert report(run) is None
    for counter in range(3):
        handlers.event_handler(run, event(counter))
    bus.wait_for(lambda messages: len(messages) == 3)
    during = report(run)
    assert during is not None
    assert (during["state"], during["accepted"], during["ended"]) == ("running", 3, None)
    handlers.status_handler(run, {"status": "successful"})
    after = report(run)
    assert after is not None
    assert (after["state"], after["confirmed"], after["delivery"]) == ("ended", 4, "core")
    assert after["server"] == f"nats-0 at {server.url}"
    assert (after["subject_id"], after["runner_ident"], after["files"]) == ("id", "r", [])
    assert 0 <= after["waited"] < run.settings["nats_options"]["flush_timeout"]
    assert report(SimpleNamespace(settings={})) is None


def test_the_report_of_a_run_that_nobody_took(tmp_path: Path) -> None:
    run = config(f"nats://127.0.0.1:{free_port()}", tmp_path / "artifacts", **QUICK)
    handlers.event_handler(run, event(7))
    handlers.status_handler(run, {"status": "failed"})
    after = report(run)
    assert after is not None
    assert (after["confirmed"], after["undelivered"], after["lost"], after["server"]) == (0, 2, 0, None)
    assert after["files"] == [str(tmp_path / "artifacts/nats-undelivered.jsonl")]
    assert after["problem"]
    assert "cannot connect" in after["problem"]
