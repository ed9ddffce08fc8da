"""The pages of docs/ say nothing that the program, the files or the options do not bear out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support import command

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TOP = sorted(ROOT.glob("*.md"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*TOP, *PAGES]}
EXAMPLES = [
    path
    for path in sorted((ROOT / "examples").rglob("*"))
    if path.suffix in {".env", ".service", ".sh", ".yaml"} or path.name == "Dockerfile"
]

#: A link or a picture; what stands in code is none.
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
#: A call of our command, in a block or between backticks, up to what ends it in a shell.
CALL = re.compile(r"(?<!--entrypoint )\bansible-runner-nats ((?:--?\w|[a-z])[^\n`|;>&]*)")
VARIABLE = re.compile(r"\bRUNNER_(?:NATS_|MAX_)[A-Z_]*[A-Z]\b")


def anchors(path: Path) -> set[str]:
    """What a link to a heading is called, on GitHub and in the site alike."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in words}


def targets(text: str) -> list[str]:
    found = LINK.findall(CODE.sub("", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def calls(text: str) -> list[str]:
    """What follows `ansible-runner-nats` wherever it is code."""
    code = "\n".join(CODE.findall(text)).replace("\\\n", " ")
    return [call.split(" #")[0].strip() for call in CALL.findall(code)]


@pytest.mark.parametrize("name", TEXTS)
def test_no_line_is_too_long(name: str) -> None:
    long = [number for number, line in enumerate(TEXTS[name].splitlines(), 1) if len(line) > 120]
    assert long == []


def sentences(text: str) -> set[str]:
    """Prose alone, each sentence on one line and without its links; short ones say nothing of their own.

    What is generated has one source, wherever it stands.
    """
    prose = re.sub(
        r"^```.*?^```|^<!-- .*?^<!-- end -->|!\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL | re.MULTILINE
    )
    prose = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose)
    found: set[str] = set()
    for block in re.split(r"\n\s*\n|\n(?=[-*|] |\d+\. )", prose):
        line = re.sub(r"\s+", " ", block).strip(" -*|")
        found |= {sentence for sentence in re.split(r"(?<=[.:!?])\s", line) if len(sentence) >= 50}
    return found


def test_no_sentence_stands_on_two_pages() -> None:
    """What stands twice is true in one place after a while: the other one links to it."""
    where: dict[str, list[str]] = {}
    for name, text in TEXTS.items():
        for sentence in sentences(text):
            where.setdefault(sentence, []).append(name)
    assert len(where) > 1_000
    assert {sentence: names for sentence, names in where.items() if len(names) > 1} == {}
    twice = "One sentence that is long enough to be a fact of its own."
    assert sentences(f"{twice} [Short](a.md).") == sentences(f"- {twice}\n- Short.") == {twice}


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_are_there(name: str) -> None:
    named = re.findall(r"`((?:src|tests|examples|benches|docs|python)/[\w./-]+)`", TEXTS[name])
    made_up = {"src/cli/NAME.rs", "docs/schemas/NAME.json"}
    assert [path for path in named if path not in made_up and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in targets(TEXTS[name]):
        path, _, anchor = target.partition("#")
        goal = (ROOT / name).parent / path if path else ROOT / name
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal), target


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        assert not isinstance(entries, str)
        return [page for part in entries for page in pages(part)]  # type: ignore[attr-defined]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(pages(site["nav"])) == [page.name for page in PAGES]
    assert site["theme"]["font"] is False


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """What `--help` says of each command."""
    listed = command("--help").stdout
    names = re.findall(r"^  ([a-z]+)  ", listed, re.MULTILINE)
    assert {"check", "runs", "replay", "serve"} <= set(names)
    helps = {name: command(name, "--help").stdout for name in names}
    # Its three subjects take the same options.
    helps["stats"] = command("stats", "hosts", "--help").stdout
    return {"": listed, "stream create": command("stream", "create", "--help").stdout, **helps}


def options_in(call: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", call))


def complaints(call: str, known: dict[str, str]) -> list[str]:
    words = call.split()
    name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    name = "" if name.startswith("-") else name
    if name not in known:
        return [f"no command {name}"]
    return [option for option in options_in(call) if not re.search(rf"{option}\b", known[name])]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_are_known(name: str, known: dict[str, str]) -> None:
    wrong = {call: found for call in calls(TEXTS[name]) if (found := complaints(call, known))}
    assert wrong == {}


@pytest.mark.parametrize("name", [*TEXTS, *(path.relative_to(ROOT).as_posix() for path in EXAMPLES)])
def test_variables_are_options(name: str) -> None:
    """docs/options.md, which is made from the table of options, has them all."""
    options = set(re.findall(r"^- Variable: (.*)$", TEXTS["docs/options.md"], re.MULTILINE))
    there = {variable for line in options for variable in VARIABLE.findall(line)}
    assert len(there) > 30
    text = TEXTS.get(name) or (ROOT / name).read_text()
    named = set(VARIABLE.findall(text))
    # Some are spelt wrong, as examples of that.
    wrong = {"RUNNER_NATS_OMITT", "RUNNER_NATS_SERVER"} if "options" in name or "upgrading" in name else set()
    assert named - there <= wrong
