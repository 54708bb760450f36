"""Small labelled sets and detectors for the tests of graphopt.evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import graph_from
from PIL import Image

from graphopt.ir.graph import Graph, Variable

VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox></object>"""


def picture(path: Path, width: int = 40, height: int = 20, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def yolo(root: Path, labels: str | None = "1 0.5 0.5 0.5 0.5\n") -> Path:
    picture(root / "images" / "a.png")
    picture(root / "images" / "sub" / "b.png")
    (root / "labels").mkdir(parents=True)
    if labels is not None:
        (root / "labels" / "a.txt").write_text(labels)
    return root


def coco(root: Path, **changes: Any) -> Path:
    picture(root / "a.png")
    picture(root / "b.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 5},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 3, "name": "early"}],
        **changes,
    }
    file = root / "labels.json"
    file.write_text(json.dumps(content))
    return file


def voc(root: Path) -> Path:
    picture(root / "JPEGImages" / "a.png")
    (root / "Annotations").mkdir()
    objects = [
        VOC_OBJECT.format(name="dog", difficult=0, box=(1, 1, 11, 9)),
        VOC_OBJECT.format(name="cat", difficult=1, box=(3, 4, 5, 6)),
    ]
    text = f"<annotation>{''.join(objects)}</annotation>"
    (root / "Annotations" / "a.xml").write_text(text)
    return root


def detector(shapes: str, size: int = 64) -> Graph:
    """A graph with the outputs of a detector, said as "1,255,4,4 a; 1,255,2,2 b"."""
    graph = graph_from(f"(float[1,3,{size},{size}] x) => (float[1,3,4,4] y) {{ y = Identity (x) }}")
    said = [part.split() for part in shapes.split(";")]
    graph.outputs = [
        Variable(name, np.dtype(np.float32), [int(d) for d in dims.split(",")])
        for dims, name in said
    ]
    return graph
