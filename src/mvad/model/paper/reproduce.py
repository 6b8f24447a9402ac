"""The paper's tables with our figures beside them: what is not trained yet is trained, what is evaluated is reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.evaluation.compare import Results, mean_of, s_auroc_over
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import FORMULA, evaluate_missing_views, read_missing_views
from mvad.model.metrics.bootstrap import verdict
from mvad.model.metrics.intervals import Interval
from mvad.model.paper.tables import (
    MEAN,
    PROTOCOL,
    SOURCE,
    ablation_table,
    main_table,
    missing_table,
    paper_name,
    paper_protocol,
)
from mvad.model.recipe import Recipe
from mvad.model.runs import RESULTS, input_name
from mvad.progress import Progress

_FULL_VIEWS: Mapping[str, Any] = {"dropout.p": 0.0}
"""Tables 1 to 3 are without View-wise Dropout: the paper has 97.0 without and 96.4 with it."""

_FIGURE_4 = {"idif": "View-wise Dropout", "retrieve": "Retrieve", "reconstruct": "Reconstruction"}


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes
    ----------
    name, title
        What it is called here and there.
    datasets
        What it is about.
    models
        Our methods in it, in its order.
    keys
        What the table's protocol sets.
    by_category
        Whether the paper prints figures of single categories.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    keys: Mapping[str, Any]
    by_category: bool = False


TABLES = {
    table.name: table
    for table in (
        Table(
            "table1", "Table 1: Real-IAD", ("realiad",), ("padim", "patchcore", "rd", "uniad", "destseg", "simplenet", "idif"),
            _FULL_VIEWS, True,
        ),
        Table("table2", "Table 2: MVTec 3D-AD and Eyecandies", ("mvtec3d", "eyecandies"), ("patchcore", "idif"), _FULL_VIEWS, True),
        Table("table3", "Table 3: ablation on Real-IAD", ("realiad",), ("destseg", "conv3d", "ivc", "idif"), _FULL_VIEWS),
        Table("missing-views", "Figure 4: missing views (the paper's: Real-IAD)", ("realiad",), tuple(_FIGURE_4), {}),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of a reproduced table; AUROCs in percent.

    Attributes
    ----------
    dataset, category, method
        The paper's names; the category ``mean of N`` is over those that were run, ``mean, paper's`` the paper's own.
    source
        ``trained`` here, ``imported`` maps, or ``paper only``.
    ours, deviation, interval, seeds
        Mean over seeds, its standard deviation, 95 %, and how many; None where nothing was run.
    paper, difference, verdict
        The paper's figure over the same categories, ours less it, and where our interval lies against it.
    p_auroc, p_interval, paper_p_auroc
        The same for pixels, where the table has them.
    protocol
        What ours was made with: figures under different protocols do not compare.
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


@dataclass(frozen=True)
class Plan:
    """One run that a table needs."""

    folder: Path
    model: str
    seed: int

    @property
    def dataset(self) -> str:
        """Of the packed category."""
        return self.folder.parent.name


def plan(table: Table, folders: Sequence[Path], models: Sequence[str] | None, seeds: Sequence[int]) -> list[Plan]:
    """Return the runs of a table, whole seeds first.

    Parameters
    ----------
    table
        Which.
    folders
        Packed categories; those of other datasets count only where they were named (Table 3 on another dataset).
    models
        Some of the table's methods; None: all.
    seeds
        Of the runs.

    Raises
    ------
    BadInput
        If a method is not in the table, or a dataset is not in one that has a row a category.
    """
    others = sorted({folder.parent.name for folder in folders} - set(table.datasets))
    if others and table.by_category:
        raise BadInput(
            f"--dataset {others[0]}: {table.title} has {' and '.join(table.datasets)}; table3 and missing-views run on any"
        )
    unknown = [model for model in models or () if model not in table.models]
    if unknown:
        raise BadInput(f"--model {unknown[0]}: {table.title} has {', '.join(table.models)}")
    chosen = [model for model in table.models if not models or model in models]
    return [Plan(folder, model, seed) for seed in seeds for folder in folders for model in chosen]


def reproduce(
    table: Table, plans: Sequence[Plan], runs: Path, shards: Path, recipe: Recipe, progress: Progress
) -> dict[tuple[str, str, str], list[tuple[Path, Results]]]:
    """Train and evaluate what is not there yet; returns each method's runs by (dataset, category, model). Can be repeated.

    Raises
    ------
    BadInput, MissingComponent
        As training and evaluation.
    """
    found: dict[tuple[str, str, str], list[tuple[Path, Results]]] = {}
    suffix = "" if table.keys else "-dropped"
    for number, each in enumerate(plans):
        data = ShardSet(each.folder, "train")
        name = f"paper-{data.dataset}-{data.category}-{each.model}{suffix}-seed{each.seed}"
        progress.say(f"{table.name}, run {number + 1} of {len(plans)}: {name}")
        run, _ = recipe.fit(runs, data, each.model, each.seed, progress, name, table.keys)
        results = _evaluated(run, each.folder) or evaluate_run(run, shards, recipe.weights, progress)
        if table.name == "missing-views" and read_missing_views(run) is None:
            evaluate_missing_views(run, shards, recipe.weights, progress)
        found.setdefault((data.dataset, data.category, each.model), []).append((run, results))
    return found


def imported(runs: Path, table: Table) -> dict[tuple[str, str, str], list[tuple[Path, Results]]]:
    """Return evaluated maps of other tools that belong to a table's methods, by (dataset, category, method as the paper writes)."""
    found: dict[tuple[str, str, str], list[tuple[Path, Results]]] = {}
    if not table.by_category:
        return found
    names = {method.lower(): method for dataset in table.datasets for _, method in main_table(dataset)}
    for path in sorted(runs.glob(f"*/{RESULTS}")):
        results = files.read_sealed_json(path, "results", "evaluate again")
        method = names.get(results["model"].lower())
        if results["teacher"]["name"] == "not ours" and results["dataset"] in table.datasets and method:
            found.setdefault((results["dataset"], results["category"], method), []).append((path.parent, results))
    return found


