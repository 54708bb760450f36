"""The tools we are measured against, each in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "out" / "bench"
PACKAGES = {
    "torch-pruning": ["torch>=2.8,<2.14", "torch-pruning", "numpy", "onnx"],
    # For ONNX files, which onnx2torch makes modules of.
    "torch-pruning-onnx": [
        *("torch>=2.8,<2.14", "torch-pruning==1.6.1", "onnx2torch==1.5.15", "numpy", "onnx"),
    ],
    "onnxruntime": ["onnxruntime>=1.20", "onnx", "numpy", "sympy"],
    "nncf": ["nncf==3.4.0", "onnx", "onnxruntime>=1.20", "numpy"],
    # The last version that takes ONNX files, with the packages of its time.
    "neural-compressor": [
        *("neural-compressor==2.6", "onnx==1.16.2", "onnxruntime==1.18.1", "numpy<2"),
        *("setuptools<80", "protobuf<5", "six"),
    ],
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
