"""Tables of results, audits and keys for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mvad.cli.contents import plain_table

if TYPE_CHECKING:
    from mvad.model.evaluation.missing_views import MissingViews
    from mvad.model.evaluation.results import Figures, Results
    from mvad.model.explain import Explanation
    from mvad.model.paper.rows import MissingRow, Row
    from mvad.model.runs import RunFolder

_NAMED = 12
_VISIBLE = 1e-4
"""An error of a figure in 0..1 that is told."""

_SHARES = (("seen_any", "seen"), ("no_point", "missing"), ("removed", "removed"), ("unseen", "hidden"))


def figures_tables(results: Sequence[Results]) -> list[Table]:
    """Return one table per teacher, since figures under different teachers are not comparable.

    A table has one row per run, and below a mean for each model and input with more than one run.
    """
    from mvad.model.evaluation.compare import mean_figures
    from mvad.model.evaluation.variants import named_apart
    from mvad.model.metrics.table import metrics

    results = named_apart(results)
    tables = []
    for teacher in sorted({result.teacher for result in results}):
        table = plain_table(
            f"Percent, below each AUROC its 95 % interval; backbone {teacher} (below each model its paper's); S-AUROC by the run's own rule",
            "category", "model", "input", "seed",
        )  # fmt: skip
        for name in (*(metric.title for metric in metrics() if metric.terminal), "test"):
            table.add_column(name, justify="right", no_wrap=True)
        groups: dict[tuple[str, str], list[Results]] = {}
        for result in sorted(results, key=lambda r: (r.dataset, r.category, _method(r), r.seed)):
            if result.teacher == teacher:
                about = (f"{result.dataset}\n{result.category}", *_method(result), str(result.seed))
                table.add_row(*map(Text, about), *_row(result.figures), str(result.figures.samples))
                groups.setdefault(_method(result), []).append(result)
        repeated = {method: runs for method, runs in groups.items() if len(runs) > 1}
        if repeated:
            table.add_section()
        for method, runs in sorted(repeated.items()):
            table.add_row(f"mean of {len(runs)}", *map(Text, method), "", *_row(mean_figures(runs)), "")
        tables.append(table)
    return tables


def _method(result: Results) -> tuple[str, str]:
    from mvad.model.registry import paper_backbone

    shown = f", views {'+'.join(map(str, result.views))}" if result.views else ""
    named = "".join(f"\n{part}" for part in result.variant.split(", ") if part)
    return f"{result.model}{named}\n({paper_backbone(result.model)})", result.input_name + shown


def _row(figures: Figures) -> list[str]:
    from mvad.model.metrics.table import metrics

    return [
        with_interval(figures[metric.name], figures.intervals.get(metric.name), "\n", metric.digits)
        for metric in metrics()
        if metric.terminal
    ]


def with_interval(value: float | None, bounds: Sequence[float] | None, between: str = " ", digits: int = 1) -> str:
    """Return a share in percent, followed by its interval."""
    if value is None:
        return "-"
    return f"{100 * value:.{digits}f}" + (f"{between}{100 * bounds[0]:.0f}-{100 * bounds[1]:.0f}" if bounds else "")


def rule_table(results: Sequence[Results]) -> list[Table]:
    """Return a table of each run's rule from views to sample and what its scores are standardised by, with every rule's S-AUROC.

    Empty where the results do not say, as those of imported maps.
    """
    from mvad.model.evaluation.variants import named_apart

    table = plain_table("S-AUROC by rule from views to sample, percent; the table above shows the rule of each run", "category")
    for name in ("model", "shown above", "standardised by"):
        table.add_column(name, overflow="fold")
    results = named_apart(results)
    rules = list(dict.fromkeys(rule for result in results for rule in result.rules))
    for rule in rules:
        table.add_column(rule, justify="right", no_wrap=True)
    for result in sorted(results, key=lambda r: (r.dataset, r.category, _method(r), r.seed)):
        if result.rules:
            figures = [result.rules[rule] for rule in rules]
            cells = [with_interval(figure.s_auroc, figure.interval, "\n") for figure in figures]
            about = "\n".join(filter(None, (result.model, result.variant, f"{result.input_name}, seed {result.seed}")))
            table.add_row(Text(f"{result.dataset}\n{result.category}"), Text(about), result.rule, result.standardised_by, *cells)
    return [table] if table.row_count else []


def label_free_tables(runs: Iterable[RunFolder]) -> list[Table]:
    """Return a table of the label-free figures of finished runs; empty where none of them held out samples."""
    from mvad.model.label_free import COLUMNS, figure_cells

    table = plain_table(
        "Figures without labels on held-out training samples (n), percent but for M1 and M4; M5 by rule: max / top2 / mean", "run"
    )
    for column in COLUMNS:
        table.add_column(column.heading, justify="right")
    for run in runs:
        figures = run.label_free
        if figures is not None:
            table.add_row(Text(run.name), *figure_cells(figures))
    return [table] if table.row_count else []


def scan_table(results: Sequence[Results]) -> list[Table]:
    """Return a table of the figures on the raw scans, one row per run and rule of fusion; empty where no map was projected."""
    from mvad.model.evaluation.variants import named_apart
    from mvad.model.metrics.table import metrics

    shown = [metric for metric in metrics() if metric.on_scans_title]
    table = plain_table("On the scans' own grid (MVTec 3D-AD's protocol), percent", "category", "model", "fused")
    for metric in shown:
        table.add_column(metric.on_scans_title, justify="right", no_wrap=True)
    for result in named_apart(results):
        for rule, figures in result.scan.figures.items() if result.scan else ():
            cells = [with_interval(figures[m.on_scans], figures.intervals.get(m.on_scans), "\n", m.digits) for m in shown]
            named = "\n".join(filter(None, (result.model, result.variant)))
            table.add_row(Text(f"{result.dataset}\n{result.category}"), Text(named), rule, *cells)
    return [table] if table.row_count else []


def missing_tables(evaluated: Sequence[MissingViews]) -> list[Table]:
    """Return one table per run on missing views: means by number of missing views, loss per view, share of each view."""
    from mvad.model.evaluation.missing_views import FULL, VISIBLE

    tables = []
    for result in evaluated:
        text = "; ".join(
            f"{name} {100 * result.loss_per_view[rule]['slope']:.2f} by slope, {100 * result.loss_per_view[rule]['ends']:.2f} by ends"
            for rule, name in ((VISIBLE, "label of the views left"), (FULL, "full label"))
            if rule in result.loss_per_view
        )
        table = plain_table(
            f"Missing views of {result.run}: S-AUROC, percent. Points lost per view: {text}", "missing", "subsets"
        )
        for name in ("label of the views left", "full label", "full label, oracle"):
            table.add_column(name, justify="right")
        for row in result.by_missing:
            cells = [with_interval(value, None) for value in (row.s_auroc_visible, row.s_auroc_full, row.oracle_full)]
            table.add_row(str(row.missing), str(row.subsets), *cells)
        shares = ", ".join(f"{k}: {100 * share:+.1f}" for k, share in enumerate(result.shares or ()))
        table.caption = result.formula + (f"; shares of the views: {shares}" if shares else "")
        table.caption_justify = "left"
        tables.append(table)
    return tables


def paper_tables(rows: Sequence[Row], title: str) -> list[Table]:
    """Return a reproduced table with our figures and the paper's, one table per dataset."""
    from mvad.pipeline.paper_files import main_cells

    tables = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        table = plain_table(f"{title}; {dataset}; AUROC in percent", "category", "method")
        for name in ("S-AUROC", "95 %", "paper", "diff."):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", overflow="fold")
        for name in ("P-AUROC", "paper") if any(row.paper_p_auroc is not None for row in rows) else ():
            table.add_column(name, justify="right")
        for name in ("source", "protocol"):
            table.add_column(name, overflow="fold")
        for row in rows:
            if row.dataset == dataset:
                cells = main_cells(row)
                pixels = cells[8:10] if any(other.paper_p_auroc is not None for other in rows) else []
                table.add_row(*cells[1:8], *pixels, *cells[10:])
        tables.append(table)
    return tables


