"""`ansible-runner-nats serve`: what it tells programs, and who gets in."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import yaml
from ansible_runner_nats import event_handler, status_handler
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as older_metrics
from serving import Serve, needed, printing, task
from support import (
    CANARY,
    PATIENCE,
    TESTER,
    USERS,
    Bus,
    Job,
    Server,
    cli,
    command,
    config,
    free_port,
    wait_until,
)
from test_watch import ON, publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

MONITORING = Path(__file__).parent.parent / "examples/monitoring"
OPEN = {"Accept": "application/openmetrics-text; version=1.0.0"}
TOKEN = f"{CANARY}-token-of-the-page"


def real_job(server: Server, tmp_path: Path, ident: str) -> Job:
    job = Job(tmp_path / ident, {"nats_options": {"servers": server.url}})
    assert cli("run", job.folder, "-p", "play.yml", "--ident", ident, env=ON).returncode == 0
    return job


def values(serve: Serve) -> dict[str, float]:
    """All samples of both forms, which agree unless something happens in between."""
    forms: tuple[tuple[dict[str, Any], Callable[[str], Any]], ...] = (
        ({}, older_metrics),
        (OPEN, open_metrics),
    )

    def both() -> list[dict[str, float]]:
        found = []
        for headers, parse in forms:
            answer = serve.request("GET", "/metrics", **headers)
            samples = [sample for family in parse(answer.text) for sample in family.samples]
            found.append({f"{s.name}{json.dumps(s.labels, sort_keys=True)}": s.value for s in samples})
        return found if found[0] == found[1] else []

    return wait_until(both, "both forms to agree")[0]


def seen(printed: str) -> list[str]:
    """The lines of an output; ansible colours empty ones, too, and nobody sees it."""
    return re.sub(r"\x1b\[[0-9;]+m\x1b\[0m", "", printed).splitlines()


def uncolored(printed: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", printed)


def test_what_the_search_means(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    with Serve(server) as serve:
        for ident, name, actor in (("x", "alpha", "jane"), ("y", "beta", "joe of alpha")):
            run = config(server.url, None, actor=actor)
            run.ident = ident
            status_handler(run, {"status": "starting", "runner_ident": ident, "command": [], "env": {}})
            for counter, event in enumerate([*task(name), *task("common", "web")], 1):
                told = {"counter": counter, "uuid": f"{ident}{counter}", "runner_ident": ident, **event}
                event_handler(run, told)
            status_handler(run, {"status": "successful", "runner_ident": ident})
            serve.wait_for_run(ident, "successful")
        for query, expected in (
            ("task:alp", {"x"}), ("task:common", {"x", "y"}), ("task:alpha%20task:beta", set()),
            ("for:jane", {"x"}), ("for:alpha", {"y"}), ("joe", {"y"}), ("host:web%20task:beta", {"y"}),
            ("for:", {"x", "y"}), ("task:joe", set()),
        ):  # fmt: skip
            found = {run["runner_ident"] for run in serve.json(f"/api/runs?q={query}")}
            assert found == expected, query
        lines = re.findall(r"<span>([^<]+)</span></div>", serve.get("/runs/id/x?q=task:alpha").text)
        assert lines == ["TASK [alpha]", "runner_on_ok: [h]"]
        lines = re.findall(r"<span>([^<]+)</span></div>", serve.get("/runs/id/x?q=task:o%20host:web").text)
        assert lines == ["runner_on_ok: [web]"]


def test_a_task_that_was_cut_short_is_not_well(stored: tuple[Server, Bus]) -> None:
    """Its ansible-playbook was killed: nobody has said that it was ok."""
    server, _ = stored
    with Serve(server) as serve:
        publish(server, "x", [*task("done"), *task("cut short", ends=False)], "failed")
        serve.wait_for_run("x", "failed")
        page = serve.get("/runs/id/x").text
        name = '<span class="name" title="([^"]+)"'
        signs = re.findall(rf'<summary><span class="(\w+)" title="\w+">.</span>{name}', page)
        assert dict(reversed(sign) for sign in signs) == {"done": "ok", "cut short": "open"}
        assert "it ended while h was at: cut short" in page
        whole = serve.json("/api/runs/id/x")
        waited = whole["waiting"][0]["seconds"]
        wait_until(lambda: serve.json("/api/runs/id/x")["waiting"][0]["seconds"] == waited)


def test_a_real_job_as_json_and_text(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve:
        job = real_job(server, tmp_path, "x")
        runs = serve.wait_for_run("x", "successful")
        listed = command("runs", "--json", "-s", server.url).stdout
        same = [{**run, "last_heard": None} for run in json.loads(listed)]
        # The same as the command says, and more.
        assert [{name: run[name] for name in same[0]} | {"last_heard": None} for run in runs] == same
        run = serve.json("/api/runs/site.a/x")
        assert run["recap"] == {
            "ok": 4, "changed": 2, "unreachable": 0, "failed": 0, "skipped": 0, "rescued": 2, "ignored": 0,
        }  # fmt: skip
        # The same on both hosts is said once.
        [failure] = run["failures"]
        assert (failure["task"], failure["fate"]) == ("break", "rescued")
        assert {at["host"] for at in failure["hosts"]} == {"one", "two"}
        assert [one["name"] for one in run["tasks"]] == ["say", "break", "mend"]
        printed = (job.folder / "artifacts/x/stdout").read_text()
        assert serve.get("/api/runs/site.a/x/log?color=always").text.splitlines() == seen(printed)
        # A browser shows no colours of a terminal.
        assert serve.get("/api/runs/site.a/x/log").text.splitlines() == uncolored(printed).splitlines()
        for nothing in (
            "/api/runs/site.a/y",
            "/api/runs/site.a/y/log",
            "/runs/site.a/y",
            "/api/runs/site.b/x",
        ):
            assert serve.get(nothing).status == 404


def test_the_pages_need_no_script(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve:
        real_job(server, tmp_path, "x")
        serve.wait_for_run("x", "successful")
        publish(server, "y", [*task("<b>bold</b>", fails=True, msg="<script>alert(1)</script>")], "failed")
        serve.wait_for_run("y", "failed")
        page = serve.get("/").text
        assert '<a href="/runs/' in page
        assert page.index(">y</a>") < page.index(">x</a>")
        # What is the matter stands in the line.
        assert "<b>h</b> · &lt;b&gt;bold&lt;/b&gt; · &lt;script&gt;" in page
        assert ">x</a>" not in serve.get("/?state=failed").text
        assert ">y</a>" not in serve.get("/?q=PLAY.yml").text
        assert "<svg" in serve.get("/?playbook=play.yml").text
        run = serve.get(serve.address("y")).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in run
        assert "<script>alert" not in run
        assert "<b>bold" not in run
        # Nothing takes away what somebody types.
        assert "http-equiv" not in page + run


COUNTERS = ("_total", "_count", "_sum", "_bucket")


def test_metrics_of_a_real_job_and_a_restart_that_moves_nothing(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(duplicate_window=0.1)
    with Serve(server) as serve:
        assert values(serve)["ansible_runner_connected{}"] == 1
        assert values(serve)['ansible_runner_runs{"state": "running"}'] == 0
        job = real_job(server, tmp_path, "x")
        serve.wait_for_run("x", "successful")
        before = values(serve)
    expected = {
        'ansible_runner_runs_total{"playbook": "play.yml", "status": "successful"}': 1,
        'ansible_runner_runs_total{"playbook": "play.yml", "status": "failed"}': 0,
        'ansible_runner_run_last_ended_timestamp_seconds{"playbook": "play.yml", "status": "failed"}': 0,
        'ansible_runner_runs{"state": "running"}': 0,
        'ansible_runner_runs{"state": "silent"}': 0,
        'ansible_runner_run_duration_seconds_count{"playbook": "play.yml"}': 1,
        'ansible_runner_task_results_total{"result": "ok"}': 4,
        'ansible_runner_task_results_total{"result": "rescued"}': 2,
        'ansible_runner_messages_total{"kind": "event"}': len(job.events()),
        'ansible_runner_messages_total{"kind": "status"}': 3,
        "ansible_runner_events_missed_total{}": 0,
        "ansible_runner_cut_messages_total{}": 0,
    }
    assert {name: before[name] for name in expected} == expected
    duration = before['ansible_runner_run_duration_seconds_sum{"playbook": "play.yml"}']
    bucket = before['ansible_runner_run_duration_seconds_bucket{"le": "10.0", "playbook": "play.yml"}']
    assert bucket == (duration <= 10)
    with Serve(server) as serve:
        serve.wait_for_run("x", "successful")
        after = values(serve)
        # What was before is no news: each counter begins anew, and Prometheus sees no end, and no result.
        counted = {name: value for name, value in after.items() if name.split("{")[0].endswith(COUNTERS)}
        assert len(counted) > 10
        assert set(counted.values()) == {0}
        # What is told of it is the same as before.
        gauges = {name: value for name, value in before.items() if name not in counted}
        gauges = {name: value for name, value in gauges.items() if "_duration_" not in name}
        assert {name: after[name] for name in gauges} == gauges
        # What comes twice is not counted at all; the stream has forgotten the ids by then.
        for count, message in enumerate(bus.stream_messages(), len(job.events()) + 4):

            def is_stored(message: Msg = message, count: int = count) -> bool:
                bus.send(message.subject, message.data, message.headers)
                return bus.stream_count() == count

            wait_until(is_stored, "the repeat to be stored")
        real_job(server, tmp_path, "y")
        serve.wait_for_run("y", "successful")
        assert values(serve)['ansible_runner_runs_total{"playbook": "play.yml", "status": "successful"}'] == 1
        assert values(serve)['ansible_runner_messages_total{"kind": "event"}'] == len(job.events())


def test_what_was_before_the_time_that_is_looked_back_goes(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    with Serve(server, "--since", "3s", "--silent-after", "1s") as serve:
        publish(server, "old", task("a"), "failed")
        serve.wait_for_run("old", "failed")
        publish(server, "dead", task("a"), None)
        wait_until(lambda: values(serve)['ansible_runner_runs{"state": "silent"}'] == 1, "silence")
        # As after a restart: it is no more there, and an alert about it ends.
        wait_until(lambda: serve.json("/api/runs") == [], "both to go")
        assert values(serve)['ansible_runner_runs{"state": "silent"}'] == 0
        # Whoever has its address still sees it.
        assert serve.get("/runs/id/old").status == 200
        publish(server, "new", task("a"))
        serve.wait_for_run("new", "successful")


def test_what_began_before_the_time_that_is_looked_back_to(stored: tuple[Server, Bus]) -> None:
    """Its beginning is that which it had, also where an earlier run had its ident."""
    server, _ = stored
    publish(server, "r", task("a"))
    run = config(server.url, None)
    for status in ("starting", "running"):
        status_handler(run, {"status": status, "runner_ident": "r"})
    [_, known] = sorted(
        json.loads(command("runs", "-s", server.url, "--json").stdout), key=lambda one: one["run_id"]
    )
    time.sleep(2.5)
    with Serve(server, "--since", "2s") as serve:
        event_handler(run, {"counter": 1, "uuid": "u", "event": "verbose", "runner_ident": "r"})
        serve.wait_for_run("r", "running")
        # Heard of in its midst: its beginning is asked for.
        wait_until(lambda: serve.json("/api/runs/id/r")["started"] == known["started"], "its beginning")
        assert serve.json("/api/runs/id/r")["run_id"] == known["run_id"]
    with Serve(server, "--since", "2s") as serve:
        status_handler(run, {"status": "failed", "runner_ident": "r"})
        serve.wait_for_run("r", "failed")
        wait_until(lambda: serve.json("/api/runs/id/r")["started"] == known["started"], "its beginning")
        found = serve.json("/api/runs/id/r")
        assert found["run_id"] == known["run_id"]
        assert found["duration"] > 2


def test_what_is_missing_and_cut_and_silent_is_counted(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    del tmp_path
    with Serve(server, "--silent-after", "1s") as serve:
        publish(server, "x", [*task("a"), *task("b")], None)
        wait_until(lambda: values(serve)['ansible_runner_runs{"state": "silent"}'] == 1, "silence")
        for counter in (7, 9):
            event = {"counter": counter, "uuid": f"x-{counter}", "runner_ident": "x", "event": "verbose"}
            headers = {"Nats-Msg-Id": f"id.x.{counter}.x-{counter}"}
            if counter == 9:
                headers["Ansible-Runner-Truncated"] = "5000"
            bus.send("pub.ansible.runner.id.x.event", json.dumps(event).encode(), headers)
        publish(server, "x", [], "failed")
        serve.wait_for_run("x", "failed")
        assert values(serve)["ansible_runner_cut_messages_total{}"] == 1
        missed = "ansible_runner_events_missed_total{}"
        assert values(serve)[missed] == 0  # They may be on their way.
        wait_until(lambda: values(serve)[missed] == 1, "missed events")
        assert values(serve)['ansible_runner_runs{"state": "silent"}'] == 0


def test_an_ident_that_is_used_again(stored: tuple[Server, Bus]) -> None:
    """Each run has a row and a page of its own; the name alone is the last one's."""
    server, _ = stored
    with Serve(server) as serve:
        publish(server, "nightly", task("t", fails=True, msg="the first night"), "failed")
        publish(server, "nightly", task("t"), "successful")
        serve.wait_for_run("nightly", "failed")
        serve.wait_for_run("nightly", "successful")
        page = serve.get("/").text
        rows = re.findall(r'<tr id="([^"]+)"', page)
        assert len(rows) == len(set(rows)) == 2
        first, last = (
            serve.json("/api/runs?state=" + state)[0]["run_id"] for state in ("failed", "successful")
        )
        assert f'href="/runs/id/nightly/{first}"' in page
        assert f'href="/runs/id/nightly/{last}"' in page
        assert "the first night" in serve.get(f"/runs/id/nightly/{first}").text
        assert "the first night" not in serve.get("/runs/id/nightly").text
        # Each names the other.
        assert f'href="/runs/id/nightly/{first}"' in serve.get("/runs/id/nightly").text
        assert 'href="/runs/id/nightly">the last one' in serve.get(f"/runs/id/nightly/{first}").text
        assert "the last one" not in serve.get("/runs/id/nightly").text
        assert [one["run_id"] for one in serve.json("/api/runs/id/nightly")["others"]] == [first]
        assert serve.json(f"/api/runs/id/nightly/{first}")["state"] == "failed"
        assert serve.json("/api/runs/id/nightly")["run_id"] == last
        assert serve.get("/runs/id/nightly/00000000-0000-7000-8000-000000000000").status == 404


