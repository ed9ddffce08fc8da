"""No exception of ours reaches the job, whatever fails: faults on demand, and no resources left."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import Job, body, clean_env, cli, events_of, free_port, python, statuses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support import Bus, Server

FAULT = "ANSIBLE_RUNNER_NATS_FAULT"

#: Fault, and what becomes of the messages: all arrive, all are kept on disk, or they are said to be lost.
FAULTS = {
    "emitter.new=panic": "told",
    "emitter.publish=panic": "told",
    "emitter.publish=panic@20": "all but one",
    "emitter.memory=error": "told",
    "emitter.memory=error@20": "all but one",
    "emitter.finish=panic": "delivered",
    "outbox.push=panic": "told",
    "outbox.push=panic@20": "all but one",
    "courier.thread=error": "kept",
    "courier.thread=error@1": "delivered",
    "courier.runtime=error": "kept",
    "courier.runtime=error@1": "delivered",
    "courier.run=panic": "kept",
    "courier.run=panic@1": "delivered",
    "session.fill=panic": "kept",
    "session.fill=panic@1": "delivered",
    "session.message=panic@1": "delivered",
    # Twice the same: one message must not hold up all others.
    "session.message=panic@1-2": "one kept",
    "session.incoming=panic": "sent",
    "session.incoming=panic@1": "delivered again",
}

RUN = """
import types
from ansible_runner_nats import event_handler, status_handler
options = {'servers': URL, 'flush_timeout': 4, 'reconnect_time_wait': 0.1, 'connect_timeout': 1, **MORE}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
BEFORE
for n in range(50):
    event_handler(config, {'counter': n, 'uuid': 'u', 'runner_ident': 'r'})
