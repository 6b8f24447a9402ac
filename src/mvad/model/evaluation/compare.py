"""Evaluated runs side by side: samples joined by key, seeds put together, differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvad.errors import BadInput
from mvad.model.metrics.bootstrap import Difference, Scored, mean_interval, paired_difference
from mvad.model.metrics.intervals import UNDEFINED, Interval

Results = Mapping[str, Any]
"""A run's ``results.json``."""


def scored(results: Sequence[Results]) -> Scored:
    """Return the scores of several runs on one category, samples joined by key.

    Raises
    ------
    BadInput
        If the runs were evaluated on different samples.
    """
    tables = [{sample["key"]: sample for sample in result["samples"]} for result in results]
    keys = sorted(tables[0])
    for result, table in zip(results, tables, strict=True):
        if sorted(table) != keys:
            raise BadInput(f"{result['run']} and {results[0]['run']} were evaluated on different samples; evaluate both again")
    scores = np.array([[table[key]["score"] for key in keys] for table in tables], np.float64)
    return Scored(scores, np.array([tables[0][key]["label"] for key in keys], bool))


def s_auroc_of(results: Sequence[Results]) -> Interval:
    """Return the mean S-AUROC of runs on one category with its interval: DeLong's for one run, else a bootstrap's."""
    if len(results) == 1:
        found = results[0]["figures"]
        bounds = found["intervals"]["s_auroc"]
        return Interval(found["s_auroc"], *bounds) if bounds else UNDEFINED
    together = scored(results)
    if together.labels.all() or not together.labels.any():
        return UNDEFINED
    return mean_interval([together])


def difference(one: Sequence[Results], other: Sequence[Results]) -> Difference | None:
    """Return S-AUROC of some runs less that of others on the same samples, or None where a class is missing.

    Raises
    ------
    BadInput
        If they were evaluated on different samples.
    """
    both = scored([*one, *other])
    if both.labels.all() or not both.labels.any():
        return None
    return paired_difference(both.scores[: len(one)], both.scores[len(one) :], both.labels)


def mean_of(groups: Sequence[Sequence[Results]], figure: str) -> Interval:
    """Return the mean over categories of image or P-AUROC, each the mean over its runs, with its interval.

    Categories are independent; runs on the same samples are taken as moving together, so the interval is wide rather than
    narrow. It is made of the single figures' intervals, which already take samples as clusters.

    Parameters
    ----------
    groups
        For each category its runs.
    figure
        ``image_auroc`` or ``p_auroc``.
    """
    means, errors = [], []
    for group in groups:
        defined = [r["figures"] for r in group if r["figures"].get(figure) is not None]
        if defined:
            bounds = [found["intervals"][figure] for found in defined]
            means.append(float(np.mean([found[figure] for found in defined])))
            errors.append(
                [float(np.mean([abs(b[k] - f[figure]) for b, f in zip(bounds, defined, strict=True)])) for k in range(2)]
            )
    if not means:
        return UNDEFINED
    mean = float(np.mean(means))
    low, high = (float(np.sqrt(sum(error[k] ** 2 for error in errors))) / len(means) for k in range(2))
    return Interval(mean, max(mean - low, 0.0), min(mean + high, 1.0))


def mean_figures(results: Sequence[Results]) -> dict[str, Any]:
    """Return the mean of each figure over runs, of any categories, with intervals of the AUROCs; None where none defines it."""
    by_category: dict[tuple[str, str], list[Results]] = {}
    for result in results:
        by_category.setdefault((result["dataset"], result["category"]), []).append(result)
    groups = list(by_category.values())
    areas = {
        "s_auroc": s_auroc_over(groups),
        "image_auroc": mean_of(groups, "image_auroc"),
        "p_auroc": mean_of(groups, "p_auroc"),
    }
    found: dict[str, Any] = {name: None if np.isnan(area.value) else area.value for name, area in areas.items()}
    values = [result["figures"]["aupro_30"] for result in results if result["figures"]["aupro_30"] is not None]
    found["aupro_30"] = float(np.mean(values)) if values else None
    return found | {"intervals": {name: [a.low, a.high] for name, a in areas.items() if not np.isnan(a.value)}}


def s_auroc_over(groups: Sequence[Sequence[Results]]) -> Interval:
    """Return the mean S-AUROC over categories, each the mean over its runs; those in which a class is missing are left out."""
    there = [group for group in groups if group[0]["figures"]["s_auroc"] is not None]
    if not there:
        return UNDEFINED
    return s_auroc_of(there[0]) if len(there) == 1 else mean_interval([scored(group) for group in there])


def same_samples(one: Results, other: Results) -> bool:
    """Tell whether two runs were evaluated on the same samples."""
    return {sample["key"] for sample in one["samples"]} == {sample["key"] for sample in other["samples"]}
