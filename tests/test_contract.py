"""What docs/ promises to consumers: every message of real jobs, and the examples that read them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from contract import ASYNCAPI, BUNDLE, DOCS, HEADERS, MESSAGES, PAYLOADS, ROOT, SCHEMAS, problems
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry
from support import (
    PATIENCE,
    Bus,
    Server,
    body,
    clean_env,
    events_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.aio.msg import Msg

CONSUMERS = ROOT / "examples/consumers"

#: Every kind of event that there is a schema for.
KINDS = {Path(name).stem for name in SCHEMAS} - {"common", "event", "status", "heartbeat", "killed", "card"}

#: Kinds that ansible-runner's callback knows, but no Ansible calls for.
NEVER_SENT = {
    "playbook_on_setup",
    "playbook_on_import_for_host",
    "playbook_on_not_import_for_host",
    "runner_on_no_hosts",
    "system_warning",  # comes as `warning`
}

#: Kinds that ansible-core sends from 2.12 on.
SENT_BY_NEW_ONES = {"runner_on_async_ok", "runner_on_async_failed"}


def run(program: Path, *args: str | Path) -> str:
    """What the program prints."""
    done = subprocess.run(
        [sys.executable, program, *args],
        env=clean_env(None), capture_output=True, text=True, check=False, timeout=PATIENCE * 3,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def buses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Bus]]:
    """Two streams, the second one on a server that takes small messages only, after all jobs have ended."""
    folder = tmp_path_factory.mktemp("contract")
    servers = [
        Server(folder / "server", jetstream=True).start(),
        Server(folder / "small", jetstream=True, config="max_payload: 8192").start(),
    ]
    buses = [Bus(server.url) for server in servers]
    for bus in buses:
        bus.add_stream(subjects=["pub.ansible.runner.>"], duplicate_window=0.1)
    run(ROOT / "tests/contract_jobs.py", folder / "jobs", *(server.url for server in servers))
    yield buses
    for bus, server in zip(buses, servers):
        bus.close()
        server.kill()


@pytest.fixture(scope="module")
def messages(buses: list[Bus]) -> list[Msg]:
    """Everything that the jobs said."""
    return [message for bus in buses for message in bus.stream_messages()]


def url_of(bus: Bus) -> str:
    assert bus.client.connected_url is not None
    return bus.client.connected_url.geturl()


def of_run(messages: list[Msg], ident: str, kind: str = "event") -> list[dict[str, Any]]:
    return [body(m) for m in messages if m.subject == f"pub.ansible.runner.contract.{ident}.{kind}"]


def test_every_message_is_as_described(messages: list[Msg]) -> None:
    for message in messages:
        kind = message.subject.rpartition(".")[2]
        found = problems(body(message), PAYLOADS[kind]) + problems(message.headers, HEADERS[kind])
        assert not found, (message.subject, message.headers, message.data[:2000], found)


def test_every_kind_was_seen(messages: list[Msg]) -> None:
    seen = {event["event"] for event in events_of(messages)}
    assert seen <= KINDS
    assert KINDS - seen - NEVER_SENT <= SENT_BY_NEW_ONES
    assert not seen & NEVER_SENT
    statuses = {body(m)["status"] for m in messages if m.subject.endswith(".status")}
    known = SCHEMAS["schemas/status.json"]["properties"]["status"]["enum"]
    assert statuses == set(known)


def test_every_run_is_told_from_start_to_end(messages: list[Msg]) -> None:
    ends = {
        "everything": "failed", "module": "successful", "omitted": "successful", "large": "successful",
        "timeout": "timeout", "canceled": "canceled", "command": "failed", "subprocess": "failed",
    }  # fmt: skip
    for ident, end in ends.items():
        statuses = [status["status"] for status in of_run(messages, ident, "status")]
        assert statuses == ["starting", "running", end]
        counters = [event["counter"] for event in of_run(messages, ident)]
        if ident != "subprocess":  # standard output and standard error count apart
            assert counters == list(range(1, len(counters) + 1))
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in messages]
    assert len(set(ids)) == len(ids)


def test_cut_messages_are_as_described_too(messages: list[Msg]) -> None:
    cut = [m for m in messages if "Ansible-Runner-Truncated" in (m.headers or {})]
    assert len(cut) == 2
    for message in cut:
        event = body(message)
        assert event["event"] == "runner_on_ok"
        assert "bytes cut by ansible-runner-nats]" in json.dumps(event["event_data"])


def test_what_may_be_missing(messages: list[Msg]) -> None:
    omitted = of_run(messages, "omitted")
    assert all(event["event_data"] == {} and event["job_id"] == 7 for event in omitted)
    assert all("event_data" not in event for event in of_run(messages, "command"))
    assert not any("runner_ident" in status for status in of_run(messages, "unknown", "status"))


#: How a good event goes bad.
FAULTS: dict[str, Any] = {
    "counter": 0,
    "created": "yesterday",
    "uuid": "",
    "stdout": None,
    "event_data": "no marker of ours",
    "pid": "1",
}


def test_the_schemas_refuse_what_is_wrong(messages: list[Msg]) -> None:
    good = next(event for event in of_run(messages, "everything") if event["event"] == "runner_on_failed")
    for name in ("uuid", "counter", "stdout", "start_line", "end_line", "runner_ident", "created", "pid"):
        without = {key: value for key, value in good.items() if key != name}
        assert problems(without, PAYLOADS["event"]), name
    for name, value in FAULTS.items():
        assert problems({**good, name: value}, PAYLOADS["event"]), name
    for name in ("host", "task", "res", "ignore_errors", "duration"):
        bad = deepcopy(good)
        del bad["event_data"][name]
        assert problems(bad, PAYLOADS["event"]), name
    # Kinds and fields that are not known yet are no reason to refuse an event, nor is one without a kind.
    assert not problems({**good, "event": "runner_on_mars", "more": 1}, PAYLOADS["event"])
    assert not problems({key: value for key, value in good.items() if key != "event"}, PAYLOADS["event"])
    marker = "... [20001 bytes cut by ansible-runner-nats]"
    assert not problems({**good, "event_data": marker}, PAYLOADS["event"])
    for status in ({"status": "running"}, {"status": "error"}, {"status": "done", "runner_ident": "1"}):
        assert problems(status, PAYLOADS["status"]), status


CLOUD_EVENT = {
    "Nats-Msg-Id": "site-a.1.status.0123456789abcdef.1",
    "Ansible-Runner-Run": "01a22976-a079-7d89-8dbf-14e34f997025",
    "Ansible-Runner-Time": "2026-11-24T00:47:20.1Z",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "ce-specversion": "1.0",
    "ce-id": "site-a.1.status.0123456789abcdef.1",
    "ce-source": "/ansible-runner/site-a",
    "ce-subject": "1",
    "ce-type": "com.ansible.runner.status.running",
    "ce-datacontenttype": "application/json",
}


def test_the_schema_of_headers() -> None:
    assert not problems(CLOUD_EVENT, HEADERS["status"])
    assert not problems({**CLOUD_EVENT, "Nats-Expected-Stream": "RUNS", "team": "a"}, HEADERS["status"])
    for name, value in {
        "Nats-Msg-Id": "site-a.1.2.uuid", "traceparent": "1-2-3", "ce-specversion": "2.0",
        "ce-type": "com.ansible.runner.event.verbose", "ce-subject": "",
        "ce-time": "2026-11-24T00:00:00", "Ansible-Runner-Truncated": "much",
        "Ansible-Runner-Run": "1", "Ansible-Runner-Time": "2026-11-24T00:00:00",
    }.items():  # fmt: skip
        assert problems({**CLOUD_EVENT, name: value}, HEADERS["status"]), name
    for name in ("Nats-Msg-Id", "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-datacontenttype"):
        without = {key: value for key, value in CLOUD_EVENT.items() if key != name}
        assert problems(without, HEADERS["status"]), name


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(base: str, reference: str) -> Any:
    """What a reference of the document at ``base`` leads to; a KeyError if nowhere."""
    file, _, pointer = reference.partition("#")
    documents: dict[str, Any] = {**SCHEMAS, "asyncapi.yaml": ASYNCAPI}
    folder = base.rpartition("/")[0]
    name = str(Path(folder, file)) if file else base
    value: Any = documents[name]
    for part in pointer.split("/")[1:]:
        value = value[part]
    return value


def test_one_document_has_all_schemas() -> None:
    names = set(BUNDLE["$defs"])
    assert {Path(name).stem for name in SCHEMAS} - {"common"} < names
    assert len(names) == len(SCHEMAS) - 1 + len(SCHEMAS["schemas/common.json"]["$defs"])
    Draft202012Validator.check_schema(BUNDLE)
    # Flat: what generates code finds every part, and nothing is resolved against another address.
    assert set(references(BUNDLE)) <= {f"#/$defs/{name}" for name in names}
    assert json.dumps(BUNDLE).count('"$id"') == 1
    anything = Draft202012Validator(BUNDLE, registry=Registry())
    assert anything.is_valid({"status": "running", "runner_ident": "1"})
    assert not anything.is_valid({})


def test_models_that_are_generated(messages: list[Msg], tmp_path: Path) -> None:
    """What two generators make of the one document takes every message."""
    pytest.importorskip("datamodel_code_generator")
    fastjsonschema = pytest.importorskip("fastjsonschema")
    module = tmp_path / "generated_models.py"
    done = subprocess.run(
        [
            sys.executable, "-m", "datamodel_code_generator", "--input", DOCS / "schemas/all.json",
            "--input-file-type", "jsonschema", "--output-model-type", "pydantic_v2.BaseModel",
            "--output", module,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("generated_models", module)
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    sys.modules["generated_models"] = models
    spec.loader.exec_module(models)
    validate = fastjsonschema.compile(BUNDLE)
    for message in messages:
        assert models.Message.model_validate(body(message)), message.data
        validate(body(message))
    with pytest.raises(ValueError, match="validation error"):
        models.Message.model_validate({"status": 1, "runner_ident": "r"})
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        validate({"status": 1, "runner_ident": "r"})


@pytest.mark.parametrize(
    ("words", "generate"),
    [
        ("export type Message =", ("json-schema-to-typescript@15", "json2ts", "-i")),
        ("runner_ident", ("quicktype@23", "quicktype", "-l", "typescript", "-s", "schema")),
    ],
)
def test_types_of_other_languages(tmp_path: Path, words: str, generate: tuple[str, ...]) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("Node.js is not installed")
    package, *command = generate
    done = subprocess.run(
        [npx, "--yes", "--package", package, *command, DOCS / "schemas/all.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "Heartbeat" in done.stdout or "heartbeat" in done.stdout


def test_what_a_host_adds(messages: list[Msg]) -> None:
    """ansible-rulebook's own event handler changes what the plugin gets."""
    (first, *_) = (message for message in messages if message.subject.endswith(".event"))
    added = {"job_id": "8b1f7a4e-1b5e-4f0c-9a50-6c1c3d1f0b7e", "ansible_rulebook_id": "a", "else": [1]}
    assert problems({**body(first), **added}, PAYLOADS["event"]) == []


