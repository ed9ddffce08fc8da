"""Getting in, being refused, and there being nobody to let us in: the job does not notice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
from jwt_auth import Authority, Key
from support import (
    CANARY,
    QUICK,
    TESTER,
    USERS,
    Bus,
    Job,
    Server,
    cli,
    free_port,
    statuses_of,
    talking_nonsense,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


USER = Key(nkeys.PREFIX_BYTE_USER)
SEED = USER.seed.decode()

TOKEN = 'authorization { token: "tök/en" }'
NKEYS = f'authorization {{ users: [ {{nkey: "{USER.public}"}}, {{user: "tester", password: "t"}} ] }}'


def run_job(tmp_path: Path, env: dict[str, str], settings: dict[str, Any] | None = None) -> Any:
    """The command line, with the plugin and without: it must not make a difference to the job."""
    job = Job(tmp_path / "job", {"nats_options": {**QUICK, **(settings or {})}})
    began = time.monotonic()
    done = cli("run", job.folder, "-p", "play.yml", env={"RUNNER_NATS_SUBJECT_ID": "id", **env})
    done.took = time.monotonic() - began  # type: ignore[attr-defined]
    done.job = job  # type: ignore[attr-defined]
    return done


def seed_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "seed"
    path.write_text(f"{text}\n")
    return str(path)


WAYS: dict[str, tuple[str, Callable[[Path, int], dict[str, str]], str]] = {
    "user and password": (
        USERS,
        lambda _, __: {"RUNNER_NATS_USERNAME": "me", "RUNNER_NATS_PASSWORD": "pä:ss"},
        "RUNNER_NATS_PASSWORD",
    ),
    "token": (TOKEN, lambda _, __: {"RUNNER_NATS_TOKEN": "tök/en"}, "RUNNER_NATS_TOKEN"),
    "seed": (NKEYS, lambda _, __: {"RUNNER_NATS_NKEYS_SEED": SEED}, ""),
    "seed file": (NKEYS, lambda path, _: {"RUNNER_NATS_NKEYS_SEED": seed_file(path, SEED)}, ""),
    "user in url": (
        USERS,
        lambda _, port: {"RUNNER_NATS_SERVERS": f"nats://me:p%C3%A4%3Ass@127.0.0.1:{port}"},
        "",
    ),
    "token in url": (
        TOKEN,
        lambda _, port: {"RUNNER_NATS_SERVERS": f"nats://t%C3%B6k%2Fen@127.0.0.1:{port}"},
        "",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_right_credential(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], way: str
) -> None:
    config, env, _ = WAYS[way]
    credentials = {"token": "tök/en"} if config is TOKEN else TESTER
    server = start_server(config=config, credentials=credentials)
    bus = connect(server).subscribe("pub.>")
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": server.url, **env(tmp_path, server.port)})
    assert (done.returncode, done.stderr) == (0, "")
    assert statuses_of(bus.wait_for_end()) == ["starting", "running", "successful"]


@pytest.mark.parametrize(
    ("config", "env"),
    [
        (USERS, {"RUNNER_NATS_USERNAME": "me", "RUNNER_NATS_PASSWORD": CANARY}),
        (USERS, {}),
        (TOKEN, {"RUNNER_NATS_TOKEN": CANARY}),
        (USERS, {"RUNNER_NATS_NKEYS_SEED": SEED}),
        (TOKEN, {"RUNNER_NATS_SERVERS": f"nats://{CANARY}@127.0.0.1:PORT"}),
        (USERS, {"RUNNER_NATS_SERVERS": f"nats://me:{CANARY}@127.0.0.1:PORT"}),
    ],
)
def test_the_wrong_credential(
    tmp_path: Path, start_server: Callable[..., Server], config: str, env: dict[str, str]
) -> None:
    server = start_server(config=config)
    env = {name: value.replace("PORT", str(server.port)) for name, value in env.items()}
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": server.url, **env})
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"ansible-runner-nats: cannot connect to {server.url}: the server refused"), (
        lines
    )
    assert "authorization violation" in lines[0].lower()
    # The report is the second line, and there is no third: once per cause, not per event.
    assert len(lines) == 2, lines
    assert "nats-undelivered.jsonl" in lines[1]
    assert CANARY not in done.stdout + done.stderr
    assert SEED not in done.stdout + done.stderr
    assert len(done.job.spilled()) == len(done.job.events()) + 3


@pytest.mark.parametrize("right", [True, False])
def test_creds_file(
    tmp_path: Path,
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    right: bool,  # noqa: FBT001
) -> None:
    authority = Authority()
    creds, stranger = authority.creds("me"), Authority().creds("stranger")
    own = tmp_path / "tester.creds"
    own.write_text(creds)
    server = start_server(config=authority.server_config(), credentials={"user_credentials": str(own)})
    bus = connect(server).subscribe("pub.>")
    path = tmp_path / "user.creds"
    path.write_text(creds if right else stranger)
    env = {"RUNNER_NATS_SERVERS": server.url, "RUNNER_NATS_USER_CREDENTIALS": str(path)}
    done = run_job(tmp_path, env)
    assert done.returncode == 0
    if right:
        assert done.stderr == ""
        assert statuses_of(bus.wait_for_end()) == ["starting", "running", "successful"]
    else:
        assert "the server refused the credentials (user_credentials)" in done.stderr
        assert "SEED" not in done.stderr


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: path.write_text(""), "no JWT of a user"),
        (lambda path: path.write_text("x" * (2 << 20)), "too large"),
        (lambda path: __import__("os").mkfifo(path), "not a regular file"),
    ],
)
def test_a_creds_file_that_is_none(
    tmp_path: Path, server: Server, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "user.creds"
    make(path)
    env = {"RUNNER_NATS_SERVERS": server.url, "RUNNER_NATS_USER_CREDENTIALS": str(path)}
    done = run_job(tmp_path, env)
    assert done.returncode == 0
    assert f"user_credentials: cannot use {path}" in done.stderr
    assert reason in done.stderr


def assert_untouched(done: Any, expected: str) -> None:
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 2, lines
    assert expected in lines[0]
    assert "never connected" in lines[1]
    assert len(done.job.spilled()) == len(done.job.events()) + 3


def test_nobody_there(tmp_path: Path) -> None:
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}"})
    assert_untouched(done, "Connection refused")


def test_unknown_host(tmp_path: Path) -> None:
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": "nats://no-such-host.invalid:4222"})
    assert done.returncode == 0
    assert "no-such-host.invalid:4222: " in done.stderr


@pytest.mark.parametrize("reply", [None, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_something_else_answers(tmp_path: Path, reply: bytes | None) -> None:
    with talking_nonsense(reply) as port:
        done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{port}"})
    assert_untouched(done, f"cannot connect to nats://127.0.0.1:{port}: ")


def test_a_server_that_says_nothing_after_its_greeting(tmp_path: Path) -> None:
    greeting = b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n'
    with talking_nonsense(greeting) as port:
        done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{port}"})
    assert_untouched(done, "no answer from a NATS server within 1 s (connect_timeout)")


def test_the_second_server_is_found(tmp_path: Path, server: Server, bus: Bus) -> None:
    urls = f"nats://127.0.0.1:{free_port()},{server.url}"
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": urls}, {"dont_randomize": True})
    assert done.returncode == 0
    assert statuses_of(bus.wait_for_end())[-1] == "successful"


def test_the_job_takes_no_longer_than_flush_timeout(tmp_path: Path) -> None:
    env = {"RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}", "RUNNER_NATS_FLUSH_TIMEOUT": "0"}
    fast = run_job(tmp_path / "a", env)
    slow = run_job(tmp_path / "b", {**env, "RUNNER_NATS_FLUSH_TIMEOUT": "4"})
    assert "; waited 0." in fast.stderr
    assert "; waited 400" in slow.stderr


def test_refused_options_publish_nothing(tmp_path: Path, server: Server, bus: Bus) -> None:
    done = run_job(tmp_path, {"RUNNER_NATS_SERVERS": f"{server.url},http://{CANARY}"})
    assert done.returncode == 0
    assert done.stderr.startswith("ansible-runner-nats: RUNNER_NATS_SERVERS=***: expected server URLs")
    assert done.stderr.count("\n") == 1
    assert CANARY not in done.stderr
    bus.run(bus.client.flush())
    assert bus.received == []


def test_a_bad_header_costs_that_header(tmp_path: Path, server: Server, bus: Bus) -> None:
    env = {"RUNNER_NATS_SERVERS": server.url, "RUNNER_NATS_HEADERS": "a=b=c,broken,d=e"}
    done = run_job(tmp_path, env)
    assert done.returncode == 0
    assert 'a pair without "=" is skipped' in done.stderr
    message = bus.wait_for_end()[-1]
    assert message.headers is not None
    assert (message.headers["a"], message.headers["d"]) == ("b=c", "e")
