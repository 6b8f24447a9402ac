"""Evaluate a run on the test split: scores, figures, pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.pictures import grey_levels, strip
from mvad.model.metrics.histogram import Curve, exact_curve
from mvad.model.metrics.intervals import Interval, auroc_interval
from mvad.model.metrics.pixels import PixelFigures, PixelScores
from mvad.model.registry import backbone
from mvad.model.runs import RESULTS, load_run, machine, model_sha256
from mvad.progress import Progress

MAPS = "maps"
_VIEWS = "-views-"
_DRAWN = 200
PIXELS = 256
"""P-AUROC is taken over all present views at this size, masks by nearest neighbour (eval.pixels)."""


@dataclass(frozen=True)
class SampleResult:
    """One evaluated sample."""

    key: str
    defect: str
    label: bool
    score: float
    view_labels: list[bool | None]
    view_scores: list[float | None]
    picture_sha256: str
    map_sha256: str
    map_range: list[float]
    """What black and white of the map's picture stand for."""


class EvaluationCallback(Protocol):
    """Looks on while a split is evaluated, and adds to the results."""

    fields: Sequence[str]
    """What it reads of a batch, where shards have it."""

    def on_sample(self, batch: Batch, found: AnomalyMaps) -> None:
        """Be shown a sample, a batch of one, with the detector's answer."""

    def results(self) -> dict[str, Any]:
        """Return what to add to ``results.json``, when all samples were seen."""


def evaluate_run(
    run: Path, shards: Path, weights: WeightsSource, progress: Progress, views: Sequence[int] = (),
    callbacks: Sequence[EvaluationCallback] = (),
) -> dict[str, Any]:  # fmt: skip
    """Score a run's test split and write ``results.json`` and ``maps/``; returns the results.

    Parameters
    ----------
    run
        A finished run.
    shards
        The workspace's shards.
    weights
        Where the teacher's weights may be.
    progress
        Is told of each sample.
    views
        Only these views are shown to the detector, the others count as missing; ``results-views-0-2.json`` and
        ``maps-views-0-2/`` are written then. Empty: all.
    callbacks
        Are shown every sample with its maps, and add to the results.

    Raises
    ------
    BadInput
        If the run is not finished, the shards' training split is not the one it was trained on, or there is no such view.
    """
    detector, config, facts = load_run(run, weights)
    folder = shards / facts["dataset"] / facts["category"]
    train = check_training(run, facts, folder)
    data = shown_fields(ShardSet(folder, "test"), config.input.modalities, [name for each in callbacks for name in each.fields])
    chosen = sorted(set(views))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(data.views):
        raise BadInput(f"--views {','.join(map(str, views))}: {folder} has views 0 to {len(data.views) - 1}")
    trained = {"training_samples": len(train), "train_shards": facts["shards"], "model_sha256": model_sha256(run)}
    return evaluate_split(run, data, detector.score, facts, trained, progress, chosen, callbacks)


def check_training(run: Path, facts: Mapping[str, Any], folder: Path) -> ShardSet:
    """Return the training split of a packed category, if a run was trained on it.

    Raises
    ------
    BadInput
        If it was trained on other shards.
    """
    train = ShardSet(folder, "train")
    if train.sha256 != facts["shards"]:
        raise BadInput(f"{folder}: is not what {run.name} was trained on; pack the same data, or train again")
    return train


def shown_fields(data: ShardSet, modalities: Sequence[str], also: Sequence[str] = ()) -> ShardSet:
    """Return a split with what a detector reads, what the pictures show, and more: no more than that is decoded."""
    wanted = {*modalities, *also, *({"rgb", "normal"} & set(data.stored))}
    return data.select([name for name in data.stored if name in wanted])


def shown_views(path: Path) -> tuple[int, ...]:
    """Return the views that a file of results or a picture of a map is about; empty: all."""
    name = path.stem if path.suffix == ".json" else path.parent.name
    _, marked, listed = name.partition(_VIEWS)
    return tuple(map(int, listed.split("-"))) if marked else ()


def with_views(batch: Batch, views: Sequence[int]) -> Batch:
    """Return a batch in which all but some views count as missing. What is in the others' pixels stays, and must not matter."""
    kept = torch.zeros_like(batch.present)
    kept[:, list(views)] = True
    return replace(batch, present=batch.present & kept)


