"""graphopt distill: a student learns from a teacher on images without labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.common import (
    Device,
    File,
    Folder,
    Json,
    Measure,
    Report,
    Seed,
    Text,
    checked_report,
    finish,
    progress,
)

app = typer.Typer()


@app.command()
def distill(
    student: Annotated[Path, typer.Argument(help="The ONNX file to train.", metavar="STUDENT")],
    teacher: Annotated[Path, typer.Option(help="The ONNX file to learn from.")],
    data: Annotated[
        Path, typer.Option(help="Images without labels: a folder, a .txt list, .npy or .npz.")
    ],
    output: Annotated[
        File,
        typer.Option("-o", "--output", help="Where to write; STUDENT.distilled.onnx if not given."),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the images.")] = 5.0,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="lr=0.01,batch=64,...",
            help="Settings of training and of `graphopt passes recover`.",
        ),
    ] = "",
    preprocess: Annotated[
        Text,
        typer.Option(help="How images become inputs, e.g. yolo or 'letterbox, rgb, scale=1/255'."),
    ] = None,
    folder: Folder = None,
    device: Device = "auto",
    report: Report = None,
    as_json: Json = False,
    seed: Seed = 0,
    measure: Measure = True,
) -> None:
    """Trains STUDENT to do what the teacher does on images without labels."""
    from graphopt.distill import distill_file
    from graphopt.named import read_options

    started = time.perf_counter()
    target = output or student.with_name(f"{student.stem}.distilled.onnx")
    checked_report(report)
    with progress() as telling:
        run = distill_file(
            student,
            teacher,
            target,
            data=str(data),
            seed=seed,
            measure=measure,
            progress=telling,
            watch=telling.watch(),
            **{
                **read_options(recipe, "recipe"),
                "epochs": epochs,
                "preprocess": preprocess or "",
                "folder": str(folder) if folder else "",
                "device": device,
            },
        )
    finish(run, target, report, started, as_json=as_json)
