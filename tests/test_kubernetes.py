"""examples/kubernetes: the API's schemas take it, and processes do what docs/kubernetes.md says."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import kubernetes_validate
import pytest
import yaml
from support import (
    Bus,
    Job,
    Server,
    bin_dir,
    clean_env,
    counters,
    free_port,
    is_end,
    of_run,
    processes_of,
    statuses_of,
    wait_until,
)
from test_recovery import LONG, SHORT, events_in

FOLDER = Path(__file__).parent.parent / "examples/kubernetes"
MANIFESTS = [
    (path.name, document)
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
#: The oldest version of Kubernetes that is maintained, and the newest one that the package knows.
VERSIONS = ["1.34", "1.37"]

Manifest = dict[str, Any]


def manifest(file: str, kind: str) -> Manifest:
    found: Manifest
    (found,) = [document for name, document in MANIFESTS if name == file and document["kind"] == kind]
    return found


def pod_of(document: Manifest) -> Manifest:
    pod: Manifest = document["spec"]["template"]["spec"]
    return pod


JOB = pod_of(manifest("job.yaml", "Job"))
SERVE = pod_of(manifest("serve.yaml", "Deployment"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "document"), MANIFESTS, ids=lambda one: one if isinstance(one, str) else one["kind"]
)
def test_the_schemas_take_it(name: str, document: Manifest, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)
    wrong = copy.deepcopy(document)
    wrong["spec"]["hostnam"] = name
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("document", [manifest("job.yaml", "Job"), manifest("service.yaml", "StatefulSet")])
def test_what_is_mounted_is_there_and_outlives_the_pod(document: Manifest) -> None:
    pod = pod_of(document)
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
    lasting = claims | {name for name, volume in volumes.items() if "persistentVolumeClaim" in volume}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes) | claims
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    kept = [name for path, name in mounts.items() if Path(env["RUNNER_NATS_SPILL_DIR"]).is_relative_to(path)]
    assert kept
    assert set(kept) <= lasting
    assert Path(env["RUNNER_NATS_USER_CREDENTIALS"]).parent.as_posix() in mounts
    # A Job's pods have a name of their own each time.
    assert "hostname" in pod or document["kind"] == "StatefulSet"
    assert pod["terminationGracePeriodSeconds"] > 2 * float(env.get("RUNNER_NATS_FLUSH_TIMEOUT", 5))


#: Runs a program with a host name and processes of its own: these end with it.
CONTAINER = ["unshare", "--uts", "--pid", "--fork", "--mount-proc"]


class Pod:
    """The container of job.yaml, as far as a process can be one."""

    def __init__(
        self, server: Server, job: Job, name: str, spool: Path, hostname: str = JOB["hostname"]
    ) -> None:
        (container,) = JOB["containers"]
        env = {variable["name"]: variable.get("value", name) for variable in container["env"]}
        for name_of_file in ("RUNNER_NATS_USER_CREDENTIALS", "RUNNER_NATS_INBOX_PREFIX"):
            del env[name_of_file]
        env.update(RUNNER_NATS_SERVERS=server.url, RUNNER_NATS_SPILL_DIR=str(spool))
        args = [arg.replace("$(POD_NAME)", name) for arg in container["args"]]
        args = [str(job.folder) if arg == "/runner" else arg for arg in args]
        begin = ["sh", "-c", 'hostname "$0" && exec "$@"', hostname]
        self.process = subprocess.Popen(
            [*CONTAINER, *begin, bin_dir() / "ansible-runner", *args],
            env=clean_env(env),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        """As `kubectl delete` does: the first process of the container is told."""
        os.kill(processes_of(self.process.pid)[1], signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said, within the time that it is given."""
        _, said = self.process.communicate(timeout=JOB["terminationGracePeriodSeconds"])
        return self.process.returncode, said


def can_contain() -> bool:
    done = subprocess.run([*CONTAINER, "hostname", "x"], capture_output=True, check=False)
    return done.returncode == 0


contained = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not can_contain(), reason="nothing can be contained here"
)


def project(folder: Path, playbook: str) -> Job:
    job = Job(folder)
    (folder / "project/site.yml").write_text(playbook)
    return job


@contained
def test_termination(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """SIGTERM: the job is canceled, and NATS hears of it before the pod is gone."""
    server, bus = stored
    job = project(tmp_path / "job", LONG)
    pod = Pod(server, job, "rollout-1", tmp_path / "spool")
    wait_until(lambda: len(events_in(job, "rollout-1")) > 20, "some events")
    pod.stop()
    status, said = pod.end()
    assert (status != 0, "LOST" in said) == (True, False), said
    mine = of_run(bus.stream_messages(), "rollout-1")
    assert statuses_of(mine)[-1] == "canceled"
    assert any(map(is_end, mine))


@contained
@pytest.mark.parametrize("volume", ["lasts", "is empty each time"])
def test_nats_is_away_until_the_pod_is_gone(stored: tuple[Server, Bus], tmp_path: Path, volume: str) -> None:
    server, bus = stored
    server.kill()
    spool = tmp_path / "spool"
    first = project(tmp_path / "first", SHORT)
    status, said = Pod(server, first, "rollout-1", spool).end()
    assert (status, "kept in" in said) == (0, True), said
    events = [event["counter"] for event in events_in(first, "rollout-1")]
    shutil.rmtree(first.folder)
    if volume != "lasts":
        shutil.rmtree(spool)
    server.start()
    # A pod with another name leaves it alone.
    assert Pod(server, project(tmp_path / "other", SHORT), "rollout-2", spool, "other").end()[0] == 0
    assert of_run(bus.stream_messages(), "rollout-1") == []
    assert Pod(server, project(tmp_path / "next", SHORT), "rollout-3", spool).end()[0] == 0
    mine = of_run(bus.stream_messages(), "rollout-1")
    expected = (events, ["starting", "running", "successful"]) if volume == "lasts" else ([], [])
    assert (counters(mine), statuses_of(mine)) == expected


def test_the_probes_of_the_page(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    (container,) = SERVE["containers"]
    token, port = tmp_path / "token", free_port()
    token.write_text("a-token-that-is-long-enough-4711\n")
    token.chmod(0o600)

    def of_test(text: str) -> str:
        for old, new in ((":9464", f":{port}"), ("/etc/serve/token", str(token)), ("0.0.0.0", "127.0.0.1")):
            text = text.replace(old, new)
        return text

    serve = subprocess.Popen(
        [bin_dir() / container["command"][0], *map(of_test, container["args"])],
        env=clean_env({"RUNNER_NATS_SERVERS": server.url}),
        stderr=subprocess.DEVNULL,
    )
    probe = container["readinessProbe"]["httpGet"]
    assert probe["port"] == container["livenessProbe"]["tcpSocket"]["port"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == 9464

    def is_ready() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}{probe['path']}") as answer:
                status: int = answer.status
                return 200 <= status < 400
        except OSError:
            return False

    def is_alive() -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(is_ready, "the probe to say yes")
        assert is_alive()
        server.kill()
        wait_until(lambda: not is_ready(), "the probe to say no")
        assert is_alive()
        server.start()
        wait_until(is_ready, "the probe to say yes again")
    finally:
        serve.terminate()
        serve.wait()
