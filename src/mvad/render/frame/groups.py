"""Divide training scans into stable poses: scans that fit a common template, as they are or mirrored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mvad.cores import usable_cores
from mvad.render.frame.points import ScanPoints
from mvad.render.frame.template import AS_IT_STANDS, Placement, Template, place

Array = NDArray[np.float64]
Item = TypeVar("Item")

_COMPARED = 10
"""Scans among which the one that is most like the others is looked for."""
_SEARCH_ROUNDS = 2
_LEAST_SCANS, _LEAST_SHARE = 2, 0.05
"""Least number and share of scans of a stable pose."""
_ALIKE = 0.9
"""Scans whose fit is below this share of the best ones' may lie in another pose."""
_BETTER = 0.06
"""Least rise of the mean fit of such scans on a template of their own."""
_MOST_POSES = 6
_COMMON = 0.6
"""Least mean fit of scans on a template that they have in common."""
_SAME_FIT = 0.05
"""Greatest lack of fit of another group's scans on a template, against its own scans, if both are one pose."""
_SAME_SHARE = 0.35
"""The same for mirror images, as a share of what its own scans lack when they are turned by a quarter."""
_MARKED, _SAME_MARKS = 0.25, 0.6
"""Least correlation of scans' grey values with their template's that means marks which are the same on all; least share of it
that mirror images must have, too."""


@dataclass
class Group:
    """Scans in one pose.

    Attributes
    ----------
    template
        Their template.
    members
        Their numbers.
    placed, fits
        Where they lie on it, and how well they fit, by number; of other scans, too.
    order
        See ``place``.
    """

    template: Template
    members: list[int]
    placed: dict[int, Placement]
    fits: dict[int, float]
    order: int = 1


def find_groups(scans: Sequence[ScanPoints], radius: float, spreads: tuple[Array, Array]) -> list[Group]:
    """Return the scans by pose, the largest group first; empty if they have no common template."""
    rest, groups = list(range(len(scans))), list[Group]()
    while len(rest) >= max(_LEAST_SCANS, _LEAST_SHARE * len(scans)) and len(groups) < _MOST_POSES:
        group = refined(scans, started(scans, rest, radius, spreads), radius, spreads, _SEARCH_ROUNDS, select=True)
        if len(group.members) < max(_LEAST_SCANS, _LEAST_SHARE * len(scans)):
            break
        mean = float(np.mean([group.fits[number] for number in group.members]))
        if mean < _COMMON or (groups and not _is_better(scans, group, groups, spreads)):
            break
        groups.append(group)
        rest = [number for number in rest if number not in group.members]
    if groups and sum(len(group.members) for group in groups) < len(scans) / 2:
        return []
    for group in groups[:1]:  # scans that fit no other template stay with the first one where they fit it at all
        group.members += [number for number in rest if group.fits.get(number, 0) >= _COMMON]
        group.members.sort()
    return groups


def started(scans: Sequence[ScanPoints], numbers: list[int], radius: float, spreads: tuple[Array, Array]) -> Group:
    """Return a group whose template is the scan from which the others differ least in the median."""
    some = some_of(numbers, _COMPARED)
    templates = [Template.of([scans[number]], [AS_IT_STANDS], radius) for number in some]
    least = np.array([[template.curve(scans[other], 1.0, spreads[0]).min() for other in some] for template in templates])
    np.fill_diagonal(least, np.nan)
    first = int(np.argmin(np.nanmedian(least, axis=1))) if len(some) > 1 else 0
    return Group(templates[first], numbers, {}, {})


def refined(
    scans: Sequence[ScanPoints], group: Group, radius: float, spreads: tuple[Array, Array], rounds: int,
    search: bool = True, select: bool = False,
) -> Group:  # fmt: skip
    """Place the members on the template and average them again, ``rounds`` times.

    ``search`` looks at every turn each time, else only near the one that was found; ``select`` keeps those that are alike.
    """
    template, placed, members = group.template, dict(group.placed), list(group.members)

    def placed_again(number: int) -> Placement:
        if not search and number in placed:
            return template.refined(scans[number], placed[number], spreads[1])
        flip = placed[number].flip if number in placed else 1.0
        return place(scans[number], [template], (flip,), spreads, [group.order])[1]

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in range(rounds):
            placed |= dict(zip(group.members, list(pool.map(placed_again, group.members)), strict=True))
            if select:
                fits = {number: template.fit(scans[number], placed[number]) for number in group.members}
                good = _ALIKE * float(np.quantile(list(fits.values()), 0.75))
                members = [number for number in group.members if fits[number] >= good]
            template = template_of(scans, members, placed, radius)
    fits = {number: template.fit(scans[number], placed[number]) for number in group.members}
    return Group(template, members, placed, fits, group.order)


