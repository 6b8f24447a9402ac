"""What missing views cost: S-AUROC of a detector for subsets of views, under both label rules (label.missing)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import Detector
from mvad.model.evaluation.evaluate import check_training, defined, interval_of, shown_fields, with_views
from mvad.model.metrics.auroc import auroc
from mvad.model.metrics.intervals import auroc_interval
from mvad.model.runs import load_run, model_sha256
from mvad.progress import Progress

MISSING_VIEWS = "missing-views.json"
_DONE = "missing-views.jsonl"
_ALL_UP_TO = 6
_EACH = 20
"""With more views than six there are too many subsets: so many of each size are evaluated then."""

FORMULA = (
    "loss a view: minus the slope of the least-squares line through the means at 0, 1, ... missing views; "
    "by ends: (mean at 0 missing - mean at most missing) / most missing"
)
RULES = ("s_auroc_visible", "s_auroc_full")


def evaluate_missing_views(run: Path, shards: Path, weights: WeightsSource, progress: Progress) -> dict[str, Any]:
    """Evaluate a run for every subset of its views, and write ``missing-views.json``; continues where it stopped.

    Parameters
    ----------
    run
        A finished run.
    shards
        The workspace's shards.
    weights
        Where the teacher's weights may be.
    progress
        Is told of each sample.

    Returns
    -------
    dict
        ``subsets``, see ``evaluate_subsets``; ``by_missing``, their means by number of missing views; ``loss_per_view`` by slope and
        by ends, under both label rules; ``shares``, what each view contributes (``shapley``), under the full label.

    Raises
    ------
    BadInput
        If the run is not finished, or the shards' training split is not the one it was trained on.
    """
    detector, config, facts = load_run(run, weights)
    folder = shards / facts["dataset"] / facts["category"]
    check_training(run, facts, folder)
    data = shown_fields(ShardSet(folder, "test"), config.input.modalities)
    views = len(data.views)
    subsets = subsets_of(views, None if views <= _ALL_UP_TO else _EACH)
    made_from = {"model_sha256": model_sha256(run), "test_shards": data.sha256}
    with files.locked(run):
        done = {tuple(row["views"]): row for row in files.read_lines(run / _DONE) if row.pop("made_from", None) == made_from}

        def keep(row: Mapping[str, Any]) -> None:
            files.append_line(run / _DONE, {**row, "made_from": made_from})

        rows = evaluate_subsets(detector, data, subsets, progress, f"missing views of {run.name}", done, keep)
        result = {
            "run": run.name, "dataset": facts["dataset"], "category": facts["category"], "model": config.model,
            "seed": config.seed, **made_from, **summary(rows, views),
        }  # fmt: skip
        files.write_sealed_json(run / MISSING_VIEWS, result)
        if (run / _DONE).exists():
            files.remove(run / _DONE)
    return result


def read_missing_views(run: Path) -> dict[str, Any] | None:
    """Return what ``evaluate_missing_views`` wrote of the model that is there now, or None.

    Raises
    ------
    BadInput
        If the file is damaged.
    """
    if not (run / MISSING_VIEWS).exists():
        return None
    found = files.read_sealed_json(run / MISSING_VIEWS, "missing views", "run mvad evaluate --missing-views again")
    return found if found.get("model_sha256") == model_sha256(run) else None


def subsets_of(views: int, each: int | None = None) -> list[tuple[int, ...]]:
    """Return the non-empty subsets of views, largest first; at most ``each`` of a size, spread over their list."""
    found: list[tuple[int, ...]] = []
    for size in range(views, 0, -1):
        every = list(combinations(range(views), size))
        if each is not None and len(every) > each:
            every = [every[int(k)] for k in np.linspace(0, len(every) - 1, each).round()]
        found += every
    return found


def evaluate_subsets(
    detector: Detector, data: ShardSet, subsets: Sequence[tuple[int, ...]], progress: Progress, label: str = "missing views",
    done: Mapping[tuple[int, ...], dict[str, Any]] | None = None, keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Evaluate a split once for each subset of views.

    Parameters
    ----------
    detector, data, subsets, progress, label
        What to evaluate, on what, for which views; whom to tell, under which name.
    done
        Rows that are there already, by their views.
    keep
        Is given each new row.

    Returns
    -------
    list of dict
        For each subset: ``views``; ``s_auroc_visible``, under the label of the views that are left; ``s_auroc_full``,
        under the sample's full label; ``oracle_full``, what somebody reaches there who knows everything about the views
        that are left and nothing else. None where one class is missing. ``intervals`` of the first two.
    """
    done = done or {}
    progress.start(label, len(subsets) * len(data), sum(views in done for views in subsets) * len(data))
    rows = []
    for views in subsets:
        if views in done:
            rows.append(done[views])
            continue
        scores, visible, full = [], [], []
        for index in range(len(data)):
            batch = with_views(data.batch([index]), views)
            progress.advance()
            if not bool(batch.present.any()):
                continue
            scores.append(float(detector.score(batch).sample_scores[0]))
            visible.append(bool((batch.view_label & batch.present).any()))
            full.append(bool(batch.label[0]))
        values, seen, labels = np.array(scores), np.array(visible, bool), np.array(full, bool)
        areas = {"s_auroc_visible": auroc_interval(values, seen), "s_auroc_full": auroc_interval(values, labels)}
        row = {
            "views": list(views),
            **{name: defined(area.value) for name, area in areas.items()},
            "oracle_full": _defined(seen.astype(float), labels),
            "intervals": {name: interval_of(area) for name, area in areas.items()},
        }
        rows.append(row)
        if keep:
            keep(row)
    return rows


