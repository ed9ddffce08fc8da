"""A server that speaks NATS as badly as a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INFO = (
    b'INFO {"server_id":"X","server_name":"evil","version":"2.10.0","proto":1,"headers":true,'
    b'"max_payload":1048576}\r\n'
)


class Connection:
    """One client's connection: what it says, line by line, and a way to answer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        self.inbox = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)

    def lines(self) -> Iterator[bytes]:
        """Each line of the protocol; payloads are skipped, PINGs answered, the inbox noted."""
        for line in self.file:
            words = line.split()
            if not words:
                continue
            if words[0] == b"PING":
                self.send(b"PONG\r\n")
            elif words[0] == b"SUB":
                self.inbox = words[1].removesuffix(b".>")
            elif words[0] in {b"PUB", b"HPUB"}:
                self.file.read(int(words[-1]) + 2)
            yield line

    def greet(self) -> None:
        """Behave until the client is convinced: its hello came back, or (as commands do) it asks."""
        self.send(INFO)
        for line in self.lines():
            if line.startswith(b"PUB $JS."):
                return
            if b".hello" in line:
                self.deliver(self.inbox + b".hello")
                return

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """The number in our queue and the reply subject of each message that wants to be stored."""
        for line in self.lines():
            words = line.split()
            if line.startswith(b"PUB $JS.API.STREAM.NAMES "):
                self.deliver(words[2], b'{"streams":["S"]}')
            elif words[0] == b"HPUB":
                yield int(words[2].rpartition(b".")[2]), words[2]

    def deny(self, reply: bytes) -> None:
        """Nobody listens there, says a server."""
        self.send(b"HMSG %b 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % reply)

    def deliver(self, subject: bytes, payload: bytes = b"") -> None:
        self.send(b"MSG %b 1 %d\r\n%b\r\n" % (subject, len(payload), payload))


def after_connect(answer: Callable[[bytes], bytes]) -> Callable[[Connection], None]:
    """Greets, and answers the CONNECT line."""

    def behave(connection: Connection) -> None:
        connection.send(INFO)
        for line in connection.lines():
            if line.startswith(b"CONNECT "):
                connection.send(answer(line.removeprefix(b"CONNECT ").strip()))
                return

    return behave


class HostileServer:
    """Accepts connections and does ``behave`` with each, in a thread of its own."""

    def __init__(self, behave: Callable[[Connection], None]) -> None:
        self.behave = behave
        self.accepted = 0
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.accepted += 1
                self.open.append(sock)
                threading.Thread(target=self._one, args=[sock], daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.behave(Connection(sock))

    def __enter__(self) -> HostileServer:  # noqa: PYI034
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.thread.join(PATIENCE)
