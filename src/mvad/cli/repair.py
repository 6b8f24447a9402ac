"""What ``mvad verify --repair`` does about each kind of fault: run the verb that made the thing, for that thing alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvad import files
from mvad.errors import BadInput, MvadError
from mvad.progress import Progress

if TYPE_CHECKING:
    from mvad.datasets.verify import Fault
    from mvad.model.backbones.weights import WeightsSource

_NO_LONGER = "its manifest is damaged too; run the verb that made it again, with --overwrite"


def repair(
    faults: Sequence[Fault], raw: Path, shards: Path, renders: Path, textures: Path, weights: WeightsSource, progress: Progress
) -> None:
    """Rebuild what is damaged and nothing else; renders first, as shards are made from them, and runs from shards.

    Parameters
    ----------
    faults
        What ``verify_tree`` found.
    raw
        Folder that holds a folder of raw data for each dataset.
    shards, renders, textures, weights
        The other places of the workspace.
    progress
        Is told what cannot be mended, and why.
    """
    places = {(fault.kind, fault.place) for fault in faults}
    rendered = {place.parents[2] for kind, place in places if kind == "render"} | {p for kind, p in places if kind == "renders"}
    for category in sorted(rendered):
        damaged = sorted(place for kind, place in places if kind == "render" and place.parents[2] == category)
        _try(category, progress, lambda category=category, damaged=damaged: _render(category, damaged, raw, progress))
    for place in sorted(place for kind, place in places if kind == "shards"):
        _try(place, progress, lambda place=place: _pack(place, renders, raw, progress))
    for place in sorted(place for kind, place in places if kind == "run"):
        lost = [fault.path for fault in faults if fault.place == place]
        _try(place, progress, lambda place=place, lost=lost: _run(place, lost, raw, shards, textures, weights, progress))
    for fault in faults:
        if fault.kind == "other":
            progress.say(f"not repaired: {fault.text}")


def _try(place: Path, progress: Progress, action: Any) -> None:
    try:
        action()
    except MvadError as error:
        progress.say(f"{place}: not repaired: {error}")


def _render(category: Path, damaged: Sequence[Path], raw: Path, progress: Progress) -> None:
    """Render the damaged samples again, by the configuration and the rig that the category records."""
    from mvad.datasets.registry import reader_for
    from mvad.datasets.renders.layout import AUDIT, MANIFEST, RIG
    from mvad.datasets.scan import SPLITS, ReadOptions
    from mvad.render.engine import Workers
    from mvad.render.job import render_category
    from mvad.render.options import RenderOptions
    from mvad.render.rig import Rig
    from mvad.settings import resolve

    dataset = category.parent.name
    facts = _first_readable(category / RIG, category / MANIFEST)
    options, _ = resolve(RenderOptions, [("recorded", facts["config"])])
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
    from mvad.datasets import realiad
    from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
    from mvad.datasets.shards.reader import recorded_packing

    dataset, category = folder.parent.name, folder.name
    packing = recorded_packing(folder)
    options = PackOptions(**(packing | {"fields": tuple(packing["fields"])}))
    if dataset == realiad.NAME:
        pack_realiad(raw / dataset, category, folder.parents[1], options, progress, overwrite=True)
    else:
        pack_renders(renders, dataset, category, folder.parents[1], options, progress, overwrite=True)
    progress.say(f"{folder}: packed again")


def _run(
    run: Path, lost: Sequence[Path], raw: Path, shards: Path, textures: Path, weights: WeightsSource, progress: Progress
) -> None:  # fmt: skip
    """Drop a damaged checkpoint, and make a damaged model or result again from what the run records."""
    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.config import ModelConfig
    from mvad.model.evaluation.evaluate import evaluate_run, shown_views
    from mvad.model.evaluation.scan_maps import SCAN_MAPS
    from mvad.model.runs import MODEL, MODEL_FACTS, fit_run, prepare, read_facts
    from mvad.settings import resolve

    facts = read_facts(run)
    for path in lost:
        if path.parent.name == "checkpoints":
            for half in (path.with_suffix(".json"), path.with_suffix(".safetensors")):
                if half.exists():
                    files.remove(half)
    names = {path.name for path in lost}
    if names & {MODEL, MODEL_FACTS}:
        if (run / MODEL_FACTS).exists():
            files.remove(run / MODEL_FACTS)
        data = ShardSet(shards / facts["dataset"] / facts["category"], "train")
        config, _ = resolve(ModelConfig, [("run", facts["config"])])
        config, detector, teacher, _ = prepare(data, config, textures, weights)
        fit_run(run, data, config, facts["origins"], detector, teacher, progress)
        progress.say(f"{run}: trained to its end again")
    pictures = {path for path in lost if path.suffix in (".jpg", ".png")}
    evaluated = {path for path in lost if path.match("results*.json")}
    carried = {path for path in lost if path.parent.name == SCAN_MAPS}
    for views in sorted({shown_views(path) for path in pictures | evaluated} | ({()} if carried else set())):
        callbacks = [_scan_evaluator(run, facts, raw)] if not views and (run / SCAN_MAPS).exists() else []
        evaluate_run(run, shards, weights, progress, views, callbacks)
        progress.say(f"{run}: evaluated again")


def _scan_evaluator(run: Path, facts: dict[str, Any], raw: Path) -> Any:
    """Carry maps back to the scans as before, by the same rules."""
    from mvad.datasets.registry import RawScans
    from mvad.model.evaluation.scan_maps import RULES, ScanEvaluator
    from mvad.model.runs import RESULTS

    before = (_first_readable(run / RESULTS, empty=True) or {}).get("scan", {})
    rules = [before["rule"], *sorted(set(before["figures"]) - {before["rule"]})] if before else RULES[:1]
    return ScanEvaluator(run, RawScans(facts["dataset"], raw / facts["dataset"], facts["category"]), rules)


def _first_readable(*paths: Path, empty: bool = False) -> Any:
    for path in paths:
        try:
            return files.read_sealed_json(path, "a record", "")
        except BadInput:
            continue
    if empty:
        return None
    raise BadInput(f"{paths[0]}: {_NO_LONGER}")
