"""Runs mypy over the package as it is installed.

`passes/` and `runtime/` stand at the top of the repository and are mapped into the package, which
mypy cannot know; a temporary tree of links shows it the package as one folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Returns mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "graphopt"
        package.mkdir()
        for entry in (ROOT / "graphopt").iterdir():
            (package / entry.name).symlink_to(entry)
        for name in ("passes", "runtime"):
            (package / name).symlink_to(ROOT / name)
        command = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "graphopt"]
        return subprocess.run([sys.executable, "-m", *command], cwd=folder, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
