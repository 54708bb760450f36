"""Torch-Pruning in the place of our own pruning: stages for `benchmarks.recipes --peers`.

A peer gets the network of a stage, removes as much of it, and is trained with the same loop, images, loss
and epochs as the stage it is compared with. How it prunes: benchmarks/torch_pruning_file.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.by_torch_pruning import prune
from graphopt.recipes import Recipe, run_recipe
from graphopt.recipes.recipe import Stage
from graphopt.recipes.run import read_result
from graphopt.recipes.stage import MODEL


@dataclass(frozen=True)
class Peer:
    """One way to use Torch-Pruning within a recipe.

    Attributes:
        name, text: of its stage.
        of: the stage whose network it prunes.
        like: the stage whose passes train it afterwards.
        left: the share that stays ...
        count: ... of "parameters" or "macs".
        importance: "l2", or "bn" for the scales of batch normalizations.
        scope: "global", or "local" for the same share off every layer.
    """

    name: str
    text: str
    of: str
    like: str
    left: float
    count: str
    importance: str = "l2"
    scope: str = "local"


PEERS = {
    "hand-local-decay": (
        Peer(
            "torch-pruning",
            "Torch-Pruning (L2, global), fine-tuned as long as all stages",
            *("base", "longer", 0.18, "parameters", "l2", "global"),
        ),
        Peer(
            "torch-pruning-gamma",
            "Torch-Pruning (BN scale, global) of our sparse network, fine-tuned",
            *("sparse", "finetuned", 0.18, "parameters", "bn", "global"),
        ),
    ),
    "yolov4-group-attention": (
        Peer(
            "torch-pruning",
            "Torch-Pruning (L2, global), fine-tuned as long as all stages",
            *("base", "longer", 0.353, "parameters", "l2", "global"),
        ),
    ),
    "yolov3-edge": (
        Peer(
            "torch-pruning",
            "Torch-Pruning (L2), fine-tuned as long as all stages",
            *("light", "longer", 0.5, "macs"),
        ),
    ),
    "retinanet-recovery": (
        Peer(
            "torch-pruning",
            "Torch-Pruning (L2), fine-tuned as long as all stages",
            *("base", "longer", 0.5, "macs"),
        ),
    ),
    "any-onnx": (),
    "hybrid-attention": (),
}


def run_peers(
    recipe: Recipe,
    folder: Path,
    seeds: Sequence[int],
    watch: Callable[[], Any],
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The results of the recipe's peers for every seed; the stages they prune have been run."""
    found = []
    for peer in PEERS[recipe.name]:
        like = recipe.stage(peer.like)
        for seed in seeds:
            place = folder / f"seed{seed}"
            # Named after what it was made from: a stage that was run anew is pruned anew.
            of = read_result(place / peer.of)
            assert of is not None
            file = place / f"{peer.name}-{of['fingerprint']}.onnx"
            if not file.exists():
                prune(
                    place / peer.of / MODEL,
                    file,
                    peer.left,
                    count=peer.count,
                    importance=peer.importance,
                    scope=peer.scope,
                )
            stage = Stage(
                name=peer.name,
                text=peer.text,
                source=None,
                teacher=None,
                network={"file": str(file)},
                passes=like.passes,
                ablation=True,
            )
            alone = dataclasses.replace(recipe, stages=(stage,), claims=())
            [result] = run_recipe(alone, folder, seeds=[seed], watch=watch, progress=progress)
            found.append({**result, "from": peer.of})
    return found
