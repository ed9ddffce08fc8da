"""Who a run is, when something was said, and who runs what where: three headers, made by the plugin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, report, status_handler
from support import Job, body, cli, config, event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Bus, Server

RUN, TIME, CARD = "Ansible-Runner-Run", "Ansible-Runner-Time", "Ansible-Runner-Card"


def headers(messages: list[Msg]) -> list[dict[str, str]]:
    return [dict(message.headers or {}) for message in messages]


def publish(url: str, folder: Path, more: dict[str, Any] | None = None, **start: object) -> Any:
    """One run with two events; returns its configuration object."""
    run = config(url, folder, **(more or {}))
    status_handler(run, {"status": "starting", "runner_ident": "r", **start})
    status_handler(run, {"status": "running", "runner_ident": "r"})
    for counter in (1, 2):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    return run


def test_every_message_of_a_real_job_has_the_runs_identity(server: Server, bus: Bus, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    run = ("run", job.folder, "-p", "play.yml", "--ident", "one")
    before = datetime.now(timezone.utc)
    more = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_SERVERS": server.url}
    assert cli(*run, env={**more, "RUNNER_NATS_HEARTBEAT": "0.2"}).returncode == 0
    assert cli(*run, env=more).returncode == 0
    messages = bus.wait_for_end(runs=2)
    identities = [header[RUN] for header in headers(messages)]
    first, second = dict.fromkeys(identities)
    # It sorts by time, and says when it was (RFC 9562).
    assert first < second
    assert {uuid.UUID(one).version for one in (first, second)} == {7}
    made = datetime.fromtimestamp((uuid.UUID(first).int >> 80) / 1000, timezone.utc)
    assert timedelta(seconds=-1) < made - before < timedelta(seconds=30)
    kinds = {message.subject.rpartition(".")[2] for message in messages}
    assert kinds == {"event", "status", "heartbeat"}
    for message, header in zip(messages, headers(messages)):
        assert (TIME in header) is not message.subject.endswith(".event")
        assert (CARD in header) is (body(message).get("status") == "starting")
        if TIME in header:
            said = datetime.fromisoformat(header[TIME].replace("Z", "+00:00"))
            assert timedelta(seconds=-1) < said - before < timedelta(seconds=60)


def test_the_time_is_when_it_was_said_and_not_when_it_arrived(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server()
    server.kill()
    began = datetime.now(timezone.utc)
    run = config(server.url, tmp_path, reconnect_time_wait=0.1, flush_timeout=20)
    status_handler(run, {"status": "starting", "runner_ident": "r"})
    said = datetime.now(timezone.utc)
    server.start()
    bus = connect(server).subscribe()
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    header = headers(bus.wait_for_end())[0]
    time = datetime.fromisoformat(header[TIME].replace("Z", "+00:00"))
    assert began - timedelta(milliseconds=1) <= time <= said


def test_the_record_the_report_and_the_messages_name_one_run(
    server: Server, bus: Bus, tmp_path: Path
) -> None:
    run = publish(server.url, tmp_path)
    (identity,) = {header[RUN] for header in headers(bus.wait_for_end())}
    said = report(run)
    assert said is not None
    assert said["run_id"] == identity
    assert json.loads((tmp_path / "nats-run.json").read_text())["run_id"] == identity


def test_a_configuration_that_is_used_again_is_another_run(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = publish(server.url, tmp_path)
    status_handler(run, {"status": "starting", "runner_ident": "r"})
    status_handler(run, {"status": "failed", "runner_ident": "r"})
    identities = [header[RUN] for header in headers(bus.wait_for_end(runs=2))]
    assert len(set(identities)) == 2
    assert identities == sorted(identities)
    # What comes late, after the end, is still of that run.
    status_handler(run, {"status": "error", "runner_ident": "r"})
    assert headers(bus.wait_for_end(runs=3))[-1][RUN] == identities[-1]


def test_spilled_messages_keep_their_headers(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    server.kill()
    run = publish(server.url, tmp_path, {"flush_timeout": 0.1})
    (path,) = tmp_path.glob("nats-undelivered*.jsonl")
    lines = [dict(json.loads(line)["headers"]) for line in path.read_text().splitlines()]
    assert len({line[RUN] for line in lines}) == 1
    assert [CARD in line for line in lines] == [True, False, False, False, False]
    assert [TIME in line for line in lines] == [True, True, False, False, True]
    del run


def test_the_time_of_a_cloud_event_is_that_of_the_status(server: Server, bus: Bus, tmp_path: Path) -> None:
    publish(server.url, tmp_path, {"cloudevents": True})
    statuses = [header for header in headers(bus.wait_for_end()) if TIME in header]
    assert len(statuses) == 3
    assert all(header["ce-time"] == header[TIME] for header in statuses)


def card_of(messages: list[Msg]) -> dict[str, Any]:
    (card,) = [header[CARD] for header in headers(messages) if CARD in header]
    found = json.loads(card)
    assert isinstance(found, dict)
    return found


def test_the_card(server: Server, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "me")
    monkeypatch.setenv("RUNNER_NATS_ACTOR", "jane.doe")
    publish(server.url, tmp_path / "a", env={}, command=["ansible"], cwd=str(tmp_path))
    card = card_of(bus.wait_for_end())
    python = ".".join(map(str, __import__("sys").version_info[:3]))
    assert {key: card.get(key) for key in ("pid", "user", "actor", "python")} == {
        "pid": os.getpid(), "user": "me", "actor": "jane.doe", "python": python,
    }  # fmt: skip
    assert card["host"] == os.uname().nodename
    assert re.match(r"\d+\.\d+", card["ansible_runner"])
    assert card["plugin"]
    assert "revision" not in card


def test_no_secret_is_on_the_card(
    server: Server, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_NATS_ACTOR", "canary-secret-of-the-job")
    publish(server.url, tmp_path, env={"DB_PASSWORD": "canary-secret-of-the-job"}, command=["ansible"])
    assert "canary" not in json.dumps(headers(bus.wait_for_end()))


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """A repository with one commit, which is returned."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return git(folder, "rev-parse", "HEAD")


