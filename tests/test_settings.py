"""The commands see in ``env/settings`` what a job sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ansible_runner
import pytest
import yaml
from ansible_runner.config._base import BaseConfig
from ansible_runner_nats import report
from ansible_runner_nats.cli import settings_of
from hypothesis import given
from hypothesis import strategies as st
from support import Job, command

if TYPE_CHECKING:
    from pathlib import Path

    from support import Bus, Server


def of_a_job(folder: Path) -> Any:
    """What ansible-runner itself makes of a private data directory."""
    config = BaseConfig(private_data_dir=str(folder), ident="i")
    config.prepare_env(runner_mode="subprocess")
    return config.settings


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["nats_subject_id", "nats_options", "nats_headers", "idle_timeout"]) | st.text()
SETTINGS = st.dictionaries(NAMES, VALUES, max_size=4)
TEXTS = st.one_of(
    SETTINGS.map(lambda settings: json.dumps(settings, default=str)),
    SETTINGS.map(yaml.safe_dump),
    SETTINGS.map(lambda settings: yaml.safe_dump(settings, allow_unicode=True, default_flow_style=True)),
    st.lists(
        st.sampled_from(
            ["nats_subject_id: ", "no", "010", "0123", "12e5", "<<: ", "*a", "&a ", "\n", "{", "}", "- ", "'"]
        )
    ).map("".join),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("private")
    (folder / "env").mkdir()
    return folder


@given(text=TEXTS)
def test_any_settings_file(folder: Path, text: str) -> None:
    (folder / "env/settings").write_text(text)
    try:
        expected = of_a_job(folder)
    except Exception:  # noqa: BLE001 - whatever it is, the job does not begin
        assert isinstance(settings_of(folder), str)
        return
    seen = settings_of(folder)
    # That a job has no settings because of the file is said.
    assert (seen if isinstance(seen, Mapping) else {}) == expected


@pytest.mark.parametrize("has_file", [True, False])
def test_settings_in_code_without_files(server: Server, bus: Bus, tmp_path: Path, *, has_file: bool) -> None:
    """What docs/operations.md says of ``suppress_env_files``."""
    job = Job(tmp_path / "job")
    options = {"servers": server.url}
    path = job.folder / "env/settings"
    if has_file:
        path.write_text(json.dumps({"nats_subject_id": "file", "nats_options": options}))
    else:
        path.unlink()
    bus.subscribe("pub.>")
    runner = ansible_runner.run(
        private_data_dir=str(job.folder),
        playbook="play.yml",
        quiet=True,
        suppress_env_files=True,
        settings={"nats_subject_id": "code", "nats_options": options},
    )
    assert runner.status == "successful"
    if has_file:
        assert {message.subject.split(".")[3] for message in bus.wait_for_end()} == {"file"}
    else:
        assert report(runner.config) is None
        assert not path.exists()


#: What stands in the file, and the subject id of the job; none: nothing is published.
SUBJECT_IDS = {
    "nats_subject_id: no": None,
    "nats_subject_id: off": None,
    "nats_subject_id: 010": "8",
    "nats_subject_id: 12e5": "12e5",
    "nats_subject_id: 1_000": "1000",
    "nats_subject_id: 1:30": "90",
    "defaults: &d {nats_subject_id: merged}\n<<: *d": "merged",
    '{"nats_subject_id": "\\ud83d\\ude80"}': "🚀",
    '{"nats_subject_id": "a",}': "a",
    "nats_subject_id: é": "é",
}


@pytest.mark.parametrize("text", SUBJECT_IDS)
def test_check_sees_it(server: Server, bus: object, tmp_path: Path, text: str) -> None:
    del bus
    (tmp_path / "env").mkdir()
    (tmp_path / "env/settings").write_text(text)
    done = command("check", tmp_path, "-s", server.url)
    expected = SUBJECT_IDS[text]
    if expected is None:
        assert "is not set: nothing is published" in done.stdout + done.stderr
        assert done.returncode == 1
    else:
        assert f"pub.ansible.runner.{expected}." in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("text", ["a: [", "- a list", "just text", "\x00", "a: \ud800"])
def test_what_no_job_reads_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "env").mkdir()
    path = tmp_path / "env/settings"
    path.write_bytes(text.encode(errors="surrogatepass"))
    done = command("check", tmp_path)
    assert done.returncode == 1
    assert f"problem {path}: " in done.stdout


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "{}"])
def test_an_empty_file_is_no_problem_of_its_own(tmp_path: Path, text: str) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/settings").write_text(text)
    done = command("check", tmp_path)
    assert "env/settings: " not in done.stdout + done.stderr
