"""Crop of the head's input to a window around the object; the rest of a view is background and not scored (head.window).

The window's side is that of the largest object in training, so the result for an image depends on that image alone. The
head takes four fifths of all operations; objects cover a fifth of a view in the sensor's frame, and nearly fill one in their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_MARGIN = 2
_STEP = 4


@dataclass(frozen=True)
class Window:
    """A square window of ``side`` x ``side`` cells in a grid of ``cells`` x ``cells``."""

    side: int
    cells: int

    @property
    def whole(self) -> bool:
        """Whether the window is the whole grid."""
        return self.side >= self.cells

    def places(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window's position in each image, and whether the object fits into it.

        Parameters
        ----------
        seen
            (N, S, S) bool, true on the object.

        Returns
        -------
        tuple
            (N, 2) int64, the window's first row and column; (N,) bool, whether the object fits.
        """
        first, last = extent(seen, self.cells)
        middle = (first + last + 1) // 2
        start = (middle - self.side // 2).clamp(min=0, max=self.cells - self.side)
        fits = ((first >= start) & (last < start + self.side)).all(dim=1)
        return start, fits

    def cut(self, planes: Tensor, places: Tensor) -> Tensor:
        """Return the windows (N, C, side, side) of planes (N, C, cells, cells), at ``places`` (N, 2)."""
        image, row, column = self._cells(places)
        return planes[image, :, row, column].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def cut_resized(self, planes: Tensor, places: Tensor) -> Tensor:
        """Return the windows (N, C, side, side) of planes (N, C, h, w) resized bilinearly to the grid, which is not computed."""
        line = torch.arange(self.side, device=places.device)
        centre = (places[:, :, None] + line + 0.5) * (2 / self.cells) - 1  # rows and columns of the grid, (N, 2, side) in -1..1
        rows, columns = centre.to(planes.dtype).unbind(1)
        grid = torch.stack([columns[:, None].expand(-1, self.side, -1), rows[:, :, None].expand(-1, -1, self.side)], dim=-1)
        return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)

    def paste(self, planes: Tensor, places: Tensor, fill: float) -> Tensor:
        """Return planes (N, cells, cells) with the windows (N, side, side) at ``places`` (N, 2), and ``fill`` elsewhere."""
        out = planes.new_full((len(planes), self.cells, self.cells), fill)
        out[self._cells(places)] = planes
        return out

    def _cells(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image (N, 1, 1), row (N, side, 1) and column (N, 1, side) of every cell of the windows."""
        line = torch.arange(self.side, device=places.device)
        image = torch.arange(len(places), device=places.device)
        return image[:, None, None], places[:, :1, None] + line[:, None], places[:, 1:, None] + line


def extent(seen: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last cell, (N, 2) int64 each (row, column), that the object (N, S, S) bool covers.

    The middle cell where an image shows no object.
    """
    grid = functional.adaptive_max_pool2d(seen[:, None].float(), cells)[:, 0] > 0
    firsts, lasts = [], []
    for axis in (2, 1):
        line = grid.any(dim=axis)
        occupied = line.any(dim=1)
        first = torch.where(occupied, line.int().argmax(dim=1), cells // 2)
        last = torch.where(occupied, cells - 1 - line.flip(1).int().argmax(dim=1), cells // 2)
        firsts.append(first)
        lasts.append(last)
    return torch.stack(firsts, dim=1), torch.stack(lasts, dim=1)


def fitted(views: Iterable[Tensor], cells: int) -> Window:
    """Return the window that fits the object of every image (N, S, S) bool of ``views``, with a margin."""
    side = 1
    for seen in views:
        first, last = extent(seen, cells)
        side = max(side, int((last - first).max()) + 1)
    side = -(-(side + 2 * _MARGIN) // _STEP) * _STEP
    return Window(min(side, cells), cells)
