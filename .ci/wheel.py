"""Builds the wheel and checks that it holds every module of the repository, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "graphopt": "graphopt",
    "passes": "graphopt/passes",
    "runtime": "graphopt/runtime",
    "examples/recipes": "graphopt/recipes/published",
}


def main() -> int:
    """Returns 0 when wheel and repository agree."""
    with tempfile.TemporaryDirectory() as folder:
        build = ["build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run([sys.executable, "-m", *build], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(folder).glob("*.whl")
        have = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    want = set(repository_files())
    for name in sorted(want - have):
        print(f"missing from the wheel: {name}")  # noqa: T201 - the check's report
    for name in sorted(have - want):
        print(f"in the wheel and not in the repository: {name}")  # noqa: T201
    return int(have != want)


def repository_files() -> list[str]:
    """What the wheel has to hold, under the names it has there."""
    return [
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


if __name__ == "__main__":
    raise SystemExit(main())
