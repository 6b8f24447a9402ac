"""The category of disagreements: every view of a defective sample is normal by itself, and only the fusion of views can tell.

    python benchmarks/fusion.py [--workspace W] [--only NAME] [--seeds 0,1,2] [--threads N]

Generates ``keyed`` (``mvad synth realiad --category keyed``), packs it, trains each method on it and writes S-AUROC under the
three rules to ``results/fusion.json``; resumable, run by run. DeSTSeg and the fusing methods get the same pseudo anomalies, views
swapped in from other samples, so that fusion alone makes the difference. Scores are raw: the category has no validation split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import mvad
from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.model.devices import resolve_device
from mvad.model.idif.detector import Idif
from mvad.model.idif.effects import module_effects, rises
from mvad.model.idif.network import VoxelRoute
from mvad.model.runs import config_hash, machine
from mvad.pipeline.workspace import Workspace
from mvad.progress import Silent

RESULTS = Path(__file__).parent / "results" / "fusion.json"
DATA = ["--train", "160", "--validation", "0", "--good", "60", "--per-defect", "20", "--size", "64"]
RAW = {"input__size": 64, "score__scale": "none"}
TRAINED = {
    **RAW, "pseudo__swap": 0.5, "train__batch": 8, "train__student_steps": 1000, "train__head_steps": 300, "dropout__p": 0.0,
    "encoder__level": 8, "pseudo__textures": "procedural",
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "mean_feature": RAW, "padim": RAW, "patchcore": RAW,
    "idif": {**TRAINED, "bottleneck__channels": 2, "bottleneck__withhold": 0.9},
    "destseg": TRAINED, "conv3d": TRAINED, "ivc": TRAINED,
}  # fmt: skip


def prepare(root: Path) -> Path:
    """Generate and pack the category where it is not yet; return the packed folder."""
    packed = root / "shards" / "realiad" / "keyed"
    if not (packed / "manifest.json").exists():
        chosen = ["--category", "keyed", "--workspace", str(root)]
        for words in (["synth", "realiad", *chosen, *DATA], ["pack", "--dataset", "realiad", *chosen]):
            subprocess.run([sys.executable, "-m", "mvad.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return packed


def result_of(packed: Path, root: Path, method: str, seed: int, threads: int) -> dict[str, Any]:
    """Train and evaluate one method; return its figures in percent."""
    run = Workspace(root).runs / f"{method}-{seed}-{config_hash(METHODS[method])}"
    trained = mvad.train(
        packed, method, run, preset="small", workspace=root, seed=seed, train__threads=threads, **METHODS[method]
    )  # fmt: skip
    results = trained.evaluate(packed)
    row: dict[str, Any] = {
        "s_auroc": {rule: round(100 * figure.s_auroc, 1) for rule, figure in results.rules.items()},
        "interval": [round(100 * bound, 1) for bound in results.figures.intervals["s_auroc"] or ()],
        "by_defect": {name: round(100 * value, 1) for name, value in results.figures.by_defect.items()},
        "training_samples": results.training_samples, "test_samples": results.figures.samples,
        "configuration": config_hash(results.config),
    }  # fmt: skip
    detector = trained.detector
    if isinstance(detector, Idif) and isinstance(detector.network.fusion, VoxelRoute) and detector.network.bottleneck is not None:
        losses = module_effects(detector, ShardSet(packed, "test", fields=detector.spec.modalities, threads=1), Silent())
        row["module_effects_rise_percent"] = {name: round(100 * rise, 1) for name, rise in rises(losses).items()}
    return row


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("mvad-fusion"))
    parser.add_argument("--only", default="", help="methods, by commas; default: all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    packed = prepare(chosen.workspace)
    result: dict[str, Any] = files.read_json(RESULTS) if RESULTS.exists() else {"runs": {}}
    result |= {"machine": machine(resolve_device()), "data": " ".join(DATA)}
    for seed in (int(seed) for seed in chosen.seeds.split(",")):
        for method in METHODS:
            name = f"{method} / seed {seed}"
            keys = str(sorted(METHODS[method].items()))
            if result["runs"].get(name, {}).get("keys") == keys or (chosen.only and method not in chosen.only.split(",")):
                continue
            result["runs"][name] = row = result_of(packed, chosen.workspace, method, seed, chosen.threads) | {"keys": keys}
            print(name, row["s_auroc"], row["by_defect"], flush=True)
            files.write_json(RESULTS, result)


if __name__ == "__main__":
    main()
