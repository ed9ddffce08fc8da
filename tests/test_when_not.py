"""When a command must not say yes, or not what it looks like at first: real runs of the odd kinds."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    Bus,
    Job,
    Server,
    bin_dir,
    clean_env,
    cli,
    command,
    counters,
    kill_tree,
    of_run,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ODD = """
- hosts: one
  gather_facts: false
  tasks:
    - name: packages
      packages:
        broken: "{{ broken | default(false) | bool }}"
        changed: "{{ changes | default(false) | bool }}"
    - name: guarded
      block:
        - name: the real one
          ansible.builtin.fail: {msg: the disk is broken}
          when: fails | default(false) | bool
      always:
        - name: guarded cleanup
          block:
            - name: cleanup
              ansible.builtin.fail: {msg: nothing to clean up}
          rescue:
            - name: never mind
              ansible.builtin.debug: {msg: fine}
"""

#: Its result has the shape of that of `dnf`: `results` are texts.
PACKAGES = """
import json
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({"broken": {"type": "bool"}, "changed": {"type": "bool"}})
if module.params["broken"]:
    module.fail_json(msg="Failed to install some of the packages", failures=["x"], results=["a", "b"])
module.exit_json(changed=module.params["changed"], results=["Installed: a"], msg="")
"""


class Shop:
    """One job, and what its commands say."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.env = {"RUNNER_NATS_SUBJECT_ID": "site-a", "RUNNER_NATS_SERVERS": server.url}
        self.job = Job(folder / "job", playbook=ODD)
        library = self.job.folder / "project/library"
        library.mkdir()
        (library / "packages.py").write_text(PACKAGES)

    def run(self, ident: str, *more: str, playbook: str = "play.yml", omits: bool = False) -> None:
        (self.job.folder / "env/cmdline").unlink(missing_ok=True)
        cmdline = ("--cmdline", " ".join(f"-e {one}=true" for one in more)) if more else ()
        options = ("-q", "--omit-event-data") if omits else ("-q",)
        cli("run", self.job.folder, "-p", playbook, "--ident", ident, *options, *cmdline, env=self.env)

    def says(self, *call: str | Path) -> subprocess.CompletedProcess[str]:
        return command(*call, env=self.env)

    def json(self, *call: str) -> Any:
        return json.loads(self.says(*call, "--json").stdout)


@pytest.fixture
def shop(stored: tuple[Server, Bus], tmp_path: Path) -> Shop:
    return Shop(stored[0], tmp_path)


def test_what_modules_return_is_understood(shop: Shop) -> None:
    shop.run("before")
    shop.run("after", "changes")
    done = shop.says("compare", "after", "before")
    assert (done.returncode, done.stdout) == (1, "packages: changed, it was ok: one\n")
    shop.run("broken", "broken")
    assert (
        "failed: one · packages · Failed to install some of the packages"
        in shop.says("show", "broken").stdout
    )


def test_no_real_failure_is_called_rescued(shop: Shop) -> None:
    """Ansible's recap has numbers alone: one was rescued, and one was not."""
    shop.run("run", "fails")
    fates = {failure["task"]: failure["fate"] for failure in shop.json("show", "run")["failures"]}
    assert fates["the real one"] == "failed"
    # Where the numbers tell it, it is told.
    shop.run("good")
    assert [one["fate"] for one in shop.json("show", "good")["failures"]] == ["rescued"]


