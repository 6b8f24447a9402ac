"""S-AUROC of IDIF, its ablations and baselines on real and generated categories; resumable, seed by seed.

    MVAD_REAL_DATA=... python benchmarks/accuracy.py [--workspace W] [--seeds 0,1,2] [--jobs N] [--only TEXT] [--report]

Data are rendered and packed where they are not yet; each run that is not evaluated yet is trained (or continued) and evaluated;
then ``results/accuracy.json`` is written from all runs that are there. Runs go on two at a time, one thread each, seed after
seed, so that stopping early leaves whole seeds. ``--report`` only writes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.evaluation.missing_views import evaluate_subsets, loss_per_missing_view, subsets_of
from mvad.model.idif.detector import Idif
from mvad.model.idif.effects import module_effects
from mvad.model.metrics.bootstrap import paired_difference
from mvad.model.paper.tables import paper_s_auroc
from mvad.model.registry import backbone
from mvad.model.runs import load_run, machine
from mvad.progress import Silent

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
GENERATED = ["--train", "40", "--validation", "6", "--good", "30", "--per-defect", "6", "--size", "224", "--seed", "1"]
FULL_VIEWS = ["--set", "dropout.p=0.0"]
"""Table 3 is without View-wise Dropout: the paper has 97.0 without and 96.4 with it on full samples."""
SUBSETS_EACH = 3


@dataclass(frozen=True)
class Category:
    """Where a comparison takes place, with the same input for every method."""

    dataset: str
    name: str
    modalities: str
    generated: bool = False


CATEGORIES = (
    Category("mvtec3d", "cable_gland", "rgb"),
    Category("eyecandies", "CandyCane", "normal"),
    Category("mvtec3d", "gear", "rgb", generated=True),
)
STUDENTS = ("idif", "destseg", "ivc", "conv3d")
RIVALS = ("patchcore", "padim", "mean_feature")
FILLED = ("idif-dropout", "retrieve", "reconstruct")
"""Figure 4, on generated data: IDIF trained with View-wise Dropout, and two ways to fill what is missing."""


@dataclass(frozen=True)
class Run:
    """One training."""

    category: Category
    method: str
    seed: int
    size: int = 128

    @property
    def name(self) -> str:
        return f"{self.category.name}-{self.category.modalities}{self.size}-{self.method}-seed{self.seed}"

    @property
    def words(self) -> list[str]:
        model = self.method.removesuffix("-dropout")
        keys = [] if self.method == "idif-dropout" else FULL_VIEWS
        if self.size != 128:
            keys = [*keys, "--set", f"input.size={self.size}"]
        return [
            "train", "--preset", "small", "--dataset", self.category.dataset, "--category", self.category.name, "--modalities",
            self.category.modalities, "--model", model, "--seed", str(self.seed), "--name", self.name, "--set", "train.threads=1",
            *keys,
        ]  # fmt: skip


def runs(seeds: list[int], real: bool) -> list[Run]:
    """Return all runs, whole seeds first."""
    listed = []
    for seed in seeds:
        for category in CATEGORIES:
            if category.generated or real:
                methods = (*RIVALS, *STUDENTS, *(FILLED if category.generated else ()))
                listed += [Run(category, method, seed) for method in methods]
        if real:
            listed += [Run(category, "patchcore", seed, 256) for category in CATEGORIES if not category.generated]
    return listed


def prepare(workspace: Path, real: Path | None) -> None:
    """Render and pack what is not there."""
    for category in CATEGORIES:
        if (workspace / "shards" / category.dataset / category.name / "manifest.json").exists():
            continue
        raw = ["--raw", str(real / category.dataset)] if real and not category.generated else []
        if category.generated:
            mvad(workspace, ["synth", category.dataset, "--category", category.name, *GENERATED])
        elif not real:
            continue
        mvad(workspace, ["render", category.dataset, "--views", "5", "--category", category.name, *raw])
        mvad(workspace, ["pack", "--dataset", category.dataset, "--category", category.name])


def mvad(workspace: Path, words: list[str]) -> None:
    environment = os.environ | {"MVAD_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mvad.cli", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mvad {' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def evaluated(workspace: Path, run: Run) -> bool:
    return (workspace / "runs" / run.name / "results.json").exists()


def train_and_judge(workspace: Path, run: Run) -> None:
    print(f"{run.name}: begins", flush=True)
    mvad(workspace, run.words)
    mvad(workspace, ["evaluate", str(workspace / "runs" / run.name)])
    look_closer(workspace, run)
    print(f"{run.name}: done", flush=True)


def look_closer(workspace: Path, run: Run) -> None:
    """Take what is only known of a trained network: missing views (Figure 4), and what each module is worth."""
    folder = workspace / "runs" / run.name
    weights = WeightsSource(None, workspace / "weights", offline=True)
    shards = workspace / "shards" / run.category.dataset / run.category.name
    if run.method in FILLED:
        detector, config, _ = load_run(folder, weights)
        data = ShardSet(shards, "test", fields=config.input.modalities, threads=1)
        subsets = subsets_of(len(data.views), SUBSETS_EACH)
        files.write_json(folder / "missing.json", evaluate_subsets(detector, data, subsets, Silent()))
    if run.method == "idif":
        detector, config, _ = load_run(folder, weights)
        assert isinstance(detector, Idif)
        data = ShardSet(shards, "test", fields=config.input.modalities, threads=1)
        files.write_json(folder / "effects.json", module_effects(detector, data, Silent()))


def report(workspace: Path, seeds: list[int]) -> dict[str, Any]:
    """Gather the figures of all runs that are evaluated."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in runs(seeds, real=True):
        if evaluated(workspace, run):
            folder = workspace / "runs" / run.name
            result = files.read_json(folder / "results.json")
            more = {n: files.read_json(folder / f"{n}.json") for n in ("missing", "effects") if (folder / f"{n}.json").exists()}
            found.setdefault((run.category.name, run.method, run.size), []).append(result | more)
    rows = [_row(*key, results) for key, results in found.items()]
    differences = []
    for category in CATEGORIES:
        for method in (*STUDENTS[1:], *RIVALS):
            ours, theirs = found.get((category.name, "idif", 128), []), found.get((category.name, method, 128), [])
            if ours and theirs:
                one, other, labels = _scores(ours), _scores(theirs), _labels(ours[0])
                d = paired_difference(one, other, labels)
                differences.append(
                    {
                        "category": category.name, "input": category.modalities, "idif_less": method, "verdict": d.verdict,
                        "points": round(100 * d.mean, 1), "interval": [round(100 * d.low, 1), round(100 * d.high, 1)],
                        "seeds": [len(ours), len(theirs)],
                    }
                )  # fmt: skip
    return {"machine": machine(), "rows": rows, "differences": differences}


