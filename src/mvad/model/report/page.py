"""Page of the report: everything is inlined, all names are escaped, the content security policy forbids network access."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvad import __version__, files
from mvad.model.evaluation.missing_views import read_missing_views
from mvad.model.evaluation.results import RESULTS, Results
from mvad.model.evaluation.variants import named_apart
from mvad.model.metrics.pixels import LIMITS
from mvad.model.report.budget import Budget
from mvad.model.report.charts import Line, histogram, line_chart
from mvad.model.report.gallery import gallery
from mvad.model.report.tables import by_rule, comparison, headline, headline_columns, on_scans, poses, without_labels
from mvad.model.report.templates import filled, text_of
from mvad.model.runs import METRICS, RunFolder, config_hash
from mvad.words import counted

PICTURES = 12_500_000
"""Bytes for pictures and clouds on a page, divided between the runs whose samples are shown."""

_PAGE = 14_500_000
"""Bytes of a page; what figures, curves and configurations of many runs take, pictures do not get."""

_LEAST = 750_000
"""Bytes of pictures with which the samples of a run are shown: some ten samples of five views."""

_PRO_LIMIT = LIMITS[0]


def build_page(runs: Sequence[Path]) -> str:
    """Return the HTML of a report on evaluated runs.

    Raises
    ------
    BadInput
        If a run has no readable ``results.json``.
    """
    results = named_apart([Results.read(run / RESULTS) for run in runs])
    pairs = sorted(zip(runs, results, strict=True), key=lambda pair: _order(pair[1]))
    groups, all_results = _by_category(pairs), [result for _, result in pairs]
    texts = {
        "headline": headline(all_results),
        "rules": by_rule(all_results),
        "without_labels": without_labels(pairs),
        "comparisons": "".join(comparison([result for _, result in group]) for group in groups),
        "scans": on_scans(all_results),
        "poses": poses(all_results),
        "charts": "".join(_charts(group) for group in groups),
        "configurations": "".join(_configuration(result) for result in all_results),
    }
    room = min(PICTURES, max(_PAGE - sum(len(text.encode()) for text in texts.values()), _LEAST))
    script = text_of("page.js")
    return filled(
        "template.html", "mvad report", version=escape(__version__), columns=headline_columns(), gallery=_galleries(groups, room),
        script=script, **texts,
    )  # fmt: skip


def _galleries(groups: Sequence[Sequence[tuple[Path, Results]]], room: int) -> str:
    """Return the sections with samples, of all runs where there is room for that, else of as many as have some ten samples each.

    The run of the highest S-AUROC of each category comes before the second of any.
    """
    ranked = [sorted(group, key=lambda pair: -(pair[1].figures["s_auroc"] or 0.0)) for group in groups]
    turns = [pair for turn in itertools.zip_longest(*ranked) for pair in turn if pair is not None]
    chosen = {run for run, _ in turns[: max(room // _LEAST, 1)]}
    shown = [pair for group in groups for pair in group if pair[0] in chosen]
    sections = [gallery(run, result, number, Budget(room // len(shown))) for number, (run, result) in enumerate(shown)]
    left = len(turns) - len(shown)
    if left:
        sections.insert(0, (
            f"<p>Samples of {counted(len(shown), 'run')} of {len(turns)} are shown, those of the highest S-AUROC of each category first; "
            "mvad report RUN makes a page of one run with its samples.</p>"
        ))  # fmt: skip
    return "".join(sections)


def _order(result: Results) -> tuple[str, str, str, int]:
    return result.dataset, result.category, result.model, result.seed


def _by_category(pairs: Sequence[tuple[Path, Results]]) -> list[list[tuple[Path, Results]]]:
    groups: dict[tuple[str, str], list[tuple[Path, Results]]] = {}
    for run, result in pairs:
        groups.setdefault((result.dataset, result.category), []).append((run, result))
    return list(groups.values())


_UNIT = (0.0, 1.0)


def _charts(group: Sequence[tuple[Path, Results]]) -> str:
    title = f"{group[0][1].dataset} / {group[0][1].category}"
    results = [result for _, result in group]
    charts = [
        _rate_chart("ROC by sample", results, "sample", "false positive rate", "true positive rate"),
        _precision_chart(results),
        _rate_chart("ROC by pixel", results, "pixel", "false positive rate", "true positive rate"),
        _rate_chart(
            "PRO, up to 0.3", results, "region", "false positive rate of pixels", "share of regions", _PRO_LIMIT
        ),
        *(_score_histogram(result) for result in results if _precision(result.curves["sample"])),
        _loss_chart(group),
        _missing_chart(group),
    ]  # fmt: skip
    return f"<h3>{escape(title)}</h3><div class=charts>{''.join(charts)}</div>"


def _rate_chart(title: str, results: Sequence[Results], level: str, x: str, y: str, most: float = 1.0) -> str:
    lines: list[Line] = [(_short(r), *rates) for r in results if (rates := _rates(r.curves[level]))]
    return line_chart(title, lines, x, y, x_range=(0.0, most), y_range=_UNIT) if lines else ""


def _precision_chart(results: Sequence[Results]) -> str:
    lines: list[Line] = [(_short(r), *points) for r in results if (points := _precision(r.curves["sample"]))]
    title = "precision and recall by sample"
    return line_chart(title, lines, "recall", "precision", x_range=_UNIT, y_range=_UNIT) if lines else ""


def _score_histogram(result: Results) -> str:
    scores = np.array([s.score for s in result.samples])
    labels = np.array([s.label for s in result.samples], dtype=bool)
    return histogram(f"scores of {_short(result)}", [("good", scores[~labels]), ("anomalous", scores[labels])], "score")


def _loss_chart(group: Sequence[tuple[Path, Results]]) -> str:
    lines: list[Line] = []
    for run, result in group:
        log = [line for line in files.read_lines(run / METRICS) if "loss" in line]
        if len(log) > 1:
            thin = log[:: max(1, len(log) // 200)]
            steps, values = (np.array([line[name] for line in thin], float) for name in ("step", "loss"))
            lines.append((_short(result), steps, values))
    return line_chart("training loss", lines, "step", "loss (log)", log_y=True) if lines else ""


def _missing_chart(group: Sequence[tuple[Path, Results]]) -> str:
    lines: list[Line] = []
    for run, result in group:
        folder = RunFolder(run)
        lost = read_missing_views(folder, result.test_shards) if folder.is_trained else None
        rows = [row for row in lost.by_missing if row.s_auroc_visible is not None] if lost else []
        if rows:
            lines.append(
                (_short(result), np.array([row.missing for row in rows], float), np.array([row.s_auroc_visible for row in rows]))
            )
    if not lines:
        return ""
    return line_chart(
        "missing views, label of the views left",
        lines,
        "views missing",
        "S-AUROC",
        y_range=(0.5, 1.0),
        marks=True,
    )


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


def _short(result: Results) -> str:
    return f"{result.model} {result.input_name}, {result.variant + ', ' if result.variant else ''}seed {result.seed}"


def _configuration(result: Results) -> str:
    teacher = {"name": result.teacher, "sha256": result.teacher_sha256}
    text = json.dumps({"config": dict(result.config), "teacher": teacher, "machine": dict(result.machine)}, indent=1)
    name = f"{result.run} (choices {config_hash(result.config)})"
    return f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
