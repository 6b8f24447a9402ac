"""What missing views cost: S-AUROC of a detector for subsets of views, under both label rules (label.missing)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mvad.datasets.shards.loader import ShardSet
from mvad.model.detector import Detector
from mvad.model.judging.evaluate import with_views
from mvad.model.metrics.auroc import auroc
from mvad.progress import Progress


def subsets_of(views: int, each: int | None = None) -> list[tuple[int, ...]]:
    """Return the non-empty subsets of views, largest first; at most ``each`` of a size, spread over their list."""
    found: list[tuple[int, ...]] = []
    for size in range(views, 0, -1):
        every = list(combinations(range(views), size))
        if each is not None and len(every) > each:
            every = [every[int(k)] for k in np.linspace(0, len(every) - 1, each).round()]
        found += every
    return found


def judge_subsets(
    detector: Detector, data: ShardSet, subsets: Sequence[tuple[int, ...]], progress: Progress, label: str = "missing views"
) -> list[dict[str, Any]]:
    """Judge a split once for each subset of views.

    Returns
    -------
    list of dict
        For each subset: ``views``; ``s_auroc_visible``, under the label of the views that are left; ``s_auroc_full``,
        under the sample's full label; ``oracle_full``, what somebody reaches there who knows everything about the views
        that are left and nothing else. None where one class is missing.
    """
    progress.start(label, len(subsets) * len(data))
    rows = []
    for views in subsets:
        scores, visible, full = [], [], []
        for index in range(len(data)):
            batch = with_views(data.batch([index]), views)
            progress.advance()
            if not bool(batch.present.any()):
                continue
            scores.append(float(detector.score(batch).sample_scores[0]))
            visible.append(bool((batch.view_label & batch.present).any()))
            full.append(bool(batch.label[0]))
        seen = np.array(visible)
        rows.append(
            {
                "views": list(views),
                "s_auroc_visible": _defined(np.array(scores), seen),
                "s_auroc_full": _defined(np.array(scores), np.array(full)),
                "oracle_full": _defined(seen.astype(float), np.array(full)),
            }
        )
    return rows


def loss_per_missing_view(rows: Sequence[dict[str, Any]], figure: str, views: int) -> float:
    """Return the slope of a figure over the number of missing views, in its own unit, by least squares over the means.

    Negative where missing views cost something.
    """
    by_missing: dict[int, list[float]] = {}
    for row in rows:
        if row[figure] is not None:
            by_missing.setdefault(views - len(row["views"]), []).append(row[figure])
    missing = sorted(by_missing)
    return float(np.polyfit(missing, [np.mean(by_missing[m]) for m in missing], 1)[0])


def _defined(scores: Any, labels: Any) -> float | None:
    value = auroc(scores, labels)
    return None if np.isnan(value) else float(value)
