"""The console script ``ansible-runner-nats``: native from here on."""

from __future__ import annotations

import sys

from ._native import main as native_main


def main() -> int:
    """Run the command line of this process; return its exit status."""
    return native_main(sys.argv)
