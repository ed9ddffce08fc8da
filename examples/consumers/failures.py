"""Prints every task that failed and every host that could not be reached, in all runs, once.

A durable consumer remembers in the stream how far it came: stop this program, start it again, and it goes on
where it was. Several at once share the work. A message is acknowledged when its line is printed; if the
program dies in between, the message comes again, so that a line may be printed twice, but none is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer import arguments, batches, contained, printable, read, run

if TYPE_CHECKING:
    import argparse

    from ansible_runner_nats.types import Event


def describe(event: Event) -> str | None:
    """A line about a failure, or nothing."""
    if "event" not in event or event["event"] not in ("runner_on_failed", "runner_on_unreachable"):
        return None
    data = event.get("event_data", {})
    if isinstance(data, str):  # was cut from a large message
        data = {}
    result = data.get("res", {})
    if isinstance(result, str):
        result = {}
    word = event["event"].rpartition("_")[2] + (" (ignored)" if data.get("ignore_errors") else "")
    why = result.get("msg") or result.get("stderr") or result.get("censored") or ""
    parts = (event.get("runner_ident", "?"), data.get("host", "?"), data.get("task", "?"), word, why)
    return " | ".join(printable(part) for part in parts)


async def main(options: argparse.Namespace) -> None:
    """Follow the stream."""
    async for messages in batches(options):
        for message in messages:
            with contained(message):
                line = describe(read(message))
                if line:
                    print(line, flush=True)
            await message.ack()


if __name__ == "__main__":
    run(main, arguments(__doc__, durable="failures").parse_args())
