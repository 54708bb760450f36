"""Images as inputs of a network."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.named import unknown

Array = np.ndarray[Any, Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Where a model says how its images are made.
METADATA = "graphopt.preprocess"
PRESETS = {
    "yolo": "letterbox, rgb, scale=1/255, pad=114",
    "torchvision": "crop, rgb, scale=1/255, mean=0.485,0.456,0.406, std=0.229,0.224,0.225",
    "ssd": "stretch, bgr, scale=1, mean=104,117,123",
    "cifar": "stretch, rgb, scale=1/255, mean=0.4914,0.4822,0.4465, std=0.2470,0.2435,0.2616",
}
_WORDS = {
    **dict.fromkeys(("letterbox", "stretch", "crop"), "fit"),
    **dict.fromkeys(("rgb", "bgr", "gray"), "color"),
    **dict.fromkeys(("nchw", "nhwc"), "layout"),
}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: (pixel * scale - mean) / std, pixels being 0 to 255.

    Attributes:
        fit: "letterbox" keeps the picture's proportions and fills the rest with `pad`, "stretch"
            does not keep them, "crop" cuts off what stands over on both sides.
        color: "rgb", "bgr" or "gray".
        scale: a factor for pixels.
        mean: per channel in the order of `color`, after scaling; empty for none.
        std: likewise.
        pad: the pixel value around a letterboxed picture.
        layout: "nchw" or "nhwc".
        size: height and width.
    """

    fit: str = "letterbox"
    color: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pad: float = 114
    layout: str = "nchw"
    size: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str, default: Preprocess | None = None) -> Preprocess:
        """Reads "crop=416, bgr, scale=1/255, mean=0.485,0.456,0.406, pad=0, layout=nhwc".

        Args:
            text: items with commas or spaces between; what is left out is as in `default`.
                `crop=416` is `crop, size=416`; a size is one number, or height x width as in
                416x608. A preset (yolo, torchvision, ssd, cifar) stands for the items of that
                family, which later items override.
            default: what holds where `text` is silent.

        Raises:
            UsageError: an item that cannot be read, naming it.
        """
        items = [i for item in _items(text) for i in _items(PRESETS.get(item, item))]
        return replace(default or cls(), **dict(field for i in items for field in _fields(i)))

    def apply(self, path: Path) -> Array:
        """The input made of one image file: float32, without a batch axis.

        Raises:
            UsageError: a file that is no image, naming it.
        """
        pixels: Array = _pixels(path, self).astype(np.float32)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        if self.color == "bgr":
            pixels = pixels[:, :, ::-1]
        pixels = (pixels * np.float32(self.scale) - _row(self.mean, 0)) / _row(self.std, 1)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels)


def preprocess_for(graph: Graph, given: str | Preprocess) -> Preprocess:
    """How images become the graph's first input: what is `given`, the rest from its shape and type.

    Where nothing is given, what the model's metadata says holds.

    Raises:
        UsageError: the input takes no images, or its size is neither fixed nor given.
    """
    tensor = graph.inputs[0]
    shape = list(tensor.shape or [])
    if len(shape) != 4:
        raise UsageError(f"input {tensor.name!r} has shape {shape}; images need four dimensions")
    is_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    default = Preprocess(
        layout="nhwc" if is_last else "nchw",
        color="gray" if shape[3 if is_last else 1] == 1 else "rgb",
        scale=1.0 if np.dtype(tensor.dtype).kind in "iu" else 1 / 255,
    )
    given = given or graph.metadata.get(METADATA, "")
    how = Preprocess.parse(given, default) if isinstance(given, str) else given
    return _checked(how, tensor.name, shape)


def find_images(path: Path) -> list[Path]:
    """The image files of a folder, at every depth and in the order of their names; or the file.

    A text file (.txt) lists one image per line, relative to its own folder.

    Raises:
        UsageError: there are none.
    """
    if path.is_file() and path.suffix.lower() == ".txt":
        return _listed(path)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            known = ", ".join((*SUFFIXES, ".npy", ".npz"))
            raise UsageError(f"calibration data {path} is none of {known}, nor a folder of images")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise UsageError(f"calibration data {path}: no image in it ({', '.join(SUFFIXES)})")
    return found


