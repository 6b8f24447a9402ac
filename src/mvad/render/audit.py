"""Count the ground-truth pixels that each view shows or misses, and the points removed as background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import Scan
from mvad.render.clean import BACKGROUND, Cleaned
from mvad.render.rig import Rig
from mvad.render.views import ViewSet

INVISIBLE = "invisible"


_SLACK_PIXELS = 3
"""A point this far behind what its pixel shows, in widths of the pixel there, lies on the same surface, seen at a slant."""


def audit_scan(scan: Scan, cleaned: Cleaned, views: ViewSet, rig: Rig, *, mirrored: bool = False) -> dict[str, Any]:
    """Count a scan's ground-truth pixels by visibility.

    Parameters
    ----------
    scan, cleaned, views
        The scan, its object, and its views.
    rig
        The cameras in the sensor's camera frame.
    mirrored
        Whether the views are those of the mirrored object.

    Returns
    -------
    dict
        Numbers of pixels: ``total``; ``no_point`` (no sensor return, and not filled); ``removed`` (removed as background;
        ``removed_as`` divides them by part of the background); ``unseen`` (on the object, but hidden from all views, or outside
        of them); ``seen``, a list with one number per view; ``seen_any`` (in one view at least); ``shown``, those at a pixel of
        some view: where the pixels are coarser than the scan, a point may lie between them and be seen all the same.
        total = no_point + removed + unseen + seen_any.
    """
    gt = np.zeros(scan.valid.size, dtype=bool) if scan.gt is None else scan.gt.reshape(-1)
    keep, removed_as = cleaned.keep.reshape(-1)[gt], cleaned.removed_as.reshape(-1)[gt]
    points, number = cleaned.xyz.reshape(-1, 3)[gt].astype(np.float64), np.cumsum(gt) - 1
    seen = np.zeros((len(views.mask), len(points)), bool)
    shown = np.zeros(len(points), bool)
    for k, (source, mask, depth) in enumerate(zip(views.source, views.mask, views.depth, strict=True)):
        at_pixels = number[np.unique(source[mask])]
        plain = depth[:, ::-1] if mirrored else depth
        seen[k] = keep & _is_in_front(points, plain, rig.poses[k], rig.intrinsics[k])
        seen[k, at_pixels] = shown[at_pixels] = True
    seen_any = int(seen.any(axis=0).sum())
    return {
        "total": len(keep),
        "no_point": int((~keep & (removed_as == 0)).sum()),
        "removed": int((removed_as > 0).sum()),
        "removed_as": _by_part(removed_as),
        "unseen": int(keep.sum()) - seen_any,
        "seen": seen.sum(axis=1).tolist(),
        "seen_any": seen_any,
        "shown": int(shown.sum()),
    }


def _is_in_front(
    points: NDArray[np.float64], depth: NDArray[np.float32], pose: NDArray[np.float64], intrinsics: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which points (K, 3), metres, lie within a view and not behind the surface that it shows there."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    far = np.maximum(local[:, 2], 1e-9)
    column, row = (local[:, axis] / far * intrinsics[axis, axis] + intrinsics[axis, 2] for axis in (0, 1))
    height, width = depth.shape
    inside = (local[:, 2] > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    y, x = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    around = [depth[(y + i).clip(0, height - 1), (x + j).clip(0, width - 1)] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    surface = np.where(depth[y, x] > 0, depth[y, x], np.max(around, axis=0))  # beside its edge: that of the edge
    return np.asarray(inside & (surface > 0) & (far <= surface + _SLACK_PIXELS * far / intrinsics[0, 0]))


def count_points(scan: Scan, cleaned: Cleaned) -> dict[str, Any]:
    """Count a scan's grid points, or a mesh's faces.

    Missing returns, points of the object, filled points, and removed points by ``BACKGROUND`` part.
    """
    grid = scan.valid.size if scan.mesh is None else len(scan.mesh.corners)  # the last row of a mesh's grid is no point
    return {
        "grid": grid,
        "missing": grid - int(scan.valid.sum()),
        "object": int(cleaned.keep.sum()),
        "filled": int(cleaned.filled.sum()),
        "removed_as": _by_part(cleaned.removed_as),
    }


def _by_part(removed_as: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, int]:
    counts = np.bincount(removed_as.reshape(-1), minlength=len(BACKGROUND) + 1)
    return {name: int(count) for name, count in zip(BACKGROUND, counts[1:], strict=True)}


def summarise(audits: Mapping[str, Mapping[str, Any]], points: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the audits and the point counts of a category, both by sample key.

    ``views`` has, for each view, the share of the ground truth that it shows, and the shares that it misses by cause;
    ``invisible`` lists the samples whose defect is at no pixel of any view; ``background`` has the counts of grid points and of removed
    points.
    """
    with_gt = {key: audit for key, audit in sorted(audits.items()) if audit["total"]}

    def add(name: str, values: Iterable[Mapping[str, Any]]) -> int:
        return sum(int(audit[name]) for audit in values)

    def parts(values: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        listed = [value["removed_as"] for value in values]
        return {name: sum(int(value[name]) for value in listed) for name in BACKGROUND}

    totals = {name: add(name, with_gt.values()) for name in ("total", "no_point", "removed", "unseen", "seen_any", "shown")}
    views = max((len(audit["seen"]) for audit in with_gt.values()), default=0)
    seen = [sum(int(audit["seen"][view]) for audit in with_gt.values()) for view in range(views)]
    denominator = max(totals["total"], 1)
    lost = {name: round(totals[name] / denominator, 4) for name in ("no_point", "removed")}
    gt_parts, point_parts = parts(with_gt.values()), parts(points.values())
    return {
        "samples_with_defect": len(with_gt),
        **totals,
        "seen": seen,
        "views": [
            {"seen": round(count / denominator, 4), **lost,
             "occluded": round((totals["total"] - totals["no_point"] - totals["removed"] - count) / denominator, 4)}
            for count in seen
        ],
        INVISIBLE: [key for key, audit in with_gt.items() if audit["shown"] == 0],
        "background": {
            "scans": len(points),
            **{name: add(name, points.values()) for name in ("grid", "missing", "object", "filled")},
            "removed_as": point_parts,
            "ground_truth_removed_as": gt_parts,
        },
    }  # fmt: skip
