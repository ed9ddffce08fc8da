"""Three nodes, and a stream with three replicas."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

from proxy import Proxy
from support import PATIENCE, Bus, Server, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg


class Cluster:
    """Three nodes with JetStream, and a stream with three replicas."""

    def __init__(
        self, start_server: Callable[..., Server], more: str = "", *, through_proxies: bool = False
    ) -> None:
        """``through_proxies``: so that nodes can be cut off from each other; :meth:`close` it then."""
        self.nodes: list[Server] = []
        #: The ways from node to node: ends, and what is between them.
        self.ways: list[tuple[int, int, Proxy]] = []
        self.monitors: list[int] = []
        ports = [free_port() for _ in range(3)]
        for number, port in enumerate(ports):
            listen, others = f'listen: "127.0.0.1:{port}"', ports
            if through_proxies:
                # What nodes tell each other of their addresses leads nowhere.
                listen += ', advertise: "127.0.0.1:1"'
                ways = [(number, other, Proxy(ports[other])) for other in range(number)]
                self.ways += ways
                # Without any JetStream does not start; a way to oneself is no way.
                others = [proxy.port for _, _, proxy in ways] or [port]
            routes = ", ".join(f"nats://127.0.0.1:{other}" for other in others)
            self.monitors.append(free_port())
            config = f'cluster {{ name: "c", {listen}, routes: [{routes}] }}\n{more}\n'
            config += f'http: "127.0.0.1:{self.monitors[-1]}"'
            self.nodes.append(start_server(jetstream=True, config=config))

    def close(self) -> None:
        for _, _, proxy in self.ways:
            proxy.close()

    def cut_off(self, node: Server, *, away: bool = True) -> None:
        """Cut a node off from all others; ``away=False``: no more."""
        number = self.nodes.index(node)
        for one, other, proxy in self.ways:
            if number in {one, other}:
                proxy.refuse = away

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

    def meta_leader(self) -> str:
        """The name of the node that leads the cluster."""

        def ask() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitors[0]}/jsz") as answer:
                return str(json.load(answer)["meta_cluster"].get("leader", ""))

        return wait_until(ask, "a leader of the cluster")

    def move_leader_from(self, name: str) -> str:
        """Let another node lead the stream; its name."""
        bus = self.bus()

        def is_another() -> str | None:
            leader = self.leader()
            if leader != name:
                return leader
            bus.run(bus.client.request("$JS.API.STREAM.LEADER.STEPDOWN.RUNS", b"", timeout=5))
            return None

        try:
            return wait_until(is_another, f"another leader than {name}") or ""
        finally:
            bus.close()

    def stored(self, subjects: str) -> int:
        """How many messages the stream has on these subjects."""
        bus = self.bus()

        def ask() -> dict[str, int] | None:
            try:
                js = bus.client.jetstream(timeout=1)
                return bus.run(js.stream_info("RUNS", subjects_filter=subjects)).state.subjects or {}
            except Exception:  # noqa: BLE001 - being elected
                return None

        try:
            return sum((wait_until(lambda: ask() or None, "the stream to answer") or {}).values())
        finally:
            bus.close()

    def messages(self) -> list[Msg]:
        """What the stream holds, in its order."""
        self.all_current()

        def read() -> list[Msg]:
            bus = self.bus()
            try:
                return bus.stream_messages(patience=5)
            except Exception:  # noqa: BLE001 - a consumer whose node has just come back
                return []
            finally:
                bus.close()

        return wait_until(read, "the stream to be read")

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
            # On a busy machine it takes several elections.
            wait_until(current, "the replicas to be current", 4 * PATIENCE)
        finally:
            bus.close()
