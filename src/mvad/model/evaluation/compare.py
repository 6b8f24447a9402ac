"""Comparison of evaluated runs: samples joined by key, means over seeds, differences with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvad.errors import BadInput
from mvad.model.evaluation.results import Figures, Results, bounds_of, defined
from mvad.model.metrics.bootstrap import Difference, Scored, mean_interval, paired_difference
from mvad.model.metrics.intervals import UNDEFINED, Interval
from mvad.model.metrics.table import metrics

_SAMPLE_AUROC = "s_auroc"


def scored(results: Sequence[Results]) -> Scored:
    """Return the scores of several runs on one category, samples joined by key.

    Raises
    ------
    BadInput
        If the runs were evaluated on different samples, or on other labels of them.
    """
    tables = [{sample.key: sample for sample in result.samples} for result in results]
    keys = sorted(tables[0])
    for result in results:
        if not same_samples(result, results[0]):
            raise BadInput(f"{result.run} and {results[0].run} were evaluated on different samples; evaluate both again")
    scores = np.array([[table[key].score for key in keys] for table in tables], np.float64)
    return Scored(scores, np.array([tables[0][key].label for key in keys], bool))


def s_auroc_of(results: Sequence[Results]) -> Interval:
    """Return the mean S-AUROC of runs on one category with its 95 % interval: DeLong's for one run, else a bootstrap's."""
    if len(results) == 1:
        return results[0].figures.interval(_SAMPLE_AUROC)
    together = scored(results)
    if together.labels.all() or not together.labels.any():
        return UNDEFINED
    return mean_interval([together])


def difference(one: Sequence[Results], other: Sequence[Results]) -> Difference | None:
    """Return the mean S-AUROC of ``one`` minus that of ``other`` on the same samples, or None where a class is missing.

    Raises
    ------
    BadInput
        If the runs were evaluated on different samples.
    """
    both = scored([*one, *other])
    if both.labels.all() or not both.labels.any():
        return None
    return paired_difference(both.scores[: len(one)], both.scores[len(one) :], both.labels)


def mean_of(groups: Sequence[Sequence[Results]], name: str) -> Interval:
    """Return the mean over categories of a figure with its interval; the figure of a category is the mean over its runs.

    Categories are taken as independent, runs on the same samples as fully correlated, so that the interval is rather too wide
    than too narrow. It is computed from the intervals of the single figures, in which samples are clusters.

    Parameters
    ----------
    groups
        The runs of each category.
    name
        Name of the metric, such as ``image_auroc`` or ``p_auroc``.
    """
    means, errors = [], []
    for group in groups:
        areas = [area for r in group if not np.isnan((area := r.figures.interval(name)).value)]
        if areas:
            means.append(float(np.mean([area.value for area in areas])))
            errors.append(
                (
                    float(np.mean([area.value - area.low for area in areas])),
                    float(np.mean([area.high - area.value for area in areas])),
                )
            )
    if not means:
        return UNDEFINED
    mean = float(np.mean(means))
    low, high = (float(np.sqrt(sum(error[k] ** 2 for error in errors))) / len(means) for k in range(2))
    return Interval(mean, max(mean - low, 0.0), min(mean + high, 1.0))


def mean_figures(results: Sequence[Results]) -> Figures:
    """Return the mean of each figure over categories, each the mean over its runs, with intervals if it has them.

    None where it is undefined.
    """
    by_category: dict[tuple[str, str], list[Results]] = {}
    for result in results:
        by_category.setdefault((result.dataset, result.category), []).append(result)
    groups = list(by_category.values())
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for metric in metrics():
        name = metric.name
        if any(name in result.figures.intervals for result in results):
            area = s_auroc_over(groups) if name == _SAMPLE_AUROC else mean_of(groups, name)
            values[name], intervals[name] = defined(area.value), bounds_of(area)
        else:
            of_groups = [[value for result in group if (value := result.figures[name]) is not None] for group in groups]
            means = [float(np.mean(defined_ones)) for defined_ones in of_groups if defined_ones]
            values[name] = float(np.mean(means)) if means else None
    return Figures(values, intervals)


def s_auroc_over(groups: Sequence[Sequence[Results]]) -> Interval:
    """Return the mean S-AUROC over categories, each the mean over its runs; categories without both classes are left out."""
    usable = [group for group in groups if group[0].figures[_SAMPLE_AUROC] is not None]
    if not usable:
        return UNDEFINED
    return s_auroc_of(usable[0]) if len(usable) == 1 else mean_interval([scored(group) for group in usable])


def same_samples(one: Results, other: Results) -> bool:
    """Return whether two runs were evaluated on the same samples with the same labels."""
    return {sample.key: sample.label for sample in one.samples} == {sample.key: sample.label for sample in other.samples}
