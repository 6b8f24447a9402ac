"""Laws of coding, order and mask rules."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mvad.datasets.masks import any_overlap
from mvad.datasets.renders.coding import DepthCoding, decode_normal, encode_normal
from mvad.datasets.shards.order import batch_indices


@given(st.floats(0.1, 5), st.floats(0.01, 3), st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_depth_survives_within_half_a_step(near: float, width: float, places: list[float]) -> None:
    coding = DepthCoding.between(near, near + width)
    depth = np.array([near + width * place for place in places], np.float32)
    back = coding.decode(coding.encode(depth))
    rounding = np.spacing(depth.max()) * 2
    assert np.abs(back - depth).max() <= coding.step_m / 2 + rounding


def test_nothing_stays_nothing() -> None:
    coding = DepthCoding.between(0.5, 0.7)
    assert coding.decode(coding.encode(np.zeros(3, np.float32))).tolist() == [0, 0, 0]
    assert not decode_normal(encode_normal(np.zeros((2, 3), np.float32))).any()


@given(st.integers(0, 2**31))
def test_normals_survive_within_half_a_degree(seed: int) -> None:
    normal = np.random.default_rng(seed).standard_normal((200, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    back = decode_normal(encode_normal(normal))
    assert np.allclose(np.linalg.norm(back, axis=1), 1, atol=1e-5)
    angle = np.degrees(np.arccos(np.clip((back * normal).sum(axis=1), -1, 1)))
    assert angle.max() < 0.5


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9))
def test_every_epoch_is_a_permutation_whatever_the_batch(seed: int, samples: int, batch: int) -> None:
    steps = -(-3 * samples // batch)
    order = np.concatenate([batch_indices(seed, step, samples, batch) for step in range(steps)])
    for epoch in range(len(order) // samples):
        assert sorted(order[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_any_overlap_keeps_every_true_pixel(size: int, row: int, column: int) -> None:
    mask = np.zeros((60, 60), bool)
    mask[row - 1, column - 1] = True
    small = any_overlap(mask, (size, size))
    assert small.shape == (size, size)
    assert small[(row - 1) * size // 60, (column - 1) * size // 60] == 1
    assert any_overlap(np.zeros((60, 60), bool), (size, size)).sum() == 0
