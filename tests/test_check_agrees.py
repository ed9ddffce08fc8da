"""``check`` says yes exactly if a run's messages arrive: each situation is checked, and then run."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import Bus, Job, RunnerConfig, Server, command, event, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What an account or a server is given to store, in bytes.
LITTLE = 1 << 20

USERS = """
authorization {{ users: [
    {{ user: tester, password: t }},
    {{ user: me, password: p,
        permissions: {{ publish: {{ {} }}, subscribe: {{ allow: ["_INBOX.>"] }} }} }} ] }}
"""
ACCOUNT = "accounts {{ A {{ jetstream: {}, users: [{{ user: me, password: p }}] {} }} }}"
ME = {"user": "me", "password": "p"}
TESTER = {"user": "tester", "password": "t"}
#: He may publish, and ask nothing.
NO_API = USERS.format('allow: ["pub.>", "_INBOX.>"]')
#: One node of a cluster that is not there.
ALONE = (
    'cluster {{ name: c, listen: "127.0.0.1:{0}", routes: ["nats://127.0.0.1:{1}", "nats://127.0.0.1:{2}"] }}'
)
#: Nobody hears who asks which streams there are.
SILENT = ACCOUNT.format("enabled", ', mappings: { "$JS.API.STREAM.NAMES": "$JS.nowhere" }')


@dataclass
class Situation:
    """How the streams and the user's settings are, and what is to be said about it."""

    #: Part of the line that says so; a note, or empty, means that all arrives.
    says: str = ""
    is_problem: bool = False
    #: Streams to be made, as the API has it; `subjects` and `name` have defaults.
    streams: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    #: Settings beside `nats_options`.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Of this size each, sent by somebody else before, until the stream refuses, or all are in.
    filling: tuple[int, int] = (0, 0)
    #: Where they are sent to.
    filled: str = "pub.other"
    #: Of the server.
    config: str = ""
    jetstream: bool = True
    #: Who has all rights there.
    credentials: dict[str, Any] = field(default_factory=dict)
    #: Who subscribes gets it, even if no stream has it.
    by_subscription: bool = False


def problem(says: str, *streams: dict[str, Any], **more: Any) -> Situation:
    return Situation(says, streams=streams, is_problem=True, **more)


def fine(says: str, *streams: dict[str, Any], **more: Any) -> Situation:
    return Situation(says, streams=streams, **more)


NAMED = "runs.{subject_id}.{runner_ident}.{kind}.{name}"

