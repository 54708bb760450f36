"""The tools we are measured against, each as a function from a ModelProto to a ModelProto.

Run as a command, this module runs one tool on one file and prints what it cost as JSON; a benchmark
calls it in a process of its own, so that a crash or an endless loop is a result, not an end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser


def graphopt(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, float]]:
    """The default pipeline; verification is paid and shown apart."""
    from graphopt.frontends.normal_form import normalize
    from graphopt.ir.proto import to_proto
    from graphopt.oracle import Oracle
    from graphopt.pipeline import Pipeline
    from graphopt.registry import default_passes

    started = time.process_time()
    graph = normalize(model)
    reading = time.process_time() - started
    oracle = Oracle(graph)
    outcome = Pipeline(default_passes()).run(graph, oracle=oracle)
    started = time.process_time()
    result, _ = to_proto(outcome.graph)
    writing = time.process_time() - started
    passes = sum(r.seconds for r in outcome.results)
    verifying = sum(r.verify_seconds for r in outcome.results)
    return result, {"cpu_s": reading + passes + writing, "verify_cpu_s": verifying}


def onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxsim.simplify with its defaults."""
    import onnxsim as tool

    return tool.simplify(model)[0]


def onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxslim.slim with its defaults."""
    import onnxslim as tool

    return tool.slim(model)


def onnxoptimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxoptimizer with its fuse-and-eliminate passes."""
    import onnxoptimizer as tool

    return tool.optimize(model, tool.get_fuse_and_elimination_passes())


def onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxscript.optimizer.optimize with its defaults."""
    from onnxscript import optimizer

    return optimizer.optimize(model)


def ort_basic(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's offline optimizer at the level that stays in the standard domain."""
    return _ort(model, "ORT_ENABLE_BASIC")


def ort_extended(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's offline optimizer with its own operators (com.microsoft)."""
    return _ort(model, "ORT_ENABLE_EXTENDED")


def _ort(model: onnx.ModelProto, level: str) -> onnx.ModelProto:
    import tempfile

    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


TOOLS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "graphopt": graphopt,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxoptimizer": onnxoptimizer,
    "onnxscript": onnxscript,
    "ort-basic": ort_basic,
    "ort-extended": ort_extended,
}


def main() -> None:
    """`python -m benchmarks.peers TOOL IN OUT`: imports first, so that they are not counted."""
    tool, source, target = sys.argv[1:]
    model = onnx.load(source)
    TOOLS[tool](onnx.parser.parse_model(_WARM_UP))
    started = time.process_time()
    result = TOOLS[tool](model)
    cost = {"cpu_s": time.process_time() - started}
    if isinstance(result, tuple):
        result, cost = result
    onnx.save(result, target)
    print(json.dumps(cost))


# Has something for everyone to do, so that whatever a tool imports late is imported before the clock.
_WARM_UP = """<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y)
{ a = Dropout (x)  s = Shape (a)  b = Reshape (a, s)  c = Identity (b)  y = Neg (c) }"""

if __name__ == "__main__":
    main()
