"""S-AUROC of IDIF, its ablations and baselines on real and generated categories; resumable, seed by seed.

    MVAD_REAL_DATA=... python benchmarks/accuracy.py [--workspace W] [--seeds 0,1,2] [--jobs N] [--only TEXT] [--report]

Missing renders and shards are made first, of all scans in ``MVAD_REAL_DATA`` and ``MVAD_REAL_DATA/more``; each run without results
is trained (or continued) and evaluated; then ``results/accuracy.json`` is written from all evaluated runs. Before the first
evaluation the file lists the hash of every run's configuration, and a run whose configuration has another is not evaluated: what
is compared is decided before a test label is looked at. The scores of each evaluated run are kept in ``results/accuracy_runs``,
and runs that are there are not trained again, so that the benchmark goes on in another workspace or on another machine; rows whose
runs are not there stay as they were. ``--jobs`` runs are trained at the same time, one thread each,
seed after seed, so that an interrupted benchmark has complete seeds. ``--report`` only writes the file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_records import EFFECTS, MISSING, RECORDS, Evaluated, with_earlier
from scans import with_more

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.config import CHECKPOINT_KEYS, EARLIER
from mvad.model.devices import resolve_device
from mvad.model.evaluation.compare import difference
from mvad.model.evaluation.missing_views import (
    FULL,
    ORACLE,
    VISIBLE,
    SubsetFigures,
    evaluate_subsets,
    loss_per_missing_view,
    subsets_of,
)
from mvad.model.evaluation.results import Results
from mvad.model.idif.detector import Idif
from mvad.model.idif.effects import module_effects, rises
from mvad.model.metrics.auroc import auroc
from mvad.model.paper.tables import paper_s_auroc
from mvad.model.registry import backbone_label, configure
from mvad.model.runs import RunFolder, config_hash
from mvad.model.scoring import SAMPLE_RULES, over_views
from mvad.progress import Silent
from mvad.settings import flatten

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
GENERATED = ["--train", "40", "--validation", "12", "--good", "30", "--per-defect", "6", "--size", "224", "--seed", "1"]
FULL_VIEWS = {"dropout.p": 0.0}
"""Table 3 is without View-wise Dropout: the paper has 97.0 without and 96.4 with it on full samples."""


@dataclass(frozen=True)
class Category:
    """A category on which methods are compared, with the same input for every method.

    ``size`` is smaller where the generated scans' objects are some 104 pixels wide, so that larger views would show the same, and where
    two modalities would take two hours a run on one core.
    ``holdout`` is the share of training samples that methods which train in steps hold out for the scale of their scores, where the
    validation split has too few: they would be trained three times else. Methods of one pass are fitted to all, and to folds.
    """

    dataset: str
    name: str
    modalities: str
    generated: bool = False
    size: int | None = None
    holdout: float = 0.0


CATEGORIES = (
    Category("mvtec3d", "cable_gland", "rgb"),
    Category("eyecandies", "CandyCane", "rgb+normal", size=128, holdout=0.2),
    Category("mvtec3d", "gear", "rgb", generated=True, size=128),
)
STUDENTS = ("idif", "destseg", "ivc", "conv3d")
BASELINES = ("patchcore", "padim", "mean_feature")
FILLED = ("idif-dropout", "retrieve", "reconstruct")
"""Figure 4, on generated data: IDIF trained with View-wise Dropout, and two methods that fill missing views."""


@dataclass(frozen=True)
class Run:
    """One training."""

    category: Category
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.category.name}-{self.category.modalities}-{self.method}-seed{self.seed}"

    @property
    def record(self) -> Path:
        """Where its scores are kept."""
        return RECORDS / f"{self.name}.json"

    @property
    def model(self) -> str:
        """Its ``--model``."""
        return self.method.removesuffix("-dropout")

    @property
    def keys(self) -> Mapping[str, Any]:
        """What it changes in preset ``small``; PaDiM and PatchCore have only the size of views."""
        keys: dict[str, Any] = {} if self.category.size is None else {"input.size": self.category.size}
        if self.method in BASELINES:
            return keys
        if self.category.holdout:
            keys["train.holdout"] = self.category.holdout
        return keys if self.method == "idif-dropout" else {**FULL_VIEWS, **keys}

    @property
    def train_command(self) -> list[str]:
        keys = [word for name, value in self.keys.items() for word in ("--set", f"{name}={value}")]
        return [
            "train", "--preset", "small", "--dataset", self.category.dataset, "--category", self.category.name, "--modalities",
            self.category.modalities.replace("+", ","), "--model", self.model, "--seed", str(self.seed), "--name", self.name, "--set",
            "train.threads=1", *keys,
        ]  # fmt: skip

    @property
    def planned(self) -> str:
        """Hash of its configuration, but for what is found on the machine: teacher and textures."""
        layers = [
            ("seed", {"seed": self.seed, "input.modalities": tuple(self.category.modalities.split("+"))}),
            ("keys", self.keys),
        ]
        return hash_of(flatten(configure("small", self.model, layers)[0]))


def hash_of(config: Mapping[str, Any]) -> str:
    """Return the hash of a configuration without what is found on the machine or changes no result, or what runs did before it was a key."""
    without = {"teacher", "pseudo.textures", "train.threads", "train.graphs", *CHECKPOINT_KEYS}
    without |= {name for name, value in EARLIER.items() if config.get(name) == value}
    return config_hash({name: value for name, value in config.items() if name not in without})


def runs(seeds: list[int], real: bool) -> list[Run]:
    """Return all runs, seed after seed."""
    listed = []
    for seed in seeds:
        for category in CATEGORIES:
            if category.generated or real:
                methods = (*BASELINES, *STUDENTS, *(FILLED if category.generated else ("idif-dropout",)))
                listed += [Run(category, method, seed) for method in methods]
    return listed


def prepare(workspace: Path, real: Path | None) -> None:
    """Render and pack the categories that are not packed yet."""
    for category in CATEGORIES:
        if (workspace / "shards" / category.dataset / category.name / "manifest.json").exists():
            continue
        scans = (
            with_more(real, workspace / "raw-links", category.dataset, category.name) if real and not category.generated else None
        )
        raw = ["--raw", str(scans)] if scans else []
        if category.generated:
            mvad(workspace, ["synth", category.dataset, "--category", category.name, *GENERATED])
        elif not real:
            continue
        mvad(workspace, ["render", category.dataset, "--views", "5", "--category", category.name, *raw])
        mvad(workspace, ["pack", "--dataset", category.dataset, "--category", category.name])


def mvad(workspace: Path, arguments: list[str]) -> None:
    environment = os.environ | {"MVAD_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mvad.cli", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mvad {' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def train_and_evaluate(workspace: Path, run: Run, planned: str) -> None:
    if run.planned != planned:
        raise RuntimeError(f"its configuration is {run.planned} by today's presets, the plan has {planned}; plan it anew")
    print(f"{run.name}: started", flush=True)
    mvad(workspace, run.train_command)
    trained = hash_of(RunFolder(workspace / "runs" / run.name).record.config)
    if trained != planned:
        raise RuntimeError(f"its configuration has hash {trained}, the plan {planned}; delete the run, or {RESULTS.name}")
    mvad(workspace, ["evaluate", str(workspace / "runs" / run.name)])
    evaluate_network(workspace, run)
    Evaluated.of_run(workspace / "runs" / run.name).keep(run.record)
    print(f"{run.name}: finished", flush=True)


def evaluate_network(workspace: Path, run: Run) -> None:
    """Write what only a loaded detector can tell: figures with missing views (Figure 4), and the effect of each module."""
    if run.method not in (*FILLED, "idif") or (run.method == "idif-dropout" and not run.category.generated):
        return
    folder = RunFolder(workspace / "runs" / run.name)
    detector = folder.load(WeightsSource(None, workspace / "weights", offline=True), resolve_device())
    data = ShardSet(folder.category_folder(workspace / "shards"), "test", fields=detector.spec.modalities, threads=1)
    if run.method in FILLED:
        rows = evaluate_subsets(detector.score, data, subsets_of(len(data.views)), Silent())
        files.write_json(folder.path / MISSING, [row.to_json() for row in rows])
    else:
        assert isinstance(detector, Idif)
        files.write_json(folder.path / EFFECTS, module_effects(detector, data, Silent()))


def kept(run: Run, plan: Mapping[str, str]) -> Evaluated | None:
    """Return the record of a run that was trained as planned, if there is one."""
    if not run.record.exists():
        return None
    found = Evaluated.of_record(run.record)
    trained = hash_of(found.results.config)
    if trained == plan[run.name]:
        return found
    print(
        f"{run.record.name}: left out, its configuration has hash {trained}, the plan {plan[run.name]}",
        file=sys.stderr,
        flush=True,
    )
    return None


def report(seeds: list[int], plan: Mapping[str, str], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the figures of all runs that are recorded, and earlier rows of runs that are not."""
    found: dict[tuple[str, str], list[Evaluated]] = {}
    for run in runs(seeds, real=True):
        if (evaluated := kept(run, plan)) is not None:
            found.setdefault((run.category.name, run.method), []).append(evaluated)
    rows = [_row(*key, group) for key, group in found.items()]
    differences = []
    for category in CATEGORIES:
        for method in (*STUDENTS[1:], *BASELINES):
            ours, theirs = ([each.results for each in found.get((category.name, name), [])] for name in ("idif", method))
            if ours and theirs and (d := difference(ours, theirs)):
                differences.append(
                    {
                        "category": category.name, "input": category.modalities, "idif_less": method, "verdict": d.verdict,
                        "points": round(100 * d.mean, 1), "interval": [round(100 * d.low, 1), round(100 * d.high, 1)],
                        "seeds": [len(ours), len(theirs)],
                    }
                )  # fmt: skip
    before = [{"machine": earlier.get("machine"), **row} for row in earlier.get("rows", ())]
    return {
        "rows": with_earlier(rows, before, ("category", "method")),
        "together": with_earlier(together(found), earlier.get("together", ()), ("category", "method")),
        "differences": with_earlier(
            differences, earlier.get("differences", ()), ("category", "idif_less"), lambda row: sum(row["seeds"])
        ),
    }


