"""New samples for a trained run: raw scans rendered on the fly, packed categories, single shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mvad.datasets.registry import find_reader
from mvad.datasets.renders.layout import category_folder
from mvad.datasets.scan import Scan, ScanRef
from mvad.datasets.shards.loader import Batch, batch_of
from mvad.datasets.shards.reader import ShardFile, open_shard, read_manifest
from mvad.datasets.shards.schema import MANIFEST, PICTURES
from mvad.datasets.shards.sources import seen_sample
from mvad.errors import BadInput, MissingComponent
from mvad.files import inside, sha256_bytes, sha256_file
from mvad.model.detector import Detector
from mvad.model.evaluation.data import has_training_data
from mvad.model.evaluation.decide import LoadedSample, NewSample
from mvad.model.runs import RunFolder
from mvad.pipeline.photographs import new_parts
from mvad.pipeline.workspace import Workspace
from mvad.render.backends.choose import rasteriser
from mvad.render.job import recorded_cameras
from mvad.render.options import SAME_VIEWS, RenderOptions, changed_option
from mvad.render.rig import Rig
from mvad.render.scan_to_views import RenderedScan, views_of, views_of_scan


def samples_of(
    source: Path, run: RunFolder, workspace: Workspace, split: str = "test", light: int | None = None, force: bool = False
) -> list[NewSample]:
    """Return the samples in a folder or file; they are read one by one later.

    Parameters
    ----------
    source
        Folder of raw scans or photographs (searched recursively), folder of a packed category, or a shard (.h5).
    run
        The run that will score them; raw scans are rendered with the cameras of its category.
    workspace
        Workspace of the renders that record the cameras.
    split
        Split of a packed category.
    light
        Eyecandies image number of raw scans; None: the one that the category was rendered with.
    force
        Whether samples of another category or of other cameras than those that the run was trained on are scored, too.

    Raises
    ------
    BadInput
        If the source does not exist, holds no sample that the run can score, or is of another category or of other cameras.
    """
    if not source.exists():
        raise BadInput(f"{source}: not found; give a folder of scans, a packed category or a shard")
    if source.suffix == ".h5":
        found = list(_of_shard(source))
        checked = source
    elif (source / MANIFEST).exists():
        found = list(_of_category(source, split))
        checked = inside(source, next(entry["file"] for entry in read_manifest(source)["shards"] if entry["split"] == split))
    elif run.record.pictures is not None:
        return new_parts(source, run)
    else:
        return list(_of_scans(source, run, workspace, light, force))
    if not force:
        _check_packed(open_shard(checked), run, workspace)
    return found


def batches_of(source: Path, run: RunFolder, workspace: Workspace, detector: Detector) -> Iterator[Batch]:
    """Read the samples in a folder or file as batches of one sample that fit the detector; see ``samples_of``.

    Raises
    ------
    BadInput
        If a sample cannot be read or does not fit the detector.
    """
    for sample in samples_of(source, run, workspace):
        yield sample.batch(detector.spec)


def batch_of_scan(scan: Scan, options: RenderOptions, rig: Rig) -> Batch:
    """Render a raw scan with the cameras of a run's category (``cameras_of``) to a batch of one sample.

    Raises
    ------
    BadInput
        If the scan shows no object.
    """
    loaded = _seen("scan", views_of_scan(scan, options, rig))
    return batch_of(loaded.sample, loaded.coding)


def cameras_of(run: RunFolder, workspace: Workspace, force: bool = False) -> tuple[RenderOptions, Rig]:
    """Return the options and the cameras that a run's training scans were rendered with.

    Raises
    ------
    BadInput
        If the workspace has no renders of the category, or (unless forced) not the shards that the run was trained on: then its
        cameras may be others, too.
    """
    dataset, category = run.record.dataset, run.record.category
    renders, packed = (category_folder(root, dataset, category) for root in (workspace.renders, workspace.shards))
    if not force and renders.exists() and not has_training_data(run, packed):
        raise BadInput(
            f"{packed}: is not what {run.name} was trained on, so the cameras may be others; give the --workspace of then, train "
            "again, or take these cameras with mvad predict --force"
        )
    options, rig = recorded_cameras(renders)
    if not force:
        _check_cameras(open_shard(inside(packed, next(iter(run.record.shards)))), options, rig, renders, run)
    return _that_renders_here(options), rig


def _that_renders_here(options: RenderOptions) -> RenderOptions:
    """Return the options with a backend that this machine has: a workspace may come from one with a GPU."""
    try:
        rasteriser(options.backend, device=options.device)
    except MissingComponent:
        return replace(options, backend="cpu", device=None)
    return options


def _check_cameras(train: ShardFile, options: RenderOptions, rig: Rig, renders: Path, run: RunFolder) -> None:
    """Check that a run's training scans were rendered as the renders' folder would render a scan today.

    Raises
    ------
    BadInput
        If the category was rendered otherwise since it was packed.
    """
    recorded = json.loads(train.layout.attributes["config"])
    asked = json.loads(json.dumps(options.recorded()))
    changed = changed_option(recorded, asked, SAME_VIEWS)
    cameras = {"rig/poses": rig.poses, "rig/intrinsics": rig.intrinsics}
    if not changed and all(np.array_equal(train.read(name), values) for name, values in cameras.items()):
        return
    what = f"{changed} = {asked[changed]}" if changed else "other cameras"
    raise BadInput(
        f"{renders}: was rendered again, with {what}, since {run.name} was trained; pack it and train again, give the --workspace of then, or "
        "take these cameras with mvad predict --force"
    )


def _check_packed(shard: ShardFile, run: RunFolder, workspace: Workspace) -> None:
    """Check that a shard is of the category that a run was trained on, with its views, and rendered with its cameras.

    Raises
    ------
    BadInput
        If it is not, or if that cannot be told, since the workspace has not the training shards.
    """
    record, attributes = run.record, shard.layout.attributes
    mine, theirs = f"{record.dataset}/{record.category}", f"{attributes['dataset']}/{attributes['category']}"
    if mine != theirs:
        raise BadInput(f"{shard.path}: is of {theirs}, {run.name} was trained on {mine}; score it all the same with --force")
    packed = category_folder(workspace.shards, record.dataset, record.category)
    if not has_training_data(run, packed):
        raise BadInput(
            f"{workspace.root}: has not the shards that {run.name} was trained on, so it is not known whether {shard.path.name} has "
            "the same cameras; give the --workspace of then, or score it all the same with --force"
        )
    train = open_shard(inside(packed, next(iter(record.shards))))
    cameras = [name for name in ("rig/poses", "rig/intrinsics") if name in train.layout.fields]
    if shard.views != train.views or any(
        name not in shard.layout.fields or not np.array_equal(shard.read(name), train.read(name)) for name in cameras
    ):
        raise BadInput(f"{shard.path}: has other views or cameras than {run.name} was trained on; render and pack it with those")
    framings = [json.loads(one.layout.attributes["config"]).get(PICTURES, {}).get("framing") for one in (shard, train)]
    if framings[0] != framings[1]:
        raise BadInput(
            f"{shard.path}: its photographs were cropped or levelled otherwise than those that {run.name} was trained on; give mvad predict "
            "the folder of photographs instead, or score it all the same with --force"
        )


def _of_shard(path: Path, trusted: bool = False) -> Iterator[NewSample]:
    """Yield the samples of one shard; a shard that is not listed in a manifest is parsed in a separate process."""
    shard, sha256 = open_shard(path, trusted), sha256_file(path)
    for row, key in enumerate(shard.texts("key")):
        yield NewSample(key, sha256, lambda row=row: LoadedSample(shard.sample(row), shard.coding), str(path))  # type: ignore[misc]


def _of_category(folder: Path, split: str) -> Iterator[NewSample]:
    entries = [entry for entry in read_manifest(folder)["shards"] if entry["split"] == split]
    if not entries:
        raise BadInput(f"{folder}: has no {split} split; choose another --split")
    for entry in entries:
        yield from _of_shard(inside(folder, entry["file"]), trusted=True)


def _of_scans(source: Path, run: RunFolder, workspace: Workspace, light: int | None, force: bool) -> Iterator[NewSample]:
    """Yield raw scans, to be rendered with the cameras of the run's category."""
    dataset, category = run.record.dataset, run.record.category
    reader = find_reader(dataset)
    if reader is None:
        raise BadInput(f"{source}: runs on {dataset} score packed samples; give a shard or a packed category")
    options, rig = cameras_of(run, workspace, force)
    refs = reader.new_refs(source, category, options.reading if light is None else replace(options.reading, light=light))
    if not refs:
        raise BadInput(f"{source}: holds no {dataset} scan, no packed category and no shard")
    for ref in refs:
        yield new_scan(ref, options, rig)


