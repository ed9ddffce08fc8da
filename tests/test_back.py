"""Back as soon as the stream is back: its leader is killed again and again, beside a plain publisher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from cluster import Cluster
from support import config, counters, event, events_of, is_end

import nats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Server

#: How many times the leader is killed; more by hand.
KILLS = int(os.environ.get("KILLS", "3"))


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


def longest_pause(messages: list[Msg]) -> float:
    """Of what a stream has stored, in seconds."""
    times = [message.metadata.timestamp.timestamp() for message in messages]
    return max(later - earlier for earlier, later in zip(times, times[1:]))


@pytest.mark.timeout(600)
def test_the_streams_leader_again_and_again(start_server: Callable[..., Server], tmp_path: Path) -> None:
    cluster = Cluster(start_server)
    cluster.add_stream()
    urls = [node.url for node in cluster.nodes]
    plain = PlainPublisher(urls)
    run: Any = config(",".join(urls), tmp_path / "artifacts", delivery="auto", flush_timeout=30)
    sent = 0
    stop = threading.Event()

    def publish() -> None:
        nonlocal sent
        while not stop.is_set():
            event_handler(run, event(sent))
            sent += 1
            time.sleep(0.02)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        for _ in range(KILLS):
            node = cluster.node(cluster.leader())
            node.kill()
            # Back at once, as a supervisor would have it; then until all replicas are current again.
            node.start()
            cluster.all_current()
    finally:
        stop.set()
        publisher.join()
        plain.stop()
    status_handler(run, {"status": "successful"})
    after = report(run)
    assert after is not None
    assert (after["undelivered"], after["lost"]) == (0, 0)
    messages = cluster.messages()
    ours = [message for message in messages if message.subject.startswith("pub.ansible.")]
    others = [message for message in messages if message.subject == "pub.plain"]
    assert sorted(counters(ours)) == list(range(sent))
    assert len(events_of(ours)) == sent
    assert is_end(ours[-1])
    mine, theirs = longest_pause(ours), longest_pause(others)
    print(f"longest pause: {mine:.1f} s, plain {theirs:.1f} s; waited {after['waited']:.1f} s, {sent} events")
    assert mine <= 1.5 * theirs + 1
