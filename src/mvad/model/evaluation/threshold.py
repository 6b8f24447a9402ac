"""The score above which a sample counts as anomalous, from normal samples that training did not see."""

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
from mvad.model.runs import RunFolder
from mvad.progress import Progress

THRESHOLD = "threshold.json"


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it promises.

    Attributes
    ----------
    value
        A sample is anomalous if its score is above it.
    normals
        How many normal samples it was taken from.
    promised
        At most this share of new normal samples is called anomalous, in the mean over draws of the normals (split conformal
        prediction, Vovk et al. 2005); None: it was given, and promises nothing.
    kept
        Whether the share that was asked for is promised; with n normals none below 1 / (n + 1) can be.
    """

    value: float
    normals: int
    promised: float | None
    kept: bool

    def describe(self, asked: float) -> str:
        """Return one line: the threshold, what it promises, and whether that is the share that was asked for."""
        lack = "" if self.kept else f"; {100 * asked:.3g} % cannot be promised by so few"
        promise = f"at most {100 * (self.promised or 0):.3g} % false alarms expected, from {self.normals} validation normals"
        return f"threshold {self.value:.4g}: {promise}{lack}"


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


def threshold_of(run: RunFolder, detector: Detector, packed: Path, false_alarms: float, progress: Progress) -> Threshold:
    """Return a run's threshold from the validation normals of its packed category; their scores are kept in ``threshold.json``.

    Parameters
    ----------
    run, detector
        A finished run, and its detector.
    packed
        The packed category.
    false_alarms
        See ``conformal``.
    progress
        Is told of each sample that is scored.

    Raises
    ------
    BadInput
        If the category has no validation split, as Real-IAD, or it holds no normal sample.
    """
    try:
        data = shown_fields(ShardSet(packed, "validation"), detector.spec.modalities)
    except BadInput as error:
        raise BadInput(
            f"{packed}: no validation split to take a threshold from; give --threshold, or pack validation scans"
        ) from error
    made_from, path = {"model_sha256": run.model_sha256, "shards": data.sha256}, run.path / THRESHOLD
    kept = files.read_sealed_json(path, "a threshold", "delete it") if path.exists() else {}
    if kept.get("made_from") != made_from:
        progress.start(f"threshold of {run.name}", len(data))
        scores = []
        for index in range(len(data)):
            batch = data.batch([index])
            if not bool(batch.label[0]) and bool(batch.present.any()):
                scores.append(float(detector.score(batch).sample_scores[0]))
            progress.advance()
        kept = {"made_from": made_from, "scores": scores}
        files.write_sealed_json(path, kept)
    return conformal(kept["scores"], false_alarms)
