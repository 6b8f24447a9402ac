"""What a rasteriser must fulfil on any scan, generated or real."""

from __future__ import annotations

import numpy as np
from twins import embree_hits, psnr, supersampled

from mvad.datasets.scan import Scan
from mvad.render.backends.choose import rasteriser
from mvad.render.backends.protocol import Rasteriser
from mvad.render.clean import Cleaned
from mvad.render.fit_rig import extent_of, fit_rig
from mvad.render.options import RigOptions, SurfaceOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Rig
from mvad.render.surface import Surface, build_surface
from mvad.render.views import ViewSet


def whole(scan: Scan) -> Cleaned:
    nothing = np.zeros_like(scan.valid)
    return Cleaned(scan.xyz, scan.valid.copy(), nothing, nothing.astype(np.uint8), np.array([0.0, 0.0, -1.0, 1.0]))


def surface_and_rig(scan: Scan, size: int = 128, views: int = 5) -> tuple[Surface, Rig]:
    cleaned = whole(scan)
    return build_surface(scan, cleaned, SurfaceOptions()), fit_rig([extent_of(cleaned)], RigOptions(size=size, views=views))


def assert_like_embree(views: ViewSet, surface: Surface, rig: Rig) -> None:
    """Within 1 um in the mean, hits differing at no more than 1 in 10,000 rays that meet the object."""
    differing = total = 0
    for camera in range(rig.views):
        (truth, face_at), ours = embree_hits(surface, rig, camera), views.depth[camera]
        both = (truth > 0) & (ours > 0)
        # A bridge shows its nearest corner's depth, on purpose.
        on_surface = both & (face_at < len(surface.faces) - surface.bridges)
        assert np.abs(truth - ours)[on_surface].mean() < 1e-6
        differing += int(((truth > 0) != (ours > 0)).sum())
        total += int(both.sum())
    assert total > 1000
    assert differing <= 1e-4 * total


def reference_colours(surface: Surface, rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """Colours of 4 x 4 samples a pixel, from faces that the cpu kernel finds, and how many samples see something."""
    drawn: dict[int, np.ndarray] = {}
    rasteriser("cpu").views(surface, rig, 4, lambda camera, screen, face_at: drawn.__setitem__(camera, face_at.copy()))
    made = [supersampled(surface, rig, camera, drawn[camera], 4) for camera in range(rig.views)]
    return np.stack([color for color, _ in made]), np.stack([count for _, count in made])


def assert_antialiased(surface: Surface, gt: np.ndarray | None, rig: Rig, backend: Rasteriser) -> float:
    """Object pixels alone are compared: the black around them would flatter."""
    views = render_views(surface, gt, rig, backend)
    reference, count = reference_colours(surface, rig)
    at = (views.source >= 0) & (count > 0)
    value = psnr(views.rgb[at], reference[at])
    assert value > 35
    return value


def assert_agree(surface: Surface, gt: np.ndarray | None, rig: Rig, width: int) -> None:
    """The bars are set from what was measured on real glands: 1e-5 of masks and sources differ."""
    ours, theirs = render_views(surface, gt, rig, rasteriser("cpu")), render_views(surface, gt, rig, rasteriser("egl"))
    seen, also = ours.source >= 0, theirs.source >= 0
    assert (seen != also).sum() <= 1e-3 * seen.sum()
    assert (ours.mask != theirs.mask)[seen | also].mean() <= 1e-3
    both = seen & also
    one, two = ours.source[both], theirs.source[both]
    rows, columns = np.abs(one // width - two // width), np.abs(one % width - two % width)
    assert (np.maximum(rows, columns) <= 1).mean() >= 0.999
    assert (one == two).mean() >= 0.998
    assert np.abs(ours.depth - theirs.depth)[both].mean() < 1e-6
    assert np.abs(ours.rgb.astype(int) - theirs.rgb)[both].mean() < 0.1
