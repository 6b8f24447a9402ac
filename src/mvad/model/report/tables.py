"""The page's tables: figures, methods against each other, what maps are worth on the scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mvad.model.evaluation.compare import Results, difference, mean_figures, same_samples
from mvad.model.metrics.bootstrap import verdict
from mvad.model.paper.tables import paper_s_auroc
from mvad.model.registry import backbone
from mvad.model.runs import input_name


def headline(results: Sequence[Results]) -> str:
    """Return rows of dataset, category, model: means over seeds with intervals, the paper's figure, what it was made with."""
    rows = []
    for (dataset, category, model, teacher, spec, _), group in _by_method(results).items():
        paper, means, first = paper_s_auroc(dataset, category, model), mean_figures(group), group[0]["figures"]
        bounds = means["intervals"]
        against = (
            verdict(bounds["s_auroc"][0], bounds["s_auroc"][1], paper / 100) if paper is not None and "s_auroc" in bounds else ""
        )
        train = group[0].get("training_samples")
        cells = [
            _two(category, dataset), _two(model, backbone(model, teacher)), _two(spec, f"{len(group)} seed" + "s" * (len(group) > 1)),
            *(_two(_mean(group, name), _interval(bounds.get(name))) for name in ("s_auroc", "image_auroc", "p_auroc")),
            *(_two(_mean(group, name)) for name in ("aupro_30", "s_ap", "s_f1_max")),
            _two("" if paper is None else f"{paper:.1f}", against), _two(str(first["samples"]), f"of {train} train" if train else ""),
        ]  # fmt: skip
        defects = ", ".join(f"{name} {_percent(value)}" for name, value in first["s_auroc_by_defect"].items())
        rows.append(_cells(cells, f"<td class=small>{escape(defects)}</td>"))
    return "".join(rows)


def comparison(results: Sequence[Results]) -> str:
    """Return rows of every pair of methods of a category that were evaluated on the same samples."""
    groups = list(_by_method(results).items())
    rows = []
    for k, (first, one) in enumerate(groups):
        for second, other in groups[k + 1 :]:
            found = difference(one, other) if same_samples(one[0], other[0]) else None
            if found is None:
                continue
            names = [f"{key[2]} {key[4]}" + (f", {key[3]}" if first[3] != second[3] else "") for key in (first, second)]
            points = f"{100 * found.mean:+.1f}", f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
            rows.append(_cells([escape(c) for c in (f"{first[0]} / {first[1]}", *names, *points, found.verdict)]))
    return "".join(rows)


def on_scans(results: Sequence[Results]) -> str:
    """Return a section on what maps are worth on the scans' own grid, or nothing where none was carried back."""
    rows = []
    for r in results:
        for rule, found in _scan_figures(r).items():
            about = [escape(cell) for cell in (f"{r['dataset']} / {r['category']}", r["run"], rule)]
            areas = [_two(_percent(found[name]), _interval(found["intervals"][name])) for name in ("i_auroc", "p_auroc")]
            rows.append(_cells([*about, *areas, *(_percent(found[name]) for name in ("aupro_30", "aupro_01"))]))
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("category", "run", "fused", "image AUROC", "P-AUROC", "AUPRO@30", "AUPRO@1"))
    return (
        "<h2>On the scans</h2><p class=dim>Maps of all views carried back to the grid of the raw scan and evaluated by MVTec 3D-AD's "
        "protocol, all pixels of the grid.</p>"
        f'<div class="wide"><table class="figures from4"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _scan_figures(result: Results) -> Mapping[str, Mapping[str, Any]]:
    """Return the figures on scans by rule of fusing; maps that were made on the scan have one rule."""
    if result.get("protocol") != "scan":
        found: Mapping[str, Mapping[str, Any]] = result.get("scan", {}).get("figures", {})
        return found
    figures = result["figures"]
    intervals = {"i_auroc": figures["intervals"]["s_auroc"], "p_auroc": figures["intervals"]["p_auroc"]}
    return {"its own map": {**figures, "i_auroc": figures["s_auroc"], "intervals": intervals}}


def _by_method(results: Sequence[Results]) -> dict[tuple[str, ...], list[Results]]:
    """Group runs that differ in their seed only."""
    groups: dict[tuple[str, ...], list[Results]] = {}
    for r in results:
        choices = json.dumps({key: value for key, value in r["config"].items() if key != "seed"}, sort_keys=True)
        key = (r["dataset"], r["category"], r["model"], r["teacher"]["name"], input_name(r["config"]), choices)
        groups.setdefault(key, []).append(r)
    return groups


def _cells(cells: Sequence[str], more: str = "") -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + more + "</tr>"


def _mean(group: Sequence[Results], name: str) -> str:
    values = [100 * r["figures"][name] for r in group if r["figures"].get(name) is not None]
    if not values:
        return "-"
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _two(text: str, below: str = "") -> str:
    """Return the inside of a cell: something, and something smaller below it."""
    return escape(text) + (f"<br><small>{escape(below)}</small>" if below else "")


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
