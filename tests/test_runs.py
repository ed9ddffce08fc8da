"""`ansible-runner-nats runs`, `logs`, `wait`: what people on call ask first, of real jobs in a stream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible_runner
import pytest
from ansible_runner_nats import event_handler, status_handler
from contract import HEADERS, PAYLOADS, problems
from nats.js.api import DeliverPolicy
from support import (
    PATIENCE,
    TESTER,
    USERS,
    Bus,
    Job,
    RunnerConfig,
    Server,
    bin_dir,
    clean_env,
    cli,
    command,
    config,
    event,
    python,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ON = {"RUNNER_NATS_SUBJECT_ID": "site.a"}
OURS = str(bin_dir() / "ansible-runner-nats")
COLORS = re.compile(r"\x1b\[[0-9;]*m")

#: Goes well, changes something, is rescued, is ignored, and fails for an item.
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: say
      ansible.builtin.debug: {msg: "héllo {{ inventory_hostname }}"}
    - name: change
      ansible.builtin.shell: echo changed-it
    - name: mended
      block:
        - name: break
          ansible.builtin.shell: "echo some output; echo the reason >&2; exit 3"
      rescue:
        - name: mend
          ansible.builtin.debug: {msg: mended}
    - name: shrug
      ansible.builtin.command: "false"
      ignore_errors: true
    - name: items
      ansible.builtin.shell: "test {{ item }} != b || (echo 'no such b' >&2; exit 2)"
      loop: [a, b, c]
      when: inventory_hostname == 'two'
"""


def run_job(folder: Path, server: Server, ident: str, playbook: str = PLAYBOOK, **options: Any) -> Job:
    job = Job(folder, {"nats_options": {"servers": server.url, **options}}, playbook)
    cli("run", job.folder, "-p", "play.yml", "--ident", ident, "--quiet", env=ON)
    return job


def printed(job: Job, ident: str) -> list[str]:
    """What the job wrote to its artifacts, line by line."""
    text = (job.folder / "artifacts" / ident / "stdout").read_text()
    return COLORS.sub("", text).replace("\r\n", "\n").splitlines()


class Background:
    """A command of ours that goes on."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [OURS, *args], env=clean_env(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, number: signal.Signals | None = None) -> tuple[int, list[str], str]:
        """Exit status, lines, and what was said."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def site(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> tuple[Server, Bus]:
    """A server that logs who comes, and the stream that `stream create` makes."""
    server = start_server(jetstream=True)
    done = command("stream", "create", "-s", server.url)
    assert done.returncode == 0, done.stderr
    return server, connect(server)


