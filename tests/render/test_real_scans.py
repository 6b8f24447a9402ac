"""The proofs of ``test_rasterisers`` again, on real glands and candies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from render_proofs import assert_agree, assert_antialiased, assert_like_embree

from mvad.datasets.registry import reader_for
from mvad.datasets.renders.coding import decode_normal
from mvad.datasets.renders.record import read_record, read_sample
from mvad.datasets.scan import ReadOptions, Scan
from mvad.errors import MissingComponent
from mvad.render.backends.choose import rasteriser
from mvad.render.backends.protocol import Rasteriser
from mvad.render.clean import clean
from mvad.render.fit_rig import extent_of, fit_rig
from mvad.render.options import CleanOptions, RenderOptions, RigOptions, SurfaceOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Rig
from mvad.render.scan_to_views import ScanJob, render_scan
from mvad.render.surface import Surface, build_surface

pytestmark = pytest.mark.real

SCANS = {
    "gland": ("mvtec3d", "cable_gland", "cable_gland/test/cut/002"),
    "bent gland": ("mvtec3d", "cable_gland", "cable_gland/test/bent/013"),
    "candy": ("eyecandies", "CandyCane", ""),
}


@cache
def prepared(data: Path, name: str) -> tuple[Scan, Surface, Rig]:
    dataset, category, key = SCANS[name]
    reader = reader_for(dataset)
    refs = reader.refs(data / dataset, category, ReadOptions())
    training = [clean(reader.load(ref), CleanOptions()) for ref in refs if ref.split == "train"][:8:2]
    wanted = next(ref for ref in refs if ref.key == key or (not key and ref.split == "test" and ref.defect == "bumps"))
    scan = reader.load(wanted)
    surface = build_surface(scan, clean(scan, CleanOptions()), SurfaceOptions())
    return scan, surface, fit_rig([extent_of(cleaned) for cleaned in training], RigOptions())


@pytest.mark.thorough(6)
@pytest.mark.parametrize("name", SCANS)
def test_depth_mask_and_colour_of_real_scans_are_proved(real_data: Path, name: str, backend: Rasteriser) -> None:
    scan, surface, rig = prepared(real_data, name)
    views = render_views(surface, scan.gt, rig, backend)
    assert_like_embree(views, surface, rig)
    assert scan.gt is not None
    seen = views.source >= 0
    assert np.array_equal(views.mask[seen], scan.gt.reshape(-1)[views.source[seen]])
    assert views.mask.any()
    assert not views.mask[~seen].any()
    assert assert_antialiased(surface, scan.gt, rig, backend) > 40


@pytest.mark.egl
@pytest.mark.parametrize("name", SCANS)
def test_the_backends_agree_on_real_scans(real_data: Path, name: str) -> None:
    try:
        rasteriser("egl")
    except MissingComponent as error:
        pytest.skip(str(error))
    scan, surface, rig = prepared(real_data, name)
    assert_agree(surface, scan.gt, rig, scan.valid.shape[1])


def test_normals_of_a_candy_are_the_given_ones_after_decoding_its_files(real_data: Path, tmp_path: Path) -> None:
    dataset, category, _ = SCANS["candy"]
    reader = reader_for(dataset)
    refs = reader.refs(real_data / dataset, category, ReadOptions())
    ref = next(ref for ref in refs if ref.split == "test" and ref.defect == "dents")
    rig = prepared(real_data, "candy")[2]
    render_scan(ScanJob(ref, RenderOptions(backend="cpu"), rig, tmp_path / "one"))
    sample = read_sample(tmp_path / "one", read_record(tmp_path / "one"))
    scan = reader.load(ref)
    assert scan.normals is not None
    for camera in range(rig.views):
        seen = sample.source[camera] >= 0
        given = scan.normals.reshape(-1, 3)[sample.source[camera][seen]] @ rig.poses[camera, :3, :3]
        angle = np.degrees(np.arccos(np.clip((decode_normal(sample.normal[camera])[seen] * given).sum(1), -1, 1)))
        assert np.median(angle) < 0.5
