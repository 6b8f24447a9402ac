"""Figures of a step that the device has not computed yet: they are sent to the host, and read when the next step is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mvad.model.devices import sent

Figures = Mapping[str, Tensor | float]
"""Figures of a step by name, including ``loss``: numbers, or 0-d tensors on the device."""


class Pending:
    """Figures of a step on their way to the host, with the keys of its samples.

    Parameters
    ----------
    figures
        See ``Figures``. Those on a GPU are copied into page-locked memory, which nothing waits for.
    keys
        Keys of the samples of the step.
    """

    def __init__(self, figures: Figures, keys: Sequence[str] = ()) -> None:
        self.keys = keys
        self._order = list(figures)
        tensors = {name: figure for name, figure in figures.items() if isinstance(figure, Tensor)}
        self._numbers = {name: float(figure) for name, figure in figures.items() if name not in tensors}
        self._names = list(tensors)
        read = [tensor.detach().float() for tensor in tensors.values()]
        [self._sent], self._event = sent([torch.stack(read) if read else torch.empty(0)])

    def read(self) -> dict[str, float]:
        """Return the figures; waits until the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        numbers = {**self._numbers, **dict(zip(self._names, self._sent.tolist(), strict=True))}
        return {name: numbers[name] for name in self._order}
