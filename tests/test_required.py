"""`required`: the job starts only if the status `starting` itself was confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import NatsRequiredError, event_handler, status_handler
from support import TESTER, Bus, Job, Server, cli, config, event, statuses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ON = {"RUNNER_NATS_SUBJECT_ID": "id"}
STARTING = {"status": "starting", "runner_ident": "r"}

#: The server may not let this user publish statuses.
NO_STATUS = """
authorization {{ users: [
    {{user: "tester", password: "t"}},
    {{user: "me", password: "p", permissions: {{publish: {{deny: "pub.*.*.*.*.status"}}}}}},
    {{user: "mute", password: "p", permissions: {{subscribe: {{deny: "_INBOX.>"}}}}}}
] }}
""".replace("{{", "{").replace("}}", "}")

#: Server, stream (`None`: none), our options, and why the job does not start.
REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], str]] = {
    "nobody there": ({}, None, {"servers": "nats://127.0.0.1:1"}, "Connection refused"),
    "stream full": (
        {"jetstream": True}, {"max_msgs": 1, "discard": "new"}, {}, "maximum messages exceeded",
    ),
    "no stream": ({"jetstream": True}, None, {"delivery": "jetstream"}, "no stream takes messages"),
    "wrong stream": ({"jetstream": True}, {}, {"stream": "OTHER"}, "expected stream does not match"),
    "messages too large": ({"jetstream": True}, {"max_msg_size": 10}, {}, "message size exceeds maximum"),
    "sealed": ({"jetstream": True}, {"sealed": True}, {}, "sealed"),
    "no right to publish": (
        {"config": NO_STATUS, "credentials": TESTER}, None, {"user": "me", "password": "p"},
        "does not let this user publish",
    ),
    "nothing can be confirmed": (
        {"config": NO_STATUS, "credentials": TESTER}, None, {"user": "mute", "password": "p"},
        "does not let us use the inbox",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_it_is_not_confirmed(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, what: str
) -> None:
    server_options, stream, ours, expected = REFUSALS[what]
    server = start_server(**server_options)
    bus = connect(server)
    if stream is not None:
        sealed = stream.get("sealed", False)
        bus.add_stream(**{key: value for key, value in stream.items() if key != "sealed"})
        bus.run(bus.client.jetstream().publish("pub.x", b"1"))
        if sealed:

            async def seal() -> None:
                info = await bus.client.jetstream().stream_info("RUNS")
                await bus.client.jetstream().update_stream(info.config.evolve(sealed=True))

            bus.run(seal())
    options = {"required": True, "flush_timeout": 2, "connect_timeout": 1, **ours}
    run = config(server.url, tmp_path, **options)
    with pytest.raises(NatsRequiredError, match=expected):
        status_handler(run, STARTING)
    # There was no such run: nothing of it is kept.
    assert [path for path in tmp_path.iterdir() if path.name.startswith("nats-") and path.is_file()] == []


@pytest.mark.parametrize("stream", [True, False])
def test_it_is_confirmed(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, *, stream: bool
) -> None:
    server = start_server(jetstream=stream)
    bus = connect(server).subscribe()
    if stream:
        bus.add_stream()
    run = config(server.url, tmp_path, required=True)
    status_handler(run, STARTING)
    # It is there when the handler returns, and once.
    assert statuses_of(bus.wait_for(lambda messages: len(messages) >= 1)) == ["starting"]
    event_handler(run, event(1))
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    assert statuses_of(bus.wait_for_end()) == ["starting", "successful"]


def test_a_real_job(start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path) -> None:
    """A stream without room: nothing of the playbook is run."""
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(max_msgs=1, discard="new")
    bus.run(bus.client.jetstream().publish("pub.x", b"1"))
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url, "required": True}})
    done = cli("run", job.folder, "-p", "play.yml", env=ON)
    assert done.returncode != 0
    assert "the job was not started: NATS is required" in done.stderr
    assert "maximum messages exceeded" in done.stderr
    assert job.events() == []
    assert job.spilled() == []
