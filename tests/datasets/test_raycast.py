"""Rays of generated views meet the part where a plain search along each of them finds it."""

from __future__ import annotations

import numpy as np
import pytest

from mvad.datasets.synth.kernels import first_below
from mvad.datasets.synth.shapes import CELL_M, CELLS, SIDE_M

SHARES, BISECTIONS = np.linspace(0, 1, 56), 7


def plain(height: np.ndarray, origin: np.ndarray, direction: np.ndarray, start: float, stop: float) -> float:
    """The search for one ray, in Python."""

    def is_below(distance: float) -> bool:
        x, y, z = origin + distance * direction
        row, column = (np.clip((at + SIDE_M / 2) / CELL_M - 0.5, 0, CELLS - 1.001) for at in (y, x))
        r, c = int(row), int(column)
        fr, fc = row - r, column - c
        upper = height[r, c] * (1 - fc) + height[r, c + 1] * fc
        lower = height[r + 1, c] * (1 - fc) + height[r + 1, c + 1] * fc
        return bool(z - (upper * (1 - fr) + lower * fr) <= 0)

    steps = start + (stop - start) * SHARES
    first = next((k for k, step in enumerate(steps) if is_below(step)), len(steps) - 1)
    low, high = steps[max(first - 1, 0)], steps[first]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_below(middle) else (middle, high)
    return float(high)


@pytest.mark.parametrize("seed", range(3))
def test_rays_are_found_where_a_plain_search_finds_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height = np.cumsum(rng.normal(0, 1e-4, (CELLS, CELLS)), axis=1).clip(0, 0.02)
    origin = np.array([0.01, -0.02, 0.3])
    direction = np.stack([rng.uniform(-0.15, 0.15, 60), rng.uniform(-0.15, 0.15, 60), np.full(60, -1.0)], axis=1)
    start, stop = np.full(60, 0.2799), np.full(60, 0.3)
    start[:5] = 0.2999  # begins below the part, or near the support
    found = first_below(height, SIDE_M, CELL_M, origin, direction, start, stop, SHARES, BISECTIONS)
    expected = [plain(height, origin, *one) for one in zip(direction, start, stop, strict=True)]
    assert found.tolist() == expected
    assert len(set(found.tolist())) > 20


def test_a_ray_onto_a_step_stops_at_its_top_or_passes_beside_it() -> None:
    height = np.zeros((CELLS, CELLS))
    height[:, : CELLS // 2] = 0.01
    down = np.tile([0.0, 0.0, -1.0], (2, 1))
    for x, distance in ((-0.02, 0.29), (0.02, 0.3)):
        origin = np.array([x, 0.0, 0.3])
        [found, _] = first_below(height, SIDE_M, CELL_M, origin, down, np.full(2, 0.2899), np.full(2, 0.3), SHARES, BISECTIONS)
        assert found == pytest.approx(distance, abs=0.011 / 55)
