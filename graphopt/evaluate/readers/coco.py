"""COCO json: {"images": [...], "annotations": [...], "categories": [...]}.

    coco:annotations.json              images beside the json
    coco:annotations.json:val2017/     images in a folder

Classes are numbered in the order of category ids: COCO's 1 to 90 become 0 to 79.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example, Examples, existing


class Coco(Examples):
    """The images of a COCO json, those without a box among them."""

    task: ClassVar[str] = "detection"

    def __init__(self, where: str) -> None:
        file, folder = _split(where)
        content = _read(file)
        self._folder = existing(folder, "folder of images")
        categories = sorted(content["categories"], key=lambda c: c["id"])
        self.names = tuple(str(c.get("name", c["id"])) for c in categories)
        self._class = {c["id"]: k for k, c in enumerate(categories)}
        self._images = content["images"]
        self._boxes: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for each in content["annotations"]:
            if each["category_id"] not in self._class:
                raise UsageError(
                    f"{file}: annotation {each.get('id')} has category {each['category_id']}, "
                    "which `categories` does not have"
                )
            self._boxes[each["image_id"]].append(each)
        if not content["annotations"]:
            raise UsageError(f"labelled data {file}: no annotations in it")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        image = self._images[index]
        own = self._boxes.get(image["id"], [])
        xywh = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        sizes = xywh[:, 2] * xywh[:, 3]
        areas = np.array([a.get("area", s) for a, s in zip(own, sizes, strict=True)], np.float64)
        return Example(
            image=self._folder / image["file_name"],
            classes=np.array([self._class[a["category_id"]] for a in own], np.int64),
            boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in own], bool),
            areas=areas,
        )


def _split(where: str) -> tuple[Path, Path]:
    head, colon, tail = where.rpartition(":")
    if colon and head.lower().endswith(".json"):
        return existing(Path(head), "file"), Path(tail)
    file = existing(Path(where), "file")
    return file, file.parent


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"labelled data {file} cannot be read: {error}") from error
    missing = [k for k in ("images", "annotations", "categories") if k not in content]
    if not isinstance(content, dict) or missing:
        raise UsageError(f"labelled data {file} is no COCO json: it has no {', '.join(missing)}")
    return content
