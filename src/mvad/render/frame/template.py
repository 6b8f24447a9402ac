"""A template: height, grey value and outline of a category's objects in one stable pose, seen from above in the object's frame."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from mvad.render.frame.kernels import add_to_template, overlap, polar_sums, register, residuals
from mvad.render.frame.points import ScanPoints

CELLS = 96
RINGS, ANGLES = 24, 256
_REACH = 1.25
"""Half side of a template in radii of the object."""
SEARCHED = 1.1
"""Radius of the polar maps in radii of the object."""
_FULL = 0.25
"""Points per scan and cell from which a cell is fully known."""
_CANDIDATES, _KEPT, _APART = 6, 4, 13
"""Turns that are tried of each template, and that are looked at closely; their least distance in angles of 360 / 256 degrees."""
_THINNED, _ROUGH_ROUNDS, _ROUNDS = 4, 5, 10
_BLUR = 2.0
"""Standard deviation of the blur, cells, with which a placement begins."""
_CLOSE = 0.03
_BODY_SPREAD = 0.35

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where a scan's points lie on a template: ``R(turn) (flip * x, y) + shift``.

    Attributes
    ----------
    turn
        Radians, from x to y.
    shift
        Metres.
    flip
        -1 where the points are mirrored first, else 1.
    energy
        Mean robust residual (``kernels.register``), to compare templates by.
    """

    turn: float
    shift: tuple[float, float]
    flip: float = 1.0
    energy: float = math.inf

    def about(self, angle: float, center: tuple[float, float]) -> Placement:
        """Return the placement turned on by an angle (radians) about a point of the template (metres)."""
        c, s = math.cos(angle), math.sin(angle)
        x, y = self.shift[0] - center[0], self.shift[1] - center[1]
        return Placement(self.turn + angle, (c * x - s * y + center[0], s * x + c * y + center[1]), self.flip)

    def moved(self, shift: tuple[float, float]) -> Placement:
        """Return the placement shifted on (metres)."""
        return Placement(self.turn, (self.shift[0] + shift[0], self.shift[1] + shift[1]), self.flip, self.energy)


AS_IT_STANDS = Placement(0.0, (0.0, 0.0))
"""The placement of a scan whose points are a template's as they are."""


