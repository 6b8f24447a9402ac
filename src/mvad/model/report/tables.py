"""Tables of the page: figures of runs, pairwise comparison of methods, figures on the raw scans."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mvad.datasets.scan import NO_POSE
from mvad.model.evaluation.compare import difference, mean_figures, same_samples
from mvad.model.evaluation.results import SCAN_PROTOCOL, Figures, Results
from mvad.model.evaluation.variants import choices_of
from mvad.model.label_free import COLUMNS, figure_cells
from mvad.model.metrics.bootstrap import verdict
from mvad.model.metrics.table import Metric, metrics
from mvad.model.paper.tables import paper_s_auroc
from mvad.model.registry import backbone_label
from mvad.model.runs import RunFolder
from mvad.model.scoring import SAMPLE_RULES

_NAMED = 12
"""Greatest number of samples that are named in a cell."""

_COMPARED = 8
"""Number of methods of a category up to which each is compared with each."""


def headline_columns() -> str:
    """Return the column heads for ``headline``, one per metric of the page."""
    return "".join(f"<th>{escape(metric.title)}</th>" for metric in _page_metrics())


def headline(results: Sequence[Results]) -> str:
    """Return rows by dataset, category and model: means over seeds with intervals, the paper's figure, numbers of samples."""
    rows = []
    for (dataset, category, model, teacher, inputs, variant, _), group in _by_method(results).items():
        paper, means, first = paper_s_auroc(dataset, category, model), mean_figures(group), group[0].figures
        bounds = means.intervals.get("s_auroc")
        against = verdict(*bounds, paper / 100) if paper is not None and bounds is not None else ""
        train = group[0].training_samples
        cells = [
            _two(category, dataset), _two(model, variant, backbone_label(model, teacher)),
            _two(inputs, f"{len(group)} seed" + "s" * (len(group) > 1) + f"; {group[0].rule}"),
            *(_two(_mean(group, metric), _interval(means.intervals.get(metric.name))) for metric in _page_metrics()),
            _two("" if paper is None else f"{paper:.1f}", against), _two(str(first.samples), f"of {train} train" if train else ""),
        ]  # fmt: skip
        defects = ", ".join(f"{name} {_percent(value)}" for name, value in first.by_defect.items())
        rows.append(_cells(cells, f"<td class=small>{escape(defects)}</td>"))
    return "".join(rows)


