"""Side by side with ``ansible-runner-nats`` 0.4.0: the same subjects, the same JSON, the same headers."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Job, body, clean_env

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from support import Bus, Server

CACHE = Path(__file__).parent.parent / ".cache"

#: Runs a playbook, then hands its events to the handlers once more, as a dict that is known exactly.
PROGRAM = """
import json, pathlib, sys, types
import ansible_runner
import ansible_runner_nats
folder, version = sys.argv[1:]
assert ansible_runner_nats.__version__.startswith(version), ansible_runner_nats.__version__
options = {'ident': 'real.run', 'limit': 'one', 'quiet': True}
run = ansible_runner.run(private_data_dir=folder, playbook='play.yml', **options)
assert run.status == 'successful', run.status
"""

#: 0.4.0 loses what comes before it is connected and what is on its way at the end: it gets time for both.
REPLAY = """
import json, sys, time, types
import ansible_runner_nats
settings, messages = json.load(sys.stdin)
config = types.SimpleNamespace(settings=settings)
for kind, data in messages:
    if ansible_runner_nats.__version__ == '0.4.0' and kind == 'status':
        time.sleep(1)
    getattr(ansible_runner_nats, kind + '_handler')(config, data)
"""


@pytest.fixture(scope="session")
def old_python() -> Path:
    """An environment of its own with 0.4.0: the import name is the same as ours."""
    folder = CACHE / f"venv-0.4.0-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = ["ansible-runner-nats==0.4.0", "ansible-runner", "ansible-core"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return python


def run(python: Path, program: str, *args: str, env: dict[str, str] | None = None, stdin: str = "") -> None:
    environment = clean_env(env)
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    done = subprocess.run(
        [python, "-c", program, *args],
        env=environment, input=stdin, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def settings(server: Server) -> dict[str, Any]:
    return {
        "nats_subject_id": "site.a",
        "nats_options": {"servers": [server.url], "name": "drop-in"},
        "nats_headers": {"from": "settings", "both": "settings"},
    }


# One host (see PROGRAM): of two, ansible itself may tell in either order, even with one fork.
ENV = {"RUNNER_NATS_HEADERS": "both=environment, more=1", "ANSIBLE_FORKS": "1"}


def headers(message: Msg) -> dict[str, str]:
    """Those of the user: the plugin adds its own."""
    ours = ("Nats-Msg-Id", "Ansible-Runner-")
    return {name: value for name, value in (message.headers or {}).items() if not name.startswith(ours)}


def shape(message: Msg) -> Any:
    """What two runs of one playbook have in common: names, types, and the values that say what happened."""
    data = body(message)
    inner = data.get("event_data", {})
    told = {name: inner.get(name) for name in ("task", "play", "host", "task_action", "item")}
    skeleton = json.loads(json.dumps(data), object_hook=lambda d: {k: kind(v) for k, v in d.items()})
    return message.subject, headers(message), data.get("event"), data.get("status"), told, skeleton


def kind(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return value if isinstance(value, (dict, list)) else type(value).__name__


def test_the_same_playbook(tmp_path: Path, server: Server, bus: Bus, old_python: Path) -> None:
    job = Job(tmp_path / "job", settings(server))
    seen: list[Any] = []
    for python, version in ((old_python, "0.4.0"), (Path(sys.executable), "1.")):
        bus.received.clear()
        # The folder's name is part of the events.
        copy = job.copy(tmp_path / "run")
        run(python, PROGRAM, str(copy.folder), version, env=ENV)
        messages = bus.wait_for_end()
        assert [body(m) for m in messages if m.subject.endswith(".event")] == copy.events()
        seen.append([shape(message) for message in messages])
        copy.folder.rename(tmp_path / f"was-{version}")
    old, new = seen
    # Environments differ in what is installed, hence in `env` of the first status.
    for messages in (old, new):
        messages[0] = messages[0][:4]  # all but the environment
    assert new == old


def test_the_same_data(server: Server, bus: Bus, old_python: Path) -> None:
    ident = "an.ident"
    data: list[tuple[str, dict[str, Any]]] = [
        (
            "status",
            {"status": "starting", "runner_ident": ident, "command": ["a"], "env": {"A": "ü"}, "cwd": "/"},
        ),
        ("status", {"status": "running", "runner_ident": ident}),
    ]
    values: list[Any] = [
        None, True, 1, -1.5, 1e300, 2**70, 'ü€😀\u2028\x00\x7f"\\/', "", [], {}, [[1], {"a": [None]}],
        {"1": 2, "nested": {"deep": [{"x": "y"}]}}, "x" * 100_000,
    ]  # fmt: skip
    for counter, value in enumerate(values, 1):
        event = {"uuid": f"u-{counter}", "counter": counter, "stdout": str(value), "event": "verbose"}
        data.append(("event", {**event, "runner_ident": ident, "event_data": {"res": value}}))
    data.append(("status", {"status": "failed", "runner_ident": ident}))
    seen = []
    for python in (old_python, Path(sys.executable)):
        bus.received.clear()
        run(python, REPLAY, env=ENV, stdin=json.dumps([settings(server), data]))
        seen.append([(m.subject, headers(m), body(m)) for m in bus.wait_for_end()])
    old, new = seen
    assert new == old
    assert len(new) == len(data)
    assert new[0][1] == {"from": "settings", "both": "environment", "more": "1"}
