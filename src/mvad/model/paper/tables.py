"""The paper's tables (AAAI-25, pages 12381 to 12388), as package data."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mvad.model.registry import methods

SOURCE = "Mao, Lian, Wang, Liu, Zheng, Wei: Unveiling Multi-View Anomaly Detection, AAAI-25, pages 12381 to 12388"
PROTOCOL = "one model per class; 5 views; ResNet-18 (baselines: their own); the whole class"
SINGLE_SCAN = "one model per class; the original scan, one view; their own backbones; the whole class"
BTF = "BTF (the paper prints: PatchCore)"
"""Table 2's row for MVTec 3D-AD is digit for digit that of BTF (Horwitz and Hoshen): PatchCore on RGB and FPFH of one scan."""
UNKNOWN_ORIGIN = "PatchCore (of unknown origin)"
"""Table 2's row for Eyecandies."""
_SHOWN_AS = {("mvtec3d", "PatchCore"): BTF, ("eyecandies", "PatchCore"): UNKNOWN_ORIGIN}
_OF_SCANS = ("AST", "M3DM", "MMRD", "MCFM", BTF)
MEAN = "mean"

_FILES = {"mvtec3d": "table2_mvtec3d.csv", "eyecandies": "table2_eyecandies.csv", "realiad": "table1_real_iad.csv"}


@dataclass(frozen=True)
class PaperFigures:
    """Figures that the paper prints for a method and category, in percent; None: not printed."""

    s_auroc: float
    p_auroc: float | None = None


def paper_protocol(method: str) -> str:
    """Return the protocol of the paper's figures of a method."""
    if method == UNKNOWN_ORIGIN:
        return "not known"
    return SINGLE_SCAN if method in _OF_SCANS else PROTOCOL


def paper_name(model: str) -> str:
    """Return a method's name in the paper's tables, or its own where it is not in them."""
    known = methods().get(model)
    return (known.paper_name if known else "") or model


def paper_s_auroc(dataset: str, category: str, model: str) -> float | None:
    """Return the S-AUROC in percent that the paper prints for a category and method, or None."""
    printed = main_table(dataset).get((category, paper_name(model)))
    return printed.s_auroc if printed else None


@cache
def main_table(dataset: str) -> dict[tuple[str, str], PaperFigures]:
    """Return Table 1 (realiad) or one half of Table 2 by (category, method); the category ``mean`` is the paper's mean.

    Empty for a dataset that the paper does not have. Rows that are not what the paper calls them have their right name.
    """
    if dataset not in _FILES:
        return {}
    return {
        (row["category"], _SHOWN_AS.get((dataset, row["method"]), row["method"])): PaperFigures(
            float(row["s_auroc"]), float(row["p_auroc"]) if "p_auroc" in row else None
        )
        for row in _rows(_FILES[dataset])
    }


@cache
def ablation_table() -> dict[str, tuple[str, float]]:
    """Return Table 3, means over Real-IAD: parts as the paper names them and S-AUROC in percent, by our method's name."""
    return {row["model"]: (row["parts"], float(row["s_auroc"])) for row in _rows("table3_ablation.csv")}


@cache
def missing_table() -> dict[tuple[str, str], float]:
    """Return the figures of Figure 4 and its text, in percent or points, by (number of missing views or ``loss per view``, method)."""
    return {(row["missing"], row["method"]): float(row["s_auroc"]) for row in _rows("missing_views.csv")}


def _rows(name: str) -> list[dict[str, str]]:
    with (resources.files("mvad.model.paper") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


_ALONE: Mapping[str, Any] = {"companion.kind": "none"}
"""In no table PaDiM's scores are added to one method, as preset best adds them to IDIF's."""

_FULL_VIEWS: Mapping[str, Any] = {"dropout.p": 0.0, **_ALONE}
"""Keys of Tables 1 to 3, which are without View-wise Dropout: the paper has 97.0 without and 96.4 with it."""


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes
    ----------
    name, title
        Name on the command line, and title.
    datasets
        Datasets of the table.
    models
        Our methods in the table, in its order.
    keys
        Keys that the table's protocol sets.
    by_category
        Whether the paper prints figures of single categories.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    keys: Mapping[str, Any]
    by_category: bool = False


TABLES = {
    table.name: table
    for table in (
        Table(
            "table1", "Table 1: Real-IAD", ("realiad",), ("padim", "patchcore", "rd", "uniad", "destseg", "simplenet", "idif"),
            _FULL_VIEWS, True,
        ),
        Table("table2", "Table 2: MVTec 3D-AD and Eyecandies", ("mvtec3d", "eyecandies"), ("patchcore", "idif"), _FULL_VIEWS, True),
        Table("table3", "Table 3: ablation on Real-IAD", ("realiad",), ("destseg", "conv3d", "ivc", "idif"), _FULL_VIEWS),
        Table("missing-views", "Figure 4: missing views (the paper's: Real-IAD)", ("realiad",), ("idif", "retrieve", "reconstruct"), _ALONE),
    )
}  # fmt: skip
