"""Calibration data: what can be read, what an image becomes, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from
from PIL import Image

from graphopt.data import Preprocess, load_data, load_samples
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph


def graph(shape: str = "N,3,4,6", dtype: str = "float") -> Graph:
    return graph_from(f"({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ y = Identity (x) }}")


def two_inputs() -> Graph:
    return graph_from("""(float[N,3] image, float[N,2] scale) => (float[N,3] y, float[N,2] z)
        { y = Relu (image)  z = Relu (scale) }""")


def picture(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def red(height: int, width: int) -> np.ndarray[Any, Any]:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 255
    return pixels


def only(data: Any) -> np.ndarray[Any, Any]:
    (feeds,) = data
    (value,) = feeds.values()
    return value


# --- images ---------------------------------------------------------------------------------------


def test_a_folder_in_batches_in_the_order_of_names(tmp_path: Path) -> None:
    for k, name in enumerate(["c.png", "sub/a.bmp", "a.PNG", "b.webp", "d.jpg"]):
        picture(
            tmp_path / name,
            np.full((4, 6, 3), 50 * k),
            **({"lossless": True} if "webp" in name else {}),
        )
    (tmp_path / "notes.txt").write_text("not an image")
    data = load_data(tmp_path, graph(), batch=2)
    first = [f["x"] for f in data]
    assert [b.shape for b in first] == [(2, 3, 4, 6), (2, 3, 4, 6), (1, 3, 4, 6)]
    seen = np.concatenate(first)[:, 0, 0, 0] * 255
    assert seen == pytest.approx([100, 150, 0, 200, 50], abs=1)
    assert all((a == b["x"]).all() for a, b in zip(first, data, strict=True))
    assert sum(len(f["x"]) for f in load_data(tmp_path, graph(), limit=3)) == 3
    assert first[0].dtype == np.float32


def test_a_letterbox_keeps_proportions(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", red(4, 4))
    found = only(load_data(path, graph()))[0]
    assert found[:, :, 0] == pytest.approx(np.full((3, 4), 114 / 255))
    assert found[:, :, 5] == pytest.approx(np.full((3, 4), 114 / 255))
    assert found[0, :, 1:5] == pytest.approx(np.ones((4, 4)))
    assert found[1:, :, 1:5] == pytest.approx(np.zeros((2, 4, 4)))


def test_a_crop_takes_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 10, 3))
    pixels[:, 2:8] = 255
    path = picture(tmp_path / "a.png", pixels)
    assert (only(load_data(path, graph(), preprocess="crop")) == 1).all()
    assert (only(load_data(path, graph(), preprocess="stretch")) != 1).any()


def test_channels_layout_and_numbers(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", red(4, 6))
    text = "bgr, nhwc, scale=1/5, mean=1, 2,3, std=1,2,4"
    found = only(load_data(path, graph("N,4,6,3"), preprocess=text))
    assert found.shape == (1, 4, 6, 3)
    assert found[0, 0, 0] == pytest.approx([-1, -1, 12])


def test_defaults_follow_the_input(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", red(4, 6))
    assert only(load_data(path, graph("N,4,6,3"))).shape == (1, 4, 6, 3)
    assert only(load_data(path, graph("N,1,4,6")))[0, 0] == pytest.approx(np.full((4, 6), 76 / 255))
    whole = only(load_data(path, graph("N,3,4,6", "uint8")))
    assert whole.dtype == np.uint8
    assert whole[0, 0].tolist() == red(4, 6)[..., 0].tolist()
    assert only(load_data(path, graph("N,3,H,W"), preprocess="size=2x3")).shape == (1, 3, 2, 3)
    assert only(load_data(path, graph("N,3,H,W"), preprocess="size=5")).shape == (1, 3, 5, 5)
    assert only(load_data(path, graph(dtype="float16"))).dtype == np.float16


def test_the_cameras_rotation_is_undone(tmp_path: Path) -> None:
    pixels = np.zeros((6, 4, 3))
    pixels[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = picture(tmp_path / "a.png", pixels, exif=exif)
    found = only(load_data(path, graph()))[0, 0]
    assert found[:, 3:] == pytest.approx(np.ones((4, 3)))


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / f"{k}.png", np.full((4, 6, 3), k))
    batches = [f["x"] for f in load_data(tmp_path, graph("2,3,4,6"), preprocess="scale=1", batch=8)]
    assert [b[:, 0, 0, 0].tolist() for b in batches] == [[0, 1], [2, 2]]


PREPROCESS = {
    "fancy": "no choice is called 'fancy'; known: letterbox, stretch",
    "letterbx": "did you mean letterbox",
    "colour=rgb": "no option is called 'colour'; did you mean color",
    "color=letterbox": "color='letterbox' is none of rgb, bgr, gray",
    "scale=1/0": "cannot read 'scale=1/0'",
    "scale=x": "cannot read 'scale=x'",
    "size=0": "cannot read 'size=0'",
    "size=axb": "cannot read 'size=axb'",
    "mean=1,2": "mean has to have 1 or 3 numbers",
    "gray": "input 'x' has 3 channels in layout nchw; gray images have 1",
    "nhwc": "input 'x' has 6 channels in layout nhwc",
}


@pytest.mark.parametrize("text", PREPROCESS)
def test_preprocessing_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    path = picture(tmp_path / "a.png", red(4, 6))
    with pytest.raises(UsageError, match=PREPROCESS[text]):
        load_data(path, graph(), preprocess=text)


def test_text_and_object_are_the_same() -> None:
    parsed = Preprocess.parse(
        "crop, bgr, scale=0.5, mean=0.1,0.2,0.3, std=2, pad=0, layout=nhwc, size=4x6"
    )
    assert parsed == Preprocess("crop", "bgr", 0.5, (0.1, 0.2, 0.3), (2.0,), 0, "nhwc", (4, 6))
    assert Preprocess.parse("") == Preprocess()


SAME = {
    "letterbox=416 scale=1/255 rgb": "letterbox, size=416, scale=1/255, rgb",
    "stretch=4x6,bgr": "stretch, size=4x6, bgr",
    "crop mean = 0.1, 0.2 0.3 std=2": "crop, mean=0.1,0.2,0.3, std=2",
    " yolo  size=32 ": "yolo, size=32",
}


@pytest.mark.parametrize("text", SAME)
def test_spaces_for_commas_and_a_size_with_the_fit(text: str) -> None:
    assert Preprocess.parse(text) == Preprocess.parse(SAME[text])


INPUTS = {
    "N,4,4,6": "input 'x' has 4 channels in layout nchw; rgb images have 3",
    "N,12": "images need four dimensions",
    "N,3,H,W": "no fixed height and width; say size=",
}


@pytest.mark.parametrize("shape", INPUTS)
def test_inputs_that_take_no_images(tmp_path: Path, shape: str) -> None:
    path = picture(tmp_path / "a.png", red(4, 6))
    with pytest.raises(UsageError, match=INPUTS[shape]):
        load_data(path, graph(shape))


def test_images_for_two_inputs(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", red(4, 6))
    with pytest.raises(
        UsageError, match=r"cannot feed 2 inputs \(image, scale\); give arrays by name"
    ):
        load_data(path, two_inputs())


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        load_data(tmp_path / "nowhere", graph())
    with pytest.raises(UsageError, match=f"calibration data {tmp_path}: no image in it"):
        load_data(tmp_path, graph())
    (tmp_path / "a.md").write_text("hello")
    with pytest.raises(UsageError, match=r"a.md is none of .jpg, .* nor a folder of images"):
        load_data(tmp_path / "a.md", graph())


def test_a_list_of_images(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "b.png", red(4, 6))
    listed = tmp_path / "list.txt"
    listed.write_text("in/b.png\n\nin/b.png\n")
    assert only(load_data(listed, graph())).shape == (2, 3, 4, 6)
    listed.write_text("in/b.png\nin/c.png\n")
    with pytest.raises(UsageError, match=r"list.txt lists images, one per line: .*c.png is not"):
        load_data(listed, graph())
    listed.write_text("\n")
    with pytest.raises(UsageError, match="it names none"):
        load_data(listed, graph())


def test_samples_in_any_order(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / f"{k}.png", red(4, 6) // (k + 1))
    samples = load_samples(tmp_path, graph())
    assert len(samples) == 3
    assert samples[2]["x"].shape == (3, 4, 6)
    assert samples[2]["x"][0, 0, 0] == pytest.approx(85 / 255)
    with pytest.raises(IndexError, match="3 samples"):
        samples[3]
    batches = [np.zeros((2, 3, 4, 6), np.float32), np.ones((3, 3, 4, 6), np.float32)]
    assert len(load_samples(batches, graph())) == 5
    assert load_samples(batches, graph())[4]["x"].max() == 1
    with pytest.raises(UsageError, match="there are no samples"):
        load_samples([], graph())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no image"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a.png", red(4, 6))
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(UsageError, match="b.png cannot be read as an image"):
        list(load_data(tmp_path, graph()))


def test_half_an_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    path = picture(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match="a.png cannot be read as an image"):
        list(load_data(tmp_path, graph()))


# --- arrays ---------------------------------------------------------------------------------------


def samples(count: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((count, 3, 4, 6))


def test_an_array_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples())
    data = load_data(tmp_path / "a.npy", graph(), batch=2)
    assert [f["x"].shape[0] for f in data] == [2, 2, 1]
    assert np.concatenate([f["x"] for f in data]) == pytest.approx(samples(), rel=1e-6)


def test_a_file_of_arrays_by_name(tmp_path: Path) -> None:
    arrays = {"image": np.ones((3, 3)), "scale": np.zeros((3, 2))}
    np.savez(tmp_path / "a.npz", **arrays)
    (feeds,) = load_data(tmp_path / "a.npz", two_inputs())
    assert feeds["image"].tolist() == arrays["image"].tolist()
    np.savez(tmp_path / "b.npz", anything=samples(2))
    assert only(load_data(tmp_path / "b.npz", graph())).shape == (2, 3, 4, 6)


ITERABLES = {
    "batches": lambda: [samples(2), samples(3)],
    "samples": lambda: list(samples(5)),
    "mappings": lambda: [{"x": samples(2)}, {"x": samples(3)}],
    "one mapping": lambda: {"x": samples(5)},
    "one array": lambda: samples(5),
    "lists": lambda: [samples(5).tolist()],
}


@pytest.mark.parametrize("case", ITERABLES)
def test_iterables(case: str) -> None:
    data = load_data(ITERABLES[case](), graph())
    for _ in range(2):
        assert sum(len(f["x"]) for f in data) == 5


def test_an_iterator_is_read_once() -> None:
    def stream() -> Iterator[Any]:
        yield samples(1)

    data = load_data(stream(), graph())
    assert only(data).shape == (1, 3, 4, 6)
    with pytest.raises(UsageError, match="read only once; give a list"):
        list(data)


def test_nothing_more_than_a_batch_is_read_ahead() -> None:
    read = []

    def stream() -> Iterator[Any]:
        for k in range(100):
            read.append(k)
            yield samples(1)[0]

    next(iter(load_data(stream(), graph(), batch=3)))
    assert len(read) <= 4


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"'x' has shape \(1, 3, 5, 6\); the model wants \(N, 3, 4, 6\)"
    ):
        list(load_data([np.zeros((1, 3, 5, 6))], graph()))
    with pytest.raises(UsageError, match=r"has shape \(1, 6\); the model wants"):
        list(load_data([np.zeros(6)], graph()))
    with pytest.raises(
        UsageError, match=r"samples for 'x' have shapes \(3, 4, 6\) and \(3, 4, 5\)"
    ):
        list(load_data([np.zeros((3, 4, 6)), np.zeros((3, 4, 5))], graph()))
    with pytest.raises(UsageError, match="'x' is float64, not uint8"):
        list(load_data([samples(1)], graph(dtype="uint8")))
    with pytest.raises(UsageError, match="no input is called 'imge'; did you mean image"):
        list(load_data([{"imge": np.zeros((1, 3)), "scale": np.zeros((1, 2))}], two_inputs()))
    with pytest.raises(UsageError, match="nothing for input 'scale'"):
        list(load_data([{"image": np.zeros((1, 3))}], two_inputs()))
    with pytest.raises(UsageError, match="cannot feed 2 inputs"):
        list(load_data([np.zeros((1, 3))], two_inputs()))
    np.savez(tmp_path / "a.npz", image=np.zeros((3, 3)), scale=np.zeros((2, 2)))
    with pytest.raises(UsageError, match="the arrays hold .*'image': 3, 'scale': 2"):
        load_data(tmp_path / "a.npz", two_inputs())
    np.save(tmp_path / "b.npy", np.zeros((3, 3)))
    with pytest.raises(UsageError, match="cannot feed 2 inputs"):
        load_data(tmp_path / "b.npy", two_inputs())


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_broken_array_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        load_data(tmp_path / name, graph())
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    with pytest.raises(UsageError, match="objects.npy cannot be read"):
        load_data(tmp_path / "objects.npy", graph())
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 4, 6)))
    with pytest.raises(UsageError, match="the arrays hold"):
        load_data(tmp_path / "none.npy", graph())


def test_sizes_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="batch=0 holds no sample"):
        load_data([samples(2)], graph(), batch=0)
    with pytest.raises(UsageError, match="limit=0"):
        load_data([samples(2)], graph(), limit=0)
    with pytest.raises(UsageError, match="cannot be made from int"):
        load_data(3, graph())  # type: ignore[arg-type]
