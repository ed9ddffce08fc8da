"""The console script ``ansible-runner-nats``: native from here on."""

from __future__ import annotations

import signal
import sys

from ._native import main as native_main


def main() -> int:
    """Run the command line of this process; return its exit status."""
    # Python's own handler would wait for the native code to return.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return native_main(sys.argv)