def _evaluated(run: Path, folder: Path) -> Results | None:
    """Return a run's results if they are of the shards that are there."""
    if not (run / RESULTS).exists():
        return None
    results = files.read_sealed_json(run / RESULTS, "results", "evaluate again")
    same = results["test_shards"] == ShardSet(folder, "test").sha256 and "intervals" in results["figures"]
    return results if same else None


Runs = Sequence[tuple[Path, Results]]
"""Evaluated runs of one method on one category, by seed."""


def main_rows(
    table: Table, found: Mapping[tuple[str, str, str], Runs], foreign: Mapping[tuple[str, str, str], Runs], preset: str
) -> list[Row]:
    """Return the rows of Table 1 or 2: every category that was run with every method of the paper's, then means."""
    rows: list[Row] = []
    for dataset in table.datasets:
        paper = main_table(dataset)
        methods = list(dict.fromkeys(method for _, method in paper))
        theirs = {(category, method): runs for (name, category, method), runs in foreign.items() if name == dataset}
        ours = {(category, paper_name(model)): runs for (name, category, model), runs in found.items() if name == dataset}
        sources = dict.fromkeys(theirs, "imported") | dict.fromkeys(ours, "trained")
        runs = theirs | ours
        run_there = sorted({category for category, _ in runs})
        if not run_there:
            continue
        for category in run_there:
            rows += [_row(dataset, category, method, [category], runs, sources, preset) for method in methods]
        if len(run_there) > 1:
            for method in methods:
                compared = [category for category in run_there if (category, method) in runs] or run_there
                rows.append(_row(dataset, f"mean of {len(compared)}", method, compared, runs, sources, preset))
        whole = f"mean, paper's {len({category for category, _ in paper} - {MEAN})}"
        for method in methods:
            printed = paper.get((MEAN, method))
            if printed:
                figures: dict[str, Any] = {"paper": printed.s_auroc, "paper_p_auroc": printed.p_auroc}
                rows.append(Row(dataset, whole, method, paper_protocol(method), **figures))
    return rows


