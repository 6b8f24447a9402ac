"""Coding of depths in 16 bits and of unit vectors in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEVELS = 65534


@dataclass(frozen=True)
class DepthCoding:
    """``metres = offset_m + step_m * (value - 1)`` for values 1 to 65535; value 0 means that nothing is seen."""

    step_m: float
    offset_m: float

    @staticmethod
    def between(near_m: float, far_m: float) -> DepthCoding:
        """Return the coding whose levels span the range between two depths, metres."""
        return DepthCoding((far_m - near_m) / _LEVELS, near_m)

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest depth that can be coded, metres."""
        return self.offset_m, self.offset_m + _LEVELS * self.step_m

    def encode(self, depth: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Code depths (...,) float32 metres, 0 where nothing is seen, as uint16 of the same shape; clipped to the range."""
        value = np.zeros(depth.shape, dtype=np.uint16)
        seen = depth > 0
        level = np.rint((depth[seen].astype(np.float64) - self.offset_m) / self.step_m)
        value[seen] = np.clip(level, 0, _LEVELS) + 1
        return value

    def decode(self, value: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return float32 metres, 0 where nothing is seen; within half a step of what was encoded."""
        metres = self.offset_m + self.step_m * (value.astype(np.float64) - 1)
        return np.where(value > 0, metres, 0).astype(np.float32)


def encode_normal(normal: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Code unit vectors (..., 3) as uint8, n = value / 127.5 - 1; the zero vector (nothing is seen) as (0, 0, 0)."""
    seen = (normal[..., 0] != 0) | (normal[..., 1] != 0) | (normal[..., 2] != 0)
    value = (normal * np.float32(127.5) + np.float32(128)).astype(np.uint8)  # + 127.5 + 0.5: truncation then rounds
    value *= seen[..., None]
    return value


def decode_normal(value: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return unit vectors (..., 3) float32, renormalised; zero where nothing is seen."""
    normal = value.astype(np.float32) / 127.5 - 1
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return np.where((value != 0).any(axis=-1, keepdims=True), normal, np.float32(0))
