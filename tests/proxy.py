"""A TCP proxy that misbehaves on command: cuts, swallows, delays."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time


class Proxy:
    """Forwards to ``port``, in a thread of its own; the attributes may be changed at any time."""

    def __init__(self, port: int) -> None:
        self.target = port
        #: Bytes from the server to the client are thrown away.
        self.deaf = False
        #: Bytes from the client to the server are thrown away.
        self.mute = False
        #: Seconds that each byte takes on its way, whatever their number.
        self.delay = 0.0
        self._late: list[tuple[float, socket.socket, bytes]] = []
        #: Nobody gets through, and whoever was is cut off.
        self.refuse = False
        #: How many connections were made.
        self.connections = 0
        self._cut_after: int | None = None
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self, after_bytes: int = 0) -> None:
        """Cut the connection when ``after_bytes`` more bytes have gone to the server: amid a message."""
        self._cut_after = after_bytes

    def close(self) -> None:
        self._stopped = True
        self._thread.join()
        for sock in [self._listener, *self._pairs]:
            sock.close()

    def _run(self) -> None:
        while not self._stopped:
            readable, _, _ = select.select([self._listener, *self._pairs], [], [], 0.02)
            if self._cut_after is not None and self._cut_after <= 0:
                self._cut_all()
                continue
            if self.refuse:
                self._drop_all()
            self._deliver_late()
            for sock in readable:
                if sock is self._listener:
                    self._accept()
                elif sock in self._pairs:
                    self._forward(sock)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.refuse:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 2)
        except OSError:
            client.close()
            return
        self.connections += 1
        self._pairs[client] = server
        self._pairs[server] = client

    def _forward(self, sock: socket.socket) -> None:
        peer = self._pairs[sock]
        try:
            to_server = peer.getpeername()[1] == self.target
            data = sock.recv(65536)
            if not data:
                raise ConnectionResetError
            if (to_server and self.mute) or (not to_server and self.deaf):
                return
            if to_server and self._cut_after is not None:
                data = data[: self._cut_after]
                self._cut_after -= len(data)
            if self.delay:
                self._late.append((time.monotonic() + self.delay, peer, data))
            else:
                peer.sendall(data)
        except OSError:
            self._drop(sock)

    def _deliver_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, peer, data = self._late.pop(0)
            try:
                peer.sendall(data)
            except OSError:
                self._drop(peer)

    def _drop(self, sock: socket.socket) -> None:
        peer = self._pairs.pop(sock, None)
        for one in (sock, peer):
            if one is not None:
                self._pairs.pop(one, None)
                with contextlib.suppress(OSError):
                    one.close()

    def _cut_all(self) -> None:
        self._cut_after = None
        self._drop_all()

    def _drop_all(self) -> None:
        for sock in list(self._pairs):
            self._drop(sock)