status_handler(config, {'status': 'successful', 'runner_ident': 'r'})
AFTER
print('the job is done')
"""


def code(url: str, folder: Path, before: str = "", after: str = "", **more: object) -> str:
    text = RUN.replace("URL", repr(url)).replace("FOLDER", repr(str(folder))).replace("MORE", repr(more))
    return text.replace("BEFORE", before).replace("AFTER", after)


def check(done: subprocess.CompletedProcess[str]) -> None:
    """The job is fine, and what was said was said once, in single lines and without what a panic quotes."""
    assert (done.returncode, done.stdout) == (0, "the job is done\n"), done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("ansible-runner-nats: ") for line in lines), done.stderr
    assert len(set(lines)) == len(lines) < 6, done.stderr
    assert "canary" not in done.stderr


def kept(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("nats-*.jsonl"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(server: Server, bus: Bus, tmp_path: Path, fault: str) -> None:
    done = python(code(server.url, tmp_path), env={FAULT: fault, "RUST_BACKTRACE": "1"})
    check(done)
    outcome = FAULTS[fault]
    if outcome == "delivered":
        assert [data["counter"] for data in events_of(bus.wait_for_end())] == list(range(50))
        assert kept(tmp_path) == 0
        return
    assert done.stderr
    if outcome == "delivered again":
        # What was sent and not confirmed is sent again.
        counters = [data["counter"] for data in events_of(bus.wait_for_end())]
        while counters[-50:] != [*range(50)]:
            counters = [data["counter"] for data in events_of(bus.wait_for_end(2))]
        assert counters[:-50] == [*range(len(counters) - 50)]
        assert len(counters) > 50
        assert kept(tmp_path) == 0
    elif outcome == "one kept":
        assert [data["counter"] for data in events_of(bus.wait_for_end())] == [*range(1, 50)]
        assert kept(tmp_path) == 1
        assert "1 kept in" in done.stderr
    elif outcome == "all but one":
        assert len(events_of(bus.wait_for_end())) == 49
    elif outcome == "kept":
        assert kept(tmp_path) == 51
        assert "51 kept in" in done.stderr
    elif outcome == "sent":
        # The first one arrives again and again; as we never hear of it, no other is sent.
        messages = bus.wait_for(lambda messages: len(messages) > 1)
        assert {data["counter"] for data in events_of(messages)} == {0}
        assert kept(tmp_path) == 51
    else:
        assert re.search("internal error in the native library at src/fault.rs|LOST", done.stderr)


@pytest.mark.parametrize("place", ["spill.create", "spill.write"])
def test_no_disk_when_it_is_needed(tmp_path: Path, place: str) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    done = python(code(url, tmp_path, flush_timeout=0.2), env={FAULT: f"{place}=error"})
    check(done)
    assert "51 LOST" in done.stderr
    overflowing = python(
        code(url, tmp_path, flush_timeout=0.2, pending_size=0), env={FAULT: f"{place}=error"}
    )
    check(overflowing)
    assert "51 LOST" in overflowing.stderr


@pytest.mark.parametrize("fault", ["emitter.publish=panic", "session.fill=panic", "courier.thread=error"])
def test_a_real_job_does_not_notice(tmp_path: Path, server: Server, fault: str) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url, "flush_timeout": 1}})
    bare = job.copy(tmp_path / "bare")
    done = cli("run", job.folder, "-p", "play.yml", env={"RUNNER_NATS_SUBJECT_ID": "id", FAULT: fault})
    without = cli("run", bare.folder, "-p", "play.yml")
    assert done.returncode == without.returncode == 0
    assert len(job.events()) == len(bare.events())
    assert done.stderr.startswith("ansible-runner-nats: ")
    assert "Traceback" not in done.stderr


def test_releases_know_no_faults(tmp_path: Path) -> None:
    """Without the feature there is nothing to find."""
    root = subprocess.run(
        ["cargo", "locate-project", "--message-format", "plain"], capture_output=True, text=True, check=True
    )
    source = tmp_path / "probe.rs"
    source.write_text(
        f'#[path = "{root.stdout.strip().removesuffix("Cargo.toml")}src/fault.rs"]\nmod fault;\n'
        'fn main() { std::process::exit(i32::from(fault::error_at("a").is_err())); }\n'
    )
    subprocess.run(["rustc", "-O", "--edition", "2024", "-o", tmp_path / "probe", source], check=True)
    assert subprocess.run([tmp_path / "probe"], env={FAULT: "a=error"}, check=False).returncode == 0
    assert FAULT.encode() not in (tmp_path / "probe").read_bytes()


RESOURCE = "import resource\nresource.setrlimit(resource.{0}, ({1}, resource.getrlimit(resource.{0})[1]))\n"

#: Loads all that is loaded late, as a service has long done.
WARM = """
import encodings.idna, multiprocessing.util, ansible_runner_nats._native
"""


def test_no_descriptors_left_for_a_while(server: Server, bus: Bus, tmp_path: Path) -> None:
    """With none we keep and say so; when there are some again, all arrives."""
    before = (
        WARM
        + "import os\nfree = os.dup(0); os.close(free)\n"
        + RESOURCE.format("RLIMIT_NOFILE", "free")
        + "event_handler(config, {'counter': -1, 'uuid': 'u', 'runner_ident': 'r'})\n"
        + "import time; time.sleep(0.3)\n"
        + RESOURCE.format("RLIMIT_NOFILE", "1000")
    )
    done = python(code(server.url, tmp_path, before))
    check(done)
    assert "Too many open files" in done.stderr
    assert [data["counter"] for data in events_of(bus.wait_for_end())] == list(range(-1, 50))


def test_no_descriptors_at_all(server: Server, tmp_path: Path) -> None:
    before = WARM + "import os\nfree = os.dup(0); os.close(free)\n" + RESOURCE.format("RLIMIT_NOFILE", "free")
    done = python(code(server.url, tmp_path, before, flush_timeout=1))
    check(done)
    assert "51 LOST" in done.stderr
    assert "Too many open files" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_NPROC counts otherwise")
def test_threads_are_refused(server: Server, tmp_path: Path) -> None:
    """The kernel refuses them, as a container's limit does; not to root, so we become nobody."""
    before = (
        WARM
        + "import os, resource\n"
        + "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        + "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
    )
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.owner() != "root":
            break
        folder.chmod(folder.stat().st_mode | 0o011)
    done = python(code(server.url, tmp_path, before, flush_timeout=1))
    check(done)
    assert "cannot start the background thread" in done.stderr
    assert "51 kept in" in done.stderr
    assert kept(tmp_path) == 51


