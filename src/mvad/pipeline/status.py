"""What a workspace holds: raw data, renders, shards, and runs with their state. Only records are read, no hash is compared."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.registry import SCAN_READERS
from mvad.datasets.renders import layout
from mvad.datasets.renders.record import missing_of
from mvad.datasets.renders.record import read_manifest as read_renders
from mvad.datasets.shards.reader import read_manifest as read_shards
from mvad.datasets.shards.schema import MANIFEST
from mvad.errors import BadInput
from mvad.model.evaluation.results import Results
from mvad.model.runs import CONFIG, RunFolder
from mvad.pipeline.workspace import Workspace

UNFINISHED, TRAINED, EVALUATED, IMPORTED, DAMAGED = "unfinished", "trained", "evaluated", "imported", "damaged"
STALE = "evaluated before it was trained again"

Rows = list[dict[str, Any]]


def status_of(workspace: Workspace) -> dict[str, Rows]:
    """Return the rows of ``raw``, ``renders``, ``shards`` and ``runs``, each a list of plain values, sorted."""
    return {
        "raw": _raw(workspace),
        "renders": [_render(path) for path in _folders(workspace.renders, 2)],
        "shards": [_shards(path) for path in _folders(workspace.shards, 2)],
        "runs": [_run(path) for path in _folders(workspace.runs, 1) if (path / CONFIG).exists()],
    }


def _folders(root: Path, levels: int) -> list[Path]:
    found = root.glob("/".join("*" * levels))
    return sorted(path for path in found if path.is_dir() and not path.name.startswith(".") and ".part-" not in path.name)


def _raw(workspace: Workspace) -> Rows:
    rows: Rows = []
    for name, reader in SCAN_READERS.items():
        if workspace.raw(name).is_dir():
            rows.append({"dataset": name, "categories": reader.categories(workspace.raw(name))})
    for name, photographs in photograph_sets().items():
        with contextlib.suppress(BadInput):
            rows.append({"dataset": name, "categories": photographs.categories(workspace.raw(name))})
    with contextlib.suppress(BadInput):
        rows.append({"dataset": realiad.NAME, "categories": realiad.categories(workspace.raw(realiad.NAME))})
    return [row for row in rows if row["categories"]]


def _render(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"dataset": folder.parent.name, "category": folder.name, "samples": {}, "failed": 0}
    about["failed"] = len(files.read_lines(folder / layout.FAILED))
    try:
        if not (folder / layout.MANIFEST).exists():
            return about | {"state": UNFINISHED}
        manifest = read_renders(folder)
    except BadInput:
        return about | {"state": DAMAGED}
    views = len(manifest["rig"]["poses"]) if manifest["rig"] else 0
    missing = missing_of(manifest)
    return about | {
        "samples": dict(Counter(sample["split"] for sample in manifest["samples"])),
        "views": views,
        "missing": len(missing),
        "state": UNFINISHED if any(entry["why"] == "pending" for entry in missing) else "rendered",
    }


def _shards(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"dataset": folder.parent.name, "category": folder.name, "samples": {}}
    try:
        if not (folder / MANIFEST).exists():
            return about | {"state": UNFINISHED}
        manifest = read_shards(folder)
    except BadInput:
        return about | {"state": DAMAGED}
    samples: Counter[str] = Counter()
    for entry in manifest["shards"]:
        samples[entry["split"]] += entry["samples"]
    size = sum(path.stat().st_size for path in folder.glob("*.h5"))
    return about | {
        "samples": dict(samples), "views": len(manifest["views"]), "bytes": size, "missing": len(missing_of(manifest)), "state": "packed",
    }  # fmt: skip


def _run(path: Path) -> dict[str, Any]:
    run = RunFolder(path)
    about: dict[str, Any] = {"run": run.name, "dataset": "", "category": "", "model": "", "seed": None, "s_auroc": None}
    try:
        record, results = run.record, run.results()
        about |= {"dataset": record.dataset, "category": record.category, "model": record.model, "seed": record.seed}
        if results is not None:
            about |= {"s_auroc": results.figures["s_auroc"], "interval": results.figures.intervals.get("s_auroc")}
        return about | {"state": _state(run, results)}
    except BadInput as error:
        return about | {"state": DAMAGED, "reason": str(error)}


def _state(run: RunFolder, results: Results | None) -> str:
    if run.record.spec is None:
        return IMPORTED
    if not run.is_trained:
        return UNFINISHED
    if results is None:
        return TRAINED
    return EVALUATED if results.model_sha256 == run.model_sha256 else STALE
