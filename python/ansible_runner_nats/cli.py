"""The console script ``ansible-runner-nats``: native from here on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._native import main as native_main

if TYPE_CHECKING:
    from os import PathLike


def main() -> int:
    """Run the command line of this process; return its exit status."""
    # Python's own handler would wait for the native code to return.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return native_main(sys.argv)


def settings_of(folder: str | PathLike[str]) -> Mapping[str, Any] | str:
    """Return what a job in the private data directory ``folder`` has as its settings, or why it has none.

    ``ansible_runner.config._base.BaseConfig._prepare_env`` reads ``env/settings`` with this loader. Where it
    cannot, the job goes on without any settings; a person wants to know.
    """
    try:
        from ansible_runner.exceptions import ConfigurationError  # noqa: PLC0415 - it takes a while
        from ansible_runner.loader import ArtifactLoader  # noqa: PLC0415
    except ImportError:
        return "ansible-runner is needed to read it, and is not installed here"
    loader = ArtifactLoader(str(folder))
    try:
        settings = loader.load_file("env/settings", Mapping)
    except ConfigurationError:
        # What it says may quote a secret.
        return _why_not(loader, ConfigurationError)
    except (OSError, ValueError, RecursionError) as error:
        # ansible-runner does not expect these: the job fails.
        return f"ansible-runner cannot read it ({type(error).__name__})"
    return settings if isinstance(settings, Mapping) else {}


def given_in(folder: str | PathLike[str]) -> dict[str, Any]:
    """Return what a job in the private data directory ``folder`` was given.

    As ``passwords``, ``variables`` and ``key``. What ansible-runner cannot read, the job was not given.
    """
    try:
        from ansible_runner.loader import ArtifactLoader  # noqa: PLC0415 - it takes a while
    except ImportError:
        return {}
    loader = ArtifactLoader(str(folder))
    given: dict[str, Any] = {}
    for name, path, kind in (
        ("passwords", "env/passwords", Mapping),
        ("variables", "env/extravars", Mapping),
        ("key", "env/ssh_key", str),
    ):
        with contextlib.suppress(Exception):
            value = loader.load_file(path, kind)
            given[name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return given


def _why_not(loader: Any, error: type[Exception]) -> Mapping[str, Any] | str:
    try:
        lines = loader.load_file("env/settings", str).splitlines()
    except error:
        return "cannot be read: a job has no settings"
    says_nothing = all(not line.strip() or line.lstrip().startswith(b"#") for line in lines)
    return {} if says_nothing else "neither JSON nor YAML with a mapping in it: a job has no settings"
