"""Every way to run a job: a subscriber gets what the job wrote to ``job_events``, and every status."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ansible_runner
import pytest
from support import (
    PATIENCE,
    Job,
    Server,
    bin_dir,
    body,
    clean_env,
    cli,
    events_of,
    free_port,
    statuses_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.msg import Msg
    from support import Bus

LIFE = ["starting", "running", "successful"]


@pytest.fixture
def job(tmp_path: Path, server: Server) -> Job:
    options = {"servers": server.url}
    headers = {"team": "a", "color": "blue"}
    return Job(
        tmp_path / "job", {"nats_subject_id": "site.a", "nats_options": options, "nats_headers": headers}
    )


def assert_complete(job: Job, messages: list[Msg], statuses: list[str] = LIFE) -> None:
    """The job's own files are the truth."""
    written = job.events()
    assert written, "the job wrote no events"
    assert [body(m) for m in ours(messages, "event")] == written
    assert statuses_of(messages) == statuses
    idents = {body(message)["runner_ident"] for message in ours(messages)}
    assert len(idents) == 1
    (ident,) = idents
    ids = set()
    for message in ours(messages):
        kind = "event" if "event" in body(message) else "status"
        assert message.subject == f"pub.ansible.runner.site.a.{ident}.{kind}"
        assert message.headers is not None
        assert message.headers["team"] == "a"
        assert message.headers["color"] == "blue"
        ids.add(message.headers["Nats-Msg-Id"])
    assert len(ids) == len(ours(messages))


def ours(messages: list[Msg], kind: str = "") -> list[Msg]:
    return [m for m in messages if m.subject.startswith("pub.") and m.subject.endswith(kind)]


@pytest.mark.parametrize("json_mode", [False, True])
def test_run(job: Job, bus: Bus, json_mode: bool) -> None:  # noqa: FBT001
    run = ansible_runner.run(
        private_data_dir=str(job.folder), playbook="play.yml", quiet=True, json_mode=json_mode
    )
    assert run.status == "successful"
    assert_complete(job, bus.wait_for_end())


def test_run_async(job: Job, bus: Bus) -> None:
    thread, run = ansible_runner.run_async(private_data_dir=str(job.folder), playbook="play.yml", quiet=True)
    thread.join(PATIENCE)
    assert run.status == "successful"
    assert_complete(job, bus.wait_for_end())


@pytest.mark.parametrize("mode", [None, "subprocess"], ids=["pexpect", "subprocess"])
def test_run_command(job: Job, bus: Bus, mode: str | None) -> None:
    arguments = ["-i", str(job.folder / "inventory"), str(job.folder / "project/play.yml")]
    _, _, exit_status = ansible_runner.run_command(
        "ansible-playbook", arguments, private_data_dir=str(job.folder), quiet=True, runner_mode=mode
    )
    assert exit_status == 0
    assert_complete(job, bus.wait_for_end())


