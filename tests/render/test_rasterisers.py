"""Every backend against known geometry, against a ray caster, and against the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from conftest import wavy_scan

from mvad.datasets.scan import Scan
from mvad.errors import MissingComponent
from mvad.render.backends.choose import BACKENDS, rasteriser
from mvad.render.backends.protocol import Rasteriser
from mvad.render.clean import Cleaned
from mvad.render.look import look
from mvad.render.options import RigOptions, SurfaceOptions
from mvad.render.rig import Rig, extent_of, fit_rig
from mvad.render.surface import Surface, build_surface
from mvad.render.views import ViewSet


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.egl) if name == "egl" else name for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> Iterator[Rasteriser]:
    try:
        yield rasteriser(request.param)
    except MissingComponent as error:
        pytest.skip(str(error))


def whole(scan: Scan) -> Cleaned:
    nothing = np.zeros_like(scan.valid)
    return Cleaned(scan.xyz, scan.valid.copy(), nothing, nothing.astype(np.uint8))


def surface_and_rig(scan: Scan, size: int = 128, views: int = 5) -> tuple[Surface, Rig]:
    cleaned = whole(scan)
    return build_surface(scan, cleaned, SurfaceOptions()), fit_rig([extent_of(cleaned)], RigOptions(size=size, views=views))


def view(scan: Scan, backend: Rasteriser, size: int = 128) -> tuple[ViewSet, Surface, Rig]:
    surface, rig = surface_and_rig(scan, size)
    return look(surface, scan.gt, rig, backend), surface, rig


def rays_of(rig: Rig, camera: int) -> tuple[np.ndarray, np.ndarray]:
    pixel = np.arange(rig.size) + 0.5
    k = rig.intrinsics[camera]
    x, y = np.meshgrid((pixel - k[0, 2]) / k[0, 0], (pixel - k[1, 2]) / k[1, 1])
    direction = np.stack([x, y, np.ones_like(x)], axis=-1) @ rig.poses[camera, :3, :3].T
    return rig.poses[camera, :3, 3], direction


def test_a_plane_has_the_depth_that_geometry_says(backend: Rasteriser) -> None:
    scan = wavy_scan()
    flat = scan.xyz.copy()
    flat[..., 2] = 0.6
    views, _, rig = view(replace(scan, xyz=flat), backend)
    for camera in range(rig.views):
        origin, direction = rays_of(rig, camera)
        expected = (0.6 - origin[2]) / direction[..., 2]
        seen = views.source[camera] >= 0
        assert seen.mean() > 0.3
        assert np.abs(views.depth[camera][seen] - expected[seen]).max() < 1e-6
        assert not views.depth[camera][~seen].any()


def test_depth_agrees_with_an_independent_ray_caster(backend: Rasteriser) -> None:
    views, surface, rig = view(wavy_scan(), backend)
    solid = surface.faces[: len(surface.faces) - surface.bridges]
    mesh = trimesh.Trimesh(surface.vertices.astype(np.float64), solid, process=False)
    differing = total = 0
    for camera in range(rig.views):
        origin, direction = rays_of(rig, camera)
        flat = direction.reshape(-1, 3)
        points, hit, _ = mesh.ray.intersects_location(np.tile(origin, (len(flat), 1)), flat, multiple_hits=False)
        truth = np.zeros(rig.size**2)
        truth[hit] = ((points - origin) @ rig.poses[camera, :3, :3])[:, 2]
        ours = views.depth[camera].reshape(-1)
        both = (truth > 0) & (ours > 0)
        differing += int(((truth > 0) != (ours > 0)).sum())
        total += int(both.sum())
        assert np.abs(truth[both] - ours[both]).mean() < 1e-6
    assert differing <= 1e-3 * total


def test_a_scan_painted_with_its_own_index_comes_back_through_source(backend: Rasteriser) -> None:
    scan = wavy_scan()
    views, surface, rig = view(scan, backend)
    points = scan.xyz.reshape(-1, 3)
    for camera in range(rig.views):
        seen = views.source[camera] >= 0
        origin, direction = rays_of(rig, camera)
        place = origin + direction[seen] * views.depth[camera][seen][:, None]
        distance = np.linalg.norm(points[views.source[camera][seen]] - place, axis=1)
        # In a right triangle with legs of one spacing no point is further than 0.75 from its heaviest corner.
        assert distance.max() < 0.95 * surface.spacing_m, "source is the scan point nearest to what the pixel sees"


def test_mask_is_gt_through_source_everywhere(backend: Rasteriser) -> None:
    scan = wavy_scan()
    views, _, _ = view(scan, backend)
    assert scan.gt is not None
    flat = scan.gt.reshape(-1)
    expected = np.where(views.source >= 0, flat[views.source], False)
    assert np.array_equal(views.mask, expected)
    assert views.mask.any()


def test_normals_are_unit_vectors_that_face_the_camera(backend: Rasteriser) -> None:
    views, _, _ = view(wavy_scan(), backend)
    seen = views.source >= 0
    assert np.allclose(np.linalg.norm(views.normal[seen], axis=1), 1, atol=1e-5)
    assert not views.normal[~seen].any()
    assert (views.normal[0][seen[0]][:, 2] < 0).all()


def test_a_fine_scan_in_a_coarse_view_is_averaged(backend: Rasteriser) -> None:
    scan = wavy_scan(192)
    checker = (np.indices((192, 192)).sum(axis=0) % 2 * 255).astype(np.uint8)
    surface, rig = surface_and_rig(replace(scan, rgb=np.repeat(checker[..., None], 3, axis=2)), 40)
    averaged, picked = (look(surface, scan.gt, rig, backend, samples).rgb[0][12:-12, 12:-12].astype(int) for samples in (3, 1))
    assert picked.std() > 120, "without averaging each pixel is black or white"
    assert averaged.std() < 0.45 * picked.std(), "a checkerboard finer than the pixels is grey"
    assert abs(averaged.mean() - 127.5) < 6


def test_a_depth_jump_is_not_bridged_and_its_seam_is_closed_in_view_0(backend: Rasteriser) -> None:
    scan = wavy_scan()
    stepped = scan.xyz.copy()
    stepped[:, 48:, 2] += 0.02
    stepped[:, 48:, :2] *= stepped[:, 48:, 2:] / (stepped[:, 48:, 2:] - 0.02)
    views, surface, _ = view(replace(scan, xyz=stepped), backend)
    assert surface.bridges >= 2 * 90
    middle = views.source[0][40:-40]
    seen = middle >= 0
    first, last = seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)
    assert all(seen[row, first[row] : last[row]].all() for row in range(len(seen))), "no hole along the seam"
    between = (views.depth > stepped[:, :48, 2].max() + 0.004) & (views.depth < stepped[:, 48:, 2].min() - 0.004)
    assert not between[0].any(), "no depth that no side has"


def test_the_order_of_triangles_changes_almost_nothing(backend: Rasteriser) -> None:
    scan = wavy_scan()
    surface, rig = surface_and_rig(scan)
    order = np.random.default_rng(0).permutation(len(surface.faces) - surface.bridges)
    shuffled = replace(surface, faces=np.concatenate([surface.faces[order], surface.faces[len(order) :]]))
    one, two = look(surface, scan.gt, rig, backend), look(shuffled, scan.gt, rig, backend)
    assert np.array_equal(one.source >= 0, two.source >= 0)
    assert np.abs(one.depth - two.depth).max() < 1e-6


@pytest.mark.egl
def test_the_backends_agree() -> None:
    try:
        egl = rasteriser("egl")
    except MissingComponent as error:
        pytest.skip(str(error))
    scan = wavy_scan()
    ours, _, _ = view(scan, rasteriser("cpu"))
    theirs, _, _ = view(scan, egl)
    both = (ours.source >= 0) & (theirs.source >= 0)
    assert ((ours.source >= 0) == (theirs.source >= 0)).mean() > 0.999
    assert (ours.source == theirs.source)[both].mean() > 0.98
    assert np.abs(ours.depth - theirs.depth)[both].mean() < 1e-6


@pytest.mark.egl
@pytest.mark.parametrize("first", ["import open3d", "import mvad.render.backends.egl"])
def test_open3d_and_egl_live_in_one_process_in_either_order(first: str) -> None:
    code = (
        f"{first}\nfrom mvad.render.backends.choose import rasteriser\nrasteriser('egl')\nimport open3d, numpy\n"
        "open3d.geometry.PointCloud(open3d.utility.Vector3dVector(numpy.random.rand(100, 3))).segment_plane(0.1, 3, 10)\nprint('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if "MissingComponent" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_a_device_that_is_not_there_says_what_to_do() -> None:
    from mvad.render.backends.egl import EglRasteriser

    with pytest.raises(MissingComponent, match="--backend cpu"):
        EglRasteriser(device_index=99)
