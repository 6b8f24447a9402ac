"""The scale of a trained detector's scores, from normal samples that it was not fitted to (``score.scale``).

These are the normal samples of the validation split where it has ten or more; else those of the training split that are held out
(``train.holdout``) where they are ten or more; else each fold of the training split, scored by a fresh detector that was fitted to the
other folds, which takes as long again for each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet, collate, normal_rows
from mvad.datasets.shards.reader import read_manifest
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.in_batches import Scorer, singles
from mvad.model.method import Method
from mvad.model.metrics.auroc import auroc_between
from mvad.model.score_scale import LEAST_NORMALS, ScoreScale, drawn_together, scale_of
from mvad.model.synthesis.compact import KINDS, Kind, draw_in_sample
from mvad.model.training.context import FitContext
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress

LEAST_VALIDATION = 10
"""Normal samples that the validation split, or what is held out, must have to be used."""

HELD_OUT_NORMALS = "held-out training normals"
"""End of ``normals`` in the facts of a scale that was estimated from normal samples held out of training."""

FOLDER = "scale"
"""Folder of a run with what was scored so far; removed when the model is written."""

_STREAM = 5
_REMEDY = "delete it and run the same mvad train again"


@dataclass(frozen=True)
class Calibration:
    """The scale of a detector's scores, and what it was estimated from.

    Attributes
    ----------
    scale
        The scale; None where scores are compared as they are.
    normals
        What it was estimated from, in words: "23 validation normals".
    shards
        SHA-256 of each file of the validation split, if that was used.
    weights
        Weight of each modality, where they are added.
    """

    scale: ScoreScale | None = None
    normals: str = ""
    shards: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded with the model; empty where scores are compared as they are."""
        if self.scale is None:
            return {}
        return {"scale": {"normals": self.normals, "shards": dict(self.shards), "weights": dict(self.weights)}}