def test_command_line(job: Job, bus: Bus) -> None:
    done = cli("run", job.folder, "-p", "play.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(job, bus.wait_for_end())


def test_command_line_enabled_by_environment(tmp_path: Path, server: Server, bus: Bus) -> None:
    job = Job(tmp_path / "job")
    env = {
        "RUNNER_NATS_SUBJECT_ID": "site.a",
        "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_HEADERS": "team=a, color=blue",
    }
    assert cli("run", job.folder, "-p", "play.yml", env=env).returncode == 0
    assert_complete(job, bus.wait_for_end())


def test_daemon(job: Job, bus: Bus) -> None:
    assert cli("start", job.folder, "-p", "play.yml").returncode == 0
    assert_complete(job, bus.wait_for_end())


def test_run_playbook(job: Job, server: Server, bus: Bus) -> None:
    from ansible_runner_nats.tools import run_playbook

    config = ansible_runner.RunnerConfig(
        private_data_dir=str(job.folder), playbook="play.yml", quiet=True, settings={}
    )
    result = run_playbook(
        config,
        nats_subject_id="site.a",
        nats_options={"servers": [server.url]},
        nats_headers={"team": "a", "color": "blue"},
    )
    assert result == ("successful", 0)
    assert_complete(job, bus.wait_for_end())


def test_ad_hoc_module_that_fails(job: Job, bus: Bus) -> None:
    run = ansible_runner.run(private_data_dir=str(job.folder), module="fail", host_pattern="one", quiet=True)
    assert run.status == "failed"
    assert_complete(job, bus.wait_for_end(), ["starting", "running", "failed"])


def test_timeout_and_cancel(job: Job, bus: Bus) -> None:
    # What ansible-playbook has forked outlives it: it waits for the end of the task.
    enough = job.folder / "enough"
    wait = f"until [ -e {enough} ]; do sleep 0.1; done"
    slow = f"- hosts: all\n  gather_facts: false\n  tasks: [{{ansible.builtin.shell: '{wait}'}}]\n"
    (job.folder / "project/slow.yml").write_text(slow)
    arguments: dict[str, Any] = {"private_data_dir": str(job.folder), "playbook": "slow.yml", "quiet": True}
    timed_out = ansible_runner.run(**arguments, timeout=1)
    assert timed_out.status == "timeout"
    canceled = ansible_runner.run(**arguments, cancel_callback=lambda: True)
    assert canceled.status == "canceled"
    ends = [s for s in statuses_of(bus.wait_for_end(2)) if s not in ("starting", "running")]
    assert ends == ["timeout", "canceled"]
    enough.touch()


def stream_through(job: Job, tmp_path: Path, worker_env: dict[str, str], process_env: dict[str, str]) -> Job:
    """``transmit | worker | process`` as a shell would; returns the processor's private data directory."""
    runner = bin_dir() / "ansible-runner"
    target = tmp_path / "processed"
    (target / "env").mkdir(parents=True)
    transmitted = subprocess.run(
        [runner, "transmit", job.folder, "-p", "play.yml"],
        capture_output=True, check=True, env=clean_env(None), timeout=PATIENCE,
    ).stdout  # fmt: skip
    worked = subprocess.run(
        [runner, "worker"],
        input=transmitted, capture_output=True, check=True, env=clean_env(worker_env), timeout=PATIENCE,
    )  # fmt: skip
    assert worked.stderr == b""
    subprocess.run(
        [runner, "process", target],
        input=worked.stdout, capture_output=True, check=True, env=clean_env(process_env), timeout=PATIENCE,
    )  # fmt: skip
    processed = Job.__new__(Job)
    processed.folder = target
    return processed


@pytest.mark.parametrize("where", ["worker", "process"])
def test_streaming(tmp_path: Path, server: Server, bus: Bus, where: str) -> None:
    on = {
        "RUNNER_NATS_SUBJECT_ID": "site.a",
        "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_HEADERS": "team=a,color=blue",
    }
    job = Job(tmp_path / "job")
    envs: tuple[dict[str, str], dict[str, str]] = (on, {}) if where == "worker" else ({}, on)
    processed = stream_through(job, tmp_path, *envs)
    assert_complete(processed, bus.wait_for_end())


def test_worker_and_processor_into_one_stream(tmp_path: Path, start_server: Any, connect: Any) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream()
    on = {"RUNNER_NATS_SUBJECT_ID": "site.a", "RUNNER_NATS_SERVERS": server.url}
    processed = stream_through(Job(tmp_path / "job"), tmp_path, on, on)
    stored = events_of(bus.stream_messages())
    assert stored == processed.events()


@pytest.mark.parametrize("apart", [False, True], ids=["one file", "two files"])
def test_no_line_of_ours_gets_into_the_workers_stream(tmp_path: Path, *, apart: bool) -> None:
    """Receptor (AWX) writes a worker's standard error into the file of its results."""
    env = {
        "RUNNER_NATS_SUBJECT_ID": "site.a",
        "RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}",
        "RUNNER_NATS_FLUSH_TIMEOUT": "0.2",
    }
    job = Job(tmp_path / "job")
    sent = cli("transmit", job.folder, "-p", "play.yml").stdout
    (tmp_path / "sent").write_text(sent)
    said = tmp_path / "said"
    with (
        (tmp_path / "sent").open() as stdin,
        (tmp_path / "results").open("w") as stdout,
        said.open("w") as stderr,
    ):
        subprocess.run(
            [bin_dir() / "ansible-runner", "worker"],
            stdin=stdin, stdout=stdout, stderr=stderr if apart else subprocess.STDOUT,
            env=clean_env(env), check=True, timeout=PATIENCE * 3,
        )  # fmt: skip
    target = tmp_path / "processed"
    target.mkdir()
    done = cli("process", target, input=(tmp_path / "results").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((target / "artifacts/nats-run.json").read_text())
    assert "Connection refused" in record["problem"]
    if apart:
        assert "Connection refused" in said.read_text()


def test_the_worker_of_another_program_is_none_of_ansible_runners(tmp_path: Path) -> None:
    """`rq worker` and the like under systemd: both streams are one, and a problem is said all the same."""
    job = Job(tmp_path / "job")
    program = tmp_path / "queue"
    program.write_text(
        "import sys, ansible_runner\n"
        "run = ansible_runner.run(private_data_dir=sys.argv[2], playbook='play.yml', quiet=True)\n"
    )
    env = {
        "RUNNER_NATS_SUBJECT_ID": "site.a",
        "RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}",
        "RUNNER_NATS_FLUSH_TIMEOUT": "0.2",
    }
    done = subprocess.run(
        [sys.executable, program, "worker", job.folder],
        env=clean_env(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        timeout=PATIENCE * 3,
    )  # fmt: skip
    assert "Connection refused" in done.stdout


@pytest.mark.parametrize("garbage", ["", "no json\n", '{"status": "starting"}\n'])
def test_processor_error_without_ident(tmp_path: Path, server: Server, bus: Bus, garbage: str) -> None:
    (tmp_path / "processed").mkdir()
    env = {"RUNNER_NATS_SUBJECT_ID": "site.a", "RUNNER_NATS_SERVERS": server.url}
    done = cli("process", tmp_path / "processed", env=env, input=garbage)
    last = bus.wait_for_end()[-1]
    assert body(last)["status"] == "error"
    assert body(last)["job_explanation"]
    assert last.subject == "pub.ansible.runner.site.a.unknown.status"
    without = cli("process", tmp_path / "processed", input=garbage)
    assert (done.returncode, done.stderr) == (without.returncode, without.stderr)
