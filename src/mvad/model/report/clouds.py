"""Point clouds of a few samples of a run for the page, subsampled and coded as integers."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mvad import files
from mvad.model.evaluation.ply import read_ply
from mvad.model.evaluation.results import Results
from mvad.model.report.budget import Budget

_POINTS = 12_000
_STRAY = 0.005
_EACH = 2
"""Number of samples of each sort: anomalous with the lowest and the highest scores, good with the highest scores."""


def clouds(run: Path, result: Results, budget: Budget) -> str:
    """Return the HTML of a viewer of the clouds that ``evaluate --project-to-scan`` wrote, or "" where there are none."""
    cloud_files = {scan.key: scan.cloud for scan in result.scan.samples} if result.scan else {}
    by_score = sorted(result.samples, key=lambda s: s.score)
    bad, good = ([s for s in by_score if bool(s.label) == label and s.key in cloud_files] for label in (True, False))
    chosen = {s.key: s for s in (*bad[-_EACH:], *bad[:_EACH], *good[-_EACH:])}
    options, low, high = [], np.inf, -np.inf
    for key, sample in chosen.items():
        path = files.inside(run, cloud_files[key])
        if not path.exists():
            continue
        points = read_ply(path.read_bytes())
        thin = points[:: max(1, -(-len(points) // _POINTS))]
        if not len(thin):
            continue
        packed, bounds = _packed(thin)
        if not budget.take(len(packed)):
            break
        low, high = min(low, bounds[0]), max(high, bounds[1])
        word = "anomalous" if sample.label else "good"
        options.append(
            f'<option data-points="{packed}" data-low="{bounds[0]:.7g}" data-high="{bounds[1]:.7g}">'
            f"{escape(key)} ({word}, {sample.score:.3g})</option>"
        )
    if not options:
        return ""
    return (
        f'<div class="cloud" data-low="{low:.7g}" data-high="{high:.7g}"><label>scan <select>{"".join(options)}</select></label>'
        ' <span class="dim">drag or arrow keys turn, wheel or + and - zoom; the map\'s slider outlines here, too</span>'
        '<canvas tabindex="0" role="img" aria-label="the scan, coloured by anomaly" width="720" height="420"></canvas></div>'
    )


def _packed(points: np.ndarray[Any, Any]) -> tuple[str, tuple[float, float]]:
    """Return base64 of one (x, y, z, level) int16 per point, centred and scaled to the longest side, and the range of levels."""
    xyz = points["xyz"].astype(np.float64)
    first, last = np.quantile(xyz, [_STRAY, 1 - _STRAY], axis=0)  # stray points must not make the object small
    middle, half = (first + last) / 2, max(float((last - first).max()) / 2 * 1.1, 1e-9)
    low, high = float(points["anomaly"].min()), float(points["anomaly"].max())
    rows = np.empty((len(points), 4), "<i2")
    rows[:, :3] = np.round(np.clip((xyz - middle) / half, -1, 1) * 32000)
    rows[:, 3] = np.round((points["anomaly"] - low) / max(high - low, 1e-12) * 32000)
    return base64.b64encode(rows.tobytes()).decode(), (low, high)
