"""Effect of missing views: S-AUROC of a detector for subsets of the views, under both label rules (``label.missing``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.data import check_training, shown_fields, with_views
from mvad.model.evaluation.results import bounds_from_lists, bounds_of, bounds_to_lists, defined
from mvad.model.in_batches import Scorer
from mvad.model.metrics.auroc import auroc
from mvad.model.metrics.intervals import auroc_interval
from mvad.model.runs import RunFolder
from mvad.progress import Progress

MISSING_VIEWS = "missing-views.json"
_DONE = "missing-views.jsonl"
_ALL_UP_TO = 6
_EACH = 20
"""Number of subsets of each size that are evaluated where there are more than ``_ALL_UP_TO`` views, and too many subsets."""

FORMULA = (
    "loss per view: minus the slope of the least-squares line through the means at 0, 1, ... missing views; "
    "by ends: (mean at 0 missing - mean at most missing) / most missing"
)
VISIBLE, FULL, ORACLE = "s_auroc_visible", "s_auroc_full", "oracle_full"
RULES = (VISIBLE, FULL)

BySubset = Mapping[tuple[int, ...], float | None]
"""A figure by subset of views; None where it is not defined."""


@dataclass(frozen=True)
class SubsetFigures:
    """S-AUROC with a subset of the views; None where a class is missing.

    Attributes
    ----------
    views
        Numbers of the views that are present.
    s_auroc_visible
        S-AUROC under the label of the present views.
    s_auroc_full
        S-AUROC under the sample's full label.
    oracle_full
        S-AUROC under the full label of an oracle that returns the label of the present views.
    intervals
        95 % bounds of the first two.
    """

    views: tuple[int, ...]
    s_auroc_visible: float | None
    s_auroc_full: float | None
    oracle_full: float | None
    intervals: Mapping[str, tuple[float, float] | None]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {**self.__dict__, "views": list(self.views), "intervals": bounds_to_lists(self.intervals)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SubsetFigures:
        """Restore an object from what ``to_json`` returned."""
        bounds = bounds_from_lists(value["intervals"])
        return cls(tuple(value["views"]), value[VISIBLE], value[FULL], value[ORACLE], bounds)


@dataclass(frozen=True)
class ByMissing:
    """Means over the subsets with a number of missing views; ``subsets`` is how many there are."""

    missing: int
    subsets: int
    s_auroc_visible: float | None
    s_auroc_full: float | None
    oracle_full: float | None


@dataclass(frozen=True)
class MissingViews:
    """Content of ``missing-views.json``.

    Attributes
    ----------
    run, dataset, category, model, seed, model_sha256, test_shards
        The run, and the hashes of its model and test split.
    subsets, by_missing
        Figures of each subset, and their means by number of missing views.
    loss_per_view
        By label rule, the loss by ``slope`` and by ``ends`` (see ``formula``), in 0..1.
    shares
        Contribution of each view under the full label (``shapley``), or None.
    """

    run: str
    dataset: str
    category: str
    model: str
    seed: int
    model_sha256: str
    test_shards: Mapping[str, str]
    subsets: Sequence[SubsetFigures]
    by_missing: Sequence[ByMissing]
    loss_per_view: Mapping[str, Mapping[str, float]]
    shares: Sequence[float] | None
    formula: str = FORMULA

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        lists = {
            "subsets": [row.to_json() for row in self.subsets],
            "by_missing": [dict(row.__dict__) for row in self.by_missing],
        }
        return {**self.__dict__, **lists}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MissingViews:
        """Restore an object from what ``to_json`` returned."""
        subsets = [SubsetFigures.from_json(row) for row in value["subsets"]]
        return cls(**{**value, "subsets": subsets, "by_missing": [ByMissing(**row) for row in value["by_missing"]]})


def evaluate_missing_views(
    run: Path, shards: Path, weights: WeightsSource, progress: Progress, device: torch.device = torch.device("cpu"),
    out: Path | None = None,
) -> MissingViews:  # fmt: skip
    """Evaluate a run for subsets of its views, and write ``missing-views.json``; continues after an interruption.

    All non-empty subsets for up to 6 views, else at most 20 of each size.

    Parameters
    ----------
    run
        Folder of a finished run.
    shards
        Folder of the workspace's shards.
    weights
        Where the teacher's weights may be found.
    progress
        Receives one step per sample and subset.
    device
        Device on which the detector is loaded.
    out
        Folder to write to instead of the run's.

    Raises
    ------
    BadInput
        If the run is not finished, or was trained on another training split than that of the shards.
    """
    folder = RunFolder(run)
    detector = folder.load(weights, device)
    packed = folder.category_folder(shards)
    check_training(folder, packed)
    data = shown_fields(ShardSet(packed, "test"), detector.spec.modalities)
    views = len(data.views)
    subsets = subsets_of(views, None if views <= _ALL_UP_TO else _EACH)
    made_from = {"model_sha256": folder.model_sha256, "test_shards": data.sha256}
    place = out or run
    with files.locked(place):
        lines = [line for line in files.read_lines(place / _DONE) if line.pop("made_from", None) == made_from]
        done = {row.views: row for row in map(SubsetFigures.from_json, lines)}

        def keep(row: SubsetFigures) -> None:
            files.append_line(place / _DONE, {**row.to_json(), "made_from": made_from})

        rows = evaluate_subsets(
            detector.score, data, subsets, progress, f"missing views of {folder.name}", done, keep, detector.device
        )
        result = summary(rows, views, folder, data.sha256)
        files.write_sealed_json(place / MISSING_VIEWS, result.to_json())
        if (place / _DONE).exists():
            files.remove(place / _DONE)
    return result


def read_missing_views(run: RunFolder, test_shards: Mapping[str, str]) -> MissingViews | None:
    """Return what ``evaluate_missing_views`` wrote for the run's current model on a test split (hashes by file), or None.

    Raises
    ------
    BadInput
        If the file is damaged.
    """
    path, remedy = run.path / MISSING_VIEWS, "run mvad evaluate --missing-views again"
    if not path.exists():
        return None
    value = files.read_sealed_json(path, "missing views", remedy)
    try:
        loaded = MissingViews.from_json(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: does not have the form of missing views; {remedy}") from error
    same = loaded.model_sha256 == run.model_sha256 and loaded.test_shards == test_shards
    return loaded if same else None


def subsets_of(views: int, each: int | None = None) -> list[tuple[int, ...]]:
    """Return the non-empty subsets of views, largest first; at most ``each`` of each size, evenly spread over their list."""
    subsets: list[tuple[int, ...]] = []
    for size in range(views, 0, -1):
        count = comb(views, size)
        if each is None or count <= each:
            subsets += combinations(range(views), size)
        else:
            subsets += (_combination(views, size, round(k * ((count - 1) / max(each - 1, 1)))) for k in range(each))
    return subsets


def _combination(views: int, size: int, number: int) -> tuple[int, ...]:
    """Return the subset of a size that ``itertools.combinations`` yields as its ``number``, without those before it."""
    chosen = list[int]()
    for view in range(views):
        with_view = comb(views - view - 1, size - len(chosen) - 1) if len(chosen) < size else 0
        if number < with_view:
            chosen.append(view)
        else:
            number -= with_view
    return tuple(chosen)


def evaluate_subsets(
    answer: Callable[[Batch], AnomalyMaps], data: ShardSet, subsets: Sequence[tuple[int, ...]], progress: Progress,
    label: str = "missing views", done: Mapping[tuple[int, ...], SubsetFigures] | None = None,
    keep: Callable[[SubsetFigures], None] | None = None,
    device: torch.device = torch.device("cpu"),  # immutable
) -> list[SubsetFigures]:  # fmt: skip
    """Evaluate a split once per subset of views.

    Parameters
    ----------
    answer
        Returns the maps and scores of a batch, of one sample on a processor.
    data, subsets
        The split, and the subsets of its views.
    progress, label
        Receives one step per sample and subset, under this label.
    done
        Figures of subsets that were evaluated before, by their views.
    keep
        Called with the figures of each newly evaluated subset.
    device
        Device on which ``answer`` computes.
    """
    done = done or {}
    progress.start(label, len(subsets) * len(data), sum(views in done for views in subsets) * len(data))
    rows = []
    for views in subsets:
        if views in done:
            rows.append(done[views])
            continue
        row = _subset(Scorer(answer, device), data, views, progress)
        rows.append(row)
        if keep:
            keep(row)
    return rows


def _subset(scorer: Scorer, data: ShardSet, views: tuple[int, ...], progress: Progress) -> SubsetFigures:
    scores, visible, full = [], [], []
    for batch, found in scorer.each(range(len(data)), lambda rows: with_views(data.batch(rows), views)):
        progress.advance()
        if found is None:
            continue
        scores.append(float(found.sample_scores[0]))
        visible.append(bool((batch.view_label & batch.present).any()))
        full.append(bool(batch.label[0]))
    values, seen, labels = np.array(scores), np.array(visible, bool), np.array(full, bool)
    areas = {VISIBLE: auroc_interval(values, seen), FULL: auroc_interval(values, labels)}
    bounds = {name: bounds_of(area) for name, area in areas.items()}
    figures = {name: defined(area.value) for name, area in areas.items()}
    return SubsetFigures(views, figures[VISIBLE], figures[FULL], _defined(seen.astype(float), labels), bounds)


def summary(rows: Sequence[SubsetFigures], views: int, run: RunFolder, test_shards: Mapping[str, str]) -> MissingViews:
    """Return the figures of all subsets with their means by number of missing views, loss per view and share of each view."""
    by_rule: dict[str, BySubset] = {rule: {row.views: getattr(row, rule) for row in rows} for rule in (*RULES, ORACLE)}
    means = {rule: means_by_missing(figures, views) for rule, figures in by_rule.items()}
    by_missing = [
        ByMissing(
            missing, sum(len(row.views) == views - missing for row in rows), *(means[r].get(missing) for r in (*RULES, ORACLE))
        )
        for missing in range(views)
    ]
    loss = {
        rule: {"slope": -loss_per_missing_view(by_rule[rule], views), "ends": loss_by_ends(by_rule[rule], views)}
        for rule in RULES
        if len(means[rule]) > 1
    }
    record = run.record
    return MissingViews(
        run.name, record.dataset, record.category, record.model, record.seed, run.model_sha256, test_shards, rows, by_missing, loss,
        shapley(by_rule[FULL], views),
    )  # fmt: skip


def means_by_missing(figures: BySubset, views: int) -> dict[int, float]:
    """Return the mean of a figure over the subsets with each number of missing views, where it is defined."""
    gathered: dict[int, list[float]] = {}
    for subset, value in figures.items():
        if value is not None:
            gathered.setdefault(views - len(subset), []).append(value)
    return {missing: float(np.mean(gathered[missing])) for missing in sorted(gathered)}


def loss_per_missing_view(figures: BySubset, views: int) -> float:
    """Return the slope of a figure over the number of missing views, in the figure's unit, by least squares on the means.

    It is negative where the figure falls with missing views.
    """
    means = means_by_missing(figures, views)
    return float(np.polyfit(list(means), list(means.values()), 1)[0])


def loss_by_ends(figures: BySubset, views: int) -> float:
    """Return (figure with no view missing - figure with most views missing) / most missing; positive where the figure falls."""
    means = means_by_missing(figures, views)
    first, last = min(means), max(means)
    return (means[first] - means[last]) / (last - first)


def shapley(figures: BySubset, views: int) -> list[float] | None:
    """Return the Shapley value of each view: what it adds to a figure, averaged over all orders of adding views (Shapley 1953).

    The values add up to the figure with all views minus 0.5, the AUROC without any view. None where a subset was not evaluated
    or its figure is not defined.
    """
    value: dict[frozenset[int], float] = {frozenset(): 0.5}
    value |= {frozenset(subset): figure for subset, figure in figures.items() if figure is not None}
    if len(value) < 2**views:
        return None
    shares = []
    for view in range(views):
        gain = 0.0
        for size in range(views):
            others = combinations([k for k in range(views) if k != view], size)
            gain += sum(value[frozenset((*s, view))] - value[frozenset(s)] for s in others) / (views * comb(views - 1, size))
        shares.append(gain)
    return shares


def _defined(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    return defined(auroc(scores, labels))
