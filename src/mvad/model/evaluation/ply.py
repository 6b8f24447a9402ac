"""Point clouds with one anomaly value per point, as binary PLY."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput


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
    """
    head, marked, body = content.partition(b"end_header\n")
    counts = [line for line in head.split(b"\n") if line.startswith(b"element vertex ")]
    if not marked or b"property float anomaly" not in head or len(counts) != 1:
        raise BadInput("not a cloud that mvad evaluate --project-to-scan wrote")
    count = int(counts[0].split()[-1])
    if len(body) != count * VERTEX.itemsize:
        raise BadInput(f"a cloud of {count} points takes {count * VERTEX.itemsize} bytes, not {len(body)}")
    return np.frombuffer(body, VERTEX)