def loose(folder: Path) -> tuple[Path, str | None]:
    return folder, repository(folder)


def below(folder: Path) -> tuple[Path, str | None]:
    commit = repository(folder)
    (folder / "roles/x").mkdir(parents=True)
    return folder / "roles/x", commit


def packed(folder: Path) -> tuple[Path, str | None]:
    commit = repository(folder)
    git(folder, "pack-refs", "--all")
    assert not (folder / ".git/refs/heads/main").exists()
    return folder, commit


def detached(folder: Path) -> tuple[Path, str | None]:
    commit = repository(folder)
    git(folder, "checkout", "-q", "--detach")
    return folder, commit


def worktree(folder: Path) -> tuple[Path, str | None]:
    repository(folder)
    other = folder.with_name("other")
    git(folder, "worktree", "add", "-q", "-b", "side", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "two")
    git(folder, "pack-refs", "--all")
    return other, git(other, "rev-parse", "HEAD")


def unborn(folder: Path) -> tuple[Path, str | None]:
    folder.mkdir()
    git(folder, "init", "-q")
    return folder, None


def hostile(folder: Path) -> tuple[Path, str | None]:
    repository(folder)
    (folder / ".git/HEAD").write_text("ref: ../../etc/passwd\n")
    return folder, None


def fifo(folder: Path) -> tuple[Path, str | None]:
    repository(folder)
    (folder / ".git/HEAD").unlink()
    os.mkfifo(folder / ".git/HEAD")
    return folder, None


@pytest.mark.parametrize("make", [loose, below, packed, detached, worktree, unborn, hostile, fifo])
def test_the_revision_is_what_git_says(
    server: Server, bus: Bus, tmp_path: Path, make: Callable[[Path], tuple[Path, str | None]]
) -> None:
    folder, commit = make(tmp_path / "project")
    publish(server.url, tmp_path / "artifacts", cwd=str(folder))
    assert card_of(bus.wait_for_end()).get("revision") == commit


def test_headers_of_ours_cannot_be_set(server: Server, bus: Bus, tmp_path: Path) -> None:
    run = config(server.url, tmp_path)
    run.settings["nats_headers"] = {RUN: "mine", "ansible-runner-card": "{}", "team": "a"}
    status_handler(run, {"status": "failed", "runner_ident": "r"})
    (header,) = headers(bus.wait_for_end())
    assert header[RUN] != "mine"
    assert CARD not in header
    assert header["team"] == "a"
