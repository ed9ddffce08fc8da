"""Processes that fork and close what they inherited: all is delivered, no descriptor of theirs is touched."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    PATIENCE,
    Job,
    bin_dir,
    body,
    clean_env,
    cli,
    events_of,
    free_port,
    python,
    statuses_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support import Bus, Server

#: What every program here begins with. Its arguments: the family's folder, and the server.
COMMON = """
import json, multiprocessing, os, socket, sys, traceback, types

FOLDER, URL = sys.argv[1:3]
SETTINGS = {"nats_subject_id": "id", "nats_options": {"servers": URL, "flush_timeout": 10}}


def begin(ident):
    from ansible_runner_nats import status_handler
    run = types.SimpleNamespace(settings=SETTINGS, ident=ident, artifact_dir=f"{FOLDER}/artifacts/{ident}")
    status_handler(run, {"status": "starting"})
    return run


def go_on(run, counters):
    from ansible_runner_nats import event_handler
    for n in counters:
        event_handler(run, {"counter": n, "uuid": f"u{n}", "event": "verbose", "stdout": "x" * 100})


def end(run):
    from ansible_runner_nats import status_handler
    status_handler(run, {"status": "successful"})


def run(ident):
    run = begin(ident)
    go_on(run, range(20))
    end(run)


def say(name, **result):
    # Whole or not at all.
    with open(f"{FOLDER}/{name}.part", "w") as file:
        json.dump(result, file)
    os.rename(f"{FOLDER}/{name}.part", f"{FOLDER}/{name}.json")