def _listed(path: Path) -> list[Path]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [path.parent / line for line in lines if line]
    missing = [p for p in found if not p.is_file()]
    if missing or not found:
        what = f"{missing[0]} is not there" if missing else "it names none"
        raise UsageError(f"calibration data {path} lists images, one per line: {what}")
    return found


def _checked(how: Preprocess, name: str, shape: list[Any]) -> Preprocess:
    channels = shape[1 if how.layout == "nchw" else 3]
    have = 1 if how.color == "gray" else 3
    if isinstance(channels, int) and channels != have:
        raise UsageError(
            f"input {name!r} has {channels} channels in layout {how.layout}; {how.color} images "
            f"have {have}"
        )
    for option in ("mean", "std"):
        if len(getattr(how, option)) not in (0, 1, have):
            raise UsageError(f"preprocess: {option} has to have 1 or {have} numbers")
    height, width = shape[2:] if how.layout == "nchw" else shape[1:3]
    if how.size is not None:
        return how
    if not (isinstance(height, int) and isinstance(width, int)):
        raise UsageError(
            f"input {name!r} has no fixed height and width; say size=, as in size=416 or 416x608"
        )
    return replace(how, size=(height, width))


# --- reading the text -----------------------------------------------------------------------------


def _items(text: str) -> list[str]:
    """The items between commas or spaces; numbers after a number belong to the item before."""
    items: list[str] = []
    for item in re.split(r"[,\s]+", re.sub(r"\s*=\s*", "=", text)):
        if items and "=" in items[-1] and item[:1] in "0123456789.-" and item:
            items[-1] += f",{item}"
        elif item:
            items.append(item)
    return items


def _fields(item: str) -> list[tuple[str, Any]]:
    word, _, size = item.partition("=")
    if size and _WORDS.get(word) == "fit":
        return [("fit", word), _field(f"size={size}")]
    return [_field(item)]


def _field(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        if item not in _WORDS:
            raise UsageError(f"preprocess: {unknown('choice', item, _WORDS)}")
        return _WORDS[item], item
    known = [f.name for f in fields(Preprocess)]
    if key not in known:
        raise UsageError(f"preprocess: {unknown('option', key, known)}")
    if key in ("fit", "color", "layout"):
        if _WORDS.get(value) != key:
            have = ", ".join(w for w, k in _WORDS.items() if k == key)
            raise UsageError(f"preprocess: {key}={value!r} is none of {have}")
        return key, value
    try:
        return key, _VALUES[key](value)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"preprocess: cannot read {item!r}") from error


def _number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(t) for t in text.split(","))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    found = int(height), int(width or height)
    if min(found) < 1:
        raise ValueError(text)
    return found


_VALUES: dict[str, Any] = {
    **dict.fromkeys(("scale", "pad"), _number),
    **dict.fromkeys(("mean", "std"), _numbers),
    "size": _size,
}


# --- pixels ---------------------------------------------------------------------------------------


def _row(values: tuple[float, ...], default: float) -> Array:
    return np.asarray(values or [default], np.float32)


def _pixels(path: Path, how: Preprocess) -> Array:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            image = upright.convert("L" if how.color == "gray" else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
    assert how.size is not None  # `preprocess_for` fills it in
    height, width = how.size
    if how.fit == "stretch":
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    ratios = height / image.height, width / image.width
    ratio = min(ratios) if how.fit == "letterbox" else max(ratios)
    scaled = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    pixels = np.asarray(image.resize(scaled, Image.Resampling.BILINEAR))
    return (
        _padded(pixels, height, width, how.pad)
        if how.fit == "letterbox"
        else _cropped(pixels, height, width)
    )


def _padded(pixels: Array, height: int, width: int, value: float) -> Array:
    filled = np.full((height, width, *pixels.shape[2:]), value, np.float32)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    filled[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return filled


def _cropped(pixels: Array, height: int, width: int) -> Array:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