def test_playbooks_without_end_are_other(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    with Serve(server) as serve:
        for number in range(210):
            data = {"playbook": f"p{number}.yml"}
            publish(server, f"r{number}", [{"event": "playbook_on_start", "event_data": data}])
        serve.wait_for_run("r209", "successful")
        found = values(serve)
        names = [name for name in found if name.startswith("ansible_runner_runs_total")]
        assert len({json.loads(name[name.index("{") :])["playbook"] for name in names}) == 201
        assert found['ansible_runner_runs_total{"playbook": "other", "status": "successful"}'] == 10


def test_it_says_whether_there_is_a_connection_and_goes_on(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    server, _ = stored
    with Serve(server) as serve:
        assert (serve.get("/healthz").status, serve.get("/healthz").text) == (200, "ok\n")
        server.kill()
        wait_until(lambda: serve.get("/healthz").status == 503, "the loss to be noticed")
        assert serve.get("/healthz").text.strip()
        assert values(serve)["ansible_runner_connected{}"] == 0
        assert 'role="alert"' in serve.get("/").text
        server.start()
        wait_until(lambda: serve.get("/healthz").status == 200, "the connection to be back")
        real_job(server, tmp_path, "x")
        serve.wait_for_run("x", "successful")
        assert serve.json("/api/runs/site.a/x")["events_missing"] == 0


def test_without_a_stream_it_knows_what_comes_from_now_on(server: Server, tmp_path: Path) -> None:
    with Serve(server) as serve:
        wait_until(lambda: "from now on" in serve.said(), "the remark")
        wait_until(lambda: serve.get("/healthz").status == 200, "a connection")
        job = real_job(server, tmp_path, "x")
        serve.wait_for_run("x", "successful")
        printed = (job.folder / "artifacts/x/stdout").read_text()
        assert serve.get("/api/runs/site.a/x/log").text.splitlines() == uncolored(printed).splitlines()


def test_what_changes_is_told_to_all_who_listen(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(serve.listen()) for _ in range(150)]
        for _ in range(50):
            # These never read.
            stack.enter_context(serve.listen())
        real_job(server, tmp_path, "x")
        for reader in readers:
            states = set()
            while "successful" not in states:
                states.add(reader.next_event()["state"])
        before = serve.memory()
        # As much as a socket holds, many times over: whoever does not read is left behind.
        for number in range(60):
            publish(server, f"y{number}", task("a" * 2000) * 10)
        serve.wait_for_run("y59", "successful")
        assert serve.get("/healthz").status == 200
        assert serve.memory() - before < 64 << 20


def test_nobody_gets_in_by_another_name_or_way(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    with Serve(server) as serve:
        [script] = re.findall(r'src="(/static/[^"]+)"', serve.get("/").text)
        assert "immutable" in serve.get(script).headers["Cache-Control"]
        for host in ("evil.example", f"evil.example:{serve.port}", "127.0.0.1.evil.example", "192.0.2.1", ""):
            for path in ("/", "/metrics", "/api/runs", "/api/events", "/healthz", script):
                assert serve.get(path, Host=host).status == 421, (host, path)
        for host in ("localhost", f"127.0.0.1:{serve.port}", "[::1]"):
            assert serve.get("/", Host=host).status == 200
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"):
            answer = serve.request(method, "/")
            assert answer.status in {400, 405}, (method, answer.status)
        assert serve.request("HEAD", "/").status == 200
        for path in (
            "/..", "/../../etc/passwd", "/static/../../Cargo.toml", "/static/%2e%2e/%2e%2e/etc/passwd", "//",
            "/runs/..%2f..%2fetc/passwd", "/static/", "/runs/site.a", "/api", "/login", "/%00", "/runs/a/%ff",
        ):  # fmt: skip
            assert serve.get(path).status in {303, 400, 404}, path
        for path in ("/", "/metrics", "/nothing", "/api/runs"):
            headers = serve.get(path).headers
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in headers


def test_floods_and_dawdlers_disturb_nobody(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    with Serve(server) as serve, contextlib.ExitStack() as stack:
        assert serve.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (1 << 20)) in {400, 431, None}
        flood = b"".join(b"X-%d: y\r\n" % n for n in range(2000))
        assert serve.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + flood + b"\r\n") in {400, 431, None}
        assert serve.raw(b"GET /" + b"a" * (1 << 17) + b" HTTP/1.1\r\n\r\n") in {400, 414, 431, None}
        assert serve.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n") in {400, None}
        slow = []
        # More than there are places: who has not said what it wants by then goes.
        for _ in range(1_100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", serve.port)))
            sock.sendall(b"GET / HTTP/1.1\r\nHo")
            slow.append(sock)
        began = time.monotonic()
        assert serve.get("/healthz").status == 200
        assert time.monotonic() - began < PATIENCE / 10
        with contextlib.suppress(ConnectionResetError):
            assert slow[0].recv(4096) == b""
        # Others have their places, until they have taken too long.
        slow[-1].settimeout(0)
        with pytest.raises(BlockingIOError):
            slow[-1].recv(4096)
        # They are shown the door.
        slow[-1].settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            while slow[-1].recv(4096):
                pass


def test_only_the_token_opens(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with Serve(server, "--token-file", str(file), "--verbose") as serve:
        for path in (
            "/",
            "/metrics",
            "/api/runs",
            "/api/events",
            "/runs/a/b",
            "/api/runs/a/b/log",
        ):
            for headers in ({}, {"Authorization": "Basic eA=="}, {"Cookie": "ansible-runner-nats=x"}):
                answer = serve.get(path, **headers)
                assert answer.status == 401, (path, headers)
                assert TOKEN not in answer.text
        assert serve.get("/metrics", Authorization=f"Bearer {TOKEN}").status == 200
        # Who looks whether it is there needs none.
        assert serve.get("/healthz").text == "ok\n"
        # A browser is sent to the form, and from there to where it wanted to go.
        answer = serve.get("/runs/a/b?q=c%20d", Accept="text/html")
        assert (answer.status, answer.headers["Location"]) == (303, "/login?to=%2Fruns%2Fa%2Fb%3Fq%3Dc%2520d")
        assert 'name="to" value="/runs/a/b?q=c%20d"' in serve.get(answer.headers["Location"]).text
        assert 'name="to" value="/"' in serve.get("/login?to=%2F%2Fevil.example").text
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = serve.request("POST", "/login", f"token={TOKEN}&to=%2Fruns%2Fa%2Fb".encode(), **form)
        assert (answer.status, answer.headers["Location"]) == (303, "/runs/a/b")
        answer = serve.request(
            "POST", "/login", f"token={TOKEN}&to=https:%2F%2Fevil.example".encode(), **form
        )
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        assert serve.request("POST", "/login", b"token=" + b"x" * 10_000, **form).status in {413, 422}
        assert serve.request("POST", "/", f"token={TOKEN}".encode(), **form).status == 405
        answer = serve.request("POST", "/login", f"token={TOKEN}".encode(), **form)
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        cookie = answer.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
        assert TOKEN not in cookie
        assert serve.get("/", Cookie=cookie.split(";")[0]).status == 200
        said = serve.said()
        assert "GET /metrics 200" in said
        assert CANARY not in said


def test_wrong_tokens_are_told_and_wait_for_longer_each_time(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    server, _ = stored
    file = tmp_path / "token"
    file.write_text(TOKEN)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with Serve(server, "--token-file", str(file)) as serve:

        def enter(token: str) -> tuple[int, str | None]:
            answer = serve.request("POST", "/login", f"token={token}".encode(), **form)
            return answer.status, answer.headers["Retry-After"]

        assert enter("wrong-one")[0] == 401
        for _ in range(50):
            # Nothing is looked at for a while, not even the right one, and nothing is written.
            status, wait = enter(TOKEN)
            assert (status, wait) == (429, "1") or status == 303
            if status == 303:
                break
        assert serve.said().count("a wrong token from 127.0.0.1, time 1") == 1
        # Headers have a count of their own.
        assert serve.get("/", Authorization=f"Bearer {TOKEN}").status == 200
        assert serve.get("/", Authorization=f"Bearer {TOKEN}x").status == 401
        assert serve.get("/", Authorization=f"Bearer {TOKEN}x").status == 429
        assert serve.said().count("a wrong token") == 2
        wait_until(lambda: enter(TOKEN)[0] == 303, "the time to pass")
        assert CANARY not in serve.said()
        assert "wrong-one" not in serve.said()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--listen", "0.0.0.0:0"], "--allow-remote"),
        (["--listen", "[::]:0"], "--allow-remote"),
        (["--listen", "0.0.0.0:0", "--allow-remote"], "--token-file"),
        (["--token-file", "/nowhere"], "/nowhere"),
        (["--token-file", "SHORT"], "at least 16"),
        (["-s", "http://127.0.0.1:1"], "scheme nats"),
    ],
)
def test_it_refuses_to_begin_unsafely(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    short = tmp_path / "short"
    short.write_text(CANARY)
    arguments = [str(short) if word == "SHORT" else word for word in arguments]
    done = command("serve", *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert CANARY not in done.stderr


def test_an_address_that_is_taken_and_a_wrong_password(start_server: Callable[..., Server]) -> None:
    server = start_server(config=USERS, credentials=TESTER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("serve", "--listen", f"127.0.0.1:{port}", "-s", server.url)
        assert (done.returncode, f"127.0.0.1:{port}" in done.stderr) == (1, True)
    done = command(
        "serve", "--listen", "127.0.0.1:0", "-s", server.url, "-o", "user=me", "-o", f"password={CANARY}"
    )
    assert done.returncode == 1
    assert "authorization violation" in done.stderr.lower()
    assert CANARY not in done.stderr


def test_a_remote_address_with_a_token(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    file = tmp_path / "token"
    file.write_text(TOKEN)
    more = ["--listen", "0.0.0.0:0", "--allow-remote", "--token-file", str(file), "--host", "runs.example"]
    with Serve(server, *more) as serve:
        bearer = f"Bearer {TOKEN}"
        assert serve.get("/", Host="runs.example", Authorization=bearer).status == 200
        assert serve.get("/", Host="192.0.2.7", Authorization=bearer).status == 200
        assert serve.get("/", Host="evil.example", Authorization=bearer).status == 421
        assert serve.get("/", Host="runs.example").status == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(stored: tuple[Server, Bus], number: signal.Signals) -> None:
    server, _ = stored
    with Serve(server) as serve, serve.listen():
        began = time.monotonic()
        assert serve.end(number) == 0
        assert time.monotonic() - began < PATIENCE / 10


def test_a_password_of_ours_is_nowhere(start_server: Callable[..., Server]) -> None:
    user = f'authorization {{ users: [ {{user: "me", password: "{CANARY}"}} ] }}'
    server = start_server(config=user, jetstream=True, credentials={"user": "me", "password": CANARY})
    url = server.url.replace("nats://", f"nats://me:{CANARY}@")
    with Serve(server, url=url) as serve:
        wait_until(lambda: serve.get("/healthz").status == 200, "a connection")
        server.kill()
        wait_until(lambda: serve.get("/healthz").status == 503, "the loss to be noticed")
        texts = [serve.get(path).text for path in ("/", "/metrics", "/api/runs", "/healthz", "/runs/a/b")]
        assert CANARY not in "".join([*texts, serve.said()])


def test_ten_thousand_events_a_second_and_the_page_is_there(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    count = 20_000
    with Serve(server) as serve:
        stop = threading.Event()
        answers: list[int] = []

        def look() -> None:
            while not stop.is_set():
                answers.append(serve.get("/").status)

        looking = threading.Thread(target=look)
        looking.start()
        bus.send_all(
            "pub.ansible.runner.id.x.event",
            (
                {"counter": n, "uuid": f"u{n}", "runner_ident": "x", "event": "verbose"}
                for n in range(1, count + 1)
            ),
        )
        publish(server, "x", [], "successful")
        serve.wait_for_run("x", "successful")
        wait_until(lambda: serve.json("/api/runs/id/x")["events_missing"] == 0, "all events")
        stop.set()
        looking.join(PATIENCE)
        assert values(serve)['ansible_runner_messages_total{"kind": "event"}'] == count
        assert set(answers) == {200}


def test_alerts_and_a_prometheus_that_scrapes_a_real_job(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    prometheus, promtool = needed("prometheus"), needed("promtool")
    subprocess.run([promtool, "check", "rules", MONITORING / "alerts.yml"], check=True, capture_output=True)
    for name in ("alerts-test.yml", "dashboard-test.yml"):
        done = subprocess.run(
            [promtool, "test", "rules", MONITORING / name], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    server, _ = stored
    with Serve(server) as serve:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=serve.get("/metrics").text, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert (checked.returncode, checked.stderr) == (0, "")
        settings = (MONITORING / "prometheus.yml").read_text()
        settings = settings.replace("127.0.0.1:9464", f"127.0.0.1:{serve.port}").replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(settings)
        shutil.copy(MONITORING / "alerts.yml", tmp_path)
        port = free_port()
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    prometheus, f"--config.file={tmp_path}/prometheus.yml",
                    f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            real_job(server, tmp_path, "x")

            def known(query: str) -> list[Any]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    connection.request("GET", f"/api/v1/query?query={quote(query)}")
                    answer = json.loads(connection.getresponse().read())
                except (OSError, http.client.HTTPException, ValueError):
                    return []
                finally:
                    connection.close()
                return [one["value"][1] for one in answer["data"]["result"]]

            total = 'ansible_runner_runs_total{playbook="play.yml",status="successful"}'
            wait_until(lambda: known(total) == ["1"], "Prometheus to know the run", PATIENCE * 2)
            assert known("up") == ["1"]
            assert known("ansible_runner_connected") == ["1"]
            # The alert comes with a playbook that fails, and goes with the next one that does not.
            alert = 'ALERTS{alertname="AnsibleRunFailed",alertstate="firing"}'
            assert known(alert) == []
            publish(server, "bad", task("a", fails=True), "failed")
            wait_until(lambda: known(alert) == ["1"], "the alert", PATIENCE * 2)
            publish(server, "good", task("a"))
            wait_until(lambda: known(alert) == [], "its end", PATIENCE * 2)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_the_dashboard_asks_for_metrics_that_there_are(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    dashboard = (MONITORING / "dashboard.json").read_text()
    queries = [
        target["expr"].replace("$playbook", ".*").replace("$__rate_interval", "5m")
        for panel in json.loads(dashboard)["panels"]
        for target in panel["targets"]
    ]
    tests = yaml.safe_load((MONITORING / "dashboard-test.yml").read_text())["tests"]
    # Each is asked when something has happened, and when nothing has.
    for test in tests:
        tested = [one["expr"].split(" > bool ")[0] for one in test["promql_expr_test"]]
        assert tested == queries
    asked = set(re.findall(r"ansible_runner_\w+", dashboard + (MONITORING / "alerts.yml").read_text()))
    with Serve(server) as serve:
        real_job(server, tmp_path, "x")
        serve.wait_for_run("x", "successful")
        there = {name.split("{")[0] for name in values(serve)}
    assert asked <= there, asked - there
    assert os.path.getsize(MONITORING / "dashboard.json") > 1000  # noqa: PTH202


def test_the_unit_opens_little() -> None:
    analyze = needed("systemd-analyze")
    unit = MONITORING.parent / "systemd/ansible-runner-nats-serve.service"
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", "--threshold=30", unit],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    bare = "[Service]\nExecStart=/bin/true\n"
    worse = unit.parent.parent.parent / "target/bare.service"
    worse.write_text(bare)
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", "--threshold=30", worse],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0


def parts_of(page: str) -> str:
    """What whoever has this page says that it has."""
    found = re.findall(r'id="([^"]+)"(?: class="[^"]*")? data-version="([^"]+)"', page)
    return " ".join(f"{name}={version}" for name, version in found)


def test_of_three_thousand_tasks_only_what_has_changed_is_sent(stored: tuple[Server, Bus]) -> None:
    server, _ = stored
    tasks = [event for n in range(3_000) for event in task(f"task {n}", changed=n % 7 == 0)]
    with Serve(server) as serve:
        publish(server, "x", tasks, None)
        path = "/runs/id/x"
        serve.wait_for_run("x", "running")
        wait_until(lambda: serve.json("/api" + path)["recap"]["ok"] == 3_000, "the last task")
        whole = serve.get(path).text
        assert len(whole) > 500_000
        same = serve.get(path, **{"Known-Parts": parts_of(whole)}).text
        assert len(same) < 25_000
        assert same.count("task 5") == 0
        publish(server, "x", [*tasks, *task("one more")], None)
        wait_until(lambda: serve.json("/api" + path)["recap"]["ok"] == 3_001, "one more task")
        more = serve.get(path, **{"Known-Parts": parts_of(whole)}).text
        assert len(more) < 60_000
        assert more.count("one more") > 0
        assert more.count("task 5") == 0
        # Who understands it is sent it in small.
        small = serve.raw_bytes(path, f"Accept-Encoding: gzip\r\nKnown-Parts: {parts_of(whole)}\r\n")
        assert b"content-encoding: gzip" in small.lower()
        assert len(small) < 12_000


def test_packed_or_not_it_is_all_there(stored: tuple[Server, Bus]) -> None:
    """A browser takes gzip, and says nothing of an answer that breaks off."""
    server, _ = stored
    with Serve(server) as serve:
        publish(server, "x", [*task("a"), *printing(300)])
        serve.wait_for_run("x", "successful")
        page = serve.address("x")
        paths = [
            "/",
            page,
            page + "/lines?from=1&last=9",
            "/api/runs",
            "/api/runs/id/x",
            "/api/runs/id/x/log",
        ]
        styles = re.findall(r'(?:href|src)="(/static/[^"]+)"', serve.get("/").text)
        for path in [*paths, *paths, *styles]:
            plain = serve.get(path)
            # A truncated answer is an exception, of http.client or of gzip.
            packed = serve.get(path, **{"Accept-Encoding": "gzip"})
            assert plain.status == packed.status
            # Clocks go on.
            assert re.sub(r"\d", "", packed.text) == re.sub(r"\d", "", plain.text), path
        assert serve.get("/api/runs/id/x/log").text.count("\n") == 302


def test_slow_readers_of_logs_take_no_memory(stored: tuple[Server, Bus]) -> None:
    server, bus = stored
    line = "x" * 5_000
    events = (
        {"counter": n, "uuid": f"u{n}", "runner_ident": "x", "event": "verbose", "stdout": line}
        for n in range(1, 12_001)
    )
    bus.send_all("pub.ansible.runner.id.x.event", events)
    with Serve(server) as serve, contextlib.ExitStack() as stack:
        publish(server, "x", [])
        serve.wait_for_run("x", "successful")
        path = "/api/runs/id/x/log"
        before = serve.memory()
        readers = []
        for _ in range(16):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", serve.port), PATIENCE))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            readers.append(sock)
        # There are no more places, and who has one is slow, not dead.
        assert serve.get(path).status == 503
        assert serve.memory() - before < 64 << 20
        for sock in readers[1:]:
            sock.close()
        rest = b""
        while piece := readers[0].recv(1 << 16):
            rest += piece
            if rest.endswith(b"0\r\n\r\n"):
                break
        assert rest.count(b"x" * 5_000 + b"\n") >= 11_000
        assert serve.memory() - before < 64 << 20


REQUESTS = [
    b"GET / HTTP/1.1",
    b"GET /runs/id/x HTTP/1.1",
    b"GET /api/runs?state=failed&q=%ff HTTP/1.1",
    b"POST /login HTTP/1.1",
    b"GET /../../etc/passwd HTTP/1.1",
    b"GET /api/events HTTP/1.0",
    b"PRI * HTTP/2.0",
    b"HEAD /metrics HTTP/1.1",
]
LINES = [
    b"Host: 127.0.0.1",
    b"Host: evil.example",
    b"Host: a\xff",
    b"Cookie: token=%00; token=\xff",
    b"Authorization: Bearer ",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Accept: \xe2\x80\xae",
    b"X: " + b"x" * 9000,
    b"Content-Type: application/x-www-form-urlencoded",
    b": nothing",
    b"Range: bytes=0-",
    b"Last-Event-ID: \x00",
]


def test_whatever_is_asked(stored: tuple[Server, Bus]) -> None:
    """Requests of pieces, changed anywhere: each gets an answer or none, and the next one its page."""
    server, _ = stored
    rng = random.Random(4711)
    with Serve(server) as serve:
        publish(server, "x", task("a"))
        serve.wait_for_run("x", "successful")
        for _ in range(400):
            lines = [
                rng.choice(REQUESTS),
                *rng.sample(LINES, rng.randrange(5)),
                b"",
                rng.randbytes(rng.randrange(20)),
            ]
            request = bytearray(b"\r\n".join(lines))
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(request))
                request[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            answer = b""
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", serve.port), PATIENCE) as connection,
            ):
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(16)
            assert answer == b"" or answer.startswith(b"HTTP/1."), bytes(request)
        assert serve.get("/").status == 200
        assert "panic" not in serve.said()