def together(found: Mapping[tuple[str, str], list[Evaluated]]) -> list[dict[str, Any]]:
    """Return S-AUROC of IDIF with PaDiM's standardised scores added, as ``companion.kind = padim`` adds them, from runs of either."""
    rows = []
    for category in CATEGORIES:
        others = {each.results.seed: each.results for each in found.get((category.name, "padim"), [])}
        for method in ("idif", "idif-dropout"):
            pairs = [
                (each.results, others[each.results.seed])
                for each in found.get((category.name, method), [])
                if each.results.seed in others
            ]
            if pairs:
                by_rule = {rule: [_both(rule, *pair) for pair in pairs] for rule in SAMPLE_RULES}
                rows.append(
                    {
                        "category": category.name, "method": f"{method} with padim", "seeds": [ours.seed for ours, _ in pairs],
                        "s_auroc_by_rule": {rule: _mean(values) for rule, values in by_rule.items()},
                        "each": {rule: [round(value, 1) for value in values] for rule, values in by_rule.items()},
                    }
                )  # fmt: skip
    return rows


def _both(rule: str, ours: Results, theirs: Results) -> float:
    """Return S-AUROC in percent of the mean of two runs' standardised view scores under a rule."""
    by_key = {sample.key: sample for sample in theirs.samples}
    scores = [
        [-np.inf if a is None or b is None else (a + b) / 2 for a, b in zip(s.view_scores, by_key[s.key].view_scores, strict=True)]
        for s in ours.samples
    ]  # fmt: skip
    labels = np.array([sample.label for sample in ours.samples])
    return 100 * float(auroc(over_views(torch.tensor(scores, dtype=torch.float64), rule).numpy(), labels))


