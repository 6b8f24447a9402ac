"""Evaluation of a run on the test split: scores, figures of merit, pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mvad import files
from mvad.datasets.photographs.framing import Framing
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.schema import NO_TEMPLATE, PICTURES
from mvad.errors import BadInput
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.evaluation.data import check_training, read_with_views, shown_fields
from mvad.model.evaluation.figures import curves_of, figures_by_rule, figures_of
from mvad.model.evaluation.pictures import grey_levels, strip
from mvad.model.evaluation.results import RESULTS, Results, SampleResult, ScanResults
from mvad.model.evaluation.threshold import keep_threshold
from mvad.model.in_batches import Scorer
from mvad.model.metrics.pixels import PixelScores
from mvad.model.registry import backbone_label
from mvad.model.runs import RunFolder, RunRecord, machine
from mvad.progress import Progress

MAPS = "maps"
_VIEWS = "-views-"
PIXELS = 256
"""Side at which pixels are evaluated, over all present views, masks by nearest neighbour (``eval.pixels``)."""


Shown = Sequence[tuple[slice, slice]] | None
"""Rows and columns of each view that show its picture; None: all, as in renders and in photographs that are square."""


class EvaluationCallback(Protocol):
    """Callback that is called for every sample of an evaluation, and adds fields to its results.

    Attributes
    ----------
    fields
        Fields of a batch that it reads, where the shards have them.
    """

    fields: Sequence[str]

    def on_sample(self, batch: Batch, found: AnomalyMaps) -> None:
        """Process a batch of one sample with the detector's maps and scores."""

    def results(self) -> Mapping[str, Any]:
        """Return the fields of ``Results`` to set; called once, after all samples."""


@dataclass(frozen=True)
class TrainedOn:
    """Training data and model of a detector, and what its scores are standardised by; empty for imported maps."""

    training_samples: int | None = None
    train_shards: Mapping[str, str] = field(default_factory=dict)
    model_sha256: str | None = None
    scale: Mapping[str, Any] = field(default_factory=dict)


def evaluate_run(
    run: Path, shards: Path, weights: WeightsSource, progress: Progress, views: Sequence[int] = (),
    callbacks: Sequence[EvaluationCallback] = (), device: torch.device = torch.device("cpu"),  # immutable
    out: Path | None = None,
) -> Results:  # fmt: skip
    """Score a run's test split and write ``results.json`` and ``maps/``.

    Parameters
    ----------
    run
        Folder of a finished run.
    shards
        Folder of the workspace's shards.
    weights
        Where the teacher's weights may be found.
    progress
        Receives one step per sample.
    views
        Views that the detector gets; the others count as missing, and the files written are ``results-views-0-2.json`` and
        ``maps-views-0-2/``. Empty: all.
    callbacks
        Called for every sample with its maps; they add to the results.
    device
        Device on which the detector is loaded.
    out
        Folder to write to instead of the run's.

    Raises
    ------
    BadInput
        If the run is not finished, was trained on another training split than that of the shards, or there is no such view.
    """
    folder = RunFolder(run)
    detector = folder.load(weights, device)
    data = ShardSet(folder.category_folder(shards), "test")
    return evaluate_detector(folder, detector, data, progress, views, callbacks, out)


def evaluate_detector(
    run: RunFolder, detector: Detector, data: ShardSet, progress: Progress, views: Sequence[int] = (),
    callbacks: Sequence[EvaluationCallback] = (), out: Path | None = None,
) -> Results:  # fmt: skip
    """Evaluate a run's loaded detector on a split of the category that it was trained on; see ``evaluate_run``.

    Raises
    ------
    BadInput
        If the split is of another category, is the training split, does not belong to the run's training data, has another
        number of views or no such view, or lacks a modality of the detector.
    """
    record, spec = run.record, detector.spec
    if (data.dataset, data.category) != (record.dataset, record.category):
        raise BadInput(
            f"{data.folder}: is {data.dataset}/{data.category}, the run was trained on {record.dataset}/{record.category}"
        )
    if data.split == "train":
        raise BadInput(f"{data.folder}: the split train was trained on; evaluate on the split test")
    train = check_training(run, data.folder)
    spec.check(str(data.folder), len(data.views), data.stored, "; pack it with {}")
    chosen = sorted(set(views))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(data.views):
        raise BadInput(f"--views {','.join(map(str, views))}: {data.folder} has views 0 to {len(data.views) - 1}")
    fields = [name for callback in callbacks for name in callback.fields]
    trained = TrainedOn(
        len(train) - len(record.held_out), record.shards, run.model_sha256, run.scale_facts if detector.scale else {}
    )
    shown = shown_fields(data, spec.modalities, fields)
    results = evaluate_split(
        out or run.path, shown, detector.score, record, trained, progress, chosen, callbacks, detector.device
    )  # fmt: skip
    keep_threshold(run, detector, data.folder, out or run.path, progress)  # the report draws it
    return results


