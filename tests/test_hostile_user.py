"""Somebody else with write access to the spool and to artifacts, at work while jobs run and `replay` does.

``HOSTILE_SECONDS=600`` for as long as one likes; a few seconds find what is found at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support import Bus, Server, clean_env, command

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "6"))
NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

#: What he does, over and over: whatever could be a name of ours is something else, in his folders and ours.
MISCHIEF = """
import contextlib, json, os, random, sys, time
spool, artifacts, victim, seconds = sys.argv[1:5]
os.setgid({nobody}); os.setuid({nobody})
rng = random.Random(4711)
NAMES = ['nats-run.json', 'nats-run.1.json', 'nats-undelivered.jsonl', 'nats-overflow.jsonl',
         'nats-damaged.jsonl', '.nats-undelivered.jsonl.sent', 'job_events', 'status', 'command', 'stdout']
LINE = json.dumps({{'subject': 'pub.ansible.runner.id.owned.event', 'headers': [['Nats-Msg-Id', 'owned']],
                   'payload': '{{"owned": 1}}'}}) + '\\n'
RECORD = json.dumps({{'version': 1, 'subject_id': 'id', 'runner_ident': 'owned', 'state': 'ended',
                     'host': os.uname()[1], 'destination': {{'servers': [sys.argv[5]], 'login': None}},
                     'undelivered': 1, 'artifact_dir': artifacts + '/ours', 'accepted': 1}})
def text(): return rng.choice([LINE, LINE[:30], RECORD, '{{"status": "owned"}}', 'owned'])
def put(path):
    kind = rng.randrange(7)
    if kind == 0: os.symlink(victim, path)
    elif kind == 1: os.mkfifo(path)
    elif kind == 2: os.symlink('/dev/zero', path)
    elif kind == 3:
        with open(path, 'x') as file: file.truncate(3 << 30)
    elif kind == 4: os.mkdir(path)
    elif kind == 5: os.symlink(rng.choice([spool, artifacts, '/etc']), path)
    else:
        with open(path, 'x') as file: file.write(text())
deadline = time.monotonic() + float(seconds)
while time.monotonic() < deadline:
    for root in (spool, artifacts):
        with contextlib.suppress(OSError):
            folders = [os.path.join(root, name) for name in os.listdir(root)]
            own = os.path.join(root, 'owned-%d' % rng.randrange(20))
            folders.append(own)
            with contextlib.suppress(OSError): os.mkdir(own, 0o777)
            folder = rng.choice(folders)
            path = os.path.join(folder, rng.choice(NAMES))
            what = rng.randrange(4)
            if what == 0: put(path)
            elif what == 1: os.remove(path)
            elif what == 2: os.rename(path, path + '.x')
            else: os.rename(folder, own + 'x')
"""

#: A service: a run after the other, whose handlers are timed; what they say is of no interest here.
SERVICE = """
import json, os, sys, time, types
from ansible_runner_nats import event_handler, status_handler
url, spool, artifacts, seconds = sys.argv[1:5]
deadline, number, slowest = time.monotonic() + float(seconds), 0, 0.0
while time.monotonic() < deadline:
    number += 1
    options = {'servers': url, 'spill_dir': spool, 'flush_timeout': 0.2, 'reconnect_time_wait': 0.05}
    config = types.SimpleNamespace(
        settings={'nats_subject_id': 'id', 'nats_options': options}, ident=f'ours-{number}',
        artifact_dir=os.path.join(artifacts, f'ours-{number}'))
    for counter in range(50):
        began = time.perf_counter()
        data = {'counter': counter, 'uuid': f'u{counter}', 'event': 'verbose', 'stdout': 'x' * 500}
        event_handler(config, data)
        slowest = max(slowest, time.perf_counter() - began)
    status_handler(config, {'status': 'successful'})
print(number, slowest)
"""


def test_nothing_of_his_is_published_and_nothing_of_ours_is_changed(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    server, _ = stored
    for path in [tmp_path, *tmp_path.parents][:-2]:
        path.chmod(path.stat().st_mode | 0o755)
    spool, artifacts, victim = tmp_path / "spool", tmp_path / "artifacts", tmp_path / "victim"
    for folder, mode in ((spool, 0o1777), (artifacts, 0o777)):
        folder.mkdir()
        folder.chmod(mode)
    victim.write_text("precious")
    victim.chmod(0o600)
    mischief = MISCHIEF.format(nobody=NOBODY)
    env = clean_env({"RUNNER_NATS_SUBJECT_ID": "id"})
    started: list[subprocess.Popen[str]] = [
        subprocess.Popen(
            [sys.executable, "-c", mischief, spool, artifacts, victim, str(SECONDS), server.url], text=True
        ),
        subprocess.Popen(
            [sys.executable, "-c", SERVICE, server.url, spool, artifacts, str(SECONDS)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
        ),
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            # What is kept while the server is away is taken up by the next run, and by a person.
            server.kill()
            time.sleep(0.5)
            server.start()
            done = command("replay", spool, "-s", server.url, env={"RUNNER_NATS_SUBJECT_ID": "id"})
            assert done.returncode in {0, 1}, done.stderr
    finally:
        outputs = [process.communicate()[0] for process in started]
    assert started[0].returncode == 0
    number, _slowest = outputs[1].split()
    assert int(number) > 1
    assert any(path.name.startswith("owned") for path in spool.iterdir())
    assert victim.read_text() == "precious"
    # The fixture's client has lost its server too often by now.
    reader = Bus(server.url)
    messages = reader.stream_messages()
    reader.close()
    assert not [message for message in messages if b"owned" in message.data or "owned" in message.subject]
    idents = {message.subject.split(".")[4] for message in messages}
    assert idents
    assert all(ident.startswith("ours-") for ident in idents), idents
    bodies = [json.loads(message.data) for message in messages]
    assert all("counter" in body or "status" in body for body in bodies)
