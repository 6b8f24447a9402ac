"""Repair of damaged files (``mvad verify --repair``): the command that made a file is repeated for this file only."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.photographs.published import pack_set
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.layout import AUDIT, MANIFEST, RIG, category_folder
from mvad.datasets.renders.record import missing_of
from mvad.datasets.renders.record import read_manifest as read_renders
from mvad.datasets.scan import SPLITS
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.shards.reader import held_out_share, open_shard, recorded_packing, recorded_source
from mvad.datasets.shards.schema import PICTURES
from mvad.datasets.verify import Fault
from mvad.datasets.verify_inputs import root_of
from mvad.errors import BadInput, MvadError
from mvad.model.backbones.weights import WeightsSource
from mvad.model.devices import resolve_device
from mvad.model.evaluation.evaluate import evaluate_run, shown_views
from mvad.model.evaluation.scan_maps import RULES, SCAN_MAPS, ScanEvaluator
from mvad.model.fitting import fit_run, prepare
from mvad.model.registry import recorded_config
from mvad.model.runs import MODEL, MODEL_FACTS, RunFolder
from mvad.model.training.checkpoint import FOLDER as CHECKPOINTS
from mvad.model.training.checkpoint import remove_damaged
from mvad.pipeline.raw_scans import raw_scans
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import SAME_VIEWS, RenderOptions, changed_option
from mvad.render.rig import Rig
from mvad.settings import RECORDED, resolve

_UNREADABLE = "the manifest is damaged, too; run mvad render again, with --overwrite"


def repair(faults: Sequence[Fault], raw: Path, workspace: Workspace, weights: WeightsSource, progress: Progress) -> None:
    """Rebuild damaged files only: first renders, then shards, which are made from renders, then runs.

    Parameters
    ----------
    faults
        Faults that ``verify_workspace`` returned.
    raw
        Folder with one folder of raw data per dataset.
    workspace
        Workspace of renders, shards and textures.
    weights
        Where the teacher's weights may be found.
    progress
        Receives messages on what was repaired, and on what could not be repaired and why.
    """
    targets = {(fault.kind, fault.place) for fault in faults}
    rendered = {place.parents[2] for kind, place in targets if kind == "render"} | {p for kind, p in targets if kind == "renders"}
    for category in sorted(rendered):
        damaged = sorted(place for kind, place in targets if kind == "render" and place.parents[2] == category)
        _try(category, progress, partial(_check_place, category, workspace), partial(_render, category, damaged, raw, progress))
    for place in sorted(place for kind, place in targets if kind == "shards"):
        _try(place, progress, partial(_check_place, place, workspace), partial(_pack, place, workspace.renders, raw, progress))
    for place in sorted(place for kind, place in targets if kind == "run"):
        damaged_files = [fault.path for fault in faults if fault.place == place]
        _try(place, progress, partial(_run, RunFolder(place), damaged_files, raw, workspace, weights, progress))
    for fault in faults:
        if fault.kind == "other":
            progress.say(f"not repaired: {fault.text}")


def _try(place: Path, progress: Progress, *actions: Callable[[], None]) -> None:
    try:
        for action in actions:
            action()
    except MvadError as error:
        progress.say(f"{place}: not repaired: {error}")


def _check_place(folder: Path, workspace: Workspace) -> None:
    """Check that a folder is one of the workspace whose renders and raw data it would be made from again.

    Raises
    ------
    BadInput
        If it is not.
    """
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(workspace.root)):
        roots = [os.path.realpath(place) for place in (workspace.renders, workspace.shards)]
        if not any(Path(os.path.realpath(folder)).is_relative_to(root) for root in roots):
            raise BadInput(
                f"it is not in the workspace {workspace.root}, from which it would be made again; give its --workspace"
            )


def _render(category: Path, damaged: Sequence[Path], raw: Path, progress: Progress) -> None:
    """Render the damaged samples again with the recorded configuration and rig of the category."""
    dataset = category.parent.name
    facts = _first_readable(category / RIG, category / MANIFEST)
    options, _ = resolve(RenderOptions, [(RECORDED, facts["config"])])
    raw = root_of(raw, dataset, category.name)
    refs = reader_for(dataset).refs(raw, category.name, options.reading)
    folders = {category / ref.split / ref.defect / ref.id for ref in refs}
    without_scan = [folder for folder in damaged if folder not in folders]
    if without_scan:
        raise BadInput(f"{without_scan[0]}: its scan is not in {raw}; give --raw")
    rig = None if facts.get("training_scans", facts.get("rig_from_scans")) else Rig.from_json(facts["rig"])
    splits = [split for split in SPLITS if (category / split).exists()]
    for folder in damaged:
        files.remove(folder)
    for name in (RIG, AUDIT, MANIFEST):
        if (category / name).exists() and _first_readable(category / name, empty=True) is None:
            files.remove(category / name)
    done = render_category(dataset, category.name, raw, category.parents[1], options, splits, Workers(), False, progress, rig)
    progress.say(f"{category}: {done.rendered} rendered again")


def _pack(folder: Path, renders: Path, raw: Path, progress: Progress) -> None:
    """Pack a category again with its recorded options; undamaged shards are kept."""
    dataset, category = folder.parent.name, folder.name
    packing = recorded_packing(folder)
    options = PackOptions(**(packing | {"fields": tuple(packing["fields"])}))
    lacks = bool(missing_of(_first_readable(folder / MANIFEST, empty=True) or {}))
    if dataset == realiad.NAME:
        config = recorded_source(folder)
        splits, validation, images = config.get("splits"), held_out_share(config), str(config.get("images", ""))
        pack_realiad(
            root_of(raw, dataset, category),
            category,
            folder.parents[1],
            options,
            progress,
            overwrite=True,
            splits=splits,
            validation=validation,
            images=images,
        )
    elif dataset in photograph_sets():
        validation = held_out_share(recorded_source(folder))
        pack_set(
            root_of(raw, dataset, category),
            dataset,
            category,
            folder.parents[1],
            options,
            progress,
            1,
            True,
            partial=lacks,
            validation=validation,
        )
    elif PICTURES in recorded_source(folder):
        raise BadInput("own photographs, whose folder is not recorded; run the same mvad pack folder again with --overwrite")
    else:
        _check_renders(category_folder(renders, dataset, category), folder)
        pack_renders(renders, dataset, category, folder.parents[1], options, progress, overwrite=True, partial=lacks)
    progress.say(f"{folder}: packed again")


def _check_renders(renders: Path, packed: Path) -> None:
    """Check that the renders are those that a category was packed from, before they take the place of shards that are in order.

    Raises
    ------
    BadInput
        If they were made otherwise, or do not hold all samples that were packed.
    """
    again = "the renders are not those that were packed"
    rendered = read_renders(renders)
    config = recorded_source(packed)
    changed = changed_option(config, rendered["config"], SAME_VIEWS)
    if changed:
        raise BadInput(f"{again}: {changed} = {rendered['config'][changed]}, it was {config[changed]}; pack with --overwrite")
    keys = {str(sample["key"]) for sample in rendered["samples"]}
    rig = Rig.from_json(rendered["rig"]) if rendered["rig"] else None
    cameras = {} if rig is None else {"rig/poses": rig.poses, "rig/intrinsics": rig.intrinsics}
    manifest = _first_readable(packed / MANIFEST, empty=True) or {}
    number = sum(int(entry["samples"]) for entry in manifest.get("shards", []))
    for path in sorted(packed.glob("*.h5")):
        try:
            shard = open_shard(path)
            others = [
                name for name in shard.layout.fields if name in cameras and not np.array_equal(shard.read(name), cameras[name])
            ]
            lost = set(shard.texts("key")) - keys
        except BadInput:  # it is the one to be made again
            continue
        if lost:
            raise BadInput(f"{again}: {min(lost)} is not there; render it again, or pack with --overwrite")
        if others:
            raise BadInput(f"{again}: their cameras are others; pack with --overwrite")
    if len(keys) < number:
        raise BadInput(f"{again}: they are {len(keys)} of {number} samples; render them again, or pack with --overwrite")


def _run(
    run: RunFolder, damaged_files: Sequence[Path], raw: Path, workspace: Workspace, weights: WeightsSource, progress: Progress
) -> None:  # fmt: skip
    """Remove damaged checkpoints, and make a damaged model or results again with the recorded configuration."""
    for path in damaged_files:
        if path.parent.name == CHECKPOINTS:
            remove_damaged(path)
    if {path.name for path in damaged_files} & {MODEL, MODEL_FACTS}:
        _train_again(run, workspace, weights, progress)
    pictures = {path for path in damaged_files if path.suffix in (".jpg", ".png")}
    evaluated = {path for path in damaged_files if path.match("results*.json")}
    on_scans = {path for path in damaged_files if path.parent.name == SCAN_MAPS}
    for views in sorted({shown_views(path) for path in pictures | evaluated} | ({()} if on_scans else set())):
        callbacks = [_scan_evaluator(run, raw, workspace)] if not views and (run.path / SCAN_MAPS).exists() else []
        evaluate_run(run.path, workspace.shards, weights, progress, views, callbacks, resolve_device())
        progress.say(f"{run.path}: evaluated again")


def _train_again(run: RunFolder, workspace: Workspace, weights: WeightsSource, progress: Progress) -> None:
    """Train from the last checkpoint to the end with the recorded configuration, on the GPU where there is one."""
    data = ShardSet(run.category_folder(workspace.shards), "train")
    config = recorded_config(run.record.config)
    prepared = prepare(data, config, workspace.textures, weights, resolve_device())
    facts = run.path / MODEL_FACTS
    before = facts.read_bytes() if facts.exists() else b""
    if before:
        files.remove(facts)
    try:
        fit_run(run.path, data, prepared, run.record.origins, progress)
    except MvadError:
        if before and not facts.exists():
            files.write_bytes(facts, before)  # the damage stays visible to the next verify
        raise
    progress.say(f"{run.path}: trained to its end again")


def _scan_evaluator(run: RunFolder, raw: Path, workspace: Workspace) -> ScanEvaluator:
    """Return a callback that projects maps to the scans with the rules of the earlier evaluation."""
    try:
        results = run.results()
    except BadInput:
        results = None
    record, rules = run.record, list(RULES[:1])
    if results is not None and results.scan is not None:
        names = (results.scan.rule, *sorted(set(results.scan.figures) - {results.scan.rule}))
        rules = [rule for name in names for rule in RULES if rule == name]
    return ScanEvaluator(
        run.path,
        raw_scans(record.dataset, root_of(raw, record.dataset, record.category), record.category, workspace.renders),
        rules,
    )


def _first_readable(*paths: Path, empty: bool = False) -> Any:
    for path in paths:
        try:
            return files.read_sealed_json(path, "a record", "")
        except BadInput:
            continue
    if empty:
        return None
    raise BadInput(f"{paths[0]}: {_UNREADABLE}")
