"""The figures of merit, one row each: evaluation, scans, comparisons, terminal and report loop over this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput
from mvad.model.metrics.curve import Curve, exact_curve
from mvad.model.metrics.intervals import Interval, auroc_interval
from mvad.model.metrics.pixels import LIMITS, PixelFigures, PixelScores


@dataclass(frozen=True)
class Scores:
    """What a figure of merit is computed from: N samples, I images (their present views), and all pixels.

    Attributes
    ----------
    samples
        (N,) float64, higher is more anomalous.
    labels
        (N,) bool, the sample's full label.
    visible_labels
        (N,) bool, whether a view that was shown has the defect (``label.missing``).
    images, image_labels
        (I,) float64 and bool.
    image_owners
        (I,) int64, the sample of each image.
    pixels
        Figures of all pixels that count.
    histogram
        The pixels themselves.
    """

    samples: NDArray[np.float64]
    labels: NDArray[np.bool_]
    visible_labels: NDArray[np.bool_]
    images: NDArray[np.float64]
    image_labels: NDArray[np.bool_]
    image_owners: NDArray[np.int64]
    pixels: PixelFigures
    histogram: PixelScores


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes
    ----------
    name, title
        The key in ``results.json``, and the name in tables.
    level
        What is counted: samples, images or pixels.
    compute
        Computes the value, in 0..1, NaN where it is not defined; or an ``Interval``, if the figure has a confidence interval.
    digits
        Number of decimals of the percentage in tables.
    terminal, page
        Whether the table in the terminal, and that in the report, have a column for it.
    on_scans
        The key among the figures on the scans' own grid, where each scan is an image; empty if it is not computed there.
    on_scans_title
        The name in the tables of figures on scans.
    """

    name: str
    title: str
    level: Literal["sample", "image", "pixel"]
    compute: Callable[[Scores], Interval | float]
    digits: int = 1
    terminal: bool = False
    page: bool = False
    on_scans: str = ""
    on_scans_title: str = ""


def _sample_curve(scores: Scores) -> Curve:
    return exact_curve(scores.samples, scores.labels)


def _image_curve(scores: Scores) -> Curve:
    return exact_curve(scores.images, scores.image_labels)


def _aupro(limit: float) -> Metric:
    percent = round(100 * limit)
    return Metric(
        f"aupro_{percent:02d}", "AUPRO" if limit == LIMITS[0] else f"AUPRO@{percent}", "pixel", lambda s: s.pixels.aupro[limit],
        terminal=limit == LIMITS[0], page=limit == LIMITS[0], on_scans=f"aupro_{percent:02d}",
        on_scans_title=f"AUPRO@{percent}" if limit in (LIMITS[0], LIMITS[-1]) else "",
    )  # fmt: skip


_METRICS: list[Metric] = [
    Metric(
        "s_auroc", "S-AUROC", "sample", lambda s: auroc_interval(s.samples, s.labels), terminal=True, page=True,
        on_scans="i_auroc", on_scans_title="image AUROC",
    ),
    Metric("s_auroc_visible", "S-AUROC, label of the views shown", "sample", lambda s: auroc_interval(s.samples, s.visible_labels)),
    Metric(
        "image_auroc", "image", "image", lambda s: auroc_interval(s.images, s.image_labels, s.image_owners), terminal=True, page=True,
    ),
    Metric(
        "p_auroc", "P-AUROC", "pixel", lambda s: s.pixels.auroc, terminal=True, page=True, on_scans="p_auroc", on_scans_title="P-AUROC",
    ),
    _aupro(LIMITS[0]),
    Metric("s_ap", "AP", "sample", lambda s: _sample_curve(s).average_precision(), page=True),
    Metric("s_f1_max", "best F1", "sample", lambda s: _sample_curve(s).best_f1()[0], page=True),
    Metric("image_ap", "image AP", "image", lambda s: _image_curve(s).average_precision()),
    Metric("image_f1_max", "image best F1", "image", lambda s: _image_curve(s).best_f1()[0]),
    Metric("p_ap", "pixel AP", "pixel", lambda s: s.pixels.ap, on_scans="p_ap"),
    Metric("p_f1_max", "pixel best F1", "pixel", lambda s: s.pixels.f1_max),
    *(_aupro(limit) for limit in LIMITS[1:]),
]  # fmt: skip


ERROR_BOUNDS = ("p_auroc_error_bound", "p_ap_error_bound", "aupro_error_bound")
"""The bounds of ``PixelFigures`` in ``results.json``."""

RESERVED = ("intervals", "s_auroc_by_defect", "samples", "anomalous", "regions", "pixel_threshold", *ERROR_BOUNDS)
"""Names in ``results.json`` that stand beside the figures of merit, and that none may have."""


def metrics() -> tuple[Metric, ...]:
    """Return every figure of merit, in the order of tables."""
    return tuple(_METRICS)


def register_metric(metric: Metric) -> None:
    """Add a figure of merit: every later evaluation computes it, and it is shown in the tables that its fields select.

    Raises
    ------
    BadInput
        If there is another figure of merit with this name.

    Examples
    --------
    >>> hits = Metric("hits", "hits", "sample", lambda scores: float(scores.labels.mean()))
    >>> register_metric(hits)
    >>> [metric.title for metric in metrics() if metric.name == "hits"]
    ['hits']
    >>> unregister_metric("hits")
    """
    if metric.name in RESERVED or any(known.name == metric.name for known in _METRICS):
        raise BadInput(f"register_metric: there is a metric {metric.name!r} already; choose another name")
    _METRICS.append(metric)


def unregister_metric(name: str) -> None:
    """Take a registered figure of merit out again."""
    _METRICS[:] = [metric for metric in _METRICS if metric.name != name]
