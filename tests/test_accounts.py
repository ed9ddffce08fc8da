"""Decentralised authentication: what an account forbids, and users that it lets go in the middle of a run."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from jwt_auth import Authority
from support import (
    ME,
    TESTER,
    Bus,
    Server,
    body,
    command,
    config,
    counters,
    event,
    first_times,
    me_with,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Account:
    """A server in operator mode with one account, and files of its users' credentials."""

    def __init__(self, start_server: Callable[..., Server], tmp_path: Path, **limits: int) -> None:
        self.folder = tmp_path
        self.authority = Authority()
        self.server = start_server(config=self.authority.server_config(limits))

    def creds(self, name: str, expires: float | None = None) -> str:
        path = self.folder / f"{name}.creds"
        path.write_text(self.authority.creds(name, expires))
        return str(path)

    def bus(self) -> Bus:
        return Bus(self.server.url, user_credentials=self.creds("tester"))


def publish_until(run: Any, caplog: pytest.LogCaptureFixture, said: str) -> int:
    """Events, from the second one on, until something is logged; returns how many there are now."""
    counter = 1

    def publish() -> bool:
        nonlocal counter
        event_handler(run, event(counter))
        counter += 1
        return any(said in record.getMessage().lower() for record in caplog.records)

    wait_until(publish, f"a line that says {said}")
    return counter


def test_the_accounts_limit_of_payload(
    start_server: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own limit is 1 MiB; the account's ends the connection of whoever passes it."""
    account = Account(start_server, tmp_path, payload=8_192)
    bus = account.bus().subscribe()
    run = config(account.server.url, tmp_path / "artifacts", user_credentials=account.creds("me"))
    for counter in range(3):
        event_handler(run, {**event(counter), "stdout": "x" * 20_000 * counter})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert first_times(messages) == [0, 1, 2]
    assert all(len(message.data) <= 8_192 for message in messages)
    assert body(messages[-2])["stdout"] != "x" * 40_000
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert re.search(r"not take a message of 4\d{4} bytes, .*: messages are cut to 2\d{4} bytes", said[0])
    bus.close()


def test_a_small_limit_is_no_reason_for_a_storm(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """Down to what a few headers take; what cannot be cut that much is kept on disk, and the rest goes on."""
    account = Account(start_server, tmp_path, payload=700)
    bus = account.bus().subscribe()
    run = config(account.server.url, tmp_path / "artifacts", user_credentials=account.creds("me"))
    for counter, size in enumerate((10, 1_900, 20)):
        event_handler(run, {**event(counter), "stdout": "x" * size})
    event_handler(run, {"counter": 3, "uuid": "u", "numbers": dict.fromkeys(map(str, range(300)), 1)})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert set(first_times(messages)) == {0, 1, 2, 3}
    assert len(messages) < 30
    assert all(len(message.data) <= 700 for message in messages)
    bus.close()


def test_the_accounts_limit_of_connections(
    start_server: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account = Account(start_server, tmp_path, conn=1)
    bus = account.bus().subscribe()
    credentials = account.creds("me")
    # Nobody else can be there to listen.
    run = config(account.server.url, tmp_path / "artifacts", user_credentials=credentials, delivery="core")
    event_handler(run, event(0))
    sent = publish_until(run, caplog, "maximum account active connections")
    bus.close()
    status_handler(run, {"status": "successful"})
    # A place is free now: all of it arrives, as the summary says.
    assert f"{sent + 1} messages confirmed" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("how", ["expired", "revoked"])
def test_a_user_that_is_let_go(
    start_server: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The job goes on; what could not be delivered is on disk, and the line says why."""
    account = Account(start_server, tmp_path)
    bus = account.bus().subscribe()
    expires = time.time() + 3 if how == "expired" else None
    creds = account.creds("me", expires)
    run = config(account.server.url, tmp_path / "artifacts", user_credentials=creds, flush_timeout=0.5)
    event_handler(run, event(0))
    bus.wait_for(lambda messages: len(messages) == 1)
    if how == "revoked":
        account.server.reload(account.authority.server_config(revoke_all=True))

    sent = publish_until(run, caplog, "refused the credentials")
    status_handler(run, {"status": "successful"})
    lines = (tmp_path / "artifacts/nats-undelivered.jsonl").read_text().splitlines()
    kept = [json.loads(json.loads(line)["payload"]) for line in lines]
    assert kept[-1]["status"] == "successful"
    delivered = set(counters(bus.received))
    assert delivered | {data["counter"] for data in kept[:-1]} == set(range(sent))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert how in said.lower() or "authorization violation" in said.lower(), said
    secrets = [line for line in (tmp_path / "me.creds").read_text().splitlines() if line[:2] in {"SU", "ey"}]
    assert len(secrets) == 2
    assert not any(secret in said for secret in secrets)
    bus.close()


def test_commands_use_the_inbox_that_they_are_told(start_server: Callable[..., Server]) -> None:
    """Who may subscribe to an inbox of their own alone needs no other."""
    permissions = '{publish: ">", subscribe: ["_INBOX_me.>", "pub.>"]}'
    server = start_server(jetstream=True, config=me_with(permissions), credentials=TESTER)
    bus = Bus(server.url, **TESTER)
    bus.add_stream()
    bus.send("pub.ansible.runner.a.x.status", b'{"status": "failed", "runner_ident": "x"}')
    bus.close()
    env = {
        "RUNNER_NATS_SERVERS": server.url,
        **ME,
        "RUNNER_NATS_INBOX_PREFIX": "_INBOX_me",
    }
    for arguments, exit_status in ((["runs"], 0), (["wait", "x"], 3), (["stream"], 0)):
        done = command(*arguments, env=env)
        assert (done.returncode, "may not" in done.stderr) == (exit_status, False), done
        assert "_INBOX." not in done.stdout + done.stderr
    refused = command("runs", env={**env, "RUNNER_NATS_INBOX_PREFIX": "_INBOX"})
    assert refused.returncode == 1
