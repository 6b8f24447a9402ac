"""Which inputs of a batch are there: decided on the host, so that no step waits for the device to tell the number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mvad.model.devices import moved


class Presence:
    """Presence of K inputs in each of B samples, on the host and on the device.

    The N inputs that are there are the rows of what is computed, in the order of the samples. Where everything is there, taking
    and spreading rows are views of the same memory.

    Parameters
    ----------
    mask
        (B, K) bool on the host.
    device
        Device of the tensors whose rows are taken.

    Attributes
    ----------
    mask
        See above.
    everything
        Whether all inputs of all samples are there.
    used
        Inputs that at least one sample has.

    Examples
    --------
    >>> presence = Presence(torch.tensor([[True, False], [True, True]]), torch.device("cpu"))
    >>> presence.take(torch.tensor([[1, 2], [3, 4]]))
    tensor([1, 3, 4])
    >>> presence.spread(torch.tensor([1, 3, 4]))
    tensor([[1, 0],
            [3, 4]])
    """

    def __init__(self, mask: Tensor, device: torch.device) -> None:
        self.mask, self.device = mask.cpu(), device
        self.everything = bool(self.mask.all())
        self.used: list[int] = self.mask.any(dim=0).nonzero()[:, 0].tolist()

    @staticmethod
    def of(given: Presence | Tensor, device: torch.device) -> Presence:
        """Return a presence, or that of a mask (B, K) bool on any device."""
        return given if isinstance(given, Presence) else Presence(given, device)

    @cached_property
    def key(self) -> bytes:
        """What tells this presence from others: the shape and the elements of the mask."""
        return repr(tuple(self.mask.shape)).encode() + bytes(self.mask.flatten().tolist())

    @cached_property
    def on_device(self) -> Tensor:
        """The mask (B, K) bool on the device."""
        return moved([self.mask], self.device)[0]

    @cached_property
    def count(self) -> int:
        """Number N of inputs that are there."""
        return int(self.mask.sum())

    @cached_property
    def index(self) -> Tensor:
        """(N,) int64 on the device, row b * K + k of each input that is there."""
        return self._indices[0]

    @cached_property
    def _indices(self) -> list[Tensor]:
        """Rows that are there; their order by input; the inverse of that order."""
        rows = self.mask.flatten().nonzero()[:, 0]
        order = (rows % self.mask.shape[1]).argsort(stable=True)
        return moved([rows, order, order.argsort()], self.device)

    def take(self, values: Tensor) -> Tensor:
        """Return the rows (N, ...) of values (B, K, ...)."""
        flat = values.flatten(0, 1)
        return flat if self.everything else flat.index_select(0, self.index)

    def spread(self, rows: Tensor) -> Tensor:
        """Return values (B, K, ...) with the rows (N, ...) where inputs are there, else 0."""
        if self.everything:
            return rows.view(*self.mask.shape, *rows.shape[1:])
        empty = rows.new_zeros(self.mask.numel(), *rows.shape[1:])
        return empty.index_copy(0, self.index, rows).view(*self.mask.shape, *rows.shape[1:])

    def by_input(self, rows: Tensor) -> dict[int, Tensor]:
        """Return the rows of each input in ``used``: (n, ...) of rows (N, ...)."""
        if self.everything:
            parts: Sequence[Tensor] = rows.view(*self.mask.shape, *rows.shape[1:]).unbind(1)
        else:
            counts = self.mask.sum(dim=0)[self.used].tolist()
            parts = torch.split(rows.index_select(0, self._indices[1]), counts)
        return dict(zip(self.used, parts, strict=True))

    def joined(self, parts: Mapping[int, Tensor]) -> Tensor:
        """Return the rows (N, ...) whose parts by input are ``parts``: the inverse of ``by_input``.

        Parts of inputs that only other ranks have are empty; they are joined, too, so that a backward pass reaches what sums over
        all ranks.
        """
        if self.everything:
            return torch.stack([parts[k] for k in self.used], dim=1).flatten(0, 1)
        empty = [part for k, part in parts.items() if k not in self.used]
        return torch.cat([*(parts[k] for k in self.used), *empty]).index_select(0, self._indices[2])
