"""What ansible-runner calls: forwards dicts to the native emitter, and never lets an exception out.

But for one, which the user asks for: with the option ``required`` a job does not start without a connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._native import Emitter

logger = logging.getLogger("ansible-runner.nats")

#: The states that end a run; ``error`` comes from ``ansible-runner process`` alone.
END_STATES = frozenset({"successful", "failed", "canceled", "timeout", "error"})

#: How many different internal errors a process tells.
MOST_CONTAINED = 20

#: How long the end of the interpreter waits for runs that did not end themselves, in seconds.
EXIT_TIMEOUT = 5.0

#: One emitter per run, by the ``id`` of its configuration object, which is watched lest the id be used again.
_emitters: dict[int, tuple[Any, Emitter]] = {}

#: The process in which the end of the interpreter is watched: a forked child has to do it again.
_watched_pid: int | None = None

#: Why the native library could not be loaded: said once.
_broken: str | None = None

#: Internal errors that were told: one line a cause, not one an event.
_contained: set[str] = set()


def event_handler(runner_config: Any, data: dict[str, Any]) -> None:
    """Publish one event (called by ``ansible_runner.runner.Runner.event_callback``)."""
    try:
        if _is_enabled(runner_config):
            _publish(runner_config, "event", data)
    except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
        _contain(exception)


def status_handler(runner_config: Any, data: dict[str, Any]) -> None:
    """Publish one status (called by ``ansible_runner.runner.Runner.status_callback``).

    The status that ends a run waits until the server has confirmed everything, at most ``flush_timeout``.

    :raises ansible_runner_nats.NatsRequiredError: at ``starting``, if ``required`` is set and there is no
        connection.
    """
    refusal = None
    try:
        if _is_enabled(runner_config):
            if data.get("status") == "starting":
                refusal = _refuse_start(runner_config)
            if refusal is None:
                try:
                    _publish(runner_config, "status", data)
                finally:
                    if _is_end(data.get("status")):
                        _finish(runner_config)
    except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
        _contain(exception)
    if refusal is not None:
        from .exceptions import NatsRequiredError  # noqa: PLC0415 - ansible_runner may not be imported yet

        message = f"the job was not started: NATS is required (RUNNER_NATS_REQUIRED), but {refusal}"
        raise NatsRequiredError(message)


def _is_enabled(runner_config: Any) -> bool:
    if os.environ.get("RUNNER_NATS_SUBJECT_ID"):
        return True
    settings = getattr(runner_config, "settings", None)
    return isinstance(settings, Mapping) and bool(settings.get("nats_subject_id"))


def _is_end(status: object) -> bool:
    return isinstance(status, str) and status in END_STATES


def _publish(runner_config: Any, kind: str, data: dict[str, Any]) -> None:
    entry = _emitters.get(id(runner_config))
    emitter = entry[1] if entry is not None else _create(runner_config)
    if emitter is not None:
        if _watched_pid != os.getpid():
            # A forked child that goes on with its parent's run.
            _watch_exit()
        notices = emitter.publish(kind, data)
        if notices:
            _tell(notices)


def _refuse_start(runner_config: Any) -> str | None:
    """Why the job must not start."""
    entry = _emitters.get(id(runner_config))
    emitter = entry[1] if entry is not None else _create(runner_config)
    if emitter is None:
        return _broken if _asks_for_required(runner_config) else None
    refusal = emitter.refuse_start()
    if refusal is not None:
        _emitters.pop(id(runner_config), None)
    return refusal


def _asks_for_required(runner_config: Any) -> bool:
    """Whether ``required`` is set, when the native library is not there to say."""
    settings = getattr(runner_config, "settings", None)
    options = settings.get("nats_options") if isinstance(settings, Mapping) else None
    setting = options.get("required") if isinstance(options, Mapping) else None
    asked = os.environ.get("RUNNER_NATS_REQUIRED") or setting
    return str(asked).strip().lower() in {"true", "yes", "y", "1", "on"}


def _finish(runner_config: Any) -> None:
    entry = _emitters.pop(id(runner_config), None)
    if entry is not None:
        _tell(entry[1].finish())


def _create(runner_config: Any) -> Emitter | None:
    global _broken  # noqa: PLW0603
    if _broken is not None:
        return None
    try:
        from . import _native  # noqa: PLC0415 - not before a run is enabled
    except ImportError as error:
        _broken = f"cannot load the native library, nothing is published: {error}"
        _tell([(logging.ERROR, _broken)])
        return None
    ident = getattr(runner_config, "ident", None)
    artifact_dir = getattr(runner_config, "artifact_dir", None)
    emitter = _native.Emitter(
        getattr(runner_config, "settings", None) or {},
        None if ident is None else str(ident),
        None if artifact_dir is None else os.fspath(artifact_dir),
    )
    key = id(runner_config)

    def forget(_: object) -> None:
        _emitters.pop(key, None)

    watched: Any
    try:
        watched = weakref.ref(runner_config, forget)
    except TypeError:
        watched = runner_config
    return _emitters.setdefault(key, (watched, emitter))[1]


def _watch_exit() -> None:
    """Let the end of this process deliver what runs without an end state have left."""
    global _watched_pid  # noqa: PLW0603
    _watched_pid = os.getpid()

    from ._native import shut_down  # noqa: PLC0415 - loaded already

    def at_exit() -> None:
        try:
            _tell(shut_down(EXIT_TIMEOUT))
        except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
            _contain(exception)

    import atexit  # noqa: PLC0415 - only when enabled

    atexit.register(at_exit)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Its children leave through os._exit, past atexit, but not past this.
        util.Finalize(None, at_exit, exitpriority=100)


def _tell(notices: Iterable[tuple[int, str]]) -> None:
    """Log; a problem that no handler would show goes to standard error.

    ansible-runner's command line sets the root logger to level 99 (``ansible_runner.output.configure``):
    nothing that a plugin logs would be seen, and standard output may carry the worker's stream.
    """
    for level, text in notices:
        if level < logging.WARNING or _is_shown(level):
            logger.log(level, "%s", text)
        elif sys.stderr is not None:  # print would take None for standard output
            print(f"ansible-runner-nats: {text}", file=sys.stderr)  # noqa: T201


def _is_shown(level: int) -> bool:
    if not logger.isEnabledFor(level):
        return False
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            if not isinstance(handler, logging.NullHandler) and handler.level <= level:
                return True
        current = current.parent if current.propagate else None
    return False


def _contain(exception: BaseException) -> None:
    """Keep a failure of ours from the job; pass on what is not ours (Ctrl-C, exit)."""
    if isinstance(exception, Exception):
        text = f"internal error: {type(exception).__name__}: {exception}"
    elif type(exception).__module__ == "pyo3_runtime":
        # The message of a panic may quote what it stumbled over.
        text = "internal error in the native library"
        with contextlib.suppress(ImportError):
            from ._native import last_panic  # noqa: PLC0415 - loaded already

            text = f"{text} at {last_panic()}"
    else:
        raise exception
    with contextlib.suppress(Exception):  # nobody left to tell
        if text not in _contained and len(_contained) < MOST_CONTAINED:
            _contained.add(text)
            _tell([(logging.ERROR, text)])
