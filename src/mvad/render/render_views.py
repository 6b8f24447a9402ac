"""Compute all outputs of the views from the faces that a rasteriser found, in one pass, so that they agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput
from mvad.render.backends.protocol import Rasteriser
from mvad.render.backends.triangles import shade
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig
from mvad.render.surface import Surface
from mvad.render.views import ViewSet, empty_views


def render_views(
    surface: Surface, gt: NDArray[np.bool_] | None, rig: Rig, rasteriser: Rasteriser, samples: int = RenderOptions.samples
) -> ViewSet:
    """Rasterise a surface into every view of a rig, all outputs from one geometry.

    Parameters
    ----------
    surface
        The object; see ``Surface``.
    gt
        (H, W) bool ground truth on the scan's grid, or None.
    rig
        The cameras.
    rasteriser
        Backend ``cpu`` or ``egl``; it only determines which face each sample sees.
    samples
        Samples per side of a pixel, odd; colour is their mean, all other values are those of the pixel's centre.

    Returns
    -------
    ViewSet
        V views of ``rig.size`` x ``rig.size`` pixels.

    Raises
    ------
    BadInput
        If ``samples`` is even, or no view shows the object: the scan does not belong to this rig's category.
    """
    if samples < 1 or samples % 2 == 0:
        raise BadInput(f"samples = {samples}: must be odd, so that one sample is the pixel's centre")
    surface = surface.canonical()
    solid = len(surface.faces) - surface.bridges
    flat_gt = np.zeros(0, dtype=bool) if gt is None else np.ascontiguousarray(gt).reshape(-1)

    views = empty_views(rig.views, rig.size)

    def finish(view: int, screen: NDArray[np.float64], face_at: NDArray[np.int32]) -> None:
        shade(
            screen, surface.faces, solid, surface.colors, surface.normals, surface.source, flat_gt,
            np.ascontiguousarray(rig.poses[view, :3, :3]), face_at, samples,
            views.rgb[view], views.depth[view], views.normal[view], views.mask[view], views.source[view],
        )  # fmt: skip

    rasteriser.views(surface, rig, samples, finish)
    if not (views.source >= 0).any():
        raise BadInput("no view shows the object; it lies outside of the field of view of the category's cameras")
    return views
