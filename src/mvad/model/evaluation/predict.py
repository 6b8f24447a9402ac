"""Prediction of new samples one by one: scores, maps and times."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from torch.nn import functional

from mvad import files
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.scan import NO_POSE
from mvad.datasets.shards.loader import Batch, batch_of
from mvad.datasets.shards.schema import NO_TEMPLATE, Sample
from mvad.errors import BadInput
from mvad.model.detector import Detector
from mvad.model.devices import synchronise
from mvad.model.evaluation.evaluate import file_stem
from mvad.model.evaluation.pictures import grey_levels, strip
from mvad.model.evaluation.threshold import Threshold
from mvad.model.input_spec import InputSpec
from mvad.progress import Progress

PREDICTIONS = "predictions.csv"
FAILED = "failed.jsonl"
_DONE = "predictions.jsonl"
_PLACES = ("pose", "fit", "cut")
"""What a prediction of a render says of where the object lay."""
_CAUSE = ("view", "row", "column")
MAPS = "maps"


@dataclass(frozen=True)
class NewSample:
    """A new sample that has not been read yet.

    Attributes
    ----------
    key
        Name of the sample.
    made_from
        Hash of the files that it is read from.
    load
        Reads the sample; returns it coded as in a shard, and the coding of its depth.
    path
        The file that it is read from.
    """

    key: str
    made_from: str
    load: Callable[[], tuple[Sample, DepthCoding | None]]
    path: str = ""

    def batch(self, spec: InputSpec) -> Batch:
        """Read the sample as a batch of one that fits a detector; see ``check_fits``."""
        return self.read(spec)[0]

    def read(self, spec: InputSpec) -> tuple[Batch, dict[str, Any]]:
        """Read the sample as ``batch`` does; return also where its object lay, by the fields of ``Prediction``."""
        sample, coding = self.load()
        batch = batch_of(sample, coding)
        check_fits(batch, spec)
        if sample.pose_number is None or sample.cut is None:
            return batch, {}
        fit = None if sample.pose_fit == NO_TEMPLATE else sample.pose_fit
        return batch, {"pose": sample.pose_number, "fit": fit, "cut": np.flatnonzero(sample.cut).tolist()}


@dataclass(frozen=True)
class Prediction:
    """The score of one new sample.

    Attributes
    ----------
    key
        Name of the sample: its path below the given folder, or its key in the shards.
    score, anomalous
        Score of the sample, and whether it is above the threshold.
    view_scores
        Score of each view; None where it is missing.
    load_seconds, score_seconds
        Seconds for reading (and rendering), and for scoring.
    pose, fit
        Of a render: the stable pose that the scan took, -1 where it fits none; its fit to the pose's template, 0 to 1, None
        without one. None of photographs, and where an earlier version scored the sample.
    cut
        Views that the object reaches beyond.
    path
        The file that it was read from.
    view, row, column
        The view with the highest score, and the pixel of its map with the highest value: what caused the decision. None where
        an earlier version scored the sample.
    """

    key: str
    score: float
    anomalous: bool
    view_scores: Sequence[float | None]
    load_seconds: float
    score_seconds: float
    pose: int | None = None
    fit: float | None = None
    cut: Sequence[int] = ()
    path: str = ""
    view: int | None = None
    row: int | None = None
    column: int | None = None

    @property
    def decision(self) -> str:
        """``anomalous`` or ``normal``."""
        return "anomalous" if self.anomalous else "normal"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, with ``sample`` for the key and ``decision``."""
        rest = {name: value for name, value in self.__dict__.items() if name not in ("key", "anomalous")}
        return {
            "sample": self.key,
            "decision": self.decision,
            **rest,
            "view_scores": list(self.view_scores),
            "cut": list(self.cut),
        }


@dataclass(frozen=True)
class Predictions:
    """Predictions of new samples.

    Attributes
    ----------
    rows
        One prediction per sample that was scored.
    failed
        Number of samples that could not be scored; ``failed.jsonl`` has the reasons.
    """

    rows: Sequence[Prediction]
    failed: int

    def latency(self, name: str) -> float:
        """Return the median of ``load_seconds`` or ``score_seconds`` without the first sample, which warms up; 0 for no rows."""
        values = [float(getattr(row, name)) for row in self.rows][min(1, len(self.rows) - 1) :]
        return float(np.median(values)) if values else 0.0

    def poses(self) -> dict[str, Any]:
        """Return ``unfit``, the samples that fit no stable pose well, and ``cut``, the views that samples reach beyond, by key."""
        unfit = sorted(row.key for row in self.rows if row.pose == NO_POSE)
        return {"unfit": unfit, "cut": {row.key: list(row.cut) for row in sorted(self.rows, key=lambda r: r.key) if row.cut}}

    def describe(self) -> str:
        """Return one line: number of scored and of anomalous samples, and median times per sample."""
        load, score = (1000 * self.latency(name) for name in ("load_seconds", "score_seconds"))
        anomalous = sum(row.anomalous for row in self.rows)
        return (
            f"{len(self.rows)} scored, {anomalous} anomalous; median per sample: {load:.0f} ms to load, {score:.0f} ms to score"
        )