def shown_views(path: Path) -> tuple[int, ...]:
    """Return the views to which a results file or a picture in a ``maps`` folder is restricted by its name; empty: all."""
    name = path.stem if path.suffix == ".json" else path.parent.name
    _, marker, numbers = name.partition(_VIEWS)
    return tuple(map(int, numbers.split("-"))) if marker else ()


def check_stem(key: str, stems: dict[str, str]) -> None:
    """Check that the files of a sample (``file_stem``) are those of no other; ``stems`` has the keys that were met, by stem.

    Raises
    ------
    BadInput
        If they are, as those of a/b and a_b.
    """
    other = stems.setdefault(file_stem(key), key)
    if other != key:
        raise BadInput(f"{key}: its maps would have the name of those of {other}; rename one of the two")


@dataclass
class _Evaluation:
    """Pixels and results of the samples evaluated so far; writes their pictures.

    ``shown``: see ``shown_at_pixels``; what is beside a picture is not counted.
    ``leaves_out_unmarked``: pixels of views with a defect that no mask marks are not counted, since it is not known which show it.
    """

    run: Path
    maps: str
    callbacks: Sequence[EvaluationCallback]
    shown: Shown = None
    leaves_out_unmarked: bool = False
    unmarked_views: int = 0
    pixels: PixelScores = field(default_factory=PixelScores)
    samples: list[SampleResult] = field(default_factory=list)

    def add(self, batch: Batch, found: AnomalyMaps, pose: Mapping[str, Any]) -> None:
        """Add one sample: collect its pixels and scores, write its pictures; ``pose``: see ``pose_of``."""
        maps, masks = at_pixels(batch, found)
        present = batch.present[0].numpy()
        if not np.isfinite(maps[present]).all() or not np.isfinite(found.sample_scores.numpy()).all():
            raise BadInput(
                f"{self.run.name}: the maps or the score of {batch.keys[0]} are not finite; train again, or mend the method"
            )
        counted = present
        if self.leaves_out_unmarked:
            unmarked = unmarked_views(batch)
            self.unmarked_views += int(unmarked.sum())
            counted = present & ~unmarked
        if counted.any():
            places = [shown_place(int(view), self.shown) for view in np.flatnonzero(counted)]
            self.pixels.add(batch.keys[0], [maps[place] for place in places], [masks[place] for place in places])
        for callback in self.callbacks:
            callback.on_sample(batch, found)
        levels, low, high = grey_levels(maps)
        picture = bytes(imagecodecs.jpeg_encode(strip(batch, levels), level=88))
        drawn = bytes(imagecodecs.png_encode(levels, level=6))
        written = write_pictures(self.run, self.maps, batch.keys[0], picture, drawn)
        present_views = batch.present[0].tolist()
        scores, labels = found.view_scores[0].tolist(), batch.view_label[0].tolist()
        view_scores = [score if math.isfinite(score) else None for score in scores]  # not of a view without an object
        self.samples.append(
            SampleResult(
                key=batch.keys[0], defect=batch.defects[0], label=bool(batch.label[0]), score=float(found.sample_scores[0]),
                view_labels=[bool(label) if is_present else None for label, is_present in zip(labels, present_views, strict=True)],
                view_scores=view_scores, map_range=[low, high], **written, **pose,
            )
        )  # fmt: skip


def pose_of(data: ShardSet, index: int) -> dict[str, Any]:
    """Return what a split says of where the object of a sample lay, by the fields of ``SampleResult``; {} for photographs."""
    if data.pose_numbers is None or data.pose_fits is None or data.turns_deg is None:
        return {}
    fit = float(data.pose_fits[index])
    mirrored = data.object_poses is not None and np.linalg.det(data.object_poses[index][:3, :3]) < 0
    return {
        "pose_number": int(data.pose_numbers[index]), "pose_fit": None if fit == NO_TEMPLATE else fit,
        "turn_deg": float(data.turns_deg[index]), "mirrored": True if mirrored else None,
    }  # fmt: skip


def write_pictures(run: Path, folder: str, key: str, picture: bytes, drawn: bytes) -> dict[str, Any]:
    """Write a sample's picture (JPEG) and its maps (PNG); return their names and hashes by the fields of ``SampleResult``."""
    stem = f"{folder}/{file_stem(key)}"
    files.write_bytes(run / f"{stem}.jpg", picture)
    files.write_bytes(run / f"{stem}.png", drawn)
    return {
        "picture": f"{stem}.jpg", "picture_sha256": files.sha256_bytes(picture),
        "map": f"{stem}.png", "map_sha256": files.sha256_bytes(drawn),
    }  # fmt: skip