def evaluate_split(
    run: Path, data: ShardSet, answer: Callable[[Batch], AnomalyMaps], facts: Mapping[str, Any], trained: Mapping[str, Any],
    progress: Progress, views: Sequence[int] = (), callbacks: Sequence[EvaluationCallback] = (),
) -> dict[str, Any]:  # fmt: skip
    """Evaluate whatever answers with anomaly maps, and write ``results.json`` and ``maps/``; returns the results.

    Parameters
    ----------
    run
        Folder to write.
    data
        The test split.
    answer
        Scores a batch of one sample.
    facts
        The run's ``config.json``.
    trained
        What it was trained on, for the results.
    progress
        Is told of each sample.
    views
        Only these are shown; empty: all. Samples that have none of them are left out and counted.
    callbacks
        Are shown every sample with its maps, and add to the results.
    """
    suffix = _VIEWS + "-".join(map(str, views)) if views else ""
    path = run / RESULTS.replace(".json", f"{suffix}.json")
    progress.start(f"evaluate {run.name}", len(data))
    pixels, samples = PixelScores(), list[SampleResult]()
    seconds = {"network": 0.0, "all": 0.0}

    def finish(batch: Batch, found: AnomalyMaps) -> None:
        maps, masks = at_pixels(batch, found)
        present = batch.present[0].numpy()
        pixels.add(batch.keys[0], maps[present], masks[present])
        for callback in callbacks:
            callback.on_sample(batch, found)
        levels, low, high = grey_levels(maps)
        picture = bytes(imagecodecs.jpeg_encode(strip(batch, levels), level=88))
        drawn = bytes(imagecodecs.png_encode(levels, level=6))
        stem = file_stem(batch.keys[0])
        files.write_bytes(run / (MAPS + suffix) / f"{stem}.jpg", picture)
        files.write_bytes(run / (MAPS + suffix) / f"{stem}.png", drawn)
        samples.append(_result(batch, found, files.sha256_bytes(picture), files.sha256_bytes(drawn), [low, high]))

    began = time.perf_counter()
    for index in range(len(data)):
        batch = data.batch([index])
        if views:
            batch = with_views(batch, views)
        if bool(batch.present.any()):
            before = time.perf_counter()
            found = answer(batch)
            seconds["network"] += time.perf_counter() - before
            finish(batch, found)
        progress.advance()
    seconds["all"] = time.perf_counter() - began
    results = {
        "run": run.name,
        "dataset": facts["dataset"],
        "category": facts["category"],
        "model": facts["config"]["model"],
        "seed": facts["config"]["seed"],
        "config": facts["config"],
        "teacher": facts["teacher"],
        "figures": figures(samples, pixels.figures()),
        "backbone": backbone(facts["config"]["model"], facts["teacher"]["name"]),
        **({"views": list(views), "samples_without_these_views": len(data) - len(samples)} if views else {}),
        **trained,
        "test_shards": data.sha256,
        "curves": curves(samples, pixels),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "machine": machine(),
        **_carried_back(path, trained, data),
        **{name: value for callback in callbacks for name, value in callback.results().items()},
        "samples": [sample_as_json(sample, MAPS + suffix) for sample in samples],
    }
    files.write_sealed_json(path, results)
    return results


def at_pixels(batch: Batch, found: AnomalyMaps) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a sample's maps and masks, each (V, PIXELS, PIXELS), as pixels are evaluated (eval.pixels)."""
    maps = functional.interpolate(found.maps.cpu(), size=PIXELS, mode="bilinear", align_corners=False)[0].numpy()
    masks = functional.interpolate(batch.mask.float(), size=PIXELS, mode="nearest")[0].numpy() > 0
    return maps, masks


def _carried_back(path: Path, trained: Mapping[str, Any], data: ShardSet) -> dict[str, Any]:
    """Return what an earlier evaluation of the same model on the same samples found on the scans: it still holds."""
    if not path.exists():
        return {}
    try:
        before = files.read_sealed_json(path, "results", "evaluate again")
    except BadInput:
        return {}
    same = before.get("model_sha256") == trained.get("model_sha256") is not None and before.get("test_shards") == data.sha256
    return {"scan": before["scan"]} if same and "scan" in before else {}


