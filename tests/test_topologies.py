"""A stream that the job's JetStream API does not know of has every message, once and in order, or a file."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import topologies
from ansible_runner_nats import event_handler, status_handler
from support import Bus, body, config, event, wait_until
from topologies import Topology, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg

HIDDEN = [
    topologies.front,
    topologies.mapping,
    topologies.service_import,
    topologies.leaf_without_jetstream,
    topologies.leaf_with_a_domain,
]
hidden = pytest.mark.parametrize("topology", HIDDEN, indirect=True)

#: How long a stream is away, in seconds: longer than the plugin takes to make up its mind.
AT_THE_START = 3.0
IN_THE_MIDDLE = 2.0
#: How long the end of a run may wait for a stream.
FLUSH_TIMEOUT = 20

SUBJECT = "pub.ansible.runner.id.plain.event"


@pytest.fixture
def topology(request: pytest.FixtureRequest, start_server: Callable[..., Any]) -> Iterator[Topology]:
    topology: Topology = request.param(start_server)
    yield topology
    topology.close()


@pytest.fixture
def run(topology: Topology, tmp_path: Path) -> Run:
    return Run(topology, tmp_path / "artifacts")


class Run:
    """A run of ours, and what it has published."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.folder = folder
        self.config: Any = config(topology.url, folder, flush_timeout=FLUSH_TIMEOUT)
        #: Counters of events, and statuses.
        self.sent: list[int | str] = []
        self.counters = itertools.count()

    def start(self) -> None:
        self.status("starting")
        self.status("running")

    def status(self, status: str) -> None:
        status_handler(self.config, {"status": status})
        self.sent.append(status)

    def events(self, count: int) -> None:
        for counter in itertools.islice(self.counters, count):
            event_handler(self.config, event(counter))
            self.sent.append(counter)

    def go_on(self, seconds: float) -> None:
        """Events, as a job has them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.events(1)
            time.sleep(0.02)

    def end(self) -> dict[str, Any]:
        """What the record says after it."""
        self.status("successful")
        record: dict[str, Any] = json.loads((self.folder / "nats-run.json").read_text())
        assert record["accepted"] == len(self.sent)
        return record

    def kept(self) -> list[int | str]:
        """What is in files."""
        lines = [line for path in self.folder.glob("nats-*.jsonl") for line in path.read_text().splitlines()]
        return [name_of(json.loads(json.loads(line)["payload"])) for line in lines]


def name_of(data: dict[str, Any]) -> int | str:
    name: int | str = data["status"] if "status" in data else data["counter"]
    return name


def names(messages: list[Msg]) -> list[int | str]:
    return [name_of(body(message)) for message in messages]


def is_all_stored(topology: Topology, run: Run) -> None:
    """Once, in order, and the record says so; nothing is in a file."""
    record = run.end()
    assert names(topology.messages()) == run.sent, record
    assert run.kept() == []
    fates = {fate: record[fate] for fate in ("stored", "confirmed", "undelivered", "unproven", "lost")}
    sent = len(run.sent)
    assert fates == {"stored": sent, "confirmed": sent, "undelivered": 0, "unproven": 0, "lost": 0}


@hidden
def test_a_plain_publisher(topology: Topology) -> None:
    """What comes back to a message is enough to go by, without any API: that is what is asked of ours."""
    jobs = Bus(topology.url)

    def publish(counters: range) -> None:
        for counter in counters:
            data, headers = json.dumps(event(counter)).encode(), {"Nats-Msg-Id": f"plain.{counter}"}
            wait_until(
                lambda data=data, headers=headers: answer(jobs, SUBJECT, data, headers) == "stored",  # type: ignore[misc]
                "an acknowledgement",
            )

    try:
        publish(range(10))
        topology.take_away()
        topology.wait_until_away()
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(publish, range(10, 20))
            topology.bring_back()
            rest.result()
        assert names(topology.messages()) == [*range(20)]
    finally:
        jobs.close()


@hidden
def test_all_there(topology: Topology, run: Run) -> None:
    run.start()
    run.events(200)
    is_all_stored(topology, run)


@hidden
def test_away_when_a_run_starts(topology: Topology, run: Run) -> None:
    topology.take_away()
    topology.wait_until_away()
    run.start()
    run.go_on(AT_THE_START)
    topology.bring_back()
    # Not before a leader is elected: the end does not wait for a stream that nobody has heard of.
    topology.wait_until_open()
    run.events(20)
    is_all_stored(topology, run)


@hidden
def test_away_in_the_middle(topology: Topology, run: Run) -> None:
    run.start()
    run.events(20)
    # Who deletes a stream takes away what it holds: that is counted before it.
    wait_until(lambda: topology.count() == len(run.sent), "the stream to have the beginning")
    topology.take_away()
    run.go_on(IN_THE_MIDDLE)
    topology.bring_back()
    run.events(20)
    # It is known that there is a stream: the end waits until a leader is elected.
    is_all_stored(topology, run)


@hidden
def test_away_all_the_time(topology: Topology, run: Run) -> None:
    topology.take_away()
    topology.wait_until_away()
    run.start()
    run.events(20)
    record = run.end()
    assert run.kept() == run.sent, record
    fates = {fate: record[fate] for fate in ("confirmed", "undelivered", "unproven", "lost")}
    assert fates == {"confirmed": 0, "undelivered": len(run.sent), "unproven": 0, "lost": 0}
    # Nobody listens: there is nothing to wait for.
    assert record["waited"] < FLUSH_TIMEOUT / 4


@pytest.mark.parametrize("topology", [topologies.stream_import], indirect=True)
def test_a_stream_import(topology: Topology, run: Run) -> None:
    """Who stores in another account says nothing: routed is all that can be known."""
    run.start()
    run.events(20)
    record = run.end()
    assert (record["confirmed"], record["stored"], run.kept()) == (len(run.sent), 0, [])
    wait_until(lambda: topology.count() == len(run.sent), "the stream to have all")
    assert names(topology.messages()) == run.sent
    jobs = Bus(topology.url)
    try:
        assert answer(jobs, SUBJECT) == "silence"
        topology.take_away()
        assert answer(jobs, SUBJECT) == "unheard"
    finally:
        jobs.close()


@pytest.mark.parametrize("topology", [topologies.source], indirect=True)
def test_a_source(topology: Topology, run: Run) -> None:
    """It is the leaf node's that acknowledges: the hub is nothing to the job."""
    run.start()
    run.events(20)
    wait_until(lambda: topology.count() == len(run.sent), "the hub to have all")
    assert names(topology.messages()) == run.sent
    # Not brought back: nats-server 2.15.1 takes 40 s to ask the leaf node again.
    topology.take_away()
    run.events(20)
    record = run.end()
    assert (record["stored"], run.kept()) == (len(run.sent), [])
