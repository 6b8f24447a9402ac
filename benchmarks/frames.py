"""Methods on views in the object's frame and in the sensor's, by input and rule, on real categories; resumable, run by run.

    MVAD_REAL_DATA=... python benchmarks/frames.py [--workspace W] [--only TEXT] [--seeds 0,1,2] [--report | --speed]

``MVAD_REAL_DATA/more`` may hold more training and validation scans of the same categories; then each category is taken with and
without them. Missing renders and shards are made first; each run without results is trained and evaluated, on the views and on
the scans. ``results/frames.json`` is written after each run. ``--only`` names parts that a run's name must hold, by commas.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scans import with_more

import mvad
from mvad import files
from mvad.datasets.renders.record import read_manifest
from mvad.model.backbones.weights import WeightsSource
from mvad.model.config import PRESETS
from mvad.model.devices import resolve_device
from mvad.model.evaluation.results import Results
from mvad.model.runs import RunFolder, machine
from mvad.pipeline.evaluation import EvaluationPlan
from mvad.pipeline.workspace import Workspace
from mvad.progress import Silent

RESULTS = Path(__file__).parent / "results" / "frames.json"
CATEGORIES = {"cable_gland": "mvtec3d", "CandyCane": "eyecandies"}
FRAMES: dict[str, list[str]] = {
    "object": [], "sensor": ["--frame", "sensor"], "object, along the sensor's axis": ["--set", "rig.axis=sensor"],
    "object, no mirror images": ["--set", "rig.mirror=never"],
}  # fmt: skip
INPUTS = ("rgb", "normal", "rgb+normal")
STEPS = {"train__student_steps": 700, "train__head_steps": 300, "input__size": 128}
"""IDIF's runs: at 256 px one takes an hour on a core, and both frames are compared at the same size."""
HOLDOUT = {"train__holdout": 0.2}
"""Where fewer than ten validation scans are there: IDIF would be trained once more for each fold else, to bring its scores to scale."""


@dataclass(frozen=True)
class Case:
    """One run: category, its training scans ("" or "more"), frame, method, input and seed."""

    category: str
    scans: str
    frame: str
    method: str
    inputs: str
    seed: int

    @property
    def name(self) -> str:
        """Its name in the results."""
        return " / ".join(
            (self.category + (" + more" if self.scans else ""), self.frame, self.method, self.inputs, f"seed {self.seed}")
        )

    def folder(self, root: Path) -> Path:
        """Return the workspace of its renders and shards."""
        frame = "".join(letter if letter.isalnum() else "-" for letter in self.frame)
        return root / f"{self.category}{self.scans and '-more'}-{frame}"


def cases(seeds: list[int], has_more: bool) -> Iterator[Case]:
    """Yield the runs, the cheap ones first."""
    for method in ("mean_feature", "padim", "patchcore", "idif"):
        for seed in seeds if method != "idif" else seeds[:1]:
            for category in CATEGORIES:
                for scans in ("", "more") if has_more else ("",):
                    for frame in FRAMES:
                        special = frame not in ("object", "sensor")
                        if special and (method != "padim" or ("mirror" in frame) != (category == "CandyCane")):
                            continue
                        for inputs in INPUTS if method != "idif" else INPUTS[:1]:
                            yield Case(category, scans, frame, method, inputs, seed)


def raw_folder(case: Case, real: Path, root: Path) -> Path:
    """Return the raw folder of a case's dataset; with ``more`` one of links to all scans."""
    dataset = CATEGORIES[case.category]
    return with_more(real, root / "raw", dataset, case.category) if case.scans else real / dataset


