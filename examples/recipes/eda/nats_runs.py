"""A source for ansible-rulebook: what ansible-runner's jobs publish to NATS, from a stream.

    sources:
      - nats_runs:
          server: nats://localhost:4222
          stream: RUNS
          durable: rulebook  # the name of the consumer, which remembers how far it came
          kinds: [status]    # event and heartbeat are the others
          history: false     # true: the first time, begin with all that the stream has kept

These are the defaults. An event of the rulebook has `kind`, `id` (the same if a message comes twice) and
`message` (the JSON that was published). Needs nats-py; ``--source-dir`` tells ansible-rulebook of this file.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from nats.js.api import ConsumerConfig, DeliverPolicy

import nats


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Hand over one message after the other. One is acknowledged when the rulebook's queue has it."""
    client = await nats.connect(args.get("server", "nats://localhost:4222"), max_reconnect_attempts=-1)
    try:
        history = args.get("history", False)
        subscription = await client.jetstream().pull_subscribe(
            "pub.ansible.runner.>",
            durable=args.get("durable", "rulebook"),
            stream=args.get("stream", "RUNS"),
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL if history else DeliverPolicy.NEW),
        )
        while True:
            try:
                messages = await subscription.fetch(100, timeout=1)
            except asyncio.TimeoutError:
                continue  # nothing new
            for message in messages:
                kind = message.subject.rpartition(".")[2]
                if kind in args.get("kinds", ["status"]):
                    # Version 0.4.0 of the plugin sends no id.
                    identifier = (message.headers or {}).get("Nats-Msg-Id", message.metadata.sequence.stream)
                    # Whoever may publish there can send anything.
                    with suppress(ValueError, RecursionError):
                        content = json.loads(message.data)
                        await queue.put({"kind": kind, "id": str(identifier), "message": content})
                await message.ack()
    finally:
        await client.close()
