"""Figures of merit and curves of evaluated samples: every row of the metrics' table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import GOOD
from mvad.model.evaluation.results import Figures, SampleResult, bounds_of, defined
from mvad.model.metrics.histogram import Curve, exact_curve
from mvad.model.metrics.intervals import Interval, auroc_interval
from mvad.model.metrics.pixels import PixelScores
from mvad.model.metrics.table import Metric, Scores, metrics

_DRAWN = 200
"""Points of a curve that are kept."""


def figures_of(samples: Sequence[SampleResult], pixels: PixelScores) -> Figures:
    """Return every figure of merit, and S-AUROC by defect.

    ``s_auroc`` takes the sample's full label; ``s_auroc_visible`` that of the views that were shown (``label.missing``): with
    all views the two differ only where no view shows a sample's defect. Intervals are DeLong's over samples; for images and
    pixels samples are clusters.
    """
    scores = scores_of(samples, pixels)
    values, intervals = measure(scores, {metric.name: metric for metric in metrics()})
    by_defect = {}
    for defect in sorted({sample.defect for sample in samples} - {GOOD}):
        chosen = np.array([sample.defect in (GOOD, defect) for sample in samples])
        by_defect[defect] = auroc_interval(scores.samples[chosen], scores.labels[chosen])
    return Figures(
        values, intervals, {name: defined(area.value) for name, area in by_defect.items()},
        {name: bounds_of(area) for name, area in by_defect.items()}, len(samples), int(scores.labels.sum()),
        scores.pixels.regions, defined(scores.pixels.threshold), defined(scores.pixels.error_bound),
    )  # fmt: skip


def scan_figures(scores: NDArray[np.float64], labels: NDArray[np.bool_], pixels: PixelScores) -> Figures:
    """Return the figures of MVTec 3D-AD's protocol: every metric that is taken on scans, a scan being one image."""
    owners, found = np.arange(len(scores)), pixels.figures()
    every = Scores(scores, labels, labels, scores, labels, owners, found, pixels)
    values, intervals = measure(every, {metric.on_scans: metric for metric in metrics() if metric.on_scans})
    return Figures(
        values, intervals, samples=len(scores), anomalous=int(labels.sum()), regions=found.regions,
        pixel_threshold=defined(found.threshold), p_auroc_error_bound=defined(found.error_bound),
    )  # fmt: skip


def measure(scores: Scores, wanted: dict[str, Metric]) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Return values and 95 % bounds by the names in ``wanted``."""
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, metric in wanted.items():
        found = metric.compute(scores)
        if isinstance(found, Interval):
            values[name], intervals[name] = defined(found.value), bounds_of(found)
        else:
            values[name] = defined(found)
    return values, intervals


def scores_of(samples: Sequence[SampleResult], pixels: PixelScores) -> Scores:
    """Return what metrics are computed from."""
    images, image_labels, owners = image_table(samples)
    return Scores(
        np.array([sample.score for sample in samples], np.float64), np.array([sample.label for sample in samples], bool),
        np.array([any(filter(None, sample.view_labels)) for sample in samples], bool), images, image_labels, owners,
        pixels.figures(), pixels,
    )  # fmt: skip


def image_table(samples: Sequence[SampleResult]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return scores, labels and sample number of every present view, each (views of all samples,)."""
    rows = [
        (score, bool(label), number)
        for number, sample in enumerate(samples)
        for score, label in zip(sample.view_scores, sample.view_labels, strict=True)
        if score is not None
    ]
    scores, labels, owners = ([row[k] for row in rows] for k in range(3))
    return np.array(scores, np.float64), np.array(labels, bool), np.array(owners, np.int64)


def curves_of(samples: Sequence[SampleResult], pixels: PixelScores) -> dict[str, Any]:
    """Return what to draw: counts at falling thresholds of samples, images and pixels, and the share of each region found.

    Each is a list of [false, true] from nothing to everything, as shares for pixels and regions.
    """
    scores, labels, _ = image_table(samples)
    by_sample = exact_curve(np.array([s.score for s in samples]), np.array([s.label for s in samples], bool))
    plain, weighted, _ = pixels.histogram.curves()
    curves = {"sample": by_sample, "image": exact_curve(scores, labels), "pixel": plain, "region": weighted}
    return {name: _points(curve.thinned(_DRAWN)) for name, curve in curves.items()}


def _points(curve: Curve) -> list[list[float]]:
    return [[float(f"{false:.7g}"), float(f"{true:.7g}")] for false, true in zip(curve.false, curve.true, strict=True)]
