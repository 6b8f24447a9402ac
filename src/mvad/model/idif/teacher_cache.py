"""Cache of the frozen teacher's features of clean training views, which are the same in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Features = Callable[[Tensor], tuple[Tensor, ...]]

_LIMIT_BYTES = 3 << 29
"""Limit of the cache in the host's memory: 1.5 GiB."""

_SHARE = 0.4
"""Limit of the cache on a GPU, as a share of the memory that is free at the first step, when the data are there."""


class TeacherCache:
    """Features by sample key, kept on the device up to a limit; the others are computed again.

    Parameters
    ----------
    features
        Returns the teacher's features of images (N, 3, S, S) at strides 4, 8, 16: (N, C, h, w) each.
    device
        Device of the images. Its limit is 1.5 GiB on a processor, 40 % of the free memory on a GPU.
    """

    def __init__(self, features: Features, device: torch.device) -> None:
        self._features = features
        self._entries: dict[str, tuple[Tensor, ...]] = {}
        self._bytes = 0
        self._device = device
        self._limit: int | None = None
        # On a processor one sample at a time: what is kept then does not depend on the batch that it came with.
        self._together = device.type != "cpu" and not torch.are_deterministic_algorithms_enabled()

    def __call__(self, images: Tensor, keys: Sequence[str] | None) -> tuple[Tensor, ...]:
        """Return the features of samples (B, K, 3, S, S): three tensors (B, K, C, h, w). Nothing is kept if ``keys`` is None."""
        if self._limit is None:
            self._limit = _LIMIT_BYTES if self._device.type == "cpu" else int(_SHARE * torch.cuda.mem_get_info(self._device)[0])
        names = [str(row) for row in range(len(images))] if keys is None else keys
        found = {} if keys is None else {key: self._entries[key] for key in names if key in self._entries}
        missing = [row for row, key in enumerate(names) if key not in found]
        for rows in [missing] if self._together and missing else [[row] for row in missing]:
            chosen = images if len(rows) == len(images) else torch.stack([images[row] for row in rows])
            computed = [level.view(*chosen.shape[:2], *level.shape[1:]) for level in self._features(chosen.flatten(0, 1))]
            for position, row in enumerate(rows):
                levels = tuple(level[position].contiguous() for level in computed)
                found[names[row]] = levels
                if keys is not None:
                    self._keep(names[row], levels)
        return tuple(torch.stack([found[key][level] for key in names]) for level in range(3))

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._bytes = 0

    def _keep(self, key: str, levels: tuple[Tensor, ...]) -> None:
        size = sum(level.numel() * level.element_size() for level in levels)
        if self._bytes + size <= (self._limit or 0):
            self._entries[key] = levels
            self._bytes += size