def evaluate_split(
    run: Path, data: ShardSet, answer: Callable[[Batch], AnomalyMaps], record: RunRecord, trained: TrainedOn, progress: Progress,
    views: Sequence[int] = (), callbacks: Sequence[EvaluationCallback] = (),
    device: torch.device = torch.device("cpu"),  # immutable
) -> Results:  # fmt: skip
    """Evaluate any function that returns anomaly maps on a split, and write ``results.json`` and ``maps/``.

    Parameters
    ----------
    run
        Folder of the run; files are written there.
    data
        The test split.
    answer
        Returns the maps and scores of a batch, of one sample on a processor.
    record, trained
        Record of the run, and its training data.
    progress
        Receives one step per sample.
    views
        Views that ``answer`` gets; empty: all. Samples without any of them are left out and counted.
    callbacks
        Called for every sample with its maps; they add to the results.
    device
        Device on which ``answer`` computes; it is synchronised before times are taken.

    Times (``Results.seconds``) are those of all calls together. Where several samples are scored per call, they do not tell what
    one sample alone takes.
    """
    suffix = _VIEWS + "-".join(map(str, views)) if views else ""
    path = run / RESULTS.replace(".json", f"{suffix}.json")
    progress.start(f"evaluate {run.name}", len(data))
    stems = dict[str, str]()
    for key in data.keys:
        check_stem(key, stems)
    own = PICTURES in data.config
    gathered = _Evaluation(run, MAPS + suffix, callbacks, shown_at_pixels(data.config.get(PICTURES)), leaves_out_unmarked=own)
    scorer, began = Scorer(answer, device), time.perf_counter()
    for index, (batch, found) in enumerate(scorer.each(range(len(data)), lambda rows: read_with_views(data, rows, views))):
        if found is not None:
            gathered.add(batch, found, pose_of(data, index))
        progress.advance()
    seconds = {
        "network": round(scorer.seconds, 3), "all": round(time.perf_counter() - began, 3), "samples_per_call": scorer.most
    }  # fmt: skip
    samples = gathered.samples
    results = Results(
        run=run.name, dataset=record.dataset, category=record.category, model=record.model, seed=record.seed, config=record.config,
        teacher=record.teacher, teacher_sha256=record.teacher_sha256, backbone=backbone_label(record.model, record.teacher),
        figures=figures_of(samples, gathered.pixels), curves=curves_of(samples, gathered.pixels), samples=samples,
        test_shards=data.sha256, train_shards=trained.train_shards, training_samples=trained.training_samples,
        model_sha256=trained.model_sha256, views=tuple(views),
        samples_without_these_views=len(data) - len(samples) if views else 0,
        scan=_earlier_scan_results(path, trained, data), seconds=seconds, machine=machine(device),
        rules={} if trained.model_sha256 is None else figures_by_rule(samples), scale=trained.scale,
        view_names=tuple(data.views) if own else (), unmarked_views=gathered.unmarked_views,
    )  # fmt: skip
    for callback in callbacks:
        results = replace(results, **callback.results())
    results.write(path)
    return results


def at_pixels(batch: Batch, found: AnomalyMaps) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a sample's maps and masks, each (V, PIXELS, PIXELS), at the size at which pixels are evaluated (``eval.pixels``)."""
    maps = functional.interpolate(found.maps.cpu(), size=PIXELS, mode="bilinear", align_corners=False)[0].numpy()
    masks = functional.interpolate(batch.mask.float(), size=PIXELS, mode="nearest")[0].numpy() > 0
    return maps, masks


def unmarked_views(batch: Batch) -> NDArray[np.bool_]:
    """Return which views (V,) of a sample show a defect, as far as is known, that no mask marks."""
    unmarked = batch.present[0] & batch.view_label[0] & ~batch.mask[0].flatten(1).any(1)
    return np.asarray(unmarked.numpy())


def shown_at_pixels(pictures: Mapping[str, Any] | None) -> Shown:
    """Return the rows and columns, of ``PIXELS``, of each view that show its picture, from what is recorded of photographs."""
    return None if pictures is None else Framing.recorded(pictures).shown_at(PIXELS)


def shown_place(view: int, shown: Shown) -> tuple[int, slice, slice]:
    """Return the index in planes (V, PIXELS, PIXELS) of what a view shows of its picture."""
    return (view, slice(None), slice(None)) if shown is None else (view, *shown[view])


def _earlier_scan_results(path: Path, trained: TrainedOn, data: ShardSet) -> ScanResults | None:
    """Return the results on scans of an earlier evaluation of the same model on the same samples, which are still valid."""
    if not path.exists():
        return None
    try:
        before = Results.read(path)
    except BadInput:
        return None
    same = before.model_sha256 == trained.model_sha256 is not None and before.test_shards == data.sha256
    return before.scan if same else None


def file_stem(key: str) -> str:
    """Return a sample's key as a file name without suffix."""
    return key.replace("/", "_")
