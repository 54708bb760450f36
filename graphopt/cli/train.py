"""graphopt train: a network learns from labelled images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from graphopt.cli.common import (
    DecoderName,
    Device,
    File,
    Folder,
    Json,
    Measure,
    Report,
    Seed,
    Text,
    checked_decoder,
    checked_report,
    finish,
    progress,
)

app = typer.Typer()


@app.command()
def train(
    network: Annotated[
        str,
        typer.Argument(
            help="A network of `graphopt zoo list`, or an ONNX file to go on from.",
            metavar="NETWORK",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: coco:ann.json[:images/], yolo:dir, voc:dir[:split], "
            "imagefolder:dir, npz:file.npz[:split], shapes:train (drawn)."
        ),
    ],
    output: Annotated[
        File,
        typer.Option("-o", "--output", help="Where to write; NETWORK.trained.onnx if not given."),
    ] = None,
    validation: Annotated[
        Text,
        typer.Option(help="Labelled images, as for --data, that are judged after every epoch."),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the images.")] = 30.0,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="lr=0.01,batch=32,augment=flip,...",
            help="Settings of training and of `graphopt passes train`.",
        ),
    ] = "",
    loss: Annotated[
        str, typer.Option(metavar="iou=giou,...", help="Settings of the task's loss.")
    ] = "",
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many, where the labels do not name them."),
    ] = None,
    width: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="A factor for the channels of a network of the zoo."),
    ] = None,
    input_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Height and width in pixels, for a network of the zoo."),
    ] = None,
    anchors: Annotated[
        str, typer.Option(help="Of a YOLO of the zoo: fitted (to the labels) or published.")
    ] = "fitted",
    decoder: DecoderName = None,
    preprocess: Annotated[
        Text, typer.Option(help="How images become inputs, e.g. cifar or 'letterbox, rgb'.")
    ] = None,
    folder: Folder = None,
    device: Device = "auto",
    report: Report = None,
    as_json: Json = False,
    seed: Seed = 0,
    measure: Measure = True,
) -> None:
    """Trains NETWORK on labelled images."""
    from graphopt.named import read_options
    from graphopt.train import train_file

    started = time.perf_counter()
    target = output or Path(f"{Path(network).stem}.trained.onnx")
    checked_report(report)
    checked_decoder(decoder)
    given = {} if decoder is None else {"decoder": decoder}
    with progress() as telling:
        run = train_file(
            network,
            target,
            labels=data,
            validation=validation,
            classes=classes,
            width=width,
            input_size=input_size,
            anchors=anchors,
            seed=seed,
            measure=measure,
            progress=telling,
            watch=telling.watch(),
            **{
                **read_options(recipe, "recipe"),
                **given,
                "epochs": epochs,
                "loss": loss.replace(",", " "),
                "preprocess": preprocess or "",
                "folder": str(folder) if folder else "",
                "device": device,
            },
        )
    finish(run, target, report, started, as_json=as_json)
