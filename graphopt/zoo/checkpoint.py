"""Weights of a zoo network from a .safetensors file, the only kind read: it holds no code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from graphopt.errors import LoadError

SHOWN = 3  # names in a message
COUNTER = ".num_batches_tracked"  # torch's own bookkeeping, absent from many files


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Copy a state dict into the network, on the CPU; LoadError says what does not fit."""
    path = Path(path)
    loaded = _read(path)
    expected = network.state_dict()
    _check_names(path, expected, loaded)
    _check_shapes(path, expected, loaded)
    for name, buffer in network.named_buffers():
        if name.endswith(COUNTER):
            buffer.zero_()
    network.load_state_dict(loaded, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise LoadError(
            f"{path}: weights are read from .safetensors only, as a pickle can run code; convert "
            "with safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
        )
    if not path.is_file():
        raise LoadError(f"{path}: no such file; check the path of the weights")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path}: not a readable .safetensors file ({error})") from error


def _check_names(path: Path, expected: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    missing = [key for key in expected if key not in loaded and not key.endswith(COUNTER)]
    unexpected = [key for key in loaded if key not in expected]
    problems = [
        f"{len(keys)} {kind} ({_first(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        raise LoadError(f"{path}: not the weights of this network: {' and '.join(problems)}")


def _check_shapes(path: Path, expected: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    wrong = [
        f"{key} is {list(values.shape)}, not {list(expected[key].shape)}"
        for key, values in loaded.items()
        if values.shape != expected[key].shape
    ]
    if wrong:
        raise LoadError(
            f"{path}: {len(wrong)} tensors of another shape ({_first(wrong, '; ')}); "
            "does the number of classes agree?"
        )


def _first(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    more = [f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join([*items[:SHOWN], *more])
