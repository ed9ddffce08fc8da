"""What cannot be delivered must not be kept where somebody removes it, without a word."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import Job, bin_dir, clean_env, free_port, python

if TYPE_CHECKING:
    from pathlib import Path

WARNING = "what cannot be delivered is kept in the artifact directory, and "
HINT = "set spill_dir (RUNNER_NATS_SPILL_DIR) to a folder that lasts"

RUNS = """
import ansible_runner, json, sys
folder, arguments = json.loads(sys.argv[1])
for number in range(2):
    ansible_runner.run(
        private_data_dir=folder, ident=f'r{number}', playbook='play.yml', quiet=True, **arguments)
"""


def nowhere(more: dict[str, str]) -> dict[str, str]:
    """NATS is away."""
    return {
        "RUNNER_NATS_SUBJECT_ID": "id",
        "RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}",
        "RUNNER_NATS_FLUSH_TIMEOUT": "0.2",
        **more,
    }


def warnings(job: Job, arguments: dict[str, int], more: dict[str, str]) -> list[str]:
    import json

    code = RUNS.replace("sys.argv[1]", repr(json.dumps([str(job.folder), arguments])))
    done = python(code, env=nowhere(more))
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if WARNING in line]


def test_rotated_artifacts(tmp_path: Path) -> None:
    """What is left of a run goes to where nobody removes it: nothing to warn of."""
    job = Job(tmp_path / "job")
    assert warnings(job, {"rotate_artifacts": 1}, {}) == []
    assert len(list((job.folder / "artifacts").iterdir())) == 1
    assert len(list((job.folder / "nats-spool").glob("*/nats-undelivered.jsonl"))) == 2


def test_a_temporary_folder(tmp_path: Path) -> None:
    (line,) = warnings(Job(tmp_path / "temporary/job"), {}, {"TMPDIR": str(tmp_path / "temporary")})
    assert f"{tmp_path}/temporary is for temporary files" in line
    assert line.endswith(HINT)


@pytest.mark.parametrize("why", ["a folder that lasts", "a spill_dir", "off", "another temporary folder"])
def test_no_warning(tmp_path: Path, why: str) -> None:
    more = {
        "a folder that lasts": {},
        "a spill_dir": {"RUNNER_NATS_SPILL_DIR": str(tmp_path / "spool"), "TMPDIR": str(tmp_path)},
        "off": {"RUNNER_NATS_SUBJECT_ID": "", "TMPDIR": str(tmp_path)},
        "another temporary folder": {"TMPDIR": str(tmp_path / "jo")},
    }[why]
    (tmp_path / "jo").mkdir()
    assert warnings(Job(tmp_path / "job"), {}, more) == []


def transmitted(job: Job) -> bytes:
    program = [str(bin_dir() / "ansible-runner"), "transmit", str(job.folder), "-p", "play.yml"]
    return subprocess.run(program, env=clean_env(None), capture_output=True, check=True).stdout


def test_a_worker_says_nothing(tmp_path: Path) -> None:
    """Its folder is temporary, and its artifacts go to the processor."""
    job = Job(tmp_path / "job")
    env = clean_env(nowhere({"TMPDIR": str(tmp_path)}))
    sent = transmitted(job)
    runner = bin_dir() / "ansible-runner"
    worked = subprocess.run([runner, "worker"], env=env, input=sent, capture_output=True, check=True)
    assert WARNING not in worked.stderr.decode()
    assert b"never connected" in worked.stderr


#: A worker of a program's own: nothing on its command line says that it is one.
OWN_WORKER = """
import sys, ansible_runner.interface
ansible_runner.interface.run(
    streamer='worker', private_data_dir=sys.argv[1], _input=sys.stdin.buffer, _output=sys.stdout.buffer)
"""


@pytest.mark.parametrize("program", ["a program of its own", "ansible-runner", "ansible-runner in a module"])
def test_no_line_of_ours_is_in_a_workers_stream(tmp_path: Path, program: str) -> None:
    """Whoever started it: both streams are one file, as with Receptor, and the job is not spoilt."""
    job, done = Job(tmp_path / "job"), Job(tmp_path / "done")
    runner = str(bin_dir() / "ansible-runner")
    sent = transmitted(job)
    worker = {
        "a program of its own": [sys.executable, "-c", OWN_WORKER, str(tmp_path / "worker")],
        "ansible-runner": [runner, "worker"],
        "ansible-runner in a module": [sys.executable, "-m", "ansible_runner", "worker"],
    }[program]
    env = clean_env(nowhere({}))
    worked = subprocess.run(
        worker, env=env, input=sent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    assert b"ansible-runner-nats" not in worked.stdout
    processed = subprocess.run(
        [runner, "process", done.folder],
        env=clean_env(None), input=worked.stdout, capture_output=True, check=False,
    )  # fmt: skip
    assert processed.returncode == 0, processed.stdout + processed.stderr
