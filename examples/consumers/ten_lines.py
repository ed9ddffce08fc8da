"""Prints the tasks that fail, as they fail: a consumer in ten lines. It needs nats-py and nothing else."""

import asyncio
import json

import nats


async def main() -> None:
    """Follow all runs, live."""
    client = await nats.connect("nats://localhost:4222")
    async for message in (await client.subscribe("pub.ansible.runner.>")).messages:
        event = json.loads(message.data)
        if event.get("event") == "runner_on_failed" and isinstance(data := event["event_data"], dict):
            print(f"{event['runner_ident']!r}: {data.get('task')!r} failed on {data.get('host')!r}")


asyncio.run(main())
