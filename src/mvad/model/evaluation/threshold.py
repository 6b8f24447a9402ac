"""Decision threshold on a sample's score, from the scores of normal samples that were not in training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvad import files
from mvad.datasets.shards.loader import ShardSet, normal_rows
from mvad.datasets.shards.reader import read_manifest
from mvad.datasets.shards.schema import MANIFEST
from mvad.errors import BadInput, CannotWrite
from mvad.model.calibration import HELD_OUT_NORMALS
from mvad.model.detector import Detector
from mvad.model.evaluation.data import has_training_data, not_trained_on, read_with_views, shown_fields
from mvad.model.in_batches import Scorer
from mvad.model.runs import RunFolder
from mvad.model.score_scale import ScoreScale
from mvad.model.scoring import over_modalities, sample_scores
from mvad.progress import Progress
from mvad.words import counted

_ALONE = 40
_GROUPS = 20
"""Up to 40 normal samples are each left out of their scale alone; more of them are in twenty groups."""

THRESHOLD = "threshold.json"
FALSE_ALARMS = 0.05
"""Share of normal samples above the threshold, unless another is asked for."""


@dataclass(frozen=True)
class Threshold:
    """A decision threshold with the false alarm rate that it guarantees.

    Attributes
    ----------
    value
        Samples with higher scores are anomalous.
    normals
        Number of normal samples from which it was computed.
    promised
        Upper bound of the share of new normal samples above it, in the mean over draws of the normals (split conformal
        prediction, Vovk et al. 2005); None: nothing is promised, since it was set by hand, or no normal has the views of the samples.
    kept
        Whether the requested share is guaranteed; with n normals no share below 1 / (n + 1) can be.
    held_out
        How many of the normal samples were held out of the training split; the others are of the validation split.
    """

    value: float
    normals: int
    promised: float | None
    kept: bool
    held_out: int = 0

    def describe(self, asked: float) -> str:
        """Return one line: the threshold, the share of false alarms it guarantees, and whether that is the requested share."""
        normals = counted(self.normals, "normal" if self.held_out else "validation normal")
        if self.promised is None:
            return f"threshold {self.value:.4g}: nothing is promised, since none of {normals} has all views"
        normals += f", {self.held_out} of them held out of training" if self.held_out else ""
        lack = "" if self.kept else f"; {100 * asked:.3g} % cannot be guaranteed with so few"
        promise = f"at most {100 * self.promised:.3g} % false alarms expected, from {normals}"
        return f"threshold {self.value:.4g}: {promise}{lack}"


def conformal(scores: Sequence[float], false_alarms: float) -> Threshold:
    """Return the threshold that keeps the share of false alarms at or below a limit, as far as the number of normals allows.

    Parameters
    ----------
    scores
        Scores of normal samples that were not in training.
    false_alarms
        Largest share of normal samples above the threshold, in 0..1.

    Raises
    ------
    BadInput
        If there is no score.
    """
    count = len(scores)
    if not count:
        raise BadInput("a threshold needs normal samples that were not in training; give --threshold")
    rank = math.ceil((count + 1) * (1 - false_alarms) - 1e-9)
    position = min(max(rank, 1), count)
    return Threshold(float(np.sort(np.asarray(scores))[position - 1]), count, 1 - position / (count + 1), rank <= count)


def threshold_of(
    run: RunFolder, detector: Detector, packed: Path, false_alarms: float, progress: Progress, kept_in: Path | None = None
) -> Threshold:
    """Return a run's threshold from the normal samples of its packed category that it was not trained on.

    These are the normal samples of the validation split and those that were held out of training (``train.holdout``).
    Their scores are stored in ``threshold.json`` and reused while model and shards stay the same. Where the scores of the run
    were standardised by these same samples, each is scored under the scale of the others, since a sample lies closer to the
    location that it had a part in than a new one does. New samples are scored under the scale of all, so the promise is met up
    to the effect of one sample (of more than 40: a twentieth) on the scale.

    Parameters
    ----------
    run, detector
        The finished run, and its detector.
    packed
        Folder of the packed category.
    false_alarms
        See ``conformal``.
    progress
        Receives one step per sample.
    kept_in
        Folder of the stored scores; None: the run's.

    Raises
    ------
    BadInput
        If there is no such sample (Real-IAD has no validation split unless some samples were held out), or the category is not
        what the run was trained on.
    """
    if not (packed / MANIFEST).exists():
        raise BadInput(
            f"{packed}: not found, so there are no normal samples to take a threshold from; give --threshold, or the --workspace of then"
        )
    if not has_training_data(run, packed):
        raise not_trained_on(run, packed)
    parts = _unseen(run, detector, packed)
    if not parts:
        raise BadInput(
            f"{packed}: no validation split to take a threshold from; give --threshold, pack some (photographs: mvad pack --validation "
            "0.2), or train with --holdout 0.2"
        )
    validation = {} if parts[0].is_held_out else parts[0].data.sha256
    made_from = {"model_sha256": run.model_sha256, "shards": validation, **({"held_out": True} if run.record.held_out else {})}
    path = (kept_in or run.path) / THRESHOLD
    stored = _read(path)
    if stored.get("made_from") != made_from or "whole" not in stored:  # an earlier version did not say whether they are whole
        stored = {"made_from": made_from, **_scores_of_all(parts, detector, f"threshold of {run.name}", progress)}
        with contextlib.suppress(CannotWrite):  # it is only kept for the next time
            files.write_sealed_json(path, stored)
    return _of_stored(stored, false_alarms)


@dataclass(frozen=True)
class _Normals:
    """Samples of a category that a run was not trained on: its validation split, or what was held out of its training split.

    ``scale`` is the detector's where it was estimated from the normal ones of these samples.
    """

    data: ShardSet
    is_held_out: bool
    scale: ScoreScale | None


def _unseen(run: RunFolder, detector: Detector, packed: Path) -> list[_Normals]:
    """Return what a run was not trained on: the validation split where there is one, then what was held out of training."""
    facts, parts = run.scale_facts, []
    if any(entry["split"] == "validation" for entry in read_manifest(packed)["shards"]):
        data = shown_fields(ShardSet(packed, "validation"), detector.spec.modalities)
        parts.append(_Normals(data, False, detector.scale if facts.get("shards") == data.sha256 else None))
    if run.record.held_out:
        train, keys = shown_fields(ShardSet(packed, "train"), detector.spec.modalities), set(run.record.held_out)
        data = train.subset([row for row, key in enumerate(train.keys) if key in keys])
        parts.append(_Normals(data, True, detector.scale if str(facts.get("normals")).endswith(HELD_OUT_NORMALS) else None))
    return parts


def _scores_of_all(parts: Sequence[_Normals], detector: Detector, label: str, progress: Progress) -> dict[str, Any]:
    """Return what is stored: the scores of the normal samples that have all views, or of all where none has, and how many were held out."""
    whole = any(_normals_with(part.data, ()) for part in parts)
    scores: list[float] = []
    held_out = 0
    for part in parts:
        positions = _normals_with(part.data, ()) if whole else list(range(len(normal_rows(part.data))))
        if part.scale is not None:
            found = left_out_scores(part.scale, detector, positions)
        else:
            found = _scores(detector, part, positions, label, progress)
        scores += found
        held_out += len(found) if part.is_held_out else 0
    return {"scores": scores, "whole": whole, "held_out": held_out}


def _of_stored(stored: Mapping[str, Any], false_alarms: float) -> Threshold:
    """Return the threshold of whole samples from stored scores; it promises nothing where no normal has all views."""
    threshold = replace(conformal(stored["scores"], false_alarms), held_out=stored.get("held_out", 0))
    return threshold if stored.get("whole", True) else replace(threshold, promised=None, kept=False)


class Thresholds:
    """Thresholds of a run: one for samples with all views, and one for each set of views that new samples come with.

    The scores of a sample that lacks views are others than those of a whole one, so its threshold comes from the same normal
    samples with the same views hidden. They are stored with the run, and taken when first needed.

    Parameters
    ----------
    run, detector, packed, false_alarms, progress
        See ``threshold_of``. Where the packed category is not at hand, the scores that are stored with the run are taken.
    fixed
        A threshold that was set by hand, for all samples; None: from normals.

    Raises
    ------
    BadInput
        See ``threshold_of``; where neither the category nor stored scores are there.
    """

    def __init__(
        self,
        run: RunFolder,
        detector: Detector,
        packed: Path,
        false_alarms: float,
        progress: Progress,
        fixed: float | None = None,
    ) -> None:
        self._run, self._detector, self._packed = run, detector, packed
        self._false_alarms, self._progress = false_alarms, progress
        self._fixed = None if fixed is None else Threshold(fixed, 0, None, True)
        if not math.isfinite(0.0 if fixed is None else fixed):
            raise BadInput(f"--threshold {fixed}: expected a number")
        if not 0 <= false_alarms <= 1:
            raise BadInput(f"--false-alarms {false_alarms}: expected a share from 0 to 1")
        self._model = run.model_sha256
        self._by_views: dict[tuple[int, ...], Threshold] = {}
        self.whole = self._fixed or self._of_all()

    def describe(self) -> str:
        """Return one line on the threshold of samples with all views."""
        return f"threshold {self.whole.value:.4g}, as given" if self._fixed else self.whole.describe(self._false_alarms)

    def of(self, present: Sequence[bool]) -> Threshold:
        """Return the threshold of samples with some of the views (V,).

        It promises nothing (``promised`` None) where the packed category is not at hand and such samples were not met before.
        """
        views = tuple(k for k, there in enumerate(present) if there)
        if self._fixed is not None or len(views) == len(present):
            return self.whole
        if views not in self._by_views:
            self._by_views[views] = self._of_views(views)
        return self._by_views[views]

    def _of_all(self) -> Threshold:
        if not (self._packed / MANIFEST).exists():
            stored = _stored(self._run.path, self._model)
            if stored.get("scores"):
                return _of_stored(stored, self._false_alarms)
        return threshold_of(self._run, self._detector, self._packed, self._false_alarms, self._progress)

    def _of_views(self, views: tuple[int, ...]) -> Threshold:
        name = "-".join(map(str, views))
        stored = _stored(self._run.path, self._model)
        kept = stored.get("by_views", {}) if "whole" in stored else {}
        if name not in kept:
            if not has_training_data(self._run, self._packed):
                return Threshold(self.whole.value, self.whole.normals, None, False)
            label = f"threshold of {self._run.name} for views {name}"
            scores: list[float] = []
            for part in _unseen(self._run, self._detector, self._packed):
                scores += _scores(self._detector, part, _normals_with(part.data, views), label, self._progress, views)
            kept = {**kept, name: scores}
            with contextlib.suppress(CannotWrite):
                files.write_sealed_json(self._run.path / THRESHOLD, stored | {"by_views": kept})
        return conformal(kept[name], self._false_alarms) if kept[name] else Threshold(self.whole.value, 0, None, False)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file of scores; {} where there is none, or it is damaged: it is made again then."""
    try:
        return files.read_sealed_json(path, "a threshold", "") if path.exists() else {}
    except BadInput:
        return {}