def test_what_is_not_alike(shop: Shop, stored: tuple[Server, Bus]) -> None:
    _, bus = stored
    shop.run("good")
    (shop.job.folder / "project/wrong.yml").write_text("- hosts: all\n  no_such_key: 1\n")
    shop.run("wrong", playbook="wrong.yml")
    done = shop.says("compare", "wrong", "good")
    assert done.returncode == 1
    assert done.stdout.startswith("the run: failed, it was successful\n")
    assert shop.says("compare", "good", "good").returncode == 0
    # What is missing was not "gone".
    shop.run("holes")
    stream = bus.client.jetstream()
    ends = [m for m in of_run(bus.stream_messages(), "holes") if b'"runner_on_ok"' in m.data]
    for message in ends:
        assert bus.run(stream.delete_msg("RUNS", message.metadata.sequence.stream))
    for pair in (("holes", "good"), ("good", "holes")):
        done = shop.says("compare", *pair)
        assert done.returncode == 1
        assert (
            f"holes is not known as a whole: {len(ends)} of its events are not in the stream" in done.stderr
        )
        assert not any(word in done.stdout for word in (": gone", ": new"))


def test_without_details_nothing_is_alike(shop: Shop) -> None:
    shop.run("one", omits=True)
    shop.run("broken", "broken", omits=True)
    done = shop.says("compare", "broken", "one")
    assert done.returncode == 1
    assert "the run: failed, it was successful" in done.stdout
    assert "its events are without details" in done.stderr
    shown = shop.says("show", "broken").stdout
    assert "failed: one · ? · Failed to install some of the packages" in shown


HANGS = """
- hosts: one
  gather_facts: false
  tasks: [{name: take, ansible.builtin.command: sleep 90}]
"""


@pytest.fixture
def hanging(shop: Shop) -> Iterator[str]:
    (shop.job.folder / "project/hangs.yml").write_text(HANGS)
    process = subprocess.Popen(
        [bin_dir() / "ansible-runner", "run", shop.job.folder, "-p", "hangs.yml", "--ident", "hangs"],
        env=clean_env(shop.env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield "hangs"
    kill_tree(process.pid)
    process.wait()


def test_what_hangs_for_longer_than_one_looks_back(shop: Shop, hanging: str) -> None:
    wait_until(lambda: shop.json("runs") and shop.json("show", hanging)["waiting"], "the run to hang")
    heard = time.monotonic()
    shop.run("over")
    wait_until(lambda: time.monotonic() > heard + 2)
    states = {run["runner_ident"]: run["state"] for run in shop.json("runs", "--since", "1s")}
    assert states[hanging] == "running"
    for odd in ("2100y", "999999y"):
        assert {run["runner_ident"] for run in shop.json("runs", "--since", odd)} == {hanging, "over"}
        assert shop.says("grep", "-l", "TASK", "--since", odd).returncode == 0


def test_what_is_meant_is_not_guessed(shop: Shop) -> None:
    shop.run("nightly")
    shop.run("nightly")
    identities = [run["run_id"] for run in shop.json("runs")]
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*identities))
    common = "".join(one for one, _ in alike)
    done = shop.says("show", common)
    assert done.returncode == 1
    assert all(identity in done.stderr for identity in identities)
    for identity in identities:
        assert shop.json("show", identity[: len(common) + 1])["run_id"] == identity
    done = shop.says("runs", "--since", "1h", "--until", "2h")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is before --since" in done.stderr


def test_an_ident_that_was_used_again_is_replayed_as_the_last_run(
    shop: Shop, stored: tuple[Server, Bus]
) -> None:
    _, bus = stored
    shop.run("nightly", "fails")
    shop.run("nightly")
    before = of_run(bus.stream_messages(), "nightly")
    last = shop.json("show", "nightly")
    mine = [m for m in before if m.headers and m.headers["Ansible-Runner-Run"] == last["run_id"]]
    artifacts = shop.job.folder / "artifacts/nightly"
    for has_record in (True, False):
        bus.run(bus.client.jetstream().delete_stream("RUNS"))
        bus.add_stream()
        if not has_record:
            (artifacts / "nats-run.json").unlink()
        done = shop.says("replay", artifacts)
        assert done.returncode == 0, done.stderr
        assert "are of other runs of that ident" in done.stderr
        assert counters(bus.stream_messages()) == counters(mine)
        shown = shop.json("show", "nightly")
        assert (shown["state"], shown["recap"]) == (last["state"], last["recap"])
