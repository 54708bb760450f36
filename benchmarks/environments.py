"""The pruning tools we are measured against, each in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "out" / "bench"
PACKAGES = {
    "torch-pruning": ["torch>=2.8,<2.14", "torch-pruning", "numpy", "onnx"],
    "onnxsim": ["onnxsim==0.8.1", "onnxruntime>=1.20", "numpy"],
}


def python_of(peer: str) -> Path:
    """The interpreter that has the peer installed; its environment is made when it is missing."""
    folder = BENCH / f"venv-{peer}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", *PACKAGES[peer]]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python
