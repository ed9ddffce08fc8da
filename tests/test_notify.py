"""`ansible-runner-nats notify`: one message a run, whatever its receiver does (answer 500, hang, close)."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from certificates import Authority
from contract import ROOT, problems_of_command
from support import (
    ME,
    PATIENCE,
    TESTER,
    Bus,
    Job,
    Server,
    bin_dir,
    clean_env,
    cli,
    command,
    free_port,
    me_with,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: What a receiver may do instead of taking a message.
HANG, CLOSE = "hang", "close"

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: go well
      ansible.builtin.command: "true"
    - name: break
      ansible.builtin.shell: "echo 'no such <disk>' >&2; exit 3"
      when: inventory_hostname == 'two'
"""


class Receiver:
    """A web server that does what it is told, one thing for each request, and takes what comes after that."""

    def __init__(self, *answers: int | str, port: int = 0) -> None:
        self.answers = list(answers)
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        self.arrived = threading.Condition()
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with receiver.arrived:
                    answer = receiver.answers.pop(0) if receiver.answers else 200
                    receiver.posts.append(
                        (self.path, {key.lower(): value for key, value in self.headers.items()}, data)
                    )
                    receiver.arrived.notify_all()
                if answer == HANG:
                    receiver.released.wait(PATIENCE)
                    self.close_connection = True
                elif answer == CLOSE:
                    self.close_connection = True
                else:
                    self.send_response(int(answer))
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def wait_for(self, count: int, patience: float = PATIENCE) -> list[Any]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posts) >= count, patience), self.posts
            return [data for _, _, data in self.posts]

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)


