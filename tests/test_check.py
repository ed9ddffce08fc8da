"""`ansible-runner-nats check`: what is in force, what works and what does not; and the exit status."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from ansible_runner_nats import event_handler, status_handler
from certificates import FAILURES, Authority, tls
from support import (
    CANARY,
    PATIENCE,
    TESTER,
    USERS,
    Bus,
    Job,
    Server,
    bin_dir,
    clean_env,
    command,
    config,
    event,
    free_port,
    talking_nonsense,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ON = {"RUNNER_NATS_SUBJECT_ID": "site.a"}


@pytest.fixture
def server(server: Server, connect: Callable[..., Bus]) -> Server:
    """A plain server, and somebody who listens: otherwise a job's messages would end in a file."""
    connect(server).subscribe(">")
    return server


def check(*args: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = command("check", *args, env=env)
    assert "\x1b" not in done.stdout
    assert CANARY not in done.stdout + done.stderr
    return done


def problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("problem ") for line in done.stdout.splitlines() if line.startswith("problem ")]


def test_all_is_well(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True, config=USERS, credentials=TESTER)
    bus = connect(server).subscribe(">")
    bus.add_stream()
    options = {"servers": server.url, "user": "me", "password": "pä:ss", "omit": ["stdout", "event_data.res"]}
    job = Job(tmp_path / "job", {"nats_subject_id": "site.a", "nats_options": options})
    done = check(job.folder, "-v", env={"RUNNER_NATS_FLUSH_TIMEOUT": "7"})
    assert (done.returncode, done.stderr, problems(done)) == (0, "", [])
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert lines["nats_subject_id"][1:] == ["site.a", "nats_subject_id"]
    assert lines["flush_timeout"][1:] == ["7", "RUNNER_NATS_FLUSH_TIMEOUT"]
    assert lines["password"][1:] == ["***", "nats_options.password"]
    assert lines["omit"][1:] == ["stdout,", "event_data.res", "nats_options.omit"]
    assert lines["pending_size"][1:] == ["67108864", "default"]
    steps = re.findall(r"^(ok|note) +(\S+) +(.*)$", done.stdout, re.MULTILINE)
    # One server may lose what it has acknowledged.
    assert ("note", "stream") in {(state, step) for state, step, text in steps if "has one replica" in text}
    steps = [(state, step, text) for state, step, text in steps if "has one replica" not in text]
    told = {step: (state, text) for state, step, text in steps}
    assert told["name"][0] == told["TCP"][0] == told["inbox"][0] == told["RTT"][0] == "ok"
    assert told["TLS"] == ("note", told["TLS"][1])
    assert told["login"][1] == "as user me, password ***"
    assert f"{server.folder.name}, version 2." in told["server"][1]
    assert "max_payload 1048576 bytes, JetStream on" in told["server"][1]
    assert "RUNS takes our messages: duplicate window 120s" in told["stream"][1]
    assert told["publish"] == ("ok", "status messages to pub.ansible.runner.site.a.check.status")
    assert told["delivery"] == ("ok", "jetstream: a stream confirms")
    # Nobody but our own inbox heard of it.
    assert bus.stream_count() == 0
    bus.run(bus.client.flush())
    assert {message.subject.split(".")[0] for message in bus.received} <= {"_INBOX", "$JS", "$SYS"}


def test_json(server: Server) -> None:
    done = check("--json", "--server", server.url, env=ON)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["problems"]) == (0, True, [])
    assert {"option": "servers", "value": server.url, "source": "the command line"} in report["options"]
    [probed] = report["servers"]
    assert probed["server"] == server.url
    assert probed["steps"][-1] == {
        "step": "delivery", "state": "ok",
        "text": "core: the server's echo confirms (no stream takes our subject)",
    }  # fmt: skip
    done = check("--json", "--server", f"nats://127.0.0.1:{free_port()}", env=ON)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (1, False)
    assert report["servers"][0]["steps"][-1]["state"] == "problem"


