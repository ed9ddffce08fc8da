"""What the examples share: to connect, to read a stream, and to end with a line instead of a traceback."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, ServiceUnavailableError

import nats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

#: A subject id and an ident may have dots, so that no pattern finds events or statuses alone.
EVERYTHING = "pub.ansible.runner.>"


def say(text: object) -> None:
    """A line for whoever started the program."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """One line without control characters: the job decides what is in a message."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def identifier(message: Msg) -> str:
    """What is the same whenever a message comes again. Version 0.4.0 of the plugin sends no id."""
    place = message.metadata
    return (message.headers or {}).get("Nats-Msg-Id") or f"{place.stream}:{place.sequence.stream}"


def read(message: Msg) -> Any:
    """The JSON object that a message is."""
    content = json.loads(message.data)
    if not isinstance(content, dict):
        complaint = "it is no JSON object"
        raise TypeError(complaint)
    return content


@contextmanager
def contained(message: Msg) -> Iterator[None]:
    """What cannot be understood is named and left out: whoever may publish there can send anything."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        say(f"left out, on {printable(message.subject)}: {type(error).__name__}: {printable(error)[:200]}")


def arguments(about: str | None, durable: str | None = None) -> argparse.ArgumentParser:
    """The arguments that all take; with the name of a ``durable`` consumer those of :func:`batches`, too."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--server", default="nats://localhost:4222", help="nats://user:password@host:port")
    parser.add_argument("--stream", default="RUNS")
    if durable:
        parser.add_argument("--durable", default=durable, help="the name of the consumer")
        parser.add_argument("--once", action="store_true", help="stop when all that there is was read")
    return parser


async def connect(server: str) -> Client:
    """A connection that has to come about now. Later on it comes back after every outage."""
    connected = False

    async def on_error(error: Exception) -> None:
        if not connected:
            raise error  # nats-py would try again and again, and say nothing
        say(str(error) or type(error).__name__)

    client = await nats.connect(server, error_cb=on_error, max_reconnect_attempts=-1)
    connected = True
    return client


async def batches(options: argparse.Namespace, *, history: bool = True) -> AsyncIterator[list[Msg]]:
    """What a durable consumer has not acknowledged yet, and then what is new, some messages at a time.

    If there is no such consumer yet, it begins with all that the stream has kept,
    or with what comes from now on.
    """
    client = await connect(options.server)
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL if history else DeliverPolicy.NEW)
    subscription = await client.jetstream().pull_subscribe(
        EVERYTHING, durable=options.durable, stream=options.stream, config=config
    )
    while True:
        if options.once:
            info = await subscription.consumer_info()
            if not info.num_pending and not info.num_ack_pending:
                break
        try:
            messages = await subscription.fetch(100, timeout=1)
        except (asyncio.TimeoutError, ServiceUnavailableError):
            continue  # nothing new, or a server that starts
        yield messages
    await client.close()


def run(
    main: Callable[[argparse.Namespace], Coroutine[Any, Any, None]],
    options: argparse.Namespace,
    at_end: Callable[[], None] = sys.stdout.flush,
) -> None:
    """Run it. What goes wrong is one line and the exit status 1; Ctrl-C is 130."""

    def interrupted() -> None:
        # At once, as nats-py takes a cancelled task for a timeout: what is not acknowledged comes again.
        say("interrupted")
        at_end()
        os._exit(130)

    async def begin() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted)
        await main(options)

    status = 1
    try:
        asyncio.run(begin())
    except APIError as error:
        say(f"stream {options.stream}: {error.description}")
    except (OSError, asyncio.TimeoutError, nats.errors.Error) as error:
        say(str(error) or type(error).__name__)
    else:
        status = 0
    at_end()
    sys.exit(status)
