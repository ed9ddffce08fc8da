"""Back as soon as the stream is back, whatever took it away: beside a plain publisher."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ansible_runner
import pytest
from ansible_runner_nats import event_handler, report, status_handler
from cluster import Cluster
from support import Bus, Job, Server, config, counters, event, events_of, is_end, wait_until

import nats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import RunnerConfig

#: How many times the leader is killed while a job runs; ten make the job a minute long.
KILLS = int(os.environ.get("KILLS", "3"))
#: How long a fault of a few seconds lasts, in seconds.
WHILE = 5.0


class PlainPublisher:
    """Publishes with an id and just tries again after every error, as anybody would."""

    def __init__(self, urls: list[str]) -> None:
        self.stopped = False
        self.sent = 0
        self.thread = threading.Thread(target=lambda: asyncio.run(self._publish(urls)))
        self.thread.start()

    async def _publish(self, urls: list[str]) -> None:
        async def ignore(_: Exception) -> None:
            pass

        client = await nats.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=ignore)
        while not self.stopped:
            headers = {"Nats-Msg-Id": f"plain.{self.sent}"}
            with contextlib.suppress(Exception):
                await client.jetstream(timeout=1).publish("pub.plain", b"x", headers=headers)
                self.sent += 1
            await asyncio.sleep(0.02)
        await client.close()

    def stop(self) -> None:
        self.stopped = True
        self.thread.join()


class Publisher:
    """A run of ours that goes on until it is stopped."""

    def __init__(self, run: RunnerConfig) -> None:
        self.run: Any = run
        self.sent = 0
        #: The longest that a call has taken, in seconds.
        self.longest_call = 0.0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._publish)
        self.thread.start()

    def _publish(self) -> None:
        while not self.stopped.is_set():
            before = time.perf_counter()
            event_handler(self.run, event(self.sent))
            self.longest_call = max(self.longest_call, time.perf_counter() - before)
            self.sent += 1
            self.stopped.wait(0.02)

    def report(self) -> dict[str, Any]:
        known = report(self.run)
        assert known is not None
        return dict(known)

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        status_handler(self.run, {"status": "successful"})


def longest_pause(messages: list[Msg], since: float | None) -> float:
    """Of what a stream has stored, in seconds; ``since``: what was before is gone."""
    times = [message.metadata.timestamp.timestamp() for message in messages]
    times[:0] = [] if since is None else [since]
    return max(later - earlier for earlier, later in zip(times, times[1:]))


@dataclass
class Stored:
    """What a stream holds of the two."""

    ours: list[Msg]
    plain: list[Msg]

    @classmethod
    def of(cls, messages: list[Msg]) -> Stored:
        ours = [message for message in messages if message.subject.startswith("pub.ansible.")]
        return cls(ours, [message for message in messages if message.subject == "pub.plain"])

    def is_back_in_time(self, since: float | None = None) -> None:
        """The longest pause, and the other one's."""
        mine, theirs = longest_pause(self.ours, since), longest_pause(self.plain, since)
        print(f"longest pause: {mine:.1f} s, plain {theirs:.1f} s; {len(self.ours)} messages")
        assert mine <= 1.5 * theirs + 1


@contextlib.contextmanager
def side_by_side(urls: list[str], folder: Path, **options: Any) -> Iterator[Publisher]:
    """Both publish while a fault comes and goes, and for two seconds after it."""
    plain = PlainPublisher(urls)
    run = config(",".join(urls), folder, **{"delivery": "auto", "flush_timeout": 30, **options})
    ours = Publisher(run)
    try:
        wait_until(lambda: plain.sent > 20 and ours.report()["stored"] > 20, "both to be stored")
        yield ours
        sent, stored = plain.sent, ours.report()["stored"]
        wait_until(lambda: plain.sent > sent + 50 and ours.report()["stored"] > stored + 50, "both to go on")
    finally:
        plain.stop()
        ours.stop()
    print(f"longest call: {ours.longest_call * 1000:.1f} ms, {ours.report()}")


