"""Prints the output of a run as it was, colours and all, from its events in a stream.

Repeats are dropped by their Nats-Msg-Id: the stream does that, too, but only within its duplicate window. The
counter tells the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer import arguments, connect, identifier, read, run

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
    events: dict[str, AnyEvent] = {}
    reached = 0
    while reached < last:
        message = await subscription.next_msg(timeout=10)
        reached = message.metadata.sequence.stream
        if event := read(message):
            events.setdefault(identifier(message), event)
    await client.close()
    for event in sorted(events.values(), key=lambda event: event["counter"]):
        if text := event.get("stdout"):  # the option `omit` may leave it out
            print(text)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("subject_id")
    parser.add_argument("ident")
    run(main, parser.parse_args())