def planned_hashes(seeds: list[int]) -> dict[str, str]:
    """Return the hash of every run's configuration: as the results file has it, else, written there now, as it is."""
    before: dict[str, Any] = files.read_json(RESULTS) if RESULTS.exists() else {}
    plan: dict[str, str] = dict(before.get("plan", {}))
    plan |= {run.name: run.planned for run in runs(seeds, real=True) if run.name not in plan}
    if plan != before.get("plan"):
        files.write_json(RESULTS, {**before, "plan": plan})
    return plan


def _row(category: str, method: str, group: list[Evaluated]) -> dict[str, Any]:
    results = [each.results for each in group]
    first = results[0]
    row: dict[str, Any] = {
        "category": category, "method": method, "input": first.config["input.modalities"], "size": first.config["input.size"],
        "backbone": backbone_label(first.model, first.teacher), "training_samples": first.training_samples,
        "test_samples": first.figures.samples, "rule": first.rule, "seeds": [result.seed for result in results], "machine": first.machine,
        "paper_s_auroc": paper_s_auroc(first.dataset, category, first.model),
    }  # fmt: skip
    for name in ("s_auroc", "image_auroc", "p_auroc"):
        values = _percent([result.figures[name] for result in results])
        row[name] = {"mean": _mean(values), "sd": _sd(values), "each": [round(v, 1) for v in values]}
    row["s_auroc_by_rule"] = {rule: _mean(_percent([result.rules[rule].s_auroc for result in results])) for rule in first.rules}
    row["s_auroc_by_defect"] = {
        defect: _mean(_percent([result.figures.by_defect[defect] for result in results])) for defect in first.figures.by_defect
    }
    effects = [each.effects for each in group if each.effects is not None]
    if len(effects) == len(group):
        row["module_effects"] = {name: [round(one[name], 4) for one in effects] for name in effects[0]}
        percent = [{name: 100 * share for name, share in rises(one).items()} for one in effects]
        row["module_effects_rise_percent"] = {name: [round(one[name], 2) for one in percent] for name in percent[0]}
    missing = [each.missing for each in group if each.missing is not None]
    if len(missing) == len(group):
        row["missing_views"] = {figure: _missing_views(missing, figure) for figure in (VISIBLE, FULL, ORACLE)}
    return row


