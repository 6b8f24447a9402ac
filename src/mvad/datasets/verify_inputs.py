"""Verification of raw data against the hashes that were taken when they were rendered or packed."""

from __future__ import annotations

from pathlib import Path

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.folders import visible
from mvad.datasets.own.options import recorded_options
from mvad.datasets.registry import find_reader
from mvad.datasets.renders.record import read_manifest as read_renders_manifest
from mvad.datasets.renders.record import read_record
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.reader import ShardFile, read_manifest
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
        Folder with one folder of raw data per dataset; categories without raw data are skipped.

    Returns
    -------
    tuple
        Number of files or photographed samples compared, and the faults.
    """
    rendered, render_faults = _rendered_inputs(renders, raw, progress)
    packed, pack_faults = _photographs(shards, raw, progress)
    return rendered + packed, render_faults + pack_faults


def _rendered_inputs(renders: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare the files of raw scans with the records of their renders."""
    compared, faults = 0, []
    for path in visible(renders.glob(f"*/*/{MANIFEST}"), renders):
        manifest = read_renders_manifest(path.parent)
        dataset, category, light = manifest["dataset"], manifest["category"], int(manifest["config"]["light"])
        if not (raw / dataset / category).is_dir():
            continue
        reader = find_reader(dataset)
        if reader is None:
            progress.say(f"{path.parent}: its raw data are not compared, no reader of {dataset} is registered here")
            continue
        options = ReadOptions(light, recorded_options(manifest["config"]))
        refs = {ref.key: ref for ref in reader.refs(raw / dataset, category, options)}
        progress.start(f"inputs of {category}", len(manifest["samples"]))
        for sample in manifest["samples"]:
            folder = files.below(path.parent, sample["split"], sample["defect"], sample["id"])
            ref = refs.get(sample["key"])
            for kind, listed in read_record(folder)["inputs"].items():
                compared += 1
                raw_file = ref.paths.get(kind) if ref else None
                difference = _difference(raw_file, listed["sha256"])
                if difference:
                    shown = raw_file or raw / dataset / sample["key"]
                    text = f"{shown}: {difference} it was rendered; restore it, or render again with --overwrite"
                    faults.append(Fault(text, shown, "other", folder))
            progress.advance()
    return compared, faults


def _photographs(shards: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare the photographs and split files of Real-IAD with the records of their shards."""
    compared, faults = 0, []
    for path in visible(shards.glob(f"{realiad.NAME}/*/{MANIFEST}"), shards):
        root = raw / realiad.NAME
        try:
            manifest = read_manifest(path.parent)
        except BadInput as error:
            faults.append(Fault(str(error), path, "shards", path.parent))
            continue
        category, splits = str(manifest["category"]), str(manifest["config"].get("splits", realiad.JSON_FOLDERS[0]))
        split = files.below(root, splits) / f"{category}.json"
        if realiad.image_root(root) is None or not split.exists():
            continue
        raw_category = photographed_category(root, category, int(manifest["packing"]["size"]), splits)
        sources = {source.key: source for source in raw_category.sources}
        compared += 1
        if raw_category.config["split_file_sha256"] != manifest["config"]["split_file_sha256"]:
            text = f"{split}: is not what it was when it was packed; restore it, or pack again with --overwrite"
            faults.append(Fault(text, split, "other", path))
        progress.start(f"inputs of {category}", sum(entry["samples"] for entry in manifest["shards"]))
        for entry in manifest["shards"]:
            shard = ShardFile(files.inside(path.parent, entry["file"]), entry["sha256"])
            for key, listed in zip(shard.texts("key"), shard.texts("made_from"), strict=True):
                compared += 1
                try:
                    same = key in sources and sources[key].sha256() == listed
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
