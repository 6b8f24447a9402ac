"""File names in a rendered folder: ``<dataset>/<category>/<split>/<defect>/<id>/{rgb,depth,normal,mask,source}_K``."""

from __future__ import annotations

from pathlib import Path

RECORD = "record.json"
MANIFEST = "manifest.json"
RIG = "rig.json"
FAILED = "failed.jsonl"
AUDIT = "audit.json"
TIMINGS = "timings.jsonl"

SUFFIXES = {"rgb": ".png", "depth": ".png", "normal": ".png", "mask": ".png", "source": ".tiff"}


def file_name(kind: str, view: int) -> str:
    """Return the name of one output of one view."""
    return f"{kind}_{view}{SUFFIXES[kind]}"


def category_folder(renders: Path, dataset: str, category: str) -> Path:
    """Return the folder of a category's renders."""
    return renders / dataset / category