def prepare(case: Case, real: Path, root: Path) -> Path:
    """Render and pack a case's category where it is not yet; return the packed folder."""
    dataset, workspace, raw = CATEGORIES[case.category], case.folder(root), raw_folder(case, real, root)
    packed = workspace / "shards" / dataset / case.category
    if not (packed / "manifest.json").exists():
        chosen = ["--category", case.category, "--workspace", str(workspace)]
        for words in (
            ["render", dataset, "--raw", str(raw), *FRAMES[case.frame], *chosen],
            ["pack", "--dataset", dataset, *chosen],
        ):
            subprocess.run([sys.executable, "-m", "mvad.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return packed


def result_of(case: Case, real: Path, root: Path) -> dict[str, Any]:
    """Train and evaluate a case; return its figures in percent."""
    packed, workspace = prepare(case, real, root), Workspace(case.folder(root))
    run = workspace.runs / f"{case.method}-{case.inputs}-{case.seed}"
    keys = {"input__modalities": tuple(case.inputs.split("+")), "seed": case.seed}
    keys |= STEPS if case.method == "idif" else {"input__size": 256}
    if case.method == "idif" and (case.category != "cable_gland" or not case.scans):
        keys |= HOLDOUT
    mvad.train(packed, case.method, run, preset="small", workspace=workspace.root, **keys)
    raw = raw_folder(case, real, root)
    plan = EvaluationPlan(workspace, WeightsSource(None, workspace.weights, True), resolve_device("auto"), (), True, (), raw)
    return figures(plan.evaluate(run, Silent()), RunFolder(run))


def figures(results: Results, run: RunFolder) -> dict[str, Any]:
    """Return what the tables show of an evaluation."""

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 1)

    assert results.scan is not None
    scan = results.scan.figures[results.scan.rule]
    return {
        "s_auroc": {rule: percent(figure.s_auroc) for rule, figure in results.rules.items()},
        "interval": [percent(bound) for bound in results.figures.intervals["s_auroc"] or ()],
        "image_auroc": percent(results.figures["image_auroc"]), "p_auroc": percent(results.figures["p_auroc"]),
        "scan_p_auroc": percent(scan["p_auroc"]), "scan_aupro_30": percent(scan["aupro_30"]),
        "by_defect": {name: percent(value) for name, value in results.figures.by_defect.items()},
        "training_samples": results.training_samples, "seconds": dict(results.seconds), "size": results.config["input.size"],
    }  # fmt: skip


def audits(root: Path) -> dict[str, Any]:
    """Return what the views of each workspace show of the ground truth, and how the objects lie in them."""
    found = {}
    for path in sorted(root.glob("*/renders/*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        audit, poses = manifest["audit"], manifest["poses"]
        found[path.parents[3].name] = {
            "ground truth seen, percent": round(100 * audit["seen_any"] / max(audit["total"], 1), 1),
            "by view": [round(100 * view["seen"], 1) for view in audit["views"]],
            "poses": poses,
        }
    return found


def speed(real: Path, repeats: int = 3) -> dict[str, Any]:
    """Return seconds of whole render jobs in both frames, one after the other, and milliseconds of pose estimation a scan."""
    found: dict[str, Any] = {}
    for category, dataset in CATEGORIES.items():
        seconds: dict[str, list[float]] = {"sensor": [], "object": []}
        poses = []
        for _ in range(repeats):
            for frame, times in seconds.items():
                with tempfile.TemporaryDirectory() as folder:
                    words = [
                        "render",
                        dataset,
                        "--raw",
                        str(real / dataset),
                        "--category",
                        category,
                        "--workspace",
                        folder,
                        "--frame",
                        frame,
                    ]
                    began = time.perf_counter()
                    subprocess.run([sys.executable, "-m", "mvad.cli", *words], check=True, stdout=subprocess.DEVNULL)
                    times.append(round(time.perf_counter() - began, 2))
                    if frame == "object":
                        lines = files.read_lines(Path(folder) / "renders" / dataset / category / "timings.jsonl")
                        poses += [line["seconds"]["pose"] for line in lines]
        found[category] = {
            "seconds": seconds, "object / sensor, least of each": round(min(seconds["object"]) / min(seconds["sensor"]), 3),
            "pose, ms a scan, median": round(1000 * statistics.median(poses), 2),
        }  # fmt: skip
    return found


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("mvad-frames"))
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--speed", action="store_true", help="only the seconds of render jobs")
    chosen = parser.parse_args()
    if "MVAD_REAL_DATA" not in os.environ:
        raise SystemExit("set MVAD_REAL_DATA to a folder with mvtec3d/cable_gland and eyecandies/CandyCane")
    real, root = Path(os.environ["MVAD_REAL_DATA"]), chosen.workspace
    result: dict[str, Any] = files.read_json(RESULTS) if RESULTS.exists() else {"runs": {}}
    result |= {"machine": machine(resolve_device("auto")), "preset": {"small": {k: str(v) for k, v in PRESETS["small"].items()}}}
    if chosen.speed:
        result["speed"] = speed(real)
        files.write_json(RESULTS, result)
        print(result["speed"])
        return
    for case in cases([int(seed) for seed in chosen.seeds.split(",")], (real / "more").is_dir()):
        if case.name in result["runs"] or chosen.report or not all(part in case.name for part in chosen.only.split(",")):
            continue
        result["runs"][case.name] = row = result_of(case, real, root)
        print(case.name, row["s_auroc"], row["image_auroc"], row["p_auroc"], row["scan_aupro_30"], flush=True)
        _write(result, root)
    _write(result, root)


def _write(result: dict[str, Any], root: Path) -> None:
    """Write the results; audits of workspaces that are not there any more are kept."""
    files.write_json(RESULTS, result | {"audits": result.get("audits", {}) | audits(root)})


if __name__ == "__main__":
    main()