@pytest.mark.parametrize("failure", FAILURES)
def test_tls_that_fails(start_server: Callable[..., Server], tmp_path: Path, failure: str) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    server_config, options, expected = FAILURES[failure]
    server = start_server(config=server_config(authority, stranger))
    settings = {"servers": server.url, "tls_ca": str(authority.pem), **options(authority, stranger)}
    done = check(Job(tmp_path / "job", {"nats_options": settings}).folder, env=ON)
    assert done.returncode == 1
    [problem] = problems(done)
    assert re.search(".*".join(map(re.escape, expected.split(".*"))), problem), problem


def test_tls_that_works(start_server: Callable[..., Server], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = start_server(config=tls(authority.issue(hosts=("127.0.0.1", "nats.example.org"))))
    done = check("-s", server.url, "-o", f"tls_ca={authority.pem}", "-o", "delivery=core", env=ON)
    assert done.returncode == 0, done.stdout
    [line] = re.findall(r"^ok +TLS +(.*)$", done.stdout, re.MULTILINE)
    assert re.match(
        r"TLSv1.3; certificate CN=server for 127.0.0.1, nats.example.org, until .* \(0 days\)", line
    ), line


def test_a_server_that_wants_tls_first(start_server: Callable[..., Server], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = start_server(config=tls(authority.issue(), "handshake_first: true"), greets=False)
    args = ("-s", server.url, "-o", f"tls_ca={authority.pem}", "-o", "connect_timeout=0.5")
    [problem] = problems(check(*args, env=ON))
    assert "wants TLS first (tls_handshake_first)" in problem
    assert check(*args, "-o", "tls_handshake_first=yes", "-o", "delivery=core", env=ON).returncode == 0


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (
            {"RUNNER_NATS_USERNAME": "me", "RUNNER_NATS_PASSWORD": CANARY},
            "refused the credentials (user and password)",
        ),
        ({}, "refused the credentials (none given)"),
        ({"RUNNER_NATS_TOKEN": CANARY}, "refused the credentials (token)"),
        ({"RUNNER_NATS_USER_CREDENTIALS": "/no/such.creds"}, "user_credentials: cannot use /no/such.creds"),
        ({"RUNNER_NATS_USERNAME": "me"}, "user: expected a password too"),
        ({"RUNNER_NATS_SERVERS": f"http://{CANARY}"}, "expected server URLs"),
        ({"RUNNER_NATS_CONTEXT": "no-such"}, "context no-such: cannot read"),
        ({"RUNNER_NATS_CONNECT_TIMEOUT": "soon"}, 'RUNNER_NATS_CONNECT_TIMEOUT="soon": expected a number'),
    ],
)
def test_credentials_and_options(
    start_server: Callable[..., Server], env: dict[str, str], expected: str
) -> None:
    server = start_server(config=USERS)
    done = check(env={**ON, "RUNNER_NATS_SERVERS": server.url, **env})
    assert done.returncode == 1
    assert expected in problems(done)[0], done.stdout


PERMISSIONS = """
authorization {{ users: [
    {{ user: tester, password: t }},
    {{ user: me, password: p, permissions: {{ publish: {{ {} }}, subscribe: {{ {} }} }} }} ] }}
"""


@pytest.mark.parametrize(
    ("publish", "subscribe", "expected"),
    [
        ('allow: ["pub.>", "_INBOX.>", "$JS.API.>", "$SYS.REQ.USER.INFO"]', 'allow: ["_INBOX.>"]', []),
        # He may not even ask what he may do.
        ('allow: ["pub.>", "_INBOX.>", "$JS.API.>"]', 'allow: ["_INBOX.>"]', []),
        (
            'allow: ["_INBOX.>", "$JS.API.>"]',
            'allow: ["_INBOX.>"]',
            ["may not publish to pub.ansible.runner.site.a"] * 2,
        ),
        (
            'deny: ["pub.*.*.*.*.*.status"]',
            'allow: [">"]',
            ["may not publish to pub.ansible.runner.site.a.check.status"],
        ),
        (
            'allow: ["pub.>", "_INBOX.>", "$JS.API.>"]',
            'deny: ["_INBOX.>"]',
            ["allow this user to publish and subscribe"],
        ),
    ],
)
def test_permissions(
    start_server: Callable[..., Server], connect: Callable[..., Bus], publish: str, subscribe: str,
    expected: list[str],
) -> None:  # fmt: skip
    config = PERMISSIONS.format(publish, subscribe)
    server = start_server(config=config, jetstream=True, credentials=TESTER)
    connect(server).add_stream()
    args = ("-o", "user=me", "-o", "password=p", "-o", "connect_timeout=1", "-s", server.url)
    done = check(*args, env=ON)
    found = problems(done)
    assert len(found) == len(expected), found
    assert all(part in line for part, line in zip(expected, found)), found
    assert done.returncode == (1 if expected else 0)
    # Not even the message that tries it stays.
    assert connect(server).stream_count() == 0


