"""`ansible-runner-nats stream`: what it says of streams that there are, and the one that it makes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from cluster import Cluster
from support import Bus, Server, command, config, event

if TYPE_CHECKING:
    from collections.abc import Callable


def info(bus: Bus, name: str = "RUNS") -> Any:
    return bus.run(bus.client.jetstream(timeout=5).stream_info(name)).config


def test_it_is_made_and_is_as_it_should_be(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    before = command("stream", "-s", server.url)
    assert before.returncode == 1
    assert "no stream takes pub.ansible.runner.>" in before.stdout
    dry = command("stream", "create", "-s", server.url, "--dry-run")
    assert json.loads(dry.stdout)["subjects"] == ["pub.ansible.runner.>"]
    assert command("stream", "-s", server.url).returncode == 1
    made = command("stream", "create", "-s", server.url)
    assert (made.returncode, made.stdout) == (0, "stream RUNS made: it takes pub.ansible.runner.>\n")
    stream = info(bus)
    assert (stream.storage, stream.retention, stream.discard) == ("file", "limits", "old")
    assert timedelta(seconds=stream.max_age) == timedelta(days=30)
    assert timedelta(seconds=stream.duplicate_window) == timedelta(minutes=10)
    assert (stream.max_bytes, stream.num_replicas, stream.max_msgs) == (10_000_000_000, 1, -1)
    again = command("stream", "create", "-s", server.url)
    assert (again.returncode, again.stdout) == (0, "stream RUNS is there already, and as it should be\n")
    other = command("stream", "create", "-s", server.url, "--max-age", "1d", "--max-bytes", "1GiB")
    assert other.returncode == 1
    assert "nothing was changed" in other.stdout
    assert "recommended: 1day;" in other.stdout
    assert "recommended: 1073741824;" in other.stdout
    assert timedelta(seconds=info(bus).max_age) == timedelta(days=30)
    fine = command("stream", "-s", server.url)
    assert fine.returncode == 0
    assert "different" not in fine.stdout
    assert command("check", "-s", server.url, "-o", "stream=RUNS").returncode == 1  # no subject id is set
    run = config(server.url, None)
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    known = report(run)
    assert known is not None
    assert (known["stored"], known["delivery"]) == (2, "jetstream")


@pytest.mark.parametrize(
    ("made", "loses", "said"),
    [
        ({"discard": "new", "max_msgs": 10}, True, "different discard"),
        ({"no_ack": True}, True, "nothing could be confirmed"),
        ({"max_msg_size": 1000}, True, "different max_msg_size"),
        ({"max_msgs_per_subject": 1}, True, "all events of a run are on one subject"),
        ({"duplicate_window": 30}, False, "stored twice"),
        ({"storage": "memory"}, False, "gone with the server"),
        ({"retention": "interest"}, False, "different retention"),
        ({"subjects": ["pub.ansible.runner.a.>"]}, False, "different subjects"),
    ],
)
def test_each_difference_in_a_line(
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    made: dict[str, Any],
    *,
    loses: bool,
    said: str,
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream("OTHER", **{"subjects": ["pub.ansible.>"], **made})
    done = command("stream", "-s", server.url)
    assert said in done.stdout
    assert done.returncode == int(loses)
    told = json.loads(command("stream", "-s", server.url, "--json").stdout)
    assert told["ok"] is not loses
    assert any(not row["agrees"] and row["why"] for row in told["streams"][0]["settings"])


def test_a_cluster_gets_three_replicas(start_server: Callable[..., Server]) -> None:
    cluster = Cluster(start_server)
    cluster.add_stream()
    bus = cluster.bus()
    bus.run(bus.client.jetstream(timeout=5).delete_stream("RUNS"))
    url = cluster.nodes[0].url
    done = command("stream", "create", "-s", url, "--name", "JOBS")
    assert done.returncode == 0, done.stderr
    assert info(bus, "JOBS").num_replicas == 3
    assert command("stream", "create", "-s", url, "--name", "JOBS").returncode == 0
    bus.close()


def test_without_jetstream(server: Server) -> None:
    done = command("stream", "create", "-s", server.url)
    assert done.returncode == 1
    assert "nobody answers for JetStream" in done.stderr


def test_who_may_not_ask(start_server: Callable[..., Server]) -> None:
    allowed = '{publish: "pub.>", subscribe: "_INBOX.>"}'
    users = f"authorization {{ users: [{{user: a, password: a, permissions: {allowed}}}] }}"
    server = start_server(jetstream=True, config=users, credentials={"user": "a", "password": "a"})
    for args in (["stream"], ["stream", "create"], ["runs"], ["logs", "x"]):
        done = command(*args, "-s", server.url, "-o", "user=a", "-o", "password=a")
        assert done.returncode == 1
        assert "does not let this user publish to $JS.API" in done.stderr, done.stderr
