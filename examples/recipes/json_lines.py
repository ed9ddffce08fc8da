"""Prints every message as a line of JSON, for whatever ships logs: ``json_lines.py >> /var/log/runs.jsonl``.

A message is acknowledged when its line was handed to the system. If this program dies in between, the line
comes twice: `id` is the same then. Uses ``../consumers/consumer.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1] / "consumers"))

from consumer import arguments, batches, contained, identifier, read, run

if TYPE_CHECKING:
    import argparse


async def main(options: argparse.Namespace) -> None:
    """Follow the stream."""
    async for messages in batches(options):
        for message in messages:
            with contained(message):
                line = {
                    "time": message.metadata.timestamp.isoformat(),
                    "id": identifier(message),
                    "kind": message.subject.rpartition(".")[2],
                    "message": read(message),
                }
                print(json.dumps(line))
        sys.stdout.flush()
        for message in messages:
            await message.ack()


if __name__ == "__main__":
    run(main, arguments(__doc__, durable="json-lines").parse_args())
