"""What this package raises on purpose."""

from __future__ import annotations

from ansible_runner.exceptions import AnsibleRunnerException


class NatsRequiredError(AnsibleRunnerException):  # type: ignore[misc]
    """The option ``required`` is set and the status ``starting`` was not confirmed: the job was not started.

    The only exception that a handler ever raises, and only at the status ``starting``.
    """
