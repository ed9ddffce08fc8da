"""Posts JSON to a URL whenever a run fails: ``webhook.py https://chat.example.org/hook``.

The first time it begins with what comes from then on (``--all``: with all that the stream has). A failure is
acknowledged when the URL has answered with 2xx. Until then it is posted again, later and later,
also if this program was started anew. So the URL may get one twice: `id` is the same then, and also in the
header Idempotency-Key. Uses ``../consumers/consumer.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

sys.path.append(str(Path(__file__).parents[1] / "consumers"))

from consumer import arguments, batches, contained, identifier, printable, read, run, say

if TYPE_CHECKING:
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


def address(url: str) -> str:
    """A URL that can be posted to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        message = f"no http or https URL: {url!r}"
        raise argparse.ArgumentTypeError(message)
    return url


def failure(message: Msg) -> dict[str, str] | None:
    """What to post about a message, or nothing."""
    if not message.subject.endswith(".status"):
        return None
    status: Status = read(message)
    if status["status"] not in FAILED:
        return None
    run = status.get("runner_ident", "unknown")
    return {
        "id": identifier(message),
        "run": run,
        "status": status["status"],
        "text": f"ansible run {run}: {status['status']}",
    }


def post(url: str, body: dict[str, str]) -> None:
    """Post it, or raise an OSError or HTTPException."""
    # An id may have any character of a run's ident in it, a header may not.
    headers = {"Content-Type": "application/json", "Idempotency-Key": quote(body["id"], safe=":")}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    urllib.request.build_opener(NoRedirect).open(request, timeout=ANSWERS_WITHIN).close()


async def handle(url: str, message: Msg) -> None:
    """Acknowledge it now or let it come again."""
    body = None
    with contained(message):
        body = failure(message)
    if body is not None:
        try:
            await asyncio.to_thread(post, url, body)
        except (OSError, HTTPException) as error:
            pause = min(2**message.metadata.num_delivered, LONGEST_PAUSE)
            say(f"{printable(body['run'])}: {printable(error)}; again in {pause} s")
            await message.nak(delay=pause)
            return
    await message.ack()


async def main(options: argparse.Namespace) -> None:
    """Follow the stream."""
    async for messages in batches(options, history=options.all):
        await asyncio.gather(*(handle(options.url, message) for message in messages))


if __name__ == "__main__":
    parser = arguments(__doc__, durable="webhook")
    parser.add_argument("url", type=address)
    parser.add_argument(
        "--all", action="store_true", help="the first time, post what the stream has kept, too"
    )
    run(main, parser.parse_args())
