"""One new sample: read it, score it, say which view and which place caused the score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.shards.loader import Batch, batch_of
from mvad.datasets.shards.schema import NO_TEMPLATE, Sample
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import synchronise
from mvad.model.input_spec import InputSpec


@dataclass(frozen=True)
class LoadedView:
    """Where a photographed view came from.

    Attributes
    ----------
    name, path
        Name of the view, and the file.
    place
        Returns the pixel (row, column) of the picture that a pixel (row, column) of the view shows.
    """

    name: str
    path: str
    place: Callable[[float, float], tuple[int, int]]


@dataclass(frozen=True)
class LoadedSample:
    """A new sample that was read.

    Attributes
    ----------
    sample, coding
        The sample coded as in a shard, and the coding of its depth.
    views
        Where each view came from, None for a missing one; empty where the views are no pictures of the user's.
    names
        Names of all views in order; empty likewise.
    """

    sample: Sample
    coding: DepthCoding | None
    views: Sequence[LoadedView | None] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class NewSample:
    """A new sample that has not been read yet.

    Attributes
    ----------
    key
        Name of the sample.
    made_from
        Hash of the files that it is read from, or the function that takes it.
    load
        Reads the sample.
    path
        The file or folder that it is read from.
    """

    key: str
    made_from: str | Callable[[], str]
    load: Callable[[], LoadedSample]
    path: str = ""

    def fingerprint(self) -> str:
        """Return the hash of the files that it is read from.

        Raises
        ------
        BadInput
            If one cannot be read.
        """
        return self.made_from if isinstance(self.made_from, str) else self.made_from()

    def batch(self, spec: InputSpec) -> Batch:
        """Read the sample as a batch of one that fits a detector; see ``check_fits``."""
        loaded = self.load()
        return _fitting(loaded, spec)


@dataclass(frozen=True)
class Scored:
    """A new sample that was scored.

    Attributes
    ----------
    batch, found
        The sample, and the detector's answer.
    maps
        (V, H, W) float32, its anomaly maps at the size of the views.
    facts
        What is recorded of it: fields of ``predict.Prediction``.
    """

    batch: Batch
    found: AnomalyMaps
    maps: NDArray[np.float32]
    facts: dict[str, Any]


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


@dataclass(frozen=True)
class Read:
    """A new sample that was read.

    Attributes
    ----------
    new, loaded, batch
        The sample, what it was read as, and the same as a batch of one.
    seconds
        Time that reading took.
    """

    new: NewSample
    loaded: LoadedSample
    batch: Batch
    seconds: float


def read_new(detector: Detector, new: NewSample) -> Read:
    """Read a new sample.

    Raises
    ------
    BadInput
        If it cannot be read, does not fit the detector, or has no view.
    """
    began = time.perf_counter()
    loaded = new.load()
    batch = _fitting(loaded, detector.spec)
    if not bool(batch.present.any()):
        raise BadInput(f"{new.key}: has no view; give at least one")
    return Read(new, loaded, batch, time.perf_counter() - began)


def score_new(detector: Detector, new: NewSample) -> Scored:
    """Read and score a new sample.

    Raises
    ------
    BadInput
        As ``read_new`` and ``scored_new``.
    """
    read, began = read_new(detector, new), time.perf_counter()
    found = detector.score(read.batch)
    synchronise(detector.device)
    return scored_new(read, found, time.perf_counter() - began)


def scored_new(read: Read, found: AnomalyMaps, seconds: float) -> Scored:
    """Return what is recorded of a new sample with the detector's answer, which took some seconds.

    Raises
    ------
    BadInput
        If its score is not finite.
    """
    new, loaded, batch = read.new, read.loaded, read.batch
    if not bool(found.sample_scores.isfinite().all()):
        raise BadInput(f"{new.key}: its score is not finite; train again, or mend the method")
    maps = functional.interpolate(found.maps.cpu(), size=batch.size, mode="bilinear", align_corners=False)[0].numpy()
    views = [score if math.isfinite(score) else None for score in found.view_scores[0].tolist()]
    view = max((k for k, score in enumerate(views) if score is not None), key=lambda k: float(views[k] or 0))
    row, column = (int(place) for place in np.unravel_index(int(maps[view].argmax()), maps[view].shape))
    facts = {
        "key": new.key, "score": float(found.sample_scores[0]), "view_scores": views, "view": view, "row": row, "column": column,
        "load_seconds": round(read.seconds, 5), "score_seconds": round(seconds, 5),
        **_pose_of(loaded.sample), **_picture_of(loaded, view, row, column),
    }  # fmt: skip
    return Scored(batch, found, maps, facts)


def _fitting(loaded: LoadedSample, spec: InputSpec) -> Batch:
    batch = batch_of(loaded.sample, loaded.coding)
    check_fits(batch, spec)
    return batch


def _pose_of(sample: Sample) -> dict[str, Any]:
    """Return where the object of a render lay; {} for photographs."""
    if sample.pose_number is None or sample.cut is None:
        return {}
    fit = None if sample.pose_fit == NO_TEMPLATE else sample.pose_fit
    return {"pose": sample.pose_number, "fit": fit, "cut": np.flatnonzero(sample.cut).tolist()}


def _picture_of(loaded: LoadedSample, view: int, row: int, column: int) -> dict[str, Any]:
    """Return the view's name, its picture and the place in it, and the names of missing views; {} for renders."""
    if not loaded.names:
        return {}
    missing = [name for name, there in zip(loaded.names, loaded.sample.present, strict=True) if not there]
    facts: dict[str, Any] = {"view_name": loaded.names[view], "missing": missing}
    source = loaded.views[view] if loaded.views else None
    if source is not None:
        y, x = source.place(row, column)
        facts |= {"picture": source.path, "x": x, "y": y}
    return facts
