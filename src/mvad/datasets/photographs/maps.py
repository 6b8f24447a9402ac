"""Read depth maps and normal maps that lie beside photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from mvad.datasets.images import MAX_SIDE, first_line, placeholder, read_gray16, read_rgb
from mvad.datasets.photographs.levels import orientation_of_page, upright
from mvad.errors import BadInput

HOLES = "depth or normals have holes, which are filled with the nearest value"


def read_depth(path: Path) -> NDArray[np.float32]:
    """Read a depth map as (H, W) float32 in the file's unit, 0 where nothing was measured.

    Read are TIFF of one float or 16-bit channel, and PNG of one channel of 16 bits; 0, negative and not finite values are none.

    Raises
    ------
    BadInput
        If it is missing, damaged, or of another kind.
    """
    values = _tiff(path, 2) if path.suffix[1:].lower() in ("tif", "tiff") else read_gray16(path)
    depth = values.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def depth_limits(path: Path) -> tuple[float, float]:
    """Return the least and greatest depth of a map, in the file's unit.

    Raises
    ------
    BadInput
        As ``read_depth``, or if nothing was measured.
    """
    depth = read_depth(path)
    if not depth.any():
        raise BadInput(f"{path}: holds no depth; leave it out")
    return float(depth[depth > 0].min()), float(depth.max())


def read_normals(path: Path) -> NDArray[np.float32]:
    """Read a normal map as (H, W, 3) float32 unit vectors, 0 where there is none.

    Read are TIFF of three float channels, and pictures of 8 bits in which n = value / 127.5 - 1 and black is none.

    Raises
    ------
    BadInput
        If it is missing, damaged, or of another kind.
    """
    if path.suffix[1:].lower() in ("tif", "tiff"):
        values = _tiff(path, 3).astype(np.float32)
        values = np.where(np.isfinite(values).all(axis=2, keepdims=True), values, np.float32(0))
    else:
        levels = read_rgb(path)
        values = np.where(levels.any(axis=2, keepdims=True), levels.astype(np.float32) / np.float32(127.5) - 1, np.float32(0))
    lengths = np.linalg.norm(values, axis=2, keepdims=True)
    return np.asarray(np.where(lengths > 1e-6, values / np.maximum(lengths, 1e-6), np.float32(0)), dtype=np.float32)


def filled(values: NDArray[np.float32], holes: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return values (H, W, ...) whose holes (H, W) have the nearest other value; all zero where there is none.

    Examples
    --------
    >>> filled(np.array([[1, 0, 3]], np.float32), np.array([[False, True, False]])).tolist()
    [[1.0, 1.0, 3.0]]
    """
    if not holes.any() or holes.all():
        return values
    nearest = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
    found: NDArray[np.float32] = values[tuple(nearest)]
    return found


def _tiff(path: Path, axes: int) -> NDArray[np.generic]:
    """Decode a TIFF of one page with so many axes, as float or uint16."""
    try:
        with tifffile.TiffFile(path) as file:
            pages, shape, dtype = len(file.pages), tuple(file.pages[0].shape), file.pages[0].dtype
            fits = len(shape) == axes and (axes == 2 or shape[2] == 3) and max(shape) <= MAX_SIDE
            if pages > 1 or not fits or dtype not in (np.float16, np.float32, np.float64, np.uint16):
                kind = "one channel" if axes == 2 else "three channels"
                raise BadInput(
                    f"{path}: expected one page of {kind} of float or 16 bits, found {pages} of {shape} {dtype}; save it so"
                )
            page = file.pages[0]
            return np.asarray(upright(page.asarray(), orientation_of_page(page)))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; give it, or leave the maps out") from error
    except BadInput:
        raise
    except Exception as error:  # tifffile and its codecs raise many types for damaged files
        raise BadInput(
            f"{path}: {placeholder(path) or f'not readable as a TIFF ({first_line(error)}); save it again'}"
        ) from error
