"""Point clouds with one anomaly value per point, as binary PLY."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput, MissingComponent


def ply(points: NDArray[np.float32], colours: NDArray[np.uint8], values: NDArray[np.float32]) -> bytes:
    """Return a binary PLY of points (N, 3) in metres with colours (N, 3) and the scalar ``anomaly`` (N,)."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment mvad anomaly map\n"
        f"element vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "property float anomaly\nend_header\n"
    )
    rows = np.empty(len(points), VERTEX)
    rows["xyz"], rows["rgb"], rows["anomaly"] = points, colours, values
    return header.encode("ascii") + rows.tobytes()


VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("anomaly", "<f4")])


def read_ply(content: bytes) -> NDArray[Any]:
    """Return the vertices (N,) of ``VERTEX`` in a cloud that ``ply`` wrote.

    Raises
    ------
    BadInput
        If it is another kind of PLY, or truncated.
    MissingComponent
        If trimesh is not installed.
    """
    try:
        from trimesh.exchange.ply import load_ply
    except ImportError as error:
        raise MissingComponent("reading point clouds needs trimesh; pip install trimesh") from error
    try:
        vertices = load_ply(BytesIO(content))["metadata"]["_ply_raw"]["vertex"]["data"]
        rows = np.empty(len(vertices), VERTEX)
        rows["xyz"] = np.stack([vertices[name] for name in "xyz"], axis=1)
        rows["rgb"] = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)
        rows["anomaly"] = vertices["anomaly"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # trimesh raises many kinds
        raise BadInput("not a cloud that mvad evaluate --project-to-scan wrote, or cut off") from error
    return rows