def log():
    return os.open(f"{FOLDER}/log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)


def become_a_daemon():
    os.setsid()
    os.chdir("/")
    os.closerange(0, 1024)
    assert os.open(os.devnull, os.O_RDWR) == 0
    assert os.dup(0) == 1
    assert log() == 2


def fork(work):
    # Returns how the child ended.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


class Own:
    # Connections of the daemon's own. Both ends of each have something to read that nobody has read yet.

    def __init__(self, count):
        self.pairs = [socket.socketpair() for _ in range(count)]
        for number, pair in enumerate(self.pairs):
            for end in (0, 1):
                pair[end].sendall(self.sent(number, end))

    def sent(self, number, end):
        return f"{number}.{end}: from the daemon to itself\\n".encode() * 3

    def touched(self):
        # What is not as it was left. Closes them.
        wrong = []
        for number, pair in enumerate(self.pairs):
            for end in (0, 1):
                pair[end].setblocking(False)
                if self.read(pair[end]) != self.sent(number, 1 - end):
                    wrong.append(f"{number}.{end} holds something else")
            pair[0].close()
            # The only copy is closed: the other end has to see that.
            if self.read(pair[1]) != b"":
                wrong.append(f"somebody else holds {number}.0")
            pair[1].close()
        return wrong

    def read(self, sock):
        try:
            return sock.recv(1 << 16)
        except OSError as error:
            return error
"""


@dataclass
class Family:
    """A program and its descendants: they are known by this folder in their command line."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program that has our folder among its arguments."""
        process = subprocess.Popen(
            command, env=clean_env({"PYTHONWARNINGS": "ignore"}), cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        self.started.append(process)
        return process

    def program(self, code: str, url: str, *arguments: str | Path) -> subprocess.Popen[str]:
        program = self.folder / "program.py"
        program.write_text(COMMON + code)
        return self.start(sys.executable, program, self.folder, url, *arguments)

    def run(self, code: str, url: str, *arguments: str | Path) -> None:
        """Run a program that has nothing to complain about, and wait for its last descendant."""
        process = self.program(code, url, *arguments)
        stdout, stderr = process.communicate(timeout=PATIENCE * 3)
        assert (process.returncode, stderr, stdout) == (0, "", "")
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Of the last of them; none may have had anything to complain about."""
        self.wait_until_gone()
        assert self.log() == ""

    def wait_until_gone(self) -> None:
        try:
            wait_until(lambda: not self.alive(), "the daemons to end")
        except AssertionError:
            pytest.fail(f"they have not ended: {self.alive()}")

    def log(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def result(self, name: str) -> dict[str, Any]:
        """What one of them said."""
        result: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return result

    def alive(self) -> dict[int, str]:
        return {pid: line for pid, line in command_lines() if str(self.folder) in line and pid != os.getpid()}

    def end(self) -> None:
        def none_left() -> bool:
            alive = self.alive()
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not alive

        wait_until(none_left, "the daemons to be gone")
        for process in self.started:
            process.communicate(timeout=PATIENCE)


def command_lines() -> Iterator[tuple[int, str]]:
    """Of all processes that are no zombies."""
    if Path("/proc/self/cmdline").exists():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it may have ended
                yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    else:
        listed = subprocess.run(
            ["ps", "-ww", "-axo", "pid=,stat=,args="], stdout=subprocess.PIPE, text=True, check=True
        )
        for line in listed.stdout.splitlines():
            pid, state, arguments = line.split(None, 2)
            if not state.startswith("Z"):
                yield int(pid), arguments


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    folder = tmp_path / "family"
    folder.mkdir()
    family = Family(folder)
    yield family
    family.end()


@pytest.fixture
def stream_server(start_server: Callable[..., Server]) -> Server:
    return start_server(jetstream=True)


@pytest.fixture
def stream(stream_server: Server, connect: Callable[..., Bus]) -> Bus:
    bus = connect(stream_server)
    bus.add_stream()
    return bus


LIFE = ["starting", "successful"]
#: What ``run`` in ``COMMON`` has to leave in the stream.
WHOLE = (LIFE, list(range(20)))


def stored(stream: Bus) -> dict[str, tuple[list[str], list[int]]]:
    """By run: its statuses and the counters of its events, in the stream's order."""
    runs: dict[str, tuple[list[str], list[int]]] = defaultdict(lambda: ([], []))
    for message in stream.stream_messages():
        run = runs[message.subject.split(".")[4]]
        content = body(message)
        if message.subject.endswith(".status"):
            run[0].append(content["status"])
        else:
            run[1].append(content["counter"])
    return dict(runs)


def assert_nothing_kept(folder: Path) -> None:
    assert list(folder.rglob("nats-*.jsonl")) == []


CLASSIC = """
OWN = int(sys.argv[3])


def child():
    become_a_daemon()
    own = Own(OWN)
    run("child-1")
    run("child-2")
    go_on(opened, range(100, 110))
    end(opened)
    status = fork(grandchild)
    run("child-3")
    say("child", grandchild=status, touched=own.touched())


def grandchild():
    become_a_daemon()
    own = Own(OWN)
    run("grandchild-1")
    run("grandchild-2")
    say("grandchild", touched=own.touched())


run("parent-1")
opened = begin("opened")
go_on(opened, range(10))
status = fork(child)
run("parent-2")
go_on(opened, range(10, 20))
end(opened)
say("parent", child=status)
"""


@pytest.mark.parametrize("own", [12, 0], ids=["its-own-there", "closed"])
def test_a_classic_daemon(family: Family, stream_server: Server, stream: Bus, own: int) -> None:
    """A number that was closed may be somebody else's now, or nobody's."""
    family.run(CLASSIC, stream_server.url, str(own))
    assert family.result("parent") == {"child": 0}
    assert family.result("child") == {"grandchild": 0, "touched": []}
    assert family.result("grandchild") == {"touched": []}
    runs = stored(stream)
    statuses, counters = runs.pop("opened")
    # Parent and child have both ended it, each with what it had to add.
    assert sorted(statuses) == ["starting", "successful", "successful"]
    assert sorted(counters) == [*range(20), *range(100, 110)]
    names = "parent-1 parent-2 child-1 child-2 child-3 grandchild-1 grandchild-2"
    assert runs == dict.fromkeys(names.split(), WHOLE)
    assert_nothing_kept(family.folder)


CONTEXT = """
import ansible_runner, daemon

JOB = sys.argv[3]


def job(ident):
    done = ansible_runner.run(private_data_dir=JOB, playbook="play.yml", ident=ident, quiet=True)
    return done.status


before = job("before")
with daemon.DaemonContext(stderr=open(f"{FOLDER}/log", "w+")):
    own = Own(12)
    after = [job(f"after-{n}") for n in range(3)]
    say("daemon", statuses=[before, *after], touched=own.touched(), pid=os.getpid())
"""

SHORT = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "héllo {{ item }}"}
      loop: [1, 2, 3]
"""


def assert_whole(job: Job, stream: Bus, idents: list[str]) -> None:
    """Each run's own files are the truth."""
    messages = stream.stream_messages()
    for ident in idents:
        files = (job.folder / "artifacts" / ident / "job_events").glob("*.json")
        written = sorted((json.loads(path.read_text()) for path in files), key=lambda event: event["counter"])
        ours = [message for message in messages if f".{ident}." in message.subject]
        assert written
        assert events_of(ours) == written
        assert statuses_of(ours) == ["starting", "running", "successful"]
    assert {message.subject.split(".")[4] for message in messages} == set(idents)
    assert_nothing_kept(job.folder)


def test_python_daemon(family: Family, stream_server: Server, stream: Bus) -> None:
    options = {"servers": stream_server.url}
    job = Job(family.folder / "job", {"nats_subject_id": "id", "nats_options": options}, SHORT)
    family.run(CONTEXT, stream_server.url, job.folder)
    result = family.result("daemon")
    assert result["pid"] != family.started[0].pid
    assert (result["statuses"], result["touched"]) == (["successful"] * 4, [])
    assert_whole(job, stream, ["before", "after-0", "after-1", "after-2"])


WSGI = """
from pathlib import Path

if Path(FOLDER, "run-first").exists():
    run(f"first-{os.getpid()}")


def application(environ, start_response):
    own = Own(12)
    for n in range(2):
        run(f"{environ['PATH_INFO'][1:]}-{n}")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "touched": own.touched()}).encode()]
"""


@pytest.mark.parametrize("preload", [True, False])
def test_gunicorn(family: Family, stream_server: Server, stream: Bus, preload: bool) -> None:  # noqa: FBT001
    """Its workers are forked before the first run, or after it (``--preload``), and again and again."""
    arguments = f"import sys\nsys.argv[1:] = {[str(family.folder), stream_server.url]!r}\n"
    (family.folder / "app.py").write_text(arguments + COMMON + WSGI)
    if preload:
        (family.folder / "run-first").touch()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(None)
        gunicorn = family.start(
            *(bin_dir() / "gunicorn", "app:application", "--chdir", family.folder),
            *("--bind", f"fd://{listening.fileno()}", "--workers", "2", "--max-requests", "2"),
            *("--worker-tmp-dir", family.folder, "--log-level", "critical", "--timeout", str(int(PATIENCE))),
            *(["--preload"] if preload else []),
            pass_fds=[listening.fileno()],
        )
        answers = [ask(listening.getsockname()[1], f"/request-{n}") for n in range(8)]
    gunicorn.terminate()
    _, stderr = gunicorn.communicate(timeout=PATIENCE)
    assert (gunicorn.returncode, stderr) == (0, "")
    family.wait_for_end()
    assert [answer["touched"] for answer in answers] == [[]] * 8
    pids = {answer["pid"] for answer in answers}
    # A worker that had two requests is replaced.
    assert len(pids) >= 4
    expected = {f"request-{n}-{m}" for n in range(8) for m in range(2)}
    if preload:
        expected.add(f"first-{gunicorn.pid}")
        assert gunicorn.pid not in pids
    assert stored(stream) == dict.fromkeys(expected, WHOLE)
    assert_nothing_kept(family.folder)


def ask(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = json.load(connection.getresponse())
    finally:
        connection.close()
    return answer


POOL = """
FIRST = sys.argv[3] == "after"


def task(number):
    own = Own(12)
    for n in range(3):
        run(f"task-{number}-{n}")
    return os.getpid(), own.touched()


if __name__ == "__main__":
    if FIRST:
        run("first")
    # Worn-out workers are replaced by forks in the midst of it all, and from another thread.
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=2) as pool:
        tasks = pool.map_async(task, range(8), chunksize=1)
        for n in range(5):
            run(f"parent-{n}")
        results = tasks.get()
        pool.close()
        pool.join()
    say("pool", pids=sorted({pid for pid, _ in results}), touched=sum((wrong for _, wrong in results), []))
"""


@pytest.mark.parametrize("first", ["after", "before"])
def test_a_pool_of_workers(family: Family, stream_server: Server, stream: Bus, first: str) -> None:
    """As celery does: forked before or after the first run, each worker has several, so has the parent."""
    family.run(POOL, stream_server.url, first)
    result = family.result("pool")
    assert result["touched"] == []
    # A worker that had two tasks is replaced.
    assert len(result["pids"]) >= 4
    expected = {f"task-{n}-{m}" for n in range(8) for m in range(3)} | {f"parent-{n}" for n in range(5)}
    if first == "after":
        expected.add("first")
    assert stored(stream) == dict.fromkeys(expected, WHOLE)
    assert_nothing_kept(family.folder)


HELD = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: before}
    - name: hold
      ansible.builtin.command: cat GATE
    - ansible.builtin.debug: {msg: after}
"""


def test_start_is_alive_stop(family: Family, stream_server: Server, stream: Bus) -> None:
    """The command line's own daemon: one that ends, one that is killed, and one after that."""
    gate = family.folder / "gate"
    os.mkfifo(gate)
    options = {"servers": stream_server.url}
    settings = {"nats_subject_id": "id", "nats_options": options}
    job = Job(family.folder / "job", settings, HELD.replace("GATE", str(gate)))
    stream.subscribe()

    def start(ident: str) -> None:
        begun = cli("start", job.folder, "-p", "play.yml", "--ident", ident)
        assert (begun.returncode, begun.stderr) == (0, "")

    def wait_for_task(ident: str) -> None:
        subject = f"pub.ansible.runner.id.{ident}.event"
        stream.wait_for(
            lambda messages: any(
                message.subject == subject and body(message).get("event_data", {}).get("task") == "hold"
                for message in messages
            )
        )

    def is_alive() -> int:
        return cli("is-alive", job.folder).returncode

    assert is_alive() == 1
    for ident, way in [("first", "end"), ("second", "stop"), ("third", "end")]:
        start(ident)
        wait_for_task(ident)
        # Opens when the task reads from it, and lets it end when it is closed.
        with gate.open("w"):
            assert is_alive() == 0
            if way == "stop":
                assert cli("stop", job.folder).returncode == 0
        family.wait_until_gone()
        assert is_alive() == 1
    assert (job.folder / "daemon.log").read_text() == ""
    killed = [message for message in stream.stream_messages() if ".second." in message.subject]
    assert statuses_of(killed) == ["starting", "running"]
    assert [event["event"] for event in events_of(killed)][-1] == "runner_on_start"
    stream.run(stream.client.jetstream().purge_stream("RUNS", subject="pub.ansible.runner.id.second.>"))
    assert_whole(job, stream, ["first", "third"])


OPEN_RUNS = """
import atexit, signal, time
from ansible_runner_nats import event_handler


def leaving():
    # The last that was registered is the first to be called: the plugin's turn is in between.
    atexit.register(lambda: None)
    times.append(time.monotonic())
    print("leaving", flush=True)


def left():
    print(time.monotonic() - times[0], flush=True)


def impatient(number, frame):
    # Ctrl-C, once the plugin waits.
    if frame.f_code.co_name == "at_exit":
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


times = []
signal.signal(signal.SIGALRM, impatient)
atexit.register(left)
for n, (url, timeout) in enumerate(json.loads(sys.argv[3])):
    options = {"servers": url, "flush_timeout": timeout, "connect_timeout": 1, "reconnect_time_wait": 0.1}
    SETTINGS = {"nats_subject_id": "id", "nats_options": options}
    go_on(begin(f"run-{n}"), range(20))
atexit.register(leaving)
"""


def leave(family: Family, runs: list[tuple[str, float]], more: str = "") -> subprocess.Popen[str]:
    """A program whose end has just begun; these runs (server, flush_timeout) have none."""
    process = family.program(OPEN_RUNS + more, "", json.dumps(runs))
    assert process.stdout is not None
    assert process.stdout.readline() == "leaving\n"
    return process


def nobody() -> str:
    return f"nats://127.0.0.1:{free_port()}"


def kept(family: Family) -> dict[str, int]:
    """By run: how many messages are in its spill file."""
    files = family.folder.glob("artifacts/*/nats-undelivered.jsonl")
    return {path.parent.name: len(path.read_text().splitlines()) for path in files}


def test_the_end_waits_no_longer_than_flush_timeout(family: Family) -> None:
    process = leave(family, [(nobody(), 0.5)])
    stdout, stderr = process.communicate(timeout=PATIENCE)
    # 5 s it was, whatever was set.
    assert 0.5 <= float(stdout) < 4
    assert "21 kept in" in stderr
    assert kept(family) == {"run-0": 21}


def test_runs_without_an_end_wait_together(family: Family) -> None:
    """Some with a connection in common, some each with its own."""
    shared = nobody()
    runs = [(nobody(), 2.0) for _ in range(6)] + [(shared, 2.0) for _ in range(4)] + [(nobody(), 0.1)]
    process = leave(family, runs)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    # One after the other: 20 s.
    assert 2 <= float(stdout) < 12
    assert stderr.count("21 kept in") == len(runs)
    assert kept(family) == {f"run-{n}": 21 for n in range(len(runs))}


def test_the_end_waits_for_a_server_that_comes_late(
    family: Family, stream_server: Server, stream: Bus
) -> None:
    url = stream_server.url
    stream_server.kill()
    process = leave(family, [(url, PATIENCE * 2), (nobody(), 0.5)])
    # Longer than the 5 s that it once was.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(6)
    stream_server.start()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert 6 <= float(stdout) < PATIENCE * 2
    assert "21 kept in" in stderr
    assert stored(stream) == {"run-0": (["starting"], list(range(20)))}
    assert kept(family) == {"run-1": 21}


def test_the_end_can_be_interrupted(family: Family) -> None:
    """Ctrl-C: nobody has to sit a long ``flush_timeout`` out; what is left is kept."""
    ticking = "signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\n"
    process = leave(family, [(nobody(), 600), (nobody(), 600)], ticking)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert kept(family) == {"run-0": 21, "run-1": 21}
    assert len(re.findall("21 kept in", stderr)) == 2


#: Its first run loads the native library, slowly, while another thread forks.
SLOW_IMPORT = """
import importlib.machinery, os, signal, sys, threading, time, types
from ansible_runner_nats import event_handler, status_handler
class Slowly:
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        loading.set()
        time.sleep(1)
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != 'ansible_runner_nats._native':
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Slowly(spec.loader)
        return spec
sys.meta_path.insert(0, Finder())
loading = threading.Event()
def run(name):
    options = {'servers': 'nats://127.0.0.1:1', 'flush_timeout': 0}
    settings = {'nats_subject_id': 'id', 'nats_options': options}
    config = types.SimpleNamespace(settings=settings, ident=name, artifact_dir=FOLDER + '/' + name)
    event_handler(config, {'counter': 1, 'uuid': 'u'})
    status_handler(config, {'status': 'successful'})
def fork():
    loading.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        run('child')
        os._exit(0)
    statuses.append(os.waitpid(pid, 0)[1])
statuses = []
thread = threading.Thread(target=fork)
thread.start()
run('parent')
thread.join()
print(statuses)
"""


def test_a_fork_while_the_library_is_loaded(tmp_path: Path) -> None:
    """By another thread: the child does not wait for ever for who loads it, and is not there."""
    done = python(SLOW_IMPORT.replace("FOLDER", repr(str(tmp_path))))
    assert done.stdout == "[0]\n", done.stderr
    assert {path.parent.name for path in tmp_path.glob("*/nats-undelivered.jsonl")} == {"parent", "child"}
