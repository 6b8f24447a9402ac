"""All steps on real scans, from the raw data of MVAD_REAL_DATA to S-AUROC figures, as JSON with machine and versions.

Runs the commands as a user would, one after the other, in a workspace; when it is run again, it continues with the first
command that did not complete. The wall time of a command is that of its first complete run.
Usage: MVAD_REAL_DATA=... python benchmarks/real_scans.py [WORKSPACE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mvad import files
from mvad.model.devices import resolve_device
from mvad.model.evaluation.results import Results
from mvad.model.paper.tables import paper_s_auroc
from mvad.model.runs import machine

RESULTS = Path(__file__).parent / "results" / "real-scans.json"
CATEGORIES = {"mvtec3d": "cable_gland", "eyecandies": "CandyCane"}


def commands(real: Path) -> list[list[str]]:
    renders = [["render", d, "--views", "5", "--raw", str(real / d), "--category", c] for d, c in CATEGORIES.items()]
    check = ["train", "--model", "patchcore", "--category", "cable_gland", "--modalities", "rgb", "--set", "input.size=256"]
    return [
        *renders,
        ["pack"],
        [*check, "--name", "cable_gland-patchcore-rgb256"],
        ["train", "--preset", "small", "--model", "mean_feature", "--model", "patchcore"],
        *(["train", "--preset", "small", "--category", c] for c in CATEGORIES.values()),
        ["evaluate"],
        ["report"],
    ]


def without_paths(command: list[str]) -> str:
    """Return a command as text, without the folder of the raw data."""
    kept = [word for at, word in enumerate(command) if word != "--raw" and (at == 0 or command[at - 1] != "--raw")]
    return "mvad " + " ".join(kept)


def main() -> int:
    real = os.environ.get("MVAD_REAL_DATA")
    if not real:
        print("real_scans: set MVAD_REAL_DATA to the folder of real scans", file=sys.stderr)
        return 5
    workspace = Path(sys.argv[1] if len(sys.argv) > 1 else "mvad-data/benchmark")
    walls_path = workspace / "walls.json"
    walls = files.read_json(walls_path) if walls_path.exists() else {}
    environment = os.environ | {"MVAD_WORKSPACE": str(workspace)}
    for command in commands(Path(real)):
        name = without_paths(command)
        if name in walls:
            continue
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "mvad.cli.main", *command], env=environment)
        if done.returncode:
            return done.returncode
        walls[name] = round(time.perf_counter() - began, 1)
        files.write_json(walls_path, walls)
    runs = [Results.read(path) for path in sorted(workspace.glob("runs/*/results.json"))]
    audits = {c: files.read_json(workspace / "renders" / d / c / "audit.json")["summary"] for d, c in CATEGORIES.items()}
    table = [
        {
            "run": run.run, "category": run.category, "model": run.model, "seed": run.seed, "teacher": run.teacher,
            "input": run.config["input.modalities"], "size": run.config["input.size"],
            "training_samples": run.training_samples, "test_samples": run.figures.samples,
            **{name: run.figures[name] for name in ("s_auroc", "image_auroc", "p_auroc")},
            "s_auroc_by_defect": run.figures.by_defect,
            "paper_s_auroc": paper_s_auroc(run.dataset, run.category, run.model),
        }
        for run in runs
    ]  # fmt: skip
    about = machine(resolve_device()) | {"cores": os.cpu_count()}
    files.write_json(RESULTS, {"machine": about, "seconds": walls, "figures": table, "ground_truth": audits})
    print(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
