"""Where the pixels of one photograph go in the square that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvad.datasets.masks import nearest
from mvad.datasets.photographs.crop import Box
from mvad.datasets.photographs.pictures import Header
from mvad.datasets.scan import Tile
from mvad.errors import BadInput

_SAME_PROPORTIONS = 0.01
"""Greatest relative difference of two pictures' proportions that counts as none."""


@dataclass(frozen=True)
class ViewFrame:
    """How the pictures of one view become squares.

    Attributes
    ----------
    width, height
        Size of its training pictures, pixels.
    window
        The square that is shown: left, top, right, bottom in these pixels; it may reach beyond the picture.
    white
        Level of 16-bit pictures that becomes 255; None for pictures of 8 bits.
    """

    width: int
    height: int
    window: Box
    white: int | None = None

    @classmethod
    def whole(cls, width: int, height: int, white: int | None = None) -> ViewFrame:
        """Return the frame that shows all of a picture, centred in a square."""
        side, x, y = max(width, height), width / 2, height / 2
        return cls(width, height, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), white)

    @property
    def pads(self) -> bool:
        """Whether the window reaches beyond the picture."""
        left, top, right, bottom = self.window
        return left < 0 or top < 0 or right > self.width or bottom > self.height

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        white = {} if self.white is None else {"white": self.white}
        return {"width": self.width, "height": self.height, "window": list(self.window), **white}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ViewFrame:
        """Return what ``to_json`` was called on."""
        left, top, right, bottom = map(float, value["window"])
        return cls(int(value["width"]), int(value["height"]), (left, top, right, bottom), value.get("white"))


@dataclass(frozen=True)
class Placed:
    """Where the pixels of one picture go.

    Attributes
    ----------
    box
        Part of the picture that is shown: left, top, right, bottom, pixels.
    target
        Part of the square that shows it: left, top, right, bottom, integers.
    size
        Side of the square.
    corner
        Row and column of the picture in its file, where that is a montage.
    """

    box: Box
    target: tuple[int, int, int, int]
    size: int
    corner: tuple[int, int] = (0, 0)

    def picture_place(self, row: float, column: float) -> tuple[int, int]:
        """Return the pixel (row, column) of the file that a pixel of the square shows, or the nearest one that it shows."""
        left, top, right, bottom = self.box
        x0, y0, x1, y1 = self.target
        x = left + (min(max(column + 0.5, x0), x1) - x0) * (right - left) / (x1 - x0)
        y = top + (min(max(row + 0.5, y0), y1) - y0) * (bottom - top) / (y1 - y0)
        row_in, column_in = int(min(max(y, top), bottom - 1)), int(min(max(x, left), right - 1))
        return self.corner[0] + row_in, self.corner[1] + column_in

    def image(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return a picture in colour as (size, size, 3) uint8, black beyond it; each pixel is the mean of what it covers."""
        x0, y0, x1, y1 = self.target
        smaller = x1 - x0 <= self.box[2] - self.box[0]
        kind = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
        shown = np.asarray(picture.resize((x1 - x0, y1 - y0), kind, self.box))
        if shown.shape[:2] == (self.size, self.size):
            return shown
        out = np.zeros((self.size, self.size, 3), np.uint8)
        out[y0:y1, x0:x1] = shown
        return out

    def nearest(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (H, W, ...) at the pixels' centres, zero beyond the picture."""
        left, top, right, bottom = self.box
        x0, y0, x1, y1 = self.target
        rows = (top + (np.arange(y1 - y0) + 0.5) * (bottom - top) / (y1 - y0)).astype(int)
        columns = (left + (np.arange(x1 - x0) + 0.5) * (right - left) / (x1 - x0)).astype(int)
        out = np.zeros((self.size, self.size, *values.shape[2:]), values.dtype)
        out[y0:y1, x0:x1] = values[rows[:, None], columns[None, :]]
        return out

    def marks(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return a mask (H, W) bool as (size, size) uint8, by ``masks.nearest``."""
        left, top, right, bottom = self.box
        x0, y0, x1, y1 = self.target
        part = mask[int(top) : max(int(np.ceil(bottom)), int(top) + 1), int(left) : max(int(np.ceil(right)), int(left) + 1)]
        out = np.zeros((self.size, self.size), np.uint8)
        out[y0:y1, x0:x1] = nearest(part, (y1 - y0, x1 - x0))
        return out

    def inside(self) -> NDArray[np.bool_]:
        """Return (size, size) bool, true where the square shows the picture."""
        x0, y0, x1, y1 = self.target
        out = np.zeros((self.size, self.size), bool)
        out[y0:y1, x0:x1] = True
        return out


def place(path: Path, frame: ViewFrame, width: int, height: int, size: int) -> Placed:
    """Return where the pixels of a picture of some size go.

    Raises
    ------
    BadInput
        If it has other proportions than the training pictures of its view.
    """
    if not same_proportions(frame, width, height):
        raise BadInput(
            f"{path}: {width} x {height} pixels, the pictures of this view have {frame.width} x {frame.height}; "
            "take it with the same camera setting, or pack it as a view of its own"
        )
    scale = width / frame.width
    left, top, right, bottom = (value * scale for value in frame.window)
    side = right - left
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    x0, x1 = (round((value - left) / side * size) for value in (box[0], box[2]))
    y0, y1 = (round((value - top) / side * size) for value in (box[1], box[3]))
    return Placed(box, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), size)


def same_proportions(frame: ViewFrame, width: int, height: int) -> bool:
    """Return whether a picture has the proportions of a view's training pictures."""
    return abs(width * frame.height - height * frame.width) <= _SAME_PROPORTIONS * max(width * frame.height, 1)


def tile_size(header: Header, tile: Tile | None) -> tuple[int, int]:
    """Return width and height of a view in a picture."""
    return (header.width, header.height) if tile is None else (header.width // tile.columns, header.height // tile.rows)


def image_of(image: Image.Image, tile: Tile | None) -> Image.Image:
    """Return the part of a picture that is a view; see ``tile_of``."""
    if tile is None:
        return image
    width, height = image.width // tile.columns, image.height // tile.rows
    row, column = divmod(tile.number, tile.columns)
    return image.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))


def tile_of(values: NDArray[Any], tile: Tile | None) -> NDArray[Any]:
    """Return the part (h, w, ...) of a picture (H, W, ...) that is a view."""
    if tile is None:
        return values
    height, width = values.shape[0] // tile.rows, values.shape[1] // tile.columns
    row, column = divmod(tile.number, tile.columns)
    return values[row * height : (row + 1) * height, column * width : (column + 1) * width]
