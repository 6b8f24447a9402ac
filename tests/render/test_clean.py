"""The object out of a scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions, Scan
from mvad.errors import BadInput
from mvad.render.clean import clean, support_plane
from mvad.render.normals import grid_normals
from mvad.render.options import CleanOptions

OPTIONS = CleanOptions()


def block_on_a_plane(tilt_deg: float = 20.0, size: int = 120) -> tuple[Scan, np.ndarray]:
    """A 20 mm block on a tilted plane under an orthographic sensor; returns the scan and where the block is."""
    line = (np.arange(size) - size / 2) / size * 0.1
    x, y = np.meshgrid(line, line)
    block = (np.abs(x) < 0.02) & (np.abs(y) < 0.015)
    z = 0.65 - np.tan(np.radians(tilt_deg)) * y - 0.02 * block
    rng = np.random.default_rng(0)
    xyz = np.stack([x, y, z + rng.normal(0, 5e-5, z.shape)], axis=2).astype(np.float32)
    rgb = np.zeros((size, size, 3), np.uint8)
    return Scan(xyz, np.ones((size, size), bool), rgb, block & (x > 0.015)), block


def test_the_plane_is_found_and_the_block_is_kept() -> None:
    scan, block = block_on_a_plane()
    normal, _ = support_plane(scan, OPTIONS)
    assert np.degrees(np.arccos(-normal[2])) == pytest.approx(20, abs=0.3)
    cleaned = clean(scan, OPTIONS)
    assert np.array_equal(cleaned.keep, block)
    assert np.array_equal(cleaned.removed, ~block)


def test_cleaning_is_repeatable_and_leaves_the_scan_alone() -> None:
    scan, _ = block_on_a_plane()
    before = scan.xyz.copy()
    one, two = clean(scan, OPTIONS), clean(scan, OPTIONS)
    assert np.array_equal(one.keep, two.keep)
    assert np.array_equal(scan.xyz, before)


def test_a_hole_of_missing_returns_is_filled_linear_in_depth() -> None:
    scan, block = block_on_a_plane()
    valid = scan.valid.copy()
    valid[55:60, 58:66] = False
    holed = replace(scan, valid=valid, xyz=np.where(valid[..., None], scan.xyz, np.float32(0)))
    cleaned = clean(holed, OPTIONS)
    assert np.array_equal(cleaned.filled, ~valid)
    assert np.array_equal(cleaned.keep, block)
    assert np.abs(cleaned.xyz - scan.xyz)[~valid].max() < 4e-4


def test_a_hole_that_shows_the_support_stays_open() -> None:
    scan, block = block_on_a_plane()
    through = np.zeros_like(block)
    through[50:66, 52:64] = True
    xyz = scan.xyz.copy()
    xyz[through, 2] += 0.02
    valid = scan.valid.copy()
    valid[50:53, 52:64] = False
    cleaned = clean(replace(scan, xyz=np.where(valid[..., None], xyz, np.float32(0)), valid=valid), OPTIONS)
    assert not cleaned.keep[through].any()


def test_a_far_fragment_does_not_join_the_object() -> None:
    scan, block = block_on_a_plane()
    xyz = scan.xyz.copy()
    xyz[3:8, 3:8, 2] -= 0.02
    cleaned = clean(replace(scan, xyz=xyz), OPTIONS)
    assert np.array_equal(cleaned.keep, block)


def test_a_plane_alone_is_no_object() -> None:
    scan, _ = block_on_a_plane()
    flat = scan.xyz.copy()
    flat[..., 2] = 0.65
    with pytest.raises(BadInput, match="nothing is left"):
        clean(replace(scan, xyz=flat), OPTIONS)


def test_normals_of_a_tilted_sheet_are_those_of_its_plane() -> None:
    line = np.linspace(-0.05, 0.05, 30)
    x, y = np.meshgrid(line, line)
    vertices = np.stack([x, y, 0.6 + 0.5 * x], axis=2).reshape(-1, 3).astype(np.float32)
    index = np.arange(900).reshape(30, 30)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    faces = np.concatenate([np.stack([corners[k] for k in three], -1).reshape(-1, 3) for three in ((0, 1, 2), (0, 2, 3))])
    normals = grid_normals(vertices, faces.astype(np.int32), 2)
    expected = np.array([0.5, 0, -1]) / np.hypot(0.5, 1)
    assert np.abs(normals - expected).max() < 1e-4


@pytest.mark.real
def test_real_gland_keeps_its_ground_truth_and_loses_its_support(real_data: Path) -> None:
    reader = reader_for("mvtec3d")
    lost = total = 0
    for ref in [ref for ref in reader.refs(real_data / "mvtec3d", "cable_gland", ReadOptions()) if ref.split == "test"][::4]:
        scan = reader.load(ref)
        cleaned = clean(scan, OPTIONS)
        assert 0.10 < cleaned.keep.mean() < 0.22, ref.key
        assert scan.gt is not None
        lost += int((scan.gt & scan.valid & ~cleaned.keep).sum())
        total += int(scan.gt.sum())
        holes, _ = ndimage.label(ndimage.binary_fill_holes(cleaned.keep) & ~cleaned.keep & ~scan.valid)
        sizes = np.bincount(holes.ravel())[1:]
        # The large ones are the bore of a gland that lies with it towards the sensor.
        small = sizes[sizes <= OPTIONS.fill_share * cleaned.keep.sum()].sum()
        assert small < 0.003 * cleaned.keep.sum(), f"{ref.key}: {small} points of small holes stay open"
    assert lost < 0.02 * total


@pytest.mark.real
def test_real_candy_stands_alone(real_data: Path) -> None:
    reader = reader_for("eyecandies")
    for ref in reader.refs(real_data / "eyecandies", "CandyCane", ReadOptions())[::6]:
        scan = reader.load(ref)
        cleaned = clean(scan, OPTIONS)
        assert 0.02 < cleaned.keep.mean() < 0.08, ref.key
        pose = scan.pose_camera_to_world
        assert pose is not None
        world = cleaned.xyz[cleaned.keep].astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        assert np.abs(world[:, 0]).max() < 0.85, "no wall"
        assert np.abs(world[:, 1]).max() < 0.85, "no panel, no ledge"
        assert world[:, 2].max() < 0.2
