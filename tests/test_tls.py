"""TLS, WebSocket and IPv6: what is trusted, what is not, and that nothing is sent then."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from certificates import FAILURES, Authority, Responder, identity, mutual, tls, trusting
from support import Bus, Job, Server, cli, config, counters, event, free_port, is_end, statuses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Nobody whom the server or the client trusts."""
    return Authority(tmp_path / "stranger")


def publish(url: str, folder: Path, caplog: pytest.LogCaptureFixture, **options: Any) -> str:
    """A small run, which nobody need hear; returns what was logged."""
    options = {"flush_timeout": 1, "connect_timeout": 2, "delivery": "core", **options}
    run = config(url, folder / "artifacts", **options)
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        for counter in range(5):
            event_handler(run, event(counter))
        status_handler(run, {"status": "successful"})
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("scheme", ["tls", "nats"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("client", [True, False])
def test_a_server_that_is_trusted(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
    scheme: str,
    first: bool,  # noqa: FBT001
    client: bool,  # noqa: FBT001
) -> None:
    """With `nats` it is the server that asks for TLS."""
    own = authority.issue("me", hosts=())
    more = [mutual(authority)] * client + ["handshake_first: true"] * first
    server = start_server(config=tls(authority.issue(), *more), greets=not first)
    bus = Bus(server.url.replace("nats", "tls"), tls_handshake_first=first, **trusting(authority, own))
    options: dict[str, Any] = {"tls_ca": str(authority.pem), "tls_handshake_first": first}
    if client:
        options |= {"tls_cert": str(own.cert), "tls_key": str(own.key)}
    bus.subscribe()
    said = publish(server.url.replace("nats", scheme), tmp_path, caplog, **options)
    assert counters(bus.wait_for_end()) == list(range(5)), said
    bus.close()


def test_the_systems_authorities_are_the_default(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_server(config=tls(authority.issue()))
    said = publish(server.url, tmp_path / "1", caplog)
    assert "TLS: nobody whom we trust has signed the server's certificate (tls_ca); nothing was sent" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    caplog.clear()
    assert "6 messages confirmed" in publish(server.url, tmp_path / "2", caplog)


def test_a_certificate_for_another_name(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
) -> None:
    """`tls_hostname` says which name it must have, whatever was dialled, and nothing else will do."""
    server = start_server(config=tls(authority.issue(hosts=("nats.example.org",))))
    trust = {"tls_ca": str(authority.pem)}
    said = publish(server.url, tmp_path / "1", caplog, **trust)
    assert "the server's certificate is for" in said
    assert "nats.example.org" in said
    assert "not for 127.0.0.1 (tls_hostname)" in said
    for number, (name, is_right) in enumerate({"nats.example.org": True, "evil.example.org": False}.items()):
        caplog.clear()
        said = publish(server.url, tmp_path / f"2{number}", caplog, tls_hostname=name, **trust)
        assert ("6 messages confirmed" in said) == is_right, said


def refused(said: str, expected: str) -> bool:
    """One line says it, in these words (`.*` stands for anything)."""
    pattern = ".*".join(map(re.escape, expected.split(".*")))
    found = re.findall(rf"^cannot connect to \S+: TLS: {pattern}; nothing was sent$", said, re.MULTILINE)
    return len(found) == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_nothing_is_sent_to_a_server_that_fails(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
    stranger: Authority,
    failure: str,
) -> None:
    server_config, options, expected = FAILURES[failure]
    server = start_server(config=server_config(authority, stranger))
    trust = {"tls_ca": str(authority.pem), **options(authority, stranger)}
    said = publish(server.url, tmp_path, caplog, **trust)
    assert refused(said, expected), said
    # All of it is on disk, and this is said too.
    assert len((tmp_path / "artifacts/nats-undelivered.jsonl").read_text().splitlines()) == 6
    assert "0 messages confirmed" in said


def test_a_client_certificate_that_the_server_has_revoked(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
) -> None:
    with Responder(authority) as responder:
        own = authority.issue("me", hosts=(), ocsp_url=responder.url)
        ask = f"{mutual(authority)}, ocsp_peer: {{ verify: true, ca_timeout: 2 }}"
        server = start_server(config=tls(authority.issue(ocsp_url=responder.url), ask))
        said = publish(server.url, tmp_path, caplog, tls_ca=str(authority.pem), **identity(own))
    assert refused(said, "the server refuses our client certificate: .* (tls_cert)"), said


def test_files_that_cannot_be_used(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
) -> None:
    server = start_server(config=tls(authority.issue()))
    me, other = authority.issue("me"), authority.issue("other")
    empty = tmp_path / "empty"
    empty.write_text("")
    for number, (options, expected) in enumerate(
        [
            ({"tls_ca": str(tmp_path / "absent")}, "tls_ca: cannot use .*absent: No such file"),
            ({"tls_ca": str(tmp_path)}, "tls_ca: cannot use .*: not a regular file"),
            ({"tls_ca": str(empty)}, r"tls_ca: cannot use .*empty: no certificate \(PEM\) in it"),
            ({"tls_cert": str(me.cert), "tls_key": str(other.key)}, "tls_key: cannot use .*other.key: "),
            (
                {"tls_cert": str(me.cert), "tls_key": str(me.cert)},
                r"no private key \(PEM, not encrypted\) in it",
            ),
            (
                {"tls_cert": str(me.key), "tls_key": str(me.key)},
                r"tls_cert: .*: no certificate \(PEM\) in it",
            ),
            ({"tls_cert": str(me.cert)}, "tls_cert: expected its key too .*; nothing is published"),
            ({"tls_key": str(me.key)}, "tls_key: expected its certificate too .*; nothing is published"),
            (
                {"tls_hostname": "not a name"},
                "tls_hostname=.*: expected a host name .*; nothing is published",
            ),
        ]
    ):
        caplog.clear()
        said = publish(server.url, tmp_path / str(number), caplog, **options)
        assert re.search(expected, said), said
        assert "PRIVATE" not in said


@pytest.mark.parametrize("secure", [True, False])
def test_websocket(
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
    secure: bool,  # noqa: FBT001
) -> None:
    port = free_port()
    files = authority.issue()
    security = tls(files) if secure else "no_tls: true"
    server = start_server(config=f'websocket {{ listen: "127.0.0.1:{port}", {security} }}')
    bus = connect(server).subscribe()
    url = f"{'wss' if secure else 'ws'}://127.0.0.1:{port}"
    if secure:
        assert refused(publish(url, tmp_path / "0", caplog), "nobody whom we trust has signed .*")
    options = {"tls_ca": str(authority.pem)} if secure else {}
    said = publish(url, tmp_path / "1", caplog, **options)
    assert counters(bus.wait_for_end()) == list(range(5)), said


def test_no_tls_over_a_websocket_without_it(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
) -> None:
    """`tls_ca` says that TLS is meant; `ws://` has none."""
    port = free_port()
    start_server(config=f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}')
    said = publish(f"ws://127.0.0.1:{port}", tmp_path, caplog, tls_ca=str(authority.pem))
    assert "servers: expected wss:// instead of ws://" in said
    assert "nothing is published" in said


def test_ipv6(tmp_path: Path, caplog: pytest.LogCaptureFixture, authority: Authority) -> None:
    server = Server(tmp_path / "six", config=tls(authority.issue()), host="[::1]").start()
    try:
        bus = Bus(f"tls://[::1]:{server.port}", **trusting(authority)).subscribe()
        said = publish(f"tls://[::1]:{server.port}", tmp_path, caplog, tls_ca=str(authority.pem))
        assert counters(bus.wait_for_end()) == list(range(5)), said
        bus.close()
    finally:
        server.kill()


def test_a_cluster_that_tells_addresses(
    start_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
) -> None:
    """Nodes tell each other's IP addresses; their certificates have the name that the user gave."""
    files = authority.issue(hosts=("localhost",))
    ports = [free_port(), free_port()]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    nodes = [
        start_server(
            config=f'{tls(files)}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}'
        )
        for port in ports
    ]
    context = trusting(authority)
    bus = Bus(f"tls://localhost:{nodes[1].port}", **context).subscribe()
    run = config(f"tls://localhost:{nodes[0].port}", tmp_path, tls_ca=str(authority.pem))
    with caplog.at_level(logging.INFO, "ansible-runner.nats"):
        event_handler(run, event(0))
        bus.wait_for(lambda messages: len(messages) == 1)
        nodes[0].kill()
        event_handler(run, event(1))
        bus.wait_for(lambda messages: counters(messages)[-1] == 1)
        status_handler(run, {"status": "successful"})
    assert is_end(bus.wait_for_end()[-1])
    bus.close()


def test_a_real_job_with_the_environments_options(
    start_server: Callable[..., Server], tmp_path: Path, authority: Authority
) -> None:
    own = authority.issue("me", hosts=())
    server = start_server(config=tls(authority.issue(), mutual(authority)))
    bus = Bus(server.url.replace("nats", "tls"), **trusting(authority, own)).subscribe()
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id",
        "RUNNER_NATS_SERVERS": server.url.replace("nats", "tls"),
        "RUNNER_NATS_TLS_CA": str(authority.pem),
        "RUNNER_NATS_TLS_CERT": str(own.cert),
        "RUNNER_NATS_TLS_KEY": str(own.key),
    }
    done = cli("run", Job(tmp_path / "job").folder, "-p", "play.yml", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    messages = bus.wait_for_end()
    assert statuses_of(messages) == ["starting", "running", "successful"]
    secret = own.key.read_text().splitlines()[1]
    assert all(secret.encode() not in message.data for message in messages)
    bus.close()
