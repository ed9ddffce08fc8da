"""Publishes ansible-runner's events and status updates to NATS.

ansible-runner finds this module through the entry-point group ``ansible_runner.plugins`` and calls
:func:`event_handler` and :func:`status_handler` for every run. Importing it costs next to nothing: the native
library is loaded with the first message of a run that is enabled.
"""

from .handlers import event_handler, status_handler

__all__ = ["event_handler", "status_handler"]

__version__ = "1.0.0.dev0"
