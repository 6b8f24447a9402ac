"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

_FIGURES = ("s_auroc", "image_auroc", "p_auroc")


def figures_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return one table a teacher, since figures under different teachers do not compare.

    A row a run; below, a mean for each model and input that ran more than once.
    """
    from mvad.model.judging.evaluate import mean_figures

    tables = []
    for teacher in sorted({result["teacher"]["name"] for result in results}):
        table = Table(
            title=f"AUROC in percent, teacher {teacher}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for name in ("category", "model", "input", "seed"):
            table.add_column(name, overflow="fold")
        for name in ("S-AUROC", "image", "P-AUROC", "test"):
            table.add_column(name, justify="right", no_wrap=True)
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for result in sorted(results, key=lambda r: (r["dataset"], r["category"], _method(r), r["seed"])):
            if result["teacher"]["name"] == teacher:
                table.add_row(
                    f"{result['dataset']}\n{result['category']}",
                    *_method(result),
                    str(result["seed"]),
                    *_row(result["figures"]),
                    str(result["figures"]["samples"]),
                )
                groups.setdefault(_method(result), []).append(result)
        repeated = {method: runs for method, runs in groups.items() if len(runs) > 1}
        if repeated:
            table.add_section()
        for method, runs in sorted(repeated.items()):
            table.add_row(f"mean of {len(runs)}", *method, "", *_row(mean_figures(runs)), "")
        tables.append(table)
    return tables


def _method(result: Mapping[str, Any]) -> tuple[str, str]:
    from mvad.model.judging.runs import input_name

    return result["model"], input_name(result["config"])


def _row(figures: Mapping[str, Any]) -> list[str]:
    return ["-" if figures[name] is None else f"{100 * figures[name]:.1f}" for name in _FIGURES]
