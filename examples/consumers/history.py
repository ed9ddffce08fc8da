"""Prints the output of a run as it was, colours and all, from its events in a stream.

Repeats are dropped by their Nats-Msg-Id: the stream does that, too, but only within its duplicate window. The
counter tells the order.
"""

from __future__ import annotations

from operator import index, itemgetter
from typing import TYPE_CHECKING

from consumer import arguments, connect, contained, identifier, read, run

if TYPE_CHECKING:
    import argparse

    from ansible_runner_nats.types import AnyEvent


async def main(options: argparse.Namespace) -> None:
    """Read the run's events, each once, and print them in their order."""
    client = await connect(options.server)
    js = client.jetstream()
    subject = f"pub.ansible.runner.{options.subject_id}.{options.ident}.event"
    last = (await js.get_last_msg(options.stream, subject)).seq or 0
    subscription = await js.subscribe(subject, stream=options.stream, ordered_consumer=True)
    texts: dict[str, tuple[int, str]] = {}
    reached = 0
    while reached < last:
        message = await subscription.next_msg(timeout=10)
        reached = message.metadata.sequence.stream
        with contained(message):
            event: AnyEvent = read(message)
            # The option `omit` may leave the text out.
            texts.setdefault(identifier(message), (index(event["counter"]), event.get("stdout", "")))
    await client.close()
    for _, text in sorted(texts.values(), key=itemgetter(0)):
        if text:
            print(text)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("subject_id")
    parser.add_argument("ident")
    run(main, parser.parse_args())
