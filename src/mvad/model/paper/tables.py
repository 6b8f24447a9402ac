"""The paper's tables (AAAI-25, pages 12381 to 12388), as package data."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

SOURCE = "Mao, Lian, Wang, Liu, Zheng, Wei: Unveiling Multi-View Anomaly Detection, AAAI-25, pages 12381 to 12388"
PROTOCOL = "one model a class; 5 views; ResNet-18 (baselines: their own); the whole class"
SINGLE_SCAN = "one model a class; the original scan, one view; their own backbones; the whole class"
_OF_SCANS = ("AST", "M3DM", "MMRD", "MCFM")
MEAN = "mean"

_FILES = {"mvtec3d": "table2_mvtec3d.csv", "eyecandies": "table2_eyecandies.csv", "realiad": "table1_real_iad.csv"}
_NAMES = {
    "idif": "IDIF",
    "patchcore": "PatchCore",
    "destseg": "DeSTSeg",
    "padim": "PaDim",
    "simplenet": "SimpleNet",
    "uniad": "UniAD",
    "rd": "RD",
}


@dataclass(frozen=True)
class PaperFigures:
    """What the paper prints for a method and category, in percent; None: not printed."""

    s_auroc: float
    p_auroc: float | None = None


def paper_protocol(method: str) -> str:
    """Return what the paper's figure of a method was made with."""
    return SINGLE_SCAN if method in _OF_SCANS else PROTOCOL


def paper_name(model: str) -> str:
    """Return a method's name in the paper's tables; one that is not in them keeps its own."""
    return _NAMES.get(model, model)


def paper_s_auroc(dataset: str, category: str, model: str) -> float | None:
    """Return the S-AUROC in percent that the paper prints for a category and method, or None."""
    found = main_table(dataset).get((category, paper_name(model)))
    return found.s_auroc if found else None


@cache
def main_table(dataset: str) -> dict[tuple[str, str], PaperFigures]:
    """Return Table 1 (realiad) or a half of Table 2 by (category, method); the category ``mean`` is the paper's own mean."""
    return {
        (row["category"], row["method"]): PaperFigures(float(row["s_auroc"]), float(row["p_auroc"]) if "p_auroc" in row else None)
        for row in _rows(_FILES[dataset])
    }


@cache
def ablation_table() -> dict[str, tuple[str, float]]:
    """Return Table 3, the mean over Real-IAD: by our model's name, its parts in the paper's words and S-AUROC."""
    return {row["model"]: (row["parts"], float(row["s_auroc"])) for row in _rows("table3_ablation.csv")}


@cache
def missing_table() -> dict[tuple[str, str], float]:
    """Return Figure 4 and its text: by (views missing, or ``loss per view``; method), in percent or points."""
    return {(row["missing"], row["method"]): float(row["s_auroc"]) for row in _rows("missing_views.csv")}


def _rows(name: str) -> list[dict[str, str]]:
    with (resources.files("mvad.model.paper") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
