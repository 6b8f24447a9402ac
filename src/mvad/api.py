"""The public API: everything that ``import mvad`` offers.

Names in ``mvad.__all__``, and the arguments and attributes that their docstrings describe, change only with a new minor
version and a line in the changelog; everything else in this package may change without notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from mvad.datasets.registry import register_dataset
from mvad.datasets.scan import Scan, ScanReader, ScanRef
from mvad.datasets.shards.loader import Batch, ShardSet, collate
from mvad.datasets.shards.pack import PackOptions
from mvad.errors import BadInput, MissingComponent, MvadError, PartlyDone
from mvad.model.backbones.weights import WeightsSource
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import default_preset, resolve_device
from mvad.model.evaluation.evaluate import TrainedOn, evaluate_split, shown_fields
from mvad.model.evaluation.results import Results
from mvad.model.input_spec import InputSpec
from mvad.model.method import Method
from mvad.model.metrics.table import Metric, register_metric
from mvad.model.registry import methods, register_method
from mvad.model.runs import RunFolder, RunRecord, run_name
from mvad.pipeline import data as pipeline_data
from mvad.pipeline.predict import batch_of_scan, batches_of
from mvad.pipeline.training import Recipe
from mvad.pipeline.workspace import DEFAULT_WORKSPACE, Workspace
from mvad.progress import Progress, Silent
from mvad.render.engine import Workers
from mvad.render.job import Summary
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig
from mvad.render.views import ViewSet

__all__ = [
    "AnomalyMaps", "BadInput", "Batch", "Detector", "InputSpec", "Method", "Metric", "MissingComponent", "ModelConfig", "MvadError",
    "PackOptions", "PartlyDone", "RenderOptions", "Results", "Rig", "Run", "Scan", "ScanReader", "ScanRef", "ShardSet", "Summary",
    "ViewSet", "collate", "list_methods", "load_run", "pack", "register_dataset", "register_method", "register_metric",
    "render_category", "render_scan", "train",
]  # fmt: skip


def list_methods() -> list[str]:
    """Return the names of all methods, those that were registered last.

    Returns
    -------
    list of str
        What ``train`` takes as ``method``.

    Examples
    --------
    >>> import mvad
    >>> "padim" in mvad.list_methods()
    True
    """
    return list(methods())


def render_scan(
    scan: Scan | str | Path, rig: Rig | None = None, options: RenderOptions | None = None
) -> ViewSet:  # fmt: skip
    """Render one organised scan into the views of a rig, without writing anything.

    Parameters
    ----------
    scan
        The scan, or the ``xyz/NAME.tiff`` of one in MVTec 3D-AD's layout (``rgb/NAME.png`` beside it).
    rig
        The cameras; None places ``options.rig.views`` cameras around this scan's object.
    options
        How; None takes the defaults (five views of 256 pixels).

    Returns
    -------
    ViewSet
        rgb (V, H, W, 3) uint8, depth (V, H, W) float32 metres, normal (V, H, W, 3) float32, mask (V, H, W) bool, source
        (V, H, W) int32 ``row * W + column`` of the scan, -1 where nothing is seen.

    Raises
    ------
    BadInput
        If the scan cannot be read, or no object is found on its support.

    Examples
    --------
    >>> import mvad
    >>> views = mvad.render_scan("mvad-data/raw/mvtec3d/gear/train/good/xyz/000.tiff", options=mvad.RenderOptions(backend="cpu"))
    >>> views.rgb.shape
    (5, 256, 256, 3)
    """
    return pipeline_data.render_scan(scan, rig, options or RenderOptions())


def render_category(
    dataset: str, category: str, raw: str | Path, renders: str | Path = DEFAULT_WORKSPACE / "renders",
    options: RenderOptions | None = None, splits: Sequence[str] = ("train", "validation", "test"),
    workers: Workers | None = None, overwrite: bool = False, rig: Rig | None = None, progress: Progress | None = None,
) -> Summary:  # fmt: skip
    """Render every scan of a category that is not rendered yet, as ``mvad render`` does.

    Parameters
    ----------
    dataset, category
        Which scans: a dataset of scans that is built in or registered, and one of its categories.
    raw
        Folder that holds the categories.
    renders
        Where ``<dataset>/<category>/`` is written.
    options, rig
        How, and cameras to take instead of fitting some to the training scans.
    splits
        Which splits.
    workers
        Processes and threads; None renders in this process.
    overwrite
        Replace what another configuration rendered.
    progress
        Is told of each scan.

    Returns
    -------
    Summary
        How many scans were rendered, were there, and failed.

    Raises
    ------
    BadInput
        If the raw data are unusable, or the folder holds renders of another configuration.

    Examples
    --------
    >>> import mvad
    >>> options = mvad.RenderOptions(backend="cpu")
    >>> done = mvad.render_category("mvtec3d", "gear", "mvad-data/raw/mvtec3d", "renders", options, splits=["validation"])
    >>> done.rendered, done.failed
    (1, 0)
    """
    return pipeline_data.render(
        dataset, category, Path(raw), Path(renders), options or RenderOptions(), splits, workers or Workers(), overwrite,
        progress or Silent(), rig,
    )  # fmt: skip


def pack(
    dataset: str, category: str, source: str | Path = DEFAULT_WORKSPACE / "renders",
    shards: str | Path = DEFAULT_WORKSPACE / "shards", options: PackOptions | None = None, overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Pack a rendered category, or one of Real-IAD, into HDF5 shards, as ``mvad pack`` does.

    Parameters
    ----------
    dataset, category
        What.
    source
        Folder of the renders; for ``realiad`` the folder of the download.
    shards
        Where ``<dataset>/<category>/`` is written.
    options
        Fields, filter and sizes; None takes the defaults.
    overwrite
        Replace shards of another configuration.
    progress
        Is told of each sample.

    Returns
    -------
    Path
        The packed category's folder, which ``ShardSet`` takes.

    Raises
    ------
    BadInput
        If there is nothing to pack, or a render is damaged.

    Examples
    --------
    >>> import mvad
    >>> folder = mvad.pack("mvtec3d", "gear", "mvad-data/renders", "shards")
    >>> folder.name, len(mvad.ShardSet(folder, "train"))
    ('gear', 4)
    """
    return pipeline_data.pack(
        dataset, category, Path(source), Path(shards), options or PackOptions(), progress or Silent(), overwrite
    )


