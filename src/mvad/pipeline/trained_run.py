"""A trained run as callers use it: evaluate it on a split, let it score batches, raw scans or files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

from mvad.datasets.scan import Scan
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.evaluation.decide import check_fits
from mvad.model.evaluation.evaluate import evaluate_detector
from mvad.model.evaluation.results import Results
from mvad.model.runs import RunFolder, RunRecord
from mvad.pipeline.predict import batch_of_scan, batches_of, cameras_of
from mvad.pipeline.workspace import DEFAULT_WORKSPACE, Workspace
from mvad.progress import Progress, Silent
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig


def workspace_of(run: Path, packed: Path | None = None) -> Workspace:
    """Return the workspace that a run lies in, else that of a packed category, else ``MVAD_WORKSPACE`` or the default one."""
    run = Path(os.path.abspath(run))  # a name alone has no folders above it
    around = Workspace(run.parent.parent)
    others = (around.shards, around.renders, around.raw(""), around.weights)
    if run.parent == around.runs and any(folder.exists() for folder in others):
        return around
    if packed is not None and len(packed.parents) > 2 and packed.parents[1] == Workspace(packed.parents[2]).shards:
        return Workspace(packed.parents[2])
    return Workspace(Path(os.environ.get("MVAD_WORKSPACE") or DEFAULT_WORKSPACE).expanduser())


def weights_of(workspace: Workspace) -> WeightsSource:
    """Return where weights may be found, with the variables of the command line: MVAD_TEACHER_WEIGHTS and MVAD_OFFLINE."""
    given, offline = os.environ.get("MVAD_TEACHER_WEIGHTS"), os.environ.get("MVAD_OFFLINE", "")
    return WeightsSource(
        Path(given).expanduser() if given else None, workspace.weights, offline.lower() not in ("", "0", "false", "no", "off")
    )


class Run:
    """A trained detector and its folder, as returned by ``train`` and ``load_run``.

    Attributes
    ----------
    path
        The run's folder.
    record
        What the detector was trained on, and how: ``dataset``, ``category``, ``model``, ``seed``, ``config``.
    detector
        The detector.
    """

    def __init__(self, folder: RunFolder, detector: Detector, workspace: Workspace) -> None:
        self._folder, self._workspace, self.detector = folder, workspace, detector

    @cached_property
    def _cameras(self) -> tuple[RenderOptions, Rig]:
        """How raw scans are rendered; compared with the training shards once."""
        return cameras_of(self._folder, self._workspace)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def record(self) -> RunRecord:
        """What it was trained on, and how."""
        return self._folder.record

    def __repr__(self) -> str:
        record = self.record
        return f"Run('{self.path}', {record.model} on {record.dataset}/{record.category}, {self.detector.device})"

    def evaluate(self, data: ShardSet | str | Path, views: Sequence[int] = (), progress: Progress | None = None) -> Results:
        """Evaluate the run on a split, and write ``results.json`` and ``maps/`` to its folder.

        Parameters
        ----------
        data
            The split, or the folder of a packed category, whose test split is used.
        views
            Numbers of the views to use; the others count as missing. Empty: all views.
        progress
            Receives a report on each sample.

        Returns
        -------
        Results
            ``figures["s_auroc"]`` and every other figure of merit, with 95 % intervals; ``samples``.

        Raises
        ------
        BadInput
            If the data are of another category, were used for training or do not fit the detector, or if there is no such view.

        Examples
        --------
        >>> import mvad
        >>> run = mvad.train("mvad-data/shards/mvtec3d/gear", "padim", "runs/padim", teacher="tiny", input__size=64)
        >>> results = run.evaluate("mvad-data/shards/mvtec3d/gear")
        >>> 0 <= results.figures["s_auroc"] <= 1, results.figures.samples
        (True, 9)
        """
        split = data if isinstance(data, ShardSet) else ShardSet(data, "test")
        return evaluate_detector(self._folder, self.detector, split, progress or Silent(), views)

    @overload
    def predict(self, source: Batch | Scan) -> AnomalyMaps: ...

    @overload
    def predict(self, source: str | Path) -> dict[str, AnomalyMaps]: ...

    def predict(self, source: Batch | Scan | str | Path) -> AnomalyMaps | dict[str, AnomalyMaps]:
        """Score samples without writing anything.

        Parameters
        ----------
        source
            A batch of a ``ShardSet``; a raw scan, which is rendered with the cameras of the run's category; or the path of a
            folder of raw scans (searched recursively), of a packed category (its test split is used), or of a shard.

        Returns
        -------
        AnomalyMaps or dict of str to AnomalyMaps
            maps (B, V, S, S), view_scores (B, V), sample_scores (B,), all float32 on the CPU; for a path, a dict of these by
            the key of each sample.

        Raises
        ------
        BadInput
            If nothing is found under the path, or a sample does not fit the detector.

        Examples
        --------
        >>> import mvad
        >>> run = mvad.train("mvad-data/shards/mvtec3d/gear", "padim", "runs/padim", teacher="tiny", input__size=64)
        >>> test = mvad.ShardSet("mvad-data/shards/mvtec3d/gear", "test")
        >>> run.predict(test.batch([0, 1])).maps.shape
        torch.Size([2, 5, 64, 64])
        >>> len(run.predict("mvad-data/shards/mvtec3d/gear"))
        9
        """
        if isinstance(source, Batch):
            check_fits(source, self.detector.spec)
            return self.detector.score(source)
        if isinstance(source, Scan):
            return self.detector.score(batch_of_scan(source, *self._cameras))
        found = batches_of(Path(source), self._folder, self._workspace, self.detector)
        return {batch.keys[0]: self.detector.score(batch) for batch in found}