def test_a_file_alone(messages: list[Msg], tmp_path: Path) -> None:
    """A validator that knows the files' own addresses resolves their references."""
    pytest.importorskip("check_jsonschema")
    for kind in MESSAGES:
        (first, *_) = (message for message in messages if message.subject.endswith(f".{kind}"))
        path = tmp_path / f"{kind}.json"
        path.write_bytes(first.data)
        done = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", "--schemafile", DOCS / f"schemas/{kind}.json", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        path.write_text("{}")
        done = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", "--schemafile", DOCS / f"schemas/{kind}.json", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1


def test_the_documents_are_sound() -> None:
    for name, document in {**SCHEMAS, "asyncapi.yaml": ASYNCAPI}.items():
        for reference in references(document):
            assert resolve(name, reference), (name, reference)
    for schema in SCHEMAS.values():
        assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
        Draft202012Validator.check_schema(schema)
        Draft7Validator.check_schema({**schema, "$schema": Draft7Validator.META_SCHEMA["$schema"]})
    for schema in ASYNCAPI["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    dispatched = {part["then"]["$ref"] for part in SCHEMAS["schemas/event.json"]["allOf"] if "then" in part}
    assert dispatched == {f"{kind}.json" for kind in KINDS}
    for kind in KINDS:
        assert SCHEMAS[f"schemas/{kind}.json"]["properties"]["event"] == {"const": kind}


def test_asyncapi_describes_the_default_subjects(messages: list[Msg]) -> None:
    channels = ASYNCAPI["channels"]
    assert {name: channel["address"] for name, channel in channels.items()} == {
        kind: f"pub.ansible.runner.{{subject_id}}.{{runner_ident}}.{kind}" for kind in MESSAGES
    }
    for kind, channel in channels.items():
        assert set(channel["parameters"]) == {"subject_id", "runner_ident"}
        address = channel["address"].format(subject_id="contract", runner_ident="module")
        assert any(message.subject == address for message in messages), kind
    operated = {operation["channel"]["$ref"] for operation in ASYNCAPI["operations"].values()}
    assert operated == {f"#/channels/{name}" for name in channels}


def test_the_recipe_for_a_stream(start_server: Any, connect: Any, tmp_path: Path) -> None:
    server = start_server(jetstream=True)
    recipe = (DOCS / "messages.md").read_text().partition("```python\n")[2].partition("```")[0]
    program = tmp_path / "recipe.py"
    # Not every machine has so much room.
    program.write_text(recipe.replace("nats://localhost:4222", server.url).replace("10 * 1000**3", "1000**2"))
    run(program)
    bus = connect(server)
    config = bus.run(bus.client.jetstream().stream_info("RUNS")).config
    assert (config.subjects, config.duplicate_window) == (["pub.ansible.runner.>"], 600)
    assert (config.max_age, config.max_bytes, config.discard) == (30 * 24 * 3600, 1000**2, "old")


def test_example_failures(buses: list[Bus], messages: list[Msg]) -> None:
    arguments = ["--server", url_of(buses[0]), "--once"]
    lines = run(CONSUMERS / "failures.py", *arguments).splitlines()
    failures = ("runner_on_failed", "runner_on_unreachable")
    assert len(lines) == sum(event["event"] in failures for event in events_of(messages))
    expected = [
        "everything | one | loop that fails | failed (ignored) | ",
        "everything | two | break | failed | broken on purpose",
        "everything | away | never there | unreachable | ",
        "everything | one | give up | failed | the end",
    ]
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    # It goes on where it was.
    assert run(CONSUMERS / "failures.py", *arguments) == ""
    new = {**of_run(messages, "everything")[0], "event": "runner_on_failed", "event_data": {}}
    publish(buses[0], "pub.ansible.runner.contract.new.event", new, "new")
    assert run(CONSUMERS / "failures.py", *arguments) == "everything | ? | ? | failed | \n"


def publish(bus: Bus, subject: str, event: dict[str, Any], message_id: str) -> bool:
    """Whether the stream took it for a repeat."""
    js = bus.client.jetstream(timeout=PATIENCE)
    headers = {"Nats-Msg-Id": message_id}
    return bool(bus.run(js.publish(subject, json.dumps(event).encode(), headers=headers)).duplicate)


def test_example_history(buses: list[Bus], messages: list[Msg]) -> None:
    first = next(m for m in messages if m.subject == "pub.ansible.runner.contract.everything.event")
    # A repeat that the stream stores, because its duplicate window is over.
    message_id = (first.headers or {})["Nats-Msg-Id"]
    wait_until(lambda: not publish(buses[0], first.subject, body(first), message_id))
    printed = run(CONSUMERS / "history.py", "contract", "everything", "--server", url_of(buses[0]))
    expected = [event["stdout"] for event in of_run(messages, "everything") if event["stdout"]]
    assert printed.splitlines() == "".join(f"{text}\n" for text in expected).splitlines()


def test_example_follow(buses: list[Bus], messages: list[Msg]) -> None:
    script = CONSUMERS / "follow.sh"
    subprocess.run(["sh", "-n", script], check=True)
    if shutil.which("nats") is None:
        pytest.skip("the nats command is in no package registry that we can install it from")
    count = len(of_run(messages, "module")) + 3
    done = subprocess.run(
        [script, "--all", "contract.module", "--raw", "--count", str(count)],
        env={**clean_env(None), "NATS_URL": url_of(buses[0])},
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    for event in of_run(messages, "module"):
        assert event["uuid"] in done.stdout


def test_follow_asks_for_the_right_subject(tmp_path: Path) -> None:
    """With a stand-in for the ``nats`` command."""
    stand_in = tmp_path / "nats"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    for arguments, expected in {
        (): "subscribe pub.ansible.runner.>",
        ("a.b",): "subscribe pub.ansible.runner.a.b.*",
        ("--all", "a.b", "--raw"): "subscribe pub.ansible.runner.a.b.* --stream RUNS --all --raw",
        ("--raw",): "subscribe pub.ansible.runner.> --raw",
    }.items():
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        printed = subprocess.check_output([CONSUMERS / "follow.sh", *arguments], env=env, text=True)
        assert printed == expected + "\n"
