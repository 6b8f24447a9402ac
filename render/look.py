"""Every output of a view from the faces that a rasteriser saw: no second pass that could disagree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput
from mvad.render.backends.protocol import Rasteriser
from mvad.render.backends.triangles import shade, to_camera
from mvad.render.rig import Rig
from mvad.render.surface import Surface
from mvad.render.views import ViewSet

_VISIBLE_SPACINGS = 4.0
"""A vertex at most this many scan spacings behind a pixel's surface is taken as visible in it."""


def look(surface: Surface, gt: NDArray[np.bool_] | None, rig: Rig, rasteriser: Rasteriser) -> ViewSet:
    """Rasterise a surface into every view of a rig.

    Parameters
    ----------
    surface
        The object; see ``Surface``.
    gt
        (H, W) bool ground truth on the scan's grid, or None.
    rig
        The cameras.
    rasteriser
        ``cpu`` or ``egl``; it decides only which face a pixel's centre sees.

    Raises
    ------
    BadInput
        If no view shows the object: the scan does not belong to this rig's category.
    """
    faces_at = rasteriser.visible_faces(surface, rig)
    if not (faces_at >= 0).any():
        raise BadInput("no view shows the object; it lies outside of the category's cameras")
    solid = len(surface.faces) - surface.bridges
    flat_gt = None if gt is None else gt.reshape(-1)
    depths, normals, masks, sources, colors = [], [], [], [], []
    for face_at, pose, camera in zip(faces_at, rig.poses, rig.intrinsics, strict=True):
        points = to_camera(surface.vertices, pose)
        depth, vertex, rgb = shade(
            face_at, points, surface.faces, solid, surface.colors,
            camera[0, 0], camera[0, 2], camera[1, 2], _VISIBLE_SPACINGS * surface.spacing_m,
        )  # fmt: skip
        seen = vertex >= 0
        source = np.where(seen, surface.source[vertex], np.int32(-1))
        turned = surface.normals.astype(np.float64) @ pose[:3, :3]
        normals.append(np.where(seen[..., None], turned[vertex], 0).astype(np.float32))
        masks.append(seen & flat_gt[source] if flat_gt is not None else np.zeros_like(seen))
        depths.append(depth)
        sources.append(source)
        colors.append(rgb)
    return ViewSet(*(np.stack(arrays) for arrays in (colors, depths, normals, masks, sources)))
