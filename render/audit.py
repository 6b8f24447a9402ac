"""Ground truth that no view can show: how many of a defect's pixels are lost, and to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mvad.datasets.scan import Scan
from mvad.render.clean import Cleaned
from mvad.render.views import ViewSet


def audit_scan(scan: Scan, cleaned: Cleaned, views: ViewSet) -> dict[str, Any]:
    """Count a scan's ground-truth pixels.

    Returns
    -------
    dict
        ``total``; ``no_point`` (the sensor returned nothing and nothing was filled), ``removed`` (went with
        the background), ``unseen`` (on the object, but at no pixel of any view: occluded or finer than the
        views), ``seen`` per view and ``seen_any``. total = no_point + removed + unseen + seen_any.
    """
    if scan.gt is None:
        return {"total": 0, "no_point": 0, "removed": 0, "unseen": 0, "seen": [0] * len(views.mask), "seen_any": 0}
    gt = scan.gt.reshape(-1)
    seen = [np.unique(source[mask]) for source, mask in zip(views.source, views.mask, strict=True)]
    seen_any = len(np.unique(np.concatenate(seen)))
    keep, valid = cleaned.keep.reshape(-1), scan.valid.reshape(-1)
    return {
        "total": int(gt.sum()),
        "no_point": int((gt & ~valid & ~keep).sum()),
        "removed": int((gt & valid & ~keep).sum()),
        "unseen": int((gt & keep).sum()) - seen_any,
        "seen": [len(pixels) for pixels in seen],
        "seen_any": seen_any,
    }


def summarise(audits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the audits of a category; ``invisible`` lists the samples whose defect no view shows."""
    with_gt = {key: audit for key, audit in sorted(audits.items()) if audit["total"]}

    def add(name: str, values: Iterable[Mapping[str, Any]]) -> int:
        return sum(int(audit[name]) for audit in values)

    views = max((len(audit["seen"]) for audit in with_gt.values()), default=0)
    return {
        "samples_with_defect": len(with_gt),
        **{name: add(name, with_gt.values()) for name in ("total", "no_point", "removed", "unseen", "seen_any")},
        "seen": [sum(int(audit["seen"][view]) for audit in with_gt.values()) for view in range(views)],
        "invisible": [key for key, audit in with_gt.items() if audit["seen_any"] == 0],
    }
