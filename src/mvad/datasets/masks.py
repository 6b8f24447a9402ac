"""What a mask marks: one rule for binary masks, class numbers, soft edges and JPEG, and for masks of another size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mvad.datasets.images import read_levels
from mvad.errors import BadInput

RULE = (
    "A mask of two values, one of them 0, and a mask of class numbers mark what is over 0. Class numbers are at most 15 "
    "everywhere, or at most 16 values of a PNG each of which fills a 3 x 3 block. Any other mask has soft edges (it was resized, or is JPEG): "
    "of each connected region over a 16th of the greatest value (JPEG: a 4th) that is marked which is over half of the region's own greatest "
    "value. A mask of another size, but the same proportions, marks each pixel of which it marks a part. A pixel of a view of another size is "
    "marked if its centre is; where nothing would be left, each pixel of which a part is marked"
)
"""The rule in words; recorded with photographs. ``tools/docs.py`` says it in more words for ``docs/formats.md``."""

CLASSES = "mask has class numbers; every class over 0 is marked"
SOFT = "mask has soft edges; what is over half of its region's greatest value is marked"
MOSTLY = "mask marks more than half of the picture; is it inverted?"
UNMARKED = "mask marks nothing, although the sample is labelled as having a defect"
NO_MASK = "no mask; taken as unmarked, since the scan is labelled good"

_MAX_CLASS = 15
_MAX_CLASSES = 16
_EIGHT = np.ones((3, 3), dtype=bool)


def marked(levels: NDArray[np.integer], is_jpeg: bool = False) -> tuple[NDArray[np.bool_], str]:
    """Return what a mask marks by ``RULE``, and a note where the rule decided something, or "".

    Parameters
    ----------
    levels
        (H, W) grey values as stored.
    is_jpeg
        Whether they come from JPEG, which leaves traces of an edge beside it.

    Returns
    -------
    tuple
        (H, W) bool, not empty unless all levels are 0; and the note.
    """
    values = np.unique(levels)
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return levels > 0, ""
    if values[-1] <= _MAX_CLASS or (not is_jpeg and _fill_blocks(levels, values)):
        return levels > 0, CLASSES
    regions, count = ndimage.label(levels > values[-1] // (4 if is_jpeg else 16), _EIGHT)
    peaks = np.zeros(count + 1, dtype=np.int64)
    peaks[1:] = ndimage.maximum(levels, regions, np.arange(1, count + 1))
    return (regions > 0) & (levels > peaks[regions] // 2), SOFT


def _fill_blocks(levels: NDArray[np.integer], values: NDArray[np.integer]) -> bool:
    """Return whether there are few values and each but 0 fills a 3 x 3 block somewhere, as no value along a soft edge does."""
    if len(values) > _MAX_CLASSES:
        return False
    return all(ndimage.binary_erosion(levels == value, _EIGHT).any() for value in values if value > 0)


def read_mask(path: Path, shape: tuple[int, int], data: bytes | None = None) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Read the mask of a picture of ``shape`` (H, W) as (H, W) bool, by ``RULE``, with what was decided.

    ``data`` is the file's content, if it was read before.

    Raises
    ------
    BadInput
        If it cannot be read, or has other proportions than the picture.
    """
    return mask_of(path, *read_levels(path, data), shape)


def mask_of(
    path: Path, levels: NDArray[np.integer], is_jpeg: bool, shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:  # fmt: skip
    """Return what the levels (H, W) of a mask that was read already mark in a picture of ``shape``; see ``read_mask``.

    Raises
    ------
    BadInput
        If it has other proportions than the picture.
    """
    mask, note = marked(levels, is_jpeg)
    notes = [note] if note else []
    if mask.shape != shape:
        h, w = mask.shape
        if not same_proportions(mask.shape, shape):
            raise BadInput(
                f"{path}: expected {shape[1]} x {shape[0]} pixels, found {w} x {h}; the files of this scan do not belong together"
            )
        notes.append(f"mask of {w} x {h} pixels scaled to {shape[1]} x {shape[0]}")
        mask = any_overlap(mask, shape) > 0
    if mask.mean() > 0.5:
        notes.append(MOSTLY)
    return mask, tuple(notes)


def check_label(path: Path, mask: NDArray[np.bool_], good: bool) -> tuple[str, ...]:
    """Return the note on a mask (H, W) that does not show the defect of its label.

    Raises
    ------
    BadInput
        If the mask of a good part marks something.
    """
    if good and mask.any():
        raise BadInput(
            f"{path}: marks {int(mask.sum())} pixels of a scan that is labelled good; move the scan to its defect, or empty the mask"
        )
    return () if good or mask.any() else (UNMARKED,)


def same_proportions(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two sizes (H, W) are of one picture, but for rounding to whole pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(other) / 2 + max(one) / 2


def nearest(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W) bool to ``shape`` uint8: 1 where the pixel's centre was true, as the field does; ``any_overlap`` where none was.

    Marking whatever is touched widens a defect: a disc of 16 pixels by a half when 1024 pixels become 256.
    """
    rows, columns = (
        ((np.arange(size) + 0.5) * length / size).astype(int) for size, length in zip(shape, mask.shape, strict=True)
    )
    small = mask[rows[:, None], columns[None]]
    return small.astype(np.uint8) if small.any() or not mask.any() else any_overlap(mask, shape)


def any_overlap(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W) bool to ``shape`` uint8: 1 where any part of the pixel was true."""
    for axis in (0, 1):
        length, size = mask.shape[axis], shape[axis]
        first = np.arange(size) * length // size
        after = np.maximum(-(-np.arange(1, size + 1) * length // size), first + 1)
        counts = np.concatenate([np.zeros_like(mask.take([0], axis), np.int64), mask.cumsum(axis, dtype=np.int64)], axis)
        mask = counts.take(after, axis) > counts.take(first, axis)
    return mask.astype(np.uint8)