def by_rule(results: Sequence[Results]) -> str:
    """Return the section with S-AUROC by rule from views to sample, or "" where no results say."""
    named = dict.fromkeys(rule for result in results for rule in result.rules)
    rules = sorted(named, key=lambda rule: (*SAMPLE_RULES, rule).index(rule))
    rows = [
        _cells([
            *(escape(cell) for cell in (f"{r.dataset} / {r.category}", r.run, r.rule, r.standardised_by)),
            *(_two(_percent(r.rules[rule].s_auroc), _interval(r.rules[rule].interval)) for rule in rules),
        ])
        for r in results
        if r.rules
    ]  # fmt: skip
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("category", "run", "in the table above", "standardised by", *rules))
    return (
        "<h3>S-AUROC by rule from views to sample</h3><p class=dim>max: the highest score of a view (the paper's rule, of raw "
        "scores); top2: the mean of the two highest; mean: over all views. All from one pass, over the run's scores of views.</p>"
        f'<div class="wide"><table class="figures from5"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _page_metrics() -> list[Metric]:
    return [metric for metric in metrics() if metric.page]


def comparison(results: Sequence[Results]) -> str:
    """Return one row per pair of methods of a category that were evaluated on the same samples.

    Of more than eight methods, only that of the highest mean S-AUROC is compared with the others: pairs grow with the square.
    """
    groups = list(_by_method(results).items())
    pairs = list(itertools.combinations(groups, 2))
    if len(groups) > _COMPARED:
        best = max(groups, key=lambda group: float(np.mean([result.figures["s_auroc"] or 0.0 for result in group[1]])))
        pairs = [(best, group) for group in groups if group is not best]
    rows = []
    for (first, one), (second, other) in pairs:
        paired = difference(one, other) if same_samples(one[0], other[0]) else None
        if paired is None:
            continue
        names = [
            f"{key[2]} {key[4]}" + (f", {key[5]}" if key[5] else "") + (f", {key[3]}" if first[3] != second[3] else "")
            for key in (first, second)
        ]
        points = f"{100 * paired.mean:+.1f}", f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
        rows.append(_cells([escape(c) for c in (f"{first[0]} / {first[1]}", *names, *points, paired.verdict)]))
    return "".join(rows)


def without_labels(pairs: Sequence[tuple[Path, Results]]) -> str:
    """Return the section with the label-free figures of runs, or "" where none held out samples."""
    rows = []
    for run, r in pairs:
        folder = RunFolder(run)
        figures = folder.label_free if folder.is_trained and folder.model_sha256 == r.model_sha256 else None
        if figures is not None:
            rows.append(_cells([escape(cell) for cell in (f"{r.dataset} / {r.category}", r.run, *figure_cells(figures))]))
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("category", "run", *(column.heading for column in COLUMNS)))
    meanings = " ".join(f"{column.heading}: {column.meaning}" for column in COLUMNS)
    return (
        "<h3>Figures to choose by without labels</h3><p class=dim>Figures on training samples that were not trained on (--holdout), for choosing "
        "between configurations; no defect and no label was looked at. In percent, but for M1 and M4; M5 by rule from views to "
        f"sample: {escape(' / '.join(SAMPLE_RULES))}. {escape(meanings)}</p>"
        f'<div class="wide"><table class="figures from4"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def on_scans(results: Sequence[Results]) -> str:
    """Return the section with figures on the grid of the raw scans, or "" where no maps were projected."""
    shown = [metric for metric in metrics() if metric.on_scans_title]
    rows = []
    for r in results:
        for rule, figures in _scan_figures(r).items():
            about = [escape(cell) for cell in (f"{r.dataset} / {r.category}", r.run, rule)]
            cells = [_two(_percent(figures[m.on_scans]), _interval(figures.intervals.get(m.on_scans))) for m in shown]
            rows.append(_cells([*about, *cells]))
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("category", "run", "fused", *(m.on_scans_title for m in shown)))
    return (
        "<h2>On the scans</h2><p class=dim>Maps of all views projected to the grid of the raw scan and evaluated by MVTec "
        "3D-AD's protocol, all pixels of the grid.</p>"
        f'<div class="wide"><table class="figures from4"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def poses(results: Sequence[Results]) -> str:
    """Return the section on the stable poses that the test samples of each data set took, or "" where no results say."""
    rows, shown = [], set[tuple[str, ...]]()
    for r in results:
        of_data = (r.dataset, r.category, *sorted(r.test_shards.values()))
        known = [sample for sample in r.samples if sample.pose_number is not None]
        if not known or of_data in shown:
            continue
        shown.add(of_data)
        fits = [sample.pose_fit for sample in known if sample.pose_fit is not None]
        counts = Counter(sample.pose_number for sample in known if sample.pose_number not in (None, NO_POSE))
        flipped = {sample.pose_number for sample in known if sample.mirrored}
        taken = ", ".join(
            f"pose {number}{' (drawn mirrored)' if number in flipped else ''}: {count}"
            for number, count in sorted(counts.items(), key=lambda item: item[0] or 0)
        )
        unfit = sorted(sample.key for sample in known if sample.pose_number == NO_POSE)
        named = ", ".join(unfit[:_NAMED]) + (f" and {len(unfit) - _NAMED} more" if len(unfit) > _NAMED else "")
        about = (f"{r.dataset} / {r.category}", str(len(known)), taken or "-")
        fit = _two(_percent(float(np.median(fits))), f"least {_percent(min(fits))}") if fits else "-"
        cells = [*(escape(cell) for cell in about), fit, str(len(unfit))]
        rows.append(_cells(cells, f"<td class=small>{escape(named) or '-'}</td>"))
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("category", "samples", "in each", "fit, median", "fit none", "which fit none"))
    return (
        "<h2>Data</h2><p class=dim>Stable poses that the test scans took. Template fit: overlap of the scan's outline and that of "
        "its pose's template, percent. Scans that fit no pose well are drawn as the nearest one has them.</p>"
        f'<div class="wide"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _scan_figures(result: Results) -> Mapping[str, Figures]:
    """Return the figures on scans by rule of fusion; maps that were imported on the scans' grid have one rule."""
    if result.protocol != SCAN_PROTOCOL:
        return result.scan.figures if result.scan else {}
    named = {metric.on_scans: metric.name for metric in metrics() if metric.on_scans}
    values = {name: result.figures[source] for name, source in named.items()}
    intervals = {name: result.figures.intervals.get(source) for name, source in named.items()}
    return {"its own map": Figures(values, intervals)}


def _by_method(results: Sequence[Results]) -> dict[tuple[str, ...], list[Results]]:
    """Group runs that differ in their seed only."""
    groups: dict[tuple[str, ...], list[Results]] = {}
    for r in results:
        groups.setdefault((r.dataset, r.category, r.model, r.teacher, r.input_name, r.variant, choices_of(r)), []).append(r)
    return groups


def _cells(cells: Sequence[str], more: str = "") -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + more + "</tr>"


def _mean(group: Sequence[Results], metric: Metric) -> str:
    values = [100 * value for r in group if (value := r.figures[metric.name]) is not None]
    if not values:
        return "-"
    digits = metric.digits
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def _two(text: str, *below: str) -> str:
    """Return the content of a cell: a text, and smaller ones below it."""
    return escape(text) + "".join(f"<br><small>{escape(line)}</small>" for line in below if line)


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