def new_scan(ref: ScanRef, options: RenderOptions, rig: Rig) -> NewSample:
    """Return a raw scan to be rendered with some cameras and scored; its fingerprint is that of its files and of the cameras."""
    recorded = {name: value for name, value in options.recorded().items() if name not in SAME_VIEWS}
    cameras = f"{rig.sha256} {json.dumps(recorded, sort_keys=True)}"
    return NewSample(
        ref.id,
        lambda: sha256_bytes(f"{_hash_of(ref.paths)} {cameras}".encode()),
        lambda: _rendered(ref, options, rig),
        str(next(iter(ref.paths.values()), "")),
    )


def _rendered(ref: ScanRef, options: RenderOptions, rig: Rig) -> LoadedSample:
    return _seen(ref.id, views_of(ref, options, rig))


def _seen(key: str, done: RenderedScan) -> LoadedSample:
    """Return a scan that was rendered on the fly as the sample that packing it would give, and the coding of its depth."""
    views, pose, coding = done.views, done.pose, done.rig.depth_coding
    height, width = done.scan.valid.shape
    sample = seen_sample(
        key, views.rgb, views.depth, views.normal, views.source, coding, pose.matrix, pose.number, pose.fit, pose.turn_deg,
        done.cut, (height, width),
    )  # fmt: skip
    return LoadedSample(sample, coding)


def _hash_of(paths: dict[str, Path]) -> str:
    """Return a hash of the files of a scan; missing files are skipped here and reported when the scan is read."""
    return sha256_bytes("".join(sha256_file(path) for _, path in sorted(paths.items()) if path.exists()).encode())
