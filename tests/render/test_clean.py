"""The object out of a scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import block_on_a_plane
from scipy import ndimage

from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions, Scan
from mvad.errors import BadInput
from mvad.render.audit import audit_scan
from mvad.render.clean import BACKGROUND, clean, has_no_support, support_plane
from mvad.render.fit_rig import extent_of, fit_rig
from mvad.render.normals import grid_normals
from mvad.render.options import CleanOptions, RigOptions
from mvad.render.views import empty_views

OPTIONS = CleanOptions()


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


def test_an_object_that_touches_the_frame_is_not_taken_for_the_support() -> None:
    """A box whose flat top fills all of the frame's upper part: more of the border lies on it than on the support."""
    size = 120
    line = (np.arange(size) - size / 2) / size * 0.1
    x, y = np.meshgrid(line, line)
    box = (y < 0.02) & (np.abs(x) < 0.047)
    z = 0.65 - np.tan(np.radians(20)) * y - 0.02 * box
    rng = np.random.default_rng(0)
    xyz = np.stack([x, y, z + rng.normal(0, 5e-5, z.shape)], axis=2).astype(np.float32)
    scan = Scan(xyz, np.ones((size, size), bool), np.zeros((size, size, 3), np.uint8))
    assert np.array_equal(clean(scan, OPTIONS).keep, box)


@pytest.mark.parametrize("height_mm", [2.2, 2.8, 9.0])
def test_a_detached_or_low_part_beside_the_object_is_kept(height_mm: float) -> None:
    """The plane's margin is 3 mm: the plane test alone would lose the two low ones, ground truth and all."""
    scan, block = block_on_a_plane()
    part = np.zeros_like(block)
    part[56:66, 90:98] = True
    xyz = scan.xyz.copy()
    xyz[part, 2] -= height_mm / 1000 / np.cos(np.radians(20))
    cleaned = clean(replace(scan, xyz=xyz, gt=part), OPTIONS)
    assert np.array_equal(cleaned.keep, block | part)


def rod_on_a_plane(cuts_mm: list[float], missing: bool) -> tuple[Scan, np.ndarray]:
    """A rod of 90 x 12 x 8 mm with gaps of 2.5 mm, that show the support or return nothing; returns the scan and where the rod is."""
    line = (np.arange(200) - 100) / 200 * 0.1
    x, y = np.meshgrid(line, line)
    rod = (np.abs(x) < 0.045) & (np.abs(y) < 0.006)
    gap = np.zeros_like(rod)
    for cut in cuts_mm:
        gap |= rod & (np.abs(x - cut / 1000) < 0.00125)
    rng = np.random.default_rng(0)
    z = 0.65 - 0.008 * (rod & ~gap) + rng.normal(0, 5e-5, x.shape)
    xyz = np.stack([x, y, z], axis=2).astype(np.float32)
    valid = ~gap if missing else np.ones_like(rod)
    return Scan(np.where(valid[..., None], xyz, np.float32(0)), valid, np.zeros((200, 200, 3), np.uint8)), rod & ~gap


@pytest.mark.thorough(3)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("cuts_mm", [[0.0], [-15.0, 15.0], [20.0]])
def test_all_parts_of_a_long_object_with_gaps_are_kept(cuts_mm: list[float], missing: bool) -> None:
    """Their middles lie farther from each other than any fragment's that belongs to an object."""
    scan, rod = rod_on_a_plane(cuts_mm, missing)
    cleaned = clean(scan, OPTIONS)
    assert cleaned.keep[rod].all()
    alone = replace(scan, valid=rod, xyz=np.where(rod[..., None], scan.xyz, np.float32(0)))
    assert clean(alone, OPTIONS).keep[rod].all()


@pytest.mark.parametrize("turn_deg", [0, 45])
def test_a_second_object_is_not_taken_for_a_part(turn_deg: int) -> None:
    """Another rod 48 mm beside it; slanted ones have boxes that overlap."""
    line = (np.arange(240) - 120) / 240 * 0.2
    x, y = np.meshgrid(line, line)
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    along, across = c * x + s * y, c * y - s * x
    rods = [(np.abs(along) < 0.045) & (np.abs(across - middle) < 0.006) for middle in (-0.03, 0.03)]
    rng = np.random.default_rng(0)
    z = 0.65 - 0.008 * (rods[0] | rods[1]) + rng.normal(0, 5e-5, x.shape)
    scan = Scan(np.stack([x, y, z], axis=2).astype(np.float32), np.ones_like(rods[0]), np.zeros((240, 240, 3), np.uint8))
    kept = [clean(scan, OPTIONS).keep[rod].mean() for rod in rods]
    assert sorted(kept) == [0.0, 1.0], "one of the two"


