"""Laws of the rig."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvad.errors import BadInput
from mvad.render.options import RigOptions
from mvad.render.rig import Extent, Rig, fit_rig


def extents(seed: int, count: int = 7) -> list[Extent]:
    rng = np.random.default_rng(seed)
    centres = rng.uniform([-0.05, -0.05, 0.4], [0.05, 0.05, 0.8], (count, 3))
    return [Extent(centre, centre + rng.uniform(-0.03, 0.03, (40, 3))) for centre in centres]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 60), st.sampled_from([64, 256, 1024]))
def test_a_rig_is_rigid_centred_and_evenly_spread(seed: int, views: int, tilt: float, size: int) -> None:
    scans = extents(seed)
    rig = fit_rig(scans, RigOptions(views=views, tilt_deg=tilt, size=size))
    rotation = rig.poses[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotation), 1)
    centre = np.median([scan.centre for scan in scans], axis=0)
    seen = np.einsum("vki,vk->vi", rotation, centre - rig.poses[:, :3, 3])
    pixel = np.einsum("vij,vj->vi", rig.intrinsics, seen)
    assert np.allclose(pixel[:, :2] / pixel[:, 2:], size / 2, atol=1e-6), "the centre is in every view's middle"
    assert np.allclose(seen[:, 2], seen[0, 2]), "all cameras are equally far"
    axes = rotation[:, :, 2]
    assert np.allclose(axes[0], [0, 0, 1]), "view 0 looks along the sensor's axis"
    assert np.allclose(np.degrees(np.arccos(np.clip(axes[1:, 2], -1, 1))), tilt, atol=1e-5)
    if views > 2 and tilt > 1:
        azimuths = np.unwrap(np.arctan2(axes[1:, 1], axes[1:, 0]))
        assert np.allclose(np.abs(np.diff(azimuths)), 2 * np.pi / (views - 1), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_scans_changes_nothing(seed: int) -> None:
    scans = extents(seed)
    shuffled = [scans[k] for k in np.random.default_rng(seed).permutation(len(scans))]
    assert fit_rig(scans, RigOptions()).sha256 == fit_rig(shuffled, RigOptions()).sha256


def test_a_rig_survives_json() -> None:
    rig = fit_rig(extents(1), RigOptions())
    assert Rig.from_json(rig.to_json()).sha256 == rig.sha256
    with pytest.raises(BadInput, match="rig"):
        Rig.from_json({"poses": [[1]]})


def test_no_training_scan_is_one_line() -> None:
    with pytest.raises(BadInput, match="training scans"):
        fit_rig([], RigOptions())
