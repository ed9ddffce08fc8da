"""What is installed: names, versions, the entry point, the console script."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata, resources

import ansible_runner
import ansible_runner_nats
from ansible_runner_nats import _native
from support import bin_dir, python


def test_names_and_versions() -> None:
    distribution = metadata.distribution("ansible-runner-nats")
    assert distribution.version == ansible_runner_nats.__version__
    assert distribution.version == _native.VERSION
    assert distribution.requires is None
    assert resources.files("ansible_runner_nats").joinpath("py.typed").is_file()


def test_ansible_runner_finds_the_plugin() -> None:
    assert ansible_runner.plugins["nats"] is ansible_runner_nats


def test_console_script() -> None:
    program = bin_dir() / "ansible-runner-nats"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ansible-runner-nats {_native.VERSION}\n"
    bad = subprocess.run([program, "--nonsense"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "--nonsense" in bad.stderr


def test_console_script_needs_no_ansible_runner() -> None:
    code = "import sys; sys.argv = ['x', '--version']\n"
    code += "from ansible_runner_nats.cli import main\nassert main() == 0\n"
    code += "assert 'ansible_runner' not in sys.modules"
    assert python(code).returncode == 0


def test_a_closed_pipe_is_no_crash() -> None:
    program = bin_dir() / "ansible-runner-nats"
    command = f"{program} --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert int(done.stdout) in (0, 141)


def test_every_public_name_has_a_docstring() -> None:
    for module in (ansible_runner_nats, sys.modules["ansible_runner_nats.handlers"]):
        assert module.__doc__
    for function in (ansible_runner_nats.event_handler, ansible_runner_nats.status_handler):
        assert function.__doc__


if sysconfig.get_config_var("Py_GIL_DISABLED"):

    def test_a_free_threaded_interpreter_switches_the_gil_on() -> None:
        """Without it a forked child could find our locks taken."""
        code = "import sys, ansible_runner_nats\nassert not sys._is_gil_enabled()\n"
        code += "from ansible_runner_nats import _native\nassert sys._is_gil_enabled()"
        done = python(code)
        assert (done.returncode, "GIL" in done.stderr) == (0, True), done.stderr
