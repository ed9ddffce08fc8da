"""The example consumers and recipes: how they end if something is wrong, and what they do with a real run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support import (
    PATIENCE,
    TESTER,
    USERS,
    Bus,
    Job,
    Server,
    body,
    clean_env,
    cli,
    free_port,
    talking_nonsense,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
CONSUMERS, RECIPES = ROOT / "examples/consumers", ROOT / "examples/recipes"

#: Each program, with the arguments that it needs besides --server.
PROGRAMS: dict[Path, list[str]] = {
    CONSUMERS / "failures.py": [],
    CONSUMERS / "history.py": ["site-a", "rollout"],
    RECIPES / "webhook.py": ["http://127.0.0.1:1"],
    RECIPES / "json_lines.py": [],
    RECIPES / "opentelemetry_spans.py": [],
}
EACH = pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
#: history.py alone ends by itself.
EACH_THAT_FOLLOWS = pytest.mark.parametrize(
    "program", [path for path in PROGRAMS if path.stem != "history"], ids=lambda path: path.stem
)

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: go well
      ansible.builtin.command: "true"
    - name: break
      ansible.builtin.fail: {msg: broken on purpose}
      when: inventory_hostname == 'two'
"""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def run(program: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, program, *args],
        env=clean_env(env), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


@contextmanager
def following(program: Path, *args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile."""
    process = subprocess.Popen(
        [sys.executable, program, *args],
        env=clean_env({"PYTHONUNBUFFERED": "1", **env}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """What a program says to Ctrl-C."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def wait_for_consumer(bus: Bus) -> None:
    js = bus.client.jetstream(timeout=PATIENCE)
    wait_until(lambda: bus.run(js.stream_info("RUNS")).state.consumer_count, "a consumer of the stream")


def run_job(folder: Path, server: Server, **env: str) -> None:
    """A run that fails."""
    job = Job(folder, playbook=PLAYBOOK)
    env = {"RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": server.url, **env}
    assert cli("run", job.folder, "-p", "play.yml", "--ident", "rollout", "-q", env=env).returncode == 2


def one_line(done: subprocess.CompletedProcess[str], program: Path) -> str:
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    start = f"{program.name}: "
    assert done.stderr.startswith(start)
    return done.stderr[len(start) : -1]


@EACH
def test_a_server_that_is_away(program: Path) -> None:
    port = free_port()
    line = one_line(run(program, *PROGRAMS[program], "--server", f"nats://127.0.0.1:{port}"), program)
    assert str(port) in line


#: What is no message of a run, or only nearly one.
FOREIGN = (
    b"no json", b"\xff", b"[1]", b"7", b"{}", b"[" * 100_000, b'{"event": "runner_on_ok"}',
    b'{"event": "runner_on_failed", "event_data": null, "counter": "7", "created": "", "uuid": 1}',
    b'{"event": "runner_on_failed", "event_data": {"res": [1]}, "counter": {}, "created": "x", "uuid": "u"}',
    b'{"status": ["failed"]}',
)  # fmt: skip


@EACH
def test_messages_that_are_none_of_ours(stored: tuple[Server, Bus], tmp_path: Path, program: Path) -> None:
    """Whoever may publish there can send anything: it is named, and what comes behind it is read."""
    server, bus = stored
    for kind in ("event", "status", "other"):
        for number, data in enumerate(FOREIGN):
            headers = {"Nats-Msg-Id": f"{kind}.{number}"} if number % 2 else None
            bus.send(f"pub.ansible.runner.site-a.rollout.{kind}", data, headers)
    with closing(Web()) as web:
        if program.stem == "opentelemetry_spans":
            with following(program, "--server", server.url) as process:
                wait_for_consumer(bus)
                bus.send("pub.ansible.runner.site-a.rollout.status", b'{"status": "starting"}')
                for data in FOREIGN:
                    bus.send("pub.ansible.runner.site-a.rollout.event", data)
                run_job(tmp_path / "job", server)
                assert process.stdout is not None
                output = "".join(process.stdout.readline() for _ in range(3))
                status, errors = interrupt(process)
            assert status == 130
        else:
            run_job(tmp_path / "job", server)
            args = {"history": ["site-a", "rollout"], "webhook": [web.url, "--all", "--once"]}
            done = run(program, *args.get(program.stem, ["--once"]), "--server", server.url)
            assert done.returncode == 0, done.stderr
            output, errors = done.stdout, done.stderr
        output += "".join(data.decode() for _, _, data in web.posts)
    assert "Traceback" not in errors
    assert "left out, on pub.ansible.runner.site-a.rollout." in errors
    expected = {
        "failures": "rollout | two | break | failed | broken on purpose",
        "history": "TASK [break]",
        "webhook": '"ansible run rollout: failed"',
        "json_lines": '"broken on purpose"',
        "opentelemetry_spans": '"failed on two"',
    }
    assert expected[program.stem] in output


def test_a_version_without_ids(stored: tuple[Server, Bus]) -> None:
    """0.4.0 sends none; the place in the stream is as good."""
    server, bus = stored
    for _ in range(2):
        bus.send("pub.ansible.runner.a.r.status", b'{"status": "failed", "runner_ident": "r"}')
    with closing(Web()) as web:
        done = run(RECIPES / "webhook.py", web.url, "--all", "--once", "--server", server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(json.loads(data)["id"] for _, _, data in web.posts) == ["RUNS:1", "RUNS:2"]


@pytest.mark.parametrize("url", ["chat.example.org", "ftp://x", "http:///x", "http://a b/"])
def test_webhook_refuses_what_is_no_address(url: str) -> None:
    done = run(RECIPES / "webhook.py", url)
    assert (done.returncode, "no http or https URL" in done.stderr) == (2, True)


def test_webhook_takes_any_ident_and_any_answer(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    data = json.dumps({"status": "failed", "runner_ident": "日本"}).encode()
    # nats-py cannot send such a header; the plugin does.
    raw = "NATS/1.0\r\nNats-Msg-Id: site-a.日本.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        command = f"HPUB pub.ansible.runner.site-a.r.status {len(raw)} {len(raw) + len(data)}\r\n"
        sock.sendall(command.encode() + raw + data + b"\r\nPING\r\n")
        wait_until(lambda: b"PONG" in sock.recv(4096), "the server to have it")
    with talking_nonsense(b"nonsense\r\n\r\n") as port:
        url = f"http://127.0.0.1:{port}"
        with following(RECIPES / "webhook.py", url, "--all", "--server", server.url) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.endswith("again in 2 s\n"), line
            interrupt(process)
    with closing(Web()) as web:
        done = run(RECIPES / "webhook.py", web.url, "--once", "--server", server.url)
        assert done.returncode == 0, done.stderr
        ((_, headers, body),) = web.posts
        assert json.loads(body)["id"] == "site-a.日本.1"
        assert headers["Idempotency-Key"] == "site-a.%E6%97%A5%E6%9C%AC.1"


def test_webhook_begins_with_what_comes(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    failed = b'{"status": "failed", "runner_ident": "%s"}'
    bus.send("pub.ansible.runner.a.r.status", failed % b"old")
    with closing(Web()) as web, following(RECIPES / "webhook.py", web.url, "--server", server.url):
        wait_for_consumer(bus)
        bus.send("pub.ansible.runner.a.r.status", failed % b"new")
        wait_until(lambda: web.posts, "a post")
        assert [json.loads(data)["run"] for _, _, data in web.posts] == ["new"]


@EACH
def test_a_wrong_password(program: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(config=USERS)
    url = f"nats://me:mistake@127.0.0.1:{server.port}"
    line = one_line(run(program, *PROGRAMS[program], "--server", url), program)
    assert "Authorization" in line
    assert "mistake" not in line


@EACH
def test_no_stream(program: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(jetstream=True)
    line = one_line(run(program, *PROGRAMS[program], "--server", server.url), program)
    assert line == "stream RUNS: stream not found"


@EACH
def test_no_streams_at_all(program: Path, server: Server) -> None:
    assert one_line(run(program, *PROGRAMS[program], "--server", server.url), program)


@EACH_THAT_FOLLOWS
def test_ctrl_c(program: Path, stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with following(program, *PROGRAMS[program], "--server", server.url) as process:
        wait_for_consumer(bus)
        assert interrupt(process) == (130, f"{program.name}: interrupted\n")


def test_a_run_that_is_not_there(stored: tuple[Server, Bus]) -> None:
    program = CONSUMERS / "history.py"
    line = one_line(run(program, "site-a", "nowhere", "--server", stored[0].url), program)
    assert line == "stream RUNS: no message found"


def test_a_server_that_comes_back(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    with following(CONSUMERS / "failures.py", "--server", server.url) as process:
        assert process.stdout is not None
        for ident in ("before", "after"):
            event: dict[str, Any] = {"event": "runner_on_failed", "runner_ident": ident, "event_data": {}}
            bus.send("pub.ansible.runner.a.r.event", json.dumps(event).encode())
            # What it could not acknowledge before the server died comes again.
            lines = iter(process.stdout.readline, "")
            assert f"{ident} | ? | ? | failed | \n" in lines
            server.restart()
            wait_until(lambda: bus.client.is_connected)
        status, errors = interrupt(process)
        assert status == 130
        assert "Traceback" not in errors


def test_ten_lines(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(config="trace: true")
    text = (CONSUMERS / "ten_lines.py").read_text()
    code = [line for line in text.splitlines() if line and '"""' not in line]
    assert len(code) == 10
    program = tmp_path / "ten_lines.py"
    program.write_text(text.replace("nats://localhost:4222", server.url))
    assert text.partition('"""\n\n')[2] == blocks("python")[0]
    with following(program) as process:
        wait_until(lambda: "SUB pub.ansible.runner.>" in (server.folder / "log").read_text())
        run_job(tmp_path / "job", server)
        assert process.stdout is not None
        assert process.stdout.readline() == "'rollout': 'break' failed on 'two'\n"


def blocks(language: str) -> list[str]:
    """The blocks of docs/consumers.md."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/consumers.md").read_text(), re.DOTALL)


def test_the_program_with_a_bookmark(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """As the consumer of docs/permissions.md."""
    page = (ROOT / "docs/permissions.md").read_text()
    [permissions] = re.findall(r"^CONSUMER = {\n.*?^}$", page, re.DOTALL | re.MULTILINE)
    user = "{user: consumer, password: change-me, permissions: $CONSUMER }"
    tester = '{user: tester, password: t, permissions: {publish: ">", subscribe: ">"}}'
    server = start_server(
        jetstream=True,
        config=f"{permissions}\nauthorization {{ users: [ {user}, {tester} ] }}",
        credentials=TESTER,
    )
    bus = Bus(server.url, **TESTER)
    bus.add_stream()
    js = bus.client.jetstream(timeout=PATIENCE)
    program = tmp_path / "bookmark.py"
    url = f"nats://consumer:change-me@127.0.0.1:{server.port}"
    program.write_text(blocks("python")[1].replace("nats://localhost:4222", url))
    for status in ("failed", "timeout"):
        for one in ("running", status):
            message = {"status": one, "runner_ident": "r"}
            bus.send("pub.ansible.runner.a.r.status", json.dumps(message).encode())
        with following(program) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"'r': {status}\n"
            wait_until(lambda: not bus.run(js.consumer_info("RUNS", "my-program")).num_ack_pending)
    bus.close()


def test_the_program_with_the_schemas(tmp_path: Path) -> None:
    program = tmp_path / "schemas.py"
    program.write_text(blocks("python")[3].replace("docs/schemas", str(ROOT / "docs/schemas")))
    done = run(program)
    assert (done.stdout, done.stderr) == ("True\n", "")


class Web:
    """A web server that keeps what is posted, and answers with what it is told."""

    def __init__(self, *answers: int) -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived = threading.Condition()
        web, left = self, list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                answer = left.pop(0) if left else 200
                self.send_response(answer)
                if answer // 100 == 3:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
                with web.arrived:
                    web.posts.append((self.path, dict(self.headers), data))
                    web.arrived.notify_all()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)


def test_webhook(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    run_job(tmp_path / "job", server)
    (message,) = (m for m in bus.stream_messages() if body(m).get("status") == "failed")
    program = RECIPES / "webhook.py"
    with closing(Web(503, 302)) as web:
        done = run(program, f"{web.url}/hook", "--all", "--once", "--server", server.url)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert [line.partition("; ")[2] for line in lines] == ["again in 2 s", "again in 4 s"]
        assert ["503" in lines[0], "302" in lines[1]] == [True, True]
        # Each answer but the last made it come again; then it was done, for ever.
        assert run(program, f"{web.url}/hook", "--once", "--server", server.url).stderr == ""
        assert len(web.posts) == 3
        for path, headers, data in web.posts:
            identifier = (message.headers or {})["Nats-Msg-Id"]
            assert (path, headers["Content-Type"]) == ("/hook", "application/json")
            assert headers["Idempotency-Key"] == identifier
            assert json.loads(data) == {
                "id": identifier,
                "run": "rollout",
                "status": "failed",
                "text": "ansible run rollout: failed",
            }


def test_webhook_that_is_away_keeps_the_failure(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    failed = {"status": "failed", "runner_ident": "r"}
    bus.send("pub.ansible.runner.a.r.status", json.dumps(failed).encode(), {"Nats-Msg-Id": "1"})
    program = RECIPES / "webhook.py"
    with following(
        program, f"http://127.0.0.1:{free_port()}/secret", "--all", "--server", server.url
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("webhook.py: r: ")
        assert "secret" not in line
        interrupt(process)
    with closing(Web()) as web:
        assert run(program, web.url, "--once", "--server", server.url).returncode == 0
        assert [json.loads(data)["run"] for _, _, data in web.posts] == ["r"]


def test_json_lines(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    run_job(tmp_path / "job", server)
    done = run(RECIPES / "json_lines.py", "--once", "--server", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [
        {"id": (m.headers or {})["Nats-Msg-Id"], "kind": m.subject.rpartition(".")[2], "message": body(m)}
        for m in bus.stream_messages()
    ]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line.pop("time").endswith("+00:00") for line in lines)
    assert lines == expected
    assert run(RECIPES / "json_lines.py", "--once", "--server", server.url).stdout == ""


def test_a_run_that_starts_twice_is_one_trace(stored: tuple[Server, Bus]) -> None:
    """The same status may come twice; so may that of a worker and its processor."""
    server, bus = stored
    with following(RECIPES / "opentelemetry_spans.py", "--server", server.url) as process:
        wait_for_consumer(bus)
        event = {"uuid": "1", "created": "2026-11-24T00:47:20+00:00", "event": "playbook_on_task_start"}
        contents: list[tuple[str, dict[str, Any]]] = [
            ("status", {"status": "starting"}),
            ("event", {**event, "event_data": {"task": "first", "task_uuid": "t"}}),
            ("status", {"status": "starting"}),
            ("status", {"status": "successful"}),
        ]
        for kind, content in contents:
            bus.send(f"pub.ansible.runner.a.r.{kind}", json.dumps(content).encode())
        assert process.stdout is not None
        names = [json.loads(process.stdout.readline())["name"] for _ in range(2)]
        assert names == ["first", "ansible run"]


def test_spans(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with following(RECIPES / "opentelemetry_spans.py", "--server", server.url) as process:
        wait_for_consumer(bus)
        run_job(tmp_path / "job", server, TRACEPARENT=f"00-{TRACE}-{PARENT}-01")
        assert process.stdout is not None
        first, second, whole = (json.loads(process.stdout.readline()) for _ in range(3))
        assert interrupt(process)[0] == 130
    assert [span["name"] for span in (first, second, whole)] == ["go well", "break", "ansible run"]
    assert {span["context"]["trace_id"] for span in (first, second, whole)} == {f"0x{TRACE}"}
    assert whole["parent_id"] == f"0x{PARENT}"
    assert whole["attributes"] == {"ansible.run": "rollout", "ansible.status": "failed"}
    assert {span["parent_id"] for span in (first, second)} == {whole["context"]["span_id"]}
    codes = [span["status"]["status_code"] for span in (first, second, whole)]
    assert codes == ["UNSET", "ERROR", "ERROR"]
    assert second["status"]["description"] == "failed on two"
    told = sorted((event["attributes"]["host"], event["name"]) for event in second["events"])
    assert told == [("one", "skipped"), ("two", "failed")]
    times = [
        whole["start_time"], first["start_time"], first["end_time"], second["start_time"],
        second["end_time"], whole["end_time"],
    ]  # fmt: skip
    assert times == sorted(times)


def test_spans_for_a_collector(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    program = RECIPES / "opentelemetry_spans.py"
    with (
        closing(Web()) as web,
        following(program, "--otlp", "--server", server.url, OTEL_EXPORTER_OTLP_ENDPOINT=web.url) as process,
    ):
        wait_for_consumer(bus)
        run_job(tmp_path / "job", server)
        with web.arrived:
            assert web.arrived.wait_for(lambda: web.posts, PATIENCE)
        assert interrupt(process)[0] == 130
    spans = [
        span.name
        for path, _, data in web.posts
        if path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert spans == ["go well", "break", "ansible run"]


# It needs Java and large packages: `make recipes` says where it is.
if RULEBOOK := os.environ.get("ANSIBLE_RULEBOOK"):

    def test_rulebook(stored: tuple[Server, Bus], tmp_path: Path) -> None:
        server, bus = stored
        assert RULEBOOK is not None
        command = [
            RULEBOOK, "--rulebook", "rulebook.yml", "--source-dir", ".", "--inventory", "inventory.yml",
            "--env-vars", "NATS_SERVER",
        ]  # fmt: skip
        env = clean_env({"NATS_SERVER": server.url, "PYTHONUNBUFFERED": "1"})
        env["PATH"] = f"{Path(RULEBOOK).parent}{os.pathsep}{env['PATH']}"
        with subprocess.Popen(
            command, cwd=RECIPES / "eda", env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            wait_for_consumer(bus)
            run_job(tmp_path / "job", server)
            output = ""
            while "PLAY RECAP" not in output:
                line = process.stdout.readline()
                assert line, output
                output += line
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=PATIENCE)
        assert "rollout ended: failed" in output
        assert output.count("React to a run that failed") == 1, output + rest
        js = bus.client.jetstream(timeout=PATIENCE)
        assert bus.run(js.consumer_info("RUNS", "rulebook")).num_ack_pending == 0