def _stored(folder: Path, model_sha256: str | None) -> dict[str, Any]:
    """Return what is stored of a run's threshold for this model; {} for another one or none."""
    stored = _read(folder / THRESHOLD)
    return stored if stored.get("made_from", {}).get("model_sha256") == model_sha256 else {}


def keep_threshold(run: RunFolder, detector: Detector, packed: Path, kept_in: Path, progress: Progress) -> None:
    """Store the scores that ``threshold_of`` needs in a folder, where the category has normal samples that were not trained on."""
    if _has_unseen(run, packed):
        threshold_of(run, detector, packed, FALSE_ALARMS, progress, kept_in)


def _has_unseen(run: RunFolder, packed: Path) -> bool:
    entries = read_manifest(packed)["shards"]
    validation = any(entry["split"] == "validation" and entry["samples"] > entry["anomalous"] for entry in entries)
    return validation or bool(run.record.held_out)


def threshold_is_kept(run: RunFolder, packed: Path, folder: Path) -> bool:
    """Return whether a folder has the scores that ``threshold_of`` would store there, or the category has no sample for them."""
    return not _has_unseen(run, packed) or kept_threshold(folder, run.model_sha256) is not None


def kept_threshold(run: Path, model_sha256: str | None) -> Threshold | None:
    """Return the threshold that ``mvad predict`` takes by default for a run's model; None where none was stored."""
    stored = _stored(run, model_sha256)
    return _of_stored(stored, FALSE_ALARMS) if stored.get("scores") else None


