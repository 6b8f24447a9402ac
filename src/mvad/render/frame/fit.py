"""Make the frame of a category from its training scans: templates of its stable poses, their turns, their mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvad.render.frame.groups import Group, find_groups, joined, refined, some_of, spreads_of, template_of
from mvad.render.frame.object_frame import ObjectFrame, StablePose
from mvad.render.frame.points import ScanPoints
from mvad.render.frame.template import AS_IT_STANDS, Placement, Template
from mvad.render.frame.turns import settled

Array = NDArray[np.float64]

_USED = 40
"""Training scans that templates are made of, evenly spread over their keys."""
_LEAST_SCANS, _ROUNDS = 2, 2
_PARALLEL_DEG = 3.0
"""Mean angle between the sensor's axis and the support's normal up to which the sensor's axis is taken."""
_SEARCH_HEIGHT, _SEARCH_GREY = 0.15, 0.15
"""Spreads with which turns are searched: of heights, as a share of the object's, and of grey values."""
_LEAST_FIT, _MISFIT, _DEVIATIONS = 0.5, 0.1, 6.0
"""A scan fits a pose if its fit is above the first, and below the median of the training scans by no more than the second or
the third times their robust deviation."""


def fit_frame(
    scans: Sequence[ScanPoints], axis: Literal["auto", "support", "sensor"] = "auto", mirror: bool = True
) -> ObjectFrame:  # fmt: skip
    """Make the frame of a category from the points of its training scans, which stand in the order of their keys.

    The scan that is most like the others is the first template; the others are placed on it and averaged, a few rounds.
    Scans that do not fit it get a template of their own, and so on. Where the scans of one pose fit another's template mirrored
    as well as its own scans do, the two are one, drawn mirrored. A pose has a turn if its scans fit worse when they are turned
    anyhow.

    Parameters
    ----------
    scans
        Points of training scans, at least one.
    axis
        See ``ObjectFrame.axis``; auto takes the sensor's where it is within 3 degrees of the support's normal.
    mirror
        Whether mirror images are looked for.
    """
    chosen = some_of(scans, _USED)
    if axis == "auto":
        tilt = np.degrees(np.arccos(np.clip(np.median([scan.to_support[2, 2] for scan in scans]), -1, 1)))
        axis = "sensor" if tilt <= _PARALLEL_DEG else "support"
    heights = [float(np.quantile(scan.points[scan.points[:, 4] > 0, 2], 0.95)) for scan in chosen]
    height, radius = max(float(np.median(heights)), 1e-9), float(np.median([scan.radius_m for scan in chosen]))
    search = np.array([_SEARCH_HEIGHT * height, _SEARCH_GREY])
    none = ObjectFrame(axis, (), False, height / 2, search, search, 0.0)
    if len(chosen) < _LEAST_SCANS:
        return replace(none, note="one training scan makes no template, so turns are 0")
    whole, chosen = chosen, [scan.flattened() for scan in chosen]
    groups = find_groups(chosen, radius, (search, search))
    if not groups:
        return replace(none, note="the training scans fit no common template, so turns are 0")
    spreads = spreads_of(chosen, groups, height)
    groups, mirrored = joined(chosen, groups, (search, spreads), mirror)
    found, fits = list[tuple[Group, int, float | None]](), list[float]()
    for group in groups:
        group, order, spread = settled(chosen, group, radius, height, (search, spreads))
        template = template_of(whole, group.members, group.placed, radius)
        group = refined(whole, replace(group, template=template), radius, (search, spreads), _ROUNDS, search=False)
        found.append((group, order, spread))
        fits += [group.fits[number] for number in group.members]
    spreads = spreads_of(whole, [group for group, _, _ in found], height)
    poses = [
        StablePose(
            _centred(whole, group, radius) if order == 0 else _in_gauge(whole, group, radius),
            len(group.members), order, spread, group.order,
        )
        for group, order, spread in found
    ]  # fmt: skip
    middle = float(np.median(fits))
    spread_of_fits = 1.4826 * float(np.median(np.abs(np.array(fits) - middle)))
    least = max(_LEAST_FIT, middle - max(_MISFIT, _DEVIATIONS * spread_of_fits))
    return ObjectFrame(axis, tuple(poses), mirrored, height / 2, search, spreads, round(least, 4))


def _in_gauge(scans: Sequence[ScanPoints], group: Group, radius: float) -> Template:
    """Return the template turned so that its longest direction is x, and moved so that its box is around the origin."""
    covered, cell = group.template.covered, group.template.cell_m
    rows, columns = np.nonzero(covered)
    x, y = (len(columns) * at - int(at.sum()) for at in (columns, rows))  # whole numbers, whose sums are exact
    turn = -0.5 * float(np.arctan2(2 * float((x * y).sum()), float((x * x).sum() - (y * y).sum())))
    turned = [group.placed[n].about(turn, (0.0, 0.0)) for n in group.members]
    template = Template.of([scans[n] for n in group.members], turned, radius)
    rows, columns = np.nonzero(template.covered)
    middle = [(float(at.min() + at.max()) / 2 - (len(covered) - 1) / 2) * cell for at in (columns, rows)]
    moved = [at.moved((-middle[0], -middle[1])) for at in turned]
    return Template.of([scans[n] for n in group.members], moved, radius)


def _centred(scans: Sequence[ScanPoints], group: Group, radius: float) -> Template:
    """Return the template of a pose without turns: its scans as they stand, their middle at the origin."""
    template = Template.of([scans[n] for n in group.members], [AS_IT_STANDS] * len(group.members), radius)
    moved = Placement(0.0, (-template.center[0], -template.center[1]))
    return Template.of([scans[n] for n in group.members], [moved] * len(group.members), radius)
