"""Count the ground-truth pixels that each view shows or misses, and the points removed as background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mvad.datasets.scan import Scan
from mvad.render.clean import BACKGROUND, Cleaned
from mvad.render.views import ViewSet

INVISIBLE = "invisible"


def audit_scan(scan: Scan, cleaned: Cleaned, views: ViewSet) -> dict[str, Any]:
    """Count a scan's ground-truth pixels by visibility.

    Returns
    -------
    dict
        Numbers of pixels: ``total``; ``no_point`` (no sensor return, and not filled); ``removed`` (removed as background;
        ``removed_as`` divides them by part of the background); ``unseen`` (on the object, but at no pixel of any view:
        occluded, or finer than the views' pixels); ``seen``, a list with one number per view; ``seen_any`` (in one view at
        least). total = no_point + removed + unseen + seen_any.
    """
    gt = np.zeros(scan.valid.size, dtype=bool) if scan.gt is None else scan.gt.reshape(-1)
    seen = [np.unique(source[mask]) for source, mask in zip(views.source, views.mask, strict=True)]
    seen_any = len(np.unique(np.concatenate(seen)))
    keep, removed_as = cleaned.keep.reshape(-1)[gt], cleaned.removed_as.reshape(-1)[gt]
    return {
        "total": len(keep),
        "no_point": int((~keep & (removed_as == 0)).sum()),
        "removed": int((removed_as > 0).sum()),
        "removed_as": _by_part(removed_as),
        "unseen": int(keep.sum()) - seen_any,
        "seen": [len(pixels) for pixels in seen],
        "seen_any": seen_any,
    }


def count_points(scan: Scan, cleaned: Cleaned) -> dict[str, Any]:
    """Count a scan's grid points: missing returns, points of the object, filled points, removed points by ``BACKGROUND`` part."""
    return {
        "grid": scan.valid.size,
        "missing": int((~scan.valid).sum()),
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
    ``invisible`` lists the samples whose defect no view shows; ``background`` has the counts of grid points and of removed
    points.
    """
    with_gt = {key: audit for key, audit in sorted(audits.items()) if audit["total"]}

    def add(name: str, values: Iterable[Mapping[str, Any]]) -> int:
        return sum(int(audit[name]) for audit in values)

    def parts(values: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        listed = [value["removed_as"] for value in values]
        return {name: sum(int(value[name]) for value in listed) for name in BACKGROUND}

    totals = {name: add(name, with_gt.values()) for name in ("total", "no_point", "removed", "unseen", "seen_any")}
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
        INVISIBLE: [key for key, audit in with_gt.items() if audit["seen_any"] == 0],
        "background": {
            "scans": len(points),
            **{name: add(name, points.values()) for name in ("grid", "missing", "object", "filled")},
            "removed_as": point_parts,
            "ground_truth_removed_as": gt_parts,
        },
    }  # fmt: skip
