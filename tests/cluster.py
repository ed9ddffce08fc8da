"""Three nodes, and a stream with three replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import Bus, Server, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg


class Cluster:
    """Three nodes with JetStream, and a stream with three replicas."""

    def __init__(self, start_server: Callable[..., Server]) -> None:
        ports = [free_port() for _ in range(3)]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.nodes: list[Server] = []

        def start(port: int) -> None:
            listen = f'cluster {{ name: "c", listen: "127.0.0.1:{port}", routes: [{routes}] }}'
            self.nodes.append(start_server(jetstream=True, config=listen))

        for port in ports:
            start(port)

    def node(self, name: str) -> Server:
        return next(node for node in self.nodes if node.folder.name == name)

    def bus(self) -> Bus:
        alive = [node.url for node in self.nodes if node.process is not None]
        return Bus(alive[0])

    def add_stream(self) -> None:
        bus = self.bus()

        def try_it() -> bool:
            try:
                bus.add_stream(num_replicas=3)
            except Exception:  # noqa: BLE001 - no leader yet
                return False
            return True

        wait_until(try_it, "the cluster to elect its leader")
        bus.close()

    def leader(self) -> str:
        """The name of the stream's leader."""
        bus = self.bus()
        try:

            def ask() -> str | None:
                try:
                    info = bus.run(bus.client.jetstream(timeout=1).stream_info("RUNS"))
                except Exception:  # noqa: BLE001 - being elected
                    return None
                return info.cluster.leader if info.cluster else None

            return wait_until(ask, "a leader") or ""
        finally:
            bus.close()

    def messages(self) -> list[Msg]:
        bus = self.bus()
        try:
            return bus.stream_messages()
        finally:
            bus.close()

    def all_current(self) -> None:
        """Wait until every replica of the stream has all of it."""
        bus = self.bus()

        def current() -> bool:
            try:
                info = bus.run(bus.client.jetstream(timeout=1).stream_info("RUNS"))
            except Exception:  # noqa: BLE001 - being elected
                return False
            replicas = info.cluster.replicas if info.cluster else None
            return bool(replicas) and all(replica.current for replica in replicas or [])

        try:
            wait_until(current, "the replicas to be current")
        finally:
            bus.close()