def _missing_views(runs_with_subsets: list[list[SubsetFigures]], figure: str) -> dict[str, list[Any]]:
    """Return the loss in points per missing view of each run, and the mean by number of missing views over all runs."""
    by_run = [{row.views: getattr(row, figure) for row in subsets} for subsets in runs_with_subsets]
    views = max(len(subset) for subset in by_run[0])
    means = [
        _percent([value for figures in by_run for subset, value in figures.items() if len(subset) == views - missing])
        for missing in range(views)
    ]
    return {
        "points_per_missing_view": [round(100 * loss_per_missing_view(figures, views), 2) for figures in by_run],
        "by_views_missing": [_mean(values) for values in means],
    }


def _percent(values: list[float | None]) -> list[float]:
    """Return figures in percent; one that is not defined is left out."""
    return [100 * value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 1) if values else None


def _sd(values: list[float]) -> float | None:
    return round(float(np.std(values, ddof=1)), 1) if len(values) > 1 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("mvad-data/accuracy"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="train only runs whose name contains this text")
    parser.add_argument("--report", action="store_true", help="train nothing, write the results of the runs that are evaluated")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    real = Path(os.environ["MVAD_REAL_DATA"]) if "MVAD_REAL_DATA" in os.environ else None
    failed: list[str] = []
    plan = planned_hashes(seeds)
    if not given.report:
        prepare(given.workspace, real)
        todo = [r for r in runs(seeds, real is not None) if given.only in r.name and kept(r, plan) is None]

        def one(run: Run) -> None:
            try:
                train_and_evaluate(given.workspace, run, plan[run.name])
            except Exception as error:  # the other runs continue; the same command tries this one again
                failed.append(f"{run.name}: {error}")
                print(failed[-1], file=sys.stderr, flush=True)

        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(one, todo))
    files.write_json(RESULTS, {"plan": plan, **report(seeds, plan, files.read_json(RESULTS))})
    print(f"{RESULTS.name} written")
    return 6 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
