"""Ground truth that no view can show, and what was taken away as background: counted, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mvad.datasets.scan import Scan
from mvad.render.clean import BACKGROUND, Cleaned
from mvad.render.views import ViewSet

NOTHING_SEEN = "invisible"


def audit_scan(scan: Scan, cleaned: Cleaned, views: ViewSet) -> dict[str, Any]:
    """Count a scan's ground-truth pixels.

    Returns
    -------
    dict
        ``total``; ``no_point`` (the sensor returned nothing and nothing was filled), ``removed`` (went with
        the background; ``removed_as`` says with which part of it), ``unseen`` (on the object, but at no pixel of any
        view: occluded or finer than the views), ``seen`` per view and ``seen_any``.
        total = no_point + removed + unseen + seen_any.
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
    """Count a scan's grid points: missing returns, the object's, filled ones, and what went as background."""
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
    """Add up the audits and the counts of points of a category.

    ``views`` says of each view which share of the ground truth it shows and why it does not show the rest;
    ``invisible`` lists the samples whose defect no view shows; ``background`` is the table of what was removed.
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
    whole = max(totals["total"], 1)
    lost = {name: round(totals[name] / whole, 4) for name in ("no_point", "removed")}
    gt_parts, point_parts = parts(with_gt.values()), parts(points.values())
    return {
        "samples_with_defect": len(with_gt),
        **totals,
        "seen": seen,
        "views": [
            {"seen": round(count / whole, 4), **lost,
             "occluded": round((totals["total"] - totals["no_point"] - totals["removed"] - count) / whole, 4)}
            for count in seen
        ],
        NOTHING_SEEN: [key for key, audit in with_gt.items() if audit["seen_any"] == 0],
        "background": {
            "scans": len(points),
            **{name: add(name, points.values()) for name in ("grid", "missing", "object", "filled")},
            "removed_as": point_parts,
            "ground_truth_removed_as": gt_parts,
        },
    }  # fmt: skip