def train(
    data: ShardSet | str | Path, method: str = "idif", run: str | Path | None = None, preset: str | None = None,
    device: str | torch.device = "auto", progress: Progress | None = None, **keys: Any,
) -> Run:  # fmt: skip
    """Train a detector into a run's folder, continue where it was stopped, or find it trained.

    Parameters
    ----------
    data
        The training split, or the folder of a packed category.
    method
        One of ``list_methods()``.
    run
        The run's folder; None takes ``mvad-data/runs/DATASET-CATEGORY-METHOD-seedN``.
    preset
        ``paper``, ``destseg``, ``small`` or ``demo``; None takes paper on CUDA, else small.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a torch device.
    progress
        Is told of steps.
    **keys
        Any key of ``docs/keys.md``, with two underscores for the dot: ``input__size=128``, ``seed=1``.

    Returns
    -------
    Run
        The trained detector.

    Raises
    ------
    BadInput
        If a key is unknown, the data do not fit, or the folder holds another run.
    MissingComponent
        If the teacher's weights or the textures for pseudo anomalies are missing.

    Examples
    --------
    >>> import mvad
    >>> run = mvad.train("mvad-data/shards/mvtec3d/gear", "padim", "runs/padim", teacher="tiny", input__size=64)
    >>> run
    Run('runs/padim', padim on mvtec3d/gear, cpu)
    """
    train_split = data if isinstance(data, ShardSet) else ShardSet(data, "train")
    chosen = resolve_device(device)
    dotted = {name.replace("__", "."): value for name, value in keys.items()}
    seed = int(dotted.pop("seed", 0))
    folder = Path(run) if run is not None else Workspace(DEFAULT_WORKSPACE).runs / run_name(
        train_split.dataset, train_split.category, method, seed
    )  # fmt: skip
    workspace = _workspace_of(folder)
    weights = WeightsSource(None, workspace.weights)
    recipe = Recipe(preset or default_preset(chosen), [("argument", dotted)], workspace.textures, weights, chosen)
    recipe.fit(folder.parent, train_split, method, seed, progress or Silent(), folder.name)
    return load_run(folder, chosen)