def predict(
    detector: Detector, model: str, threshold: Threshold, samples: Iterable[NewSample], count: int, out: Path, progress: Progress
) -> Predictions:
    """Score samples, and write ``predictions.csv``, ``maps/KEY.tiff`` and ``maps/KEY.jpg``; continues after an interruption.

    Parameters
    ----------
    detector, model
        The detector, and the SHA-256 of its model.
    threshold
        Samples with higher scores are anomalous.
    samples, count
        The samples, and how many there are.
    out
        Folder for the files.
    progress
        Receives one step per sample.

    Returns
    -------
    Predictions
        Samples that cannot be read are skipped; ``failed.jsonl`` lists them with the reason.
    """
    with files.locked(out):
        done = {row["key"]: row for row in files.read_lines(out / _DONE)}
        rows, failures = list[Prediction](), list[dict[str, str]]()
        progress.start(f"predict into {out.name}", count)
        for sample in samples:
            made_from = [model, sample.made_from]
            row = done.get(sample.key)
            if row is None or row["made_from"] != made_from or not _maps_exist(out, sample.key):
                try:
                    row = {"made_from": made_from, **_score(detector, sample, out)}
                    files.append_line(out / _DONE, row)
                except BadInput as error:
                    if getattr(error, "is_general", False):
                        raise
                    failures.append({"key": sample.key, "reason": str(error)})
                    progress.say(f"failed: {sample.key}: {error}")
                    progress.advance()
                    continue
            measured = {name: row[name] for name in ("key", "score", "view_scores", "load_seconds", "score_seconds")}
            measured |= {name: row[name] for name in (*_PLACES, *_CAUSE) if name in row}  # an earlier version wrote none
            rows.append(Prediction(anomalous=row["score"] > threshold.value, path=sample.path, **measured))
            progress.advance()
        files.write_text(out / PREDICTIONS, _table(rows, threshold))
        if failures:
            files.write_lines(out / FAILED, failures)
        elif (out / FAILED).exists():
            files.remove(out / FAILED)
    return Predictions(rows, len(failures))


def check_fits(batch: Batch, spec: InputSpec) -> None:
    """Check that a sample has the views and modalities that a detector was trained on.

    Raises
    ------
    BadInput
        If it has another number of views, or lacks a modality.
    """
    modalities = {"rgb": batch.rgb, "depth": batch.depth_code, "normal": batch.normal}
    stored = [name for name, planes in modalities.items() if planes is not None]
    spec.check(batch.keys[0], batch.mask.shape[1], stored)


def _score(detector: Detector, sample: NewSample, out: Path) -> dict[str, Any]:
    began = time.perf_counter()
    batch, places = sample.read(detector.spec)
    if not bool(batch.present.any()):
        raise BadInput(f"{sample.key}: has no view; give at least one")
    loaded = time.perf_counter()
    scored = detector.score(batch)
    synchronise(detector.device)
    finished = time.perf_counter()
    maps = functional.interpolate(scored.maps.cpu(), size=batch.size, mode="bilinear", align_corners=False)[0].numpy()
    target = io.BytesIO()
    tifffile.imwrite(target, maps, compression="zlib", metadata=None)
    stem = file_stem(sample.key)
    files.write_bytes(out / MAPS / f"{stem}.tiff", target.getvalue())
    picture = imagecodecs.jpeg_encode(strip(batch, grey_levels(maps)[0]), level=88)
    files.write_bytes(out / MAPS / f"{stem}.jpg", bytes(picture))
    present = batch.present[0].tolist()
    views = [score if is_present else None for score, is_present in zip(scored.view_scores[0].tolist(), present, strict=True)]
    view = max((k for k, score in enumerate(views) if score is not None), key=lambda k: float(views[k] or 0))
    row, column = np.unravel_index(int(maps[view].argmax()), maps[view].shape)
    return {
        "view": view, "row": int(row), "column": int(column),
        "key": sample.key, "score": float(scored.sample_scores[0]), "view_scores": views,
        "load_seconds": round(loaded - began, 5), "score_seconds": round(finished - loaded, 5), **places,
    }  # fmt: skip


def _maps_exist(out: Path, key: str) -> bool:
    return all((out / MAPS / f"{file_stem(key)}{suffix}").exists() for suffix in (".tiff", ".jpg"))


def _table(rows: Sequence[Prediction], threshold: Threshold) -> str:
    target = io.StringIO()
    views = max((len(row.view_scores) for row in rows), default=0)
    writer = csv.writer(target, lineterminator="\n")
    head = ("path", "sample", "score", "threshold", "decision", *_CAUSE, *(f"view_{k}" for k in range(views)))
    writer.writerow([*head, "load_seconds", "score_seconds", *_PLACES])
    for row in rows:
        scores = ["" if score is None else f"{score:.7g}" for score in row.view_scores]
        cause = ["" if place is None else place for place in (row.view, row.row, row.column)]
        cells = [row.path, row.key, f"{row.score:.7g}", f"{threshold.value:.7g}", row.decision, *cause, *scores]
        fit = "" if row.fit is None else f"{row.fit:.4f}"
        places = ["" if row.pose is None else row.pose, fit, " ".join(map(str, row.cut))]
        writer.writerow([*cells, row.load_seconds, row.score_seconds, *places])
    return target.getvalue()