def test_options_that_contradict_each_other(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(config=USERS, credentials=TESTER)
    connect(server).subscribe(">")
    args = ("-s", server.url, "-o", "user=me", "-o", "password=pä:ss", "-o", "token=x")
    done = check(*args, env=ON)
    assert (done.returncode, problems(done)) == (0, [])
    assert "note    user is used; token is left aside" in done.stdout.splitlines()
    [problem] = problems(check("-s", server.url, "-o", "stream=S", "-o", "delivery=core", *args, env=ON))[:1]
    assert problem == "stream: implies delivery=jetstream; delivery=core is ignored"
    assert any(
        "did you mean flush_timeout?" in line
        for line in problems(check(*args, "-o", "flush_timout=1", env=ON))
    )


def test_what_was_set_comes_first(server: Server) -> None:
    args = ("-s", server.url, "-o", "flush_timeout=3")
    short, long = check(*args, env=ON), check(*args, "-v", env=ON)
    assert short.returncode == long.returncode == 0
    options = [line.split()[0] for line in short.stdout.split("\n\n")[0].splitlines()]
    assert sorted(options) == ["flush_timeout", "nats_subject_id", "servers"]
    assert " default" not in short.stdout
    all_options = [line.split()[0] for line in long.stdout.split("\n\n")[0].splitlines()]
    assert all_options[:3] == options
    assert len(all_options) > 20
    assert len(json.loads(check(*args, "--json", env=ON).stdout)["options"]) == len(all_options)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("-o", "connect_timeout=abc"), '-o connect_timeout="abc": expected a number of seconds'),
        (("-o", "flush_timout=1"), "-o flush_timout: no such option, ignored; did you mean flush_timeout?"),
        (("-o", "tls={}"), "-o tls: expected tls_ca, tls_cert and tls_key"),
        (("-s", "http://x"), "-s ***: expected server URLs"),
        (("-o", "servers=http://x"), "-o servers=***: expected server URLs"),
        (("-c", "no-such"), "context no-such: cannot read"),
    ],
)
def test_errors_name_what_was_typed(server: Server, args: tuple[str, ...], expected: str) -> None:
    others = () if "-s" in args or "servers" in args[1] else ("-s", server.url)
    done = check(*others, *args, env=ON)
    assert done.returncode == 1
    assert any(line.startswith(expected) for line in problems(done)), done.stdout
    assert "nats_options" not in done.stdout


def test_errors_in_the_settings_name_these(tmp_path: Path, server: Server) -> None:
    options = {"servers": server.url, "connect_timeout": "abc"}
    done = check(Job(tmp_path / "job", {"nats_options": options}).folder, "-o", "flush_timeout=1", env=ON)
    assert [line.split("=")[0] for line in problems(done)] == ["nats_options.connect_timeout"]


def test_several_servers(server: Server) -> None:
    nobody = f"nats://127.0.0.1:{free_port()}"
    done = check(
        "--json", "-s", server.url, "-s", nobody, "-s", server.url.replace("127.0.0.1", "localhost"), env=ON
    )
    report = json.loads(done.stdout)
    assert set(report) == {"ok", "options", "problems", "notes", "servers"}
    assert (done.returncode, report["ok"], len(report["servers"])) == (1, False, 3)
    assert [server["steps"][-1]["state"] for server in report["servers"]] == ["ok", "problem", "ok"]


