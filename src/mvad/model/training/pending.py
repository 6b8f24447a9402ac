"""Figures of a step that the device has not computed yet: they are sent to the host, and read when the next step is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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
        self._names, self._sent, self._event = list(tensors), torch.empty(0), None
        if tensors:
            together = torch.stack([tensor.detach().float() for tensor in tensors.values()])
            self._sent = together
            if together.is_cuda:
                self._sent = torch.empty(len(tensors), pin_memory=True).copy_(together, non_blocking=True)
                self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                self._event.record()

    def read(self) -> dict[str, float]:
        """Return the figures; waits until the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        numbers = {**self._numbers, **dict(zip(self._names, self._sent.tolist(), strict=True))}
        return {name: numbers[name] for name in self._order}