def left_out_scores(
    scale: ScoreScale, detector: Detector, rows: Sequence[int] | None = None, raw: Tensor | None = None
) -> list[float]:
    """Return the sample scores of normal samples of a scale, each under the scale that is estimated without it.

    Of more than 40, twenty groups are left out in turn, since an estimate from hundreds of samples takes a second. Samples that show
    no object in any view get no score.

    Parameters
    ----------
    scale, detector
        The scale, and the detector whose rules are taken.
    rows
        Which of the scale's normals; None: all.
    raw
        (N, V, M) image scores of all the scale's normals, NaN where a view is missing; None: those that it was estimated from.
    """
    scores = scale.normals if raw is None else raw
    groups = len(scores) if len(scores) <= _ALONE else _GROUPS
    wanted = set(range(len(scores)) if rows is None else rows)
    found: dict[int, float] = {}
    for first in range(groups):
        left_out = list(range(first, len(scores), groups))
        asked = [sample for sample in left_out if sample in wanted]
        if not asked:
            continue
        others = scale.without(left_out)
        views = over_modalities(others.of_scores(scores[asked]), detector.config.score, others, len(detector.scored))
        combined = sample_scores(views.nan_to_num(-torch.inf, -torch.inf, -torch.inf), detector.config.score)
        found.update(zip(asked, combined.tolist(), strict=True))
    return [found[sample] for sample in sorted(found) if math.isfinite(found[sample])]


