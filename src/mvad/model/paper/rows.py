"""Rows of the paper's tables with our figures added: intervals, differences and the protocol of each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvad.errors import BadInput
from mvad.model.evaluation.compare import mean_of, s_auroc_over, same_samples
from mvad.model.evaluation.missing_views import FORMULA, FULL, VISIBLE, MissingViews
from mvad.model.evaluation.results import SCAN_PROTOCOL, Results
from mvad.model.metrics.bootstrap import verdict
from mvad.model.metrics.intervals import Interval
from mvad.model.paper.tables import MEAN, PROTOCOL, Table, ablation_table, main_table, missing_table, paper_name, paper_protocol


@dataclass(frozen=True)
class Row:
    """Row of a reproduced table; AUROCs in percent.

    Attributes
    ----------
    dataset, category, method
        The paper's names; ``mean of N`` is the mean over N categories that were run, ``mean, paper's N`` the paper's mean.
    source
        Origin of our figure: ``trained``, ``imported`` maps, or ``paper only`` for none.
    ours, deviation, interval, seeds
        Our S-AUROC as mean over seeds, standard deviation over seeds, 95 % interval, number of seeds; None where nothing was run.
    paper, difference, verdict
        The paper's S-AUROC over the same categories, ours minus the paper's, and how our interval compares with it (``verdict``).
    p_auroc, p_interval, paper_p_auroc
        Our P-AUROC, its interval and the paper's, where the table has pixels.
    protocol
        Protocol of our figure; figures under different protocols are not comparable.
    """

    dataset: str
    category: str
    method: str
    protocol: str
    source: str = "paper only"
    ours: float | None = None
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    seeds: int = 0
    paper: float | None = None
    difference: float | None = None
    verdict: str = ""
    p_auroc: float | None = None
    p_interval: tuple[float, float] | None = None
    paper_p_auroc: float | None = None


Found = Mapping[tuple[str, str, str], Sequence[Results]]
"""Evaluated runs by (dataset, category, method), one per seed."""

_ByMethod = Mapping[tuple[str, str], Sequence[Results]]
"""Those of a dataset by (category, the paper's name of the method)."""


def main_rows(table: Table, found: Found, foreign: Found, preset: str) -> list[Row]:
    """Return the rows of Table 1 or 2: all methods of the paper for each category that was run, then means.

    Runs that were trained here, and maps that were imported, have rows and means of their own; so have maps of other inputs, and maps
    on the grid of the scans. What is listed once is averaged: runs of several seeds, and imports that are alike in all of this.

    Parameters
    ----------
    table
        Table 1 or 2.
    found
        Runs that were trained here; the method is our name.
    foreign
        Imported maps; the method is the paper's name.
    preset
        Preset of the runs, for the protocol.
    """
    rows: list[Row] = []
    for dataset in table.datasets:
        paper = main_table(dataset)
        ours = {(category, paper_name(model)): runs for (name, category, model), runs in found.items() if name == dataset}
        sources = [("trained", ours), *(("imported", alike) for alike in _imports(dataset, foreign))]
        categories_run = sorted({category for _, runs in sources for category, _ in runs})
        if not categories_run:
            continue
        methods = list(
            dict.fromkeys([*(method for _, method in paper), *sorted({method for _, runs in sources for _, method in runs})])
        )
        for category in categories_run:
            for method in methods:
                rows += _rows(dataset, method, [category], sources, preset)
        if len(categories_run) > 1:
            for method in methods:
                rows += _rows(dataset, method, categories_run, sources, preset)
        paper_mean = f"mean, paper's {len({category for category, _ in paper} - {MEAN})}"
        for method in methods:
            printed = paper.get((MEAN, method))
            if printed:
                figures: dict[str, Any] = {"paper": printed.s_auroc, "paper_p_auroc": printed.p_auroc}
                rows.append(Row(dataset, paper_mean, method, paper_protocol(method), **figures))
    return rows


def alike_imports(dataset: str, foreign: Found) -> dict[tuple[str, str, str, str], list[Results]]:
    """Return imported maps by (category, method, input, protocol).

    Raises
    ------
    BadInput
        If imports that are alike were evaluated on different samples.
    """
    groups: dict[tuple[str, str, str, str], list[Results]] = {}
    for (name, category, method), imports in foreign.items():
        for result in imports if name == dataset else ():
            groups.setdefault((category, method, result.input_name, result.protocol), []).append(result)
    for group in groups.values():
        for result in group[1:]:
            if not same_samples(result, group[0]):
                raise BadInput(
                    f"{result.run} and {group[0].run}: are maps of {result.model} on {result.category} of different samples; import one of "
                    "them under another --model, or delete it"
                )
    return groups


def _imports(dataset: str, foreign: Found) -> list[_ByMethod]:
    """Return imported maps of a dataset, those of one input and protocol together."""
    found: dict[tuple[str, str], dict[tuple[str, str], Sequence[Results]]] = {}
    for (category, method, *kind), results in sorted(alike_imports(dataset, foreign).items()):
        found.setdefault((kind[0], kind[1]), {})[category, method] = results
    return list(found.values())


def _rows(
    dataset: str, method: str, categories: Sequence[str], sources: Sequence[tuple[str, _ByMethod]], preset: str
) -> list[Row]:  # fmt: skip
    """Return a method's rows over categories, one for each source that has some of them, or one with the paper's figure alone."""
    rows = []
    for source, runs in sources:
        compared = [category for category in categories if (category, method) in runs]
        if compared:
            rows.append(_row(dataset, method, compared, len(categories) > 1, runs, source, preset))
    if rows or not any(name == method for _, name in main_table(dataset)):
        return rows
    return [_row(dataset, method, categories, len(categories) > 1, {}, "", preset)]


def _row(
    dataset: str, method: str, categories: Sequence[str], is_mean: bool, runs: _ByMethod, source: str, preset: str
) -> Row:  # fmt: skip
    """Return the row of a method and a source: our figures and the paper's, over the same categories."""
    name = f"mean of {len(categories)}" if is_mean else categories[0]
    printed = [figure for category in categories if (figure := main_table(dataset).get((category, method)))]
    pixels = [figure.p_auroc for figure in printed if figure.p_auroc is not None]
    paper: dict[str, Any] = {
        "paper": float(np.mean([figure.s_auroc for figure in printed])) if len(printed) == len(categories) else None,
        "paper_p_auroc": float(np.mean(pixels)) if len(pixels) == len(categories) else None,
    }
    groups = [runs[category, method] for category in categories if (category, method) in runs]
    if not groups:
        return Row(dataset, name, method, paper_protocol(method), **paper)
    return _with_verdict(Row(dataset, name, method, protocol_of(groups, preset), source, **_ours(groups), **paper))


def ablation_rows(found: Found, preset: str) -> list[Row]:
    """Return the rows of Table 3: our means over the categories that were run; the paper's are over all 30 of Real-IAD.

    Only a mean over these 30 is compared with the paper's.
    """
    rows = []
    for model, (parts, paper) in ablation_table().items():
        groups = [runs for (_, _, name), runs in found.items() if name == model]
        if not groups:
            rows.append(Row("realiad", "mean, paper's 30", parts, PROTOCOL, paper=paper))
            continue
        datasets = "+".join(sorted({dataset for dataset, _, name in found if name == model}))
        name = f"mean of {len(groups)} (paper's: 30 of Real-IAD)"
        row = Row(datasets, name, parts, protocol_of(groups, preset), "trained", **_ours(groups), paper=paper)
        rows.append(_with_verdict(row) if datasets == "realiad" and len(groups) == _OF_REAL_IAD else row)
    return rows


_OF_REAL_IAD = 30


@dataclass(frozen=True)
class MissingRow:
    """Row of Figure 4; AUROCs in percent, losses in percentage points.

    Attributes
    ----------
    method, missing
        The paper's name, and the number of missing views or ``loss per view``.
    visible, full
        Our figure under the label of the present views and under the full label: means over categories and seeds.
    visible_by_ends, full_by_ends
        Our loss by its ends, under both labels.
    paper, protocol
        The paper's figure, and the protocol of ours.
    """

    method: str
    missing: int | str
    visible: float | None
    full: float | None
    paper: float | None
    protocol: str
    visible_by_ends: float | None = None
    full_by_ends: float | None = None

    @property
    def is_loss(self) -> bool:
        """Whether the row is the loss per view."""
        return self.missing == LOSS


LOSS = "loss per view"
FIGURE_4 = {"idif": "View-wise Dropout", "retrieve": "Retrieve", "reconstruct": "Reconstruction"}
"""Names in Figure 4 by our method."""

Curves = dict[str, list[tuple[int, float]]]
"""Points (number of missing views, S-AUROC in percent) by name of the curve."""


def missing_rows(
    found: Mapping[str, Sequence[tuple[Results, MissingViews]]], preset: str
) -> tuple[list[MissingRow], Curves]:  # fmt: skip
    """Return the rows of Figure 4, and the curves of each method, ours and the paper's.

    Parameters
    ----------
    found
        Evaluated runs by our method.
    preset
        Preset of the runs, for the protocol.
    """
    rows, curves = list[MissingRow](), Curves()
    for model, method in FIGURE_4.items():
        evaluated = found.get(model, ())
        conditions = protocol(evaluated[0][0], preset) if evaluated else PROTOCOL
        rows += _rows_by_missing(method, [lost for _, lost in evaluated], conditions, curves)
        rows.append(_loss_row(method, [lost for _, lost in evaluated], conditions))
    return rows, curves


def _rows_by_missing(method: str, evaluated: Sequence[MissingViews], conditions: str, curves: Curves) -> list[MissingRow]:
    paper, rows = missing_table(), []
    for missing in range(max((len(lost.by_missing) for lost in evaluated), default=5)):
        at = [lost.by_missing[missing] for lost in evaluated if missing < len(lost.by_missing)]
        visible, full = _mean([row.s_auroc_visible for row in at]), _mean([row.s_auroc_full for row in at])
        printed = paper.get((str(missing), method))
        rows.append(MissingRow(method, missing, visible, full, printed, conditions))
        for name, value in ((f"{method}, ours", visible), (f"{method}, paper", printed)):
            if value is not None:
                curves.setdefault(name, []).append((missing, value))
    return rows


def _loss_row(method: str, evaluated: Sequence[MissingViews], conditions: str) -> MissingRow:
    losses = {rule: [lost.loss_per_view[rule] for lost in evaluated if rule in lost.loss_per_view] for rule in (VISIBLE, FULL)}
    slopes, ends = (
        {rule: _mean([loss[kind] for loss in of_rule]) for rule, of_rule in losses.items()} for kind in ("slope", "ends")
    )
    printed = missing_table().get((LOSS, method))
    return MissingRow(method, LOSS, slopes[VISIBLE], slopes[FULL], printed, conditions, ends[VISIBLE], ends[FULL])


def arithmetic() -> str:
    """Return one line that compares the paper's loss per view with what follows from the paper's figures."""
    paper = missing_table()
    full, dropped, last = (
        paper["0", "IDIF without View-wise Dropout"],
        paper["0", "View-wise Dropout"],
        paper["4", "View-wise Dropout"],
    )
    return (
        f"{FORMULA}. The paper prints {paper['loss per view', 'View-wise Dropout']} without a formula; its figures give "
        f"({full} - {last}) / 4 = {(full - last) / 4:.2f} and ({dropped} - {last}) / 4 = {(dropped - last) / 4:.2f}"
    )


def protocol_of(groups: Sequence[Sequence[Results]], preset: str) -> str:
    """Return the protocol of a mean over categories in one line, each with its runs; what differs stands beside each other."""
    conditions = dict.fromkeys(_conditions(runs[0], preset) for runs in groups)
    train = sorted({runs[0].training_samples for runs in groups if runs[0].training_samples is not None})
    test = sorted({runs[0].figures.samples for runs in groups})
    data = [f"{name} {_range(numbers)}" for name, numbers in (("train", train), ("test", test)) if numbers]
    return f"{' | '.join(conditions)}; {', '.join(data)}"


def protocol(result: Results, preset: str) -> str:
    """Return the protocol of a figure in one line: views, input, preset, rule from views to sample, teacher, data."""
    return protocol_of([[result]], preset)


def _conditions(result: Results, preset: str) -> str:
    if result.is_imported:
        place = " on the scan grid" if result.protocol == SCAN_PROTOCOL else f" of {result.input_name} px"
        return f"imported maps{place}"
    views = len(result.samples[0].view_scores) if result.samples else 0
    return f"one model per class; {views} views, {result.input_name} px; preset {preset}; {result.rule}; {result.teacher}"


def _range(numbers: Sequence[int]) -> str:
    """Return the least and the greatest of sorted numbers as text."""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _ours(groups: Sequence[Sequence[Results]]) -> dict[str, Any]:
    """Return our fields of a row: means over categories and seeds, with intervals."""
    area, pixels = s_auroc_over(groups), mean_of(groups, "p_auroc")
    defined = [group for group in groups if group[0].figures["s_auroc"] is not None]
    seeds = min((len(group) for group in defined), default=0)
    by_seed = [float(np.mean([100 * (group[k].figures["s_auroc"] or 0.0) for group in defined])) for k in range(seeds)]
    return {
        "ours": _percent(area), "deviation": float(np.std(by_seed, ddof=1)) if seeds > 1 else None, "interval": _bounds(area),
        "seeds": seeds, "p_auroc": _percent(pixels), "p_interval": _bounds(pixels),
    }  # fmt: skip


def _with_verdict(row: Row) -> Row:
    """Add difference and verdict where both figures exist."""
    if row.ours is None or row.paper is None or row.interval is None:
        return row
    return replace(row, difference=row.ours - row.paper, verdict=verdict(*row.interval, row.paper))


def _percent(area: Interval) -> float | None:
    return None if np.isnan(area.value) else 100 * area.value


def _bounds(area: Interval) -> tuple[float, float] | None:
    return None if np.isnan(area.value) else (100 * area.low, 100 * area.high)


def _mean(shares: Sequence[float | None]) -> float | None:
    percents = [100 * share for share in shares if share is not None]
    return float(np.mean(percents)) if percents else None
