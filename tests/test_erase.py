"""docs/operations.md, "Erase a run": from the artifacts, the spool and the stream; nothing brings it back."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from support import Bus, Job, Server, cli, command

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parent.parent / "docs/operations.md").read_text()
SECRET = "canary-to-be-erased"
PLAYBOOK = f"""
- hosts: all
  gather_facts: false
  tasks:
    - {{name: say, ansible.builtin.debug: {{msg: {SECRET}}}}}
"""


def texts(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_run_is_erased(
    start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(jetstream=True)
    bus = connect(server)
    bus.add_stream(duplicate_window=0.1)
    spool = tmp_path / "spool"
    env = {
        "RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_SPILL_DIR": str(spool), "RUNNER_NATS_FLUSH_TIMEOUT": "0.5",
    }  # fmt: skip
    job = Job(tmp_path / "job", playbook=PLAYBOOK)

    def run(ident: str) -> None:
        assert cli("run", job.folder, "-p", "play.yml", "--ident", ident, "-q", env=env).returncode == 0

    run("rollout-42")
    run("rollout-421")
    assert SECRET in command("logs", "rollout-42", "-s", server.url).stdout
    # Something of it waits in the spool, too.
    server.kill()
    run("rollout-42")
    assert any(path.name.startswith("rollout-42-") for path in spool.iterdir())
    server.start()

    (subject,) = re.findall(r"nats stream purge RUNS --subject '([^']+)'", PAGE)
    shutil.rmtree(job.folder / "artifacts/rollout-42")
    for folder in spool.glob("rollout-42-*"):
        shutil.rmtree(folder)
    bus.run(bus.client.jetstream(timeout=10).purge_stream("RUNS", subject=subject))

    # The next run of that folder brings nothing back, and neither does `replay`.
    job.playbook = PLAYBOOK.replace(SECRET, "another")
    (job.folder / "project/play.yml").write_text(job.playbook)
    run("rollout-43")
    for folder in (job.folder, spool):
        assert command("replay", folder, "--all", env=env).returncode == 0
    idents = {run["runner_ident"] for run in json.loads(command("runs", "--json", "-s", server.url).stdout)}
    assert idents == {"rollout-421", "rollout-43"}
    assert command("logs", "rollout-42", "-s", server.url).returncode == 1
    assert command("grep", SECRET, "-l", "-s", server.url).stdout.split()[1:2] == ["rollout-421"]
    with suppress(FileNotFoundError):
        assert SECRET not in texts(spool)