def _normals_with(data: ShardSet, views: Sequence[int]) -> list[int]:
    """Return the positions, among the normal samples of a split, of those that have some views (all where none are named)."""
    present = data.present[normal_rows(data)]
    wanted = present[:, list(views)] if views else present
    return list(np.flatnonzero(wanted.all(axis=1)).tolist())


def _scores(
    detector: Detector, part: _Normals, positions: Sequence[int], label: str, progress: Progress, views: Sequence[int] = ()
) -> list[float]:  # fmt: skip
    """Return the scores of some of the normal samples of a part, of which only ``views`` are shown (empty: all).

    Samples that cannot be scored are left out. Where the scale was estimated from the part, each is scored under that of the others.

    ``positions``: among the normal samples of the part.
    """
    progress.start(label, len(positions))
    scores: list[float] = []
    raw: dict[int, Tensor] = {}
    rows = normal_rows(part.data)
    chosen = [rows[position] for position in positions]
    answers = Scorer(detector.score, detector.device).each(chosen, lambda some: read_with_views(part.data, some, views))
    for position, (_, found) in zip(positions, answers, strict=True):
        if part.scale is not None and found is not None and found.image_scores is not None:
            raw[position] = torch.where(found.image_scores[0].isfinite(), found.image_scores[0], torch.nan)
        if found is not None and bool(found.sample_scores[0].isfinite()):
            scores.append(float(found.sample_scores[0]))
        progress.advance()
    if part.scale is None or not raw:
        return scores
    hidden = torch.full_like(part.scale.normals, torch.nan)
    for position, values in raw.items():
        hidden[position] = values
    return left_out_scores(part.scale, detector, sorted(raw), hidden)
