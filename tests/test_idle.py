"""Installed but not enabled: nothing happens. Enabled but broken: one line, and the job goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support import Job, cli, free_port, python

if TYPE_CHECKING:
    from pathlib import Path


def test_import_loads_nothing() -> None:
    code = """
import sys, os
threads = len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1
import ansible_runner
assert 'nats' in ansible_runner.plugins, ansible_runner.plugins
assert 'ansible_runner_nats._native' not in sys.modules
if os.path.isdir('/proc/self/task'):
    assert len(os.listdir('/proc/self/task')) == threads
assert not [name for name in sys.modules if name.split('.')[0] in ('nats', 'asyncio')], 'heavy'
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_is_not_enabled_loads_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", {"nats_options": {"servers": "nats://127.0.0.1:1"}})
    code = f"""
import sys, threading, ansible_runner
run = ansible_runner.run(private_data_dir={str(job.folder)!r}, playbook='play.yml', quiet=True)
assert run.status == 'successful'
assert 'ansible_runner_nats._native' not in sys.modules
assert threading.active_count() == 1
"""
    done = python(code, env={"RUNNER_NATS_SUBJECT_ID": ""})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_native_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    code = f"""
import sys
sys.modules['ansible_runner_nats._native'] = None
import ansible_runner
for _ in range(2):
    run = ansible_runner.run(private_data_dir={str(job.folder)!r}, playbook='play.yml', quiet=True)
    assert run.status == 'successful', run.status
"""
    done = python(code, env={"RUNNER_NATS_SUBJECT_ID": "id"})
    assert done.returncode == 0
    assert done.stderr.startswith("ansible-runner-nats: cannot load the native library, nothing is published")
    assert done.stderr.count("\n") == 1


def test_the_worker_stream_stays_clean(tmp_path: Path) -> None:
    """Standard output belongs to the worker's stream: what we say goes to standard error."""
    job = Job(tmp_path / "job")
    transmitted = cli("transmit", job.folder, "-p", "play.yml").stdout
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id",
        "RUNNER_NATS_SERVERS": f"nats://127.0.0.1:{free_port()}",
        "RUNNER_NATS_FLUSH_TIMEOUT": "0.1",
    }
    worked = cli("worker", env=env, input=transmitted)
    assert worked.returncode == 0
    assert "ansible-runner-nats:" in worked.stderr
    lines = worked.stdout.encode(errors="surrogateescape").split(b"\n")
    assert json.loads(lines[0])["status"] == "starting"
    assert b"ansible-runner-nats:" not in worked.stdout.encode(errors="surrogateescape")
