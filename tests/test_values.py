"""What a run was given as a secret is masked wherever it occurs in what is published, whatever prints it."""

from __future__ import annotations

import base64
import json
import os
import random
import shlex
import string
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import Bus, Job, RunnerConfig, Server, body, cli, command

if TYPE_CHECKING:
    from pathlib import Path

MORE = int(os.environ.get("FUZZ_FACTOR", "1"))

PLAYBOOK = """
- hosts: one
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.setup:
        gather_subset: env
    - ansible.builtin.debug: {msg: "{{ db_password }} and {{ from_file.api_token }} and {{ harmless }}"}
    - ansible.builtin.copy: {content: "{{ db_password }}\\n", dest: "{{ playbook_dir }}/out", mode: "0600"}
      diff: true
      check_mode: true
    - ansible.builtin.command: "echo {{ lookup('env', 'MY_SECRET') }} {{ lookup('env', 'HARMLESS') }}"
"""

#: Each with something of its own to look for.
GIVEN = {
    "db_password": 'canary-1-"quoted"',
    "from_file": {"api_token": "canary-2-äöü"},
    "harmless": "not-a-secret-1",
}


@pytest.mark.parametrize("mask", [True, False])
def test_a_real_job_that_prints_all_that_it_was_given(
    stored: tuple[Server, Bus],
    tmp_path: Path,
    mask: bool,  # noqa: FBT001
) -> None:
    server, bus = stored
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url, "mask_values": mask}})
    (job.folder / "project/play.yml").write_text(PLAYBOOK)
    (job.folder / "env/extravars").write_text(json.dumps(GIVEN))
    (job.folder / "env/passwords").write_text(json.dumps({"^pin:": "canary-3-pin"}))
    env = {
        "RUNNER_NATS_SUBJECT_ID": "site.a", "MY_SECRET": "canary-4-env", "HARMLESS": "not-a-secret-2",
    }  # fmt: skip
    done = cli(
        "run", job.folder, "-p", "play.yml", "--ident", "x", "--cmdline", "-e my_token=canary-6-cmd", env=env
    )
    assert done.returncode == 0, done.stdout
    messages = bus.stream_messages()
    text = "\n".join(message.data.decode() for message in messages)
    for number in (1, 2, 4, 6):
        assert (f"canary-{number}" in text) != mask or number == 6, number
    assert "not-a-secret-1" in text
    assert "not-a-secret-2" in text
    # Everybody's JSON is still JSON, and nothing else went.
    counters = sorted(body(message)["counter"] for message in messages if message.subject.endswith("event"))
    assert counters == list(range(1, len(counters) + 1))
    assert body(messages[0])["status"] == "starting"
    if not mask:
        return
    # `replay` of what ansible-runner kept publishes no more.
    bus.run(bus.client.jetstream().delete_stream("RUNS"))
    bus.add_stream()
    done = command("replay", job.folder, "--all", "-s", server.url, env=env)
    assert done.returncode == 0, done.stderr
    again = "\n".join(message.data.decode() for message in bus.stream_messages())
    assert "canary-" not in again
    assert "not-a-secret-1" in again


def secret(rng: random.Random) -> str:
    """Of any form in which people have them."""
    letters = string.ascii_letters + string.digits
    some = "".join(rng.choice(letters) for _ in range(rng.randint(8, 24)))
    forms = [
        lambda: some,
        lambda: base64.b64encode(some.encode()).decode(),
        lambda: some + rng.choice("=:'\"\\/ #{}[]&?%$ö\N{ROCKET}") + some[::-1],
        lambda: "ghp_" + some * 3,
        lambda: f"postgres://joe:{some}@db/x",
        lambda: (
            "-----BEGIN PRIVATE KEY-----\n"
            + "\n".join(textwrap.wrap(base64.b64encode(rng.randbytes(96)).decode(), 64))
            + "\n-----END PRIVATE KEY-----\n"
        ),
        lambda: "eyJ" + some * 2 + "." + some * 2 + "." + some,
        lambda: str(rng.randrange(10**11, 10**14)),
    ]
    return str(rng.choice(forms)())


NAMES = [
    "DB_PASSWORD",
    "api_token",
    "ansible_become_pass",
    "CLIENT_SECRET",
    "my_private_key",
    "AWS_SECRET_ACCESS_KEY",
]


def pieces(text: str) -> list[str]:
    """What of a secret would be a leak: of a key each line, of an address what is secret in it."""
    if "://" in text:
        return [text.split(":")[2].split("@", maxsplit=1)[0]]
    lines = [line for line in text.splitlines() if len(line) >= 20 and not line.startswith("-----")]
    return lines if "\n" in text else [text]


def test_a_thousand_runs_with_random_secrets(tmp_path: Path) -> None:
    """In each place where a run is given secrets, and printed in each way in which jobs print."""
    seed = random.randrange(10**9)
    rng = random.Random(seed)
    for number in range(100 * MORE):
        values = [secret(rng) for _ in range(5)]
        env, extra, more, password, key = values
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {
            "nats_subject_id": "id",
            "nats_options": {"servers": "nats://127.0.0.1:1", "flush_timeout": 0},
        }
        run = RunnerConfig(settings=settings, ident=f"run-{number}", artifact_dir=str(folder))
        run.passwords = {"pin": password}
        run.extra_vars = {"n": [{rng.choice(NAMES): extra}], "user": "somebody-else"}
        run.ssh_key_data = key
        arguments = (
            ["-e", json.dumps({rng.choice(NAMES): more})]
            if rng.random() < 0.5
            else ["-e", f"api_token={quoted(more)}"]
        )
        starting = {
            "command": ["ansible-playbook", *arguments, "play.yml"],
            "env": {rng.choice(NAMES): env, "PATH": "/bin:/usr/bin"}, "cwd": "/",
        }  # fmt: skip
        status_handler(run, {"status": "starting", "runner_ident": run.ident, **starting})
        printed = [
            " ".join(values), json.dumps(values), json.dumps(values, ensure_ascii=False), shlex.join(values),
            json.dumps({"a": json.dumps(values)}),
        ]  # fmt: skip
        for counter, stdout in enumerate(printed, 1):
            data = {
                "res": {"msg": values, "stdout": stdout, "ansible_facts": {"ansible_env": starting["env"]}}
            }
            event_handler(run, {"counter": counter, "uuid": "u", "stdout": stdout, "event_data": data})
        event_handler(run, {"counter": 9, "uuid": "u", "stdout": "somebody-else /bin:/usr/bin"})
        status_handler(run, {"status": "failed", "runner_ident": run.ident})
        lines = (folder / "nats-undelivered.jsonl").read_text()
        payloads = [json.loads(json.loads(line)["payload"]) for line in lines.splitlines()]
        assert len(payloads) == 8
        assert payloads[-2]["stdout"] == "somebody-else /bin:/usr/bin"
        assert payloads[0]["env"]["PATH"] == "/bin:/usr/bin"
        record = (folder / "nats-run.json").read_text()
        text = "\n".join(texts(payloads)) + record
        leaks = [piece for value in values for piece in pieces(value) if piece in text]
        assert leaks == [], (seed, number, starting, leaks)


def quoted(text: str) -> str:
    """As ansible takes it between quotes, on one line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [str(value)]
