"""What ``mvad verify --repair`` does about each kind of fault: run what made the thing, for that thing alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.registry import RawScans, reader_for
from mvad.datasets.renders.layout import AUDIT, MANIFEST, RIG
from mvad.datasets.scan import SPLITS, ReadOptions
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.shards.reader import recorded_packing
from mvad.datasets.verify import Fault
from mvad.errors import BadInput, MvadError
from mvad.model.backbones.weights import WeightsSource
from mvad.model.evaluation.evaluate import evaluate_run, shown_views
from mvad.model.evaluation.scan_maps import RULES, SCAN_MAPS, ScanEvaluator
from mvad.model.fitting import fit_run, prepare
from mvad.model.registry import recorded_config
from mvad.model.runs import MODEL, MODEL_FACTS, RunFolder
from mvad.model.training.checkpoint import FOLDER as CHECKPOINTS
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig
from mvad.settings import RECORDED, resolve

_NO_LONGER = "its manifest is damaged too; run the verb that made it again, with --overwrite"


def repair(faults: Sequence[Fault], raw: Path, workspace: Workspace, weights: WeightsSource, progress: Progress) -> None:
    """Rebuild what is damaged and nothing else; renders first, as shards are made from them, and runs from shards.

    Parameters
    ----------
    faults
        What ``verify_workspace`` found.
    raw
        Folder that holds a folder of raw data for each dataset.
    workspace
        Everything else.
    weights
        Where the teacher's weights may be.
    progress
        Is told what cannot be mended, and why.
    """
    places = {(fault.kind, fault.place) for fault in faults}
    rendered = {place.parents[2] for kind, place in places if kind == "render"} | {p for kind, p in places if kind == "renders"}
    for category in sorted(rendered):
        damaged = sorted(place for kind, place in places if kind == "render" and place.parents[2] == category)
        _try(category, progress, partial(_render, category, damaged, raw, progress))
    for place in sorted(place for kind, place in places if kind == "shards"):
        _try(place, progress, partial(_pack, place, workspace.renders, raw, progress))
    for place in sorted(place for kind, place in places if kind == "run"):
        lost = [fault.path for fault in faults if fault.place == place]
        _try(place, progress, partial(_run, RunFolder(place), lost, raw, workspace, weights, progress))
    for fault in faults:
        if fault.kind == "other":
            progress.say(f"not repaired: {fault.text}")


def _try(place: Path, progress: Progress, action: Callable[[], None]) -> None:
    try:
        action()
    except MvadError as error:
        progress.say(f"{place}: not repaired: {error}")


def _render(category: Path, damaged: Sequence[Path], raw: Path, progress: Progress) -> None:
    """Render the damaged samples again, by the configuration and the rig that the category records."""
    dataset = category.parent.name
    facts = _first_readable(category / RIG, category / MANIFEST)
    options, _ = resolve(RenderOptions, [(RECORDED, facts["config"])])
    refs = reader_for(dataset).refs(raw / dataset, category.name, ReadOptions(light=options.light))
    folders = {category / ref.split / ref.defect / ref.id for ref in refs}
    missing = [folder for folder in damaged if folder not in folders]
    if missing:
        raise BadInput(f"{missing[0]}: its scan is not in {raw / dataset}; give --raw")
    given = None if facts.get("training_scans", facts.get("rig_from_scans")) else Rig.from_json(facts["rig"])
    splits = [split for split in SPLITS if (category / split).exists()]
    for folder in damaged:
        files.remove(folder)
    for name in (RIG, AUDIT, MANIFEST):
        if (category / name).exists() and _first_readable(category / name, empty=True) is None:
            files.remove(category / name)
    done = render_category(
        dataset, category.name, raw / dataset, category.parents[1], options, splits, Workers(), False, progress, given
    )
    progress.say(f"{category}: {done.rendered} rendered again")


def _pack(folder: Path, renders: Path, raw: Path, progress: Progress) -> None:
    """Pack again as before; shards that are whole are kept."""
    dataset, category = folder.parent.name, folder.name
    packing = recorded_packing(folder)
    options = PackOptions(**(packing | {"fields": tuple(packing["fields"])}))
    if dataset == realiad.NAME:
        pack_realiad(raw / dataset, category, folder.parents[1], options, progress, overwrite=True)
    else:
        pack_renders(renders, dataset, category, folder.parents[1], options, progress, overwrite=True)
    progress.say(f"{folder}: packed again")


def _run(
    run: RunFolder, lost: Sequence[Path], raw: Path, workspace: Workspace, weights: WeightsSource, progress: Progress
) -> None:  # fmt: skip
    """Drop a damaged checkpoint, and make a damaged model or result again from what the run records."""
    for path in lost:
        if path.parent.name == CHECKPOINTS:
            for half in (path.with_suffix(".json"), path.with_suffix(".safetensors")):
                if half.exists():
                    files.remove(half)
    if {path.name for path in lost} & {MODEL, MODEL_FACTS}:
        _train_again(run, workspace, weights, progress)
    pictures = {path for path in lost if path.suffix in (".jpg", ".png")}
    evaluated = {path for path in lost if path.match("results*.json")}
    on_scans = {path for path in lost if path.parent.name == SCAN_MAPS}
    for views in sorted({shown_views(path) for path in pictures | evaluated} | ({()} if on_scans else set())):
        callbacks = [_scan_evaluator(run, raw)] if not views and (run.path / SCAN_MAPS).exists() else []
        evaluate_run(run.path, workspace.shards, weights, progress, views, callbacks)
        progress.say(f"{run.path}: evaluated again")


def _train_again(run: RunFolder, workspace: Workspace, weights: WeightsSource, progress: Progress) -> None:
    """Train from the last checkpoint to the end, on the processor, by the recorded configuration."""
    if (run.path / MODEL_FACTS).exists():
        files.remove(run.path / MODEL_FACTS)
    data = ShardSet(run.category_folder(workspace.shards), "train")
    config = recorded_config(run.record.config)
    prepared = prepare(data, config, workspace.textures, weights, torch.device("cpu"))
    fit_run(run.path, data, prepared, run.record.origins, progress)
    progress.say(f"{run.path}: trained to its end again")


def _scan_evaluator(run: RunFolder, raw: Path) -> ScanEvaluator:
    """Carry maps back to the scans as before, by the same rules."""
    try:
        results = run.results()
    except BadInput:
        results = None
    record, rules = run.record, list(RULES[:1])
    if results is not None and results.scan is not None:
        names = (results.scan.rule, *sorted(set(results.scan.figures) - {results.scan.rule}))
        rules = [rule for name in names for rule in RULES if rule == name]
    return ScanEvaluator(run.path, RawScans(record.dataset, raw / record.dataset, record.category), rules)


def _first_readable(*paths: Path, empty: bool = False) -> Any:
    for path in paths:
        try:
            return files.read_sealed_json(path, "a record", "")
        except BadInput:
            continue
    if empty:
        return None
    raise BadInput(f"{paths[0]}: {_NO_LONGER}")
