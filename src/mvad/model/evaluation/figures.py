"""Figures of merit and curves of evaluated samples, one figure per row of ``metrics/table.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvad.datasets.scan import GOOD
from mvad.model.evaluation.results import Figures, SampleResult, bounds_of, defined
from mvad.model.evaluation.rules import RuleFigure
from mvad.model.metrics.curve import Curve, exact_curve
from mvad.model.metrics.intervals import Interval, auroc_interval
from mvad.model.metrics.pixels import PixelFigures, PixelScores
from mvad.model.metrics.table import ERROR_BOUNDS, Metric, Scores, metrics
from mvad.model.scoring import SAMPLE_RULES, over_views

_DRAWN = 200
"""Number of points of a curve in the results."""


def figures_of(samples: Sequence[SampleResult], pixels: PixelScores) -> Figures:
    """Return all figures of merit, and S-AUROC by defect.

    ``s_auroc`` uses the sample's full label, ``s_auroc_visible`` the label of its present views (``label.missing``): with all
    views present the two differ only where no view shows a sample's defect. Intervals are DeLong's over samples; for images
    and pixels, samples are clusters.
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
        scores.pixels.regions, defined(scores.pixels.threshold), _error_bounds(scores.pixels),
    )  # fmt: skip


def _error_bounds(pixels: PixelFigures) -> dict[str, float]:
    return dict(zip(ERROR_BOUNDS, pixels.bounds, strict=True))


def figures_by_rule(samples: Sequence[SampleResult]) -> dict[str, RuleFigure]:
    """Return S-AUROC with its interval by rule from views to sample, from the scores of the views that are present."""
    labels = np.array([sample.label for sample in samples], bool)
    views = [[-np.inf if score is None else score for score in sample.view_scores] for sample in samples]
    table = torch.tensor(views, dtype=torch.float64).reshape(len(samples), -1)
    found = {}
    for rule in SAMPLE_RULES if table.numel() else ():
        area = auroc_interval(over_views(table, rule).numpy(), labels)
        found[rule] = RuleFigure(defined(area.value), bounds_of(area))
    return found


def scan_figures(scores: NDArray[np.float64], labels: NDArray[np.bool_], pixels: PixelScores) -> Figures:
    """Return the figures of MVTec 3D-AD's protocol: all metrics that are defined on scans, each scan being one image.

    Parameters
    ----------
    scores, labels
        (N,) of the scans.
    pixels
        Pixels of the scans' maps.
    """
    owners, pixel_figures = np.arange(len(scores)), pixels.figures()
    inputs = Scores(scores, labels, labels, scores, labels, owners, pixel_figures, pixels)
    values, intervals = measure(inputs, {metric.on_scans: metric for metric in metrics() if metric.on_scans})
    return Figures(
        values, intervals, samples=len(scores), anomalous=int(labels.sum()), regions=pixel_figures.regions,
        pixel_threshold=defined(pixel_figures.threshold), error_bounds=_error_bounds(pixel_figures),
    )  # fmt: skip


def measure(scores: Scores, wanted: dict[str, Metric]) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Return the values of the metrics in ``wanted`` by name, and 95 % bounds of those that have an interval."""
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, metric in wanted.items():
        figure = metric.compute(scores)
        if isinstance(figure, Interval):
            values[name], intervals[name] = defined(figure.value), bounds_of(figure)
        else:
            values[name] = defined(figure)
    return values, intervals


def scores_of(samples: Sequence[SampleResult], pixels: PixelScores) -> Scores:
    """Return the arrays from which metrics are computed."""
    images, image_labels, owners = image_table(samples)
    return Scores(
        np.array([sample.score for sample in samples], np.float64), np.array([sample.label for sample in samples], bool),
        np.array([any(filter(None, sample.view_labels)) for sample in samples], bool), images, image_labels, owners,
        pixels.figures(), pixels,
    )  # fmt: skip


def image_table(samples: Sequence[SampleResult]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return score, label and number of the sample of every present view, each (present views of all samples,)."""
    rows = [
        (score, bool(label), number)
        for number, sample in enumerate(samples)
        for score, label in zip(sample.view_scores, sample.view_labels, strict=True)
        if score is not None
    ]
    scores, labels, owners = ([row[k] for row in rows] for k in range(3))
    return np.array(scores, np.float64), np.array(labels, bool), np.array(owners, np.int64)


def curves_of(samples: Sequence[SampleResult], pixels: PixelScores) -> dict[str, Any]:
    """Return curves over falling thresholds by ``sample``, ``image``, ``pixel`` and ``region``, to be drawn.

    A curve is a list of pairs [false positives, true positives], from none to all: counts of samples and images, shares of
    pixels; for ``region`` the true positives are the mean share of each ground-truth region that is found.
    """
    scores, labels, _ = image_table(samples)
    by_sample = exact_curve(np.array([s.score for s in samples]), np.array([s.label for s in samples], bool))
    plain, weighted = pixels.histogram.curves()
    curves = {"sample": by_sample, "image": exact_curve(scores, labels), "pixel": plain, "region": weighted}
    return {name: _points(curve.thinned(_DRAWN)) for name, curve in curves.items()}


def _points(curve: Curve) -> list[list[float]]:
    return [[float(f"{false:.7g}"), float(f"{true:.7g}")] for false, true in zip(curve.false, curve.true, strict=True)]
