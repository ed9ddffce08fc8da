"""Posts JSON to a URL whenever a run fails: ``webhook.py https://chat.example.org/hook``.

A failure is acknowledged when the URL has answered with 2xx. Until then it is posted again, later and later,
also if this program was started anew. So the URL may get one twice: `id` is the same then, and also in the
header Idempotency-Key. Uses ``../consumers/consumer.py``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1] / "consumers"))

from consumer import arguments, batches, identifier, read, run, say

if TYPE_CHECKING:
    import argparse

    from ansible_runner_nats.types import Status
    from nats.aio.msg import Msg

FAILED = ("failed", "timeout", "error")

#: Seconds. A stream hands out again what was not acknowledged in 30.
ANSWERS_WITHIN = 10
LONGEST_PAUSE = 300


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and its 200 no proof of anything."""

    def redirect_request(self, *_: object) -> None:
        """Do not follow."""


def failure(message: Msg) -> dict[str, str] | None:
    """What to post about a message, or nothing."""
    if not message.subject.endswith(".status"):
        return None
    status: Status | None = read(message)
    if status is None or status["status"] not in FAILED:
        return None
    run = status.get("runner_ident", "unknown")
    return {
        "id": identifier(message),
        "run": run,
        "status": status["status"],
        "text": f"ansible run {run}: {status['status']}",
    }


def post(url: str, body: dict[str, str]) -> None:
    """Post it, or raise an OSError."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": body["id"]}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    urllib.request.build_opener(NoRedirect).open(request, timeout=ANSWERS_WITHIN).close()


async def handle(url: str, message: Msg) -> None:
    """Acknowledge it now or let it come again."""
    body = failure(message)
    if body is not None:
        try:
            await asyncio.to_thread(post, url, body)
        except OSError as error:
            pause = min(2**message.metadata.num_delivered, LONGEST_PAUSE)
            say(f"{body['run']}: {error}; again in {pause} s")
            await message.nak(delay=pause)
            return
    await message.ack()


async def main(options: argparse.Namespace) -> None:
    """Follow the stream."""
    async for messages in batches(options):
        await asyncio.gather(*(handle(options.url, message) for message in messages))


if __name__ == "__main__":
    parser = arguments(__doc__, durable="webhook")
    parser.add_argument("url")
    run(main, parser.parse_args())
