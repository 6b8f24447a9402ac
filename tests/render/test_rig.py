"""Laws of the rig."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, block_on_a_plane
from hypothesis import given, settings
from hypothesis import strategies as st

from mvad.errors import BadInput
from mvad.render.clean import clean
from mvad.render.fit_rig import Extent, extent_of, fit_rig
from mvad.render.options import CleanOptions, RigOptions
from mvad.render.rig import Rig


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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_shifted_rig_sees_a_shifted_object_the_same(seed: int) -> None:
    rig = fit_rig(extents(seed), RigOptions())
    shift = np.random.default_rng(seed).uniform(-0.05, 0.05, 3)
    moved = rig.moved_to(rig.center + shift)
    assert np.allclose(moved.poses[:, :3, :3], rig.poses[:, :3, :3])
    assert np.allclose(moved.poses[:, :3, 3], rig.poses[:, :3, 3] + shift)
    assert np.allclose(moved.moved_to(rig.center).poses, rig.poses)
    assert moved.depth_coding == rig.depth_coding


def test_a_rig_for_centred_scans_does_not_depend_on_where_they_lay() -> None:
    rng = np.random.default_rng(3)
    shape = rng.uniform(-0.03, 0.03, (40, 3))
    centres = rng.uniform([-0.05, -0.05, 0.6], [0.05, 0.05, 0.7], (7, 3))
    scans = [Extent(centre, centre + shape) for centre in centres]
    fitted = fit_rig(scans, RigOptions(center="scan"))
    alone = fit_rig([Extent(fitted.center, fitted.center + shape)], RigOptions(center="scan"))
    assert np.allclose(fitted.intrinsics, alone.intrinsics)
    assert fitted.intrinsics[0, 0, 0] > fit_rig(scans, RigOptions()).intrinsics[0, 0, 0], "a centred object needs less field"


def test_a_far_fragment_does_not_shift_the_camera() -> None:
    scan, _ = block_on_a_plane()
    torn = scan.xyz.copy()
    torn[2:14, 2:14, 2] -= 0.03
    good, bad = (extent_of(clean(replace(scan, xyz=xyz), CleanOptions())) for xyz in (scan.xyz, torn))
    assert np.allclose(good.centre, bad.centre, atol=1e-4)
    one, other = (fit_rig([extent], RigOptions()) for extent in (good, bad))
    assert np.allclose(one.poses, other.poses, atol=1e-4)
    assert np.allclose(one.intrinsics, other.intrinsics, rtol=1e-3)


def test_the_rig_file_of_the_docs_is_read(tmp_path: Path) -> None:
    text = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "rigs.md").read_text(), re.S)[0]
    (tmp_path / "rig.toml").write_text(text)
    rig = Rig.from_toml(tmp_path / "rig.toml")
    assert (rig.views, rig.size, rig.near_m) == (2, 256, 0.55)
    assert np.allclose(rig.poses[1, :3, 3], [0, 0, 0.32])
    assert Rig.from_json(rig.to_json()).sha256 == rig.sha256


BROKEN = {
    "not rigid": ("[[1, 0, 0, 0], [0, 1, 0, 0]", "[[1, 0.1, 0, 0], [0, 1, 0, 0]"),
    "mirrored": ("[[1, 0, 0, 0]", "[[-1, 0, 0, 0]"),
    "near beyond far": ("far_m = 0.75", "far_m = 0.5"),
    "no focal length": ("[[2000, 0, 128]", "[[0, 0, 128]"),
    "too large": ("size = 256", "size = 100000"),
    "not finite": ("near_m = 0.55", "near_m = nan"),
    "a key too many": ("size = 256", "size = 256\nsizes = 3"),
    "a key too few": ("center = [0.0, 0.0, 0.65]", ""),
    "a view without a pose": ("[[view]] # rotated by 90", "[[view]]\n[[view]] # rotated by 90"),
    "no TOML": ("size = 256", "size = = 256"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_rig_file_is_one_line_that_names_it(fault: str, tmp_path: Path) -> None:
    text = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "rigs.md").read_text(), re.S)[0]
    assert BROKEN[fault][0] in text
    (tmp_path / "rig.toml").write_text(text.replace(*BROKEN[fault], 1))
    with pytest.raises(BadInput, match=r"rig\.toml: ") as said:
        Rig.from_toml(tmp_path / "rig.toml")
    assert "\n" not in str(said.value)