def _is_better(scans: Sequence[ScanPoints], group: Group, groups: Sequence[Group], spreads: tuple[Array, Array]) -> bool:
    """Return whether the members fit their own template better than any that there is already."""
    rises = []
    for number in group.members:
        others = [_placed_on(scans[number], other, 1.0, spreads)[1] for other in groups]
        rises.append(group.fits[number] - max(others))
    return float(np.mean(rises)) >= _BETTER


def _placed_on(scan: ScanPoints, group: Group, flip: float, spreads: tuple[Array, Array]) -> tuple[Placement, float]:
    """Place a scan on a group's template; return the placement and the fit."""
    at = place(scan, [group.template], (flip,), spreads, [1])[1]
    return at, group.template.fit(scan, at)


def joined(
    scans: Sequence[ScanPoints], groups: list[Group], spreads: tuple[Array, Array], mirror: bool
) -> tuple[list[Group], bool]:
    """Join groups that are one pose, or one the other's mirror image; return those that are left, and whether any is mirrored."""
    kept, mirrored = list[Group](), False
    for group in groups:
        into = _same_pose(scans, group, kept, spreads, mirror)
        if into is not None:
            other, placed = into
            other.members = sorted([*other.members, *group.members])
            other.placed |= placed
            other.fits |= {n: other.template.fit(scans[n], at) for n, at in placed.items()}
            mirrored = mirrored or placed[group.members[0]].flip < 0
        else:
            kept.append(group)
    return kept, mirrored


def _same_pose(
    scans: Sequence[ScanPoints], group: Group, others: Sequence[Group], spreads: tuple[Array, Array], mirror: bool
) -> tuple[Group, dict[int, Placement]] | None:  # fmt: skip
    """Return the group whose pose, or its mirror image, a group's is, with the scans placed on its template; or None."""
    for flip in (1.0, -1.0) if mirror else (1.0,):
        for other in others:
            found = {n: _placed_on(scans[n], other, flip, spreads) for n in group.members}
            placed, fit = {n: at for n, (at, _) in found.items()}, float(np.median([fit for _, fit in found.values()]))
            own = float(np.median([other.fits[n] for n in other.members]))
            across = [
                other.template.fit(scans[n], other.placed[n].about(np.pi / 2, other.template.center)) for n in other.members
            ]
            lack = _SAME_FIT if flip > 0 else max(_SAME_FIT, _SAME_SHARE * (own - float(np.median(across))))
            if fit >= own - lack and (flip > 0 or _same_marks(scans, other, placed)):
                return other, placed
    return None


def _same_marks(scans: Sequence[ScanPoints], group: Group, placed: Mapping[int, Placement]) -> bool:
    """Return whether mirrored scans show what a group's own show: lettering, say, is not its own mirror image."""
    halves = (group.members[0::2], group.members[1::2])
    radius = group.template.radius_m
    likenesses = []
    for half, rest in (halves, halves[::-1]):  # a scan is like a template of which it is a part
        template = template_of(scans, half, group.placed, radius)
        likenesses += [_likeness(scans[n], template, group.placed[n]) for n in rest]
    own = float(np.median(likenesses))
    other = float(np.median([_likeness(scans[n], group.template, at) for n, at in placed.items()]))
    return own < _MARKED or other >= _SAME_MARKS * own


def _likeness(scan: ScanPoints, template: Template, at: Placement) -> float:
    """Return the correlation of a placed scan's grey values with the template's."""
    found = template.residuals(scan, at)[:, 1]
    known = ~np.isnan(found)
    grey = scan.points[known, 3]
    expected = found[known] + grey
    if len(grey) < 3 or grey.std() * expected.std() == 0:
        return 0.0
    return float(np.corrcoef(grey, expected)[0, 1])


def spreads_of(scans: Sequence[ScanPoints], groups: Sequence[Group], height: float) -> Array:
    """Return robust spreads (2,) of heights and grey values about the templates."""
    found = np.concatenate([g.template.residuals(scans[n], g.placed[n]) for g in groups for n in g.members])
    found = np.abs(found[~np.isnan(found).any(axis=1)])
    middle = np.median(found, axis=0) if len(found) else np.zeros(2)
    return np.round(np.maximum(1.4826 * middle, [0.02 * height, 0.02]), 9)


def template_of(scans: Sequence[ScanPoints], numbers: Sequence[int], placed: Mapping[int, Placement], radius: float) -> Template:
    """Return the template of some scans, by their numbers, as they are placed."""
    return Template.of([scans[number] for number in numbers], [placed[number] for number in numbers], radius)


def some_of(items: Sequence[Item], count: int) -> list[Item]:
    """Return up to ``count`` of the items, evenly spread."""
    return [items[int(k)] for k in np.unique(np.linspace(0, len(items) - 1, min(len(items), count)).round())]