def summary(rows: Sequence[Mapping[str, Any]], views: int) -> dict[str, Any]:
    """Return rows with their means by number of missing views, the loss a view, and the share of each view."""
    by_missing = [
        {
            "missing": missing,
            "subsets": sum(len(row["views"]) == views - missing for row in rows),
            **{rule: means_by_missing(rows, rule, views).get(missing) for rule in (*RULES, "oracle_full")},
        }
        for missing in range(views)
    ]
    loss = {
        rule: {"slope": -loss_per_missing_view(rows, rule, views), "ends": loss_by_ends(rows, rule, views)}
        for rule in RULES
        if len(means_by_missing(rows, rule, views)) > 1
    }
    return {
        "subsets": list(rows), "by_missing": by_missing, "loss_per_view": loss, "formula": FORMULA,
        "shares": shapley(rows, "s_auroc_full", views),
    }  # fmt: skip


def means_by_missing(rows: Sequence[Mapping[str, Any]], figure: str, views: int) -> dict[int, float]:
    """Return the mean of a figure over the subsets of each number of missing views, where it is defined."""
    gathered: dict[int, list[float]] = {}
    for row in rows:
        if row[figure] is not None:
            gathered.setdefault(views - len(row["views"]), []).append(row[figure])
    return {missing: float(np.mean(gathered[missing])) for missing in sorted(gathered)}


def loss_per_missing_view(rows: Sequence[Mapping[str, Any]], figure: str, views: int) -> float:
    """Return the slope of a figure over the number of missing views, in its own unit, by least squares over the means.

    Negative where missing views cost something.
    """
    means = means_by_missing(rows, figure, views)
    return float(np.polyfit(list(means), list(means.values()), 1)[0])


def loss_by_ends(rows: Sequence[Mapping[str, Any]], figure: str, views: int) -> float:
    """Return (figure with nothing missing - figure with most missing) / most missing, positive where it costs something."""
    means = means_by_missing(rows, figure, views)
    first, last = min(means), max(means)
    return (means[first] - means[last]) / (last - first)


def shapley(rows: Sequence[Mapping[str, Any]], figure: str, views: int) -> list[float] | None:
    """Return the share of each view in a figure: what it adds to a set of others, averaged over all orders (Shapley 1953).

    The shares add up to the figure with all views less 0.5, which is what no view is worth. None where not every subset was
    evaluated, or one of them is not defined.
    """
    value: dict[frozenset[int], float] = {frozenset(): 0.5}
    for row in rows:
        if row[figure] is not None:
            value[frozenset(row["views"])] = row[figure]
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
