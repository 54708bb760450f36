"""The commands about channels: prune, groups."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import (
    File,
    Json,
    Measure,
    Model,
    Names,
    Report,
    Shapes,
    Text,
    checked_report,
    finish,
    print_json,
    progress,
    shapes,
)
from graphopt.errors import UsageError

app = typer.Typer()

_LEFT = "What may be left: 0.5 or 50% of the original, or an absolute 4.1G."


@app.command()
def prune(
    model: Model,
    output: Annotated[
        File, typer.Option("-o", "--output", help="Where to write; MODEL.pruned.onnx if not given.")
    ] = None,
    macs: Annotated[Text, typer.Option(help=f"MACs. {_LEFT}")] = None,
    parameters: Annotated[Text, typer.Option(help="Parameters, written likewise.")] = None,
    bytes_: Annotated[
        Text, typer.Option("--bytes", help="Bytes of parameters, written likewise.")
    ] = None,
    activations: Annotated[Text, typer.Option(help="Bytes of activations, likewise.")] = None,
    channels: Annotated[Text, typer.Option(help="Output channels of layers, likewise.")] = None,
    latency: Annotated[
        Text, typer.Option(help="What it is predicted to take on --target, written likewise.")
    ] = None,
    target: Annotated[Text, typer.Option(help="Board of the latency: tx2, kirin990, ...")] = None,
    importance: Annotated[
        Text, typer.Option(help="What a channel is worth: l2, chip, '0.7*l2+0.3*chip', ...")
    ] = None,
    allocation: Annotated[
        Text,
        typer.Option(
            help="How the loss is spread: isomorphic, uniform, global, sensitivity, sections."
        ),
    ] = None,
    data: Annotated[
        File, typer.Option(help="Calibration images: a folder, .npy or .npz. No labels.")
    ] = None,
    preprocess: Annotated[
        Text, typer.Option(help="How images become inputs, e.g. 'letterbox, bgr, scale=1/255'.")
    ] = None,
    compensation: Annotated[
        Text,
        typer.Option(
            help="What makes up for removed channels: none, constants, mean, linear, refit."
        ),
    ] = None,
    floor: Annotated[
        float, typer.Option(min=0, max=1, help="Share of channels every layer keeps at least.")
    ] = 0.1,
    multiple: Annotated[
        int, typer.Option(min=1, help="Layers keep a multiple of so many channels.")
    ] = 8,
    rounds: Annotated[
        int, typer.Option(min=1, help="Reach the budgets in so many steps, judging anew in each.")
    ] = 1,
    include: Annotated[
        Names, typer.Option(help="Only layers or parameters of this name (or glob).")
    ] = None,
    exclude: Annotated[
        Names, typer.Option(help="No layer or parameter of this name (or glob).")
    ] = None,
    plan: Annotated[File, typer.Option(help="Replay a saved plan instead of choosing.")] = None,
    save_plan: Annotated[File, typer.Option(help="Write the plan as JSON.")] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Say what would go, and write no model.")
    ] = False,
    input_shape: Shapes = None,
    report: Report = None,
    as_json: Json = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test inputs.")] = 0,
    verify: Annotated[
        bool, typer.Option(help="Prove the result equal to the original with channels zeroed.")
    ] = True,
    measure: Measure = True,
) -> None:
    """Removes the channels of MODEL that matter least, with everything coupled to them."""
    from graphopt.prune import plan_file, prune_file, pruning
    from graphopt.report.document import pruning_facts, to_json
    from graphopt.report.terminal import console, print_pruning

    started = time.perf_counter()
    checked_report(report)
    chosen: dict[str, Any] = {
        "macs": macs,
        "parameters": parameters,
        "bytes": bytes_,
        "activations": activations,
        "channels": channels,
        "latency": latency,
        "target": target,
        "importance": importance,
        "allocation": allocation,
        "data": str(data) if data else None,
        "preprocess": preprocess,
        "compensation": compensation,
        "floor": floor,
        "multiple": multiple,
        "rounds": rounds,
        "include": "|".join(include or []),
        "exclude": "|".join(exclude or []),
        "plan": str(plan) if plan else None,
        "verify": verify,
    }
    wanted = pruning(**{k: v for k, v in chosen.items() if v is not None})
    if plan_only and output is not None:
        raise UsageError("--plan-only writes no model, so it takes no --output")
    with progress() as telling:
        if plan_only:
            result = plan_file(
                model, wanted, input_shapes=shapes(input_shape or []), seed=seed, progress=telling
            )
        else:
            destination = output or model.with_name(f"{model.stem}.pruned.onnx")
            run = prune_file(
                model,
                destination,
                wanted,
                input_shapes=shapes(input_shape or []),
                seed=seed,
                verify=verify,
                measure=measure,
                progress=telling,
            )
            result = next(p for p in run.passes if p.name == "prune")
    if save_plan is not None:
        from graphopt.channels.plan import save

        save(result.facts["plan"], save_plan)
    told = [f"plan: {save_plan}"] if save_plan is not None else []
    if not plan_only:
        finish(run, destination, report, started, as_json=as_json, more=told)
        return
    content = pruning_facts(result)
    if as_json:
        sys.stdout.write(to_json(content))
        return
    out = console()
    print_pruning(out, content)
    for line in told:
        out.print(line, markup=False)
    out.print(f"PASSED in {time.perf_counter() - started:.1f} s")


@app.command()
def groups(
    model: Model,
    input_shape: Shapes = None,
    share: Annotated[
        bool, typer.Option(help="Weights read in several places stay shared (couples them).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Shows which channels of MODEL live and die together, through what, and which have to stay."""
    from graphopt.prune import groups_of
    from graphopt.report.terminal import console, print_groups

    with progress() as telling:
        found = groups_of(
            Path(model), input_shapes=shapes(input_shape or []), share=share, progress=telling
        )
    if as_json:
        print_json(found)
    else:
        print_groups(console(), found)
