"""Build the page: everything inlined, every name from outside escaped, no network allowed by its own policy."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mvad import __version__, files
from mvad.model.judging.paper_figures import paper_s_auroc
from mvad.model.judging.runs import METRICS, RESULTS, config_hash, input_name
from mvad.model.methods import backbone
from mvad.model.metrics.auroc import roc_curve
from mvad.model.report.charts import histogram, line_chart

MAX_PICTURES = 240
"""A strip is about 40 kB: this many keep the page under 15 MB."""


def build_page(runs: Sequence[Path]) -> str:
    """Return the HTML of a report on judged runs.

    Raises
    ------
    BadInput
        If a run has no readable ``results.json``.
    """
    results = [files.read_sealed_json(run / RESULTS, 'results; "mvad evaluate" writes them', "evaluate again") for run in runs]
    pairs = sorted(zip(runs, results, strict=True), key=lambda pair: _order(pair[1]))
    template = Template((resources.files("mvad.model.report") / "template.html").read_text(encoding="utf-8"))
    each = max(4, MAX_PICTURES // max(len(runs), 1))
    return template.substitute(
        version=escape(__version__),
        headline=_headline([result for _, result in pairs]),
        charts="".join(_charts(group) for group in _by_category(pairs)),
        gallery="".join(_gallery(run, result, each) for run, result in pairs),
        configurations="".join(_configuration(result) for _, result in pairs),
    )


def _order(result: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return result["dataset"], result["category"], result["model"], result["seed"]


def _by_category(pairs: Sequence[tuple[Path, Any]]) -> list[list[tuple[Path, Any]]]:
    groups: dict[tuple[str, str], list[tuple[Path, Any]]] = {}
    for run, result in pairs:
        groups.setdefault((result["dataset"], result["category"]), []).append((run, result))
    return list(groups.values())


def _headline(results: Sequence[Mapping[str, Any]]) -> str:
    """Rows of dataset, category, model: mean and deviation over seeds, the paper's figure, what it was made with."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for r in results:
        setting = input_name(r["config"])
        groups.setdefault((r["dataset"], r["category"], r["model"], r["teacher"]["name"], setting), []).append(r)
    rows = []
    for (dataset, category, model, teacher, setting), group in groups.items():
        paper = paper_s_auroc(dataset, category, model)
        cells = [f"{dataset} / {category}", model, backbone(model, teacher), setting, str(len(group))]
        cells += [_mean(group, name) for name in ("s_auroc", "image_auroc", "p_auroc")]
        cells += [
            "" if paper is None else f"{paper:.1f}",
            str(group[0].get("training_samples") or ""),
            str(group[0]["figures"]["samples"]),
        ]
        defects = ", ".join(f"{name} {_percent(value)}" for name, value in group[0]["figures"]["s_auroc_by_defect"].items())
        rows.append(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td class=small>{escape(defects)}</td></tr>"
        )
    return "".join(rows)


def _mean(group: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [100 * r["figures"][name] for r in group if r["figures"][name] is not None]
    if not values:
        return "-"
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _charts(group: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    title = f"{group[0][1]['dataset']} / {group[0][1]['category']}"
    curves, losses = [], []
    charts = []
    for run, result in group:
        name = _short(result)
        scores = np.array([s["score"] for s in result["samples"]])
        labels = np.array([s["label"] for s in result["samples"]], dtype=bool)
        if labels.any() and not labels.all():
            curves.append((name, *roc_curve(scores, labels)))
            charts.append(histogram(f"scores, {name}", [("good", scores[~labels]), ("anomalous", scores[labels])], "score"))
        log = [line for line in files.read_lines(run / METRICS) if "loss" in line]
        if len(log) > 1:
            thin = log[:: max(1, len(log) // 200)]
            losses.append(
                (name, np.array([line["step"] for line in thin], float), np.array([line["loss"] for line in thin], float))
            )
    if curves:
        charts.insert(0, line_chart("ROC by sample", curves, "false positive rate", "true positive rate", legend_below=True))
    if losses:
        charts.append(line_chart("training loss", losses, "step", "loss (log)", log_y=True))
    return f"<h3>{escape(title)}</h3><div class=charts>{''.join(charts)}</div>"


def _short(result: Mapping[str, Any]) -> str:
    return f"{result['model']} {input_name(result['config'])}, seed {result['seed']}"


def _gallery(run: Path, result: Mapping[str, Any], limit: int) -> str:
    """Show the highest good and lowest anomalous scores first: where the detector errs."""
    samples = sorted(result["samples"], key=lambda s: -s["score"] if not s["label"] else s["score"])
    good, bad = ([s for s in samples if s["label"] == label][: limit // 2] for label in (False, True))
    figures = []
    for sample in bad + good:
        picture = files.inside(run, sample["picture"])
        data = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else ""
        caption = f"{sample['key']}: {sample['score']:.3f}"
        kind = "bad" if sample["label"] else "good"
        figures.append(
            f'<figure class={kind} data-score="{sample["score"]:.6f}" data-label="{int(sample["label"])}">'
            f'<img loading=lazy alt="{escape(caption)}" src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    return (
        f"<details><summary>{escape(result['run'])}, {len(figures)} of {len(samples)} samples</summary>"
        "<p class=sort>Sort by <button type=button data-by=error>error</button> <button type=button data-by=score>score</button></p>"
        f"<div class=gallery>{''.join(figures)}</div></details>"
    )


def _configuration(result: Mapping[str, Any]) -> str:
    text = json.dumps({"config": result["config"], "teacher": result["teacher"], "machine": result["machine"]}, indent=1)
    name = f"{result['run']} (choices {config_hash(result['config'])})"
    return f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