def figures(samples: list[SampleResult], pixels: PixelFigures) -> dict[str, Any]:
    """Return AUROC, average precision and best F1 of samples, images (present views) and pixels, AUPRO, and S-AUROC by defect.

    ``s_auroc`` takes the sample's full label; ``s_auroc_visible`` that of the views that were shown (label.missing): with
    all views the two differ only where no view shows a sample's defect. ``intervals`` has 95 % of each AUROC: DeLong's by samples;
    for images and pixels samples are clusters. None where a class is missing.
    """
    labels = np.array([sample.label for sample in samples], dtype=bool)
    scores = np.array([sample.score for sample in samples], dtype=np.float64)
    view_scores, view_labels, owners = image_table(samples)
    visible = np.array([any(filter(None, sample.view_labels)) for sample in samples], dtype=bool)
    by_defect = {}
    for defect in sorted({sample.defect for sample in samples} - {GOOD}):
        chosen = np.array([sample.defect in (GOOD, defect) for sample in samples])
        by_defect[defect] = auroc_interval(scores[chosen], labels[chosen])
    areas = {
        "s_auroc": auroc_interval(scores, labels),
        "s_auroc_visible": auroc_interval(scores, visible),
        "image_auroc": auroc_interval(view_scores, view_labels, owners),
        "p_auroc": pixels.auroc,
    }
    found: dict[str, Any] = {name: defined(area.value) for name, area in areas.items()}
    for level, curve in (("s", exact_curve(scores, labels)), ("image", exact_curve(view_scores, view_labels))):
        found |= {f"{level}_ap": defined(curve.average_precision()), f"{level}_f1_max": defined(curve.best_f1()[0])}
    return found | {
        "p_ap": defined(pixels.ap),
        "p_f1_max": defined(pixels.f1_max),
        **{f"aupro_{round(100 * limit):02d}": defined(value) for limit, value in pixels.aupro.items()},
        "s_auroc_by_defect": {name: defined(area.value) for name, area in by_defect.items()},
        "intervals": {name: interval_of(area) for name, area in areas.items()}
        | {"s_auroc_by_defect": {name: interval_of(area) for name, area in by_defect.items()}},
        "pixel_threshold": defined(pixels.threshold),
        "p_auroc_error_bound": defined(pixels.error_bound),
        "regions": pixels.regions,
        "samples": len(samples),
        "anomalous": int(labels.sum()),
    }


def image_table(samples: Sequence[SampleResult]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return scores, labels and sample number of every present view, each (views of all samples,)."""
    rows = [
        (score, bool(label), number)
        for number, sample in enumerate(samples)
        for score, label in zip(sample.view_scores, sample.view_labels, strict=True)
        if score is not None
    ]
    scores, labels, owners = ([row[k] for row in rows] for k in range(3))
    return np.array(scores, np.float64), np.array(labels, bool), np.array(owners, np.int64)


def curves(samples: Sequence[SampleResult], pixels: PixelScores) -> dict[str, Any]:
    """Return what to draw: counts at falling thresholds of samples, images and pixels, and the share of each region found.

    Each is a list of [false, true] from nothing to everything, as shares for pixels and regions.
    """
    scores, labels, _ = image_table(samples)
    by_sample = exact_curve(np.array([s.score for s in samples]), np.array([s.label for s in samples], bool))
    plain, weighted, _ = pixels.histogram.curves()
    return {
        "sample": _points(by_sample.thinned(_DRAWN)),
        "image": _points(exact_curve(scores, labels).thinned(_DRAWN)),
        "pixel": _points(plain.thinned(_DRAWN)),
        "region": _points(weighted.thinned(_DRAWN)),
    }


def _points(curve: Curve) -> list[list[float]]:
    return [[float(f"{false:.7g}"), float(f"{true:.7g}")] for false, true in zip(curve.false, curve.true, strict=True)]


def interval_of(area: Interval) -> list[float] | None:
    """Return an interval for JSON: None where the figure is not defined."""
    return None if math.isnan(area.value) else [area.low, area.high]


def _result(batch: Batch, answer: AnomalyMaps, picture_sha256: str, map_sha256: str, map_range: list[float]) -> SampleResult:
    present = batch.present[0].tolist()
    scores, labels = answer.view_scores[0].tolist(), batch.view_label[0].tolist()
    return SampleResult(
        key=batch.keys[0],
        defect=batch.defects[0],
        label=bool(batch.label[0]),
        score=float(answer.sample_scores[0]),
        view_labels=[bool(label) if there else None for label, there in zip(labels, present, strict=True)],
        view_scores=[float(score) if there else None for score, there in zip(scores, present, strict=True)],
        picture_sha256=picture_sha256,
        map_sha256=map_sha256,
        map_range=map_range,
    )


def sample_as_json(sample: SampleResult, folder: str) -> dict[str, Any]:
    """Return a sample for ``results.json``; its pictures lie in a folder of the run."""
    stem = f"{folder}/{file_stem(sample.key)}"
    return {"picture": f"{stem}.jpg", "map": f"{stem}.png", **sample.__dict__}


def file_stem(key: str) -> str:
    """Return a sample's key as the name of a file."""
    return key.replace("/", "_")


def defined(value: float) -> float | None:
    """Return a figure for JSON: None where it is not defined."""
    return None if math.isnan(value) else value
