"""Files of scans as other tools leave them: read where nothing is open, else refused by what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mvad.datasets.images import read_rgb, read_xyz
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ScanRef
from mvad.errors import BadInput

H, W = 24, 32
POINTS = np.stack([*np.meshgrid(np.linspace(-0.05, 0.05, W), np.linspace(-0.04, 0.04, H)), np.full((H, W), 0.6)], 2).astype(
    np.float32
)
COLOURS = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)

READ_POINTS: dict[str, Callable[[Path], None]] = {
    "float32": lambda path: tifffile.imwrite(path, POINTS, photometric="rgb"),
    "float64": lambda path: tifffile.imwrite(path, POINTS.astype(np.float64), photometric="rgb"),
    "big-endian": lambda path: tifffile.imwrite(path, POINTS, photometric="rgb", byteorder=">"),
    "channels first": lambda path: tifffile.imwrite(path, np.moveaxis(POINTS, 2, 0), photometric="rgb", planarconfig="separate"),
    "channels as pages": lambda path: tifffile.imwrite(path, np.moveaxis(POINTS, 2, 0), photometric="minisblack", metadata=None),
    "a fourth channel of ones": lambda path: tifffile.imwrite(
        path, np.dstack([POINTS, np.ones((H, W), np.float32)]), photometric="rgb"
    ),
    "rows as pages": lambda path: tifffile.imwrite(path, POINTS, photometric="minisblack", metadata=None),
}


@pytest.mark.parametrize("kind", READ_POINTS)
def test_points_that_leave_no_choice_are_read(kind: str, tmp_path: Path) -> None:
    READ_POINTS[kind](tmp_path / "000.tiff")
    read = read_xyz(tmp_path / "000.tiff")
    assert read.dtype == np.float32
    assert np.array_equal(read, POINTS)


REFUSED_POINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "git-lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5770688\n"),
        "is a pointer of git-lfs, not the file; run git lfs pull",
    ),
    "git-annex": (lambda path: path.write_text("/annex/objects/MD5E-s577-00.tiff\n"), "is a pointer of git-annex"),
    "a login page": (lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>"), "is a page of a website"),
    "float16": (lambda path: tifffile.imwrite(path, POINTS.astype(np.float16), photometric="rgb"), "float16"),
    "a fourth channel of values": (
        lambda path: tifffile.imwrite(path, np.dstack([POINTS, POINTS[..., 0]]), photometric="rgb"),
        "three channels",
    ),
    "millimetres": (
        lambda path: tifffile.imwrite(path, POINTS * 1000, photometric="rgb"),
        "distances around 600 are millimetres",
    ),
    "near millimetres": (
        lambda path: tifffile.imwrite(path, POINTS * 60, photometric="rgb"),
        "distances around 36 are millimetres",
    ),
    "micrometres": (lambda path: tifffile.imwrite(path, POINTS * 1e6, photometric="rgb"), "are micrometres, not metres"),
}


@pytest.mark.parametrize("kind", REFUSED_POINTS)
def test_points_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    write, what = REFUSED_POINTS[kind]
    write(tmp_path / "000.tiff")
    Image.fromarray(COLOURS).save(tmp_path / "000.png")
    paths = {"xyz": tmp_path / "000.tiff", "rgb": tmp_path / "000.png"}
    with pytest.raises(BadInput, match=what) as caught:
        reader_for("mvtec3d").load(ScanRef("mvtec3d", "gear", "train", "good", "000", paths))
    assert str(caught.value).startswith(f"{tmp_path / '000.tiff'}: ")
    assert "\n" not in str(caught.value)


def with_palette(path: Path) -> None:
    few = COLOURS // 128 * 255
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(path)


READ_COLOURS: dict[str, tuple[Callable[[Path], object], np.ndarray]] = {
    "RGB": (lambda path: Image.fromarray(COLOURS).save(path), COLOURS),
    "an opaque alpha channel": (lambda path: Image.fromarray(COLOURS).convert("RGBA").save(path), COLOURS),
    "8 bits in 16": (lambda path: path.write_bytes(imagecodecs.png_encode(COLOURS.astype(np.uint16) * 257)), COLOURS),
    "a palette": (with_palette, COLOURS // 128 * 255),
}


@pytest.mark.parametrize("kind", READ_COLOURS)
def test_colours_that_leave_no_choice_are_read(kind: str, tmp_path: Path) -> None:
    write, expected = READ_COLOURS[kind]
    write(tmp_path / "000.png")
    assert np.array_equal(read_rgb(tmp_path / "000.png", (H, W)), expected)
    assert np.array_equal(read_rgb(tmp_path / "000.png", None, (tmp_path / "000.png").read_bytes()), expected)


REFUSED_COLOURS: dict[str, tuple[Callable[[Path], object], str]] = {
    "transparent": (
        lambda path: path.write_bytes(imagecodecs.png_encode(np.dstack([COLOURS, COLOURS[..., 0]]))),
        "transparent pixels",
    ),
    "16 bits": (
        lambda path: path.write_bytes(imagecodecs.png_encode(COLOURS.astype(np.uint16) * 200)),
        "8 bits per channel, found 16",
    ),
    "grey": (lambda path: Image.fromarray(COLOURS[..., 0]).save(path), "mode RGB, found L"),
    "padded": (
        lambda path: Image.fromarray(np.pad(COLOURS, ((4, 4), (0, 0), (0, 0)))).save(path),
        "expected 32 x 24 pixels, found 32 x 32",
    ),
    "git-lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "pointer of git-lfs"),
}


@pytest.mark.parametrize("kind", REFUSED_COLOURS)
def test_colours_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    write, what = REFUSED_COLOURS[kind]
    write(tmp_path / "000.png")
    with pytest.raises(BadInput, match=what) as caught:
        read_rgb(tmp_path / "000.png", (H, W))
    assert "000.png" in str(caught.value)
