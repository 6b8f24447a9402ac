"""Build the page: everything inlined, every name from outside escaped, no network allowed by its own policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad import __version__, files
from mvad.model.evaluation.missing_views import read_missing_views
from mvad.model.report.charts import Line, histogram, line_chart
from mvad.model.report.gallery import Budget, gallery
from mvad.model.report.tables import comparison, headline, on_scans
from mvad.model.runs import METRICS, RESULTS, config_hash, input_name, is_trained

PICTURES = 12_500_000
"""Bytes of pictures and clouds on a page, shared by its runs; the rest of it takes less than 2 MB."""

_PRO_LIMIT = 0.3


def build_page(runs: Sequence[Path]) -> str:
    """Return the HTML of a report on evaluated runs.

    Raises
    ------
    BadInput
        If a run has no readable ``results.json``.
    """
    results = [files.read_sealed_json(run / RESULTS, 'results; "mvad evaluate" writes them', "evaluate again") for run in runs]
    pairs = sorted(zip(runs, results, strict=True), key=lambda pair: _order(pair[1]))
    template = Template((resources.files("mvad.model.report") / "template.html").read_text(encoding="utf-8"))
    script = (resources.files("mvad.model.report") / "page.js").read_text(encoding="utf-8")
    each = PICTURES // max(len(runs), 1)
    groups = _by_category(pairs)
    return template.substitute(
        version=escape(__version__),
        headline=headline([result for _, result in pairs]),
        comparisons="".join(comparison([result for _, result in group]) for group in groups),
        scans=on_scans([result for _, result in pairs]),
        charts="".join(_charts(group) for group in groups),
        gallery="".join(gallery(run, result, number, Budget(each)) for number, (run, result) in enumerate(pairs)),
        configurations="".join(_configuration(result) for _, result in pairs),
        script=script,
    )


def _order(result: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return result["dataset"], result["category"], result["model"], result["seed"]


def _by_category(pairs: Sequence[tuple[Path, Any]]) -> list[list[tuple[Path, Any]]]:
    groups: dict[tuple[str, str], list[tuple[Path, Any]]] = {}
    for run, result in pairs:
        groups.setdefault((result["dataset"], result["category"]), []).append((run, result))
    return list(groups.values())


def _charts(group: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    title = f"{group[0][1]['dataset']} / {group[0][1]['category']}"
    roc, precision, pixel, region, losses, missing = (list[Line]() for _ in range(6))
    bars = []
    for run, result in group:
        name = _short(result)
        for lines, level in ((roc, "sample"), (pixel, "pixel"), (region, "region")):
            found = _rates(result["curves"][level])
            if found:
                lines.append((name, *found))
        found = _precision(result["curves"]["sample"])
        if found:
            precision.append((name, *found))
            scores = np.array([s["score"] for s in result["samples"]])
            labels = np.array([s["label"] for s in result["samples"]], dtype=bool)
            bars.append(histogram(f"scores, {name}", [("good", scores[~labels]), ("anomalous", scores[labels])], "score"))
        log = [line for line in files.read_lines(run / METRICS) if "loss" in line]
        if len(log) > 1:
            thin = log[:: max(1, len(log) // 200)]
            steps, values = (np.array([line[key] for line in thin], float) for key in ("step", "loss"))
            losses.append((name, steps, values))
        lost = read_missing_views(run) if is_trained(run) else None
        if lost:
            rows = [row for row in lost["by_missing"] if row["s_auroc_visible"] is not None]
            missing.append(
                (name, np.array([row["missing"] for row in rows], float), np.array([row["s_auroc_visible"] for row in rows]))
            )
    unit = (0.0, 1.0)
    charts = []
    for lines, text, x, y, most in (
        (roc, "ROC by sample", "false positive rate", "true positive rate", 1.0),
        (precision, "precision and recall by sample", "recall", "precision", 1.0),
        (pixel, "ROC by pixel", "false positive rate", "true positive rate", 1.0),
        (region, "PRO, up to 0.3", "false positive rate of pixels", "share of regions", _PRO_LIMIT),
    ):
        if lines:
            charts.append(line_chart(text, lines, x, y, legend_below=True, x_range=(0.0, most), y_range=unit))
    charts += bars
    if losses:
        charts.append(line_chart("training loss", losses, "step", "loss (log)", log_y=True))
    if missing:
        charts.append(
            line_chart(
                "missing views, label of the views left",
                missing,
                "views missing",
                "S-AUROC",
                legend_below=True,
                y_range=(0.5, 1.0),
                marks=True,
            )
        )
    return f"<h3>{escape(title)}</h3><div class=charts>{''.join(charts)}</div>"


def _rates(points: Sequence[Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    counts = np.array(points, float).reshape(-1, 2)
    if not counts[-1].all():
        return None
    return counts[:, 0] / counts[-1, 0], counts[:, 1] / counts[-1, 1]


def _precision(points: Sequence[Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    counts = np.array(points, float).reshape(-1, 2)
    if not counts[-1].all():
        return None
    return counts[1:, 1] / counts[-1, 1], counts[1:, 1] / counts[1:].sum(axis=1)


def _short(result: Mapping[str, Any]) -> str:
    return f"{result['model']} {input_name(result['config'])}, seed {result['seed']}"


def _configuration(result: Mapping[str, Any]) -> str:
    text = json.dumps({"config": result["config"], "teacher": result["teacher"], "machine": result["machine"]}, indent=1)
    name = f"{result['run']} (choices {config_hash(result['config'])})"
    return f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
