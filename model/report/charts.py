"""Small charts as SVG text; colours come from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_W, _H, _M = 320, 220, 34

Line = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, log_y: bool = False, legend_below: bool = False
) -> str:
    """Return an SVG of named lines (name, x, y); the legend stands at the right, above or below the lines."""
    every_x = np.concatenate([line[1] for line in lines])
    every_y = np.concatenate([line[2] for line in lines])
    if log_y:
        every_y = np.log10(np.maximum(every_y, 1e-6))
    x0, x1, y0, y1 = float(every_x.min()), float(every_x.max()), float(every_y.min()), float(every_y.max())
    body = []
    for number, (name, xs, ys) in enumerate(lines):
        heights = np.log10(np.maximum(ys, 1e-6)) if log_y else ys
        points = " ".join(
            f"{_M + (x - x0) / max(x1 - x0, 1e-9) * (_W - 2 * _M):.1f},{_H - _M - (y - y0) / max(y1 - y0, 1e-9) * (_H - 2 * _M):.1f}"
            for x, y in zip(xs, heights, strict=True)
        )
        body.append(f'<polyline class="s{number % 6}" points="{points}"><title>{escape(name)}</title></polyline>')
    first = _H - _M - 8 - 13 * (len(lines[:8]) - 1) if legend_below else _M + 12
    legend = "".join(
        f'<text class="l{k % 6}" x="{_W - _M}" y="{first + 13 * k}" text-anchor="end">{escape(line[0])}</text>'
        for k, line in enumerate(lines[:8])
    )
    low, high = (10**y0, 10**y1) if log_y else (y0, y1)
    return _frame(title, "".join(body) + legend, x_label, y_label, (x0, x1), (low, high))


def histogram(title: str, groups: Sequence[tuple[str, NDArray[np.float64]]], x_label: str) -> str:
    """Return an SVG of one histogram a group, side by side in each bin, as shares of the group."""
    every = np.concatenate([values for _, values in groups])
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1e-9), 21)
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for _, values in groups]
    top = max(float(share.max()) for share in shares)
    width = (_W - 2 * _M) / 20 / len(groups)
    bars, legend = [], []
    for number, ((name, _), share) in enumerate(zip(groups, shares, strict=True)):
        for k, value in enumerate(share):
            height = value / max(top, 1e-9) * (_H - 2 * _M)
            x = _M + k * width * len(groups) + number * width
            bars.append(
                f'<rect class="b{number}" x="{x:.1f}" y="{_H - _M - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
            )
        legend.append(
            f'<text class="l{number}" x="{_W - _M}" y="{_M + 12 + 13 * number}" text-anchor="end">{escape(name)}</text>'
        )
    return _frame(title, "".join(bars + legend), x_label, "share", (float(edges[0]), float(edges[-1])), (0.0, top))


def _frame(title: str, body: str, x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    bottom, right = _H - _M, _W - _M
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(title)}"><text class="t" x="{_M}" y="18">{escape(title)}</text>'
        f'<path class="axis" d="M{_M} {_M}V{bottom}H{right}"/>{body}'
        f'<text x="{_M}" y="{_H - 18}">{x_range[0]:.3g}</text><text x="{right}" y="{_H - 18}" text-anchor="end">{x_range[1]:.3g}</text>'
        f'<text x="{_W / 2}" y="{_H - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{_M - 4}" y="{bottom}" text-anchor="end">{y_range[0]:.2g}</text>'
        f'<text x="{_M - 4}" y="{_M + 8}" text-anchor="end">{y_range[1]:.2g}</text>'
        f'<text x="10" y="{_H / 2}" text-anchor="middle" transform="rotate(-90 10 {_H / 2})">{escape(y_label)}</text></svg>'
    )
