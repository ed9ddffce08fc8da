"""Whose a message is says its subject, as the server has checked it: not its header, and not its payload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ansible_runner_nats import event_handler, status_handler
from serving import Serve
from support import Bus, Server, command, config, event, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

#: Who may publish for one site alone.
USERS = """
authorization { users: [
    { user: tester, password: t },
    { user: b, password: b, permissions: {
        publish: { allow: ["pub.ansible.runner.site-b.>", "_INBOX.>"] } } } ] }
"""


def test_another_site_cannot_end_our_run(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    own = {"user": "tester", "password": "t"}
    server = start_server(config=USERS, jetstream=True, credentials=own)
    bus = connect(server)
    bus.add_stream()
    run = config(server.url, None, **own)
    run.settings["nats_subject_id"] = "site-a"
    run.ident = "deploy"
    status_handler(run, {"status": "running"})
    wait_until(lambda: bus.stream_count() == 1)
    stranger = Bus(server.url, user="b", password="b")
    try:
        forged = {"status": "successful", "runner_ident": "deploy"}
        for subject in ("site-b.deploy.status", "site-b.site-a.deploy.status", "site-b.x.status"):
            headers = {"Nats-Msg-Id": f"site-a.deploy.status.0123456789abcdef.{len(subject)}"}
            stranger.send(f"pub.ansible.runner.{subject}", json.dumps(forged).encode(), headers)
    finally:
        stranger.close()
    wait_until(lambda: bus.stream_count() == 4)
    login = ["-o", "user=tester", "-o", "password=t", "-s", server.url]
    done = command("runs", *login, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    states = {(run["subject_id"], run["runner_ident"]): run["state"] for run in json.loads(done.stdout)}
    assert states == {
        ("site-a", "deploy"): "running",
        ("site-b", "deploy"): "successful",
        ("site-b.site-a", "deploy"): "successful",
    }
    with Serve(server, *login[:4]) as serve:
        serve.wait_for_run("deploy", "running")
    status_handler(run, {"status": "failed"})
    done = command("wait", "deploy", "--subject-id", "site-a", *login)
    assert done.returncode == 3


def test_one_of_0_4_0_beside_ours(stored: tuple[Server, Bus]) -> None:
    """Their messages have no header at all, and the same ident."""
    server, bus = stored
    run = config(server.url, None)
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    wait_until(lambda: bus.stream_count() == 2)
    for status in ("starting", "running", "successful"):
        payload = json.dumps({"status": status, "runner_ident": "r"}).encode()
        bus.send("pub.ansible.runner.old.r.status", payload, {})
    wait_until(lambda: bus.stream_count() == 5)
    done = command("runs", "-s", server.url, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert {run["subject_id"] for run in json.loads(done.stdout)} == {"id", "old"}
    done = command("logs", "r", "-s", server.url)
    assert done.returncode == 1
    assert "id" in done.stderr
    assert "old" in done.stderr
    assert command("logs", "r", "--subject-id", "old", "-s", server.url).returncode == 0