def _row(
    dataset: str, name: str, method: str, categories: Sequence[str], runs: Mapping[tuple[str, str], Runs],
    sources: Mapping[tuple[str, str], str], preset: str,
) -> Row:  # fmt: skip
    """Return a method's figures over some categories, the paper's over the same ones."""
    printed = [found for category in categories if (found := main_table(dataset).get((category, method)))]
    pixels = [found.p_auroc for found in printed if found.p_auroc is not None]
    paper: dict[str, Any] = {
        "paper": float(np.mean([found.s_auroc for found in printed])) if len(printed) == len(categories) else None,
        "paper_p_auroc": float(np.mean(pixels)) if len(pixels) == len(categories) else None,
    }
    groups = [[result for _, result in runs[category, method]] for category in categories if (category, method) in runs]
    if not groups:
        return Row(dataset, name, method, paper_protocol(method), **paper)
    source = sources[next(category for category in categories if (category, method) in runs), method]
    return _with_verdict(Row(dataset, name, method, protocol(groups[0][0], preset), source, **_ours(groups), **paper))


def ablation_rows(found: Mapping[tuple[str, str, str], Runs], preset: str) -> list[Row]:
    """Return the rows of Table 3: means over the categories that were run; the paper's is over all 30 of Real-IAD."""
    rows = []
    for model, (parts, paper) in ablation_table().items():
        groups = [[r for _, r in runs] for (_, _, name), runs in found.items() if name == model]
        if not groups:
            rows.append(Row("realiad", "mean, paper's 30", parts, PROTOCOL, paper=paper))
            continue
        datasets = "+".join(sorted({dataset for dataset, _, name in found if name == model}))
        name = f"mean of {len(groups)} (paper's: 30 of Real-IAD)"
        rows.append(
            _with_verdict(Row(datasets, name, parts, protocol(groups[0][0], preset), "trained", **_ours(groups), paper=paper))
        )
    return rows


def missing_rows(
    found: Mapping[tuple[str, str, str], Sequence[tuple[Path, Results]]], preset: str
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[int, float]]]]:
    """Return the rows of Figure 4, and for each method its curve (views missing, S-AUROC in percent), ours and the paper's.

    A row: ``method``, ``missing`` (a number, or ``loss per view``), ``visible`` and ``full``: ours under the label of the views left and
    under the full label, means over categories and seeds; ``ends``: the loss by its ends (both rules); ``paper``; ``protocol``.
    """
    paper, rows, curves = missing_table(), list[dict[str, Any]](), dict[str, list[tuple[int, float]]]()
    for model, method in _FIGURE_4.items():
        evaluated = [
            (lost, results)
            for (_, _, name), runs in found.items()
            if name == model
            for run, results in runs
            if (lost := read_missing_views(run)) is not None
        ]
        told = protocol(evaluated[0][1], preset) if evaluated else PROTOCOL
        counts = range(max((len(lost["by_missing"]) for lost, _ in evaluated), default=5))
        for missing in counts:
            at = [lost["by_missing"][missing] for lost, _ in evaluated if missing < len(lost["by_missing"])]
            values = {rule: _mean([entry[f"s_auroc_{rule}"] for entry in at]) for rule in ("visible", "full")}
            rows.append(
                {"method": method, "missing": missing, **values, "paper": paper.get((str(missing), method)), "protocol": told}
            )
            if values["visible"] is not None:
                curves.setdefault(f"{method}, ours", []).append((missing, values["visible"]))
            if (str(missing), method) in paper:
                curves.setdefault(f"{method}, paper", []).append((missing, paper[str(missing), method]))
        slopes: dict[str, float | None] = {}
        for rule in ("visible", "full"):
            losses = [lost["loss_per_view"].get(f"s_auroc_{rule}") for lost, _ in evaluated]
            slopes[rule] = _mean([loss["slope"] for loss in losses if loss])
            slopes[f"{rule}_by_ends"] = _mean([loss["ends"] for loss in losses if loss])
        rows.append(
            {
                "method": method,
                "missing": "loss per view",
                **slopes,
                "paper": paper.get(("loss per view", method)),
                "protocol": told,
            }
        )
    return rows, curves