def listed(server: Server, *args: str) -> list[dict[str, Any]]:
    done = command("runs", "-s", server.url, "--json", *args)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_finished_job(site: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = site
    job = run_job(tmp_path / "job", server, "rollout.1")
    done = command("logs", "rollout.1", "-s", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == printed(job, "rollout.1")
    assert "\x1b" not in done.stdout
    [run] = listed(server)
    assert uuid.UUID(run["run_id"]).version == 7
    assert {**run, "started": 0, "ended": 0, "duration": 0, "last_heard": 0, "run_id": 0} == {
        "subject_id": "site.a", "runner_ident": "rollout.1", "run_id": 0, "playbook": "play.yml",
        "state": "failed", "started": 0, "ended": 0, "duration": 0, "last_heard": 0, "actor": None,
        "host": os.uname().nodename,
    }  # fmt: skip
    assert run["started"] <= run["last_heard"] == run["ended"]
    assert 0 < run["duration"] < PATIENCE
    table = command("runs", "-s", server.url)
    head, row = table.stdout.splitlines()
    assert head.split("  ")[0] == "SUBJECT ID"
    assert row.split()[:4] == ["site.a", "rollout.1", "play.yml", "failed"]
    assert re.match(r"1 run since 20\S+Z, from stream RUNS, in ", table.stderr)
    assert command("wait", "rollout.1", "-s", server.url).returncode == 3
    assert command("logs", "-f", "--latest", "-s", server.url).returncode == 3
    tail = command("logs", "--latest", "--tail", "2", "-s", server.url)
    assert tail.stdout.splitlines() == printed(job, "rollout.1")[-2:]


def test_filters(site: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = site
    job = run_job(tmp_path / "job", server, "r")

    def logs(*args: str) -> str:
        done = command("logs", "r", "-s", server.url, *args)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    failed = logs("--failed")
    assert [line for line in failed.splitlines() if line.startswith("TASK")] == [
        "TASK [break]", "TASK [shrug]", "TASK [items]"
    ]  # fmt: skip
    # All of what went wrong, also where `msg` says nothing; failing items are named.
    assert "    stderr:\n      the reason\n" in failed
    assert (
        "    item b:\n      non-zero return code\n      $ test b != b || (echo 'no such b' >&2; exit 2)\n"
        "      rc: 2\n      stderr:\n        no such b\n" in failed
    )
    assert "TASK [mend]" not in failed
    changed = logs("--changed")
    assert "TASK [change]" in changed
    assert "TASK [say]" not in changed
    on_one = logs("--host", "one", "--failed")
    assert "[one]" in on_one
    assert "[two]" not in on_one
    assert "[items]" not in on_one
    nobody = command("logs", "r", "-s", server.url, "--host", "one,nobody*")
    assert (nobody.returncode, "[one]" in nobody.stdout) == (1, True)
    assert "--host nobody*: nothing was done there; the hosts of this run: one, two" in nobody.stderr
    events = [json.loads(line) for line in logs("--json").splitlines()]
    assert sorted(events, key=lambda one: one["counter"]) == job.events()
    first = logs("--timestamps", "--tail", "1")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ two ", first)


#: What is printed before a result is known: differences, items, tries.
PARTS = """
- hosts: all
  gather_facts: false
  tasks:
    - name: write
      ansible.builtin.copy:
        content: "new {{ inventory_hostname }}"
        dest: "{{ playbook_dir }}/{{ inventory_hostname }}"
      diff: true
    - name: items
      ansible.builtin.debug: {msg: "{{ item }}"}
      loop: [a, b]
    - name: tries
      ansible.builtin.command: "false"
      retries: 1
      delay: 0
      until: false
      when: inventory_hostname == 'two'
      ignore_errors: true
    - name: shrug
      ansible.builtin.command: "test {{ item }} = a"
      loop: [a, b]
      ignore_errors: true
"""


def test_results_with_all_that_was_printed_of_them(site: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = site
    job = run_job(tmp_path / "job", server, "r", PARTS)
    whole = command("logs", "r", "-s", server.url, "--timestamps").stdout.splitlines()

    def logs(*args: str) -> list[str]:
        done = command("logs", "r", "-s", server.url, "--timestamps", *args)
        assert (done.returncode, done.stderr) == (0, "")
        lines: list[str] = done.stdout.splitlines()
        # What the job has printed has the same time, whatever is shown of it.
        of_ours = (" TASK [", "     ")
        printed = [line for line in lines if not line[20:].startswith(of_ours)]
        assert printed != []
        assert [line for line in printed if line not in whole and "ignored: [" not in line] == []
        return lines

    one = logs("--host", "one")
    assert [line for line in one if line.endswith("+new one")] != []
    assert not [line for line in one if "new two" in line]
    assert len([line for line in one if "[one] => (item=" in line]) == 3
    assert len([line for line in logs("--host", "o*,tw?") if "] => (item=" in line]) == 6
    assert [line for line in logs("--changed") if line.endswith("+new two")] != []
    failed = logs("--failed")
    for host in ("one", "two"):
        assert [line for line in failed if "failed: [" + host + "] (item=b)" in line] != []
    assert [line for line in failed if "FAILED - RETRYING: [two]" in line] != []
    assert not [line for line in failed if "new one" in line]
    assert job.events() != []


@pytest.mark.parametrize(
    ("playbook", "status"),
    [
        ("- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.command: 'true'}]\n", 0),
        (PLAYBOOK, 3),
    ],
)
def test_following_a_run_that_has_not_begun(
    site: tuple[Server, Bus], tmp_path: Path, playbook: str, status: int
) -> None:
    server, bus = site
    logs = Background("logs", "-f", "next", "-s", server.url)
    wait = Background("wait", "next", "-s", server.url)
    others = Background("wait", "next", "-s", server.url, "--subject-id", "other", "--timeout", "1s")
    assert others.end() == (6, [], "")
    job = run_job(tmp_path / "job", server, "next", playbook)
    code, lines, said = logs.end()
    assert (code, said) == (status, "")
    assert lines == printed(job, "next")
    assert wait.end() == (status, [], "")
    assert bus.stream_count() > 0


@pytest.mark.parametrize(
    "end", [("canceled", 4), ("timeout", 5), ("error", 3), ("failed", 3), ("successful", 0)]
)
def test_how_runs_end(site: tuple[Server, Bus], end: tuple[str, int]) -> None:
    server, _ = site
    run = config(server.url, None)
    status_handler(run, {"status": "starting", "command": ["ansible-playbook", "site.yml"]})
    event_handler(run, event(1))
    logs = Background("logs", "-f", "r", "-s", server.url)
    assert command("wait", "r", "-s", server.url, "--timeout", "300ms").returncode == 6
    status_handler(run, {"status": end[0]})
    assert logs.end()[0] == end[1]
    assert command("wait", "r", "-s", server.url).returncode == end[1]
    assert listed(server, "--state", end[0])[0]["playbook"] == "site.yml"
    assert listed(server, "--state", "running") == []


def test_it_goes_on_while_the_server_restarts(site: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = site
    run = config(server.url, tmp_path, reconnect_time_wait=0.1)
    event_handler(run, event(1))
    logs = Background("logs", "-f", "r", "-s", server.url, "-o", "reconnect_time_wait=0.1", "--json")
    assert logs.process.stdout is not None
    first = logs.process.stdout.readline()
    assert json.loads(first)["counter"] == 1
    server.restart()
    for counter in range(2, 50):
        event_handler(run, event(counter))
    server.restart()
    event_handler(run, event(50))
    status_handler(run, {"status": "successful"})
    code, lines, said = logs.end()
    assert code == 0
    assert [json.loads(line)["counter"] for line in lines] == list(range(2, 51))
    assert "lost" in said


def listens(bus: Bus) -> bool:
    """Somebody reads from where he has found the last run on."""
    consumers = bus.run(bus.client.jetstream().consumers_info("RUNS"))
    return any(consumer.config.deliver_policy == DeliverPolicy.BY_START_TIME for consumer in consumers)


def test_an_ident_that_is_used_again(site: tuple[Server, Bus]) -> None:
    server, _ = site
    for number in (1, 2):
        run = config(server.url, None)
        status_handler(run, {"status": "starting"})
        event_handler(run, {**event(1), "uuid": f"u{number}", "stdout": f"run {number}"})
        status_handler(run, {"status": "successful" if number == 2 else "failed"})
    done = command("logs", "r", "-s", server.url)
    assert done.stdout == "run 2\n"
    assert re.search("several runs of this ident; this is the last one, which began at 20", done.stderr)
    assert command("wait", "r", "-s", server.url).returncode == 0
    later, earlier = listed(server)
    assert [run["state"] for run in (later, earlier)] == ["successful", "failed"]
    # The others can be reached, too.
    assert f"before it: {earlier['run_id'][:13]} (failed)" in done.stderr
    for found, number in ((earlier, 1), (later, 2)):
        name = found["run_id"][:20]
        done = command("logs", name, "-s", server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"run {number}\n", "")
        assert command("wait", name, "-s", server.url).returncode == (3, 0)[number - 1]
    both = command("logs", earlier["run_id"][:4], "-s", server.url)
    assert both.returncode == 1 or both.stdout == "run 2\n"
    # A run that is still to come, and not yesterday's.
    waiting = subprocess.Popen([OURS, "wait", "r", "--next", "-s", server.url], env=clean_env(None))
    bus = site[1]
    wait_until(lambda: listens(bus))
    assert waiting.poll() is None
    run = config(server.url, None)
    status_handler(run, {"status": "starting"})
    status_handler(run, {"status": "canceled"})
    assert waiting.wait(PATIENCE) == 4


def test_however_many_runs_there_are(site: tuple[Server, Bus]) -> None:
    server, bus = site
    many = range(6_000)
    statuses = ({"status": "successful", "runner_ident": f"many-{number}"} for number in many)
    bus.send_all("pub.ansible.runner.site.{runner_ident}.status", statuses)
    wait_until(lambda: bus.stream_count() == len(many))
    assert {run["runner_ident"] for run in listed(server)} == {f"many-{number}" for number in many}
    assert command("wait", "many-0", "-s", server.url).returncode == 0
    total = command("runs", "-n", "1", "-s", server.url)
    assert total.stderr.startswith("1 of 6000 runs since ")


def test_two_runs_of_one_ident_at_once(site: tuple[Server, Bus]) -> None:
    server, _ = site
    one, other = config(server.url, None), config(server.url, None)
    for run in (one, other):
        status_handler(run, {"status": "starting"})
    for counter in (1, 2):
        for name, run in (("one", one), ("other", other)):
            event_handler(run, {**event(counter), "uuid": f"{name}{counter}", "stdout": f"{name} {counter}"})
    status_handler(one, {"status": "failed"})
    assert sorted(run["state"] for run in listed(server)) == ["failed", "starting"]
    status_handler(other, {"status": "successful"})
    by_state = {run["state"]: run for run in listed(server)}
    for state, name in (("failed", "one"), ("successful", "other")):
        done = command("logs", by_state[state]["run_id"], "-s", server.url)
        assert done.stdout == f"{name} 1\n{name} 2\n"


def test_a_run_that_has_gone_on_for_longer(site: tuple[Server, Bus]) -> None:
    """It is listed though it said its last status before; its beginning is looked up, not invented."""
    server, _ = site
    run = config(server.url, None)
    status_handler(run, {"status": "starting"})
    status_handler(run, {"status": "running"})
    time.sleep(2.5)
    event_handler(run, event(1))
    wait_until(lambda: listed(server, "--since", "2s") != [])
    [found] = listed(server, "--since", "2s")
    assert (found["state"], found["started"]) == ("running", listed(server)[0]["started"])
    status_handler(run, {"status": "failed"})
    [found] = listed(server, "--since", "2s")
    assert (found["state"], found["started"]) == ("failed", listed(server)[0]["started"])
    assert 2 < found["duration"] < PATIENCE
    assert listed(server, "--until", "1h") == []
    assert len(listed(server, "--since", "yesterday", "--until", "now", "--state", "failed,error")) == 1
    assert listed(server, "--state", "successful,canceled") == []


def test_a_run_that_was_away_from_nats(site: tuple[Server, Bus], tmp_path: Path) -> None:
    """What came late was said when it was said."""
    server, _ = site
    server.kill()
    run = config(server.url, tmp_path, reconnect_time_wait=0.1)
    status_handler(run, {"status": "starting"})
    event_handler(run, event(1))
    time.sleep(2.5)
    server.start()
    status_handler(run, {"status": "successful"})
    [found] = listed(server)
    assert 2 < found["duration"] < PATIENCE


BROKEN = {
    "a syntax error": ("- hosts: all\n  tasks: {\n", "ERROR"),
    "a missing role": ("- hosts: all\n  roles: [nowhere]\n", "nowhere"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_run_that_failed_though_no_task_did(site: tuple[Server, Bus], tmp_path: Path, why: str) -> None:
    server, _ = site
    playbook, reason = BROKEN[why]
    run_job(tmp_path / "job", server, "r", playbook)
    done = command("logs", "r", "--failed", "-s", server.url)
    assert done.returncode == 0
    assert done.stdout.startswith("failed: no task did: ")
    assert reason in done.stdout
    # One that went well has nothing to say.
    run_job(tmp_path / "good", server, "good", "- hosts: all\n  gather_facts: false\n")
    assert command("logs", "good", "--failed", "-s", server.url).stdout == ""


def test_what_a_stream_has_let_go_is_said(site: tuple[Server, Bus]) -> None:
    server, bus = site
    run = config(server.url, None)
    status_handler(run, {"status": "starting"})
    for counter in range(1, 9):
        event_handler(run, {**event(counter), "stdout": f"line {counter}"})
    status_handler(run, {"status": "successful"})

    async def delete() -> None:
        for number in (2, 3, 6):
            await bus.client.jetstream().delete_msg("RUNS", number)

    bus.run(delete())
    for more in ((), ("-f",)):
        done = command("logs", "r", *more, "-s", server.url)
        assert done.returncode == 0
        assert done.stdout.splitlines() == [f"line {counter}" for counter in (3, 4, 6, 7, 8)]
        assert "its first event there is number 3" in done.stderr
        assert "1 events of this run are not in the stream" in done.stderr


def test_another_subject_id_than_was_meant(site: tuple[Server, Bus]) -> None:
    server, _ = site
    run = config(server.url, None)
    status_handler(run, {"status": "failed"})
    done = command("logs", "r", "--subject-id", "other", "-s", server.url)
    assert done.returncode == 1
    assert "r is a run of id" in done.stderr


def test_events_and_statuses_in_two_streams(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream("EVENTS", ["pub.ansible.runner.*.*.event"])
    bus.add_stream("STATUSES", ["pub.ansible.runner.*.*.status"])
    run = config(server.url, None)
    status_handler(run, {"status": "starting"})
    for counter in range(1, 17):
        event_handler(run, {**event(counter), "stdout": f"line {counter}"})
    status_handler(run, {"status": "successful"})
    done = command("logs", "-f", "r", "-s", server.url)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 16)


def test_two_sites_with_one_ident(site: tuple[Server, Bus]) -> None:
    server, _ = site
    for subject_id in ("a.one", "b"):
        run = config(server.url, None)
        run.settings["nats_subject_id"] = subject_id
        status_handler(run, {"status": "starting"})
        event_handler(run, {**event(1), "stdout": f"at {subject_id}"})
        status_handler(run, {"status": "successful"})
    done = command("logs", "r", "-s", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a.one, b; name one with --subject-id" in done.stderr
    assert command("logs", "r", "--subject-id", "a.one", "-s", server.url).stdout == "at a.one\n"
    assert [run["subject_id"] for run in listed(server, "--subject-id", "b")] == ["b"]


def test_what_is_not_there(start_server: Callable[..., Server], connect: Callable[..., Bus]) -> None:
    server = start_server(jetstream=True)
    for args in (["runs"], ["logs", "r"], ["logs", "--latest"], ["watch", "--from-stream"]):
        done = command(*args, "-s", server.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "stream create" in done.stderr
    connect(server).add_stream()
    done = command("logs", "r", "-s", server.url)
    assert (done.returncode, done.stderr.strip()) == (1, "ansible-runner-nats: no stream knows a run r")
    assert command("logs", "--latest", "-s", server.url).returncode == 1
    assert listed(server) == []
    # Nobody there: said, and no endless waiting.
    server.kill()
    for args in (["runs"], ["logs", "r"]):
        done = command(*args, "-s", server.url)
        assert done.returncode == 1
        assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    "args", [["runs"], ["logs", "r", "-f"], ["wait", "r"], ["watch", "--plain"], ["stream"]]
)
def test_a_wrong_password_is_the_end(start_server: Callable[..., Server], args: list[str]) -> None:
    server = start_server(jetstream=True, config=USERS, credentials=TESTER)
    secret = "canary-4711"
    done = command(*args, "-s", server.url, "-o", "user=me", "-o", f"password={secret}")
    assert done.returncode == 1
    assert "refused the credentials" in done.stderr
    assert secret not in done.stdout + done.stderr


def test_without_a_stream_it_follows_from_now_on(server: Server, tmp_path: Path) -> None:
    run = config(server.url, None)
    event_handler(run, event(1))
    shown = tmp_path / "shown"
    line = f"exec {OURS} logs -f r --json -s {server.url} >{shown}"
    logs = subprocess.Popen(["sh", "-c", line], env=clean_env(None), stderr=subprocess.PIPE, text=True)
    assert logs.stderr is not None
    assert "what was printed so far is not known" in logs.stderr.readline()
    counter = 1

    def is_heard() -> bool:
        nonlocal counter
        counter += 1
        event_handler(run, event(counter))
        return bool(shown.read_text())

    wait_until(is_heard, "an event")
    status_handler(run, {"status": "canceled"})
    assert logs.wait(PATIENCE) == 4
    logs.stderr.close()
    seen = [json.loads(line)["counter"] for line in shown.read_text().splitlines()]
    assert seen == list(range(seen[0], counter + 1))


@pytest.mark.parametrize(
    "options",
    [
        {"subject": "runs.{kind}.x-{subject_id}.{runner_ident}.{name}"},
        {"cloudevents": True},
        {"subject": "jobs.{subject_id}.all", "delivery": "jetstream"},
    ],
)
def test_other_subjects(start_server: Callable[..., Server], tmp_path: Path, options: dict[str, Any]) -> None:
    server = start_server(jetstream=True)
    given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    assert command("stream", "create", "-s", server.url, *given).returncode == 0
    job = run_job(tmp_path / "job", server, "r.2", **options)
    done = command("logs", "r.2", "-s", server.url, *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == printed(job, "r.2")
    assert [run["state"] for run in listed(server, *given)] == ["failed"]


def test_an_option_that_cannot_be_used() -> None:
    """Nobody wanted to publish anything."""
    done = command("runs", "-s", "http://localhost:4222")
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected server URLs such as nats://localhost:4222" in done.stderr
    assert "published" not in done.stderr


def test_output_and_errors_of_a_command(
    site: tuple[Server, Bus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runner_mode=subprocess`: standard output and standard error each count from 1."""
    server, _ = site
    monkeypatch.setenv("RUNNER_NATS_SUBJECT_ID", "id")
    monkeypatch.setenv("RUNNER_NATS_SERVERS", server.url)
    code = "import sys\nfor n in range(3): print('out', n); print('err', n, file=sys.stderr)\nprint('end')"
    ansible_runner.run_command(
        executable_cmd=sys.executable, cmdline_args=["-c", code], runner_mode="subprocess", quiet=True,
        private_data_dir=str(tmp_path), ident="r",
    )  # fmt: skip
    done = command("logs", "r", "-s", server.url)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted(
        [*(f"out {n}" for n in range(3)), *(f"err {n}" for n in range(3)), "end"]
    )


def test_nothing_that_a_terminal_would_obey(site: tuple[Server, Bus]) -> None:
    server, _ = site
    run = config(server.url, None)
    hostile = "\x1b]0;owned\x07\x1b[2Jred \x1b[0;31mred\x1b[0m \x9b31m \u202e"
    event_handler(run, {**event(1), "stdout": hostile})
    status_handler(run, {"status": "successful"})
    plain = command("logs", "r", "-s", server.url).stdout
    assert plain == "^[]0;owned^G^[[2Jred red <U+009B>31m <U+202E>\n"
    # On a terminal ansible's own colours stay, unless NO_COLOR is set.
    for env, expected in (({"TERM": "xterm"}, "\x1b[0;31mred"), ({"NO_COLOR": "1"}, "red red ")):
        shown = on_a_terminal(f"{OURS} logs r -s {server.url}", env)
        assert expected in shown
        assert "\x1b[2J" not in shown
        assert "\x07" not in shown


def on_a_terminal(line: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        env=clean_env(env), capture_output=True, check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.decode()


def test_a_closed_pipe_and_ctrl_c(site: tuple[Server, Bus]) -> None:
    server, _ = site
    run = config(server.url, None)
    for counter in range(1, 2000):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    for line in (
        f"{OURS} logs r -s {server.url} | head -n 1",
        f"{OURS} runs --json -s {server.url} | head -n 1",
    ):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], env=clean_env(None), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for args in (["logs", "-f", "another"], ["wait", "another"]):
        waiting = Background(*args, "-s", server.url)
        wait_until(partial(is_listening, waiting.process.pid))
        assert waiting.end(signal.SIGINT)[0] == 130


def is_listening(pid: int) -> bool:
    """Whether it has got so far that a signal is its own business."""
    return any(task.read_text() == "listen\n" for task in Path(f"/proc/{pid}/task").glob("*/comm"))


HEART = """
import sys, time, types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': sys.argv[1], 'heartbeat': float(sys.argv[2])}
config = types.SimpleNamespace(settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r')
status_handler(config, {'status': 'starting', 'runner_ident': 'r'})
event_handler(config, {'counter': 7, 'uuid': 'u', 'runner_ident': 'r', 'event': 'verbose'})
print('begun', flush=True)
sys.stdin.readline()
status_handler(config, {'status': 'successful', 'runner_ident': 'r'})
"""


def start_heart(server: Server, every: float) -> subprocess.Popen[str]:
    heart = subprocess.Popen(
        [sys.executable, "-c", HEART, server.url, str(every)],
        env=clean_env(None), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert heart.stdout is not None
    heart.stdout.readline()
    return heart


def test_signs_of_life(server: Server, bus: Bus) -> None:
    heart = start_heart(server, 0.1)
    subject = "pub.ansible.runner.id.r.heartbeat"

    def beats() -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in bus.received if message.subject == subject]

    wait_until(lambda: len(beats()) >= 3)
    # A server that is away: beats are dropped, not kept.
    server.kill()
    time.sleep(0.5)
    server.start()
    before = len(beats())
    wait_until(lambda: len(beats()) >= before + 2)
    assert heart.stdin is not None
    heart.stdin.write("\n")
    heart.stdin.close()
    assert heart.wait(PATIENCE) == 0
    bus.wait_for_end()
    time.sleep(0.3)
    last = bus.received[-1]
    assert last.subject.endswith(".status"), "a sign of life after the end"
    numbers = [beat["heartbeat"] for beat in beats()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    for message in bus.received:
        if message.subject == subject:
            assert problems(json.loads(message.data), PAYLOADS["heartbeat"]) == []
            assert problems(message.headers, HEADERS["heartbeat"]) == []
    assert beats()[0].keys() == {"heartbeat", "runner_ident", "created", "status", "events"}
    assert {(beat["runner_ident"], beat["status"], beat["events"]) for beat in beats()} == {
        ("r", "running", 7)
    }
    ids = [
        message.headers["Nats-Msg-Id"]
        for message in bus.received
        if message.subject == subject and message.headers
    ]
    assert len(ids) == len(set(ids)) == len(numbers)
    assert heart.stdout is not None
    heart.stdout.close()


@pytest.mark.parametrize("every", [0.0, 0.2])
def test_a_killed_run_is_silent(site: tuple[Server, Bus], every: float) -> None:
    server, bus = site
    heart = start_heart(server, every)
    wait_until(lambda: bus.stream_count() >= (4 if every else 2))
    after = () if every else ("--silent-after", "2s")
    assert [run["state"] for run in listed(server, *after)] == ["starting"]
    heart.kill()
    heart.wait()
    wait_until(lambda: [run["state"] for run in listed(server, *after)] == ["silent"])
    assert [run["state"] for run in listed(server, "--silent-after", "1h")] == ["starting"]
    assert len(listed(server, "--state", "silent", *after)) == 1
    for pipe in (heart.stdin, heart.stdout):
        assert pipe is not None
        pipe.close()


def test_no_signs_of_life_unless_asked_for(server: Server, bus: Bus) -> None:
    run: RunnerConfig = config(server.url, None)
    status_handler(run, {"status": "starting"})
    time.sleep(0.5)
    status_handler(run, {"status": "successful"})
    bus.wait_for_end()
    assert not any(message.subject.endswith("heartbeat") for message in bus.received)


def test_usage() -> None:
    for args in (
        ["logs"], ["logs", "a", "--latest"], ["logs", "a", "--tail", "x"],
        ["wait"], ["wait", "a", "--timeout", "soon"],
        ["runs", "--state", "gone"], ["runs", "--since", "x"], ["runs", "-n", "-1"],
        ["stream", "create", "--max-bytes", "many"], ["stream", "create", "--replicas", "9"],
        ["stream", "create", "--name", "A.B"],
    ):  # fmt: skip
        assert command(*args).returncode == 2, args


def test_settings_of_a_private_data_directory(site: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = site
    job = run_job(tmp_path / "job", server, "r")
    done = command("runs", "-d", job.folder, "--json")
    assert [run["runner_ident"] for run in json.loads(done.stdout)] == ["r"]
    done = command("runs", "-d", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "is no directory" in done.stderr
    assert python("import ansible_runner").returncode == 0


def test_events_that_were_cut(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(jetstream=True, config="max_payload: 8192")
    assert command("stream", "create", "-s", server.url).returncode == 0
    run = config(server.url, tmp_path)
    status_handler(run, {"status": "starting"})
    for counter, text in enumerate(("first", "x" * 20_000, "last"), 1):
        event_handler(run, {**event(counter), "stdout": text, "start_line": counter, "end_line": counter + 1})
    status_handler(run, {"status": "successful"})
    done = command("logs", "r", "-s", server.url)
    first, cut, last = done.stdout.splitlines()
    assert (done.returncode, first, last) == (0, "first", "last")
    assert re.fullmatch(r"x+\.\.\. \[\d+ bytes cut by ansible-runner-nats\]", cut)
