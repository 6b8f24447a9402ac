"""Verification of raw data against the hashes that were taken when they were rendered or packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.folders import visible
from mvad.datasets.own.options import recorded_options
from mvad.datasets.photographs.contents import sample_hash
from mvad.datasets.photographs.published import find_set_category
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.registry import find_reader, photographed
from mvad.datasets.renders.record import read_manifest as read_renders_manifest
from mvad.datasets.renders.record import read_record
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.reader import ShardFile, held_out_share, read_manifest
from mvad.datasets.shards.schema import MANIFEST
from mvad.datasets.shards.sources import photographed_category
from mvad.datasets.verify import Fault
from mvad.errors import BadInput
from mvad.progress import Progress


def verify_inputs(renders: Path, shards: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare raw files with the hashes that were taken when they were rendered or packed.

    Parameters
    ----------
    renders, shards
        Folders of a workspace.
    raw
        Folder with one folder of raw data per dataset, or the folder of one dataset; categories without raw data are skipped, and so
        are records that are damaged, which ``verify_tree`` tells of.

    Returns
    -------
    tuple
        Number of files or photographed samples compared, and the faults.

    Raises
    ------
    BadInput
        If there is nothing to compare.
    """
    rendered, render_faults = _rendered_inputs(renders, raw, progress)
    packed, pack_faults = _photographs(shards, raw, progress)
    if not rendered + packed and not render_faults + pack_faults:
        raise BadInput(
            f"{raw}: holds no raw data of what {renders.parent} has; --raw is the folder of DATASET/CATEGORY, --workspace that of renders and shards"
        )
    return rendered + packed, render_faults + pack_faults


def _rendered_inputs(renders: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare the files of raw scans with the records of their renders."""
    compared, faults = 0, []
    for path in visible(renders.glob(f"*/*/{MANIFEST}"), renders):
        try:
            manifest = read_renders_manifest(path.parent)
        except BadInput:
            continue
        dataset, category, light = manifest["dataset"], manifest["category"], int(manifest["config"]["light"])
        root = root_of(raw, dataset, category)
        if not (root / category).is_dir():
            continue
        reader = find_reader(dataset)
        if reader is None:
            progress.say(f"{path.parent}: its raw data are not compared, no reader of {dataset} is registered here")
            continue
        options = ReadOptions(light, recorded_options(manifest["config"]))
        try:
            refs = {ref.key: ref for ref in reader.refs(root, category, options)}
        except BadInput as error:
            faults.append(Fault(str(error), path, "other", path))
            continue
        progress.start(f"inputs of {category}", len(manifest["samples"]))
        for sample in manifest["samples"]:
            folder = files.below(path.parent, sample["split"], sample["defect"], sample["id"])
            ref = refs.get(sample["key"])
            try:
                inputs = read_record(folder)["inputs"]
            except BadInput:
                inputs = {}
            for kind, listed in inputs.items():
                compared += 1
                raw_file = ref.paths.get(kind) if ref else None
                difference = _difference(raw_file, listed["sha256"])
                if difference:
                    shown = raw_file or root / sample["key"]
                    text = f"{shown}: {difference} it was rendered; restore it, or render again with --overwrite"
                    faults.append(Fault(text, shown, "other", folder))
            progress.advance()
    return compared, faults


def root_of(raw: Path, dataset: str, category: str) -> Path:
    """Return the folder of a dataset: ``raw/DATASET``, or ``raw`` where that alone has the category, or is not of several."""
    if (raw / category).is_dir() and not (raw / dataset / category).is_dir():
        return raw
    return raw / dataset if (raw / dataset).is_dir() or not raw.is_dir() else raw


def _photographs(shards: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare photographs, and the split files of Real-IAD, with the records of their shards."""
    compared, faults = 0, []
    for dataset in photographed():
        for path in visible(shards.glob(f"{dataset}/*/{MANIFEST}"), shards):
            try:
                manifest = read_manifest(path.parent)
            except BadInput as error:
                faults.append(Fault(str(error), path, "shards", path.parent))
                continue
            category = str(manifest["category"])
            root = root_of(raw, dataset, category)
            if dataset == realiad.NAME:
                found = _of_realiad(root, category, manifest)
            else:
                found = _of_set(root, dataset, category, manifest)
            if found is None:
                continue
            sources, texts = found
            compared += dataset == realiad.NAME
            faults += [Fault(text, root, "other", path) for text in texts]
            if not sources:  # it cannot be read, which says nothing of each photograph
                continue
            number, wrong = _compared(path, manifest, sources, root, progress)
            compared, faults = compared + number, faults + wrong
    return compared, faults


Sources = dict[str, Callable[[], str]]
"""For each key of a category what returns the hash of the sample's files."""


def _of_realiad(root: Path, category: str, manifest: Mapping[str, Any]) -> tuple[Sources, list[str]] | None:
    """Return the samples of a category of Real-IAD and what is wrong with its split file; None where its data are not there."""
    splits = str(manifest["config"].get("splits", realiad.JSON_FOLDERS[0]))
    images = str(manifest["config"].get("images", ""))
    for what, name in (("split files", splits), *([("images", images)] if images else [])):
        if not files.is_name(name):
            return {}, [f"{category}: its manifest names the {what} {name!r}, which is no folder; pack again with --overwrite"]
    split = realiad.splits_root(root) / splits / f"{category}.json"
    if realiad.image_root(root, category) is None or not split.exists():
        return None
    held_out = held_out_share(manifest["config"])
    try:
        raw_category = photographed_category(root, category, int(manifest["packing"]["size"]), splits, held_out, images)
    except BadInput as error:
        return {}, [str(error)]
    texts = []
    if raw_category.config["split_file_sha256"] != manifest["config"]["split_file_sha256"]:
        texts.append(f"{split}: is not what it was when it was packed; restore it, or pack again with --overwrite")
    return {source.key: source.sha256 for source in raw_category.sources}, texts


def _of_set(root: Path, dataset: str, category: str, manifest: Mapping[str, Any]) -> tuple[Sources, list[str]] | None:
    """Return the same of another dataset of photographs."""
    try:
        if not root.is_dir() or category not in photograph_sets()[dataset].categories(root):
            return None
        held_out = held_out_share(manifest["config"])
        found = find_set_category(dataset, root, category, int(manifest["packing"]["size"]), held_out)
    except BadInput as error:
        return {}, [str(error)]
    return {part.key: partial(sample_hash, part) for part in found.found.samples}, []


def _compared(
    path: Path, manifest: Mapping[str, Any], sources: Sources, root: Path, progress: Progress
) -> tuple[int, list[Fault]]:  # fmt: skip
    """Compare the samples of a category's shards with their photographs."""
    compared, faults = 0, []
    progress.start(f"inputs of {manifest['category']}", sum(entry["samples"] for entry in manifest["shards"]))
    for entry in manifest["shards"]:
        try:
            shard = ShardFile(files.inside(path.parent, entry["file"]), entry["sha256"])
            listed_keys = list(zip(shard.texts("key"), shard.texts("made_from"), strict=True))
        except BadInput:
            continue
        for key, listed in listed_keys:
            compared += 1
            try:
                same = key in sources and sources[key]() == listed
                text = f"{root}: the photographs of {key} are not those that were packed"
            except BadInput as error:
                same, text = False, str(error)
            if not same:
                faults.append(Fault(f"{text}; restore them, or pack again with --overwrite", path, "other", path))
            progress.advance()
    return compared, faults


def _difference(path: Path | None, sha256: str) -> str:
    if path is None or not path.exists():
        return "is not there, but was when"
    return "" if files.sha256_file(path) == sha256 else "is not what it was when"