def test_flying_points_in_corners_do_not_hide_the_support() -> None:
    """A table in the middle of the picture fills its box, with or without stray points beside it."""
    valid = np.zeros((200, 200), bool)
    valid[50:150, 50:150] = True
    assert not has_no_support(valid)
    valid[2, 2] = valid[197, 197] = True
    assert not has_no_support(valid)


def test_an_uneven_support_is_not_taken_for_a_part() -> None:
    scan, block = block_on_a_plane()
    rows, columns = np.indices(block.shape)
    wave = 0.0022 * np.exp(-(((rows - 60) / 12) ** 2 + ((columns - 100) / 9) ** 2))
    xyz = scan.xyz.copy()
    xyz[..., 2] -= (wave * ~block).astype(np.float32)
    assert np.array_equal(clean(replace(scan, xyz=xyz), OPTIONS).keep, block)


def test_what_is_removed_is_counted_by_what_it_is() -> None:
    scan, block = block_on_a_plane()
    xyz = scan.xyz.copy()
    xyz[3:8, 3:8, 2] -= 0.02
    gt = np.zeros_like(block)
    gt[2:8, 3:8] = True
    cleaned = clean(replace(scan, xyz=xyz, gt=gt), OPTIONS)
    assert BACKGROUND == ("support", "side walls", "back", "fragments")
    assert np.bincount(cleaned.removed_as.ravel(), minlength=5).tolist() == [block.sum(), (~block).sum() - 25, 0, 0, 25]
    nothing = empty_views(5, 16)
    rig = fit_rig([extent_of(cleaned)], RigOptions(size=16))
    audit = audit_scan(replace(scan, xyz=xyz, gt=gt), cleaned, nothing, rig)
    assert audit["removed"] == 30
    assert audit["removed_as"] == {"support": 5, "side walls": 0, "back": 0, "fragments": 25}


def test_a_room_is_taken_apart_by_its_pose() -> None:
    """Floor z = 0, walls on both sides, a back panel, and a low candy in the middle."""
    size = 96
    x, y = np.meshgrid(np.linspace(-1.25, 1.25, size), np.linspace(-1.0, 1.3, size))
    wall, back = np.abs(x) >= OPTIONS.wall, y >= OPTIONS.back
    candy = np.hypot(x, y) < 0.4
    world = np.stack([np.clip(x, -1.19, 1.19), np.minimum(y, 1.2), 0.1 * candy + 0.3 * (wall | back)], axis=2)
    pose = np.array([[1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, -1.0, 5.0], [0, 0, 0, 1]])
    xyz = ((world - pose[:3, 3]) @ pose[:3, :3]).astype(np.float32)
    scan = Scan(xyz, np.ones((size, size), bool), np.zeros((size, size, 3), np.uint8), None, None, pose)
    cleaned = clean(scan, OPTIONS)
    assert np.array_equal(cleaned.keep, candy)
    assert np.array_equal(cleaned.removed_as == 3, back)
    assert np.array_equal(cleaned.removed_as == 2, wall & ~back)
    assert np.array_equal(cleaned.removed_as == 1, ~candy & ~wall & ~back)


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
def test_the_audit_of_a_real_cut_is_what_was_counted_by_hand(real_data: Path) -> None:
    """The defect of bent 007 lies apart from its gland; the published recipe loses it, 73 pixels."""
    reader = reader_for("mvtec3d")
    refs = {ref.key: ref for ref in reader.refs(real_data / "mvtec3d", "cable_gland", ReadOptions())}
    for key, total, no_point, removed in (("bent/000", 450, 13, 0), ("bent/007", 827, None, 1), ("cut/008", None, None, 0)):
        scan = reader.load(refs[f"cable_gland/test/{key}"])
        cleaned = clean(scan, OPTIONS)
        audit = audit_scan(scan, cleaned, empty_views(5, 16), fit_rig([extent_of(cleaned)], RigOptions(size=16)))
        assert scan.gt is not None
        assert audit["total"] == scan.gt.sum()
        assert total in (None, audit["total"]), key
        # Filled holes give some of the missing points back.
        assert no_point is None or no_point - 13 <= audit["no_point"] <= no_point, key
        assert audit["removed"] <= removed, key


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