def nothing_is_missing(ours: Publisher, stored: Stored) -> None:
    known = ours.report()
    assert (known["undelivered"], known["lost"]) == (0, 0)
    assert sorted(counters(stored.ours)) == list(range(ours.sent))
    assert len(events_of(stored.ours)) == ours.sent
    assert is_end(stored.ours[-1])


@pytest.fixture
def cluster(start_server: Callable[..., Server]) -> Cluster:
    cluster = Cluster(start_server)
    cluster.add_stream()
    return cluster


def kill_and_start(node: Server) -> None:
    """Killed, and back at once, as a supervisor would have it."""
    node.kill()
    node.start()


@pytest.mark.timeout(600)
def test_the_streams_leader_again_and_again(cluster: Cluster, tmp_path: Path) -> None:
    """A real job, and the node that leads the stream is killed as soon as all replicas are current again."""
    rounds = 7 * KILLS
    tasks = "\n".join(
        f"""
    - name: many things {number}
      ansible.builtin.debug:
        msg: "{{{{ item }}}}"
      loop: "{{{{ range(20) | list }}}}"
    - name: something slow {number}
      ansible.builtin.command: sleep 0.5"""
        for number in range(rounds)
    )
    urls = [node.url for node in cluster.nodes]
    options = {"servers": urls, "flush_timeout": 30, "reconnect_time_wait": 0.2}
    settings = {"nats_subject_id": "id", "nats_options": options}
    job = Job(tmp_path / "job", settings, f"- hosts: all\n  gather_facts: false\n  tasks:{tasks}\n")
    plain = PlainPublisher(urls)
    statuses: list[str] = []

    def run() -> None:
        folder = str(job.folder)
        done = ansible_runner.run(private_data_dir=folder, playbook="play.yml", ident="r", quiet=True)
        statuses.append(done.status)

    runner = threading.Thread(target=run)
    runner.start()
    kills = 0
    try:
        while runner.is_alive():
            cluster.all_current()
            # Both are back: what is measured is one outage, not two with a moment between them.
            ours, sent = cluster.stored("pub.ansible.>"), plain.sent
            wait_until(
                lambda ours=ours, sent=sent: (
                    not runner.is_alive()  # type: ignore[misc]
                    or (plain.sent > sent and cluster.stored("pub.ansible.>") > ours)
                ),
                "both to go on",
            )
            kill_and_start(cluster.node(cluster.leader()))
            kills += 1
    finally:
        runner.join()
        plain.stop()
    assert statuses == ["successful"]
    assert kills >= KILLS
    cluster.all_current()
    stored = Stored.of(cluster.messages())
    print(f"{kills} kills")
    assert job.spilled() == []
    events = sorted(events_of(stored.ours), key=lambda event: event["counter"])
    assert events == job.events()
    assert is_end(stored.ours[-1])
    stored.is_back_in_time()


def connected_node(cluster: Cluster, ours: Publisher) -> Server:
    """The node that we are connected to."""
    name, _, _ = ours.report()["server"].partition(" at ")
    return cluster.node(name)


def kill_the_connected_node(cluster: Cluster, ours: Publisher) -> None:
    for _ in range(KILLS):
        kill_and_start(connected_node(cluster, ours))
        cluster.all_current()


def lame_ducks_one_after_the_other(cluster: Cluster, _: Publisher) -> None:
    for node in cluster.nodes:
        node.signal(signal.SIGUSR2)
        assert node.process is not None
        node.process.wait()
        node.start()
        cluster.all_current()


def kill_the_meta_leader(cluster: Cluster, _: Publisher) -> None:
    """The one that the API needs, and the stream does not."""
    leader = cluster.node(cluster.move_leader_from(cluster.meta_leader()))
    victim = cluster.node(cluster.meta_leader())
    assert victim is not leader
    kill_and_start(victim)
    cluster.all_current()


