"""Prints every task that failed and every host that could not be reached, in all runs, once.

A durable consumer remembers in the stream how far it came: stop this program, start it again, and it goes on
where it was. Several at once share the work. A message is acknowledged when its line is printed; if the
program dies in between, the message comes again, so that a line may be printed twice, but none is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

import nats

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

FAILURES = {"runner_on_failed": "failed", "runner_on_unreachable": "unreachable"}


def printable(text: object) -> str:
    """One line without control characters: the job decides what is in a message."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def mapping(value: object) -> dict[str, Any]:
    """A mapping that may have been cut from a large message."""
    return value if isinstance(value, dict) else {}


def describe(message: Msg) -> str | None:
    """A line about a failure, or nothing."""
    event = mapping(json.loads(message.data))
    word = FAILURES.get(event.get("event", ""))
    if word is None:
        return None
    data = mapping(event.get("event_data"))
    result = mapping(data.get("res"))
    if data.get("ignore_errors"):
        word += " (ignored)"
    why = result.get("msg") or result.get("stderr") or result.get("censored") or ""
    parts = [event["runner_ident"], data.get("host", "?"), data.get("task", "?"), word, why]
    return " | ".join(printable(part) for part in parts)


async def is_behind(subscription: JetStreamContext.PullSubscription) -> bool:
    """Whether there is anything that was not delivered or not acknowledged yet."""
    info = await subscription.consumer_info()
    return bool(info.num_pending or info.num_ack_pending)


async def main(options: argparse.Namespace) -> None:
    """Follow the stream."""
    client = await nats.connect(options.server)
    # A subject id and an ident may have dots, so that no pattern finds events alone.
    subscription = await client.jetstream().pull_subscribe(
        "pub.ansible.runner.>", durable=options.durable, stream=options.stream
    )
    while not options.once or await is_behind(subscription):
        try:
            messages = await subscription.fetch(100, timeout=1)
        except nats.errors.TimeoutError:
            continue  # nothing new
        for message in messages:
            line = describe(message) if message.subject.endswith(".event") else None
            if line is not None:
                print(line, flush=True)
            await message.ack()
    await client.flush()  # the acknowledgements
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--server", default="nats://localhost:4222")
    parser.add_argument("--stream", default="RUNS")
    parser.add_argument("--durable", default="failures", help="the name of the consumer")
    parser.add_argument("--once", action="store_true", help="stop when all that is in the stream was read")
    asyncio.run(main(parser.parse_args()))
