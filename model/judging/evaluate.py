"""Judge a run on the test split: scores, figures, pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from torch.nn import functional

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps
from mvad.model.judging.pictures import strip
from mvad.model.judging.runs import RESULTS, load_run, machine
from mvad.model.methods import backbone
from mvad.model.metrics.auroc import PixelScores, auroc
from mvad.model.teachers.weights import WeightsSource
from mvad.progress import Progress

MAPS = "maps"
_VIEWS = "-views-"
PIXELS = 256
"""P-AUROC is taken over all present views at this size, masks by nearest neighbour (eval.pixels)."""


@dataclass(frozen=True)
class SampleResult:
    """One judged sample."""

    key: str
    defect: str
    label: bool
    score: float
    view_labels: list[bool | None]
    view_scores: list[float | None]
    picture_sha256: str


def evaluate_run(
    run: Path, shards: Path, weights: WeightsSource, progress: Progress, views: Sequence[int] = ()
) -> dict[str, Any]:
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

    Raises
    ------
    BadInput
        If the run is not finished, the shards' training split is not the one it was trained on, or there is no such view.
    """
    detector, _, facts = load_run(run, weights)
    folder = shards / facts["dataset"] / facts["category"]
    train = ShardSet(folder, "train")
    if train.sha256 != facts["shards"]:
        raise BadInput(f"{folder}: is not what {run.name} was trained on; pack the same data, or train again")
    data = ShardSet(folder, "test")
    chosen = sorted(set(views))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(data.views):
        raise BadInput(f"--views {','.join(map(str, views))}: {folder} has views 0 to {len(data.views) - 1}")
    trained = {"training_samples": len(train), "train_shards": facts["shards"]}
    return judge_split(run, data, detector.score, facts, trained, progress, chosen)


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


def judge_split(
    run: Path, data: ShardSet, answer: Callable[[Batch], AnomalyMaps], facts: Mapping[str, Any], trained: Mapping[str, Any],
    progress: Progress, views: Sequence[int] = (),
) -> dict[str, Any]:  # fmt: skip
    """Judge whatever answers with anomaly maps, and write ``results.json`` and ``maps/``; returns the results.

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
    """
    suffix = _VIEWS + "-".join(map(str, views)) if views else ""
    blind = 0
    progress.start(f"evaluate {run.name}", len(data))
    pixels = PixelScores()
    samples, seconds = [], {"network": 0.0, "all": 0.0}
    for index in range(len(data)):
        began = time.perf_counter()
        batch = data.batch([index])
        if views:
            batch = with_views(batch, views)
        if not bool(batch.present.any()):
            blind += 1
            progress.advance()
            continue
        before = time.perf_counter()
        found = answer(batch)
        seconds["network"] += time.perf_counter() - before
        maps = functional.interpolate(found.maps.cpu(), size=PIXELS, mode="bilinear", align_corners=False)[0].numpy()
        masks = functional.interpolate(batch.mask.float(), size=PIXELS, mode="nearest")[0].numpy() > 0
        present = batch.present[0].numpy()
        pixels.add(maps[present], masks[present])
        picture = bytes(imagecodecs.jpeg_encode(strip(batch, maps), level=88))
        files.write_bytes(run / (MAPS + suffix) / f"{_file(batch.keys[0])}.jpg", picture)
        samples.append(_result(batch, found, files.sha256_bytes(picture)))
        seconds["all"] += time.perf_counter() - began
        progress.advance()
    results = {
        "run": run.name,
        "dataset": facts["dataset"],
        "category": facts["category"],
        "model": facts["config"]["model"],
        "seed": facts["config"]["seed"],
        "config": facts["config"],
        "teacher": facts["teacher"],
        "figures": figures(samples, pixels.auroc()),
        "backbone": backbone(facts["config"]["model"], facts["teacher"]["name"]),
        **({"views": list(views), "samples_without_these_views": blind} if views else {}),
        **trained,
        "test_shards": data.sha256,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "machine": machine(),
        "samples": [_as_json(sample, MAPS + suffix) for sample in samples],
    }
    files.write_sealed_json(run / RESULTS.replace(".json", f"{suffix}.json"), results)
    return results


def figures(samples: list[SampleResult], pixel_auroc: float) -> dict[str, Any]:
    """Return S-AUROC, image AUROC (over present views), P-AUROC, and S-AUROC by defect; None where undefined.

    ``s_auroc`` takes the sample's full label; ``s_auroc_visible`` that of the views that were shown (label.missing): with
    all views the two differ only where no view shows a sample's defect.
    """
    labels = np.array([sample.label for sample in samples])
    scores = np.array([sample.score for sample in samples])
    views = [
        (score, label)
        for sample in samples
        for score, label in zip(sample.view_scores, sample.view_labels, strict=True)
        if score is not None
    ]
    view_scores, view_labels = np.array([v[0] for v in views]), np.array([bool(v[1]) for v in views])
    by_defect = {}
    for defect in sorted({sample.defect for sample in samples} - {GOOD}):
        chosen = np.array([sample.defect in (GOOD, defect) for sample in samples])
        by_defect[defect] = _defined(auroc(scores[chosen], labels[chosen]))
    return {
        "s_auroc": _defined(auroc(scores, labels)),
        "s_auroc_visible": _defined(auroc(scores, np.array([any(filter(None, sample.view_labels)) for sample in samples]))),
        "image_auroc": _defined(auroc(view_scores, view_labels)),
        "p_auroc": _defined(pixel_auroc),
        "s_auroc_by_defect": by_defect,
        "samples": len(samples),
        "anomalous": int(labels.sum()),
    }


def mean_figures(results: list[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each figure over runs; None where none defines it."""
    means: dict[str, float | None] = {}
    for name in ("s_auroc", "image_auroc", "p_auroc"):
        values = [result["figures"][name] for result in results if result["figures"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _result(batch: Batch, answer: AnomalyMaps, picture_sha256: str) -> SampleResult:
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
    )


def _as_json(sample: SampleResult, folder: str) -> dict[str, Any]:
    return {"picture": f"{folder}/{_file(sample.key)}.jpg", **sample.__dict__}


def _file(key: str) -> str:
    return key.replace("/", "_")


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