@dataclass(frozen=True)
class Template:
    """Maps of G x G cells seen from above, x right and y down, the object's frame in the middle.

    Attributes
    ----------
    maps
        (2, G, G) float64: mean height above the support, metres, 0 beside the object; mean grey value relative to the median.
    body
        (G, G) float64, share of the scans whose object covers a cell.
    known
        (G, G) float64, 0 to 1, how well a cell is known.
    cell_m
        Side of a cell, metres.
    """

    maps: Array
    body: Array
    known: Array
    cell_m: float

    @staticmethod
    def of(scans: Sequence[ScanPoints], placed: Sequence[Placement], radius_m: float) -> Template:
        """Average scans (at least one) that are placed on it already; values are rounded as ``to_json`` stores them."""
        cell = 2 * _REACH * radius_m / CELLS
        sums = np.zeros((4, CELLS, CELLS))
        for scan, at in zip(scans, placed, strict=True):
            add_to_template(scan.points, at.turn, *at.shift, at.flip, cell, sums)
        count, on_object = np.maximum(sums[0], 1e-9), sums[1]
        body = on_object / count
        grey = np.where(body > 0.02, sums[3] / np.maximum(on_object, 1e-9), 0)
        known = np.where(sums[0] > 0, np.minimum(1.0, sums[0] / (_FULL * len(scans))), 0)
        return Template(_rounded(np.stack([sums[2] / count, grey])), _rounded(body), _rounded(known), cell)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(G, G) bool, cells that the object covers in most scans."""
        return self.body > 0.5

    @cached_property
    def center(self) -> tuple[float, float]:
        """Mean of the covered cells, metres from the middle."""
        rows, columns = np.nonzero(self.covered)
        if not len(rows):
            return 0.0, 0.0
        return float(columns.mean() - CELLS / 2 + 0.5) * self.cell_m, float(rows.mean() - CELLS / 2 + 0.5) * self.cell_m

    @cached_property
    def _spectra(self) -> tuple[Array, ...]:
        """Spectra over the angle of what ``curve`` correlates with, each (RINGS, ANGLES / 2 + 1) complex."""
        angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
        radius = (np.arange(RINGS) + 0.5)[:, None] / RINGS * self.search_radius
        at = [
            (self.center[1] + radius * np.sin(angle)) / self.cell_m + CELLS / 2 - 0.5,
            (self.center[0] + radius * np.cos(angle)) / self.cell_m + CELLS / 2 - 0.5,
        ]
        known, body, height, grey = (
            ndimage.map_coordinates(plane, at, order=1, mode="constant") for plane in (self.known, self.body, *self.maps)
        )
        shown = known * body
        planes = (known, known * height, known * height**2, known * body, known * body**2, shown, shown * grey, shown * grey**2)
        return tuple(fft.rfft(plane, axis=1) for plane in planes)

    @cached_property
    def _blurred(self) -> Array:
        """``maps`` blurred, so that a placement that is some cells off still finds its way."""
        known = ndimage.gaussian_filter(self.known, _BLUR)
        return np.stack([ndimage.gaussian_filter(plane * self.known, _BLUR) / np.maximum(known, 1e-3) for plane in self.maps])

    @property
    def radius_m(self) -> float:
        """Radius of the objects, metres."""
        return self.cell_m * CELLS / (2 * _REACH)

    @property
    def search_radius(self) -> float:
        """Radius of the polar maps in which a turn is searched, metres."""
        return SEARCHED * self.radius_m

    def curve(self, scan: ScanPoints, flip: float, spreads: Array) -> Array:
        """Return the mean squared difference (ANGLES,) of a scan turned by each angle about its centre, over what both know.

        Of height, outline and grey value, each in units of its spread, by circular correlation in polar coordinates.
        """
        sums = polar_sums(scan.points, flip, self.search_radius, RINGS, ANGLES)
        count = np.maximum(sums[0], 1e-9)
        known = np.minimum(1.0, 4 * sums[0]) * (np.arange(RINGS) + 0.5)[:, None]
        body, height, grey = sums[1] / count, sums[2] / count, sums[3] / np.maximum(sums[1], 1e-9)
        shown = known * body
        by_height, by_body, by_grey = 1 / spreads[0] ** 2, 1 / _BODY_SPREAD**2, 1 / spreads[1] ** 2
        squares = height**2 * by_height + body**2 * by_body
        planes = np.stack([known, known * squares, known * height, shown, shown * grey**2, shown * grey])
        k, kq, kh, s, sgg, sg = np.conj(fft.rfft(planes, axis=2))
        t, th, thh, tb, tbb, ts, tsg, tsgg = self._spectra
        apart = kq * t + k * (thh * by_height + tbb * by_body) - 2 * (kh * th * by_height + s * tb * by_body)
        apart += (sgg * ts - 2 * sg * tsg + s * tsgg) * by_grey
        total, share = fft.irfft(np.stack([apart.sum(axis=0), (k * t).sum(axis=0)]), ANGLES)
        return np.asarray(total / np.maximum(share, 1e-9 * max(float(share.max()), 1e-30)))

    def candidates(self, scan: ScanPoints, flip: float, spreads: Array) -> list[tuple[float, Placement]]:
        """Return the best placements by ``curve``, some way apart, with their differences; not refined yet."""
        curve = self.curve(scan, flip, spreads)
        lowest = np.flatnonzero((curve < np.roll(curve, 1)) & (curve <= np.roll(curve, -1)))
        chosen: list[int] = []
        for k in lowest[np.argsort(curve[lowest], kind="stable")].tolist():
            if all(min((k - other) % ANGLES, (other - k) % ANGLES) >= _APART for other in chosen):
                chosen.append(k)
            if len(chosen) == _CANDIDATES:
                break
        chosen = chosen or [int(np.argmin(curve))]  # all alike: a scan without anything that could be compared
        return [(float(curve[k]), Placement(2 * np.pi * float(k) / ANGLES, self.center, flip)) for k in chosen]

    def refined(self, scan: ScanPoints, at: Placement, spreads: Array, turns: bool = True) -> Placement:
        """Return a placement refined on all points."""
        return self._registered(scan, at, spreads, turns, self.maps, 1, _ROUNDS)

    def roughly(self, scan: ScanPoints, at: Placement, spreads: Array, turns: bool = True) -> Placement:
        """Return a placement refined on a part of the points against blurred maps, with the spreads of the search."""
        return self._registered(scan, at, spreads, turns, self._blurred, _THINNED, _ROUGH_ROUNDS)

    def again(self, scan: ScanPoints, at: Placement, spreads: Array, rounds: int = 2, turns: bool = True) -> Placement:
        """Return a placement that is nearly right already, refined on a part of the points, with the energy of that part."""
        return self._registered(scan, at, spreads, turns, self.maps, _THINNED, rounds)

    def _registered(
        self, scan: ScanPoints, at: Placement, spreads: Array, turns: bool, maps: Array, step: int, rounds: int
    ) -> Placement:  # fmt: skip
        turn, x, y, energy = register(
            scan.points, step, maps, self.known, self.cell_m, spreads, at.turn, *at.shift, at.flip, rounds, turns
        )
        return Placement(turn, (x, y), at.flip, energy)

    def fit(self, scan: ScanPoints, at: Placement) -> float:
        """Return the intersection over union, 0 to 1, of a placed scan's outline and the template's, where the sensor saw it."""
        return float(overlap(scan.points, at.turn, *at.shift, at.flip, self.cell_m, self.covered))

    def residuals(self, scan: ScanPoints, at: Placement) -> Array:
        """Return what the maps have more than a placed scan (N, 2): height, metres, and grey value; NaN where not compared."""
        found: Array = residuals(scan.points, self.maps, self.known, self.cell_m, at.turn, *at.shift, at.flip)
        return found

    @property
    def sha256(self) -> str:
        """SHA-256 of the maps."""
        return hashlib.sha256(self._planes()).hexdigest()

    def _planes(self) -> bytes:
        return bytes(np.concatenate([self.maps, self.body[None], self.known[None]]).astype("<f2").tobytes())

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which ``from_json`` makes an equal template."""
        return {"cell_m": self.cell_m, "maps": base64.b64encode(zlib.compress(self._planes(), 6)).decode()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Template:
        """Make a template from the result of ``to_json``.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it has another form.
        """
        try:
            content = zlib.decompress(base64.b64decode(value["maps"], validate=True))
        except zlib.error as error:
            raise ValueError(f"template: {error}") from error
        planes = np.frombuffer(content, "<f2").astype(np.float64).reshape(4, CELLS, CELLS)
        if not np.isfinite(planes).all() or not float(value["cell_m"]) > 0:
            raise ValueError("template: a value is not finite")
        return Template(planes[:2].copy(), planes[2].copy(), planes[3].copy(), float(value["cell_m"]))


def _rounded(array: Array) -> Array:
    return array.astype(np.float16).astype(np.float64)


def place(
    scan: ScanPoints, templates: Sequence[Template], flips: Sequence[float], spreads: tuple[Array, Array], orders: Sequence[int]
) -> tuple[int, Placement]:  # fmt: skip
    """Place a scan on the template that it fits best; return the template's number and the placement.

    Parameters
    ----------
    scan
        The scan.
    templates, flips
        What is tried: every template as it is (1) and, where -1 is given, mirrored.
    spreads
        (2,) each: spreads of height and grey for the search over all turns, and for the refinement.
    orders
        For each template n, so that n-th parts of a full turn are compared with each other with particular care; 1: none; 0: the
        object has no turn, and its turn stays 0.
    """
    found: list[tuple[float, int, Placement]] = []
    for number, template in enumerate(templates):
        for flip in flips:
            if orders[number] == 0:
                found.append((float(template.curve(scan, flip, spreads[0])[0]), number, Placement(0.0, template.center, flip)))
            else:
                found += [(apart, number, at) for apart, at in template.candidates(scan, flip, spreads[0])]
    found.sort(key=lambda item: item[0])
    rough = [(templates[n].roughly(scan, at, spreads[0], orders[n] > 0), n) for _, n, at in found[: _CANDIDATES + 2]]
    rough.sort(key=lambda item: item[0].energy)
    rough = [(templates[n].again(scan, at, spreads[1], _ROUGH_ROUNDS, orders[n] > 0), n) for at, n in rough[:_KEPT]]
    best, number = min(rough, key=lambda item: item[0].energy)
    template, order = templates[number], orders[number]
    start = best = template.refined(scan, best, spreads[1], order > 0)
    for k in range(1, order):
        other = template.again(scan, start.about(2 * np.pi * k / order, template.center), spreads[1])
        if other.energy < best.energy + _CLOSE:
            other = template.refined(scan, other, spreads[1])
            best = other if other.energy < best.energy else best
    return number, best