def arithmetic() -> str:
    """Return how the paper's own loss a view follows, or does not, from its figures."""
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


def notes(table: Table, plans: Sequence[Plan]) -> list[str]:
    """Return what a reader must know: which categories were run, which data were missing, where the paper's figures are from."""
    lines = [f"paper: {SOURCE}", f"protocol of the paper's figures: {PROTOCOL}"]
    for dataset in table.datasets:
        there = {each.folder.name for each in plans if each.dataset == dataset}
        known = [category for category in dict.fromkeys(c for c, _ in main_table(dataset)) if category != MEAN]
        lacking = [category for category in known if category not in there]
        lines.append(
            f"{dataset}: run on {', '.join(sorted(there)) or 'nothing'}; not packed or not asked for: {', '.join(lacking) or 'none'}"
        )
    others = sorted({f"{each.dataset}/{each.folder.name}" for each in plans if each.dataset not in table.datasets})
    if others:
        lines.append(f"beyond the paper's data: {', '.join(others)}")
    lines.append("figures under different protocols (teacher, size, data, preset) do not compare")
    return lines


def protocol(result: Results, preset: str) -> str:
    """Return in one line what a figure was made with."""
    if result["teacher"]["name"] == "not ours":
        return (
            f"imported maps{' on the scan grid' if result.get('protocol') == 'scan' else ''}; test {result['figures']['samples']}"
        )
    size = input_name(result["config"])
    data = f"train {result['training_samples']}, test {result['figures']['samples']}"
    views = len(result["samples"][0]["view_scores"]) if result["samples"] else 0
    return f"one model a class; {views} views, {size} px; preset {preset}; {result['teacher']['name']}; {data}"


def _ours(groups: Sequence[Sequence[Results]]) -> dict[str, Any]:
    """Return our columns of a row: means over categories and seeds, with intervals."""
    area, pixels = s_auroc_over(groups), mean_of(groups, "p_auroc")
    defined = [group for group in groups if group[0]["figures"]["s_auroc"] is not None]
    seeds = min((len(group) for group in defined), default=0)
    by_seed = [float(np.mean([100 * group[k]["figures"]["s_auroc"] for group in defined])) for k in range(seeds)]
    return {
        "ours": _percent(area), "deviation": float(np.std(by_seed, ddof=1)) if seeds > 1 else None, "interval": _bounds(area),
        "seeds": seeds, "p_auroc": _percent(pixels), "p_interval": _bounds(pixels),
    }  # fmt: skip


def _with_verdict(row: Row) -> Row:
    """Add difference and verdict where both sides have a figure."""
    if row.ours is None or row.paper is None or row.interval is None:
        return row
    return replace(row, difference=row.ours - row.paper, verdict=verdict(*row.interval, row.paper))


def _percent(area: Interval) -> float | None:
    return None if np.isnan(area.value) else 100 * area.value


def _bounds(area: Interval) -> tuple[float, float] | None:
    return None if np.isnan(area.value) else (100 * area.low, 100 * area.high)


def _mean(shares: Sequence[float | None]) -> float | None:
    there = [100 * share for share in shares if share is not None]
    return float(np.mean(there)) if there else None
