"""Pascal VOC: dir/Annotations/a.xml with dir/JPEGImages/a.jpg.

    voc:dir             every annotation
    voc:dir:test        those listed in dir/ImageSets/Main/test.txt

Classes are numbered as in dir/classes.txt, alphabetically without it. Objects marked difficult
count neither as found nor as missed. Corners are 1-based, so 1 is subtracted from xmin and ymin.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphopt.data.images import SUFFIXES
from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example, Examples, class_names, existing

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Voc(Examples):
    """Images with an XML file of boxes each."""

    task: ClassVar[str] = "detection"

    def __init__(self, where: str) -> None:
        self._root, split = _split(where)
        folder = existing(self._root / "Annotations", "folder")
        self._files = sorted(folder.glob("*.xml"))
        if split:
            listed = existing(self._root / "ImageSets" / "Main" / f"{split}.txt", "list of images")
            lines = listed.read_text("utf-8").splitlines()
            self._files = [folder / f"{line.split()[0]}.xml" for line in lines if line.strip()]
        if not self._files:
            raise UsageError(f"labelled data {folder}: no .xml file in it")
        found = {o.findtext("name", "") for f in sorted(folder.glob("*.xml")) for o in _objects(f)}
        self.names = class_names(self._root, found)
        self._class = {name: k for k, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        file = existing(self._files[index], "annotation")
        objects = _objects(file)
        boxes = [[_corner(o, c, file) for c in _CORNERS] for o in objects]
        return Example(
            image=self._image(file),
            classes=np.array([self._class[o.findtext("name", "")] for o in objects], np.int64),
            boxes=np.array(boxes, np.float64).reshape(-1, 4) - (1, 1, 0, 0),
            crowd=np.array([o.findtext("difficult", "0").strip() == "1" for o in objects], bool),
        )

    def _image(self, file: Path) -> Path:
        folder = self._root / "JPEGImages"
        for suffix in SUFFIXES:
            if (path := folder / f"{file.stem}{suffix}").exists():
                return path
        raise UsageError(f"labelled data {file}: no image {folder / file.stem}.jpg")


def _split(where: str) -> tuple[Path, str]:
    if Path(where).exists():
        return Path(where), ""
    head, _, split = where.rpartition(":")
    return existing(Path(head or where), "folder"), split if head else ""


def _objects(file: Path) -> list[ET.Element]:
    try:
        return ET.parse(file).getroot().findall("object")
    except (OSError, ET.ParseError) as error:
        raise UsageError(f"labelled data {file} cannot be read: {error}") from error


def _corner(item: ET.Element, name: str, file: Path) -> float:
    try:
        return float(item.findtext(f"bndbox/{name}", ""))
    except ValueError as error:
        raise UsageError(f"labelled data {file}: an object without a {name}") from error
