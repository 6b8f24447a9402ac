"""The paper's tables (AAAI-25, pages 12381 to 12388), as package data."""

from __future__ import annotations

import csv
from importlib import resources

_TABLES = {"mvtec3d": "table2_mvtec3d.csv", "eyecandies": "table2_eyecandies.csv", "realiad": "table1_real_iad.csv"}
_NAMES = {
    "idif": "IDIF",
    "patchcore": "PatchCore",
    "destseg": "DeSTSeg",
    "padim": "PaDim",
    "simplenet": "SimpleNet",
    "uniad": "UniAD",
    "rd": "RD",
}


def paper_s_auroc(dataset: str, category: str, model: str) -> float | None:
    """Return the S-AUROC in percent that the paper prints for a category and method, or None."""
    table = resources.files("mvad.model.judging") / "paper" / _TABLES[dataset]
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["category"] == category and row["method"] == _NAMES.get(model):
                return float(row["s_auroc"])
    return None
