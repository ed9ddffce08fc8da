"""What the examples share: to connect, to read a stream, and to end with a line instead of a traceback."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nats.js.errors import APIError, ServiceUnavailableError

import nats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from nats.aio.client import Client
    from nats.aio.msg import Msg

#: A subject id and an ident may have dots, so that no pattern finds events or statuses alone.
EVERYTHING = "pub.ansible.runner.>"

#: What these programs rely on, by the kind of the message.
FIELDS = {"event": ("uuid", "counter", "created", "runner_ident"), "status": ("status",), "heartbeat": ()}


def say(text: object) -> None:
    """A line for whoever started the program."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """One line without control characters: the job decides what is in a message."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def identifier(message: Msg) -> str:
    """What is the same whenever a message comes again."""
    return (message.headers or {}).get("Nats-Msg-Id", "")


def read(message: Msg) -> Any:
    """What a message says; nothing, and a line about it, if it is not one of the plugin's.

    Whoever may publish on these subjects can send anything.
    """
    try:
        content = json.loads(message.data)
    except ValueError:
        content = None
    fields = FIELDS.get(message.subject.rpartition(".")[2])
    if (
        fields is not None
        and isinstance(content, dict)
        and content.keys() >= {*fields}
        and identifier(message)
    ):
        return content
    say(f"left out, as it is no message of a run: {printable(message.subject)}")
    return None


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


async def batches(options: argparse.Namespace) -> AsyncIterator[list[Msg]]:
    """What a durable consumer has not acknowledged yet, and then what is new, some messages at a time."""
    client = await connect(options.server)
    subscription = await client.jetstream().pull_subscribe(
        EVERYTHING, durable=options.durable, stream=options.stream
    )
    while True:
        if options.once:
            info = await subscription.consumer_info()
            if not info.num_pending and not info.num_ack_pending:
                break
        try:
            messages = await subscription.fetch(100, timeout=1)
        except (nats.errors.TimeoutError, ServiceUnavailableError):
            continue  # nothing new, or a server that starts
        yield messages
    await client.close()


def run(main: Callable[[argparse.Namespace], Coroutine[Any, Any, None]], options: argparse.Namespace) -> None:
    """Run it. What goes wrong is one line and the exit status 1; Ctrl-C is 130."""
    status = 1
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        say("interrupted")
        status = 130
    except APIError as error:
        say(f"stream {options.stream}: {error.description}")
    except (OSError, asyncio.TimeoutError, nats.errors.Error) as error:
        say(str(error) or type(error).__name__)
    else:
        status = 0
    sys.exit(status)