SITUATIONS = {
    # What arrives.
    "a stream": fine("delivery +jetstream: a stream confirms", {}),
    "a stream by its name": fine("delivery +jetstream: a stream confirms", {}, options={"stream": "RUNS"}),
    "a stream in memory": fine("delivery +jetstream: a stream confirms", {"storage": "memory"}),
    "no stream": fine("stream +none takes event messages", by_subscription=True),
    "no JetStream": fine("JetStream +nobody answers", jetstream=False, by_subscription=True),
    "core, and a stream": fine(
        "delivery +core: a stream takes our messages", {}, options={"delivery": "core"}, by_subscription=True
    ),
    "core, and a full stream": fine(
        "RUNS is full: 3 of 3 messages", {"max_msgs": 3, "discard": "new"},
        options={"delivery": "core"}, filling=(3, 10), by_subscription=True,
    ),
    "a stream for events alone": fine(
        "stream +none takes status messages", {"subjects": ["pub.*.*.*.*.event"]}, by_subscription=True
    ),
    "two streams": fine(
        "stream +STATES takes our messages",
        {"subjects": ["pub.*.*.*.*.event"]}, {"name": "STATES", "subjects": ["pub.*.*.*.*.status"]},
    ),
    "subjects with names": fine(
        "status messages to runs.id.check.status.starting, and 6 more by {name}",
        {"subjects": ["runs.>"]}, options={"subject": NAMED},
    ),
    "short duplicate window": fine("drops repeats for 500ms", {"duplicate_window": 500_000_000}),
    "interest and no consumer": fine(
        "keeps no message that no consumer waits for", {"retention": "interest"}, by_subscription=True
    ),
    "workqueue": fine("gives each message to one reader", {"retention": "workqueue"}),
    "discard new, and room": fine(
        "refuses messages when it is full", {"discard": "new", "max_msgs": 1000, "max_bytes": 10 << 20}
    ),
    "short-lived": fine(
        "forgets messages after 60s",
        {"max_age": 60_000_000_000, "duplicate_window": 60_000_000_000},
    ),
    "a size that does": fine("the server would take 1048576", {"max_msg_size": 100_000}),
    "many messages a subject": fine("longer runs lose some", {"max_msgs_per_subject": 500}),
    "a transform": fine(
        "stores pub.> as kept.> \\(subject_transform\\)",
        {"subject_transform": {"src": "pub.>", "dest": "kept.>"}},
    ),
    "republished": fine(
        "delivery +jetstream: a stream confirms", {"republish": {"src": "pub.>", "dest": "again.>"}}
    ),
    "may not ask the API": fine(
        "JetStream +cannot be asked", {}, options=ME, by_subscription=True, credentials=TESTER,
        config=NO_API,
    ),
    "may not ask the API, but wants a stream": fine(
        "takes a large one", {}, options={**ME, "delivery": "jetstream"},
        config=NO_API, credentials=TESTER,
    ),
    "small max_payload": fine("larger events are cut", {}, config="max_payload: 20000"),
    "no event selected": fine("only statuses are sent", {}, options={"events": ["!*"]}),
    "the API is silent, and there is a stream": fine(
        "JetStream +does not answer which stream",
        {},
        # A session waits a second for the API, once a subject.
        options={**ME, "flush_timeout": 10},
        jetstream=False,
        credentials=ME,
        config="jetstream: { store_dir: STORE }\n" + SILENT,
    ),
    "the API is silent, and nothing else": fine(
        "RUNS takes our messages: duplicate window 120s",
        {},
        options={**ME, "flush_timeout": 10, "delivery": "jetstream"},
        jetstream=False,
        credentials=ME,
        config="jetstream: { store_dir: STORE }\n" + SILENT,
    ),
    # What does not.
    "the API is silent, and the stream is full": problem(
        "RUNS is full: 3 of 3 messages",
        {"max_msgs": 3, "discard": "new"},
        options=ME,
        filling=(3, 10),
        jetstream=False,
        credentials=ME,
        config="jetstream: { store_dir: STORE }\n" + SILENT,
    ),
    "full": problem("RUNS is full: 3 of 3 messages", {"max_msgs": 3, "discard": "new"}, filling=(3, 10)),
    "full but for some": problem(
        "RUNS has room for 4 of 200 messages", {"max_msgs": 200, "discard": "new"}, filling=(196, 10)
    ),
    "full by bytes": problem(
        r"RUNS has room for \d+ of 1000000 bytes",
        {"max_bytes": 1_000_000, "discard": "new"},
        filling=(98, 10_000),
    ),
    "full by subject": problem(
        "RUNS is full: 150 of 150 messages a subject",
        {
            "subjects": ["runs.*"],
            "max_msgs_per_subject": 150,
            "discard": "new",
            "discard_new_per_subject": True,
        },
        options={"subject": "runs.{kind}"}, filling=(150, 10), filled="runs.event",
    ),
    "one message a subject": problem("all but the last one are lost", {"max_msgs_per_subject": 1}),
    "few messages a subject": problem("keeps the last 2 messages a subject", {"max_msgs_per_subject": 2}),
    "few messages": problem("keeps the last 5 messages", {"max_msgs": 5}),
    "few bytes": problem("keeps the last 5000 bytes", {"max_bytes": 5_000}),
    "sealed": problem("RUNS is sealed", {"sealed": True}),
    "small messages": problem("refuses messages of more than 1000 bytes", {"max_msg_size": 1000}),
    "no acknowledgement": problem("does not acknowledge \\(no_ack\\)", {"no_ack": True}),
    "another stream": problem(
        "OTHER \\(option stream\\) does not take our subjects", {}, options={"stream": "OTHER"}
    ),
    "another stream for statuses": problem(
        "RUNS \\(option stream\\) does not take our subjects",
        {"subjects": ["pub.*.*.*.*.event"]}, {"name": "STATES", "subjects": ["pub.*.*.*.*.status"]},
        options={"stream": "RUNS"},
    ),
    "another stream, and may not ask": problem(
        "OTHER \\(option stream\\) does not take our subjects", {}, options={**ME, "stream": "OTHER"},
        config=NO_API, credentials=TESTER,
    ),
    "wants a stream": problem("jetstream is asked for, and no stream", options={"delivery": "jetstream"}),
    "wants JetStream": problem(
        "jetstream is asked for, and no stream", options={"delivery": "jetstream"}, jetstream=False
    ),
    "wants a stream for both": problem(
        "no stream takes status messages",
        {"subjects": ["pub.*.*.*.*.event"]},
        options={"delivery": "jetstream"},
    ),
    "wants a stream for all names": problem(
        r"no stream takes event messages \(runs.id.check.event.playbook_on_start\)",
        {"subjects": ["runs.*.*.event.runner_*", "runs.*.*.event.verbose", "runs.*.*.status.*"]},
        options={"delivery": "jetstream", "subject": NAMED},
    ),
    "account full": problem(
        "the account's storage is full", {}, options=ME, filling=(100, 50_000), jetstream=False,
        config=f"jetstream: {{ store_dir: STORE }}\n{ACCOUNT.format(f'{{ max_store: {LITTLE} }}', '')}",
        credentials=ME,
    ),
    "server full": problem(
        "insufficient resources", {}, filling=(100, 50_000), jetstream=False,
        config=f"jetstream: {{ store_dir: STORE, max_file: {LITTLE} }}",
    ),
    "mapped away": problem(
        "none arrives at a stream", {}, options=ME, jetstream=False, credentials=ME,
        config="jetstream: { store_dir: STORE }\n"
        + ACCOUNT.format("enabled", ', mappings: { "pub.>": "elsewhere.>" }'),
    ),
    "headers that the stream refuses": problem(
        "per-message TTL is disabled", {}, settings={"nats_headers": {"Nats-TTL": "1h"}}
    ),
    "a counter": problem("counter increment is missing", {"allow_msg_counter": True}),
    "may not publish statuses": problem(
        "may not publish to pub.ansible.runner.id.check.status", {}, options=ME,
        config=USERS.format('deny: ["pub.*.*.*.*.status"]'), credentials=TESTER,
    ),
    "the API is silent": problem(
        "none arrives at a stream",
        options=ME,
        jetstream=False,
        credentials=ME,
        config="jetstream: { store_dir: STORE }\n" + SILENT,
    ),
    "JetStream without a leader": problem(
        "no stream takes them now|none arrives at a stream",
        config=ALONE,
    ),
    "JetStream without a leader, and wants a stream": problem(
        "no stream takes them now|none arrives at a stream", options={"delivery": "jetstream"},
        config=ALONE,
    ),
}  # fmt: skip