class Notify:
    """A `notify` that goes on."""

    def __init__(self, server: Server, url: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [bin_dir() / "ansible-runner-nats", "notify", "--to", url, "-s", server.url, *args],
            env=clean_env(env), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.said = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                with self.said:
                    self.lines.append(line.rstrip("\n"))
                    self.said.notify_all()

    def wait_for(self, text: str, count: int = 1) -> list[str]:
        """The lines with this text in them, once there are so many."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self.said:
            assert self.said.wait_for(lambda: len(found()) >= count, PATIENCE), (text, self.lines)
            return found()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return code


@contextmanager
def notifying(server: Server, url: str, *args: str, **options: Any) -> Iterator[Notify]:
    """One that is ready."""
    notify = Notify(server, url, *args, **options)
    try:
        notify.wait_for("telling ")
        yield notify
    finally:
        notify.process.kill()
        notify.process.wait()
        notify.reader.join(PATIENCE)


def run_job(folder: Path, server: Server, ident: str, playbook: str = PLAYBOOK, **env: str) -> None:
    job = Job(folder, playbook=playbook)
    env = {"RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": server.url, **env}
    cli("run", job.folder, "-p", "play.yml", "--ident", ident, "-q", env=env)


def status(bus: Bus, ident: str, text: str, run: int = 1) -> None:
    """A status of a run as the plugin publishes it."""
    identity = f"01a22976-0000-7000-8000-{run:012d}"
    headers = {"Nats-Msg-Id": f"id.{ident}.status.{run:016x}.{text}", "Ansible-Runner-Run": identity}
    bus.send(
        f"pub.ansible.runner.id.{ident}.status",
        json.dumps({"status": text, "runner_ident": ident}).encode(),
        headers,
    )


def consumer(bus: Bus, name: str = "notify") -> Any:
    return bus.run(bus.client.jetstream(timeout=PATIENCE).consumer_info("RUNS", name))


def wait_until_done(bus: Bus, name: str = "notify") -> None:
    """The stream knows that everything was dealt with."""

    def is_done() -> bool:
        info = consumer(bus, name)
        return (info.num_pending, info.num_ack_pending) == (0, 0)

    wait_until(is_done, "everything to be acknowledged")


def hasten(bus: Bus) -> None:
    """Who was killed over a message is missed after a second."""
    js = bus.client.jetstream(timeout=PATIENCE)
    known = consumer(bus).config
    known.ack_wait = 1
    bus.run(js.add_consumer("RUNS", known))


def test_one_message_says_who_failed_and_why(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver:
        args = ("--link", "https://runs.example.org/", "--on", "failed,killed,timeout")
        with notifying(server, f"{receiver.url}/hook", *args) as notify:
            run_job(tmp_path / "job", server, "rollout", RUNNER_NATS_ACTOR="jane")
            run_job(tmp_path / "other", server, "fine", PLAYBOOK.replace("exit 3", "exit 0"))
            (notice,) = receiver.wait_for(1)
            wait_until_done(bus)
            assert notify.end() == 130
    (path, headers, _) = receiver.posts[0]
    assert len(receiver.posts) == 1
    assert problems_of_command("notify", notice) == []
    assert (path, headers["content-type"], headers["idempotency-key"]) == (
        "/hook", "application/json", notice["id"],
    )  # fmt: skip
    assert notice["failures"] == [{"host": "two", "task": "break", "reason": "no such <disk> (rc=3)"}]
    assert notice["more_hosts"] == 0
    assert {key: notice["recap"][key] for key in ("ok", "failed", "skipped")} == {
        "ok": 2, "failed": 1, "skipped": 1,
    }  # fmt: skip
    assert {key: notice[key] for key in ("subject_id", "runner_ident", "state", "playbook", "actor")} == {
        "subject_id": "site-a", "runner_ident": "rollout", "state": "failed", "playbook": "play.yml",
        "actor": "jane",
    }  # fmt: skip
    assert notice["link"] == f"https://runs.example.org/runs/site-a/rollout/{notice['run_id']}"
    first, second, *_ = notice["text"].splitlines()
    assert first.startswith("rollout of site-a: failed (play.yml, for jane, after ")
    assert second == "two · break · no such <disk> (rc=3)"


def test_ten_hosts_and_then_a_count(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver, notifying(server, receiver.url):
        status(bus, "many", "starting")
        for number in range(1, 14):
            data = {"host": f"web{number:02}", "task": "t", "task_uuid": "1", "res": {"msg": "down"}}
            message = {"counter": number, "uuid": f"u{number}", "runner_ident": "many", "event": "x"}
            message.update(event="runner_on_unreachable", event_data=data)
            headers = {"Ansible-Runner-Run": f"01a22976-0000-7000-8000-{1:012d}"}
            bus.send("pub.ansible.runner.id.many.event", json.dumps(message).encode(), headers)
        status(bus, "many", "failed")
        (notice,) = receiver.wait_for(1)
    assert [failure["host"] for failure in notice["failures"]] == [f"web{n:02}" for n in range(1, 11)]
    assert (notice["more_hosts"], notice["text"].splitlines()[11]) == (3, "and 3 more hosts")


def test_slack_and_alertmanager(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    run_job(tmp_path / "job", server, "rollout")
    for form in ("slack", "alertmanager"):
        with closing(Receiver()) as receiver:
            more = ("--format", form, "--name", form, "--since", "1h", "--link", "http://x")
            with notifying(server, receiver.url, *more):
                (posted,) = receiver.wait_for(1)
        if form == "slack":
            # What means something there is shown as it is.
            assert posted["text"].splitlines()[1] == "two · break · no such &lt;disk&gt; (rc=3)"
            assert set(posted) == {"text"}
            continue
        (alert,) = posted
        labels = alert["labels"]
        assert labels == {
            "alertname": "AnsibleRun", "subject_id": "site-a", "runner_ident": "rollout",
            "run_id": labels["run_id"], "playbook": "play.yml", "state": "failed",
        }  # fmt: skip
        assert alert["annotations"]["summary"].startswith("rollout of site-a: failed")
        assert alert["annotations"]["description"].startswith("two · break · no such <disk>")
        assert alert["generatorURL"] == f"http://x/runs/site-a/rollout/{labels['run_id']}"


def test_only_what_was_asked_for(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver, notifying(server, receiver.url, "--on", "canceled,changed"):
        for number, end in enumerate(("failed", "timeout", "error", "successful", "canceled")):
            status(bus, f"r{number}", "starting", number)
            status(bus, f"r{number}", end, number)
        run_job(tmp_path / "job", server, "changes", PLAYBOOK.replace("exit 3", "exit 0"))
        receiver.wait_for(2)
        wait_until_done(bus)
    told = {(data["runner_ident"], data["state"]) for _, _, data in receiver.posts}
    assert told == {("r4", "canceled"), ("changes", "successful")}
    assert len(receiver.posts) == 2


def test_a_receiver_that_answers_500_hangs_and_closes(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with closing(Receiver(500, HANG, CLOSE)) as receiver:
        with notifying(server, f"{receiver.url}/token-4711") as notify:
            status(bus, "r", "failed")
            # A receiver that hangs is given ten seconds.
            posts = receiver.wait_for(4, 2 * PATIENCE)
            wait_until_done(bus)
            lines = notify.wait_for("did not take it", 3)
            assert [line.rpartition("; ")[2] for line in lines] == [
                "again in 2 s", "again in 4 s", "again in 8 s",
            ]  # fmt: skip
            assert "500" in lines[0]
            assert not any("4711" in line for line in notify.lines)
            notify.end()
        # It was done, for ever.
        with notifying(server, receiver.url) as again:
            status(bus, "other", "failed")
            receiver.wait_for(5)
            wait_until_done(bus)
            again.end()
    assert [post["runner_ident"] for post in posts] == ["r"] * 4
    assert len({post["id"] for post in posts}) == 1
    assert len(receiver.posts) == 5


def test_what_a_receiver_misses_is_told_once_when_it_is_back(stored: tuple[Server, Bus]) -> None:
    """The receiver is away, this program is killed twice, and the server is started anew."""
    server, bus = stored
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    idents = [f"r{number}" for number in range(5)]
    for kill in (signal.SIGKILL, signal.SIGTERM):
        with notifying(server, url) as notify:
            hasten(bus)
            for number, ident in enumerate(idents):
                if kill == signal.SIGKILL:
                    status(bus, ident, "failed", number)
            notify.wait_for("did not take it", len(idents))
            notify.end(kill)
    server.restart()
    with closing(Receiver(port=port)) as receiver, notifying(server, url):
        receiver.wait_for(len(idents))
        wait_until_done(bus)
    assert sorted(data["runner_ident"] for _, _, data in receiver.posts) == idents


def test_a_crash_between_posting_and_the_end_repeats_one(stored: tuple[Server, Bus]) -> None:
    """The only case in which something comes twice: then it has the same id."""
    server, bus = stored
    with closing(Receiver(HANG)) as receiver:
        with notifying(server, receiver.url) as notify:
            hasten(bus)
            for number in range(3):
                status(bus, f"r{number}", "failed", number)
            receiver.wait_for(1)
            notify.end(signal.SIGKILL)
        receiver.released.set()
        with notifying(server, receiver.url):
            receiver.wait_for(4)
            wait_until_done(bus)
    ids = [(data["runner_ident"], data["id"]) for _, _, data in receiver.posts]
    assert len(ids) == 4
    assert sorted({ident for ident, _ in ids}) == ["r0", "r1", "r2"]
    assert len(set(ids)) == 3


def test_a_server_that_is_started_anew_while_the_receiver_is_slow(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with closing(Receiver(HANG)) as receiver, notifying(server, receiver.url) as notify:
        hasten(bus)
        status(bus, "r", "failed")
        receiver.wait_for(1)
        server.restart()
        receiver.answers.append(200)
        receiver.released.set()
        receiver.wait_for(2)
        notify.wait_for("r: failed: told")
        wait_until_done(bus)
        status(bus, "s", "failed", 2)
        receiver.wait_for(3)
        wait_until_done(bus)
    assert [data["runner_ident"] for _, _, data in receiver.posts] == ["r", "r", "s"]


def test_a_repeat_of_replay_is_no_news(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    # Repeats come through at once.
    bus.add_stream(duplicate_window=0.1)
    with closing(Receiver()) as receiver, notifying(server, receiver.url):
        status(bus, "r", "starting")
        status(bus, "r", "failed")
        receiver.wait_for(1)
        count = bus.stream_count()

        def comes_through() -> bool:
            status(bus, "r", "failed")
            return bus.stream_count() > count

        wait_until(comes_through, "the duplicate window to be over")
        status(bus, "s", "failed", 2)
        receiver.wait_for(2)
        wait_until_done(bus)
    assert [data["runner_ident"] for _, _, data in receiver.posts] == ["r", "s"]


def test_a_run_that_falls_silent_is_told_once(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver:
        with notifying(server, receiver.url, "--silent-after", "1s") as notify:
            status(bus, "hangs", "starting", 1)
            status(bus, "ends", "starting", 2)
            status(bus, "ends", "successful", 2)
            (notice,) = receiver.wait_for(1)
            wait_until_done(bus)
            notify.end()
        # A later start does not tell it again, and its end is another matter.
        with notifying(server, receiver.url, "--silent-after", "1s"):
            status(bus, "hangs", "failed", 1)
            receiver.wait_for(2)
            wait_until_done(bus)
    assert (notice["runner_ident"], notice["state"]) == ("hangs", "silent")
    assert [data["state"] for _, _, data in receiver.posts] == ["silent", "failed"]


def test_a_killed_run_is_told_once(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    headers = {"Ansible-Runner-Run": f"01a22976-0000-7000-8000-{1:012d}"}
    killed = {"state": "killed", "runner_ident": "r", "host": "h", "pid": 1, "events": 3}
    marker = {"Nats-Marker-Reason": "MaxAge"}
    with closing(Receiver()) as receiver, notifying(server, receiver.url):
        status(bus, "r", "starting")
        status(bus, "r", "running")
        # The server says so, and then whoever takes up what it left.
        bus.send("pub.ansible.runner.id.r.heartbeat", b"", marker)
        bus.send("pub.ansible.runner.id.r.heartbeat", json.dumps(killed).encode(), headers)
        status(bus, "s", "failed", 2)
        receiver.wait_for(2)
        wait_until_done(bus)
    assert [(data["runner_ident"], data["state"]) for _, _, data in receiver.posts] == [
        ("r", "killed"), ("s", "failed"),
    ]  # fmt: skip


def test_what_no_waiting_mends_ends_it(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver:
        with notifying(server, receiver.url):
            pass
        # Others are meant under the same name.
        more = ("--subject-id", "other", "-s", server.url)
        done = command("notify", "--to", receiver.url, *more)
        assert (done.returncode, "--name" in done.stderr) == (1, True)
    for url in ("ftp://127.0.0.1/token-4711", "token-4711"):
        done = command("notify", "--to", url, "-s", server.url)
        assert (done.returncode, "--to" in done.stderr, "4711" in done.stderr) == (1, True, False)
    missing = tmp_path / "url"
    done = command("notify", "--to-file", missing, "-s", server.url)
    assert (done.returncode, str(missing) in done.stderr) == (1, True)
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    done = command("notify", "--to", "http://127.0.0.1:1", "-s", server.url)
    assert (done.returncode, "no stream takes" in done.stderr) == (1, True)


@pytest.mark.parametrize("is_complete", [True, False])
def test_what_its_user_must_be_allowed_to(
    start_server: Callable[..., Server], connect: Callable[..., Bus], *, is_complete: bool
) -> None:
    """docs/permissions.md: a watcher and a consumer in one."""
    page = (ROOT / "docs/permissions.md").read_text()
    blocks = [
        re.search(rf"{name} = .*?publish: .*?\[(.*?)\]", page, re.DOTALL) for name in ("WATCHER", "CONSUMER")
    ]
    allowed = [subject for block in blocks if block for subject in re.findall(r'"([^"]+)"', block[1])]
    more = re.search(r"`(\$JS\.API\.CONSUMER\.CREATE\.RUNS\.my-program)`", page)
    assert more
    allowed += [more[1]] if is_complete else []
    permissions = f'{{publish: {json.dumps(allowed)}, subscribe: ["_INBOX.>"]}}'
    server = start_server(jetstream=True, config=me_with(permissions), credentials=TESTER)
    bus = connect(server)
    bus.add_stream()
    with closing(Receiver()) as receiver:
        if not is_complete:
            done = command("notify", "--to", receiver.url, "--name", "my-program", "-s", server.url, env=ME)
            assert (done.returncode, more[1] in done.stderr) == (1, True)
            return
        with notifying(server, receiver.url, "--name", "my-program", env=ME):
            status(bus, "r", "failed")
            receiver.wait_for(1)
            wait_until_done(bus, "my-program")


def test_the_url_may_stand_in_a_file(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with closing(Receiver()) as receiver:
        file = tmp_path / "url"
        file.write_text(f"{receiver.url}/from-a-file\n")
        process = subprocess.Popen(
            [bin_dir() / "ansible-runner-nats", "notify", "--to-file", file, "-s", server.url],
            env=clean_env({}), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with process:
            wait_until(lambda: bus.run(bus.client.jetstream().stream_info("RUNS")).state.consumer_count, "it")
            status(bus, "r", "failed")
            receiver.wait_for(1)
            process.kill()
    assert receiver.posts[0][0] == "/from-a-file"


@pytest.mark.parametrize("is_trusted", [True, False])
def test_https_is_verified(stored: tuple[Server, Bus], tmp_path: Path, *, is_trusted: bool) -> None:
    server, bus = stored
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    files = ours.issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with closing(Receiver()) as receiver:
        receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
        url = receiver.url.replace("http://127.0.0.1", "https://localhost")
        env = {"SSL_CERT_FILE": str((ours if is_trusted else others).pem)}
        with notifying(server, url, env=env) as notify:
            status(bus, "r", "failed")
            notify.wait_for("told at" if is_trusted else "did not take it")
    assert len(receiver.posts) == is_trusted
