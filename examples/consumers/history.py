"""Prints the output of a run as it was, colours and all, from its events in a stream.

Repeats are dropped by their Nats-Msg-Id: the stream does that, too, but only within its duplicate window. The
counter tells the order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import nats


async def read_events(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The run's events in their order, each once."""
    client = await nats.connect(options.server)
    js = client.jetstream()
    subject = f"pub.ansible.runner.{options.subject_id}.{options.ident}.event"
    last = (await js.get_last_msg(options.stream, subject)).seq or 0
    subscription = await js.subscribe(subject, stream=options.stream, ordered_consumer=True)
    events: dict[str, dict[str, Any]] = {}
    read = 0
    while read < last:
        message = await subscription.next_msg(timeout=10)
        read = message.metadata.sequence.stream
        events.setdefault((message.headers or {})["Nats-Msg-Id"], json.loads(message.data))
    await client.close()
    return sorted(events.values(), key=lambda event: event["counter"])


async def main(options: argparse.Namespace) -> None:
    """Print them."""
    for event in await read_events(options):
        if event["stdout"]:
            print(event["stdout"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("subject_id")
    parser.add_argument("ident")
    parser.add_argument("--server", default="nats://localhost:4222")
    parser.add_argument("--stream", default="RUNS")
    asyncio.run(main(parser.parse_args()))
