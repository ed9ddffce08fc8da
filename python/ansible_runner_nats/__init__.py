"""Publishes ansible-runner's events and status updates to NATS.

ansible-runner finds this module through the entry-point group ``ansible_runner.plugins`` and calls
:func:`event_handler` and :func:`status_handler` for every run. Importing it costs next to nothing: the native
library is loaded with the first message of a run that is enabled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .handlers import event_handler, report, status_handler

if TYPE_CHECKING:
    from .exceptions import NatsRequiredError

__all__ = ["NatsRequiredError", "event_handler", "report", "status_handler"]

__version__ = "1.0.0.dev0"


def __getattr__(name: str) -> Any:
    """Import the exception when somebody asks for it: its base class is ansible-runner's."""
    if name == "NatsRequiredError":
        from .exceptions import NatsRequiredError  # noqa: PLC0415 - see above

        return NatsRequiredError
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
