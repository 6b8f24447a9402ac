"""What the audit counts as seen, against finer views of the same scan and against hiding by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from render_proofs import whole

from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions, Scan
from mvad.render.audit import audit_scan
from mvad.render.backends.choose import rasteriser
from mvad.render.fit_rig import extent_of, fit_rig
from mvad.render.options import RigOptions, SurfaceOptions
from mvad.render.render_views import render_views
from mvad.render.surface import build_surface


@pytest.fixture(scope="module")
def gear(workspace: Path) -> Scan:
    """Return a generated gear, all of whose points are labelled as defective."""
    reader = reader_for("mvtec3d")
    ref = reader.refs(workspace / "raw" / "mvtec3d", "gear", ReadOptions())[0]
    scan = reader.load(ref)
    return replace(scan, gt=scan.valid.copy())


def audited(scan: Scan, size: int, views: int, mirrored: bool = False) -> dict[str, int]:
    cleaned = whole(scan)
    rig = fit_rig([extent_of(cleaned)], RigOptions(size=size, views=views))
    found = render_views(build_surface(scan, cleaned, SurfaceOptions()), scan.gt, rig, rasteriser("cpu"))
    return audit_scan(scan, cleaned, found.mirrored() if mirrored else found, rig, mirrored=mirrored)


def test_points_between_pixels_are_not_hidden(gear: Scan) -> None:
    """Coarse views show few of a scan's points; they see as many as fine ones do."""
    coarse, fine = audited(gear, 32, 3), audited(gear, 512, 3)
    assert coarse["shown"] < 0.2 * coarse["total"]
    assert fine["shown"] > 0.9 * fine["seen_any"]
    assert coarse["seen_any"] == pytest.approx(fine["seen_any"], rel=0.01)
    assert coarse["seen_any"] > 0.98 * coarse["total"]
    for each in (coarse, fine):
        assert each["total"] == each["no_point"] + each["removed"] + each["unseen"] + each["seen_any"]
        assert each["shown"] <= each["seen_any"]
        assert max(each["seen"]) <= each["seen_any"]


def test_what_lies_behind_something_is_hidden(gear: Scan) -> None:
    """A plate 2 cm before the middle of the scan hides a strip of it from the one camera that looks along the sensor's axis."""
    xyz = gear.xyz.copy()
    height = len(gear.valid)
    rows = slice(height // 3, height // 3 + height // 8)
    gt = np.zeros_like(gear.valid)
    gt[rows] = gear.valid[rows]
    alone = audited(replace(gear, gt=gt), 128, 5)
    xyz[: height // 8] = xyz[rows] - np.array([0, 0, 0.02], np.float32)
    behind = audited(replace(gear, xyz=xyz, gt=gt, valid=gear.valid & (xyz[..., 2] > 0)), 128, 5)
    assert alone["seen"][0] > 0.95 * alone["total"]
    assert behind["seen"][0] < 0.2 * behind["total"]
    assert behind["seen_any"] > behind["seen"][0], "from the sides it is seen"


def test_views_of_a_mirrored_object_see_the_same(gear: Scan) -> None:
    half = np.zeros_like(gear.valid)
    half[:, : half.shape[1] // 3] = gear.valid[:, : half.shape[1] // 3]
    scan = replace(gear, gt=half)
    assert audited(scan, 64, 5, mirrored=True) == audited(scan, 64, 5)
