"""The public API: everything that ``import mvad`` offers.

Names in ``mvad.__all__``, and the arguments and attributes that their docstrings describe, change only with a new minor
version and a line in the changelog; everything else in this package may change without notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mvad.cores import usable_cores
from mvad.datasets.registry import register_dataset
from mvad.datasets.scan import ReadOptions, Scan, ScanReader, ScanRef
from mvad.datasets.shards.loader import Batch, ShardSet, collate
from mvad.datasets.shards.pack import PackOptions
from mvad.errors import BadInput, MissingComponent, MvadError, PartlyDone
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig, TexturedConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import default_preset, resolve_device
from mvad.model.evaluation.results import Results
from mvad.model.images import ViewImages, view_images
from mvad.model.input_spec import InputSpec
from mvad.model.method import Method
from mvad.model.metrics.table import Metric, register_metric
from mvad.model.registry import methods, register_method
from mvad.model.runs import RunFolder, run_name
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext
from mvad.pipeline import data as pipeline_data
from mvad.pipeline.trained_run import Run, weights_of, workspace_of
from mvad.pipeline.training import Recipe
from mvad.pipeline.workspace import DEFAULT_WORKSPACE, Workspace
from mvad.progress import Progress, Silent
from mvad.render.engine import Workers
from mvad.render.job import Summary
from mvad.render.options import RenderOptions, RigOptions
from mvad.render.rig import Rig
from mvad.render.views import ViewSet
from mvad.settings import key

__all__ = [
    "AnomalyMaps", "BadInput", "Batch", "Detector", "FitContext", "InputSpec", "Method", "Metric", "MissingComponent", "ModelConfig",
    "MvadError", "PackOptions", "PartlyDone", "Progress", "ReadOptions", "RenderOptions", "Results", "Rig", "RigOptions", "Run", "Scan",
    "ScanReader", "ScanRef", "ShardSet", "Summary", "Teacher", "TexturedConfig", "ViewImages", "ViewSet", "Workers", "collate",
    "finish_maps", "key", "list_methods", "load_run", "pack", "register_dataset", "register_method", "register_metric",
    "render_category", "render_scan", "train", "view_images",
]  # fmt: skip


def list_methods() -> list[str]:
    """Return the names of all methods; registered methods come last.

    Returns
    -------
    list of str
        Values for the argument ``method`` of ``train``.

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
        The scan; the file ``xyz/NAME.tiff`` of a scan in MVTec 3D-AD's layout, beside which ``rgb/NAME.png`` lies; or the file of
        your own scan or mesh (NPZ, PLY, PCD, STL, OBJ), which is read as ``options.read`` says.
    rig
        The cameras. None: ``options.rig.views`` cameras are placed around this scan's object.
    options
        Options of rendering. None: the defaults (five views of 256 pixels).

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
    """Render all scans of a category that are not rendered yet, as ``mvad render`` does.

    Parameters
    ----------
    dataset, category
        A built-in or registered dataset of scans, and one of its categories.
    raw
        Folder that holds the categories of the dataset.
    renders
        Folder in which ``<dataset>/<category>/`` is written.
    options, rig
        Options of rendering; cameras to use, instead of cameras that are fitted to the training scans.
    splits
        Splits to render.
    workers
        Processes and threads. None: render in this process.
    overwrite
        Replace renders of another configuration.
    progress
        Receives a report on each scan.

    Returns
    -------
    Summary
        How many scans were rendered now, had been rendered before, and failed.

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
    shards: str | Path = DEFAULT_WORKSPACE / "shards", options: PackOptions | None = None, jobs: int = 0, overwrite: bool = False,
    progress: Progress | None = None, partial: bool = False, splits: str | None = None, validation: float = 0.0,
) -> Path:  # fmt: skip
    """Pack a rendered category, or one of a dataset of photographs, into HDF5 shards, as ``mvad pack`` does.

    Parameters
    ----------
    dataset, category
        Name of the dataset, and of one of its categories.
    source
        Folder of the renders; for datasets of photographs (``realiad``, ``mvtecad``, ...), the folder of the download.
    shards
        Folder in which ``<dataset>/<category>/`` is written.
    options
        Fields, filter and sizes. None: the defaults.
    jobs
        Number of samples that are read at the same time; 0: one per core.
    overwrite
        Replace shards of another configuration.
    progress
        Receives a report on each sample.
    partial
        Pack the finished part of a render that is not finished.
    splits
        Real-IAD's folder of split files, such as ``realiad_jsons_sv``, or ``sv`` for short. None: ``realiad_jsons``, or the only
        such folder.
    validation
        For photographs: share of the training samples to hold out if the dataset has no validation split, so that runs get a
        threshold; 0: none, as in the published protocols.

    Returns
    -------
    Path
        The folder of the packed category, which can be given to ``ShardSet``.

    Raises
    ------
    BadInput
        If there is nothing to pack, or a render is damaged or not finished.
    PartlyDone
        If everything is packed except for some samples whose raw files are missing or damaged (unless ``partial`` is true).

    Examples
    --------
    >>> import mvad
    >>> folder = mvad.pack("mvtec3d", "gear", "mvad-data/renders", "shards")
    >>> folder.name, len(mvad.ShardSet(folder, "train"))
    ('gear', 4)
    """
    return pipeline_data.pack(
        dataset,
        category,
        Path(source),
        Path(shards),
        options or PackOptions(),
        jobs or usable_cores(),
        progress or Silent(),
        overwrite,
        partial,
        splits,
        validation,
    )


def train(
    data: ShardSet | str | Path, method: str = "idif", run: str | Path | None = None, preset: str | None = None,
    device: str | torch.device = "auto", workspace: str | Path | None = None, progress: Progress | None = None, **keys: Any,
) -> Run:  # fmt: skip
    """Train a detector and store it in a run's folder.

    An interrupted run is continued; a finished run is loaded and not trained again.

    Parameters
    ----------
    data
        The training split, or the folder of a packed category.
    method
        One of ``list_methods()``.
    run
        The run's folder. None: ``runs/DATASET-CATEGORY-METHOD-seedN`` in the workspace.
    preset
        ``paper``, ``destseg``, ``small``, ``best`` or ``demo``. None: ``paper`` on CUDA, otherwise ``small``.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a torch device.
    workspace
        Folder in whose ``weights`` and ``textures`` these are searched for, and whose ``renders`` hold the cameras for raw scans.
        None: the workspace that contains the run or the data; failing that, ``MVAD_WORKSPACE``, then ``mvad-data``. The variables
        ``MVAD_TEACHER_WEIGHTS`` and ``MVAD_OFFLINE`` have the same effect as for the commands.
    progress
        Receives the steps.
    **keys
        Any keys of ``docs/keys.md``, with two underscores in place of the dot: ``input__size=128``, ``seed=1``.

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
    if train_split.split != "train":
        raise BadInput(f"{train_split}: detectors are trained on the split train")
    chosen = resolve_device(device)
    dotted = {name.replace("__", "."): value for name, value in keys.items()}
    if "model" in dotted:
        raise BadInput("model: give the method as the argument method")
    seed = dotted.pop("seed", 0)
    if not isinstance(seed, int):
        raise BadInput(f"seed = {seed!r} must be int")
    place = _workspace(workspace, Path(run) if run is not None else Path(), train_split.folder)
    folder = Path(run) if run is not None else place.runs / run_name(train_split.dataset, train_split.category, method, seed)
    recipe = Recipe(preset or default_preset(chosen), [("argument", dotted)], place.textures, weights_of(place), chosen)
    recipe.fit(folder.parent, train_split, method, seed, progress or Silent(), folder.name)
    return load_run(folder, chosen, place.root)


def load_run(path: str | Path, device: str | torch.device = "auto", workspace: str | Path | None = None) -> Run:
    """Load a trained run.

    Parameters
    ----------
    path
        The run's folder.
    device
        Device on which the detector computes.
    workspace
        Folder whose ``renders`` hold the cameras for raw scans, and whose ``weights`` may hold the teacher's weights. None: the
        workspace that contains the run; failing that, ``MVAD_WORKSPACE``, then ``mvad-data``.

    Raises
    ------
    BadInput
        If the run is damaged or not finished.
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
    place = _workspace(workspace, folder.path)
    return Run(folder, folder.load(weights_of(place), resolve_device(device)), place)


def _workspace(given: str | Path | None, run: Path, packed: Path | None = None) -> Workspace:
    return Workspace(Path(given)) if given is not None else workspace_of(run, packed)
