"""Figures to choose a configuration by without labels, on training samples that were not trained on (``train.holdout``).

M1 and M2 are losses of the student (``Detector.held_out_losses``), M3 to M5 figures of the scores, for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from mvad.datasets.scan import NO_POSE
from mvad.datasets.shards.loader import Batch, ShardSet, collate, normal_rows
from mvad.model.detector import Detector
from mvad.model.holdout import Parts, spread
from mvad.model.in_batches import Scorer
from mvad.model.metrics.auroc import auroc_between
from mvad.model.scoring import SAMPLE_RULES, over_views
from mvad.model.synthesis.compact import KINDS, Kind, draw_in_sample
from mvad.progress import Progress

Item = TypeVar("Item")

DRAWS = 4
"""Pseudo anomalies per sample and kind."""

NEAR_DEG = 10.0
"""Poses are near each other where they have the same number and their turns differ by no more than this."""

_MOST_DRAWN_ON = 100
"""Held-out samples with pseudo anomalies, evenly spread: more would hardly change the figure and take as long again."""

_LEAST_CORRELATED = 3
_STREAM = 6


@dataclass(frozen=True)
class LabelFree:
    """Label-free figures of a run; None where a figure does not apply.

    Attributes
    ----------
    samples
        Number of held-out normal samples.
    distillation
        M1: the student's distillation loss per view.
    voxel_rise
        M2: the rise of that loss when the fused voxel is that of another sample, as a share of it.
    held_out_auroc
        M3: AUROC, in 0..1, of held-out normals (positive) against as many that were trained on, by sample score.
    pose_correlation
        M4: Spearman correlation, -1 to 1, of a held-out sample's score and the number of near poses in training.
    pseudo_auroc
        M5: AUROC, in 0..1, of held-out normals with compact pseudo anomalies (positive) against the same without, by the views
        that show them (``all``, ``one``) and the rule from views to sample.
    """

    samples: int
    distillation: float | None = None
    voxel_rise: float | None = None
    held_out_auroc: float | None = None
    pose_correlation: float | None = None
    pseudo_auroc: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self.__dict__, "pseudo_auroc": {kind: dict(rules) for kind, rules in self.pseudo_auroc.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelFree:
        """Restore figures from what ``to_json`` returned."""
        return cls(**value)

    def to_log(self) -> dict[str, float]:
        """Return the figures by their names in the log."""
        names = ("distillation", "voxel_rise", "held_out_auroc", "pose_correlation")
        plain = {name: value for name in names if (value := getattr(self, name)) is not None}
        drawn = {f"pseudo_auroc_{kind}_{rule}": v for kind, rules in self.pseudo_auroc.items() for rule, v in rules.items()}
        return {f"held_out_{name.removeprefix('held_out_')}": value for name, value in (plain | drawn).items()}


@dataclass(frozen=True)
class Column:
    """Column of a table of label-free figures: heading, and what it means in one sentence."""

    heading: str
    meaning: str


COLUMNS = (
    Column("n", "Normal training samples that were not trained on."),
    Column("M1", "Loss of the student per view of a held-out sample; lower is better under one teacher and size."),
    Column(
        "M2",
        "By how much M1 rises when the fused voxel is that of another sample: well above 1 % where the voxel carries the sample.",
    ),
    Column(
        "M3",
        "AUROC of held-out against fitted normals by sample score: 50 is ideal, above it the score also measures how new a sample is.",
    ),
    Column(
        "M4",
        "Rank correlation of the score with the number of fitted samples in a near pose: 0 is ideal, below it rare poses score high.",
    ),
    Column(
        "M5 all",
        "AUROC of held-out normals with small pseudo anomalies, in all views that see the place, against the same without.",
    ),
    Column("M5 one", "The same with the anomaly in one view alone."),
)  # fmt: skip
"""Columns of ``figure_cells``."""


def figure_cells(figures: LabelFree) -> list[str]:
    """Return the figures as text, one cell per column; shares in percent, M5 by rule as max / top2 / mean."""

    def text(value: float | None, scale: float, digits: int, sign: str = "") -> str:
        return "-" if value is None else f"{scale * value:{sign}.{digits}f}"

    by_rule = (figures.pseudo_auroc.get(kind, {}) for kind in KINDS)
    return [
        str(figures.samples), text(figures.distillation, 1, 4), text(figures.voxel_rise, 100, 2, "+"),
        text(figures.held_out_auroc, 100, 1), text(figures.pose_correlation, 1, 2, "+"),
        *(" / ".join(text(rules.get(rule), 100, 1) for rule in SAMPLE_RULES) if rules else "-" for rules in by_rule),
    ]  # fmt: skip


def label_free_figures(detector: Detector, parts: Parts, label: str, progress: Progress) -> LabelFree | None:
    """Return the label-free figures of a fitted detector with its scale; None where nothing is held out.

    Neither the detector nor any random number changes.

    Parameters
    ----------
    detector
        The detector, fitted to ``parts.fitted``.
    parts
        The training split, with any fields.
    label
        Name of the job for ``progress``, which receives one step per scored sample.
    """
    if parts.held_out is None:
        return None
    names = detector.spec.modalities
    held_out = parts.held_out.select([*names, *(["source"] if "source" in parts.held_out.stored else [])])
    fitted = parts.fitted.select(names)
    rows, others = rows_by_key(held_out), rows_by_key(fitted)
    others = [others[position] for position in spread(len(others), len(rows))]
    drawn_on = spread(len(rows), _MOST_DRAWN_ON)
    progress.start(label, len(rows) + len(others) + len(KINDS) * DRAWS * len(drawn_on))
    losses = detector.held_out_losses(held_out)
    views, scores = _scored(detector, rows, held_out.batch, progress)
    _, reference = _scored(detector, others, fitted.batch, progress)
    pseudo = {}
    for kind in KINDS:
        drawn = [(rows[k], draw) for k in drawn_on for draw in range(DRAWS)]
        changed, _ = _scored(detector, drawn, partial(with_anomalies, held_out, kind), progress)
        pseudo[kind] = areas_by_rule(changed, views[drawn_on])
    near = near_poses(held_out, rows, fitted)
    return LabelFree(
        len(rows), losses.get("distillation"), losses.get("voxel_rise"), area(scores, reference),
        None if near is None else correlation(scores[near >= 0], near[near >= 0]),
        {kind: rules for kind, rules in pseudo.items() if rules},
    )  # fmt: skip


def near_poses(held_out: ShardSet, rows: Sequence[int], fitted: ShardSet) -> NDArray[np.int64] | None:
    """Return for held-out samples how many fitted ones took the same pose and turned by ``NEAR_DEG`` or less from them.

    Parameters
    ----------
    held_out, rows
        A split, and the numbers of N of its samples.
    fitted
        The samples that are counted.

    Returns
    -------
    numpy.ndarray or None
        (N,) int64, -1 for a sample whose pose is not known; None for photographs, which have no poses.
    """
    placed = (held_out.pose_numbers, held_out.turns_deg, fitted.pose_numbers, fitted.turns_deg)
    if any(values is None for values in placed):
        return None
    poses, turns, fitted_poses, fitted_turns = (np.asarray(values) for values in placed)
    poses, turns = poses[list(rows)], turns[list(rows)]
    apart = np.abs((turns[:, None] - fitted_turns[None] + 180) % 360 - 180)
    counts = ((apart <= NEAR_DEG) & (poses[:, None] == fitted_poses[None])).sum(axis=1)
    return np.where(poses == NO_POSE, -1, counts).astype(np.int64)


def correlation(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    """Return the rank correlation (Spearman) of scores (N,) and counts (N,).

    None for fewer than three, where all scores or all counts are equal, or where a score is not finite.
    """
    if len(scores) < _LEAST_CORRELATED or not np.isfinite(scores).all() or not np.ptp(scores) or not np.ptp(counts):
        return None
    return float(spearmanr(scores, counts).statistic)


def area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float | None:
    """Return the AUROC of scores, in 0..1; None where one of the two is empty, or a score is not finite."""
    if not len(positive) or not len(negative) or not (np.isfinite(positive).all() and np.isfinite(negative).all()):
        return None
    return auroc_between(positive, negative)


def areas_by_rule(positive: Tensor, negative: Tensor) -> dict[str, float]:
    """Return the AUROC of view scores (P, V) and (N, V) by the rule from views to sample; empty without scores."""
    pairs = {rule: [over_views(views, rule).double().numpy() for views in (positive, negative)] for rule in SAMPLE_RULES}
    areas = {rule: area(*pair) for rule, pair in pairs.items()}
    return {rule: value for rule, value in areas.items() if value is not None}


def rows_by_key(data: ShardSet) -> list[int]:
    """Return the numbers of a split's normal samples, sorted by their keys."""
    return sorted(normal_rows(data), key=lambda row: data.keys[row])


def _scored(
    detector: Detector, items: Sequence[Item], read: Callable[[Sequence[Item]], Batch | None], progress: Progress
) -> tuple[Tensor, NDArray[np.float64]]:  # fmt: skip
    """Return view scores (N, V) float32 and sample scores (N,) of the samples that are read of some items."""
    views, scores = [torch.zeros(0, detector.spec.views)], []
    for _, found in Scorer(detector.score, detector.device).each(items, read):
        assert found is not None, "the samples have views"
        views.append(found.view_scores)
        scores.append(float(found.sample_scores[0]))
        progress.advance()
    return torch.cat(views), np.array(scores, float)


def with_anomalies(data: ShardSet, kind: Kind, drawn: Sequence[tuple[int, int]]) -> Batch | None:
    """Return samples with compact pseudo anomalies, for pairs of row and draw; without those that show none.

    They are the same whatever the run's seed, so that runs compare on the same ones.
    """
    found = [draw_in_sample(data.batch([row]), data, row, kind, [_STREAM, draw]) for row, draw in drawn]
    shown = [changed for changed, shows in found if bool(shows.any())]
    return collate(shown) if shown else None
