"""Cache of the frozen teacher's features of clean training views, which are the same in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Features = Callable[[Tensor], tuple[Tensor, ...]]
_LIMIT_BYTES = 3 << 29
"""Limit of the cache: 1.5 GiB."""


class TeacherCache:
    """Features by sample key, kept in memory up to a limit of 1.5 GiB; the others are computed again."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._entries: dict[str, tuple[Tensor, ...]] = {}
        self._bytes = 0

    def __call__(self, images: Tensor, keys: Sequence[str] | None) -> tuple[Tensor, ...]:
        """Return the features of samples (B, K, 3, S, S): three tensors (B, K, C, h, w). Nothing is kept if ``keys`` is None."""
        if keys is None:
            per_sample = [self._features(sample) for sample in images]
        else:
            per_sample = [self._cached(key, sample) for key, sample in zip(keys, images, strict=True)]
        return tuple(torch.stack([levels[k] for levels in per_sample]) for k in range(3))

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._bytes = 0

    def _cached(self, key: str, sample: Tensor) -> tuple[Tensor, ...]:
        if key in self._entries:
            return self._entries[key]
        levels = tuple(level.contiguous() for level in self._features(sample))
        size = sum(level.numel() * level.element_size() for level in levels)
        if self._bytes + size <= _LIMIT_BYTES:
            self._entries[key] = levels
            self._bytes += size
        return levels
