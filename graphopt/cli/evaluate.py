"""graphopt evaluate, and graphopt draw: how well a model does on labelled images, and some to try."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from graphopt.cli.common import (
    DecoderName,
    Json,
    Model,
    checked_decoder,
    print_json,
    progress,
)

app = typer.Typer()


@app.command()
def evaluate(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: coco:ann.json[:images/], yolo:dir, voc:dir[:split], "
            "imagefolder:dir, npz:file.npz[:split], shapes:train|test[,count=N,size=N] (drawn)."
        ),
    ],
    task: Annotated[str, typer.Option(help="detection or classification.")],
    decoder: DecoderName = None,
    preprocess: Annotated[
        str, typer.Option(help="How images become inputs, e.g. 'letterbox, bgr, scale=1/255'.")
    ] = "",
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Only so many images, evenly spaced over the set."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measures what MODEL gets right: COCO AP for detection, top-1 and top-5 for classification."""
    from graphopt.evaluate import evaluate as measured
    from graphopt.report.terminal import console, print_rows

    checked_decoder(decoder)
    with progress() as telling:
        found = measured(
            model, data, task, decoder=decoder, preprocess=preprocess, limit=limit, progress=telling
        )
    if as_json:
        print_json({"path": str(model), "data": data, **found})
        return
    told = ("task", "images", "decoder", "preprocess", "seconds")
    metrics = {k: v for k, v in found.items() if k not in told}
    out = console()
    print_rows(out, ["metric", ">%"], ([k, f"{100 * v:.1f}"] for k, v in metrics.items()))
    by = f" ({found['decoder']})" if found["decoder"] else ""
    out.print(f"{found['images']} images in {found['seconds']:.1f} s{by}", markup=False)


@app.command()
def draw(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    split: Annotated[str, typer.Option(help="train or test: other images.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 500,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 160,
) -> None:
    """Draws a data set to try things with: shapes on textured backgrounds, with YOLO labels."""
    from graphopt.evaluate.readers.shapes import Shapes
    from graphopt.evaluate.readers.yolo import write
    from graphopt.report.terminal import console

    drawn = Shapes(f"{split},count={count},size={size}")
    with progress() as telling:
        telling(f"drawing {count} images")
        write(drawn, output)
    console().print(f"wrote {count} images: {output}/images and {output}/labels", markup=False)