def figure_4_table(rows: Sequence[MissingRow], title: str) -> Table:
    """Return Figure 4 as a table: our figures under both label rules, and the paper's."""
    from mvad.pipeline.paper_files import FIGURE_4_COLUMNS, figure_4_cells

    table = plain_table(title, *FIGURE_4_COLUMNS[:2])
    for name in FIGURE_4_COLUMNS[2:6]:
        table.add_column(name, justify="right")
    table.add_column("protocol", overflow="fold")
    for row in rows:
        *cells, protocol = figure_4_cells(row)
        table.add_row(*cells, protocol if row.is_loss else "", end_section=row.is_loss)
    return table


def audit_tables(audits: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return two tables on rendered categories: removed points, and visibility of the ground truth by view.

    Kinds of background that no category has are left out.
    """
    backgrounds = {category: audit["background"] | audit["background"]["removed_as"] for category, audit in audits.items()}
    parts = dict.fromkeys(part for audit in audits.values() for part in audit["background"]["removed_as"])
    shown = ["missing", *(part for part in parts if any(points[part] for points in backgrounds.values())), "object", "filled"]
    removed = plain_table("What the scans held, percent of the grid", "category", "n")
    for name in shown:
        removed.add_column(name, justify="right", no_wrap=True)
    for category, points in backgrounds.items():
        held = [points[name] / max(points["grid"], 1) for name in shown]
        removed.add_row(Text(category), str(points["scans"]), *_percent(held))
    with_defects = {category: audit for category, audit in audits.items() if audit["samples_with_defect"]}
    views = max((len(audit["views"]) for audit in with_defects.values()), default=0)
    seen = plain_table("What became of the ground truth, percent of its pixels", "category", "n")
    for name in [text for _, text in _SHARES] + [f"v{k}" for k in range(views)]:
        seen.add_column(name, justify="right", no_wrap=True)
    for category, audit in with_defects.items():
        shares = [audit[name] / audit["total"] for name, _ in _SHARES] + [view["seen"] for view in audit["views"]]
        seen.add_row(Text(category), str(audit["samples_with_defect"]), *_percent(shares))
    return [table for table in (removed, seen) if table.row_count]


def bound_lines(results: Sequence[Results]) -> list[str]:
    """Return a line for each run with a pixel figure that counting in bins may have changed visibly."""
    lines = []
    for result in results:
        on_scan = [figures.error_bounds for figures in result.scan.figures.values()] if result.scan else []
        worst = max((bound for bounds in (result.figures.error_bounds, *on_scan) for bound in bounds.values()), default=0.0)
        if worst > _VISIBLE:
            lines.append(
                f"notice: {result.run}: pixel figures may be off by {100 * worst:.2g} points: more pixels than can be kept, of which "
                "the later ones score unlike the earlier; results.json has the bounds"
            )
    return lines


def pose_table(categories: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return a table of how the objects lay, one row for each stable pose; empty where all cameras stand in the sensor's frame.

    At 80 columns no cell is cut off.
    """
    table = plain_table(
        "How the objects lay: stable poses, how exactly their turns are known; the fit is over all poses", "category"
    )
    for name in ("pose", "n", "template", "turn", "spread", "fit", "least"):
        table.add_column(name, justify="right", no_wrap=name not in ("pose", "turn"), overflow="fold")
    for category, summary in categories.items():
        for pose in summary.get("poses", ()):
            mirrored = "" if pose["mirror_of"] is None else f" mirror of {pose['mirror_of']}"
            turn = {0: "none", 1: "any"}.get(pose["order"], f"up to 1/{pose['order']}")
            spread = "" if pose["spread_deg"] is None else f"{pose['spread_deg']:.2f}°"
            fit = ["", ""] if summary["fit"] is None else [f"{100 * summary['fit'][1]:.1f}", f"{100 * summary['fit'][0]:.1f}"]
            template = f"{pose['training_scans']} scans" if pose["training_scans"] else "none"
            table.add_row(Text(category), f"{pose['number']}{mirrored}", str(pose["samples"]), template, turn, spread, *fit)
    return [table] if table.row_count else []


def pose_lines(summary: Mapping[str, Any], listed_in: str = "manifest.json") -> list[str]:
    """Return lines on what is unusual about poses: no template, scans that fit none, objects that are cut off.

    ``summary`` has ``note``, ``unfit`` and ``cut`` of ``summarise_poses``; the file ``listed_in`` names all where lines do not.
    """
    lines = [f"notice: {summary['note']}"] if summary.get("note") else []
    if summary.get("unfit"):
        lines.append(f"notice: fits no stable pose well: {_listed(summary['unfit'], listed_in)}")
    if summary.get("cut"):
        cut = [f"{key} (view {', '.join(map(str, views))})" for key, views in summary["cut"].items()]
        lines.append(f"notice: reaches beyond the picture: {_listed(cut, listed_in)}")
    return lines


def _listed(names: Sequence[str], file: str) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more ({file} has all)"


def _percent(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def shard_tables(
    attributes: Sequence[tuple[str, str]], fields: Sequence[tuple[str, ...]], samples: Sequence[tuple[str, ...]]
) -> list[Table]:
    """Return tables of a shard's attributes, fields, their meanings, and its numbers of samples."""
    tables = [
        plain_table("Attributes", "name", "value"),
        plain_table("Fields", "name", "shape", "type", "filter", "on disk"),
        plain_table("What they hold", "name", "meaning"),
        plain_table("Samples", "defect", "samples", "views that show it, of those present"),
    ]
    for column in tables[1].columns:
        column.no_wrap = True
    meanings = [(row[0], row[-1]) for row in fields]
    contents: list[Sequence[Sequence[str]]] = [attributes, [row[:-1] for row in fields], meanings, samples]
    for table, rows in zip(tables, contents, strict=True):
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # not markup: names come from a file
    return tables


def choices_table(verb: str, explanations: Sequence[Explanation]) -> Table:
    """Return a table of the keys of a command with their defaults, and what the paper says where there is one."""
    said = "paper" if any(key.paper for key in explanations) else "meaning"
    table = plain_table(f"Keys of mvad {verb}; mvad explain KEY shows the reason and the alternatives", "key", "default", said)
    for key in explanations:
        table.add_row(Text(key.name), Text(str(key.default)), Text(key.paper if said == "paper" else key.why))
    return table


def status_tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    """Return tables of what ``pipeline.status.status_of`` found: raw data, renders, shards, runs; empty ones are left out."""
    from mvad.datasets.scan import SPLITS

    raw = plain_table("Raw data", "dataset", "categories")
    for row in found["raw"]:
        raw.add_row(row["dataset"], Text(", ".join(row["categories"])))
    tables = [raw]
    for name in ("renders", "shards"):
        splits = [split for split in SPLITS if any(split in row["samples"] for row in found[name])]
        table = plain_table(f"{name.capitalize()}, samples by split", "dataset", "category", "state", "views")
        for heading in (*splits, "missing", *(["failed"] if name == "renders" else ["MB"])):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in found[name]:
            last = str(row["failed"]) if name == "renders" else f"{row.get('bytes', 0) / 1e6:.1f}"
            counts = [str(row["samples"].get(split, 0)) for split in splits]
            table.add_row(
                row["dataset"],
                Text(row["category"]),
                row["state"],
                str(row.get("views", "")),
                *counts,
                str(row.get("missing", "")),
                last,
            )
        tables.append(table)
    runs = plain_table("Runs; S-AUROC in percent, with its 95 % interval", "run", "category", "model", "seed", "state")
    runs.add_column("S-AUROC", justify="right", no_wrap=True)
    for row in found["runs"]:
        seed = "" if row["seed"] is None else str(row["seed"])
        about = (row["run"], f"{row['dataset']}/{row['category']}", row["model"], seed, row["state"])
        runs.add_row(*map(Text, about), with_interval(row["s_auroc"], row.get("interval")))
    return [table for table in (*tables, runs) if table.row_count]


def invisible_lines(audit: Mapping[str, Any]) -> list[str]:
    """Return one line that lists the samples whose defect no view shows, or no line."""
    missing = audit["invisible"]
    return [f"no view shows the defect of {', '.join(missing)}"] if missing else []