@dataclass
class Scored:
    """Raw image scores of normal samples (N, V, M), NaN where a view is missing, and of the same with pseudo anomalies.

    ``pseudo`` has (N, V, M) scores for each kind, NaN also where a view does not show the anomaly.
    """

    normals: list[Tensor] = field(default_factory=list)
    pseudo: dict[str, list[Tensor]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"normals": _plain(self.normals), "pseudo": {kind: _plain(rows) for kind, rows in self.pseudo.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scored:
        """Restore scores from what ``to_json`` returned."""
        return cls(_rows(value["normals"]), {kind: _rows(rows) for kind, rows in value["pseudo"].items()})

    def add(self, other: Scored) -> None:
        """Append the scores of other samples."""
        self.normals += other.normals
        for kind, rows in other.pseudo.items():
            self.pseudo[kind] += rows


def fold_count(config: ModelConfig, method: Method, data: ShardSet, held_out: ShardSet | None = None) -> int:
    """Return how many detectors are fitted besides the one that is trained: 0 where other normals serve, or none are needed.

    See ``calibrate`` for the parameters.
    """
    count = _folds(config, method, len(data))
    return 0 if count == 0 or _validation(data) is not None or _enough(held_out) is not None else count


def _folds(config: ModelConfig, method: Method, samples: int) -> int:
    """Return how many folds a training split of some samples has where no validation samples serve."""
    if config.score.scale == "none" or config.score.folds == 1 or samples < LEAST_NORMALS:
        return 0
    return min(config.score.folds or (4 if method.one_pass else 2), samples)


def calibrate(
    detector: Detector, fresh: Callable[[], Detector], method: Method, data: ShardSet, run: Path, progress: Progress,
    ranks: ProcessGroup, held_out: ShardSet | None = None,
) -> Calibration:  # fmt: skip
    """Return the scale of a fitted detector's scores; it is not set.

    The result depends on data and configuration only. A call after an interruption continues: scored folds are kept in the run's
    folder ``scale``, and fitting of a fold from its last checkpoint there.

    Parameters
    ----------
    detector
        The fitted detector.
    fresh
        Returns an unfitted detector of the same configuration.
    method
        Declaration of its method.
    data
        The training split, with the fields that ``fit`` reads; the validation split of the same packed category is used.
    run
        The run's folder.
    progress
        Receives the steps.
    ranks
        The processes that train together; all of them fit the folds, and rank 0 scores.
    held_out
        Training samples that the detector was not fitted to.
    """
    config = detector.config
    if config.score.scale == "none":
        return Calibration()
    validation = _validation(data)
    count, scorer = _folds(config, method, len(data)), _Scorer(data, config.seed, progress)
    scored = Scored()
    others = _enough(held_out)
    if validation is None and others is None and count >= 2:
        for fold in range(count):
            scored.add(_of_fold(fold, count, fresh, scorer, run, ranks))
        normals = f"{count} folds of {len(data)} training samples"
    else:
        if validation is not None:
            split, kind = validation, "validation normals"
        elif others is not None:
            split, kind = others, HELD_OUT_NORMALS
        else:
            split, kind = data, "training samples, not held out"
        rows = list(range(len(data))) if split is data else normal_rows(split)
        if ranks.rank == 0:
            progress.start(f"scale of {run.name}", len(rows))
            scored = scorer.scores(detector, split, rows)
        normals = f"{len(rows)} {kind}"
    shards = {} if validation is None else validation.sha256
    return _calibration(detector, scored, normals, shards, progress)


def remove_folds(run: Path) -> None:
    """Remove the scored folds of a run whose model is written."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def weights_of(scale: ScoreScale, pseudo: Sequence[Tensor], columns: Sequence[int] | None = None) -> Tensor:
    """Return the weights (M,) of the modalities, or of those in ``columns``, sum 1: in proportion to how well each tells pseudo anomalies from normals.

    For independent features of equal variance the best linear weights are in proportion to the shift (Fisher 1936). The shift
    is taken from ranks, sqrt(2) times the normal quantile of the AUROC, so that heavy tails do not count. Shifts are drawn
    towards their mean by the share of their variance that chance explains (about 1 / N each), so that few samples give nearly
    equal weights, and a modality that sees nothing gets a weight near 0.

    Parameters
    ----------
    scale
        The scale, with equal weights, of N normal samples.
    pseudo
        For each kind of pseudo anomaly, the raw image scores (N, V, M) of the same samples; NaN where a view does not show it.
    columns
        Modalities to weigh; None: all.
    """
    before = scale.of_scores(scale.normals)
    after = [scale.of_scores(scores.float()) for scores in pseudo]
    shifts = []
    for modality in range(before.shape[2]) if columns is None else columns:
        areas = []
        for scores in after:
            positive, negative = (z[:, :, modality] for z in (scores, before))
            areas.append(auroc_between(*(z[torch.isfinite(z)].double().numpy() for z in (positive, negative))))
        area = float(np.clip(np.nanmean(areas), 0.5, 1 - 1 / (2 * len(before) + 2))) if not np.isnan(areas).all() else 0.5
        shifts.append(2**0.5 * float(torch.special.ndtri(torch.tensor(area, dtype=torch.float64))))
    shift = torch.tensor(shifts, dtype=torch.float64)
    if not bool(shift.any()):
        return torch.full((len(shift),), 1 / len(shift))  # no modality sees them
    drawn = drawn_together(shift, 1 / len(before))
    return (drawn / drawn.sum()).float()


@dataclass(frozen=True)
class _Scorer:
    """Scores normal samples, and the same with pseudo anomalies where there are several modalities to weigh."""

    train: ShardSet
    seed: int
    progress: Progress

    def scores(self, detector: Detector, data: ShardSet, rows: Sequence[int]) -> Scored:
        """Return the raw scores of some samples of a split; those without a view are left out."""
        scored = Scored()
        weighs = len(detector.spec.modalities) > 1
        shown = data.select([*detector.spec.modalities, "source"]) if weighs and "source" in data.stored else data
        before, detector.scale = detector.scale, None
        scorer = Scorer(detector.score, detector.device)
        try:
            begin = 0
            for batch in scorer.groups(rows, shown.batch):
                group, answers = rows[begin : begin + len(batch.keys)], scorer.scored(batch)
                begin += len(group)
                chosen = [k for k, found in enumerate(answers) if found is not None and found.image_scores is not None]
                normals = [_raw(answers[k]) for k in chosen]
                scored.normals += map(_finite, normals)
                if normals and weighs and normals[0].shape[1] > 1:
                    alone = {group[k]: one for k, one in enumerate(singles(batch)) if k in chosen}
                    for kind in KINDS:
                        scored.pseudo[kind] += self._with_anomalies(scorer, alone, kind, data)
                self.progress.advance(len(group))
        finally:
            detector.scale = before
        return scored

    def _with_anomalies(self, scorer: Scorer, samples: Mapping[int, Batch], kind: Kind, data: ShardSet) -> list[Tensor]:
        """Return the raw scores of samples, by their numbers, with pseudo anomalies of a kind."""
        drawn = [draw_in_sample(one, data, row, kind, [self.seed, _STREAM]) for row, one in samples.items()]
        answers = scorer.scored(collate([changed for changed, _ in drawn]))
        hidden = [~shows[0].flatten(1).any(dim=1)[:, None] for _, shows in drawn]
        return [_finite(_raw(found)).masked_fill(hides, torch.nan) for found, hides in zip(answers, hidden, strict=True)]


def _raw(found: AnomalyMaps | None) -> Tensor:
    """Return the raw image scores (V, M) of one sample."""
    assert found is not None
    assert found.image_scores is not None
    return found.image_scores[0]


def _calibration(
    detector: Detector, scored: Scored, normals: str, shards: Mapping[str, str], progress: Progress
) -> Calibration:  # fmt: skip
    if len(scored.normals) < LEAST_NORMALS:
        if scored.normals:
            progress.say(f"{len(scored.normals)} normal samples are too few to standardise scores; raw scores are compared")
        return Calibration()
    scale = scale_of(torch.stack(scored.normals))
    groups, pseudo = detector.scored, [torch.stack(rows) for rows in scored.pseudo.values() if rows]
    if scale.normals.shape[2] < sum(len(group) for group in groups) or not pseudo or detector.config.score.modalities == "max":
        return Calibration(scale, normals, shards)
    parts = [weights_of(scale, pseudo, columns) / len(groups) for columns in _columns(groups)]
    scale = ScoreScale(scale.location, scale.deviation, torch.cat(parts), scale.normals)
    names = [name for group in groups for name in group]
    weights = {name: round(float(weight), 4) for name, weight in zip(names, scale.weights, strict=True)}
    progress.say(f"scale from {normals}; weights {', '.join(f'{name} {weight:.2f}' for name, weight in weights.items())}")
    return Calibration(scale, normals, shards, weights)


def _columns(groups: Sequence[Sequence[str]]) -> list[range]:
    """Return where the names of each group stand among all of them."""
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [range(end - len(group), end) for group, end in zip(groups, ends, strict=True)]


def _of_fold(
    fold: int, count: int, fresh: Callable[[], Detector], scorer: _Scorer, run: Path, ranks: ProcessGroup
) -> Scored:  # fmt: skip
    """Return the scores of a fold by a detector that is fitted to the other folds, or what was stored of them."""
    path, data = run / FOLDER / f"fold-{fold}.json", scorer.train
    if path.exists():
        return Scored.from_json(files.read_sealed_json(path, "scores of a fold", _REMEDY))
    rows = range(fold, len(data), count)
    others = [row for row in range(len(data)) if row % count != fold]
    detector, progress = fresh(), scorer.progress
    place = run / FOLDER / f"fold-{fold}"
    detector.fit(data.subset(others), FitContext(place, progress, lambda figures: None, ranks))
    scored = Scored()
    if ranks.rank == 0:
        progress.start(f"scale of {run.name}, fold {fold + 1} of {count}", len(rows))
        scored = scorer.scores(detector, data, rows)
    ranks.wait()
    if ranks.rank == 0:
        files.write_sealed_json(path, scored.to_json())
    return scored


def _validation(data: ShardSet) -> ShardSet | None:
    """Return the validation split of a training split's category where it has ten normal samples or more.

    Raises
    ------
    BadInput
        If there is one that is damaged.
    """
    if not any(entry["split"] == "validation" for entry in read_manifest(data.folder)["shards"]):
        return None
    split = ShardSet(data.folder, "validation", threads=data.threads)
    fits = set(data.fields) <= set(split.stored) and len(split.views) == len(data.views)
    return split.select(data.fields) if fits and len(normal_rows(split)) >= LEAST_VALIDATION else None


def _enough(held_out: ShardSet | None) -> ShardSet | None:
    """Return what is held out where it has enough normal samples."""
    return held_out if held_out is not None and len(normal_rows(held_out)) >= LEAST_VALIDATION else None


def _finite(scores: Tensor) -> Tensor:
    return scores.float().masked_fill(~torch.isfinite(scores), torch.nan)


def _plain(rows: Sequence[Tensor]) -> list[Any]:
    return [[[None if np.isnan(x) else x for x in view] for view in row.tolist()] for row in rows]


def _rows(plain: Sequence[Any]) -> list[Tensor]:
    return [torch.tensor([[float("nan") if x is None else x for x in view] for view in row]) for row in plain]
