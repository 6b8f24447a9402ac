"""What masks mark, as they are met: exact where it is known, never empty where something is marked."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvad.datasets.masks import CLASSES, MOSTLY, SOFT, any_overlap, check_label, marked, nearest, read_mask
from mvad.errors import BadInput

SIDE = 64
TRUE = np.zeros((SIDE, SIDE), bool)
TRUE[8:24, 10:30] = True
TRUE[40:52, 36:60] = True
LEVEL = TRUE.astype(np.uint8)
TWO_CLASSES = np.where(np.arange(SIDE)[:, None] < 32, LEVEL, 2 * LEVEL).astype(np.uint8)


def jpeg(levels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def resized(levels: np.ndarray, factor: int) -> np.ndarray:
    """Return levels enlarged and reduced again with soft edges."""
    large = Image.fromarray(levels).resize((SIDE * factor, SIDE * factor), Image.Resampling.BICUBIC)
    return np.asarray(large.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


KINDS: dict[str, tuple[np.ndarray, bool, str]] = {
    "0 and 255": (LEVEL * 255, False, ""),
    "0 and 1": (LEVEL, False, ""),
    "0 and 7": (LEVEL * 7, False, ""),
    "classes 0, 1, 2": (TWO_CLASSES, False, CLASSES),
    "classes 0, 100, 200": (TWO_CLASSES * 100, False, CLASSES),
    "classes 0, 1, 255": (np.where(TWO_CLASSES == 2, 255, TWO_CLASSES), False, CLASSES),
    "JPEG of quality 95": (jpeg(LEVEL * 255, 95), True, SOFT),
    "JPEG of quality 60": (jpeg(LEVEL * 255, 60), True, SOFT),
    "soft edges": (resized(LEVEL * 255, 3), False, SOFT),
    "soft edges of peak 90": (resized(LEVEL * 90, 3), False, SOFT),
    "16 bits": (LEVEL.astype(np.int64) * 65535, False, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_marked(kind: str) -> None:
    levels, is_jpeg, note = KINDS[kind]
    mask, told = marked(levels, is_jpeg)
    assert told == note
    assert np.count_nonzero(mask != TRUE) <= (0 if note != SOFT else 0.02 * TRUE.sum())


def test_a_faint_scratch_beside_a_strong_defect_does_not_vanish() -> None:
    levels = resized(LEVEL * 255, 3).astype(np.int64)
    levels[30, 4:60] = 70
    levels[31, 4:60] = 33
    mask, _ = marked(levels)
    assert mask[30, 4:60].all()
    assert not mask[31, 6:58].any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(1, 255)), min_size=n, max_size=n)
    ),
    st.booleans(),
)
def test_a_marked_mask_never_comes_out_empty(points: list[tuple[int, int, int]], is_jpeg: bool) -> None:
    levels = np.zeros((16, 16), np.uint8)
    for row, column, value in points:
        levels[row, column] = value
    mask, _ = marked(levels, is_jpeg)
    assert mask.any()
    assert not mask[levels == 0].any()
    assert mask[levels == levels.max()].all()


def stored(change: Callable[[Image.Image], Image.Image], ending: str = "png") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"mask.{ending}"
        change(Image.fromarray(LEVEL * 255)).save(path, quality=75)
        return path

    return write


def palette(image: Image.Image) -> Image.Image:
    drawn = Image.fromarray(TWO_CLASSES, "P")
    drawn.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return drawn


STORED = {
    "grey": stored(lambda image: image),
    "one bit": stored(lambda image: image.convert("1")),
    "colours": stored(lambda image: image.convert("RGB")),
    "an opaque alpha channel": stored(lambda image: image.convert("RGBA")),
    "a palette of classes": stored(palette),
    "16 bits": stored(lambda image: Image.fromarray(LEVEL.astype(np.uint16) * 65535)),
    "JPEG": stored(lambda image: image, "jpg"),
    "half the size": stored(lambda image: image.resize((32, 32), Image.Resampling.NEAREST)),
    "twice the size": stored(lambda image: image.resize((128, 128), Image.Resampling.NEAREST)),
}


@pytest.mark.parametrize("kind", STORED)
def test_masks_as_they_are_stored(kind: str, tmp_path: Path) -> None:
    mask, notes = read_mask(STORED[kind](tmp_path), (SIDE, SIDE))
    assert np.count_nonzero(mask != TRUE) <= (0.02 * TRUE.sum() if kind == "JPEG" else 0)
    assert notes == {
        "JPEG": (SOFT,),
        "half the size": ("mask of 32 x 32 pixels scaled to 64 x 64",),
        "twice the size": ("mask of 128 x 128 pixels scaled to 64 x 64",),
    }.get(kind, ())


def test_a_single_marked_pixel_survives_scaling(tmp_path: Path) -> None:
    levels = np.zeros((512, 512), np.uint8)
    levels[77, 300] = 255
    Image.fromarray(levels).save(tmp_path / "mask.png")
    mask, _ = read_mask(tmp_path / "mask.png", (SIDE, SIDE))
    assert np.argwhere(mask).tolist() == [[9, 37]]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda image: image.resize((SIDE, SIDE - 9)), "expected 64 x 64 pixels, found 64 x 55"),
        (lambda image: Image.merge("LA", (image, image)), "transparent pixels"),
        (lambda image: image.convert("F"), "not a PNG or JPEG image"),
    ],
)
def test_masks_that_leave_a_choice_are_refused(change: Callable[[Image.Image], Image.Image], what: str, tmp_path: Path) -> None:
    changed = change(Image.fromarray(LEVEL * 255))
    changed.save(tmp_path / "mask.png", format="TIFF" if changed.mode == "F" else "PNG")
    with pytest.raises(BadInput, match=what) as caught:
        read_mask(tmp_path / "mask.png", (SIDE, SIDE))
    assert "mask.png" in str(caught.value)


def test_an_inverted_mask_is_told(tmp_path: Path) -> None:
    Image.fromarray(255 - LEVEL * 255).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (SIDE, SIDE))[1] == (MOSTLY,)


def test_label_and_mask_must_agree() -> None:
    path = Path("gt/000.png")
    assert check_label(path, TRUE, good=False) == ()
    assert check_label(path, ~TRUE & TRUE, good=True) == ()
    assert len(check_label(path, ~TRUE & TRUE, good=False)) == 1
    with pytest.raises(BadInput, match=r"gt/000.png: marks 608 pixels of a scan that is labelled good"):
        check_label(path, TRUE, good=True)


@pytest.mark.parametrize("radius", [8, 20, 60])
def test_masks_of_smaller_views_have_the_area_of_the_mask(radius: int) -> None:
    """Marking every pixel that is touched widens a disc of 16 pixels by a half when 1024 pixels become 256."""
    shares, touched = [], []
    for at in np.random.default_rng(0).uniform(100, 900, (20, 2)):
        row, column = np.mgrid[:1024, :1024]
        mask = (row - at[0]) ** 2 + (column - at[1]) ** 2 <= radius**2
        shares.append(nearest(mask, (256, 256)).sum() * 16 / mask.sum())
        touched.append(any_overlap(mask, (256, 256)).sum() * 16 / mask.sum())
    assert np.mean(shares) == pytest.approx(1, abs=0.03)
    assert np.mean(touched) > 1.05


def test_a_mask_does_not_vanish_in_a_smaller_view() -> None:
    mask = np.zeros((64, 64), bool)
    mask[5, 9] = True
    assert nearest(mask, (16, 16)).sum() == 1
    assert nearest(mask, (16, 16))[1, 2] == 1
    assert nearest(np.zeros((64, 64), bool), (16, 16)).sum() == 0
    assert np.array_equal(nearest(mask, (64, 64)), mask)
