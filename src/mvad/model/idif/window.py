"""The head looks at a window around the object: the rest of a view is background and counts nowhere (head.window).

The window's side is that of the largest object of training, so an image's answer depends on nothing but the image. Objects
cover a fifth of a view of a rendered scan and less, and the head is four fifths of all operations.
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
    """A square of ``side`` cells among ``cells`` a side."""

    side: int
    cells: int

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.side >= self.cells

    def places(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the window lies in each image, and whether the object fits into it.

        Parameters
        ----------
        seen
            (N, S, S) bool.

        Returns
        -------
        tuple
            (N, 2) int64, first row and column; (N,) bool.
        """
        first, last = extent(seen, self.cells)
        middle = (first + last + 1) // 2
        start = (middle - self.side // 2).clamp(min=0, max=self.cells - self.side)
        fits = ((first >= start) & (last < start + self.side)).all(dim=1)
        return start, fits

    def cut(self, planes: Tensor, places: Tensor) -> Tensor:
        """(N, C, cells, cells) to (N, C, side, side)."""
        image, row, column = self._cells(places)
        return planes[image, :, row, column].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def paste(self, planes: Tensor, places: Tensor, fill: float) -> Tensor:
        """(N, side, side) to (N, cells, cells), ``fill`` elsewhere."""
        out = planes.new_full((len(planes), self.cells, self.cells), fill)
        out[self._cells(places)] = planes
        return out

    def _cells(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image (N, 1, 1), row (N, side, 1) and column (N, 1, side) of every cell of the windows."""
        line = torch.arange(self.side, device=places.device)
        image = torch.arange(len(places), device=places.device)
        return image[:, None, None], places[:, :1, None] + line[:, None], places[:, 1:, None] + line


def extent(seen: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return first and last row and column of cells (N, 2) that show something of (N, S, S); the middle where nothing does."""
    grid = functional.adaptive_max_pool2d(seen[:, None].float(), cells)[:, 0] > 0
    firsts, lasts = [], []
    for axis in (2, 1):
        line = grid.any(dim=axis)
        there = line.any(dim=1)
        first = torch.where(there, line.int().argmax(dim=1), cells // 2)
        last = torch.where(there, cells - 1 - line.flip(1).int().argmax(dim=1), cells // 2)
        firsts.append(first)
        lasts.append(last)
    return torch.stack(firsts, dim=1), torch.stack(lasts, dim=1)


def fitted(views: Iterable[Tensor], cells: int) -> Window:
    """Return the window that holds every object of the given (N, S, S) outlines, with a margin."""
    side = 1
    for seen in views:
        first, last = extent(seen, cells)
        side = max(side, int((last - first).max()) + 1)
    side = -(-(side + 2 * _MARGIN) // _STEP) * _STEP
    return Window(min(side, cells), cells)
