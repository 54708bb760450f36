"""A trained detector to try things with: a narrow YOLOv3-tiny that finds drawn shapes.

It was trained here, by the command in docs/recipes/README.md, on images anybody can draw
(graphopt.evaluate.readers.shapes). Weights of more than one dimension are stored in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import LoadError, SaveError, UsageError

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

NAME = "shapes-detector"
_FILE = "shapes-detector.safetensors"
# What the file says of itself, and under which name a graph remembers it.
_ABOUT = ("network", "classes", "width", "input-size")


def trained_example() -> Graph:
    """The detector, with what decodes its outputs in its metadata."""
    from graphopt.frontends.normal_form import normalize
    from graphopt.zoo import export

    path = Path(str(resources.files("graphopt.zoo").joinpath(_FILE)))
    about = _about(path)
    model = export(
        about["network"],
        classes=int(about["classes"]),
        width=float(about["width"]),
        input_size=int(about["input-size"]),
        weights=path,
    )
    graph = normalize(model)
    graph.metadata.update({k: v for k, v in about.items() if k.startswith("graphopt.")})
    return graph


def save_weights(graph: Graph, path: Path, about: Mapping[str, Any]) -> None:
    """Writes the parameters of a zoo network's graph as a state dict, with metadata.

    Args:
        graph: as it was exported or trained: with its BatchNormalizations.
        path: a .safetensors file.
        about: "network", "classes", "width" and "input-size".

    Raises:
        UsageError: the graph has not the parameters of that network.
        SaveError: it cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    from graphopt.ir.graph import Constant
    from graphopt.zoo import build

    classes, width = int(about["classes"]), float(about["width"])
    expected = build(str(about["network"]), classes=classes, width=width, untrained=True)
    held = {n: t.values for n, t in graph.tensors().items() if isinstance(t, Constant)}
    state = {}
    for name, value in expected.state_dict().items():
        if name.endswith(".num_batches_tracked"):
            continue
        if name not in held or held[name].shape != tuple(value.shape):
            raise UsageError(
                f"the model has no {name} of shape {tuple(value.shape)}: not this network"
            )
        found = torch.from_numpy(held[name].copy())
        state[name] = found.half() if found.dim() > 1 else found
    kept = {k: v for k, v in graph.metadata.items() if k.startswith("graphopt.")}
    words = {**{k: str(v) for k, v in about.items()}, **kept}
    beside = path.with_suffix(".part")
    try:
        save_file(state, beside, metadata=words)
        beside.chmod(0o644)  # safetensors makes it the writer's alone
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SaveError(f"{path} cannot be written: {error}") from error


def classes_of(graph: Graph, network: str) -> int:
    """How many classes a zoo network's graph has, from the sizes of its outputs.

    Raises:
        UsageError: outputs of another network.
    """
    from graphopt.zoo import spec

    model = spec(network)
    shapes = [list(t.shape or ()) for t in graph.outputs]
    widths = [s[1] for s in shapes if len(s) > 1 and isinstance(s[1], int)]
    if len(widths) != len(model.outputs):
        raise UsageError(f"the model's outputs are not those of {network}")
    if model.task == "classification":
        return int(widths[0])
    # YOLO: three anchors of a box, an objectness and the classes; RetinaNet: nine anchors' classes
    each = widths[0] / 9 if network.startswith("retinanet") else widths[0] / 3 - 5
    if each < 1 or each != int(each):
        raise UsageError(f"the model's outputs are not those of {network}")
    return int(each)


def _about(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = dict(file.metadata() or {})
    missing = [name for name in _ABOUT if name not in about]
    if missing:
        raise LoadError(f"{path} does not say its {', '.join(missing)}")
    return about
