"""Ways in which a stream is hidden from the JetStream API that a job's server has."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import nats.errors
from cluster import Cluster
from nats.js.api import ExternalStream, StreamSource
from support import Bus, Server, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    StartServer = Callable[..., Server]

OURS = "pub.ansible.runner.>"
#: How the tests find out that a way to a stream is open; no message of a run.
PROBE = "pub.ansible.runner.probe"

#: What comes back to a message with a reply subject: an acknowledgement, no responders, or nothing.
Answer = Literal["stored", "unheard", "silence"]


@dataclass
class Topology:
    """A server that jobs connect to, and somewhere behind it a stream."""

    #: Where jobs connect.
    url: str
    #: Where the stream is: server and account.
    store_url: str
    stream: str = "RUNS"
    #: What the stream takes: not always what jobs publish to.
    subjects: tuple[str, ...] = (OURS,)
    #: What goes away and comes back; without any it is the stream, and what it holds.
    storing: list[Server] = field(default_factory=list)
    #: What streams held that are deleted.
    gone: list[Msg] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def ignore(_: Exception) -> None:
            """That servers are away is what is tested."""

        self.bus = Bus(self.store_url, reconnect_time_wait=0.1, error_cb=ignore)

    def close(self) -> None:
        """The servers are those of the fixture that starts them."""
        self.bus.close()

    def add_stream(self) -> Topology:
        self.bus.add_stream(self.stream, self.subjects)
        return self

    def take_away(self) -> None:
        if not self.storing:
            self.gone += self.messages()
            self.bus.run(self.bus.client.jetstream().delete_stream(self.stream))
        for server in self.storing:
            server.kill()

    def bring_back(self) -> None:
        """Returns before a leader is elected, or a leaf node has its hub again."""
        for server in self.storing:
            server.start()
        if not self.storing:
            self.add_stream()

    def wait_until_open(self) -> Topology:
        """Until what a job publishes is stored."""
        self._wait_for("stored")
        wait_until(lambda: any(map(is_probe, self._subjects())), "the stream to have it")
        return self

    def wait_until_away(self) -> None:
        """Until the jobs' server knows that nobody is behind it any more."""
        self._wait_for("unheard")

    def _wait_for(self, wanted: Answer) -> None:
        jobs = Bus(self.url)
        try:
            wait_until(lambda: answer(jobs, PROBE) == wanted, f"a message to be {wanted}")
        finally:
            jobs.close()

    def count(self) -> int:
        """How many messages the stream holds."""
        return sum(count for subject, count in self._subjects().items() if not is_probe(subject))

    def messages(self) -> list[Msg]:
        """What was stored, in the order of the stream, with what is gone."""
        self._subjects()
        found: list[Msg] = []

        def read() -> bool:
            try:
                found[:] = self.bus.stream_messages(self.stream, patience=5)
            except Exception:  # noqa: BLE001 - a consumer whose node has just come back
                return False
            return True

        wait_until(read, "the stream to be read")
        return self.gone + [message for message in found if not is_probe(message.subject)]

    def _subjects(self) -> dict[str, int]:
        """How many messages there are on each, as soon as the stream answers."""
        found: dict[str, int] = {}

        def ask() -> bool:
            try:
                # Without a leader nothing comes back.
                js = self.bus.client.jetstream(timeout=1)
                info = self.bus.run(js.stream_info(self.stream, subjects_filter=">"))
            except Exception:  # noqa: BLE001 - being elected, or not connected again
                return False
            found.update(info.state.subjects or {})
            return True

        wait_until(ask, "the stream to answer")
        return found


def is_probe(subject: str) -> bool:
    """Under another name, too."""
    return subject.endswith(".probe")


def answer(bus: Bus, subject: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    """What comes back to a message."""
    try:
        reply = bus.run(bus.client.request(subject, data, timeout=1, headers=headers))
    except nats.errors.NoRespondersError:
        return "unheard"
    except nats.errors.TimeoutError:
        return "silence"
    assert "error" not in json.loads(reply.data), reply.data
    return "stored"


def front(start_server: StartServer) -> Topology:
    """A server without JetStream before three nodes that have it."""
    cluster = Cluster(start_server)
    cluster.add_stream()
    own = re.sub('listen: "[^"]*"', f'listen: "127.0.0.1:{free_port()}"', cluster.nodes[0].config)
    server = start_server(config=own.splitlines()[0])
    return Topology(server.url, cluster.nodes[0].url, storing=cluster.nodes).wait_until_open()


def mapping(start_server: StartServer) -> Topology:
    """The server stores what we publish under another subject."""
    config = f'mappings: {{ "{OURS}": "stored.ansible.runner.>" }}'
    server = start_server(jetstream=True, config=config)
    return Topology(server.url, server.url, subjects=("stored.>",)).add_stream()


def _two_accounts(start_server: StartServer, jobs: str, store: str) -> Topology:
    server = start_server(
        jetstream=True,
        config=f"""accounts {{
            JOBS {{ users: [{{user: j, password: p}}], {jobs} }}
            STORE {{ users: [{{user: s, password: p}}], jetstream: enabled, {store} }}
        }}""",
    )
    jobs_url, store_url = (server.url.replace("//", f"//{user}:p@") for user in "js")
    return Topology(jobs_url, store_url).add_stream()


def service_import(start_server: StartServer) -> Topology:
    """Another account stores, and offers that as a service."""
    jobs = f'imports: [{{ service: {{ account: STORE, subject: "{OURS}" }} }}]'
    return _two_accounts(start_server, jobs, f'exports: [{{ service: "{OURS}" }}]')


def stream_import(start_server: StartServer) -> Topology:
    """Another account stores what ours lets it hear: nothing ever comes back."""
    store = f'imports: [{{ stream: {{ account: JOBS, subject: "{OURS}" }} }}]'
    return _two_accounts(start_server, f'exports: [{{ stream: "{OURS}" }}]', store)


def _leaf_and_hub(start_server: StartServer, *, domains: bool) -> Topology:
    """The stream is to be made at the hub, which goes away; ``domains``: the leaf node has JetStream, too."""
    port = free_port()
    hub = start_server(jetstream=not domains, config=f'leafnodes {{ listen: "127.0.0.1:{port}" }}')
    remote = f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}'
    leaf = start_server(config=remote)
    if domains:
        for server, domain in ((hub, "hub"), (leaf, "leaf")):
            # Where it stores is known now.
            jetstream = f'domain: {domain}, store_dir: "{server.folder / "js"}"'
            server.config += f"\njetstream {{ {jetstream} }}"
            server.restart()
    return Topology(leaf.url, hub.url, storing=[hub])


def leaf_without_jetstream(start_server: StartServer) -> Topology:
    """The hub's JetStream API does not get through, its stream's subjects do."""
    return _leaf_and_hub(start_server, domains=False).add_stream().wait_until_open()


def leaf_with_a_domain(start_server: StartServer) -> Topology:
    """The leaf node has a JetStream API of its own, which knows of no stream."""
    return _leaf_and_hub(start_server, domains=True).add_stream().wait_until_open()


def source(start_server: StartServer) -> Topology:
    """The leaf node has the stream, and the hub one that gets all from there."""
    topology = _leaf_and_hub(start_server, domains=True)
    leaf = Bus(topology.url)
    leaf.add_stream("LEAF", (OURS,))
    leaf.close()
    at_leaf = StreamSource(name="LEAF", external=ExternalStream(api="$JS.leaf.API"))
    topology.bus.add_stream(topology.stream, (), sources=[at_leaf])
    return topology.wait_until_open()
