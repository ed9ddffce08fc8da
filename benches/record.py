"""Records the corpus of the benchmarks: the events of a real job, without what is this machine's alone.

``python benches/record.py`` runs ``corpus.yml`` and writes ``corpus.jsonl.xz``, one event a line.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import ansible_runner

HERE = Path(__file__).parent
CORPUS = HERE / "corpus.jsonl.xz"
HOSTS = ("web1", "web2", "web3", "db1", "db2", "cache1")
#: Facts that are about this machine, or about whoever uses it.
PRIVATE = re.compile(
    r"ansible_(env|user|real_user|effective|hostname|fqdn|nodename|domain|machine_id|ssh|all_ip|default_ip"
    r"|product|system_vendor|board|bios|chassis|dns|local|cmdline|proc_cmdline|mounts|iscsi|hostnqn|python"
    r"|eth|ens|enp|veth|br)"
)
#: Nothing of an event is larger, as nats-server's default `max_payload` is.
MOST = 1_000_000


def sanitised(value: Any, names: dict[str, str]) -> Any:
    """A copy in which nothing names this machine."""
    if isinstance(value, dict):
        return {key: sanitised(item, names) for key, item in value.items() if not PRIVATE.match(key)}
    if isinstance(value, list):
        return [sanitised(item, names) for item in value]
    if isinstance(value, str):
        for name, replacement in names.items():
            value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", replacement, value)
    return value


def main() -> int:
    """Run the playbook, write the corpus, and say what is in it."""
    events: list[dict[str, Any]] = []

    def keep(event: dict[str, Any]) -> bool:
        events.append(event)
        return False

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        run = ansible_runner.run(
            private_data_dir=folder,
            playbook=shutil.copy(HERE / "corpus.yml", folder),
            project_dir=folder,
            inventory={"all": {"hosts": {host: {"ansible_connection": "local"} for host in HOSTS}}},
            # ansible-runner empties a larger result; its default is 700,000 characters.
            envvars={
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                "ANSIBLE_FORKS": "1",
                "MAX_EVENT_RES": str(MOST),
            },
            event_handler=keep,
            ident="7d0c4f06-5a0e-4f0f-8f3c-2f1f6f1b9c11",
            quiet=True,
        )
        names = {
            folder: "/srv/runner/site",
            sys.executable: "/usr/bin/python3",
            sys.prefix: "/usr",
            os.uname().nodename: "controller",
            str(Path.home()): "/home/runner",
        }
    if run.status != "successful":
        print(f"the job is {run.status}", file=sys.stderr)
        return 1
    clean = [sanitised(event, names) for event in events]
    lines = [json.dumps(event, ensure_ascii=False) for event in clean]
    lines = [line for line in lines if len(line.encode()) <= MOST]
    with lzma.open(CORPUS, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as file:
        file.write("\n".join(lines) + "\n")
    sizes = sorted(len(line.encode()) for line in lines)
    print(f"{len(sizes)} events, {sizes[0]} to {sizes[-1]} bytes, median {sizes[len(sizes) // 2]}")
    print(f"{sum(sizes)} bytes in all, {CORPUS.stat().st_size} bytes in {CORPUS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
