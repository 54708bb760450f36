"""graphopt quantize: a float model becomes one that is computed in integers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import (
    DecoderName,
    File,
    Json,
    Measure,
    Model,
    Names,
    Report,
    Text,
    checked_decoder,
    checked_report,
    finish,
    progress,
)

app = typer.Typer()


@app.command()
def quantize(
    model: Model,
    data: Annotated[
        Path, typer.Option(help="Images without labels: a folder, a .txt list, .npy or .npz.")
    ],
    output: Annotated[
        File,
        typer.Option("-o", "--output", help="Where to write; MODEL.int8.onnx if not given."),
    ] = None,
    preprocess: Annotated[
        Text,
        typer.Option(help="How images become inputs, e.g. yolo or 'letterbox, rgb, scale=1/255'."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="What will run it: onnxruntime, onnxruntime-arm, a57, a76, tensorrt."),
    ] = "onnxruntime",
    method: Annotated[
        str,
        typer.Option(help="Ranges: min-max, moving-average, percentile, entropy or mse."),
    ] = "mse",
    repair: Annotated[
        Text,
        typer.Option(
            help="What mends accuracy without training: equalize, absorb, smooth, adaround, "
            "reconstruct, bias, or several with commas; none for nothing. bias if not given."
        ),
    ] = None,
    qat: Annotated[
        Text,
        typer.Option(
            metavar="epochs=3,...",
            help="Train through the rounding on --data, without labels; takes the options of "
            "`graphopt passes qat` and of training (lr, batch, ...).",
        ),
    ] = None,
    keep: Annotated[
        Names, typer.Option(help="Leave nodes in float: names, operators or globs.")
    ] = None,
    labels: Annotated[
        Text,
        typer.Option(
            metavar="KIND:WHERE",
            help="Labelled images to measure on: coco:, yolo:, voc:, imagefolder:, npz:.",
        ),
    ] = None,
    task: Annotated[Text, typer.Option(help="detection or classification, of --labels.")] = None,
    decoder: DecoderName = None,
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0,
            help="Points of AP or top-1 that may be lost on --labels; the fewest layers stay in "
            "float (or get 16 bits, see --fallback) for that. Exit 4: cannot be met.",
        ),
    ] = None,
    fallback: Annotated[
        str,
        typer.Option(
            help="What costs too much in 8 bits: stays in float, or int16: activations get 16 bits, "
            "where the target has kernels for them."
        ),
    ] = "float",
    recipe: Annotated[
        str,
        typer.Option(
            metavar="images=128,...", help="More settings of `graphopt passes insert-fake-quant`."
        ),
    ] = "",
    report: Report = None,
    as_json: Json = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Two runs with one seed write the same bytes.")
    ] = 0,
    measure: Measure = True,
) -> None:
    """Quantizes MODEL with images without labels; what stays in float is in the report."""
    from graphopt.named import read_options
    from graphopt.quantize import DEFAULT_REPAIR, quantize_file

    started = time.perf_counter()
    written = output or model.with_name(f"{model.stem}.int8.onnx")
    checked_report(report)
    checked_decoder(decoder)
    options: dict[str, Any] = {
        **read_options(recipe, "recipe"),
        "preprocess": preprocess or "",
        "repair": DEFAULT_REPAIR if repair is None else repair,
        "qat": qat,
        "target": target,
        "method": method,
        "fallback": fallback,
        "keep": "|".join(keep or []),
    }
    with progress() as telling:
        run = quantize_file(
            model,
            written,
            data=str(data),
            labels=labels,
            task=task,
            decoder=decoder,
            max_drop=max_drop,
            seed=seed,
            measure=measure,
            progress=telling,
            watch=telling.watch() if qat else None,
            **options,
        )
    finish(run, written, report, started, as_json=as_json)