def two_of_three_down(cluster: Cluster, ours: Publisher) -> None:
    down = [node for node in cluster.nodes if node is not connected_node(cluster, ours)]
    for node in down:
        node.kill()
    time.sleep(4 * WHILE)
    for node in down:
        node.start()
    cluster.all_current()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "fault",
    [kill_the_connected_node, lame_ducks_one_after_the_other, kill_the_meta_leader, two_of_three_down],
)
def test_a_cluster_in_trouble(
    start_server: Callable[..., Server], tmp_path: Path, fault: Callable[[Cluster, Publisher], None]
) -> None:
    # Ten seconds' politeness of lame ducks is not what is tested.
    cluster = Cluster(start_server, "lame_duck_grace_period: 1s, lame_duck_duration: 30s")
    cluster.add_stream()
    with side_by_side([node.url for node in cluster.nodes], tmp_path / "artifacts") as ours:
        fault(cluster, ours)
    stored = Stored.of(cluster.messages())
    nothing_is_missing(ours, stored)
    stored.is_back_in_time()


@pytest.mark.timeout(600)
def test_our_node_is_cut_off_from_its_cluster(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """It goes on to talk to us, and has no stream."""
    cluster = Cluster(start_server, through_proxies=True)
    cluster.add_stream()
    try:
        with side_by_side([node.url for node in cluster.nodes], tmp_path / "artifacts") as ours:
            node = connected_node(cluster, ours)
            cluster.cut_off(node)
            before = ours.sent
            # By another node: this one has no stream any more.
            wait_until(lambda: ours.report()["stored"] > before + 50, "a way around the node")
            assert connected_node(cluster, ours) is not node
            cluster.cut_off(node, away=False)
            cluster.all_current()
        stored = Stored.of(cluster.messages())
        nothing_is_missing(ours, stored)
    finally:
        cluster.close()


ACCOUNT = "accounts {{ A: {{ users: [{{user: a, password: a}}], jetstream: {{ max_file: {room} }} }} }}"


def without_jetstream(server: Server, _: Bus) -> None:
    server.jetstream = False
    server.reload("")
    time.sleep(WHILE)
    server.jetstream = True
    server.reload("")


def delete_the_stream(_: Server, bus: Bus) -> float:
    """What it had is gone with it; returns since when."""
    gone_since = time.time()
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    time.sleep(WHILE)
    bus.add_stream()
    return gone_since


@pytest.mark.parametrize("delivery", ["auto", "jetstream"])
@pytest.mark.parametrize("fault", [without_jetstream, delete_the_stream])
def test_the_stream_goes_and_comes_back(
    stored: tuple[Server, Bus],
    tmp_path: Path,
    fault: Callable[[Server, Bus], float | None],
    delivery: str,
) -> None:
    server, bus = stored
    bus.subscribe("pub.ansible.>")
    with side_by_side([server.url], tmp_path / "artifacts", delivery=delivery) as ours:
        since = fault(server, bus)
    after, known = Stored.of(bus.stream_messages()), ours.report()
    assert known["lost"] == 0
    if fault is without_jetstream:
        nothing_is_missing(ours, after)
    else:
        assert known["undelivered"] == 0
        assert sorted(set(counters(bus.wait_for_end()))) == list(range(ours.sent))
        # With `auto` whoever listens has what was sent meanwhile; with `jetstream` it waits for the stream.
        numbers = counters(after.ours)
        assert numbers == list(range(numbers[0], ours.sent))
        assert delivery == "auto" or known["stored"] == known["accepted"]
    after.is_back_in_time(since)


def test_the_accounts_limit_is_reached_and_lifted(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(jetstream=True, config=ACCOUNT.format(room="100MB"))
    url = server.url.replace("//", "//a:a@")
    bus = Bus(url)
    try:
        bus.add_stream()
        with side_by_side([url], tmp_path / "artifacts") as ours:
            server.reload(ACCOUNT.format(room="1KB"))
            wait_until(lambda: ours.report()["undelivered"] > 0, "a refusal")
            time.sleep(WHILE)
            server.reload(ACCOUNT.format(room="100MB"))
        after, known = Stored.of(bus.stream_messages()), ours.report()
    finally:
        bus.close()
    assert known["lost"] == 0
    (kept,) = tmp_path.rglob("nats-undelivered.jsonl")
    refused = [json.loads(json.loads(line)["payload"])["counter"] for line in kept.read_text().splitlines()]
    assert sorted(refused + counters(after.ours)) == list(range(ours.sent))
    after.is_back_in_time()
