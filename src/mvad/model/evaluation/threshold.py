"""From which score on a sample counts as anomalous, from normal samples that training did not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.detector import Detector
from mvad.model.evaluation.evaluate import shown_fields
from mvad.model.runs import model_sha256
from mvad.progress import Progress

THRESHOLD = "threshold.json"


@dataclass(frozen=True)
class Threshold:
    """A score, and what it promises.

    Attributes
    ----------
    value
        A sample is anomalous if its score is above it.
    normals
        How many normal samples it was taken from.
    promised
        At most this share of new normal samples is called anomalous, in the mean over draws of the normals (split conformal
        prediction, Vovk et al. 2005); None: it was given, and promises nothing.
    asked
        Whether the share that was asked for is promised; with n normals none below 1 / (n + 1) can be.
    """

    value: float
    normals: int
    promised: float | None
    asked: bool


def conformal(scores: Sequence[float], false_alarms: float) -> Threshold:
    """Return the threshold that keeps false alarms at or below a share, or the best that so few normals can promise.

    Parameters
    ----------
    scores
        Of normal samples that training did not see.
    false_alarms
        Share in 0..1.

    Raises
    ------
    BadInput
        If there is no score.
    """
    count = len(scores)
    if not count:
        raise BadInput("a threshold needs normal samples that training did not see; give --threshold")
    rank = math.ceil((count + 1) * (1 - false_alarms) - 1e-9)
    place = min(max(rank, 1), count)
    return Threshold(float(np.sort(np.asarray(scores))[place - 1]), count, 1 - place / (count + 1), rank <= count)


def threshold_of(
    run: Path, detector: Detector, modalities: Sequence[str], folder: Path, false_alarms: float, progress: Progress
) -> Threshold:
    """Return a run's threshold from the validation normals of its packed category; their scores are kept in ``threshold.json``.

    Raises
    ------
    BadInput
        If the category has no validation split, as Real-IAD, or it holds no normal sample.
    """
    try:
        data = shown_fields(ShardSet(folder, "validation"), modalities)
    except BadInput as error:
        raise BadInput(
            f"{folder}: no validation split to take a threshold from; give --threshold, or pack validation scans"
        ) from error
    made_from = {"model_sha256": model_sha256(run), "shards": data.sha256}
    kept = files.read_sealed_json(run / THRESHOLD, "a threshold", "delete it") if (run / THRESHOLD).exists() else {}
    if kept.get("made_from") != made_from:
        progress.start(f"threshold of {run.name}", len(data))
        scores = []
        for index in range(len(data)):
            batch = data.batch([index])
            if not bool(batch.label[0]) and bool(batch.present.any()):
                scores.append(float(detector.score(batch).sample_scores[0]))
            progress.advance()
        kept = {"made_from": made_from, "scores": scores}
        files.write_sealed_json(run / THRESHOLD, kept)
    return conformal(kept["scores"], false_alarms)