def load_run(path: str | Path, device: str | torch.device = "auto", workspace: str | Path | None = None) -> Run:
    """Load a trained run.

    Parameters
    ----------
    path
        The run's folder.
    device
        Where the detector computes.
    workspace
        Folder whose ``renders`` hold the cameras for raw scans and whose ``weights`` may hold the teacher's; None takes the
        one that the run lies in.

    Raises
    ------
    BadInput
        If the run is not finished or damaged.
    MissingComponent
        If the teacher's weights are not on this machine.

    Examples
    --------
    >>> import mvad
    >>> run = mvad.train("mvad-data/shards/mvtec3d/gear", "mean_feature", "runs/floor", teacher="tiny", input__size=64)
    >>> mvad.load_run("runs/floor", "cpu").record.model
    'mean_feature'
    """
    folder = RunFolder(Path(path))
    place = Workspace(Path(workspace)) if workspace is not None else _workspace_of(folder.path)
    return Run(folder, folder.load(WeightsSource(None, place.weights), resolve_device(device)), place)


def _workspace_of(run: Path) -> Workspace:
    return Workspace(run.parent.parent if run.parent.name == "runs" else DEFAULT_WORKSPACE)


class Run:
    """A trained detector with its folder; made by ``train`` and ``load_run``.

    Attributes
    ----------
    path
        The folder.
    record
        What it was trained on, and how: ``dataset``, ``category``, ``model``, ``seed``, ``config``.
    detector
        The detector.
    """

    def __init__(self, folder: RunFolder, detector: Detector, workspace: Workspace) -> None:
        self._folder, self._workspace, self.detector = folder, workspace, detector

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
        """Evaluate it on a split and write ``results.json`` and ``maps/`` into its folder.

        Parameters
        ----------
        data
            The split, or the folder of a packed category, whose test split is taken.
        views
            Show only these; empty: all.
        progress
            Is told of each sample.

        Returns
        -------
        Results
            ``figures["s_auroc"]`` and every other figure of merit, with 95 % intervals; ``samples``.

        Raises
        ------
        BadInput
            If the data lack a modality that the detector was trained on.

        Examples
        --------
        >>> import mvad
        >>> run = mvad.train("mvad-data/shards/mvtec3d/gear", "padim", "runs/padim", teacher="tiny", input__size=64)
        >>> results = run.evaluate("mvad-data/shards/mvtec3d/gear")
        >>> 0 <= results.figures["s_auroc"] <= 1, results.figures.samples
        (True, 9)
        """
        split = data if isinstance(data, ShardSet) else ShardSet(data, "test")
        shown = shown_fields(split, self.detector.spec.modalities)
        trained = TrainedOn(None, self.record.shards, self._folder.model_sha256)
        detector = self.detector
        return evaluate_split(
            self.path, shown, detector.score, self.record, trained, progress or Silent(), views, (), detector.device
        )

    @overload
    def predict(self, source: Batch | Scan) -> AnomalyMaps: ...

    @overload
    def predict(self, source: str | Path) -> dict[str, AnomalyMaps]: ...

    def predict(self, source: Batch | Scan | str | Path) -> AnomalyMaps | dict[str, AnomalyMaps]:
        """Score samples without writing anything.

        Parameters
        ----------
        source
            A batch of a ``ShardSet``; a raw scan, which is rendered with the cameras of the run's category; or a path: a
            folder of raw scans (any depth), a packed category (its test split), or a shard.

        Returns
        -------
        AnomalyMaps or dict of str to AnomalyMaps
            maps (B, V, S, S), view_scores (B, V), sample_scores (B,), all float32 on the processor; for a path by the key of
            each sample.

        Raises
        ------
        BadInput
            If nothing is found there, or a sample does not fit the detector.

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
            return self.detector.score(source)
        if isinstance(source, Scan):
            return self.detector.score(batch_of_scan(source, self._folder, self._workspace))
        found = batches_of(Path(source), self._folder, self._workspace, self.detector)
        return {batch.keys[0]: self.detector.score(batch) for batch in found}
