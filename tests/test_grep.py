"""`ansible-runner-nats grep`: in which runs a line appeared."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from contract import problems_of_command
from support import Bus, Job, Server, cli, command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: say
      ansible.builtin.debug: {msg: "the Disk of {{ inventory_hostname }} is full (100%)"}
    - name: break
      ansible.builtin.fail: {msg: broken}
      when: inventory_hostname == 'two' and breaks | default(false)
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server whose stream has three runs, of two playbooks, and their artifacts."""
    folder = tmp_path_factory.mktemp("grep")
    server = Server(folder / "nats", jetstream=True).start()
    bus = Bus(server.url)
    bus.add_stream()
    artifacts = {}
    for ident, playbook, more in (
        ("good", "play.yml", []),
        ("bad", "play.yml", ["--cmdline", "-e breaks=true -vvv"]),
        ("other", "other.yml", []),
    ):
        job = Job(folder / ident, playbook=PLAYBOOK)
        (job.folder / "project/other.yml").write_text(PLAYBOOK)
        env = {
            "RUNNER_NATS_SUBJECT_ID": "site-a",
            "RUNNER_NATS_SERVERS": server.url,
            "ANSIBLE_FORCE_COLOR": "1",
        }
        cli("run", job.folder, "-p", playbook, "--ident", ident, "-q", *more, env=env)
        artifacts[ident] = job
    yield server, artifacts
    bus.close()
    server.kill()


@pytest.fixture
def grep(jobs: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *args: command("grep", *args, "-s", jobs[0].url)


TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def hits(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def plain(text: str) -> list[str]:
    """Lines without colours, as another program takes them away."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n").splitlines()


def expected(jobs: Any, wanted: Callable[[str], bool]) -> list[tuple[str, int, str | None, str | None, str]]:
    """The same, from the artifacts."""
    return [
        (ident, event["counter"], data.get("host"), data.get("task"), line)
        for ident, job in jobs[1].items()
        for event in job.events()
        for data in [event.get("event_data", {})]
        if event["end_line"] > event["start_line"]
        for line in plain(event["stdout"])
        if wanted(line)
    ]


def found(done: subprocess.CompletedProcess[str]) -> list[tuple[str, int, str | None, str | None, str]]:
    return [
        (hit["runner_ident"], hit["counter"], hit["host"], hit["task"], hit["line"]) for hit in hits(done)
    ]


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["[Dd]isk .* full"], lambda line: "Disk of" in line and "full" in line),
        (["disk of two", "-i"], lambda line: "disk of two" in line.lower()),
        (["full (100%)", "-F"], lambda line: "full (100%)" in line),
        (["^TASK"], lambda line: line.startswith("TASK")),
        (["FAILED!"], lambda line: "FAILED!" in line),
        (["."], lambda line: line != ""),
    ],
)
def test_as_the_artifacts_have_it(
    jobs: Any, grep: Callable[..., Any], args: list[str], wanted: Callable[[str], bool]
) -> None:
    done = grep(*args, "--json")
    assert done.returncode == 0
    assert sorted(map(str, found(done))) == sorted(map(str, expected(jobs, wanted)))
    assert [problem for hit in hits(done)[:5] for problem in problems_of_command("grep", hit)] == []


def test_only_some_runs_and_hosts(grep: Callable[..., Any]) -> None:
    for more, runs in (
        (["--playbook", "play.yml"], {"good", "bad"}),
        (["--playbook", "o*"], {"other"}),
        (["--state", "failed"], {"bad"}),
        (["--state", "successful", "--playbook", "play*"], {"good"}),
        (["--subject-id", "site-a"], {"good", "bad", "other"}),
    ):
        assert {hit["runner_ident"] for hit in hits(grep("Disk", "--json", *more))} == runs, more
    assert {hit["host"] for hit in hits(grep("Disk", "--json", "--host", "t*"))} == {"two"}
    listed = hits(grep("Disk", "-l", "--json"))
    assert [problem for run in listed for problem in problems_of_command("grep-runs", run)] == []
    lines = [line.split("  ") for line in grep("Disk", "-l").stdout.splitlines()]
    assert sorted(ident for _, ident, _ in lines) == ["bad", "good", "other"]
    for when, ident, identity in lines:
        assert re.fullmatch(TIME, when)
        [run] = [run for run in listed if run["runner_ident"] == ident]
        assert run["run_id"].startswith(identity)
        assert len(identity) == 13


def test_for_people(grep: Callable[..., Any]) -> None:
    done = grep("broken", "-i")
    assert done.returncode == 0
    assert all(re.match(rf"{TIME}  bad \[two · break\]: ", line) for line in done.stdout.splitlines())
    assert "of 1 run," in done.stderr


def test_when_nothing_is_there(grep: Callable[..., Any], tmp_path: Path) -> None:
    for args in (["no such line"], ["Disk", "--subject-id", "site-b"], ["Disk", "--state", "canceled"]):
        done = grep(*args)
        assert (done.returncode, done.stdout) == (1, ""), args
        assert "0 lines of 0 runs" in done.stderr
    assert grep("Disk", "--since", "0s").returncode == 1
    done = grep("a(")
    assert (done.returncode, "PATTERN" in done.stderr, "-F" in done.stderr) == (2, True, True)
    server = Server(tmp_path / "empty", jetstream=True).start()
    try:
        done = command("grep", "x", "-s", server.url)
        assert (done.returncode, "no stream takes" in done.stderr) == (1, True)
    finally:
        server.kill()


def test_what_a_stream_has_twice_is_one_line(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(duplicate_window=0.1)
    event = {
        "counter": 1,
        "uuid": "u",
        "runner_ident": "r",
        "event": "verbose",
        "stdout": "\x1b[2Jfound\x07 it",
    }
    for _ in range(3):
        bus.send("pub.ansible.runner.id.r.event", json.dumps(event).encode())
    bus.send("pub.ansible.runner.id.r.event", b"found it, and no JSON")
    done = command("grep", "found", "-s", server.url)
    assert done.stdout == "r: ^[[2Jfound^G it\n"
