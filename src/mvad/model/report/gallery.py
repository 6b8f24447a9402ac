"""Section of the page with the samples of a run: pictures, maps, scores, and the data of the sliders."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.scan import GOOD, NO_POSE
from mvad.model.evaluation.pictures import SIDE
from mvad.model.evaluation.results import Results, SampleResult
from mvad.model.evaluation.threshold import FALSE_ALARMS, kept_threshold
from mvad.model.metrics.curve import exact_curve
from mvad.model.report.budget import Budget
from mvad.model.report.clouds import clouds
from mvad.words import counted

_QUALITY = 72
_MANY = 8
"""Number of views up to which figures stand side by side."""
_ROWS = ("colour", "normals", "ground truth")
"""Rows of a picture of views that have colours and normals; others have one row of a picture."""


def gallery(run: Path, result: Results, number: int, budget: Budget) -> str:
    """Return the HTML section of a run: sliders, recall by defect, clouds, pictures; wrong decisions come first, the largest errors before others.

    Parameters
    ----------
    run, result
        The run and its ``results.json``.
    number
        Number of the section, which makes its HTML id unique.
    budget
        Bytes for the pictures; the caption counts how many samples are shown within it.
    """
    samples = result.samples
    scores = np.array([s.score for s in samples])
    labels = np.array([bool(s.label) for s in samples])
    start, note = _threshold(run, result, scores, labels)
    if result.unmarked_views:
        note += f" {counted(result.unmarked_views, 'view')} with a defect that no mask marks: their pixels are left out of figures on pixels."
    shown, figures = [], []
    viewer = clouds(run, result, budget)
    for sample in sorted(samples, key=lambda s: s.score - start if s.label else start - s.score):
        figure = _figure(run, sample, result.view_names)
        if not budget.take(len(figure)):
            break  # the others are about as large, and each takes milliseconds to make
        shown.append(sample)
        figures.append(figure)
    low, high = (min(s.map_range[0] for s in samples), max(s.map_range[1] for s in samples))
    pixel = result.figures.pixel_threshold
    return (
        f'<section class="run" id="run{number}" data-low="{low:.7g}" data-high="{high:.7g}">'
        f"<h3>{escape(result.run)}{escape(f' ({result.variant})' if result.variant and result.variant != result.run else '')}</h3>"
        f"<p class=dim>{len(shown)} of {counted(len(samples), 'sample')} shown, wrong decisions first. "
        f"One column per view, above it its score; ground truth in red. {escape(note)}</p>"
        f'<div class="controls">'
        + _slider("sample", "sample is anomalous from", float(scores.min()), float(scores.max()), start)
        + _slider("pixel", "outline the map from", low, high, high if pixel is None else pixel)
        + '<label>show <select class="filter">'
        + "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in _filters(samples))
        + "</select></label>"
        + '<span class="sort" role="group" aria-label="sort">sort by '
        + "".join(f'<button type="button" data-by="{by}">{by}</button>' for by in ("error", "score", "name"))
        + "</span></div>"
        + f'<p class="counts" aria-live="polite"></p>{_recall(samples)}{viewer}'
        + f'<div class="gallery">{"".join(figures)}</div></section>'
    )


def _threshold(run: Path, result: Results, scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, str]:
    """Return where the slider of samples starts, and a sentence on where that comes from."""
    pixels = "The outline of maps starts at the best F1 of these pixels, which their ground truth chose."
    if kept := kept_threshold(run, result.model_sha256):
        least = float(np.nextafter(kept.value, np.inf))  # the page counts from a score on, predict above a threshold
        return least, f"Samples are anomalous above the threshold of mvad predict: {kept.describe(FALSE_ALARMS)}. {pixels}"
    if labels.any() and not labels.all():
        best = exact_curve(scores, labels).best_f1()[1]
        start = "No threshold is stored (mvad evaluate takes one from normal samples that were not trained on), so samples are anomalous from the"
        return (
            float(best),
            f"{start} best F1 on these test samples, chosen with their labels: it promises nothing for new parts. {pixels}",
        )
    return float(np.median(scores)), f"The threshold of samples starts at their median. {pixels}"


def _slider(kind: str, text: str, low: float, high: float, at: float) -> str:
    step = max(float(high) - float(low), 1e-9) / 500
    return (
        f'<label>{text} <input type="range" autocomplete="off" class="{kind}" min="{low - step:.7g}" max="{high + step:.7g}" step="{step:.3g}" '
        f'value="{at!r}"> <output>{at:.4g}</output></label>'
    )


def _filters(samples: Sequence[SampleResult]) -> list[tuple[str, str]]:
    defects = sorted({s.defect for s in samples} - {GOOD})
    fixed = [("all", "all"), ("wrong", "wrongly classified"), ("label0", "good"), ("label1", "anomalous")]
    return fixed + [(f"defect{k}", name) for k, name in enumerate(defects)]


def _recall(samples: Sequence[SampleResult]) -> str:
    """Return a table with one row per defect; the slider fills in the recall from the scores of all samples in the row."""
    defects = sorted({s.defect for s in samples} - {GOOD})
    rows = []
    for k, defect in [(-1, GOOD), *enumerate(defects)]:
        scores = [s.score for s in samples if s.defect == defect]
        if not scores:
            continue
        values = " ".join(map(repr, scores))
        name = "good (false alarms)" if k < 0 else defect
        rows.append(
            f'<tr data-defect="{k}" data-scores="{values}"><th scope="row">{escape(name)}</th><td>{len(scores)}</td>'
            '<td><meter min="0" max="1" value="0"></meter> <span></span></td></tr>'
        )
    return (
        '<div class="wide"><table class="recall"><thead><tr><th>defect</th><th>samples</th><th>called anomalous</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figure(run: Path, sample: SampleResult, names: Sequence[str]) -> str:
    contents = [
        _content(files.inside(run, name), sha256)
        for name, sha256 in ((sample.picture, sample.picture_sha256), (sample.map, sample.map_sha256))
    ]
    if None in contents:
        return (
            f"<figure><figcaption>{escape(sample.key)}: its pictures are missing or others; evaluate again</figcaption></figure>"
        )
    picture, grey = (content or b"" for content in contents)
    strip = imagecodecs.jpeg_decode(picture)[:-SIDE]  # the map is drawn by the page
    small = bytes(imagecodecs.jpeg_encode(np.ascontiguousarray(strip), level=_QUALITY))
    low, high = sample.map_range
    heads = "".join(
        f"<span>{escape(names[k]) if names else f'view {k}'}<br>{_scored(score, sample.view_labels[k])}</span>"
        for k, score in enumerate(sample.view_scores)
    )
    title = f"{sample.key.rpartition('/')[2]} ({sample.defect})" if names else sample.key
    count = strip.shape[0] // SIDE
    names = _ROWS if count == len(_ROWS) else ("picture", "ground truth")
    rows = "".join(f'<i style="top:{100 * k / count:.4g}%">{name}</i>' for k, name in enumerate(names))
    return (
        f'<figure{many_views(len(sample.view_scores))} data-score="{sample.score!r}" data-label="{int(sample.label)}" '
        f'data-name="{escape(sample.key)}" data-kind="{escape(sample.defect)}" data-low="{low:.7g}" data-high="{high:.7g}">'
        f"{heads_above(heads, len(sample.view_scores))}"
        f'<div class="rows"><img class="views" loading="lazy" width="{strip.shape[1]}" height="{strip.shape[0]}" alt="views of {escape(sample.key)}" '
        f'src="{_uri(small, "jpeg")}">{rows}</div><div class="rows"><canvas role="img" aria-label="anomaly map" data-src="{_uri(grey, "png")}"></canvas><i style="top:0">anomaly map</i></div>'
        f"<figcaption><b></b> {escape(title)}: {sample.score:.4g}<small>{_pose(sample)}</small></figcaption></figure>"
    )


def _scored(score: float | None, label: bool | None) -> str:
    """Return what stands for a view's score; a view that is there and has none shows no object."""
    return f"{score:.3g}" if score is not None else "missing" if label is None else "no object"