def test_no_memory_for_an_event(server: Server, bus: Bus, tmp_path: Path) -> None:
    """The address space is too small for an event's JSON: that one is lost, and said; nothing crashes."""
    before = (
        WARM
        + "big = 'ü' * 150_000_000\n"
        + "event_handler(config, {'counter': -1, 'uuid': 'u', 'runner_ident': 'r'})\n"
        + "import re, time; time.sleep(0.5)\n"
        + "size = int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        + RESOURCE.format("RLIMIT_AS", "size + 200_000_000")
        + "event_handler(config, {'counter': -2, 'uuid': 'u', 'runner_ident': 'r', 'stdout': big})\n"
    )
    done = python(code(server.url, tmp_path, before))
    check(done)
    assert "a message is LOST: not enough memory" in done.stderr
    assert "1 LOST" in done.stderr
    assert [data["counter"] for data in events_of(bus.wait_for_end())] == [-1, *range(50)]


MOUNTED = {
    "no /proc": "mount -t tmpfs none /proc",
    "a read-only file system": "mount -t tmpfs -o ro none FOLDER",
}


@pytest.mark.parametrize("how", MOUNTED)
def test_a_strange_root(server: Server, bus: Bus, tmp_path: Path, how: str) -> None:
    mount = MOUNTED[how].replace("FOLDER", str(tmp_path))
    probe = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine does not let us mount")
    read_only = "read-only" in how
    script = code(f"nats://127.0.0.1:{free_port()}" if read_only else server.url, tmp_path, flush_timeout=1)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, script],
        env=clean_env({}),
        capture_output=True,
        text=True,
        check=False,
    )
    check(done)
    if read_only:
        assert "Read-only file system" in done.stderr
        assert "51 LOST" in done.stderr
    else:
        assert len(events_of(bus.wait_for_end())) == 50


