"""A playbook run with NATS options given in code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_runner import RunnerConfig


def run_playbook(
    config: RunnerConfig,
    nats_subject_id: str | None = None,
    nats_options: Mapping[str, Any] | None = None,
    nats_headers: Mapping[str, Any] | None = None,
) -> tuple[str, int]:
    """Prepare ``config``, run it, and return the final status and the exit status.

    What is given here replaces the setting of the same name; environment variables still win over both.
    An empty ``nats_subject_id`` or ``nats_headers`` leaves the setting as it is.
    """
    from ansible_runner import Runner  # noqa: PLC0415 - imports this package

    config.prepare()
    if nats_options is not None:
        config.settings["nats_options"] = dict(nats_options)
    if nats_headers:
        config.settings["nats_headers"] = dict(nats_headers)
    if nats_subject_id:
        config.settings["nats_subject_id"] = nats_subject_id
    status, exit_status = Runner(config).run()
    return str(status), int(exit_status)
