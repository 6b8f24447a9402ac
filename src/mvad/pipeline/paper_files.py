"""Files of reproduced tables: Markdown, JSON, and an SVG of Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mvad import files

if TYPE_CHECKING:
    from mvad.model.paper.rows import Curves, MissingRow, Row

MAIN_COLUMNS = (
    "dataset",
    "category",
    "method",
    "S-AUROC",
    "95 %",
    "paper",
    "difference",
    "verdict",
    "P-AUROC",
    "paper's P",
    "source",
    "protocol",
)


def write_table(target: Path, title: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Write a reproduced table to ``target.md`` and ``target.json``."""
    _markdown(target, title, MAIN_COLUMNS, [main_cells(row) for row in rows], notes)
    files.write_sealed_json(
        target.with_suffix(".json"), {"title": title, "rows": [asdict(row) for row in rows], "notes": list(notes)}
    )


def write_figure_4(target: Path, title: str, rows: Sequence[MissingRow], curves: Curves, notes: Sequence[str]) -> None:
    """Write Figure 4 to ``target.md``, ``target.json`` and, where there is a curve, ``target.svg``."""
    from mvad.model.report.charts import chart_of_points, standalone

    _markdown(target, title, FIGURE_4_COLUMNS, [figure_4_cells(row) for row in rows], notes)
    files.write_sealed_json(
        target.with_suffix(".json"),
        {"title": title, "rows": [asdict(row) for row in rows], "curves": dict(curves), "notes": list(notes)},
    )
    if curves:
        files.write_text(
            target.with_suffix(".svg"), standalone(chart_of_points(title, curves, "views missing", "S-AUROC, percent"))
        )


FIGURE_4_COLUMNS = (
    "method",
    "missing",
    "ours, label of the views left",
    "ours, full label",
    "by ends (both)",
    "paper",
    "protocol",
)


def figure_4_cells(row: MissingRow) -> list[str]:
    """Return the cells of a row of Figure 4 as text."""
    digits = 2 if row.is_loss else 1
    ends = [number(value, 2) for value in (row.visible_by_ends, row.full_by_ends)] if row.is_loss else []
    return [
        row.method, str(row.missing), number(row.visible, digits), number(row.full, digits), ", ".join(ends),
        number(row.paper, digits), row.protocol,
    ]  # fmt: skip


def main_cells(row: Row) -> list[str]:
    """Return the cells of a row of Table 1, 2 or 3 as text."""
    deviation = "" if row.deviation is None else f" +- {row.deviation:.1f}"
    ours = number(row.ours) + (f"{deviation} ({row.seeds} seed{'s' * (row.seeds > 1)})" if row.ours is not None else "")
    difference = "" if row.difference is None else f"{row.difference:+.1f}"
    pixels = number(row.p_auroc) + (f" ({_interval(row.p_interval)})" if row.p_interval else "")
    return [
        row.dataset, row.category, row.method, ours, _interval(row.interval), number(row.paper), difference, row.verdict, pixels,
        number(row.paper_p_auroc), row.source, row.protocol,
    ]  # fmt: skip


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def number(value: float | None, digits: int = 1) -> str:
    """Return a figure as text, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def _markdown(target: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    lines = [f"# {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes), ""]
    files.write_text(target.with_suffix(".md"), "\n".join(lines))
