"""Small charts as SVG text; colours are set by the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_W, _H, _M = 320, 220, 34
_COLOURS = 6

Line = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, *, log_y: bool = False,
    x_range: tuple[float, float] | None = None, y_range: tuple[float, float] | None = None, marks: bool = False,
) -> str:  # fmt: skip
    """Return an SVG of named lines (name, x, y).

    Parameters
    ----------
    title, lines, x_label, y_label
        Title of the chart, lines (name, x, y), labels of the axes.
    log_y
        Whether y is logarithmic.
    x_range, y_range
        Limits of the axes; None: the range of the lines.
    marks
        Whether points are marked by dots.
    """
    heights = [np.log10(np.maximum(line[2], 1e-6)) if log_y else line[2] for line in lines]
    all_x, all_y = np.concatenate([line[1] for line in lines]), np.concatenate(heights)
    x0, x1 = x_range or (float(all_x.min()), float(all_x.max()))
    y0, y1 = y_range or (float(all_y.min()), float(all_y.max()))

    def place(x: float, y: float) -> str:
        return f"{_M + (x - x0) / max(x1 - x0, 1e-9) * (_W - 2 * _M):.1f},{_H - _M - (y - y0) / max(y1 - y0, 1e-9) * (_H - 2 * _M):.1f}"

    body = []
    for number, ((name, xs, _), ys) in enumerate(zip(lines, heights, strict=True)):
        inside = (xs >= x0) & (xs <= x1)
        drawn = list(zip(xs[inside], ys[inside], strict=True))
        if len(drawn) and xs.max() > x1:  # interpolate up to the edge, since the next point lies beyond it
            beyond = int(np.argmax(xs > x1))
            share = (x1 - drawn[-1][0]) / (xs[beyond] - drawn[-1][0])
            drawn.append((x1, drawn[-1][1] + share * (ys[beyond] - drawn[-1][1])))
        points = [place(x, y) for x, y in drawn]
        body.append(
            f'<polyline class="s{number % _COLOURS}" points="{" ".join(points)}"><title>{escape(name)}</title></polyline>'
        )
        if marks:
            body += [
                f'<circle class="m{number % _COLOURS}" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2.5"/>' for p in points
            ]
    low, high = (10**y0, 10**y1) if log_y else (y0, y1)
    named = [(f"l{k % _COLOURS}", line[0]) for k, line in enumerate(lines)]
    return _frame(title, "".join(body), x_label, y_label, (x0, x1), (low, high), named)


def chart_of_points(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Return an SVG of named series of points (x, y), joined by lines."""
    lines = [
        (name, np.array([p[0] for p in points], float), np.array([p[1] for p in points], float))
        for name, points in curves.items()
    ]
    return line_chart(title, lines, x_label, y_label, marks=True)


def histogram(title: str, groups: Sequence[tuple[str, NDArray[np.float64]]], x_label: str) -> str:
    """Return an SVG of one histogram per group, side by side in each bin, as shares of the group.

    Of two groups the first has the colour of what is good, the second that of what is bad.
    """
    all_values = np.concatenate([values for _, values in groups])
    edges = np.linspace(all_values.min(), max(all_values.max(), all_values.min() + 1e-9), 21)
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for _, values in groups]
    top = max(float(share.max()) for share in shares)
    width = (_W - 2 * _M) / 20 / len(groups)
    bars = []
    for number, share in enumerate(shares):
        for k, value in enumerate(share):
            height = value / max(top, 1e-9) * (_H - 2 * _M)
            x = _M + k * width * len(groups) + number * width
            bars.append(
                f'<rect class="b{number}" x="{x:.1f}" y="{_H - _M - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
            )
    named = [(f"b{number}", name) for number, (name, _) in enumerate(groups)]
    return _frame(title, "".join(bars), x_label, "share", (float(edges[0]), float(edges[-1])), (0.0, top), named)


def standalone(svg: str) -> str:
    """Return a chart as a complete SVG file, with colours that are readable on light and dark backgrounds."""
    colours = ("#2f81d6", "#d9722e", "#2e9b5b", "#a06bd0", "#b58a1e", "#d0559a")
    style = "text{font:10px sans-serif;fill:#808590}.t{font-size:12px}.axis{fill:none;stroke:#9aa0a8}polyline{fill:none;stroke-width:1.8}"
    for k, colour in enumerate(colours):
        style += f".s{k}{{stroke:{colour}}}.l{k},.m{k}{{fill:{colour}}}"
    style += f".b0{{fill:{colours[2]}}}.b1{{fill:#d0453f}}"
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f"><style>{style}</style>", 1)


def _frame(
    title: str, body: str, x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float],
    named: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    """Return an SVG of axes with a content; below them the legend, (class, name) of each line, so that it covers no line."""
    bottom, right, first = _H - _M, _W - _M, _H + 8
    legend = "".join(
        f'<text class="{colour}" x="{_M}" y="{first + 13 * k}"{_squeezed(name, _W - _M, 5.3)}>{escape(name)}</text>'
        for k, (colour, name) in enumerate(named)
    )
    return (
        f'<svg viewBox="0 0 {_W} {first + 13 * len(named)}" role="img" aria-label="{escape(title)}">'
        f'<text class="t" x="{_M}" y="18"{_squeezed(title, _W - _M, 6.4)}>{escape(title)}</text>'
        f'<path class="axis" d="M{_M} {_M}V{bottom}H{right}"/>{body}'
        f'<text x="{_M}" y="{_H - 18}">{x_range[0]:.3g}</text><text x="{right}" y="{_H - 18}" text-anchor="end">{x_range[1]:.3g}</text>'
        f'<text x="{_W / 2}" y="{_H - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{_M - 4}" y="{bottom}" text-anchor="end">{y_range[0]:.2g}</text>'
        f'<text x="{_M - 4}" y="{_M + 8}" text-anchor="end">{y_range[1]:.2g}</text>'
        f'<text x="10" y="{_H / 2}" text-anchor="middle" transform="rotate(-90 10 {_H / 2})">{escape(y_label)}</text>{legend}</svg>'
    )


def _squeezed(text: str, width: int, each: float) -> str:
    """Return the attributes that fit a text into a width if its letters are too many for it, about ``each`` wide."""
    return f' textLength="{width - 8}" lengthAdjust="spacingAndGlyphs"' if len(text) * each > width - 8 else ""
