"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mvad.datasets.shards.contents import SplitCounts
    from mvad.model.choices import Explanation

_SHARES = (("seen_any", "seen"), ("no_point", "missing"), ("removed", "removed"), ("unseen", "hidden"))
_FIGURES = ("s_auroc", "image_auroc", "p_auroc")


def figures_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return one table a teacher, since figures under different teachers do not compare.

    A row a run; below, a mean for each model and input that ran more than once.
    """
    from mvad.model.judging.evaluate import mean_figures

    tables = []
    for teacher in sorted({result["teacher"]["name"] for result in results}):
        table = _table(
            f"AUROC in percent, backbone {teacher} (below each model its paper's)", "category", "model", "input", "seed"
        )
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
    from mvad.model.methods import paper_backbone

    shown = f", views {'+'.join(map(str, result['views']))}" if "views" in result else ""
    return f"{result['model']}\n({paper_backbone(result['model'])})", input_name(result["config"]) + shown


def _row(figures: Mapping[str, Any]) -> list[str]:
    return ["-" if figures[name] is None else f"{100 * figures[name]:.1f}" for name in _FIGURES]


def audit_tables(audits: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return what was removed from each rendered category, and what became of its ground truth, view by view.

    A part of the background that no category has is left out.
    """
    backgrounds = {category: audit["background"] | audit["background"]["removed_as"] for category, audit in audits.items()}
    parts = dict.fromkeys(part for audit in audits.values() for part in audit["background"]["removed_as"])
    shown = ["missing", *(part for part in parts if any(points[part] for points in backgrounds.values())), "object", "filled"]
    removed = _table("What the scans held, percent of the grid", "category", "n")
    for name in shown:
        removed.add_column(name, justify="right", no_wrap=True)
    for category, points in backgrounds.items():
        held = [points[name] / max(points["grid"], 1) for name in shown]
        removed.add_row(category, str(points["scans"]), *_percent(held))
    with_defects = {category: audit for category, audit in audits.items() if audit["samples_with_defect"]}
    views = max((len(audit["views"]) for audit in with_defects.values()), default=0)
    seen = _table("What became of the ground truth, percent of its pixels", "category", "n")
    for name in [text for _, text in _SHARES] + [f"v{k}" for k in range(views)]:
        seen.add_column(name, justify="right", no_wrap=True)
    for category, audit in with_defects.items():
        shares = [audit[name] / audit["total"] for name, _ in _SHARES] + [view["seen"] for view in audit["views"]]
        seen.add_row(category, str(audit["samples_with_defect"]), *_percent(shares))
    return [table for table in (removed, seen) if table.row_count]


def _percent(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("category", "n"))
    return table


def contents_table(rows: Sequence[SplitCounts]) -> Table:
    """Return what there is to pack; a number a view where that is known without opening images."""
    views = list(dict.fromkeys(view for row in rows for view in row.anomalous_views))
    table = _table("To pack; bad: samples with a defect" + (", then views that show it" if views else ""), "category")
    table.add_column("split", no_wrap=True)
    for name in ("n", "images", "bad", *views):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts = [str(row.anomalous_views.get(view, "")) for view in views]
        table.add_row(f"{row.dataset}/{row.category}", row.split, str(row.samples), str(row.images), str(row.anomalous), *counts)
    return table


def shard_tables(
    attributes: Sequence[tuple[str, str]], fields: Sequence[tuple[str, ...]], samples: Sequence[tuple[str, ...]]
) -> list[Table]:
    """Return a shard's attributes, fields and counts."""
    tables = [
        _table("Attributes", "name", "value"),
        _table("Fields", "name", "shape", "type", "filter", "on disk"),
        _table("What they hold", "name", "meaning"),
        _table("Samples", "defect", "samples", "views that show it, of those present"),
    ]
    for column in tables[1].columns:
        column.no_wrap = True
    meanings = [(row[0], row[-1]) for row in fields]
    contents: list[Sequence[Sequence[str]]] = [attributes, [row[:-1] for row in fields], meanings, samples]
    for table, rows in zip(tables, contents, strict=True):
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # not markup: names come from a file
    return tables


def choices_table(explanations: Sequence[Explanation]) -> Table:
    """Return every key with its default and what the paper says."""
    table = _table("Choices; mvad explain KEY tells the reason and the alternatives", "key", "default", "paper")
    for found in explanations:
        table.add_row(Text(found.key), Text(str(found.default)), Text(found.paper))
    return table


def invisible_lines(audit: Mapping[str, Any]) -> list[str]:
    """Return a line that names the samples whose defect no view shows, or none."""
    missing = audit["invisible"]
    return [f"no view shows the defect of {', '.join(missing)}"] if missing else []
