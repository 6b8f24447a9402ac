"""Reproduction of the paper's tables: runs are trained and evaluated where they are missing, and reused otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.reader import held_out_share, read_manifest
from mvad.datasets.shards.schema import MANIFEST
from mvad.errors import BadInput
from mvad.failures import Failures
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import MissingViews, evaluate_missing_views
from mvad.model.evaluation.results import RESULTS, Results
from mvad.model.paper.rows import Found, Row, ablation_rows, alike_imports, main_rows
from mvad.model.paper.tables import BTF, MEAN, PROTOCOL, SOURCE, Table, main_table, paper_name
from mvad.model.runs import RunFolder
from mvad.pipeline.evaluation import evaluated_before, missing_views_before
from mvad.pipeline.training import Recipe
from mvad.progress import Progress
from mvad.words import no_such


@dataclass(frozen=True)
class Plan:
    """One run that a table needs."""

    folder: Path
    model: str
    seed: int

    @property
    def dataset(self) -> str:
        """Dataset of the packed category."""
        return self.folder.parent.name


def plan(table: Table, folders: Sequence[Path], models: Sequence[str] | None, seeds: Sequence[int]) -> list[Plan]:
    """Return the runs of a table, ordered by seed, category and method.

    Parameters
    ----------
    table
        The table.
    folders
        Packed categories; those of other datasets than the table's are accepted by tables without rows per category.
    models
        Methods of the table to be run; None: all.
    seeds
        Seeds of the runs.

    Raises
    ------
    BadInput
        If a method is not in the table, or a dataset is not in a table that has one row per category.
    """
    others = sorted({folder.parent.name for folder in folders} - set(table.datasets))
    if others and table.by_category:
        raise BadInput(
            f"--dataset {others[0]}: {table.title} has {' and '.join(table.datasets)}; table3 and missing-views run on any"
        )
    unknown = [model for model in models or () if model not in table.models]
    if unknown:
        raise no_such("--model", unknown[0], table.models, f"they are those of {table.title}")
    chosen = [model for model in table.models if not models or model in models]
    return [Plan(folder, model, seed) for seed in seeds for folder in folders for model in chosen]


@dataclass(frozen=True)
class Reproduced:
    """Evaluated runs of a table by (dataset, category, method), and results on missing views by method."""

    results: Found
    missing: dict[str, list[tuple[Results, MissingViews]]]
    failures: Failures
    failed: list[Plan]


def reproduce(table: Table, plans: Sequence[Plan], runs: Path, shards: Path, recipe: Recipe, progress: Progress) -> Reproduced:
    """Train and evaluate the runs that are missing; can be repeated to continue. A run that fails does not end the others.

    Raises
    ------
    BadInput, MissingComponent
        See ``Recipe.fit`` and ``evaluate_run``; where the error would come again for every run.
    """
    evaluated: dict[tuple[str, str, str], list[Results]] = {}
    missing: dict[str, list[tuple[Results, MissingViews]]] = {}
    suffix = "-dropped" if table.name == "missing-views" else ""
    for model in {planned.model: 0 for planned in plans}:
        recipe.configured(model, 0, table.keys)  # what is wrong with the keys is wrong for every run
    failures, failed = Failures(len(plans), progress.say, groups=len({planned.folder for planned in plans})), list[Plan]()
    for number, planned in enumerate(plans):
        name = f"paper-{planned.dataset}-{planned.folder.name}-{planned.model}{suffix}-seed{planned.seed}"
        progress.say(f"{table.name}, run {number + 1} of {len(plans)}: {name}")
        with failures.of(name, str(planned.folder)):
            data = ShardSet(planned.folder, "train")
            run, _ = recipe.fit(runs, data, planned.model, planned.seed, progress, name, table.keys)
            results = evaluated_before(RunFolder(run), planned.folder)
            if results is None:
                results = evaluate_run(run, shards, recipe.weights, progress, device=recipe.device)
            if table.name == "missing-views":
                lost = missing_views_before(RunFolder(run), results)
                if lost is None:
                    lost = evaluate_missing_views(run, shards, recipe.weights, progress, recipe.device)
                missing.setdefault(planned.model, []).append((results, lost))
            evaluated.setdefault((data.dataset, data.category, planned.model), []).append(results)
            continue
        failed.append(planned)
    return Reproduced(evaluated, missing, failures, failed)


def rows_of(table: Table, found: Found, foreign: Found, preset: str) -> list[Row]:
    """Return the rows of Table 1, 2 or 3; see ``main_rows`` and ``ablation_rows``."""
    return ablation_rows(found, preset) if table.name == "table3" else main_rows(table, found, foreign, preset)


def imported(
    runs: Path, table: Table, datasets: Sequence[str] | None = None, models: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
) -> Found:  # fmt: skip
    """Return the results of imported maps of a table's methods by (dataset, category, the paper's name of the method).

    Parameters
    ----------
    runs
        Folder of the runs, imported ones among them.
    table
        The table.
    datasets, models, categories
        Which of them, methods by our names; None: all of the table.

    Raises
    ------
    BadInput
        If imports that would be averaged are of different samples.
    """
    by_method: dict[tuple[str, str, str], list[Results]] = {}
    if not table.by_category:
        return by_method
    names = {method.lower(): method for dataset in table.datasets for _, method in main_table(dataset)}
    names |= {paper_name(model).lower(): paper_name(model) for model in table.models} | {"btf": BTF}
    for path in sorted(runs.glob(f"*/{RESULTS}")):
        results = Results.read(path)
        method = names.get(results.model.lower())
        if method is None or not results.is_imported or results.dataset not in (datasets or table.datasets):
            continue
        if (not models or method in map(paper_name, models)) and (not categories or results.category in categories):
            by_method.setdefault((results.dataset, results.category, method), []).append(results)
    for dataset in table.datasets:
        alike_imports(dataset, by_method)
    return by_method


def notes(table: Table, plans: Sequence[Plan], failed: Sequence[Plan] = ()) -> list[str]:
    """Return remarks below a table: source of the paper's figures, categories that were run, categories that were not, runs that failed."""
    finished = [planned for planned in plans if planned not in failed]
    lines = [f"paper: {SOURCE}", f"protocol of the paper's figures: {PROTOCOL}"]
    for dataset in table.datasets:
        run_here, asked = ({one.folder.name for one in group if one.dataset == dataset} for group in (finished, plans))
        known = [category for category in dict.fromkeys(c for c, _ in main_table(dataset)) if category != MEAN]
        not_run = [category for category in known if category not in asked]
        lines.append(
            f"{dataset}: run on {', '.join(sorted(run_here)) or 'nothing'}; not packed or not requested: {', '.join(not_run) or 'none'}"
        )
    others = sorted({f"{planned.dataset}/{planned.folder.name}" for planned in plans if planned.dataset not in table.datasets})
    if others:
        lines.append(f"beyond the paper's data: {', '.join(others)}")
    packed = (planned.folder for planned in plans if (planned.folder / MANIFEST).exists())
    for folder in dict.fromkeys(packed):
        share = held_out_share(read_manifest(folder)["config"])
        if share:
            lines.append(
                f"{folder.parent.name}/{folder.name}: {100 * share:g} % of the training samples are held out for validation, the paper trains "
                f"on all; mvad pack --dataset {folder.parent.name} --validation 0 --overwrite keeps to its protocol"
            )
    if failed:
        names = ", ".join(f"{one.dataset}/{one.folder.name} {one.model} seed {one.seed}" for one in failed)
        lines.append(f"failed, and not in the table: {names}")
    lines.append("figures under different protocols (teacher, size, data, preset) are not comparable")
    return lines