def test_the_spool(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    bad, good = tmp_path / "file/spool", tmp_path / "new/spool"
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    [problem] = problems(check("-s", server.url, "-o", f"spill_dir={bad}", env=ON))
    assert problem.startswith(f"spill_dir cannot be written: {bad}: ")
    # A run falls back to its artifact directory.
    done = check(job.folder, "-o", f"spill_dir={bad}", env=ON)
    assert (done.returncode, problems(done)) == (0, [])
    assert "note    spill_dir cannot be written, runs use their artifact directory instead" in done.stdout
    assert check(job.folder, "-o", f"spill_dir={good}", env=ON).returncode == 0
    assert not good.parent.exists()
    assert not (job.folder / "artifacts").exists()
    (job.folder / "artifacts").touch()
    for spill_dir in ("", str(bad)):
        done = check(job.folder, "-o", f"spill_dir={spill_dir}", env=ON)
        [problem] = problems(done)
        assert problem.startswith("what is not delivered cannot be kept: ")
    assert check(job.folder, "-o", f"spill_dir={good}", env=ON).returncode == 0


def test_what_is_not_delivered_without_a_spool_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `check` says: a spool that cannot be used, and no artifact directory either."""
    (tmp_path / "file").touch()
    options = {"spill_dir": str(tmp_path / "file/spool"), "connect_timeout": 1, "flush_timeout": 0.5}
    run = config(f"nats://127.0.0.1:{free_port()}", tmp_path / "file/artifacts", **options)
    event_handler(run, event(0))
    status_handler(run, {"status": "successful"})
    assert "2 LOST" in caplog.text


def test_what_is_no_server() -> None:
    with talking_nonsense(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        [problem] = problems(check("-s", f"nats://127.0.0.1:{port}", env=ON))
    assert "what listens there is no NATS server" in problem
    [problem] = problems(check("-s", f"nats://127.0.0.1:{free_port()}", env=ON))
    assert "Connection refused" in problem
    [problem] = problems(check("-s", "nats://no-such-host.invalid", env=ON))
    assert "no-such-host.invalid is not known" in problem


def test_nobody_listens(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    """No stream and no subscriber: what a job sends would end in a file, and that is no "yes"."""
    server = start_server()
    [problem] = problems(check("-s", server.url, env=ON))
    assert "unheard: nobody listens to pub.ansible.runner.site.a.check.event, pub.ansible." in problem
    done = check("-s", server.url, "-o", "delivery=core", env=ON)
    assert (done.returncode, problems(done)) == (0, [])
    connect(server).subscribe("pub.ansible.runner.*.*.*.event")
    [problem] = problems(check("-s", server.url, env=ON))
    assert "nobody listens to pub.ansible.runner.site.a.check.status, and" in problem


def test_delivery(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    server = start_server(jetstream=True)
    [problem] = problems(check("-s", server.url, "-o", "delivery=jetstream", env=ON))
    assert "no stream takes our subject" in problem
    connect(server).add_stream()
    found = problems(check("-s", server.url, "-o", "stream=OTHER", env=ON))
    assert found == ["stream     OTHER (option stream) does not take our subjects"]
    assert (
        "core: a stream takes our messages" in check("-s", server.url, "-o", "delivery=core", env=ON).stdout
    )


def test_not_enabled(server: Server) -> None:
    done = check("-s", server.url)
    assert done.returncode == 1
    assert problems(done) == ["RUNNER_NATS_SUBJECT_ID (or nats_subject_id) is not set: nothing is published"]
    assert "ok      login" in done.stdout


def test_settings_in_yaml_and_in_a_bad_way(tmp_path: Path, server: Server) -> None:
    job = Job(tmp_path / "job")
    settings = job.folder / "env/settings"
    settings.write_text(
        f"---\nnats_subject_id: 42\nnats_options:\n  servers: [{server.url}]\n  verbose: yes\n"
    )
    done = check(job.folder)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^verbose +(yes|true) +nats_options.verbose$", done.stdout, re.MULTILINE)
    settings.write_text(f"a: [{CANARY}")
    assert any("neither JSON nor YAML" in line for line in problems(check(job.folder, env=ON)))
    assert any("is no directory" in line for line in problems(check(tmp_path / "absent", env=ON)))


def test_the_terminal(server: Server) -> None:
    """A pipe that is closed is no crash; colours are for terminals."""
    pipe = f"{bin_dir() / 'ansible-runner-nats'} check -s {server.url} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe],
        env=clean_env(ON), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert command("check", "--no-such").returncode == 2
    assert command("check", "-o", "novalue").returncode == 2