def api(bus: Bus, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    payload = json.dumps(request or {}).encode()
    answer: dict[str, Any] = json.loads(
        bus.run(bus.client.request(f"$JS.API.{call}", payload, timeout=5)).data
    )
    assert "error" not in answer, answer
    return answer


def prepare(bus: Bus, situation: Situation) -> None:
    for stream in situation.streams:
        request = {"name": "RUNS", "subjects": ["pub.>"], "storage": "file", "num_replicas": 1, **stream}
        is_sealed = request.pop("sealed", False)
        api(bus, f"STREAM.CREATE.{request['name']}", request)
        if is_sealed:
            api(bus, f"STREAM.UPDATE.{request['name']}", {**request, "sealed": True})
    count, size = situation.filling
    for _ in range(count):
        answer = bus.run(bus.client.request(situation.filled, b"x" * size, timeout=5))
        if "error" in json.loads(answer.data):
            break


def state(bus: Bus, situation: Situation) -> list[dict[str, Any]]:
    infos = [api(bus, f"STREAM.INFO.{stream.get('name', 'RUNS')}") for stream in situation.streams]
    return [info["state"] for info in infos]


def stored(bus: Bus, situation: Situation) -> set[str]:
    """The ids of what the streams have."""
    ids = set()
    for stream in situation.streams:
        name = stream.get("name", "RUNS")
        found = api(bus, f"STREAM.INFO.{name}")["state"]
        for seq in range(found["first_seq"], found["last_seq"] + 1):
            payload = json.dumps({"seq": seq}).encode()
            answer = json.loads(
                bus.run(bus.client.request(f"$JS.API.STREAM.MSG.GET.{name}", payload, timeout=5)).data
            )
            ids.add(json.dumps(answer.get("message", {})))
    return ids


def run(settings: dict[str, Any], artifacts: Path) -> int:
    """A small run, one event of which is large; returns how many messages it has."""
    config = RunnerConfig(settings=settings, ident="r", artifact_dir=str(artifacts))
    status_handler(config, {"status": "starting", "runner_ident": "r"})
    status_handler(config, {"status": "running", "runner_ident": "r"})
    names = ["playbook_on_start", "playbook_on_task_start", "runner_on_start", "runner_on_ok", "verbose"]
    for counter, name in enumerate(names):
        event_handler(config, {**event(counter), "event": name, "runner_ident": "r"})
    large = {**event(len(names)), "event": "runner_on_failed", "stdout": "x" * 60_000, "runner_ident": "r"}
    event_handler(config, large)
    status_handler(config, {"status": "successful", "runner_ident": "r"})
    return 3 if settings["nats_options"].get("events") else 3 + len(names) + 1


class Cluster:
    """Three nodes, and a stream with as many replicas as wanted."""

    def __init__(self, start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
        self.connect = connect
        ports = [free_port() for _ in range(3)]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
        listen = 'cluster {{ name: c, listen: "127.0.0.1:{}", routes: [{}] }}'
        self.nodes = [start_server(jetstream=True, config=listen.format(port, routes)) for port in ports]

    def add_stream(self, **stream: Any) -> str:
        """Returns the name of its leader."""
        bus = self.connect(self.nodes[0])

        def has_leader() -> str:
            with contextlib.suppress(Exception):
                info = api(bus, "STREAM.INFO.RUNS")
                return str(info["cluster"]["leader"])
            with contextlib.suppress(Exception):
                bus.add_stream(**stream)
            return ""

        return wait_until(has_leader, "the stream to have a leader")


def test_a_cluster(start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path) -> None:
    cluster = Cluster(start_server, connect)
    leader = cluster.add_stream(num_replicas=3)
    buses = [connect(node).subscribe("pub.>") for node in cluster.nodes]
    before = api(buses[0], "STREAM.INFO.RUNS")["state"]
    env = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_CONNECT_TIMEOUT": "1"}
    # Each node, the leader and the others: the message goes on from one to the other.
    servers = [arg for node in cluster.nodes for arg in ("-s", node.url)]
    done = command("check", *servers, env=env)
    assert done.returncode == 0, done.stdout
    takes = r"^ok +store +status messages: RUNS takes a large one, and its answer comes back$"
    assert len(re.findall(takes, done.stdout, re.MULTILINE)) == 3, done.stdout
    assert f"3 replicas, led by {leader}" in done.stdout
    assert "; to be reached at 127.0.0.1:" in done.stdout
    assert "cluster c," in done.stdout
    assert api(buses[0], "STREAM.INFO.RUNS")["state"] == before
    for bus in buses:
        bus.run(bus.client.flush())
    assert [message for bus in buses for message in bus.received] == []

    followers = [node for node in cluster.nodes if node.folder.name != leader]
    followers[0].kill()
    alive = next(node for node in cluster.nodes if node.process is not None)

    def note() -> str:
        done = command("check", "-s", alive.url, env=env)
        assert done.returncode == 0, done.stdout
        return next((line for line in done.stdout.splitlines() if "misses its replica" in line), "")

    assert wait_until(note, "the replica to be missed").startswith("note    stream")
    # Without a majority nothing is stored.
    followers[1].kill()
    alive = next(node for node in cluster.nodes if node.process is not None)

    def no_majority() -> bool:
        return command("check", "-s", alive.url, env=env).returncode == 1

    wait_until(no_majority, "the leader to know that it is alone")
    assert command("stream", "-s", alive.url).returncode == 1
    options = {"servers": alive.url, "flush_timeout": 2}
    sent = run({"nats_subject_id": "id", "nats_options": options}, tmp_path / "artifacts")
    assert len(lines_of(tmp_path / "artifacts")) == sent
    # And with one again.
    for node in followers:
        node.start()

    def well() -> bool:
        checked = command("check", "-s", alive.url, env=env)
        compared = command("stream", "-s", alive.url)
        return (checked.returncode, compared.returncode) == (0, 0)

    wait_until(well, "the replicas to be back")


def test_one_replica_in_a_cluster(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    cluster = Cluster(start_server, connect)
    leader = cluster.add_stream(num_replicas=1)
    other = next(node for node in cluster.nodes if node.folder.name != leader)
    done = command("check", "-s", other.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stdout
    assert "RUNS has one replica: it goes with its server" in done.stdout
    assert "RUNS takes a large one, and its answer comes back" in done.stdout


@pytest.mark.parametrize("name", SITUATIONS)
def test_check_agrees_with_a_run(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path, name: str
) -> None:
    situation = SITUATIONS[name]
    config = situation.config.replace("STORE", f'"{tmp_path / "js"}"')
    if "{0}" in config:
        config = config.format(*[free_port() for _ in range(3)])
    server = start_server(jetstream=situation.jetstream, config=config, credentials=situation.credentials)
    bus = connect(server)
    prepare(bus, situation)
    bus.subscribe(">")
    before = state(bus, situation)
    options = {
        "servers": server.url, "connect_timeout": 1, "reconnect_time_wait": 0.1, "flush_timeout": 2,
        **situation.options,
    }  # fmt: skip
    job = Job(tmp_path / "job", {"nats_subject_id": "id", "nats_options": options, **situation.settings})

    done = command("check", job.folder)
    lines = done.stdout.splitlines()
    assert (done.stderr, done.returncode) == ("", 1 if situation.is_problem else 0), done.stdout
    word = "problem" if situation.is_problem else "(ok|note)"
    assert any(re.search(f"^{word} .*{situation.says}", line) for line in lines), done.stdout
    assert any(line.startswith("problem ") for line in lines) == situation.is_problem
    if situation.is_problem:
        assert not any(line.startswith("ok      delivery") for line in lines), done.stdout
    assert lines[-1] == ("there are problems" if situation.is_problem else "all is well")
    # Nothing is left in a stream, and nobody hears of it.
    assert state(bus, situation) == before
    bus.run(bus.client.flush())
    heard = {message.subject.split(".")[0] for message in bus.received}
    assert heard <= {"_INBOX", "$JS", "$SYS"}, heard
    assert not (job.folder / "artifacts").exists()

    bus.received.clear()
    had = stored(bus, situation)
    sent = run(job.settings, tmp_path / "artifacts")
    kept = len(list(lines_of(tmp_path / "artifacts")))
    in_streams = len(stored(bus, situation) - had)
    bus.run(bus.client.flush())
    ids = {
        message.headers["Nats-Msg-Id"]
        for message in bus.received
        if message.headers and "Nats-Msg-Id" in message.headers
    }
    arrived = len(ids) if situation.by_subscription else in_streams
    is_well = kept == 0 and arrived == sent
    assert is_well == (not situation.is_problem), (sent, kept, in_streams, len(ids), done.stdout)


def lines_of(folder: Path) -> list[str]:
    return [line for path in folder.rglob("nats-*.jsonl") for line in path.read_text().splitlines()]
