"""Prints the path of each CPython from 3.9 on that is installed: on PATH, and where pyenv keeps them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

OLDEST, NEWEST = 9, 14


def main() -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(OLDEST, NEWEST + 1):
        name = f"python3.{minor}"
        candidates = [str(path) for path in sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"))]
        candidates += filter(None, [shutil.which(name)])
        # pyenv's shims exist for versions that are not selected, and fail.
        works = [
            p
            for p in candidates
            if subprocess.run([p, "-c", ""], capture_output=True, check=False).returncode == 0
        ]
        if works:
            print(works[0])


if __name__ == "__main__":
    main()
