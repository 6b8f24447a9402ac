"""A mesh as the surface that is drawn: every face has three vertices of its own, so that each has the source of its face."""

from __future__ import annotations

import numpy as np

from mvad.datasets.scan import Mesh, Scan
from mvad.render.clean import Cleaned
from mvad.render.surface import Surface


def mesh_surface(mesh: Mesh) -> Surface:
    """Return the surface of a mesh; vertices 3 f to 3 f + 2 are the corners of face f, and their source is f.

    The corners of a face are in the order of their positions, so that faces which share an edge evaluate it from the same end and no
    ray passes between them (``backends.triangles``); the face keeps its winding.
    """
    count = len(mesh.corners)
    x, y, z = (np.ascontiguousarray(mesh.corners[..., axis]) for axis in range(3))
    order = np.lexsort((z, y, x), axis=1)[..., None]
    vertices, normals = (np.take_along_axis(values, order, axis=1).reshape(-1, 3) for values in (mesh.corners, mesh.normals))
    colors = np.take_along_axis(mesh.colors, order, axis=1).reshape(-1, 3)
    place = np.argsort(order[..., 0], axis=1)  # where each corner of the file went
    lowest = place.argmin(axis=1)[:, None]
    faces = np.take_along_axis(place, (lowest + np.arange(3)) % 3, axis=1) + 3 * np.arange(count)[:, None]
    edges = np.linalg.norm(mesh.corners - np.roll(mesh.corners, -1, axis=1), axis=2)
    source = np.repeat(np.arange(count, dtype=np.int32), 3)
    return Surface(vertices, faces.astype(np.int32), 0, normals, colors, source, float(np.median(edges)))


def mesh_cleaned(scan: Scan) -> Cleaned:
    """Return a mesh as an object without background; the support lies under its lowest face, its normal is the file's +z."""
    nothing = np.zeros(scan.valid.shape, np.bool_)
    lowest = float(scan.xyz[..., 2][scan.valid].max())
    return Cleaned(scan.xyz, scan.valid, nothing, nothing.astype(np.uint8), np.array([0.0, 0.0, -1.0, lowest]))
