"""`ansible-runner-nats watch`: lines for pipes, a screen for terminals, and servers that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import pexpect
import pyte
import pytest
from ansible_runner_nats import event_handler, status_handler
from support import PATIENCE, Bus, Job, Server, bin_dir, clean_env, cli, command, config, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support import RunnerConfig

WATCH = str(bin_dir() / "ansible-runner-nats")
ON = {"RUNNER_NATS_SUBJECT_ID": "site.a"}


class Lines:
    """`watch` writing into a pipe."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [WATCH, "watch", *args],
            env=clean_env(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        self.lines: list[str] = []
        pipes = ((self.process.stderr, self.said), (self.process.stdout, self.lines))
        self.threads = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for thread in self.threads:
            thread.start()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))  # noqa: PERF401 - others read the list meanwhile

    def wait_for(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self.said), text)

    def end(self, number: signal.Signals | None = None) -> tuple[int, list[str]]:
        """Exit status and lines."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        for thread in self.threads:
            thread.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return status, self.lines


#: Runs that go on.
OPEN: dict[tuple[str, str], RunnerConfig] = {}


def publish(server: Server, ident: str, events: list[dict[str, Any]], end: str | None = "successful") -> None:
    """A run, or more of one that has not ended."""
    run = OPEN.pop((server.url, ident), None) or config(server.url, None)
    run.ident = ident
    for counter, data in enumerate(events, 1):
        event_handler(run, {"counter": counter, "uuid": f"{ident}-{counter}", "runner_ident": ident, **data})
    if end:
        status_handler(run, {"status": end, "runner_ident": ident})
    else:
        OPEN[server.url, ident] = run


def task(name: str, host: str = "h", **res: Any) -> list[dict[str, Any]]:
    data = {"playbook": "site.yml", "play": "P", "task": name}
    event = "runner_on_failed" if res.pop("fails", False) else "runner_on_ok"
    return [
        {"event": "playbook_on_task_start", "event_data": data},
        {"event": event, "event_data": {**data, "host": host, "res": res}},
    ]


def test_lines_of_a_real_job(server: Server, tmp_path: Path) -> None:
    watch = Lines("-s", server.url, "--runs", "1")
    watch.wait_for("connected to")
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "x", env=ON).returncode == 0
    status, lines = watch.end()
    assert status == 0
    assert len(lines) == len(job.events()) + 3
    assert all(line.split()[1:3] == ["site.a", "x"] for line in lines)
    # A run that failed is something else than a task that did.
    assert lines[0].endswith(" x RUN starting")
    assert lines[-1].endswith(" x RUN successful")
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line) for line in lines)
    assert any(re.search(r"Z site.a x failed +one · break · ", line) for line in lines)
    assert any(re.search(r"Z site.a x changed +one · mend", line) for line in lines)
    recap = "ok=4 changed=2 unreachable=0 failed=0 skipped=0 rescued=2 ignored=0"
    assert any(line.endswith(recap) for line in lines), [line for line in lines if "RECAP" in line]
    assert any("héllo 2" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_raw_messages(server: Server) -> None:
    watch = Lines("-s", server.url, "--json", "--runs", "1")
    watch.wait_for("connected to")
    publish(server, "x", task("a\nb"))
    status, lines = watch.end()
    assert status == 0
    events = [json.loads(line) for line in lines]
    assert [event.get("counter", event.get("status")) for event in events] == [1, 2, "successful"]
    assert events[0]["event_data"]["task"] == "a\nb"


def test_one_end_is_one_end_and_others_change_nothing(server: Server, bus: Bus) -> None:
    watch = Lines("-s", server.url, "--runs", "2")
    watch.wait_for("connected to")
    publish(server, "x", task("first"))
    end = bus.wait_for_end()[-1]
    # The end of `x` once more, as after a break of the connection.
    bus.run(bus.client.publish(end.subject, end.data, headers=end.headers))
    assert command("check", "-s", server.url, env=ON).returncode == 0
    for payload in (b'{"status": "gone", "runner_ident": "y"}', b'{"runner_ident": "y"}', b'"y"'):
        bus.run(bus.client.publish(end.subject.replace(".x.", ".y."), payload))
    bus.run(bus.client.flush())
    publish(server, "y", task("second"))
    status, lines = watch.end()
    assert status == 0
    ends = [line.split()[2:] for line in lines if line.split()[-1] in ("successful", "check", "gone")]
    assert ends == [["x", "RUN", "successful"], ["y", "RUN", "successful"]]
    assert {line.split()[2] for line in lines} == {"x", "y"}


@pytest.mark.parametrize("how", [("--from-stream",), ("--since", "1h")])
def test_history_first(
    start_server: Callable[..., Server], connect: Callable[..., Bus], how: tuple[str, ...]
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    publish(server, "old", task("t"))
    watch = Lines("-s", server.url, "--runs", "2", *how)
    watch.wait_for("connected to")
    publish(server, "new", task("t"))
    status, lines = watch.end()
    assert status == 0
    assert [line.split()[2] for line in lines] == ["old"] * 3 + ["new"] * 3


def test_no_stream_for_the_history(server: Server) -> None:
    watch = Lines("-s", server.url, "--from-stream")
    watch.wait_for("no stream takes what runs publish")
    assert watch.end()[0] == 1


@pytest.mark.parametrize("history", [True, False])
def test_a_server_that_restarts(
    start_server: Callable[..., Server], connect: Callable[..., Bus], *, history: bool
) -> None:
    server = start_server(jetstream=True)
    connect(server).add_stream()
    options = ("--from-stream",) if history else ()
    watch = Lines("-s", server.url, "-o", "reconnect_time_wait=0.1", "--runs", "2", *options)
    watch.wait_for("connected to")
    publish(server, "one", task("t"))
    # What the server had not handed on yet would be gone with it.
    wait_until(lambda: len(watch.lines) == 3)
    server.kill()
    watch.wait_for("lost")
    watch.wait_for("cannot connect")
    watch.said.clear()
    server.start()
    watch.wait_for("connected to")
    publish(server, "two", task("t"), end=None)
    # Different runs are not ordered.
    wait_until(lambda: sum(line.split()[2] == "two" for line in watch.lines) == 2)
    publish(server, "three", [])
    status, lines = watch.end()
    assert status == 0
    # From a stream nothing comes twice.
    expected = ["one"] * 3 + ["two"] * 2 + ["three"]
    assert [line.split()[2] for line in lines] == expected


def test_a_closed_pipe(server: Server) -> None:
    line = f"{WATCH} watch -s {server.url} --plain 2>/dev/null | head -n 1"
    watch = subprocess.Popen(["bash", "-o", "pipefail", "-c", line], env=clean_env(None))
    number = 0
    while watch.poll() is None:
        number += 1
        publish(server, f"x{number}", task("t"))
        time.sleep(0.05)
    assert watch.returncode == 0


class Terminal:
    """`watch` on a terminal of a size."""

    def __init__(self, columns: int, rows: int, *args: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        env = {**clean_env(None), "TERM": "xterm-256color"}
        self.child = pexpect.spawn(WATCH, ["watch", *args], env=env, dimensions=(rows, columns))

    def pump(self) -> list[str]:
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.stream.feed(self.child.read_nonblocking(65536, timeout=0.05))
        return [line.rstrip() for line in self.screen.display]

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines = self.pump()
            if condition(lines):
                return lines
        raise AssertionError("\n".join(self.pump()))

    def see(self, *texts: str) -> list[str]:
        return self.wait_for(lambda lines: all(any(text in line for line in lines) for text in texts))

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    open_ones: list[Terminal] = []

    def start(*args: Any) -> Terminal:
        open_ones.append(Terminal(*args))
        return open_ones[-1]

    yield start
    for one in open_ones:
        # `close(force=True)` gives up after a tenth of a second, which is too short on a busy machine.
        if one.child.isalive():
            one.child.kill(signal.SIGKILL)
            one.child.wait()
        one.child.close()


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 60)])
def test_the_screen(server: Server, terminal: Callable[..., Terminal], columns: int, rows: int) -> None:
    screen = terminal(columns, rows, "-s", server.url)
    screen.see("connected to", "q quit")
    publish(
        server,
        "alpha",
        [*task("install", changed=True), *task("break", fails=True, msg="no such\x1b[2J file")],
        "failed",
    )
    publish(server, "beta", task("only one"), end=None)
    lines = screen.see("alpha", "beta", "no such", "2 runs, 1 running")
    [alpha] = [line for line in lines if "alpha" in line and "failed" in line and "·" not in line]
    numbers = [word for word in alpha.split() if word.isdigit()]
    # Tasks; ok, changed, failed: what nobody has is not shown.
    assert numbers == ["2", "1", "1", "1"]
    assert any("failed h · break · no such^[[2J file" in line for line in lines)
    screen.send("/alp")
    assert not any("beta" in line for line in screen.see("filter: alp_", "1 run, 0 running"))
    screen.send("\x1b")
    screen.see("2 runs")
    order = ["alpha", "beta"]
    screen.send("s")
    screen.see("s sort (state)")
    for _ in range(2):
        screen.send("s")
    lines = screen.see("s sort (ident)")
    shown = [name for line in lines[1:4] for name in order if name in line]
    assert shown == order
    screen.send("r")
    screen.wait_for(lambda lines: [n for line in lines[1:4] for n in order if n in line] == order[::-1])
    screen.resize(120, 30)
    screen.see("alpha", "beta", "q quit")
    screen.send("q")
    screen.child.expect(pexpect.EOF)
    screen.child.close()
    assert screen.child.exitstatus == 0


def test_it_scrolls_through_hundreds_of_runs(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(80, 24, "-s", server.url)
    screen.see("connected to")
    for number in range(300):
        publish(server, f"run-{number:03}", [])
    screen.see("300 runs")
    for _ in range(3):
        screen.send("s")
    screen.see("s sort (ident)", "run-000")
    screen.send("G")
    screen.see("run-299")
    screen.send("g")
    screen.see("run-000")


def test_a_gap_is_shown(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(80, 24, "-s", server.url)
    screen.see("connected to")
    run = config(server.url, None)
    for counter in (1, 2, 7):
        event_handler(
            run, {"counter": counter, "uuid": f"u{counter}", "runner_ident": "r", "event": "verbose"}
        )
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    lines = screen.see("missing")
    [head] = [line for line in lines if "missing" in line]
    end = head.index("missing") + len("missing")
    screen.wait_for(lambda lines: any(line.startswith("r ") and line[:end].endswith(" 4") for line in lines))


def test_the_server_goes_and_comes_back(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(100, 24, "-s", server.url, "-o", "reconnect_time_wait=0.1")
    screen.see("connected to")
    server.kill()
    screen.see("cannot connect to")
    server.start()
    screen.see("connected to")
    publish(server, "after", task("t"))
    screen.see("after")


@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM, signal.SIGINT])
def test_the_terminal_is_given_back(
    server: Server, terminal: Callable[..., Terminal], how: str | signal.Signals
) -> None:
    screen = terminal(80, 24, "-s", server.url)
    screen.see("connected to")
    if isinstance(how, str):
        screen.send(how)
    else:
        os.kill(screen.child.pid, how)
    screen.child.expect(pexpect.EOF)
    left = screen.child.before
    assert b"\x1b[?1049l" in left
    screen.child.close()
    # As a shell has it.
    assert (screen.child.signalstatus, screen.child.exitstatus) == (None, 130)


def test_usage() -> None:
    for args in (("--plain", "--json"), ("--since", "soon"), ("--runs", "x"), ("pub..x",), ("pub.>.x",)):
        assert command("watch", *args).returncode == 2
    done = command("watch", "-o", "token=", "-s", "http://x")
    assert done.returncode == 1
    assert "expected server URLs" in done.stderr


def stats(**hosts: dict[str, int]) -> dict[str, Any]:
    """The end of a playbook: what each host has, by ansible's own words."""
    words = ("ok", "changed", "dark", "failures", "skipped", "rescued", "ignored")
    data = {word: {host: counts[word] for host, counts in hosts.items() if word in counts} for word in words}
    return {"event": "playbook_on_stats", "event_data": data}


