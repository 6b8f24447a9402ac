"""The teacher's features of clean training views never change: kept from the first epoch on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Features = Callable[[Tensor], tuple[Tensor, ...]]
_LIMIT_BYTES = 3 << 29
"""1.5 GB."""


class TeacherCache:
    """Features by sample key, up to a limit."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._kept: dict[str, tuple[Tensor, ...]] = {}
        self._bytes = 0

    def __call__(self, images: Tensor, keys: Sequence[str] | None) -> tuple[Tensor, ...]:
        """Return the features of samples (B, K, 3, S, S): three tensors (B, K, C, h, w). ``keys`` None keeps nothing."""
        if keys is None:
            each = [self._features(sample) for sample in images]
        else:
            each = [self._of(key, sample) for key, sample in zip(keys, images, strict=True)]
        return tuple(torch.stack([levels[k] for levels in each]) for k in range(3))

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0

    def _of(self, key: str, sample: Tensor) -> tuple[Tensor, ...]:
        if key in self._kept:
            return self._kept[key]
        levels = tuple(level.contiguous() for level in self._features(sample))
        size = sum(level.numel() * level.element_size() for level in levels)
        if self._bytes + size <= _LIMIT_BYTES:
            self._kept[key] = levels
            self._bytes += size
        return levels