def heads_above(heads: str, views: int) -> str:
    """Return the row of heads that stand above the columns of a picture of some views."""
    return f'<div class="heads" style="grid-template-columns:repeat({views},minmax(0,1fr))">{heads}</div>'


def many_views(views: int) -> str:
    """Return the attributes of a figure: one of many views is as wide as the page, and scrolls where that is not enough."""
    return f' class="many" style="--views:{views}"' if views > _MANY else ""


def _content(path: Path, sha256: str) -> bytes | None:
    """Return a file's content if it is what the results were written with; results of before name no hash."""
    content = path.read_bytes() if path.exists() else None
    return content if content is not None and (not sha256 or files.sha256_bytes(content) == sha256) else None


def _pose(sample: SampleResult) -> str:
    """Return the line on the pose that a scan took, or "" for photographs and results of before."""
    if sample.pose_number is None:
        return ""
    pose = "fits no stable pose" if sample.pose_number == NO_POSE else f"pose {sample.pose_number}"
    turn = "" if sample.turn_deg is None else f", turn {sample.turn_deg:.0f} deg"
    drawn = ", drawn mirrored" if sample.mirrored else ""
    fit = "" if sample.pose_fit is None else f", template fit {100 * sample.pose_fit:.1f} %"
    return f'<br><span class="pose">{pose}{drawn}{turn}{fit}</span>'


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