def _row(category: str, method: str, size: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    first = results[0]
    row: dict[str, Any] = {
        "category": category, "method": method, "input": first["config"]["input.modalities"], "size": size,
        "backbone": backbone(first["model"], first["teacher"]["name"]), "training_samples": first["training_samples"],
        "test_samples": first["figures"]["samples"], "seeds": [result["seed"] for result in results],
        "paper_s_auroc": paper_s_auroc(first["dataset"], category, first["model"]),
    }  # fmt: skip
    for name in ("s_auroc", "image_auroc", "p_auroc"):
        values = [100 * result["figures"][name] for result in results]
        row[name] = {"mean": round(float(np.mean(values)), 1), "sd": _sd(values), "each": [round(v, 1) for v in values]}
    row["s_auroc_by_defect"] = {
        defect: round(float(np.mean([100 * r["figures"]["s_auroc_by_defect"][defect] for r in results])), 1)
        for defect in first["figures"]["s_auroc_by_defect"]
    }
    if all("effects" in result for result in results):
        row["module_effects"] = {k: [round(r["effects"][k], 4) for r in results] for k in first["effects"]}
    if all("missing" in result for result in results):
        views = max(len(entry["views"]) for entry in first["missing"])
        row["missing_views"] = {
            figure: {
                "points_per_missing_view": [round(100 * loss_per_missing_view(r["missing"], figure, views), 2) for r in results],
                "by_views_missing": [
                    round(
                        100 * float(np.mean([e[figure] for r in results for e in r["missing"] if len(e["views"]) == views - m])),
                        1,
                    )
                    for m in range(views)
                ],
            }
            for figure in ("s_auroc_visible", "s_auroc_full", "oracle_full")
        }
    return row


def _sd(values: list[float]) -> float | None:
    return round(float(np.std(values, ddof=1)), 1) if len(values) > 1 else None


def _scores(results: list[dict[str, Any]]) -> np.ndarray:
    """Return (runs, samples), samples joined by key."""
    keys = [sample["key"] for sample in results[0]["samples"]]
    tables = [{sample["key"]: sample["score"] for sample in result["samples"]} for result in results]
    return np.array([[table[key] for key in keys] for table in tables])


def _labels(result: dict[str, Any]) -> np.ndarray:
    return np.array([sample["label"] for sample in result["samples"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("mvad-data/accuracy"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="runs whose name holds this text")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    real = Path(os.environ["MVAD_REAL_DATA"]) if "MVAD_REAL_DATA" in os.environ else None
    failed: list[str] = []
    if not given.report:
        prepare(given.workspace, real)
        todo = [r for r in runs(seeds, real is not None) if given.only in r.name and not evaluated(given.workspace, r)]

        def one(run: Run) -> None:
            try:
                train_and_judge(given.workspace, run)
            except Exception as error:  # the other runs go on; the same command tries this one again
                failed.append(f"{run.name}: {error}")
                print(failed[-1], file=sys.stderr, flush=True)

        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(one, todo))
    files.write_json(RESULTS, report(given.workspace, seeds))
    print(f"{RESULTS.name} written")
    return 6 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