@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (80, 24), (200, 60)])
def test_numbers_are_whole_or_not_there(
    server: Server, terminal: Callable[..., Terminal], columns: int, rows: int
) -> None:
    screen = terminal(columns, rows, "-s", server.url)
    screen.see("connected to")
    counts = {"ok": 12345, "changed": 67890, "failures": 13579, "rescued": 24680, "ignored": 11223}
    publish(server, "a-rather-long-ident-of-a-run", [*task("t", fails=True, msg="m"), stats(h=counts)], None)
    lines = screen.wait_for(lambda lines: any("13579" in line for line in lines))
    [row] = [line for line in lines if "13579" in line]
    shown = [word for word in row.split() if word.isdigit() and len(word) > 2]
    assert set(shown) <= {"12345", "67890", "13579", "24680", "11223"}
    assert "13579" in shown
    if columns >= 80:
        assert {"12345", "67890"} <= set(shown)
    if columns == 200:
        assert shown == ["12345", "67890", "13579", "24680", "11223"]
        assert "a-rather-long-ident-of-a-run" in row
    assert all(len(line) <= columns for line in lines)
    assert any(" h · t · m" in line for line in lines) or rows == 10


def test_a_run_is_opened(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(100, 40, "-s", server.url)
    screen.see("connected to")
    result: dict[str, Any] = {"msg": "non-zero return code", "rc": 3, "stderr": "first line\nthe real reason"}
    events = [*task("install", changed=True), *task("break", fails=True, **result), *task("go on")]
    for number, data in enumerate(events):
        data.update(stdout=f"\x1b[0;32mline {number}\x1b[0m", start_line=number, end_line=number + 1)
        data["event_data"]["task_uuid"] = data["event_data"]["task"]
    publish(server, "alpha", events, end=None)
    # The reason where the message says nothing, on the list already.
    screen.see("failed h · break · the real reason (rc=3)")
    screen.send("\r")
    lines = screen.see(
        "─ failures 1", "─ tasks 3", "─ output", "the real reason", "first line", "line 5", "rc: 3"
    )
    assert not any("\x1b" in line for line in lines)
    assert any("install" in line and "changed=1" in line for line in lines)
    # What comes is shown as it comes.
    publish(
        server, "alpha", [*events, {"event": "verbose", "stdout": "and more", "start_line": 6, "end_line": 7}]
    )
    screen.see("and more", "successful  id  alpha")
    screen.send("?")
    screen.see("to the next pane")
    screen.send("x")
    screen.wait_for(lambda lines: not any("to the next pane" in line for line in lines))
    # Where there is no room for all, Tab shows one pane after the other.
    screen.resize(60, 14)
    screen.wait_for(lambda lines: not any("─ tasks" in line for line in lines))
    for pane in ("─ tasks 3", "─ output", "─ failures 1"):
        screen.send("\t")
        screen.see(pane)
    screen.send("\x1b")
    screen.see("q quit")
    screen.send("q")
    screen.child.expect(pexpect.EOF)


def test_failures_of_one_run_hide_no_others(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(100, 24, "-s", server.url)
    screen.see("connected to")
    publish(server, "few", task("one", fails=True, msg="needle"), "failed")
    publish(
        server, "many", [part for n in range(500) for part in task(f"t{n}", fails=True, msg="m")], "failed"
    )
    screen.see("earlier ones: Enter shows them", "needle")
    screen.send("\t")
    screen.send("j")
    screen.send("\r")
    screen.see("failures 500")
    screen.send("\x1b")
    screen.see("Enter open")
    screen.send("/needle")
    lines = screen.see("filter: needle_", "needle")
    assert not any("many" in line for line in lines)


def test_a_run_that_falls_silent(server: Server, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(100, 24, "-s", server.url, "--silent-after", "1s")
    screen.see("connected to")
    publish(server, "gone", task("t"), end=None)
    screen.see("1 run, 1 running")
    lines = screen.see("1 run, 0 running, 1 silent")
    assert any("gone" in line and "silent" in line for line in lines)
    publish(server, "gone", [*task("t"), *task("u")])
    screen.see("1 run, 0 running ·", "successful")


def test_what_was_there_before(
    stored: tuple[Server, Bus], terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """Runs of the last day are known from the start, and opened in whole; times are those of the events."""
    server, _ = stored
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "early", env=ON).returncode == 0
    other = config(server.url, None)
    other.settings["nats_subject_id"] = "site.b"
    other.ident = "other"
    status_handler(other, {"status": "starting", "command": ["ansible-playbook", "b.yml"]})
    status_handler(other, {"status": "failed"})
    time.sleep(2)
    screen = terminal(150, 30, "-s", server.url)
    lines = screen.see("2 runs, 0 running", "early", "other", "site.a", "site.b", "rescued one · break")
    [early] = [line for line in lines if "early" in line and "successful" in line]
    # Tasks, ok, changed, failed, rescued; of `other` nobody knows.
    assert [word for word in early.split() if word.isdigit()] == ["3", "4", "2", "0", "2"]
    [row] = [line for line in lines if "other" in line and "b.yml" in line]
    assert not any(word.isdigit() for word in row.split())
    times = [word for word in early.split() if re.fullmatch(r"\d+s", word)]
    screen.send("jk")
    time.sleep(1.5)
    [later] = [line for line in screen.pump() if "early" in line and "successful" in line]
    assert [word for word in later.split() if re.fullmatch(r"\d+s", word)] == times
    screen.send("s" * 3)
    screen.see("s sort (ident)")
    screen.send("\r")
    screen.see("─ output", "PLAY RECAP")


def test_nothing_is_missing_after_a_restart_with_a_stream(
    stored: tuple[Server, Bus], terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    server, _ = stored
    screen = terminal(150, 24, "-s", server.url, "-o", "reconnect_time_wait=0.1")
    screen.see("connected to")
    run: Any = config(server.url, tmp_path, reconnect_time_wait=0.05)
    for counter in range(1, 100):
        number = {"counter": counter, "uuid": f"u{counter}", "runner_ident": "r", "event": "verbose"}
        event_handler(run, number)
        if counter in (30, 60):
            server.restart()
    status_handler(run, {"status": "successful", "runner_ident": "r"})
    lines = screen.see("successful")
    assert not any("missing" in line for line in lines)


@pytest.mark.parametrize(
    ("allowed", "status"),
    [('publish: {deny: ">"}, subscribe: ["pub.>", "_INBOX.>"]', 0), ('subscribe: ["_INBOX.>"]', 1)],
)
def test_who_may_only_listen(start_server: Callable[..., Server], allowed: str, status: int) -> None:
    """Listening needs no permission to publish; without one to subscribe it says so, and ends."""
    users = f"{{user: me, password: w, permissions: {{ {allowed} }} }}, {{user: runner, password: r}}"
    server = start_server(config=f"authorization {{ users: [{users}] }}")
    login = ("-s", server.url, "-o", "user=me", "-o", "password=w")
    watch = Lines(*login, "--runs", "1")
    if status == 0:
        watch.wait_for("connected to")
        run = config(server.url, None, user="runner", password="r")
        status_handler(run, {"status": "successful"})
    code, lines = watch.end()
    assert code == status
    assert [line.split()[1:] for line in lines] == ([["id", "r", "RUN", "successful"]] if status == 0 else [])
    if status:
        assert any("does not let this user subscribe to pub.ansible.runner.>" in line for line in watch.said)
