"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

_COLUMNS = ("s_auroc", "image_auroc", "p_auroc")


def figures_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row a run, and a mean for each model that ran more than once."""
    from mvad.model.judging.evaluate import mean_figures

    table = Table(title="AUROC in percent", title_justify="left")
    for name in ("dataset", "category", "model", "seed", "teacher"):
        table.add_column(name)
    for name in ("S-AUROC", "image", "P-AUROC", "test"):
        table.add_column(name, justify="right")
    ordered = sorted(results, key=lambda r: (r["dataset"], r["category"], r["model"], r["seed"]))
    for result in ordered:
        figures = result["figures"]
        head = (result["dataset"], result["category"], result["model"], str(result["seed"]), result["teacher"]["name"])
        table.add_row(*head, *(_percent(figures[name]) for name in _COLUMNS), str(figures["samples"]))
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for result in ordered:
        by_model.setdefault(result["model"], []).append(result)
    repeated = {model: runs for model, runs in by_model.items() if len(runs) > 1}
    for number, (model, runs) in enumerate(sorted(repeated.items())):
        if number == 0:
            table.add_section()
        means = mean_figures(runs)
        table.add_row("mean", f"{len(runs)} runs", model, "", "", *(_percent(means[name]) for name in _COLUMNS), "")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
