"""A trained run that decides on new parts one by one, for a line: loaded once, with its thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import Detector
from mvad.model.evaluation.decide import NewSample, Scored, score_new
from mvad.model.evaluation.predict import Prediction, decided
from mvad.model.evaluation.threshold import Thresholds
from mvad.model.runs import RunFolder
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress


@dataclass(frozen=True)
class Judge:
    """A loaded run.

    Attributes
    ----------
    run, detector, thresholds
        The run, its detector, and its thresholds.
    model_sha256
        SHA-256 of the model that was loaded.
    """

    run: RunFolder
    detector: Detector
    thresholds: Thresholds
    model_sha256: str

    @classmethod
    def load(
        cls, run: Path, workspace: Workspace, weights: WeightsSource, device: torch.device, false_alarms: float,
        threshold: float | None, progress: Progress,
    ) -> Judge:  # fmt: skip
        """Load a run and take its threshold.

        Raises
        ------
        BadInput
            If the run is not finished, or no threshold can be taken and none is given.
        """
        folder = RunFolder(run)
        model = folder.model_sha256
        detector = folder.load(weights, device)
        packed = folder.category_folder(workspace.shards)
        return cls(folder, detector, Thresholds(folder, detector, packed, false_alarms, progress, threshold), model)

    def decide(self, part: NewSample) -> tuple[Prediction, Scored]:
        """Read, score and decide on one part.

        Raises
        ------
        BadInput
            If it cannot be read or does not fit the run.
        """
        scored = score_new(self.detector, part)
        return decided(scored.facts, self.thresholds, part.path), scored

    def facts(self) -> dict[str, Any]:
        """Return what identifies the run: name, model and hash, data, threshold."""
        record, whole = self.run.record, self.thresholds.whole
        return {
            "run": self.run.name, "method": record.model, "model_sha256": self.model_sha256, "dataset": record.dataset,
            "category": record.category, "threshold": whole.value, "promised_false_alarms": whole.promised,
        }  # fmt: skip