def test_nothing_to_write_to(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Standard error is closed, or gives an error with each write."""
    for closed in (
        "import os; os.close(2)",
        "import sys; sys.stderr.close()",
        "import sys; sys.stderr = None",
    ):
        done = python(code(f"nats://127.0.0.1:{free_port()}", tmp_path, closed, flush_timeout=0.1))
        assert (done.returncode, done.stdout) == (0, "the job is done\n")
    full = code(
        f"nats://127.0.0.1:{free_port()}", tmp_path, "import sys; sys.stderr = open('/dev/full', 'w')"
    )
    assert python(full).stdout == "the job is done\n"
    assert server.process is not None
    assert bus.received == []


HOSTILE = """
class Config:
    def __getattribute__(self, name): raise OSError('canary')
class Settings(dict):
    def get(self, name, default=None): raise OSError('not for you')
for config in (Config(), types.SimpleNamespace(settings=Settings(a=1)), types.SimpleNamespace(settings=[1]),
               types.SimpleNamespace(settings={'nats_subject_id': 'id'}, ident=Config(), artifact_dir=5)):
    for data in (None, [], 5, {'status': Config()}, {'status': 'successful'}):
        event_handler(config, data)
        status_handler(config, data)
config = types.SimpleNamespace(settings={}, ident='r')
"""


def test_objects_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    done = python(code(f"nats://127.0.0.1:{free_port()}", tmp_path, HOSTILE), env={"PYTHONWARNINGS": "error"})
    assert (done.returncode, done.stdout) == (0, "the job is done\n"), done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("ansible-runner-nats: ") for line in lines), done.stderr
    assert len(set(lines)) == len(lines) < 10, done.stderr


ODD = """
odd = types.SimpleNamespace(settings=config.settings, ident='a\\udcffb', artifact_dir=FOLDER.encode())
event_handler(odd, {'counter': 1, 'uuid': 'u'})
event_handler(odd, {'counter': 2, 'uuid': 'u', 'runner_ident': 'x\\udcff'})
status_handler(odd, {'status': 'successful'})
"""


def test_an_odd_ident(server: Server, bus: Bus, tmp_path: Path) -> None:
    done = python(code(server.url, tmp_path, ODD.replace("FOLDER", repr(str(tmp_path / "odd")))))
    check(done)
    subjects = [message.subject.split(".", 4)[4] for message in bus.wait_for_end(2)][:3]
    # Python's own replacement of a surrogate: one for each byte that it would take.
    assert [subject.replace("\ufffd", "?").replace("??", "?").replace("??", "?") for subject in subjects] == [
        "a?b.event",
        "x?.event",
        "a?b.status",
    ]


EDGE = """
import sys
handled = 0
def deep(left):
    global handled
    if left:
        return deep(left - 1)
    try:
        event_handler(config, {'counter': Raises(), 'uuid': Raises()})
        handled += 1
    except RecursionError as error:
        frame, names = error.__traceback__, []
        while frame:
            names.append(frame.tb_frame.f_code.co_name)
            frame = frame.tb_next
        # There was no room for the call itself; whatever was inside stays there.
        assert 'event_handler' not in names, names
class Raises:
    def __str__(self): return deep(10)
for left in range(sys.getrecursionlimit() - 60, sys.getrecursionlimit()):
    try:
        deep(left)
    except RecursionError:
        pass
assert handled > 20, handled
"""


def test_at_the_recursion_limit(server: Server, tmp_path: Path) -> None:
    done = python(code(server.url, tmp_path, EDGE))
    assert (done.returncode, done.stdout) == (0, "the job is done\n"), done.stderr


def test_one_line_for_whatever_an_exception_says(tmp_path: Path) -> None:
    before = """
class Path:
    def __fspath__(self): raise ValueError('line\\nansible-runner-nats: forged \\x1b[2J' + 'x' * 100_000)
config.artifact_dir = Path()
"""
    done = python(code(f"nats://127.0.0.1:{free_port()}", tmp_path, before))
    assert (done.returncode, done.stdout) == (0, "the job is done\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "ansible-runner-nats: internal error: ValueError: line ansible-runner-nats: forged"
    )
    assert len(line) < 600
    assert "\x1b" not in line


def test_one_line_a_cause_though_the_words_vary(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """A hundred events that cannot be cut, each of another size."""
    server = start_server(config="max_payload: 2000")
    connect(server).subscribe()
    before = """
for n in range(100):
    event_handler(config, {'counter': n, 'uuid': 'u', **{f'key {m}': m for m in range(200 + n)}})
"""
    done = python(code(server.url, tmp_path, before))
    check(done)
    assert done.stderr.count("do not fit into the server's max_payload of 2000 bytes") == 1
    assert "100 kept in" in done.stderr


def test_required_and_an_error_of_ours(tmp_path: Path) -> None:
    """What cannot be checked is not there."""
    job = Job(tmp_path / "job", {"nats_options": {"required": True}})
    env = {"RUNNER_NATS_SUBJECT_ID": "id", FAULT: "emitter.new=panic"}
    done = cli("run", job.folder, "-p", "play.yml", env=env)
    assert done.returncode == 1
    assert "NatsRequiredError: the job was not started" in done.stderr
    assert "internal error" in done.stderr
    assert job.events() == []


@pytest.mark.parametrize("how", ["environment", "settings"])
def test_required_and_nobody_there(tmp_path: Path, how: str) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    options = {"servers": url, **({"required": True} if how == "settings" else {})}
    job = Job(tmp_path / "job", {"nats_options": options})
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id",
        **({"RUNNER_NATS_REQUIRED": "yes"} if how == "environment" else {}),
    }
    done = cli("run", job.folder, "-p", "play.yml", env=env)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ansible_runner_nats.exceptions.NatsRequiredError: the job was not started: ")
    assert f"cannot connect to {url}: " in last
    assert "Connection refused" in last
    assert job.events() == []
    assert kept(tmp_path) == 0


def test_required_and_refused_options(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"servers": "http://x", "required": True}})
    done = cli("run", job.folder, "-p", "play.yml", env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 1
    assert "NatsRequiredError: the job was not started" in done.stderr
    assert "expected server URLs" in done.stderr
    assert job.events() == []


def test_required_and_there(tmp_path: Path, server: Server, bus: Bus) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url, "required": True}})
    done = cli("run", job.folder, "-p", "play.yml", env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert (done.returncode, done.stderr) == (0, "")
    assert statuses_of(bus.wait_for_end()) == ["starting", "running", "successful"]


def test_required_the_second_server_will_do(tmp_path: Path, server: Server, bus: Bus) -> None:
    servers = [f"nats://127.0.0.1:{free_port()}", server.url]
    options = {"servers": servers, "required": True, "dont_randomize": True}
    job = Job(tmp_path / "job", {"nats_options": options})
    done = cli("run", job.folder, "-p", "play.yml", env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0, done.stderr
    assert statuses_of(bus.wait_for_end())[-1] == "successful"


SERVICE = """
import types
from ansible_runner_nats import NatsRequiredError, handlers, status_handler
from ansible_runner.exceptions import AnsibleRunnerException
options = {'servers': URL, 'required': True, 'reconnect_time_wait': 0.2, 'connect_timeout': 1}
def run():
    config = types.SimpleNamespace(
        settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
    for status in ('starting', 'running', 'successful'):
        status_handler(config, {'status': status, 'runner_ident': 'r'})
for _ in range(2):
    try:
        run()
    except AnsibleRunnerException as error:
        assert type(error) is NatsRequiredError
    else:
        raise AssertionError
assert not handlers._emitters
print('refused', flush=True)
input()
run()
print('ran')
"""


def test_required_in_a_service(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    """Refused while nobody is there, even twice; runs as soon as somebody is; leaves nothing behind."""
    server = start_server()
    server.kill()
    script = SERVICE.replace("URL", repr(server.url)).replace("FOLDER", repr(str(tmp_path / "a")))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env({}),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "refused\n"
        server.start()
        bus = connect(server).subscribe()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ran\n"
    assert [body(message)["status"] for message in bus.wait_for_end()] == [
        "starting",
        "running",
        "successful",
    ]
    assert not list(tmp_path.rglob("*.jsonl"))


SIGNALS = """
import os, signal, socket, threading, types
from ansible_runner_nats import NatsRequiredError, event_handler, status_handler
first, second = (socket.create_server(('127.0.0.1', 0)) for _ in range(2))
options = {'servers': [f'nats://127.0.0.1:{silent.getsockname()[1]}' for silent in (first, second)],
           'dont_randomize': True, 'required': True, 'connect_timeout': 1, 'flush_timeout': 0.2}
def config(ident):
    return types.SimpleNamespace(settings={'nats_subject_id': 'id', 'nats_options': options}, ident=ident,
                                 artifact_dir=os.path.join(FOLDER, ident))
begun, new = config('begun'), config('new')
def ends_other_runs(*_):
    for other in (begun, new):
        event_handler(other, {'counter': 2, 'uuid': 'u2'})
        status_handler(other, {'status': 'canceled'})
    print('ended', flush=True)
signal.signal(signal.SIGUSR1, ends_other_runs)
def while_it_waits():
    # The first server was tried in vain: by now the run waits for the second.
    connection = second.accept()
    os.kill(os.getpid(), signal.SIGUSR1)
    ended.wait()
ended = threading.Event()
threading.Thread(target=while_it_waits, daemon=True).start()
event_handler(begun, {'counter': 1, 'uuid': 'u1'})
try:
    status_handler(config('waiting'), {'status': 'starting'})
except NatsRequiredError:
    print('refused', flush=True)
"""


def test_a_signal_that_ends_other_runs_while_one_waits_for_its_connection(tmp_path: Path) -> None:
    done = python(SIGNALS.replace("FOLDER", repr(str(tmp_path))))
    assert (done.returncode, done.stdout) == (0, "ended\nrefused\n"), done.stderr
    kept = {ident: (tmp_path / ident / "nats-undelivered.jsonl").read_text() for ident in ("begun", "new")}
    assert {ident: len(text.splitlines()) for ident, text in kept.items()} == {"begun": 3, "new": 2}


def test_required_without_the_native_library() -> None:
    script = """
import sys, types
sys.modules['ansible_runner_nats._native'] = None
from ansible_runner_nats import NatsRequiredError, status_handler
for required, expected in ((True, True), ('on', True), (False, False), (None, False)):
    settings = {'nats_subject_id': 'id', 'nats_options': {'required': required}}
    try:
        status_handler(types.SimpleNamespace(settings=settings), {'status': 'starting'})
    except NatsRequiredError as error:
        assert expected and 'cannot load the native library' in str(error)
    else:
        assert not expected
print('fine')
"""
    assert python(script).stdout == "fine\n"
