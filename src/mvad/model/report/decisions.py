"""Page of decisions on new parts, for people who look at them: pictures, maps, scores, what caused each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import imagecodecs
import numpy as np

from mvad import __version__
from mvad.model.evaluation.evaluate import file_stem
from mvad.model.evaluation.pictures import SIDE
from mvad.model.evaluation.predict import MAPS, Prediction, Predictions
from mvad.model.report.budget import Budget
from mvad.model.report.gallery import heads_above, many_views
from mvad.model.report.templates import filled
from mvad.words import counted

PICTURES = 24_000_000
"""Bytes for pictures on a page."""
_QUALITY = 78


def build_decisions(
    found: Predictions, failed: Sequence[tuple[str, str]], folder: Path, run: str, threshold: str, views: Sequence[str] = ()
) -> str:  # fmt: skip
    """Return the HTML of a page on new parts, the most anomalous first; everything is inlined.

    Parameters
    ----------
    found
        The predictions.
    failed
        Name and reason of each part that could not be scored.
    folder
        Folder of the predictions, with their pictures.
    run
        Name of the run.
    threshold
        What the threshold promises, one line.
    views
        Names of the views; empty: their numbers.
    """
    budget, cards = Budget(PICTURES), list[str]()
    ordered = sorted(found.rows, key=lambda row: (row.threshold - row.score, row.key))
    for row in ordered:
        card = _card(row, folder, views)
        if not budget.take(len(card)):
            break
        cards.append(card)
    anomalous = sum(row.anomalous for row in found.rows)
    shown = "" if len(cards) == len(ordered) else f" The {len(cards)} with the highest scores are shown."
    counts = f"{counted(len(found.rows), 'part')}: {anomalous} anomalous, {len(found.rows) - anomalous} normal"
    counts += f", {len(failed)} could not be scored." if failed else "."
    return filled(
        "decisions.html", "mvad decisions", version=escape(__version__), run=escape(run), counts=escape(counts + shown),
        threshold=escape(threshold[:1].upper() + threshold[1:]), failed=_failed(failed), cards="".join(cards),
    )  # fmt: skip


def _failed(failed: Sequence[tuple[str, str]]) -> str:
    if not failed:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in failed)
    return f'<h2>Could not be scored</h2><div class="wide"><table><tbody>{rows}</tbody></table></div>'


def _card(row: Prediction, folder: Path, views: Sequence[str]) -> str:
    """Return the figure of one part: above each view its name and score, then pictures and maps."""
    path, strip = folder / MAPS / f"{file_stem(row.key)}.jpg", None
    if path.exists():
        try:
            strip = imagecodecs.jpeg_decode(path.read_bytes())
        except RuntimeError:  # of imagecodecs, for every damage
            strip = None
    if strip is not None:
        small = bytes(imagecodecs.jpeg_encode(np.concatenate([strip[:SIDE], strip[-SIDE:]]), level=_QUALITY))
        source = base64.b64encode(small).decode()
        picture = (
            f'<img loading="lazy" width="{strip.shape[1]}" height="{2 * SIDE}" alt="views and anomaly maps of {escape(row.key)}" '
            f'src="data:image/jpeg;base64,{source}">'
        )
    else:
        picture = "<p>its picture is missing or damaged; predict again</p>"
    names = views or [f"view {k}" for k in range(len(row.view_scores))]
    heads = "".join(
        f"<span>{escape(name)}<br>{f'{score:.3g}' if score is not None else 'missing' if name in row.missing else 'no score'}</span>"
        for name, score in zip(names, row.view_scores, strict=True)
    )
    sign = "&gt;" if row.anomalous else "&le;"
    lacks = ""
    if row.missing:
        promise = (
            "nothing promised"
            if row.promised is None
            else f"at most {100 * row.promised:.3g} % false alarms expected of such parts"
        )
        lacks = f"<br>without {escape(', '.join(row.missing))}: {promise}"
    return (
        f'<figure{many_views(len(names))} data-label="{int(row.anomalous)}" data-name="{escape(row.key)}" data-score="{row.score:.7g}">'
        f"{heads_above(heads, len(names))}{picture}"
        f"<figcaption><b>{escape(row.key)}</b>: {row.decision}, {row.score:.4g} {sign} {row.threshold:.4g}"
        f"<small><br>highest in {escape(_cause(row, names))}{lacks}</small></figcaption></figure>"
    )


def _cause(row: Prediction, names: Sequence[str]) -> str:
    if row.view is None:
        return "-"
    if row.picture is None:
        return f"{names[row.view]}, row {row.row}, column {row.column}"
    return f"{names[row.view]} at ({row.x}, {row.y}) of {Path(row.picture).name}"
