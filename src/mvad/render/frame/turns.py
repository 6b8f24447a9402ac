"""Settle the turns of a stable pose: whether its objects have one, after which parts of a turn they look the same, how exact it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mvad.cores import usable_cores
from mvad.render.frame.groups import Group, refined, some_of, spreads_of, started, template_of
from mvad.render.frame.points import ScanPoints
from mvad.render.frame.template import AS_IT_STANDS, Template

Array = NDArray[np.float64]

_ROUNDS = 3
_ORDERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
_MOST_ORDER = 6
"""Greatest order whose turns are compared with particular care, since each comparison takes time."""
_JUDGED = 16
"""Scans by which the order is judged."""
_LEAST_DEPTH = 0.05
"""Least rise of the energy, as a share of it, when scans are turned anyhow, of an object that has a turn."""
_NEARLY, _EXACTLY = 0.6, 0.1
"""Greatest rise of the energy, as a share of that, of objects that nearly, and that really, look the same after a part of a turn."""
_UNSURE_DEG = 3.0
"""Spread of turns above which a pose has no turn."""
_CONCENTRATED = 0.8
"""Length of the mean direction of turns above which they may be those of light and shadow."""
_NO_WORSE = 1.1
_REST_ROUNDS, _REST_HEIGHT = 5, 0.2


def settled(
    scans: Sequence[ScanPoints], group: Group, radius: float, height: float, spreads: tuple[Array, Array]
) -> tuple[Group, int, float | None]:  # fmt: skip
    """Return a pose with its turns settled, its order (``StablePose.order``), and the spread of its turns in degrees.

    Where the turns found are nearly the same for all scans, they are looked for again without what stands still with the sensor.
    Where an object nearly looks the same after an n-th part of a turn, such turns are compared with particular care.
    The spread is that of the turns which scans take on a template of every other scan, against a template of the rest.
    """
    group = refined(scans, group, radius, spreads, 1, search=False)
    if _concentration(group) > _CONCENTRATED:
        other = refined(scans, _without_the_sensor(scans, group, radius, height, spreads), radius, spreads, 1)
        group = other if _energy(other) <= _NO_WORSE * _energy(group) else group
    near = _orders(scans, group, radius, spreads, _NEARLY)
    if near == 0:
        return group, 0, None
    group = refined(scans, replace(group, order=near if near <= _MOST_ORDER else 1), radius, spreads, _ROUNDS, search=near > 1)
    order = _orders(scans, group, radius, spreads, _EXACTLY)
    halves = []
    for half in (group.members[0::2], group.members[1::2]):
        template = template_of(scans, half, group.placed, radius)
        halves.append([template.refined(scans[n], group.placed[n], spreads[1]).turn for n in group.members])
    apart = np.array(halves[0]) - np.array(halves[1])
    spread = float(np.degrees(1.4826 * np.median(np.abs(apart - np.median(apart))) / np.sqrt(2)))
    return (group, order, round(spread, 3)) if order and spread <= _UNSURE_DEG else (group, 0, None)


def _without_the_sensor(
    scans: Sequence[ScanPoints], group: Group, radius: float, height: float, spreads: tuple[Array, Array]
) -> Group:
    """Place the scans anew by what is left of them when the mean of all, as they stand before the sensor, is taken away.

    Light, shadow and hidden sides stand still with the sensor, and may be all that a round part's comparison sees. The mean of
    scans at random turns holds them, and nothing of the part that depends on its turn.
    """
    numbers = list(range(len(group.members)))
    chosen = [scans[n] for n in group.members]
    placed = [AS_IT_STANDS] * len(chosen)
    mean = Template.of(chosen, placed, radius)
    for _ in range(2):
        placed = [mean.refined(scan, at, spreads[1], turns=False) for scan, at in zip(chosen, placed, strict=True)]
        mean = Template.of(chosen, placed, radius)
    rest = []
    for scan, at in zip(chosen, placed, strict=True):
        points = scan.points.copy()
        known = mean.residuals(scan, at)
        on_object = points[:, 4] > 0
        points[on_object, 2] = np.where(np.isnan(known[on_object, 0]), 0, -known[on_object, 0]) + height
        points[on_object, 3] = np.where(np.isnan(known[on_object, 1]), 0, -known[on_object, 1])
        rest.append(replace(scan, points=points))
    own = spreads_of(rest, [Group(mean, numbers, dict(zip(numbers, placed, strict=True)), {})], _REST_HEIGHT * height)
    found = refined(rest, started(rest, numbers, radius, spreads), radius, (3 * own, own), _REST_ROUNDS)
    template = Template.of(chosen, [found.placed[k] for k in numbers], radius)
    return replace(group, template=template, placed={n: found.placed[k] for k, n in enumerate(group.members)})


def _orders(scans: Sequence[ScanPoints], group: Group, radius: float, spreads: tuple[Array, Array], tolerance: float) -> int:
    """Return the order of a pose (``StablePose.order``): 0 if it makes no difference how its scans are turned.

    The scans are turned on by different n-th parts of a full turn and averaged. n counts if their energy on that template rises
    by no more than ``tolerance`` of what it rises by when they are turned anyhow.
    """
    members = some_of(group.members, _JUDGED)

    def energy(angles: Array) -> float:
        placed = [group.placed[n].about(float(angle), group.template.center) for n, angle in zip(members, angles, strict=True)]
        template = Template.of([scans[n] for n in members], placed, radius)
        found = list(pool.map(lambda n, at: template.again(scans[n], at, spreads[1]), members, placed))
        return math.fsum(at.energy for at in found) / len(found)

    index = np.arange(len(members))
    with ThreadPoolExecutor(usable_cores()) as pool:
        least, most = energy(np.zeros(len(index))), energy(2 * np.pi * ((index * 0.5 * (np.sqrt(5) - 1)) % 1))
        if most - least < _LEAST_DEPTH * least:
            return 0
        same = [n for n in _ORDERS if energy(2 * np.pi * (index % n) / n) - least <= tolerance * (most - least)]
    return max(same, default=1)


def _concentration(group: Group) -> float:
    """Return the length, 0 to 1, of the mean direction of a pose's turns."""
    return float(abs(np.mean([np.exp(1j * group.placed[n].turn) for n in group.members])))


def _energy(group: Group) -> float:
    return math.fsum(group.placed[n].energy for n in group.members) / len(group.members)
