"""What the segmentation head says of normal samples at each position of a view, to judge others by (``head.by_position``).

A view of rendered scans in the object's frame, and of a part in a fixture, shows the same place of the part at the same position. On
some places, such as outlines and holes, the head is unsure of every part: one threshold for a whole view would be set by them. As
PaDiM does with features, each position has a mean and a deviation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_MEAN_CELLS, _DEVIATION_CELLS = 3, 5
"""Side of the square of cells over which mean and variance are averaged: a few samples alone tell the variance badly."""

_TYPICAL = 0.3
"""Share of a view's mean variance that is added to that of each position, so that no place counts without limit."""

_FEW = 5
"""Number of samples whose cells weigh as much as what is typical of the view."""

_SHOWN = 0.5
"""Share of a cell that must be on the object."""

_LEAST_VARIANCE = 1e-6


@dataclass
class PositionSums:
    """Sums over normal samples, from which means and deviations follow.

    Attributes
    ----------
    count, total, squares
        Number of samples, and sums of their logits and of the squares: (K, h, w) float64.

    Examples
    --------
    >>> sums = PositionSums.of(1, (2, 2), torch.device("cpu"))
    >>> sums.add(torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]), torch.ones(1, 1, 8, 8))
    >>> [tuple(part.shape) for part in sums.mean_and_deviation()]
    [(1, 2, 2), (1, 2, 2)]
    """

    count: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, inputs: int, size: tuple[int, int], device: torch.device) -> PositionSums:
        """Return the sums over no sample."""
        return cls(*(torch.zeros(inputs, *size, dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, logits: Tensor, counts: Tensor) -> None:
        """Add samples.

        Parameters
        ----------
        logits
            (B, K, h, w) float.
        counts
            (B, K, S, S), 1 where a pixel counts, else 0: only cells that lie on the object count.
        """
        cells = functional.adaptive_avg_pool2d(counts.float(), (logits.shape[-2], logits.shape[-1])) > _SHOWN
        inside = torch.where(cells, logits.double(), 0.0)
        self.count += cells.sum(dim=0)
        self.total += inside.sum(dim=0)
        self.squares += inside.square().sum(dim=0)

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation at each position, (K, h, w) float32 each; where few samples are, what is typical of the view.

        Mean 0 and deviation 1 in a view of which nothing was added.
        """
        mean = _local(self.total, _MEAN_CELLS) / _local(self.count, _MEAN_CELLS).clamp(min=1e-6)
        about_mean = (self.squares - 2 * mean * self.total + mean.square() * self.count).clamp(min=0)
        variance = _local(about_mean, _DEVIATION_CELLS) / _local(self.count, _DEVIATION_CELLS).clamp(min=1e-6)
        weight = self.count / self.count.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        typical_mean, typical_variance = ((weight * values).sum(dim=(1, 2), keepdim=True) for values in (mean, variance))
        known = self.count / (self.count + _FEW)
        mean = known * mean + (1 - known) * typical_mean
        variance = known * variance + (1 - known) * typical_variance + _TYPICAL * typical_variance
        variance = variance.clamp(min=_LEAST_VARIANCE)
        variance[self.count.sum(dim=(1, 2)) == 0] = 1
        return mean.float(), variance.sqrt().float()


def _local(planes: Tensor, side: int) -> Tensor:
    """Return the sums (K, h, w) over squares of cells, up to a factor, which ratios of them have not."""
    return functional.avg_pool2d(planes[:, None], side, 1, side // 2)[:, 0]
