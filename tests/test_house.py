"""What stands around the code says what is so: instructions, templates, workflows, licences."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from find_pythons import NEWEST, OLDEST
from support import command

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = [GITHUB / "ISSUE_TEMPLATE/bug.yml", GITHUB / "ISSUE_TEMPLATE/feature.yml"]
#: Who builds, tests or sends a patch goes by these.
INSTRUCTIONS = ["CONTRIBUTING.md", "SECURITY.md", "README.md", ".github/pull_request_template.md"]
LICENCES = ROOT / "THIRD-PARTY-LICENSES.txt"

#: What the release wheels are built with (.github/workflows/release.yml); cp39 has the same crates.
RELEASE = ("--no-default-features", "--features", "python,abi3-py310")


def read(path: Path) -> Any:
    """A YAML file, in which ``on`` is a word."""
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def words(text: str, name: str) -> list[str]:
    """A list of texts in a TOML file (Python 3.9 has no parser for it)."""
    found = re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return re.findall(r'"([^"]+)"', re.sub(r"#.*", "", found[1]))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(set(job) >= {"runs-on", "steps"} for job in workflow["jobs"].values())
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        # A commit: a tag is whatever its owner wants. (That of the uploader is for
        # whoever makes the first release.)
        pinned = re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step.get("uses", ""))
        assert "run" in step or pinned or step["uses"] == "pypa/gh-action-pypi-publish@release/v1", step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", step


def test_ci_tries_every_python() -> None:
    jobs = read(GITHUB / "workflows/ci.yml")["jobs"]
    tried = [step.get("with", {}).get("python-version") for step in jobs["everything"]["steps"]]
    tried += jobs["python"]["strategy"]["matrix"]["python"]
    assert {f"3.{minor}" for minor in range(OLDEST, NEWEST + 1)} <= set(tried)


def test_issue_forms() -> None:
    for form in map(read, FORMS):
        assert set(form) == {"name", "description", "labels", "body"}
        ids = [part.get("id") for part in form["body"] if part["type"] != "markdown"]
        assert None not in ids
        assert len(set(ids)) == len(ids)
        for part in form["body"]:
            assert part["type"] in ("markdown", "textarea", "checkboxes")
            assert "value" in part["attributes"] or "label" in part["attributes"]
    assert set(read(GITHUB / "ISSUE_TEMPLATE/config.yml")) == {"blank_issues_enabled", "contact_links"}


def test_dependabot_knows_every_list_of_dependencies() -> None:
    updates = read(GITHUB / "dependabot.yml")["updates"]
    known = {(update["package-ecosystem"], update["directory"]) for update in updates}
    assert known == {("cargo", "/"), ("cargo", "/fuzz"), ("pip", "/"), ("github-actions", "/")}
    assert all(update["groups"] for update in updates)


def made() -> dict[str, set[str]]:
    """The targets that are asked for, and by which files."""
    found: dict[str, set[str]] = {}
    texts = {name: (ROOT / name).read_text() for name in INSTRUCTIONS}
    texts |= {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    commands = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    texts["workflows, hooks, .ci/run"] = "\n".join(
        f"$ {line.strip()}"
        for text in [*commands, *(hook["entry"] for hook in hooks), (ROOT / ".ci/run").read_text()]
        for line in text.splitlines()
    )
    for name, text in texts.items():
        for line in re.findall(r"(?:`|\$ )(?:[A-Z_]+=\S+ )*make ([a-z][a-z -]*)", text):
            for target in line.split():
                found.setdefault(target, set()).add(name)
    return found


def test_every_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = made()
    assert {"test", "lint", "deny", "licences"} <= set(asked)
    assert {target: names for target, names in asked.items() if target not in targets} == {}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_file_that_is_named_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    # Names with a place to fill in are none.
    quoted = re.findall(r"`((?:\.?[\w-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|txt|rs|py))`", text)
    # What is installed or is somebody else's has a folder that is none of ours.
    theirs = (".venv", "ansible_runner", "env", "target")
    named = [path for path in quoted if "NAME" not in path and path.split("/")[0] not in theirs]
    assert [path for path in named if not (ROOT / path).exists()] == []
    if name in ("CONTRIBUTING.md", "SECURITY.md"):
        assert len(named) > 5


def test_every_test_that_is_named_is_there() -> None:
    """And every constant that somebody is sent to."""
    code = "".join(
        path.read_text()
        for pattern in ("src/**/*.rs", "tests/*.rs", "tests/*.py")
        for path in ROOT.glob(pattern)
    )
    text = (ROOT / "CONTRIBUTING.md").read_text()
    functions = re.findall(r"`(\w+(?:_\w+){2,})`", text)
    assert len(functions) >= 5
    assert [name for name in functions if not re.search(rf"\b(fn|def) {name}\b", code)] == []
    constants = {*re.findall(r"`([A-Z_]{5,})`", text)} - {"CHANGELOG", "UPDATE_DOCS", "PYTEST_ARGS"}
    assert [name for name in constants if not re.search(rf"\b{name}\b.* = ", code)] == []


def test_every_command_is_described() -> None:
    shown = command("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    commands = set(re.findall(r"^  (\w+)", shown, re.MULTILINE)) - {"help", "completions"}
    assert len(commands) >= 8
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    assert commands == set(sections)


def linked() -> set[str]:
    """The crates whose code is in a release wheel, wherever it runs."""
    targets = words((ROOT / "deny.toml").read_text(), "targets")
    tree = subprocess.run(
        [
            "cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", *RELEASE,
            "--format", "{p}", *(part for target in targets for part in ("--target", target)),
        ],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {line.split()[0] for line in tree.stdout.splitlines() if line} - {"ansible-runner-nats"}


def test_the_licences_of_all_that_is_linked_in() -> None:
    text = LICENCES.read_text()
    listed, _, texts = text.partition("=" * 80)
    named = set(re.findall(r"^- ([\w-]+): \S", listed, re.MULTILINE))
    crates = linked()
    assert len(crates) > 100
    assert crates - named == set(), "run `make licences`"
    # Each of them has a text, and nothing is listed that has gone for good.
    assert named - set(re.findall(r"^- ([\w-]+)$", texts, re.MULTILINE)) == set()
    lock = set(re.findall(r'^name = "(.+)"$', (ROOT / "Cargo.lock").read_text(), re.MULTILINE))
    assert named - lock == set(), "run `make licences`"


def test_the_image_is_made_as_the_wheels_are() -> None:
    container = ROOT / "examples/container"
    wanted = set(re.findall(r"maturin[>=<.,\d]+", (ROOT / "pyproject.toml").read_text()))
    assert len(wanted) == 1
    assert wanted == set(re.findall(r"maturin[>=<.,\d]+", (container / "Dockerfile").read_text()))
    let_in = set(re.findall(r"^!(.+)$", (container / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    needed = words((ROOT / "Cargo.toml").read_text(), "include")
    assert {name.lstrip("/") for name in needed} - let_in <= {"CHANGELOG.md"}


def test_two_tools_go_by_one_list() -> None:
    deny, about = ((ROOT / name).read_text() for name in ("deny.toml", "about.toml"))
    assert words(deny, "targets") == words(about, "targets")
    assert set(words(deny, "allow")) == set(words(about, "accepted"))
    release = (GITHUB / "workflows/release.yml").read_text()
    for target in words(deny, "targets"):
        assert target.split("-")[0] in release


def test_the_wheel_has_licences_and_an_sbom() -> None:
    files = {Path(file).name: file for file in metadata.files("ansible-runner-nats") or []}
    for name in ("LICENSE", LICENCES.name):
        path = Path(str(files[name].locate()))
        assert path.parent.name == "licenses"
        assert path.read_text() == (ROOT / name).read_text()
    sbom = Path(str(files["ansible-runner-nats.cyclonedx.json"].locate()))
    assert sbom.parent.name == "sboms"
    components = {component["name"] for component in json.loads(sbom.read_text())["components"]}
    assert linked() <= components
    # The sdist has what goes into the wheel.
    manifest = (ROOT / "Cargo.toml").read_text()
    assert f'"/{LICENCES.name}"' in manifest
