"""``ansible_runner_nats.types``: made from the schemas, free to import, and of use to a type checker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import typing
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import types
from contract import DOCS, ROOT, SCHEMAS
from support import PATIENCE, clean_env, python

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, Any] = {
    typing.get_args(typing.get_type_hints(kind)["event"])[0]: kind for kind in typing.get_args(types.Event)
}


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "docs/from_schemas.py", *args],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def test_what_is_made_from_the_schemas_is_new(tmp_path: Path) -> None:
    made = ("docs/schemas/all.json", "python/ansible_runner_nats/types.py")
    shutil.copytree(DOCS / "schemas", tmp_path / "docs/schemas")
    shutil.copy(DOCS / "from_schemas.py", tmp_path / "docs")
    (tmp_path / "python/ansible_runner_nats").mkdir(parents=True)
    done = make(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in made:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), "run docs/from_schemas.py"
    assert make(tmp_path, "--check").returncode == 0
    schema = tmp_path / "docs/schemas/heartbeat.json"
    schema.write_text(schema.read_text().replace("The number of this sign", "Its number"))
    done = make(tmp_path, "--check")
    assert done.returncode == 1
    assert [name for name in made if name in done.stderr] == list(made)


def find(schema: Any, base: str) -> dict[str, tuple[Any, str]]:
    """The properties that a schema names, and where: whatever refers to what, and on whatever conditions."""
    found: dict[str, tuple[Any, str]] = {}
    if "$ref" in schema:
        file, _, pointer = schema["$ref"].partition("#")
        base = file or base
        part = SCHEMAS[f"schemas/{base}"]
        for name in pointer.split("/")[1:]:
            part = part[name]
        found.update(find(part, base))
    for part in [*schema.get("allOf", []), *([schema["then"]] if "then" in schema else [])]:
        found.update(find(part, base))
    return {**found, **{name: (value, base) for name, value in schema.get("properties", {}).items()}}


def test_there_is_a_type_for_every_kind() -> None:
    assert {f"schemas/{kind}.json" for kind in KINDS} == {
        name for name, schema in SCHEMAS.items() if "event" in schema.get("properties", {})
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_type_has_what_its_schema_names(kind: str) -> None:
    schema, of_all = SCHEMAS[f"schemas/{kind}.json"], SCHEMAS["schemas/common.json"]["$defs"]["event"]
    hints = typing.get_type_hints(KINDS[kind])
    assert set(hints) == set(find(schema, f"{kind}.json"))
    assert KINDS[kind].__required_keys__ == {*schema["required"], *of_all["required"]}
    (data,) = (part for part in typing.get_args(hints["event_data"]) if part is not str)
    details = {**find(of_all["properties"]["event_data"], "common.json")}
    if "event_data" in schema["properties"]:
        details.update(find(schema["properties"]["event_data"], f"{kind}.json"))
    assert set(typing.get_type_hints(data)) == set(details)
    assert data.__required_keys__ == set()  # it may be empty


@pytest.mark.parametrize("name", ["status", "heartbeat"])
def test_the_other_messages(name: str) -> None:
    kind = getattr(types, name.title())
    schema = SCHEMAS[f"schemas/{name}.json"]
    hints = typing.get_type_hints(kind)
    assert set(hints) == set(schema["properties"])
    assert kind.__required_keys__ == set(schema["required"])
    statuses = schema["properties"]["status"]
    assert list(typing.get_args(hints["status"])) == statuses.get("enum", [statuses.get("const")])


def test_it_is_loaded_only_when_asked_for_and_loads_nothing() -> None:
    code = """
import sys, ansible_runner
assert 'nats' in ansible_runner.plugins
assert 'ansible_runner_nats.types' not in sys.modules
"""
    assert python(code).stderr == ""
    code = """
import sys
before = set(sys.modules)
from ansible_runner_nats.types import Event, RunnerOnFailed, Status
assert 'ansible_runner_nats._native' not in sys.modules
assert 'ansible_runner' not in sys.modules
"""
    assert python(code).stderr == ""


PROGRAM = """
import json
from ansible_runner_nats.types import Event, Heartbeat, RunnerOnFailed, Status

def why(event: RunnerOnFailed) -> str:
    data = event["event_data"]
    if isinstance(data, str):
        return data
    result = data["res"]
    return data["host"] + ": " + (result if isinstance(result, str) else str(result.get("msg")))

def tell(text: bytes) -> str:
    event: Event = json.loads(text)
    if event["event"] == "runner_on_failed":
        return why(event)
    if event["event"] == "runner_on_file_diff":
        return "" if isinstance(event["event_data"], str) else str(event["event_data"]["diff"])
    return event["stdout"] + str(event["counter"] + 1)

def end(status: Status, heartbeat: Heartbeat) -> bool:
    return status["status"] == "successful" or heartbeat["events"] == 0
"""

WRONG = {
    'return event["stdout"]': "return why(event)",
    '["diff"]': '["res"]',
    'event["counter"] + 1': 'event["counter"] + "1"',
    'event["event"] == "runner_on_failed"': 'event["event"] == "runner_on_fail"',
    '== "successful"': '== "success"',
    "    if isinstance(data, str):\n        return data\n": "",
}


def test_a_type_checker_knows_right_from_wrong(tmp_path: Path) -> None:
    programs = [PROGRAM, *(PROGRAM.replace(right, wrong) for right, wrong in WRONG.items())]
    assert len(set(programs)) == len(programs)
    # The programs of the page are right, too.
    programs[:0] = re.findall(r"```python\n(.*?)```", (DOCS / "consumers.md").read_text(), re.DOTALL)
    for number, program in enumerate(programs):
        (tmp_path / f"program{number}.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", tmp_path / "cache",
         "--config-file", "/dev/null", *sorted(tmp_path.glob("program*.py"))],
        env=clean_env(None), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE * 9,
    )  # fmt: skip
    found = {line.partition(".py:")[0] for line in done.stdout.splitlines() if ": error: " in line}
    wrong = range(len(programs) - len(WRONG), len(programs))
    assert found == {f"program{number}" for number in wrong}, done.stdout + done.stderr
